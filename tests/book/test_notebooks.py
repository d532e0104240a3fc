"""The notebooks run as a reader runs them, the package is exactly what they export, and imports
climb the staircase of the contents.
"""

import ast
import filecmp
import importlib.metadata
import itertools
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

import nbformat
import pytest
import yaml
from nbclient import NotebookClient
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from nbdev_book import read

ROOT = Path(__file__).parents[2]
PACKAGE = "guided_diffusion_edu"
NOTEBOOKS = sorted((ROOT / "nbs").glob("*.ipynb"))


def in_reading_order():
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text())
    files = [toc["root"], *(c["file"] for part in toc["parts"] for c in part["chapters"])]
    return [ROOT / f"{f}.ipynb" for f in files if (ROOT / f"{f}.ipynb").exists()]


@lru_cache
def code_cells(path):
    return [c.source for c in nbformat.read(path, 4).cells if c.cell_type == "code"]


def exports(path):
    return next(
        (
            line.split()[-1]
            for source in code_cells(path)
            for line in source.splitlines()
            if line.startswith("#| default_exp")
        ),
        None,
    )


def imported(source):
    "Modules named by the import statements of `source`."
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            yield node.module


def test_the_contents_name_every_notebook():
    assert sorted(in_reading_order()) == NOTEBOOKS


@pytest.fixture(scope="session")
def installed(tmp_path_factory):
    "A folder with nothing but the built wheel, unpacked."
    here = tmp_path_factory.mktemp("wheel")
    source = here / "source"
    shutil.copytree(
        ROOT,
        source,
        ignore=shutil.ignore_patterns(".*", "_build", "runs", "build", "*.egg-info", "__pycache__"),
    )
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", here, source],
        check=True,
        capture_output=True,
    )
    target = here / "site"
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-deps",
            "--target",
            target,
            *here.glob("*.whl"),
        ],
        check=True,
    )
    return target


GUARD = f"""
import os, sys
def guard(event, args):
    if event in ("open", "os.listdir", "os.scandir") and isinstance(args[0], (str, bytes)):
        path = os.path.abspath(os.fsdecode(args[0]))
        if path.startswith({str(ROOT) + os.sep!r}) and not path.startswith({sys.prefix + os.sep!r}): raise PermissionError(f"{{path}} is of the repository, not of the wheel")
    if event == "socket.connect" and isinstance(args[1], tuple) and args[1][0] not in ("127.0.0.1", "::1", "localhost"): raise PermissionError(f"fetches from {{args[1]}}")
sys.addaudithook(guard)
"""


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_runs_with_only_the_wheel(path, installed, tmp_path):
    """In an empty folder; reading a file of the repository, or fetching anything, is an error.

    (So the pages may say that they fetch nothing.)
    """
    notebook = read(path.read_text())
    notebook.cells = [
        c for c in notebook.cells if "skip-execution" not in c.metadata.get("tags", [])
    ]
    notebook.cells.insert(0, nbformat.v4.new_code_cell(GUARD))
    probe = f"import {PACKAGE}, pathlib; assert pathlib.Path({PACKAGE}.__file__).is_relative_to({str(installed)!r}), {PACKAGE}.__file__"
    notebook.cells.append(nbformat.v4.new_code_cell(probe))
    environment = os.environ | dict(PYTHONPATH=str(installed))
    NotebookClient(
        notebook, timeout=300, resources=dict(metadata=dict(path=str(tmp_path)))
    ).execute(env=environment)


def test_notebooks_import_only_what_the_wheel_brings():
    brought = {
        "torch",
        "torchvision",
        "numpy",
        "matplotlib",
        "tqdm",
        "safetensors",
        "sklearn",
        "PIL",
        "matplotlib_inline",
        PACKAGE,
    }  # PIL with torchvision
    brought |= {"torch_fidelity"}  # an extra, imported where it is asked for
    for path in NOTEBOOKS:
        for source in code_cells(path):
            assert {
                m.split(".")[0] for m in imported(source)
            } <= brought | sys.stdlib_module_names, f"{path.name}: {source[:80]}"


SETUP = """#| hide
import importlib.util, subprocess, sys
if importlib.util.find_spec("guided_diffusion_edu") is None:  # on Colab
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "guided_diffusion_edu"], check=True)"""


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_is_ready_for_colab(path):
    """The first code cell, the same everywhere, sets up Colab and does nothing elsewhere; where a
    cell is for a GPU, Colab is asked for one.
    """
    cells, metadata = code_cells(path), nbformat.read(path, 4).metadata
    assert cells[0] == SETUP and not any("find_spec(" in source for source in cells[1:])
    wants_a_gpu = any("#| cuda" in source.splitlines() for source in cells)
    assert (metadata.get("accelerator"), metadata.get("colab")) == (
        ("GPU", {"gpuType": "T4"}) if wants_a_gpu else (None, None)
    )


def test_colab_has_all_that_the_wheel_requires(installed):
    """Installing the wheel would install nothing else: each requirement is met by the versions of
    Colab's runtimes, kept in colab.json.
    """
    (distribution,) = importlib.metadata.distributions(path=[str(installed)])
    wanted = [
        r
        for r in map(Requirement, distribution.requires)
        if not r.marker or r.marker.evaluate(dict(extra=""))
    ]
    runtimes = json.loads((ROOT / "tests" / "colab.json").read_text())
    assert all(any(r.name in runtime["packages"] for runtime in runtimes) for r in wanted)
    for runtime in runtimes:
        assert runtime["python"] in SpecifierSet(distribution.metadata["Requires-Python"])
        for r in wanted:
            if r.name in runtime["packages"]:
                assert runtime["packages"][r.name] in r.specifier, (
                    f"Colab of {runtime['date']} has {r.name} {runtime['packages'][r.name]}, the wheel wants {r}"
                )


def test_the_package_is_the_export(tmp_path):
    shutil.copytree(ROOT / "nbs", tmp_path / "nbs")
    shutil.copy(ROOT / "settings.ini", tmp_path)
    (tmp_path / PACKAGE).mkdir()
    subprocess.run(
        [sys.executable, ROOT / "tools" / "export.py"],
        cwd=tmp_path,
        check=True,
    )
    names = {p.name for p in (ROOT / PACKAGE).glob("*.py")}
    assert names == {p.name for p in (tmp_path / PACKAGE).glob("*.py")}
    for name in names:
        assert filecmp.cmp(ROOT / PACKAGE / name, tmp_path / PACKAGE / name, shallow=False), (
            f"{name} is not what the notebooks export: run nbdev_export"
        )


def test_notebooks_are_clean(tmp_path):
    shutil.copytree(ROOT / "nbs", tmp_path / "nbs")
    shutil.copy(ROOT / "settings.ini", tmp_path)
    subprocess.run(
        [sys.executable, "-c", "from nbdev.clean import nbdev_clean; nbdev_clean()"],
        cwd=tmp_path,
        check=True,
    )
    for path in NOTEBOOKS:
        assert path.read_text() == (tmp_path / "nbs" / path.name).read_text(), (
            f"{path.name}: run nbdev_clean"
        )
        for cell in nbformat.read(path, 4).cells:
            kept = cell.get("outputs") and not any(
                line.startswith(("#| cuda", "#| slow")) for line in cell.source.splitlines()
            )
            assert not kept, f"{path.name} keeps an output that the build makes itself"


def test_imports_climb_the_staircase():
    """A chapter imports modules of earlier chapters only; the front page and the API page may
    import the package as a whole.
    """
    known = set()
    for path in in_reading_order():
        if path.stem in ("index", "api"):
            continue
        own = exports(path)
        assert own and own not in known
        for source in code_cells(path):
            for module in imported(source):
                if module.startswith(PACKAGE + "."):
                    assert module.removeprefix(PACKAGE + ".") in known | {own}, (
                        f"{path.name} imports {module}, which comes later"
                    )
        known.add(own)
    assert known | {"__init__", "_modidx"} == {p.stem for p in (ROOT / PACKAGE).glob("*.py")}


@pytest.mark.parametrize(
    "path", [p for p in NOTEBOOKS if p.stem[:2].isdigit()], ids=lambda p: p.stem
)
def test_house_style(path):
    "Cells fit a screen, prose stands between any two, figures have captions and alternative text."
    notebook = nbformat.read(path, 4)
    lengths = [
        sum(bool(l.strip()) and not l.startswith("#|") for l in source.splitlines())
        for source in code_cells(path)
    ]
    assert max(lengths) <= 50 and statistics.median(lengths) <= 16, lengths
    for cell in notebook.cells:
        directives = [line for line in cell.source.splitlines() if line.startswith("#|")]
        if any(d.startswith("#| label: fig-") for d in directives):
            assert any(d.startswith("#| fig-cap:") for d in directives) and any(
                d.startswith("#| fig-alt:") for d in directives
            ), cell.source[:80]
    text = "\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")
    assert (
        text.count(":::{exercise}") == text.count(":::{solution}") >= 2
        and "After this " in text
        and "Objectives" in text
    )
    assert sum("assert " in source for source in code_cells(path)) >= 2
    shown = [c for c in notebook.cells if not c.source.startswith(("#| hide", "#| default_exp"))]
    for before, after in itertools.pairwise(shown):
        assert "markdown" in (before.cell_type, after.cell_type), (
            f"no prose before {after.source[:80]}"
        )


@pytest.mark.parametrize(
    "path",
    [p for p in NOTEBOOKS if "01" <= p.stem[:2] <= "11" or "14" <= p.stem[:2] <= "21"],
    ids=lambda p: p.stem,
)
def test_exercises_have_checkers(path):
    """Three to five exercises a chapter, each with a checker that the executed solution puts to a
    right and a wrong answer.
    """
    cells = nbformat.read(path, 4).cells
    labels = [
        label.replace("-", "_")
        for c in cells
        if c.cell_type == "markdown"
        for label in re.findall(r":::\{exercise\}.*?\n:label: ex-([\w-]+)", c.source)
    ]
    assert 3 <= len(labels) <= 5
    code = [c.source for c in cells if c.cell_type == "code"]
    for label in labels:
        (checker,) = [source for source in code if f"def check_{label}(" in source]
        (solution,) = [source for source in code if f"assert check_{label}(" in source]
        assert (
            checker.startswith("#| checker")
            and solution.startswith("#| solution")
            and f"assert not check_{label}(" in solution
        )
    assert any("Check yourself" in c.source for c in cells if c.cell_type == "markdown")


def test_importing_the_package_loads_nothing_heavy():
    script = f'import sys, {PACKAGE}; print(sorted({{"torchvision", "matplotlib.pyplot", "sklearn", "PIL", "torch.utils.flop_counter"}} & set(sys.modules)))'
    out = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    ).stdout
    assert out.strip() == "[]"
