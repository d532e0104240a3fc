"""The package is what the notebooks export, and imports climb the staircase of the contents.

What is promised is annotated, described, and not too much.
"""

import ast
import filecmp
import os
import shutil
import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from types import ModuleType

import nbformat
import pytest
import yaml

import guided_diffusion_edu as gde

ROOT = Path(__file__).parents[2]
PACKAGE = "guided_diffusion_edu"
MODULES = {  # name without the package's -> file
    ".".join(path.relative_to(ROOT / PACKAGE).with_suffix("").parts): path
    for path in sorted((ROOT / PACKAGE).rglob("*.py"))
    if path.name not in ("__init__.py", "_modidx.py")
}
PLUMBING = {"viz", "_validation", "checkpoints", "distributed", "provenance"}  # free for all


def in_reading_order():
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text())
    files = [toc["root"], *(c["file"] for part in toc["parts"] for c in part["chapters"])]
    return [ROOT / f"{f}.ipynb" for f in files if (ROOT / f"{f}.ipynb").exists()]


@lru_cache
def code_cells(path):
    return [c.source for c in nbformat.read(path, 4).cells if c.cell_type == "code"]


def exports(path):
    "The modules that a page writes."
    found = set()
    for source in code_cells(path):
        for line in source.splitlines():
            words = line.split()
            if words[:2] in (["#|", "default_exp"], ["#|", "export"]) and len(words) == 3:
                found.add(words[2])
    return found


def imports(tree, module=None):
    """(module of the package, name or None) for each import in `tree`.

    The tree is of `module`, or of a page. A name that the package itself promises comes with the
    module it is from.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith(PACKAGE + "."):
                    yield alias.name.removeprefix(PACKAGE + "."), None
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = module.split(".")[: -node.level]
                base = ".".join([PACKAGE, *above, *filter(None, [node.module])])
            if base == PACKAGE:
                for alias in node.names:
                    if alias.name in MODULES:
                        yield alias.name, None
                    elif not alias.name.startswith("__"):
                        yield home(alias.name)
            elif base.startswith(PACKAGE + "."):
                base = base.removeprefix(PACKAGE + ".")
                for alias in node.names:
                    inner = f"{base}.{alias.name}"
                    yield (inner, None) if inner in MODULES else (base, alias.name)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.value.id == "gde" and not node.attr.startswith("__"):
                yield home(node.attr)


def home(name):
    "Where a name that the package promises is written."
    found = getattr(gde, name)
    if isinstance(found, ModuleType):
        return found.__name__.removeprefix(PACKAGE + "."), None
    return found.__module__.removeprefix(PACKAGE + "."), name


def test_the_package_is_the_export(tmp_path):
    shutil.copytree(ROOT / "nbs", tmp_path / "nbs")
    shutil.copy(ROOT / "settings.ini", tmp_path)
    (tmp_path / PACKAGE).mkdir()
    subprocess.run([sys.executable, ROOT / "tools" / "export.py"], cwd=tmp_path, check=True)

    def files(root):
        return {str(p.relative_to(root / PACKAGE)) for p in (root / PACKAGE).rglob("*.py")}

    assert files(ROOT) == files(tmp_path)
    for name in files(ROOT):
        assert filecmp.cmp(ROOT / PACKAGE / name, tmp_path / PACKAGE / name, shallow=False), (
            f"{name} is not what the notebooks export: run make export"
        )


def test_imports_climb_the_staircase():
    """A page's code uses modules of earlier pages and its own, and the plumbing; and no page of the
    main line uses what depth has.
    """
    known, depth = set(PLUMBING), set()
    for path in in_reading_order():
        own = exports(path)
        assert not own & (known - PLUMBING), f"{path.stem} writes what an earlier page wrote"
        known |= own
        depth |= (own - PLUMBING) if path.parent.name == "depth" else set()
        if path.stem in ("index", "api"):  # they show the package as a whole
            continue
        for source in code_cells(path):
            for module, name in imports(ast.parse(source)):
                assert module in known, f"{path.stem} uses {module} ({name}), which comes later"
                if path.parent.name != "depth":
                    assert module not in depth, f"{path.stem} uses {module} of the depth pages"
    assert known - {"__init__"} == set(MODULES)


def test_no_private_name_crosses_a_module():
    for module, path in MODULES.items():
        tree, modules = ast.parse(path.read_text()), set()
        for other, name in imports(tree, module):
            assert name is None or not name.startswith("_"), f"{module} imports {other}.{name}"
            modules |= {other.split(".")[-1]} if name is None else set()
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                assert not (node.value.id in modules and node.attr.startswith("_")), (
                    f"{module} uses {node.value.id}.{node.attr}"
                )


def promised():
    return [
        name
        for name in vars(gde)
        if not name.startswith("_") and not isinstance(getattr(gde, name), ModuleType)
    ]


def test_the_package_promises_what_one_can_overlook():
    assert 50 <= len(promised()) <= 75
    assert all(getattr(gde, name).__module__.startswith(PACKAGE) for name in promised())


def public(path):
    "(name, node) of the public functions, classes and methods of a module."
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            yield node.name, node
            for inner in node.body if isinstance(node, ast.ClassDef) else ():
                if isinstance(inner, ast.FunctionDef) and (
                    not inner.name.startswith("_") or inner.name in ("__init__", "__call__")
                ):
                    yield f"{node.name}.{inner.name}", inner


@pytest.mark.parametrize("module", MODULES)
def test_public_functions_are_annotated(module):
    missing = []
    for name, node in public(MODULES[module]):
        if isinstance(node, ast.ClassDef):
            continue
        method = "." in name and not any(
            ast.unparse(decorator) == "staticmethod" for decorator in node.decorator_list
        )
        arguments = [*node.args.posonlyargs, *node.args.args][method:] + node.args.kwonlyargs
        arguments += filter(None, [node.args.vararg, node.args.kwarg])
        missing += [f"{name}({arg.arg})" for arg in arguments if arg.annotation is None]
        if node.returns is None and not name.endswith(".__init__"):
            missing.append(f"{name} -> ?")
    assert not missing


@pytest.mark.parametrize("module", MODULES)
def test_docstrings_begin_with_a_short_line(module):
    "One line says it, and fits its line of the source; more is a paragraph of its own."
    wrong = []
    for name, node in public(MODULES[module]):
        if name.endswith((".__init__", ".forward", ".__call__")) and not ast.get_docstring(node):
            continue  # the class says it
        first = (ast.get_docstring(node) or "").split("\n\n")[0]
        if not 0 < len(first) <= 96 or "\n" in first:
            wrong.append(f"{name}: {first!r}")
    assert not wrong


def test_mypy_is_clean_and_finds_a_planted_error(tmp_path):
    shutil.copytree(ROOT / PACKAGE, tmp_path / PACKAGE, ignore=shutil.ignore_patterns("weights"))
    shutil.copytree(ROOT / "results", tmp_path / PACKAGE / "results")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)

    def mypy():
        return subprocess.run(
            [sys.executable, "-m", "mypy", "--no-color-output"],
            cwd=tmp_path,
            env=os.environ | dict(MYPYPATH=str(tmp_path)),
            capture_output=True,
            text=True,
        )

    clean = mypy()
    assert clean.returncode == 0, clean.stdout
    path = tmp_path / PACKAGE / "guidance.py"
    lines = path.read_text().splitlines(keepends=True)
    (function,) = [
        node
        for node in ast.parse("".join(lines)).body
        if getattr(node, "name", None) == "guided_mean"
    ]
    lines.insert(function.body[-1].lineno - 1, '    1 + "a"\n')
    path.write_text("".join(lines))
    planted = mypy()
    assert planted.returncode == 1 and "guidance.py" in planted.stdout, planted.stdout
    assert "Unsupported operand types" in planted.stdout


def test_importing_the_package_loads_nothing_heavy():
    heavy = {"torchvision", "matplotlib", "sklearn", "PIL", "torch.utils.flop_counter"}
    script = f"import sys, {PACKAGE}; print(sorted({heavy!r} & set(sys.modules)))"
    out = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    ).stdout
    assert out.strip() == "[]"
