# Python 3.11 or newer and make are all that has to be there beforehand.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed
PORT ?= 8000

.PHONY: book serve pdf archive check chromium style export test test-gpu coverage mutate resume bench address fuzz dist wheel-test clean

book: $(INSTALLED)  # pages that changed are executed, each on one core
	$(BIN)/python tools/pages.py
	$(BIN)/jupyter-book build . -W -n --keep-going
	@echo "The book: $(CURDIR)/_build/html/index.html"

serve: book
	$(BIN)/python -m http.server $(PORT) --bind 127.0.0.1 --directory _build/html

pdf: book  # needs Chromium: apt-get install chromium, or CHROMIUM=its path
	$(BIN)/python book/pdf.py

archive: book  # the whole site in one file, to be unpacked and read from a folder; each build makes it anew
	@echo "The site in one file: $(CURDIR)/_build/html/guided_diffusion_edu-site.zip"

check: chromium style test  # all that must hold; what .ci/run calls
	rm -rf _build
	$(MAKE) book
	$(BIN)/python -m pytest -n auto --dist worksteal tests/site

chromium:  # said before an hour has passed
	@test -n "$$CHROMIUM" || command -v chromium >/dev/null || { echo "make check needs Chromium: apt-get install chromium, or CHROMIUM=its path" >&2; exit 1; }

style: $(INSTALLED)  # notebooks, package, tests and tools; types of the package
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

export: $(INSTALLED)  # the package from the notebooks, which are cleaned and formatted
	$(BIN)/nbdev_clean
	$(BIN)/ruff format --quiet nbs
	$(BIN)/python tools/export.py

test: $(INSTALLED)  # all but the site's; one thread a process: pools of threads that share cores slow each other down
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal

bench: $(INSTALLED)  # half an hour; writes results/bench-<device>.json and results/bench-evaluation.json
	$(BIN)/pip install --quiet --editable ".[bench]"
	$(BIN)/python benchmarks/bench.py
	$(BIN)/python benchmarks/bench_evaluation.py

address: $(INSTALLED)  # carry the address in settings.ini to the files that cannot read it
	$(BIN)/python book/address.py

test-gpu: $(INSTALLED)  # every notebook on the GPU, and the tests that want one; writes results/gpu-<device>.json
	$(BIN)/python tools/gpu.py

coverage: $(INSTALLED)  # of the package, by the tests that import it; writes results/coverage.json
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal --ignore tests/site --ignore tests/book/test_notebooks.py --ignore tests/book/test_mutations.py --cov --cov-report=json:runs/coverage.json
	$(BIN)/python tools/covered.py runs/coverage.json

mutate: $(INSTALLED)  # SAMPLE: mutants a module; writes results/mutation.json
	$(BIN)/pip install --quiet --editable ".[mutate]"
	OMP_NUM_THREADS=1 $(BIN)/python tools/mutate.py --sample $(or $(SAMPLE),100)

resume: $(INSTALLED)  # an hour of training killed ten times, against one left alone; writes results/resume.json
	$(BIN)/python tools/resume_run.py --steps 21000 --batch 64 --save-every 100

fuzz: $(INSTALLED)  # SECONDS: altogether, about
	OMP_NUM_THREADS=1 $(BIN)/python tools/fuzz.py --seconds $(or $(SECONDS),600)

dist: $(INSTALLED)
	rm -rf dist
	$(BIN)/python -m build

wheel-test: dist  # with the newest torch, and with the oldest that is supported
	$(BIN)/python tools/wheel.py --all
	$(BIN)/python tools/wheel.py --all --torch "torch==2.6.0 torchvision==0.21.0"

clean:
	rm -rf _build .pages build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache

$(INSTALLED): pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --editable ".[dev]"
	touch $@
