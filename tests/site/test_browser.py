"""The built site in a real browser: run by `make check` after `make book`."""

import json
import subprocess
import sys
from pathlib import Path

import axe_playwright_python
import pytest
from pypdf import PdfReader

from browsing import SITE, Reader

AXE = (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text()
RULES = dict(
    runOnly=["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"],
    resultTypes=["violations"],
    preload=False,
)
PAGES = [
    *sorted(
        str(p.relative_to(SITE))
        for p in SITE.rglob("*.html")
        if "_static" not in p.parts and p.parent != SITE / "_modules" and p.name != "index.html"
    ),
    "nbs/index.html",
    "_modules/index.html",
]


def violations(page, contrast=True):
    """Formulas only where they have coloured terms: MathJax's glyphs are thousands, and have no
    other colour than the text.
    """
    left_out = [] if page.locator(".terms").count() else [["mjx-container"]]
    found = page.evaluate(
        "([left_out, rules]) => axe.run({exclude: left_out}, rules)",
        [left_out, RULES | dict(rules={"color-contrast": dict(enabled=contrast)})],
    )["violations"]
    return [
        (rule["id"], node["html"][:120], node["any"][0]["message"] if node["any"] else "")
        for rule in found
        for node in rule["nodes"]
    ]


# formulas that must be scrolled
BEYOND = """[...document.querySelectorAll('div.math')]
  .filter(d => d.scrollWidth > d.clientWidth + 1).map(d => d.id)"""
BOXES = ".cell_input, .cell_input div, .cell_input pre"
WHOLE = f"""() => [...document.querySelectorAll('{BOXES}')].filter(box => {{
  const style = getComputedStyle(box);
  return style.display == 'flex' || style.breakInside == 'avoid' || style.overflowX != 'visible';
}}).length"""


@pytest.mark.parametrize("path", PAGES)
def test_page(reader, path):
    """No violation of WCAG 2.0 to 2.2 A or AA in light or dark, wide or narrow; nothing sideways;
    nothing in the console; nothing from elsewhere; every equation set.
    """
    page = reader.open(path, width=390, height=844)
    wanted = page.locator(".math").count()
    assert (
        page.evaluate("document.querySelectorAll('.math mjx-container').length") >= wanted
        and page.locator("mjx-merror").count() == 0
    )
    assert not page.evaluate(BEYOND), "a formula that does not end where a phone does"
    page.evaluate(AXE)
    # all sources wear one style: contrast, the slow rule, is looked at in one
    coloured = not path.startswith("_modules/") or path.endswith("/schedules.html")
    for theme in ("light", "dark"):
        for width in (1300, 390):
            reader.show(width, theme)
            assert not violations(page, contrast=coloured and width == 1300), (
                f"{theme}, {width} px"
            )  # colours are those of the theme at any width
    for width in (390, 320):
        reader.show(width, "light")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (
            f"the page scrolls sideways at {width} px"
        )
    reader.print()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (
        "too wide for paper: Chromium prints the whole page smaller"
    )
    assert not page.evaluate(WHOLE), (
        "a code box is broken between pages like text, else it leaves an empty box behind"
    )
    assert not reader.complaints


def test_formulas_are_set_anew_when_a_phone_is_turned(browser, site):
    context = browser.new_context(is_mobile=True, has_touch=True)
    reader = Reader(context, site)
    page = reader.open("nbs/guidance/taylor_proof.html", width=844, height=390)
    lines = "document.querySelectorAll('#equation-eq-taylor mjx-linebox').length"
    before = page.evaluate(lines)
    page.set_viewport_size(dict(width=390, height=844))
    page.wait_for_function(f"{lines} > {before}")
    assert not page.evaluate(BEYOND)
    context.close()


@pytest.mark.parametrize("folder", [False, True], ids=["from a server", "from a folder"])
def test_search_finds_a_word(reader, folder):
    page = reader.open("search.html?q=martingale") if not folder else reader.page
    if folder:
        page.goto(f"{(SITE / 'search.html').as_uri()}?q=martingale")
    page.wait_for_selector("#search-results li a")
    assert any(
        "Taylor proof" in text for text in page.locator("#search-results li").all_inner_texts()
    )


def test_a_link_shows_what_it_refers_to(reader):
    "By pointer and by keyboard; Escape takes it away; it stays while it is pointed at."
    page = reader.open("nbs/guidance/score_identity.html")
    preview = page.locator("#preview")
    link = page.locator(
        'a.reference.internal[href="../diffusion/reverse_process.html#equation-eq-mean-from-eps"]'
    ).first
    link.hover()
    preview.locator("mjx-container").first.wait_for()
    assert page.locator("a[aria-describedby=preview]").count() == 1
    preview.hover()
    page.wait_for_timeout(400)
    assert preview.is_visible()
    page.keyboard.press("Escape")
    assert preview.is_hidden()
    page.mouse.move(5, 5)
    link.focus()
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Tab")
    preview.locator("mjx-container").first.wait_for()
    page.evaluate(AXE)
    assert not violations(page)


def test_a_preview_stays_with_the_keyboard(reader):
    """Focus that leaves and is back at once, or a pointer that rests elsewhere, takes nothing away;
    focus that leaves does.
    """
    page = reader.open("nbs/guidance/score_identity.html")
    preview, link = (
        page.locator("#preview"),
        page.locator('.bd-article a[href="taylor_proof.html"].reference').first,
    )
    page.mouse.move(5, 5)
    page.keyboard.press("Tab")
    link.focus()
    preview.wait_for()
    link.evaluate("link => { document.querySelector('.bd-article h1 a').focus(); link.focus(); }")
    page.wait_for_timeout(400)
    assert preview.is_visible()
    page.locator(".bd-article h1").hover()
    page.wait_for_timeout(400)
    assert preview.is_visible()
    page.locator(".bd-article h1 a").focus()
    preview.wait_for(state="hidden")


@pytest.mark.parametrize(
    "selector, words",
    [
        ('a[href*="/bibliography.html#"]', "Dhariwal"),
        ('a[href="#thm-ddim"]', "Same marginals"),
        ('a[href="taylor_proof.html"].reference', "After this chapter"),
    ],
)
def test_citations_theorems_and_chapters_too(reader, selector, words):
    page = reader.open("nbs/guidance/score_identity.html")
    page.locator(f".bd-article :is({selector})").first.hover()
    page.locator("#preview", has_text=words).wait_for()


def test_a_word_of_the_glossary_shows_its_entry_and_no_other(reader):
    page = reader.open("nbs/guidance/score_identity.html")
    page.locator('.bd-article a[href="../reference/glossary.html#term-score"]').first.hover()
    page.locator("#preview", has_text="points to where points are denser").wait_for()
    assert len(page.locator("#preview").inner_text()) < 250


TERMS = json.loads((SITE.parents[1] / "book" / "terms.json").read_text())


@pytest.mark.parametrize("key", TERMS)
def test_a_term_marks_its_line_and_a_line_its_term(reader, key):
    in_samplers = key in ("equation-eq-eps-hat", "alg-ddpm", "alg-ddim")
    page = reader.open(f"nbs/guidance/{'score_identity' if in_samplers else 'taylor_proof'}.html")
    equation, marked = page.locator(f'[id="{key}"]'), page.locator("pre .code-line.marked")
    legend = page.locator(f'[id="{key}"] + .terms button, [id="{key}"] > .terms button')
    assert legend.count() == len(TERMS[key])
    for n, (term, _, line, token) in enumerate(TERMS[key]):
        in_equation = equation.locator(f"mjx-math .term-{term}").first
        in_equation.hover()
        assert (
            line in marked.inner_text()
            and page.locator("pre a.term.marked", has_text=token).count() == 1
        )
        page.mouse.move(5, 5)
        assert marked.count() == 0
        legend.nth(n).focus()
        assert line in marked.inner_text() and "marked" in in_equation.get_attribute("class")
        legend.nth(n).click()
        assert page.evaluate("document.activeElement.closest('.code-line').textContent").startswith(
            line
        )
        assert "marked" in in_equation.get_attribute("class")
        page.evaluate("document.activeElement.blur()")


def test_the_pages_print_as_one_pdf(tmp_path):
    """Two pages of it: an outline with the sections, page numbers, and a link that leads from the
    one to the other.
    """
    out, wanted = (
        tmp_path / "book.pdf",
        ["nbs/guidance/taylor_proof", "nbs/guidance/score_identity"],
    )
    subprocess.run(
        [sys.executable, SITE.parents[1] / "book" / "pdf.py", *wanted, "--out", out],
        check=True,
        timeout=120,
    )
    book = PdfReader(out)
    part, chapters = book.outline
    (first, _, second, sections), count = chapters, len(book.pages)
    assert (
        part.title == "II Guidance"
        and "Taylor proof" in first.title
        and "DDIM" in second.title
        and len(sections) > 8
    )
    start = book.get_destination_page_number(second)
    goals = [
        link.get_object()["/Dest"][0].get_object()
        for page in book.pages[:start]
        for link in page.get("/Annots", ())
        if "/Dest" in link.get_object()
    ]
    assert book.pages[start].get_object() in goals
    assert all(
        page.extract_text().rstrip().endswith(str(n + 1)) for n, page in enumerate(book.pages)
    )

    def squeezed(text):
        return "".join(text.split())

    for chapter, at in ((first, 0), (second, start)):
        assert squeezed(chapter.title) in squeezed(book.pages[at].extract_text())
    assert (
        out.stat().st_size < 100_000 * count
    )  # about 73,000 here; 174,000 where merged pages are left unpacked
