"""Deliberate errors, from mutations.txt: the numeric test of its label must notice each.

A line there is `module label: what stands there => what is put there`, or `module:function label:
...` where the place is the only one in that function, not in the module. The error is made in a
copy of the package. The source is read as Python prints its syntax tree (`ast.unparse`), so neither
line breaks, quotes, commas at the end nor superfluous brackets matter, and comments are gone;
between two signs of what stands there may be any space. It must stand there once.
"""

import ast
import importlib.util
import re
import shutil
import sys
from itertools import pairwise
from pathlib import Path

import pytest

PACKAGE = Path(importlib.util.find_spec("guided_diffusion_edu").origin).parent
TESTS = Path(__file__).parents[1]
LINE = re.compile(r"(\S+) (eq-[\w-]+): (.+?) =>(?: (.*))?")
MUTATIONS = [
    LINE.fullmatch(line).groups("")
    for line in Path(__file__).with_name("mutations.txt").read_text().splitlines()
    if line and not line.startswith("#")
]
NUMERIC = {  # label -> the file in which its test is
    name.replace("_", "-"): path
    for path in TESTS.glob("*/test_*_numeric.py")
    for name in re.findall(r"^def test_(eq_\w+)\(", path.read_text(), re.M)
}
COPIED = (
    "guided_diffusion_edu",
    "helpers",
)  # what is imported afresh: the package, and tests' modules that hold its objects


def mutate(source, stands, put):
    "The source as Python prints it, with what is `put` in the only place where `stands` stands."
    text = ast.unparse(ast.parse(source))
    signs = re.findall(r"\w+|[^\w\s]", stands.replace('"', "'"))
    pattern = re.escape(signs[0]) + "".join(
        (r"\s+" if re.fullmatch(r"\w\w", a[-1] + b[0]) else r"\s*") + re.escape(b)
        for a, b in pairwise(signs)
    )
    pattern = r"(?<!\w)" * signs[0].isidentifier() + pattern + r"(?!\w)" * signs[-1].isidentifier()
    places = list(re.finditer(pattern, text))
    assert len(places) == 1, f"{stands!r} stands {len(places)} times"
    return text[: places[0].start()] + put + text[places[0].end() :]


def mutate_module(source, function, stands, put):
    "The same, with the place looked for in one function only, if one is named."
    if not function:
        return mutate(source, stands, put)
    tree = ast.parse(source)
    (node,) = [node for node in tree.body if getattr(node, "name", None) == function]
    return ast.unparse(tree).replace(ast.unparse(node), mutate(ast.unparse(node), stands, put))


def forget():
    for name in [name for name in sys.modules if name.split(".")[0] in COPIED]:
        del sys.modules[name]


def run(directory, label, monkeypatch):
    "The label's numeric test, with the package imported afresh from `directory`."
    for name in [name for name in sys.modules if name.split(".")[0] in COPIED]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(directory)
    spec = importlib.util.spec_from_file_location("numeric_on_a_copy", NUMERIC[label])
    tests = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(tests)
        assert sys.modules["guided_diffusion_edu"].__file__.startswith(str(directory))
        getattr(tests, "test_" + label.replace("-", "_"))()
    finally:  # monkeypatch puts back what it took; what was imported from the copy must go
        forget()


def copy(directory):
    package = directory / "guided_diffusion_edu"
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("weights", "__pycache__"))
    (package / "weights").symlink_to(PACKAGE / "weights")
    return package


@pytest.mark.parametrize(
    "module, label, stands, put",
    MUTATIONS,
    ids=[f"{module}-{label}-{k}" for k, (module, label, *_) in enumerate(MUTATIONS)],
)
def test_error_is_noticed(tmp_path, monkeypatch, module, label, stands, put):
    module, _, function = module.partition(":")
    path = copy(tmp_path) / f"{module.replace('.', '/')}.py"
    path.write_text(mutate_module(path.read_text(), function, stands, put))
    with pytest.raises((AssertionError, ValueError)):
        run(tmp_path, label, monkeypatch)


@pytest.mark.parametrize("label", sorted({label for _, label, *_ in MUTATIONS}))
def test_an_unbroken_copy_passes(tmp_path, monkeypatch, label):
    copy(tmp_path)
    run(tmp_path, label, monkeypatch)


def test_formatting_does_not_matter():
    "The same place, however it is laid out; and a place that is not the only one is refused."
    for source in (
        "x = f(a ** 0.5 * 'b', [1, 2])",
        'x = (\n    f(\n        a**0.5  # half\n        * "b",\n        [1, 2,],\n    )\n)',
    ):
        assert mutate(source, "a ** 0.5 * 'b'", "a") == "x = f(a, [1, 2])"
    with pytest.raises(AssertionError, match="stands 2 times"):
        mutate("x = a + a", "a", "b")
