"""The notebooks run as a reader runs them, are ready for Colab, and keep the house style."""

import ast
import importlib.metadata
import json
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
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import pages

ROOT = Path(__file__).parents[2]
PACKAGE = "guided_diffusion_edu"
NOTEBOOKS = sorted((ROOT / "nbs").rglob("*.ipynb"))
TOC = yaml.safe_load((ROOT / "_toc.yml").read_text())
CHAPTERS = [  # the notebooks of the numbered parts
    ROOT / f"{chapter['file']}.ipynb"
    for part in TOC["parts"]
    if part.get("numbered")
    for chapter in part["chapters"]
]
FOLDED = ("#| hide", "#| default_exp", "#| checker", "#| solution", "#| code-fold")


def name(path):
    return str(path.relative_to(ROOT / "nbs").with_suffix(""))


@lru_cache
def code_cells(path):
    return [c.source for c in nbformat.read(path, 4).cells if c.cell_type == "code"]


def imported(source):
    "Modules named by the import statements of `source`."
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            yield node.module


def test_the_contents_name_every_notebook():
    files = [TOC["root"], *(c["file"] for part in TOC["parts"] for c in part["chapters"])]
    pages = [path for path in (ROOT / f"{file}.ipynb" for file in files) if path.exists()]
    assert sorted(pages) == NOTEBOOKS and len(CHAPTERS) > 20
    for file in files:
        assert any((ROOT / f"{file}{end}").exists() for end in (".ipynb", ".md")), file


@pytest.fixture(scope="session")
def installed(tmp_path_factory):
    "A folder with nothing but the built wheel, unpacked."
    return pages.install_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_notebook_runs_with_only_the_wheel(path, installed):
    """In an empty folder; reading a file of the repository, or fetching anything, is an error.

    (So the pages may say that they fetch nothing.) What was executed is kept for the book.
    """
    assert pages.execute(path, installed).is_file()


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
            } <= brought | sys.stdlib_module_names, f"{name(path)}: {source[:80]}"


SETUP = """#| hide
get_ipython().system('[ -z "$COLAB_RELEASE_TAG" ] || pip install -q guided_diffusion_edu')"""


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_notebook_is_ready_for_colab(path):
    """The first code cell, the same everywhere, sets up Colab and does nothing elsewhere; where a
    cell is for a GPU, Colab is asked for one.
    """
    cells, metadata = code_cells(path), nbformat.read(path, 4).metadata
    assert cells[0] == SETUP and not any("get_ipython" in source for source in cells[1:])
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
    runtimes = json.loads((Path(__file__).with_name("colab.json")).read_text())
    assert all(any(r.name in runtime["packages"] for runtime in runtimes) for r in wanted)
    for runtime in runtimes:
        assert runtime["python"] in SpecifierSet(distribution.metadata["Requires-Python"])
        for r in wanted:
            if r.name in runtime["packages"]:
                has = runtime["packages"][r.name]
                assert has in r.specifier, (
                    f"Colab of {runtime['date']} has {has}, the wheel wants {r}"
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
        assert path.read_text() == (tmp_path / path.relative_to(ROOT)).read_text(), (
            f"{name(path)}: run nbdev_clean"
        )
        for cell in nbformat.read(path, 4).cells:
            kept = cell.get("outputs") and not any(
                line.startswith(("#| cuda", "#| slow")) for line in cell.source.splitlines()
            )
            assert not kept, f"{name(path)} keeps an output that the build makes itself"


def code_lines(source):
    "Lines of a cell without directives, comments, docstrings and empty lines."
    lines = source.splitlines()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and ast.get_docstring(node):
            doc = node.body[0]
            lines[doc.lineno - 1 : doc.end_lineno] = [""] * (doc.end_lineno - doc.lineno + 1)
    return sum(bool(line.strip()) and not line.lstrip().startswith("#") for line in lines)


@pytest.mark.parametrize("path", CHAPTERS, ids=name)
def test_house_style(path):
    """Cells fit a screen, at most four stand in a row, figures have captions and alternative text.

    A cell that is folded counts neither as code nor as prose between two cells.
    """
    notebook = nbformat.read(path, 4)
    lengths = [code_lines(source) for source in code_cells(path)]
    assert max(lengths) <= 70 and statistics.median(lengths) <= 15, lengths
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
    shown = [c for c in notebook.cells if not c.source.startswith(FOLDED)]
    row = 0
    for cell in shown:
        row = 0 if cell.cell_type == "markdown" else row + 1
        assert row <= 4, f"the fifth cell of code without prose between: {cell.source[:80]}"


@pytest.mark.parametrize(
    "path",
    [p for p in CHAPTERS if p.stem not in ("plotting", "validation", "command_line")],
    ids=name,
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
