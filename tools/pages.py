"""Execute each page once, from the wheel in an empty folder, for the tests and for the book.

`make book` calls this. Pages that have not been executed with this code, this package and these
versions are now, one thread each, as many at a time as there are cores; then all go into the book's
execution cache. The tests that run pages (tests/book/test_notebooks.py) keep and find what was
executed in the same place, so that `make check` executes each page once.
"""

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from pathlib import Path

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "book" / "_ext"))

from nbdev_book import read

PACKAGE = "guided_diffusion_edu"
PAGES = sorted((ROOT / "nbs").rglob("*.ipynb"))
KEPT = ROOT / ".pages"  # executed pages, by the hash of what they depend on
CACHE = ROOT / "_build" / ".jupyter_cache"  # the book's
SHARED = ["torch", "torchvision", "numpy", "matplotlib", "scikit-learn", "safetensors"]
ONE_THREAD = dict(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")

GUARD = f"""
def guard():
    import importlib.util, os, pathlib, sys
    inside, outside = {str(ROOT) + os.sep!r}, {sys.prefix + os.sep!r}
    here = ("127.0.0.1", "::1", "localhost")
    def hook(event, args):
        if event in ("open", "os.listdir", "os.scandir") and isinstance(args[0], (str, bytes)):
            path = os.path.abspath(os.fsdecode(args[0]))
            if path.startswith(inside) and not path.startswith(outside):
                raise PermissionError(f"{{path}} is of the repository, not of the wheel")
        if event == "socket.connect" and isinstance(args[1], tuple) and args[1][0] not in here:
            raise PermissionError(f"fetches from {{args[1]}}")
    sys.addaudithook(hook)
    origin = pathlib.Path(importlib.util.find_spec("{PACKAGE}").origin)
    assert origin.is_relative_to(os.environ["PYTHONPATH"]), f"{{origin}} is not the wheel's"
guard()
del guard
"""


def install_wheel(here: Path) -> Path:
    "A folder below `here` with nothing but the built wheel, unpacked."
    source, site = here / "source", here / "site"
    left_out = (".*", "_build", "runs", "build", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(*left_out))
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", here, source]
    subprocess.run(build, check=True, capture_output=True)
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", site]
    subprocess.run([*install, *here.glob("*.whl")], check=True)
    return site


def kept(path: Path) -> Path:
    "Where the executed page of `path` is kept: its code, the package and the versions decide."
    code = [c.source for c in read(path.read_text()).cells if c.cell_type == "code"]
    versions = [platform.python_version(), *(version(name) for name in SHARED)]
    sha = hashlib.sha256("\0".join([*code, *versions]).encode()).hexdigest()[:16]
    name = "-".join(path.relative_to(ROOT / "nbs").with_suffix("").parts)
    return KEPT / f"{name}-{sha}.ipynb"


def execute(path: Path, site: Path) -> Path:
    """The executed page of `path`, from the package in the folder `site`; as kept, if it is.

    In an empty folder; reading a file of the repository, or fetching anything, is an error.
    """
    target = kept(path)
    if target.exists():
        return target
    page = read(path.read_text())
    with tempfile.TemporaryDirectory() as here:
        startup, folder = Path(here, "ipython", "profile_default", "startup"), Path(here, "empty")
        startup.mkdir(parents=True)
        folder.mkdir()
        (startup / "guard.py").write_text(GUARD)
        environment = os.environ | ONE_THREAD
        environment |= dict(PYTHONPATH=str(site), IPYTHONDIR=str(startup.parents[1]))
        began = time.time()
        resources = dict(metadata=dict(path=str(folder)))
        # no times in the cells: the book's cache finds a page by their metadata too
        NotebookClient(page, timeout=600, record_timing=False, resources=resources).execute(
            env=environment
        )
    page.metadata["seconds"] = time.time() - began
    KEPT.mkdir(exist_ok=True)
    partial = target.with_suffix(f".{os.getpid()}")
    nbformat.write(page, partial)
    os.replace(partial, target)
    for old in KEPT.glob(f"{target.stem[:-16]}{'?' * 16}.ipynb"):
        if old != target:
            old.unlink()
    return target


def fill_cache() -> None:
    "Put the executed pages into the book's cache, where MyST-NB finds them by their code."
    from jupyter_cache import get_cache
    from jupyter_cache.base import CacheBundleIn

    CACHE.parent.mkdir(exist_ok=True)
    cache = get_cache(CACHE)
    for path in PAGES:
        page = nbformat.read(kept(path), 4)
        data = dict(execution_seconds=page.metadata.pop("seconds"))
        bundle = CacheBundleIn(page, str(path), data=data)
        cache.cache_notebook_bundle(bundle, check_validity=False, overwrite=True)


def main() -> None:
    missing = [path for path in PAGES if not kept(path).exists()]
    missing.sort(key=lambda path: -path.stat().st_size)  # the longest first, about
    if missing:
        with tempfile.TemporaryDirectory() as here, ProcessPoolExecutor() as pool:
            site = install_wheel(Path(here))
            runs = {path: pool.submit(execute, path, site) for path in missing}
            for path, run in runs.items():
                run.result()
                print(f"executed {path.relative_to(ROOT)}", flush=True)
    fill_cache()


if __name__ == "__main__":
    main()
