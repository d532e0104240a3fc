"""The project's address, name and version stand in settings.ini; everything else agrees with it."""

import re
import subprocess
from pathlib import Path

import nbformat

import guided_diffusion_edu as gde
from address import FILES, rewrite
from nbdev_book import read, settings

ROOT = Path(__file__).parents[2]


def test_files_agree_with_the_settings():
    for name in FILES:
        text = (ROOT / name).read_text()
        assert rewrite(name, text, settings()) == text, (
            f"{name} has another address than settings.ini: run make address"
        )
    assert settings()["git_url"] in (ROOT / "CITATION.cff").read_text()


OWNER = re.compile(
    rf"(github\.com/|github\.io|github/){settings()['user']}\b|{settings()['user']}\.github\.io"
)


def test_a_new_address_reaches_every_place():
    known = dict(settings()) | dict(
        user="lady-ada",
        branch="next",
        git_url="https://github.com/lady-ada/guided_diffusion_edu",
        doc_host="https://lady-ada.github.io",
    )
    for name in FILES:
        text = (ROOT / name).read_text()
        assert (
            OWNER.search(text)
            and not OWNER.search(rewrite(name, text, known))
            and "/blob/main" not in rewrite(name, text, known)
        ), name


def test_each_notebook_opens_with_its_badge_for_colab():
    known = settings()
    for path in sorted((ROOT / "nbs").rglob("*.ipynb")):
        first = nbformat.read(path, 4).cells[0]
        colab, branch = "https://colab.research.google.com", f"blob/{known['branch']}"
        page = f"{colab}/github/{known['user']}/{known['repo']}/{branch}/{path.relative_to(ROOT)}"
        badge = f"[![Open in Colab]({colab}/assets/colab-badge.svg)]({page})\n\n# "
        assert first.cell_type == "markdown" and first.source.startswith(badge), path.name
        assert read(path.read_text()).cells[1].source.startswith("# "), (
            f"{path.name}: the site would load the badge"
        )


def test_no_other_file_names_the_address():
    files = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    allowed = {
        *FILES,
        "settings.ini",
        "guided_diffusion_edu/_modidx.py",
    }  # _modidx is written from the settings by nbdev
    for name in files:
        path = ROOT / name
        if (
            name in allowed
            or path.suffix in (".js", ".woff", ".safetensors", ".png")
            or not path.is_file()
        ):
            continue
        assert not OWNER.search(path.read_text(errors="ignore")), name


def test_one_version():
    version = settings()["version"]
    assert (
        gde.__version__ == version and f"version: {version}" in (ROOT / "CITATION.cff").read_text()
    )
