"""What the reader meets beside the text: colour roles in the key equations, a term's line of code,
previews of what a link refers to, the gain of the next page, and markup that reads well aloud.

`book/terms.json` binds the terms of the key equations to the code: for the id of an equation or an
algorithm a list of [term, function, line, token].
"""

import html
import json
import re
import zipfile
from pathlib import Path

from bs4 import BeautifulSoup
from docutils import nodes

from nbdev_book import settings

TERMS = json.loads((Path(__file__).parents[1] / "terms.json").read_text())
COLOURED = ("nbs/guidance/taylor_proof", "nbs/guidance/score_identity")
LOG = r"\\log [pq](?:_\\phi)?\(y\\mid x(?:_t)?\)"
ROLES = [  # role, term, how it is written; the first that fits at a place wins
    ("mean", "guided-mean", r"\\hat\\mu"),
    ("mean", "mean", r"\\mu(?:_\\theta)?"),
    ("variance", "variance", r"\\Sigma(?:_\\theta)?|\\tilde\\beta_t|\\sigma(?:_t)?\^2"),
    ("gradient", "gradient", rf"\\nabla_\{{?x(?:_t)?\}}?{LOG}|(?<![\w\\])g(?![A-Za-z])"),
    ("noise", "guided-noise", r"\\hat\\epsilon"),
    ("noise", "noise", r"\\epsilon(?:_\\theta)?"),
    ("scale", "scale", r"(?<![\w\\{])s(?![A-Za-z])"),
]
TOKEN = re.compile("|".join(f"(?P<r{i}>{pattern})" for i, (_, _, pattern) in enumerate(ROLES)))
ROLE = {term: role for role, term, _ in ROLES}
ROMAN = re.compile(r"(\\text\{[^}]*\}|\\begin\{\w+\}|\\end\{\w+\})")


def coloured(tex):
    "The formula with a class on each term that has a role."

    def marked(match):
        role, term, _ = ROLES[int(match.lastgroup[1:])]
        return rf"{{\class{{role-{role} term-{term}}}{{{match[0]}}}}}"

    return "".join(
        part if ROMAN.fullmatch(part) else TOKEN.sub(marked, part) for part in ROMAN.split(tex)
    )


def colour_equations(app, doctree, page):
    if page not in COLOURED:
        return
    within = [*doctree.findall(lambda n: isinstance(n, nodes.math_block) and n.get("label"))]
    for box in doctree.findall(
        lambda n: "algorithm" in n.get("classes", ()) if isinstance(n, nodes.Element) else False
    ):
        within += box.findall(nodes.math)
    for node in within:
        node.children = [nodes.Text(coloured(node.astext()))]


def note_gain(app, doctree):
    """The first sentence of a page says what its reader can do afterwards: the pages before and
    after show it.
    """
    first = next(
        (n for n in doctree.findall(nodes.paragraph) if n.astext().startswith("After this ")), None
    )
    if first is None:
        return

    def as_html(n):
        return (
            rf'<span class="math notranslate nohighlight">\({html.escape(n.astext())}\)</span>'
            if isinstance(n, nodes.math)
            else html.escape(n.astext())
        )

    app.env.metadata[app.env.docname]["gain"] = "".join(map(as_html, first.children))


def beside(app, page, template, context, doctree):
    for way in ("prev", "next"):
        link = context.get(way)
        name = next(
            (
                d
                for d in app.env.found_docs
                if link and app.builder.get_relative_uri(page, d) == link["link"]
            ),
            None,
        )
        if name:
            link["gain"] = app.env.metadata[name].get("gain", "")
    bound = {key: terms for key, terms in TERMS.items() if f'id="{key}"' in context.get("body", "")}
    if bound:
        data = {
            key: [
                dict(zip(("term", "function", "line", "token"), term), role=ROLE[term[0]])
                for term in terms
            ]
            for key, terms in bound.items()
        }
        context["body"] += f'<script type="application/json" id="terms">{json.dumps(data)}</script>'
    if "doc-biblioentry" in context.get("body", ""):  # a role that screen readers no longer know
        context["body"] = context["body"].replace('role="doc-biblioentry"', 'role="listitem"')


def preview(target):
    "What a link to this element refers to, as HTML without ids and links; or None."
    classes = target.get("class", [])
    if target.name == "dt":
        shown = [target, *target.find_next_sibling("dd").find_all("p", recursive=False, limit=1)]
    elif target.name == "figure" or {"math", "proof", "exercise"} & set(classes):
        shown = [target]
    elif "citation" in classes:
        shown = target.find_all("p")
    else:
        return
    soup = BeautifulSoup("".join(map(str, shown)), "html.parser")
    for extra in soup.select(".headerlink, .viewcode-link"):
        extra.decompose()
    for link in soup.find_all("a"):
        link.unwrap()
    for element in soup.find_all(id=True):
        del element["id"]
    return str(soup)


def write_previews(app, error):
    """_static/previews.js, loaded when a link is first pointed at: {page#id: HTML}.

    A script, so that it works from a folder.
    """
    if error or app.builder.name != "html":
        return
    found = {}
    for page in sorted(app.env.found_docs):
        uri = app.builder.get_target_uri(page)
        article = BeautifulSoup((Path(app.outdir) / uri).read_text(), "html.parser").find("article")
        if not article:
            continue
        if gain := app.env.metadata[page].get("gain"):
            found[uri] = (
                f"<p><strong>{html.escape(app.env.titles[page].astext())}</strong></p><p>{gain}</p>"
            )
        for target in article.find_all(id=True):
            if text := preview(target):
                found[f"{uri}#{target['id']}"] = text
    (Path(app.outdir) / "_static" / "previews.js").write_text(
        f"window.previews = {json.dumps(found, ensure_ascii=False)};\n"
    )


def archive(app, error):
    """The whole site in one file beside its pages, to be read without a network; the archive itself
    is not in it.
    """
    if error or app.builder.name != "html":
        return
    site, out = Path(app.outdir), Path(app.outdir) / f"{settings()['lib_name']}-site.zip"
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as packed:
        for path in sorted(p for p in site.rglob("*") if p.is_file() and p != out):
            packed.write(path, path.relative_to(site))


def setup(app):
    app.connect("doctree-read", note_gain)
    app.connect("doctree-resolved", colour_equations)
    app.connect("html-page-context", beside)
    app.connect("build-finished", write_previews)
    app.connect("build-finished", archive, priority=900)
    return dict(version="1", parallel_read_safe=True, parallel_write_safe=True)
