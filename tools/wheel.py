"""The wheel in clean environments: for each Python that is there (3.11, 3.12, 3.13) and each torch,
a virtual environment, the wheel in it, and quick tests in an empty folder. `python tools/wheel.py`
takes the Python it runs with; `make wheel-test` all that it finds.

--torch "torch==2.6.0 torchvision==0.21.0" the oldest that is supported; default the newest.
--environment PATH: one that has torch already.
"""

import argparse
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
QUICK = """
import pathlib, sys, torch
import guided_diffusion_edu as gde
from guided_diffusion_edu.cli import main
from guided_diffusion_edu.data import digits_evaluation_classifier
here = pathlib.Path(gde.__file__).parent
assert here.is_relative_to(sys.prefix), f"{here} is not the installed wheel"
assert (here / "py.typed").is_file() and gde.available_weights()
s = gde.respace(gde.cosine_schedule(), 10)
world = gde.four_corners()
y = torch.tensor([0, 1])
for sample in (gde.ddpm_sample, gde.ddim_sample, gde.dpmpp_2m_sample, gde.heun_sample):
    guidance = gde.classifier_guidance(world.classifier(gde.cosine_schedule()), y, 2.0)
    x = sample(world.denoiser(gde.cosine_schedule()), s, (2, 2), guidance=guidance)
    assert x.isfinite().all()
digits = gde.load_pretrained("digits")
classify = digits_evaluation_classifier()
pixels = gde.draw_guided(digits, torch.arange(20) % 10, steps=10, scale=3.0)
assert (classify(gde.from_pixels(pixels)) == torch.arange(20) % 10).float().mean() > 0.7
for line in (
    "info", "data --data digits", "sample --count 4 --steps 5 --out a.png",
    "sample --count 130 --steps 5 --out a.npz", "sample --count 130 --steps 5 --seed 1 --out b.npz",
    "evaluate a.npz b.npz --repeats 0",
    "train diffusion --data digits --out run --steps 2 --batch 8 --no-samples",
):
    assert main(line.split()) == 0, line
try: gde.from_openai("64x64_diffusion", {})
except ValueError as error: assert "missing" in str(error)
print("passed with Python", sys.version.split()[0], "and torch", torch.__version__)
"""


def built():
    "The newest wheel in dist/, built if there is none."
    wheels = sorted((ROOT / "dist").glob("*.whl"), key=lambda p: p.stat().st_mtime)
    if not wheels:
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run([sys.executable, "-m", "venv", folder], check=True)
            subprocess.run([f"{folder}/bin/pip", "install", "--quiet", "build"], check=True)
            subprocess.run(
                [f"{folder}/bin/python", "-m", "build", "--outdir", ROOT / "dist", ROOT],
                check=True,
                stdout=subprocess.DEVNULL,
            )
        wheels = list((ROOT / "dist").glob("*.whl"))
    return wheels[-1]


def check_contents(wheel):
    "What belongs in the wheel and in the sdist beside it is there, and nothing else."
    names = zipfile.ZipFile(wheel).namelist()
    kept = {
        name.removeprefix("guided_diffusion_edu/")
        for name in names
        if name.startswith("guided_diffusion_edu/") and "/weights/" not in name
    }
    package = ROOT / "guided_diffusion_edu"
    wanted = {str(path.relative_to(package)) for path in package.rglob("*.py")} | {"py.typed"}
    wanted |= {f"results/{path.name}" for path in (ROOT / "results").glob("*.*")}
    assert kept == wanted, kept ^ wanted
    assert any(n.endswith("weights/digits/diffusion.safetensors") for n in names)
    assert all(n.startswith(("guided_diffusion_edu/", "guided_diffusion_edu-")) for n in names)
    source = next(iter(wheel.parent.glob("*.tar.gz")), None)
    if source is None:
        return
    with tarfile.open(source) as archive:
        tops = {name.split("/")[1] for name in archive.getnames() if "/" in name}
    wanted = {
        "guided_diffusion_edu",
        "guided_diffusion_edu.egg-info",
        "results",
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "LICENSE-TEXT",
        "MANIFEST.in",
        "CHANGELOG.md",
        "SECURITY.md",
        "CITATION.cff",
        "settings.ini",
        "PKG-INFO",
        "setup.cfg",
    }
    assert tops == wanted, tops ^ wanted


def interpreter(version):
    """The Python of this version: one on the path that starts (a shim of pyenv's may not), else one
    of pyenv's own.
    """
    pyenv = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))
    for python in filter(None, [shutil.which(f"python{version}"), *reversed(pyenv)]):
        if subprocess.run([python, "-c", ""], capture_output=True).returncode == 0:
            return python


def check(python, wheel, torch, environment=None):
    with tempfile.TemporaryDirectory() as folder:
        place = Path(environment or f"{folder}/environment")
        if not environment:
            subprocess.run([python, "-m", "venv", place], check=True)
            subprocess.run(
                [place / "bin" / "pip", "install", "--quiet", *torch.split(), wheel], check=True
            )
            subprocess.run([place / "bin" / "pip", "check"], check=True)
        empty = Path(folder) / "empty"
        empty.mkdir()
        subprocess.run(
            [
                place / "bin" / "python",
                "-W",
                "error::DeprecationWarning:guided_diffusion_edu",
                "-c",
                QUICK,
            ],
            cwd=empty,
            check=True,
        )


if __name__ == "__main__":
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--torch", default="torch torchvision")
    p.add_argument(
        "--all", action="store_true", help="every Python from 3.11 to 3.13 on the path or of pyenv"
    )
    p.add_argument("--environment")
    args = p.parse_args()
    check_contents(wheel := built())
    found = (
        filter(None, (interpreter(f"3.{n}") for n in (11, 12, 13)))
        if args.all
        else [sys.executable]
    )
    for python in found:
        check(python, wheel, args.torch, args.environment)
