"""The whole book as one PDF: Chromium's print of each page of _build/html in reading order, joined,
with an outline, page numbers and links that lead within it.
"""

import argparse
import io
import sys
from pathlib import Path
from urllib.parse import unquote, urldefrag

import yaml
from pypdf import PdfReader, PdfWriter
from pypdf.generic import ArrayObject, FloatObject, NameObject, NullObject

sys.path.insert(0, str(Path(__file__).parent / "_ext"))
from chromium import chromium, served
from nbdev_book import settings

ROOT = Path(__file__).parents[1]
SITE = ROOT / "_build" / "html"
PAPER = dict(
    format="A4",
    margin=dict(top="16mm", bottom="18mm", left="17mm", right="17mm"),
    print_background=True,
)
OPEN = """async () => {
  await document.fonts.ready;
  if (window.MathJax && MathJax.startup) await MathJax.startup.promise;
  for (const d of document.querySelectorAll('details')) d.open = true;
  for (const e of document.querySelectorAll('.toggle-hidden')) e.classList.remove('toggle-hidden');
}"""
TITLES = """[...document.querySelectorAll('.bd-article h1, .bd-article h2')].map(
  h => h.textContent.replace(/#\\s*$/, '').replace(/\\s+/g, ' ').trim())"""
NUMBER = (
    '<p style="break-after: page; height: {}mm; margin: 0; display: flex; align-items: end; '
    'justify-content: center; font: 9px sans-serif; color: #555">{}</p>'
)


def chapters():
    "(part or None, page) in reading order."
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text())
    yield None, toc["root"]
    for part in toc["parts"]:
        for chapter in part["chapters"]:
            yield part["caption"], chapter["file"]


def prints(pages):
    """The address that was printed from, for each page its headings and its PDF; last the page
    numbers of them all.
    """
    printed = []
    with served(SITE) as address, chromium() as browser:
        tab = browser.new_page(color_scheme="light", reduced_motion="reduce")
        tab.set_default_timeout(120_000)
        for page in pages:
            tab.goto(f"{address}/{page}.html")
            tab.evaluate(OPEN)
            printed.append(
                (
                    tab.evaluate(TITLES),
                    PdfReader(io.BytesIO(tab.pdf(outline=True, tagged=True, **PAPER))),
                )
            )
        count = sum(len(reader.pages) for _, reader in printed)
        tab.goto("about:blank")
        tab.set_content("".join(NUMBER.format(289, n + 1) for n in range(count)))
        numbers = PdfReader(io.BytesIO(tab.pdf(format="A4", margin=dict(top="0", bottom="0"))))
    return f"{address}/", printed, numbers


def whole(pages, address, printed, numbers):
    """The printed chapters joined; a link to another page of the book leads to that chapter, one to
    any other page of the site is no link.
    """
    book, first, part, above = PdfWriter(), {}, None, None
    for (_, page), (_, chapter) in zip(pages, printed):
        first[page] = len(book.pages)
        book.append(chapter, import_outline=False)
    for sheet, number in zip(book.pages, numbers.pages):
        sheet.merge_page(number)
        sheet.compress_content_streams()  # merging unpacks them
    for (caption, page), (titles, chapter) in zip(pages, printed):
        if caption != part:
            part, above = (
                caption,
                book.add_outline_item(title=caption, page_number=first[page], bold=True),
            )
        item = book.add_outline_item(title=titles[0], page_number=first[page], parent=above)
        for section in entries(
            chapter.outline
        ):  # Chromium runs the lines of a heading together: the page's own text names it
            title = next(
                (title for title in titles[1:] if squeezed(title) in squeezed(section.title)), None
            )
            if title:
                book.add_outline_item(
                    title=title,
                    page_number=first[page] + chapter.get_destination_page_number(section),
                    parent=item,
                )
        for sheet in book.pages[first[page] : first[page] + len(chapter.pages)]:
            for link in sheet.get("/Annots", ()):
                lead(link.get_object(), book, chapter, first, page, address)
    return book


def entries(outline):
    for entry in outline:
        if isinstance(entry, list):
            yield from entries(entry)
        else:
            yield entry


def squeezed(text):
    return "".join(text.split())


def lead(link, book, chapter, first, page, address):
    goal, height = None, None
    if "/Dest" in link:
        if here := chapter.named_destinations.get(
            str(link["/Dest"]).removeprefix("/")
        ) or chapter.named_destinations.get(str(link["/Dest"])):
            goal, height = first[page] + chapter.get_destination_page_number(here), here.get("/Top")
    elif str(uri := link.get("/A", {}).get("/URI", "")).startswith(address):
        goal = first.get(
            unquote(urldefrag(str(uri))[0]).removeprefix(address).removesuffix(".html")
        )
    else:
        return
    for key in ("/A", "/Dest"):
        link.pop(key, None)
    if goal is not None:
        link[NameObject("/Dest")] = ArrayObject(
            [
                book.pages[goal].indirect_reference,
                NameObject("/XYZ"),
                NullObject(),
                NullObject() if height is None else FloatObject(height),
                NullObject(),
            ]
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "pages", nargs="*", help="only these, such as nbs/index; all if none is given"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "_build" / "guided_diffusion_edu.pdf")
    asked = parser.parse_args()
    pages = [(part, page) for part, page in chapters() if not asked.pages or page in asked.pages]
    book = whole(pages, *prints([page for _, page in pages]))
    book.add_metadata({"/Title": settings()["title"], "/Author": settings()["author"]})
    book.write(asked.out)
    print(f"The book as PDF: {asked.out}, {len(book.pages)} pages")


if __name__ == "__main__":
    main()
