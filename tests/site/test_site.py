"""The built site in _build/html: run by `make check` after `make book`."""

import re
import zipfile
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml

from nbdev_book import settings

ROOT = Path(__file__).parents[2]
SITE = ROOT / "_build" / "html"
PAGES = sorted(p for p in SITE.rglob("*.html") if "_static" not in p.parts)
TOC = yaml.safe_load((ROOT / "_toc.yml").read_text())
CHAPTERS = [  # notebooks of the numbered parts
    SITE / f"{chapter['file']}.html"
    for part in TOC["parts"]
    if part.get("numbered")
    for chapter in part["chapters"]
    if (ROOT / f"{chapter['file']}.ipynb").exists()
]
PLUMBING = {"validation", "checkpoints_and_processes"}  # they show no figure


class Page(HTMLParser):
    "Links, loaded files, images and ids of a page."

    def __init__(self, path):
        super().__init__()
        self.links, self.loads, self.images, self.ids = [], [], [], set()
        self.feed(path.read_text())

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if "id" in attrs:
            self.ids.add(attrs["id"])
        if tag == "a" and "href" in attrs:
            self.links.append(attrs["href"])
        if tag == "img":
            self.images.append(attrs)
        if tag in ("script", "img", "iframe", "video", "source") and attrs.get("src"):
            self.loads.append(attrs["src"])
        if tag == "link" and attrs.get("rel") in ("stylesheet", "preload", "icon"):
            self.loads.append(attrs["href"])


PARSED = {path: Page(path) for path in PAGES}


def test_every_chapter_is_there():
    for file in [TOC["root"], *(c["file"] for part in TOC["parts"] for c in part["chapters"])]:
        assert SITE / f"{file}.html" in PARSED


@pytest.mark.parametrize("path", PAGES, ids=lambda p: str(p.relative_to(SITE)))
def test_page(path):
    page = PARSED[path]
    for load in page.loads:
        assert (
            not urlsplit(load).netloc and (path.parent / unquote(urlsplit(load).path)).exists()
        ), f"{load} is not in the site"
    for link in page.links:
        parts = urlsplit(link)
        if parts.scheme or parts.netloc:
            continue
        target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
        assert target.exists(), f"dead link {link}"
        if parts.fragment and target in PARSED:
            assert unquote(parts.fragment) in PARSED[target].ids, f"dead anchor {link}"
    for image in page.images:
        assert image.get("alt") or image.get("aria-hidden") or "logo" in image.get("class", ""), (
            f"no alternative text: {image}"
        )


@pytest.mark.parametrize("path", PAGES, ids=lambda p: str(p.relative_to(SITE)))
def test_no_markup_is_left_over(path):
    "A directive or a role that the reader of Markdown did not understand would stand in the text."
    text = re.sub(
        r"<(pre|script|style)\b.*?</\1>|<code\b.*?</code>", "", path.read_text(), flags=re.S
    )
    assert not re.search(r"```|:::|\{(doc|ref|eq|cite:\w|prf:\w+)\}", text)


def test_chapters_ran_and_their_figures_are_there():
    assert len(CHAPTERS) > 20
    for path in (path for path in CHAPTERS if path.stem not in PLUMBING):
        text = path.read_text()
        assert (
            "Traceback" not in text
            and 'class="cell_output' in text
            and "<figure" in text
            and "math notranslate" in text
        ), path.name


def test_pages_say_how_long_they_ran():
    status = (SITE / "nbs" / "reference" / "status.html").read_text()
    for path in CHAPTERS:
        assert (
            re.search(r"Runs in \d+ s on one CPU core · fetches 0 MB", path.read_text())
            and f'href="../{path.parent.name}/{path.name}"' in status
        ), path.name


def test_the_ledger_is_full():
    text = (SITE / "nbs" / "reference" / "proof_ledger.html").read_text()
    rows = re.findall(r'<tr class="row-(?:odd|even)">(.*?)</tr>', text, re.S)[1:]
    assert len(rows) >= 40
    for row in rows:
        assert row.count("<p>passed</p>") == 2 and "#equation-eq-" in row and "api.html#" in row, (
            row
        )


def test_colab_opens_this_repository():
    known = settings()
    page, branch = "nbs/guidance/taylor_proof", f"blob/{known['branch']}"
    wanted = f"https://colab.research.google.com/github/{known['user']}/{known['repo']}/{branch}/{page}.ipynb"
    assert wanted in PARSED[SITE / f"{page}.html"].links


def test_the_archive_holds_the_site():
    "All files but itself."
    with zipfile.ZipFile(SITE / f"{settings()['lib_name']}-site.zip") as archive:
        packed = set(archive.namelist())
    assert packed == {
        str(p.relative_to(SITE))
        for p in SITE.rglob("*")
        if p.is_file() and p != Path(archive.filename)
    }
