"""Nothing unsafe: the tree is read for calls that run code from data, reach a shell, or fetch
without https and a checksum; and the release files say one thing.
"""

import ast
import json
import re
import tomllib
from configparser import ConfigParser
from pathlib import Path

import pytest
import yaml

import guided_diffusion_edu

ROOT = Path(__file__).parents[2]
SETTINGS = ConfigParser()
SETTINGS.read(ROOT / "settings.ini")


def sources():
    "(path, Python source) of the package, the tools, the tests and the notebooks' code."
    folders = ("guided_diffusion_edu", "book", "benchmarks", "tests", "tools")
    for path in sorted(p for folder in folders for p in (ROOT / folder).rglob("*.py")):
        yield path, path.read_text()
    for path in sorted((ROOT / "nbs").rglob("*.ipynb")):
        cells = json.loads(path.read_text())["cells"]
        yield (
            path,
            "\n\n".join(
                "".join(c["source"])
                for c in cells
                if c["cell_type"] == "code" and not "".join(c["source"]).startswith(("%", "!"))
            ),
        )


def dotted(node):
    "The name that is called, as it is written: `torch.load`, `eval`."
    parts = []
    while isinstance(node, ast.Attribute):
        parts, node = [node.attr, *parts], node.value
    return ".".join([node.id, *parts]) if isinstance(node, ast.Name) else ".".join(["?", *parts])


def given(call, name):
    return next((ast.unparse(k.value) for k in call.keywords if k.arg == name), None)


NEVER = {
    "eval",
    "exec",
    "compile",
    "__import__",
    "os.system",
    "os.popen",
    "pickle.load",
    "pickle.loads",
    "pickle.Unpickler",
    "marshal.loads",
    "marshal.load",
    "shelve.open",
    "joblib.load",
    "yaml.load",
    "yaml.unsafe_load",
    "torch.hub.load",
    "tarfile.open",
    "shutil.unpack_archive",
    "tempfile.mktemp",
    "ssl._create_unverified_context",
    "urlretrieve",
    "urllib.request.urlretrieve",
    "requests.get",
    "dill.loads",
    "cloudpickle.loads",
    "subprocess.getoutput",
}


def forbidden(source):
    "What in `source` must not be there, as (line, words)."
    for node in ast.walk(ast.parse(source)):
        if (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and re.match(r"http" + r"://(?!127\.0\.0\.1|localhost|www\.w3\.org)", node.value)
        ):
            yield node.lineno, node.value[:60]
        if not isinstance(node, ast.Call):
            continue
        name = dotted(node.func)
        if name in NEVER:
            yield node.lineno, name
        if name.endswith((".extractall", ".extract")):
            yield node.lineno, name
        if name in ("torch.load", "th.load") and given(node, "weights_only") != "True":
            yield node.lineno, "torch.load without weights_only=True"
        if name.endswith(("np.load", "numpy.load", "read_array")) and given(
            node, "allow_pickle"
        ) not in (None, "False"):
            yield node.lineno, f"{name} with pickles"
        if given(node, "shell") not in (None, "False"):
            yield node.lineno, f"{name} through a shell"
        if given(node, "verify") == "False":
            yield node.lineno, f"{name} without checking certificates"


ALLOWED = {  # (file, what): why
    ("tests/practice/test_pretrained.py", "exec"): "runs the cells of a chapter",
    ("tests/beyond/test_speed.py", "exec"): "runs the cells of a chapter",
    ("tests/book/test_notation.py", "eval"): "reads the shapes of the notation page",
    ("tests/practice/test_pretrained.py", "http://elsewhere/lsun_cat.pt"): "is refused",
    ("tests/practice/test_pretrained_bad_input.py", "http://elsewhere"): "is refused",
    ("tools/wheel.py", "tarfile.open"): "reads the names in our own sdist",
    (
        "nbs/practice/pretrained.ipynb",
        "torch.load without weights_only=True",
    ): "the same, before the reader",
    # https, from a server that gives no checksums; what is read are arrays, and the cell, for a
    # GPU, compares what they score
    ("nbs/practice/evaluation.ipynb", "urllib.request.urlretrieve"): "a cell for a GPU",
    ("tools/mutate.py", "compile"): "of the package itself, changed in one place",
    (
        "tests/practice/test_pretrained.py",
        "torch.load without weights_only=True",
    ): "shows that the file that is refused would have run its code",
}


def test_no_forbidden_calls():
    found = [
        (str(path.relative_to(ROOT)), line, what)
        for path, source in sources()
        for line, what in forbidden(source)
    ]
    wrong = [
        place
        for place in found
        if (place[0], place[2]) not in ALLOWED and place[0] != "tests/book/test_safety.py"
    ]
    assert not wrong, wrong
    assert not set(ALLOWED) - {
        (place[0], place[2]) for place in found
    }  # nothing is allowed that is not there


@pytest.mark.parametrize(
    "source",
    [
        'eval("1")',
        'import pickle\npickle.loads(b"")',
        'torch.load("a.pt")',
        'torch.load("a.pt", weights_only=False)',
        'subprocess.run("ls", shell=True)',
        'numpy.load("a", allow_pickle=True)',
        'os.system("ls")',
        'yaml.load("a")',
        'urlopen("http://there")',
        'archive.extractall("x")',
    ],
)
def test_the_reading_finds_what_it_is_for(source):
    assert list(forbidden(source))


def test_what_is_safe_goes_through():
    assert not list(
        forbidden(
            'torch.load("a", weights_only=True)\nnumpy.load("a")\nsubprocess.run(["ls"])\nurlopen("https://there")\nmodel.eval()'
        )
    )


def test_only_one_place_opens_addresses_and_it_asks_for_a_checksum():
    """In the package: `fetch_openai` over https with a SHA-256 beside the file, Inception's weights
    with theirs, torchvision's data sets with torchvision's.
    """
    opening = {
        path.stem
        for path, source in sources()
        if path.is_relative_to(ROOT / "guided_diffusion_edu")
        and re.search(r"urlopen|download_url|http\.client|socket|requests", source)
    }
    assert opening == {"pretrained", "features"}
    text = (ROOT / "guided_diffusion_edu" / "pretrained.py").read_text()
    assert (
        text.count("urlopen") == 2
        and 'ADDRESS = "https://' in text
        and 'startswith("https://")' in text
        and "sha256" in text
    )  # its import, and the default of `open_url`
    text = (ROOT / "guided_diffusion_edu" / "features.py").read_text()
    assert "hash_prefix=INCEPTION_SHA256" in text


# Releases


def test_the_version_stands_in_one_place():
    """settings.ini; nbdev carries it into the package, from where the wheel takes it.

    The other files must agree.
    """
    version = SETTINGS["DEFAULT"]["version"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert (
        guided_diffusion_edu.__version__ == version
        and "version" in project["project"]["dynamic"]
        and "version" not in project["project"]
    )
    assert re.search(
        rf'^version: "?{re.escape(version)}"?$', (ROOT / "CITATION.cff").read_text(), re.M
    )
    assert re.search(rf"^## {re.escape(version)}( |$)", (ROOT / "CHANGELOG.md").read_text(), re.M)


WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.stem)
def test_workflows_pin_what_they_use_and_may_little(path):
    text, flow = path.read_text(), yaml.safe_load(path.read_text())
    for line in re.findall(r"uses:.*", text):
        assert re.fullmatch(r"uses: [\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line), line
    assert (
        flow["permissions"] == {"contents": "read"}
        and "pull_request_target" not in text
        and "secrets." not in text
    )
    for name, job in flow["jobs"].items():
        assert job["timeout-minutes"] <= 180
        assert set(job.get("permissions", {})) <= (
            {"pages", "id-token"}
            if name == "deploy"
            else {"id-token"}
            if name == "publish"
            else set()
        )
        for step in job["steps"]:
            if "run" in step:
                assert (
                    "${{ github.event" not in step["run"]
                    and "${{ github.head_ref" not in step["run"]
                )
            if "checkout" in step.get("uses", ""):
                assert step["with"]["persist-credentials"] is False


def test_there_are_the_four_workflows():
    assert [p.stem for p in WORKFLOWS] == ["book", "release", "tests", "weekly"]
