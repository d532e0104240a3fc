"""For teachers: the objectives of all chapters, read from the notebooks, and the figures of all
pages, copied to `figures/` under the names of their labels.
"""

import re
import shutil
from pathlib import Path

import nbformat
from docutils import nodes
from docutils.statemachine import StringList
from sphinx.util.docutils import SphinxDirective

from ledger import docname, pages
from measured import in_order, link, table

OBJECTIVES = re.compile(r":::\{admonition\} Objectives\n:class: tip\n(.*?)\n:::", re.S)
GRADE = re.compile(r"^:::\{exercise\} .*\((check|derive|build)\)$", re.M)
PAGE = "nbs/reference/teaching"


def cells(path):
    return [cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == "markdown"]


def objectives(path):
    "The list in a chapter's first cell, and how many exercises of each grade the chapter has."
    found = next(filter(None, map(OBJECTIVES.search, cells(path))), None)
    grades = GRADE.findall("\n".join(cells(path)))
    return found and (
        found[1],
        {grade: grades.count(grade) for grade in ("check", "derive", "build") if grade in grades},
    )


class Objectives(SphinxDirective):
    def run(self):
        lines = []
        for path in filter(Path.exists, pages()):
            self.env.note_dependency(str(path))
            if found := objectives(path):
                count = ", ".join(f"{n} to {grade}" for grade, n in found[1].items())
                lines += [
                    f"**{{doc}}`/{docname(path)}`** (exercises: {count})",
                    "",
                    *found[0].splitlines(),
                    "",
                ]
        node = nodes.container(classes=["objectives"])
        self.state.nested_parse(
            StringList(lines, self.get_source_info()[0]), self.content_offset, node
        )
        return [node]


class FigureList(nodes.General, nodes.Element):
    "Stands for the list of figures until all pages have been read."


class Figures(SphinxDirective):
    def run(self):
        return [FigureList()]


def remember(app, document):
    """(label, caption, file) of each figure of a page that was read, kept with what Sphinx knows of
    the pages.
    """
    env, found = app.env, []
    for figure in document.findall(nodes.figure):
        image, caption = (
            next(figure.findall(nodes.image), None),
            next(figure.findall(nodes.caption), None),
        )
        if image is not None and caption is not None and figure["ids"]:
            found.append((figure["ids"][0], caption.astext(), image["uri"]))
    env.book_figures = getattr(env, "book_figures", {}) | {env.docname: found}


def figures(env):
    "(page, label, number, caption, file) of each figure, in reading order."
    for page in in_order(env):
        for label, caption, uri in env.book_figures.get(page, []):
            number = env.toc_fignumbers.get(page, {}).get("figure", {}).get(label, ())
            yield page, label, ".".join(map(str, number)), caption, Path(env.srcdir) / uri


def name(label, file):
    return label.removeprefix("fig-") + file.suffix


def fill(app, document, here):
    for node in list(document.findall(FigureList)):
        rows = []
        for page, label, number, caption, file in figures(app.env):
            get = nodes.reference("", name(label, file), refuri=to_figures(here, name(label, file)))
            place = nodes.reference(
                "",
                f"Fig. {number}" if number else link(app, here, page).astext(),
                refuri=f"{app.builder.get_relative_uri(here, page)}#{label}",
                internal=True,
            )
            rows.append([place, caption.split(". ")[0].rstrip(".") + ".", get])
        node.replace_self(
            [table(["Figure", "What it shows", "File"], rows, [14, 60, 26], "figures")]
        )


def to_figures(here, file):
    "The way from a page to a file in figures/, which is no page."
    return "../" * here.count("/") + f"figures/{file}"


def archive(role, rawtext, text, lineno, inliner, options=None, content=None):
    here = inliner.document.settings.env.docname
    return [nodes.reference(rawtext, text, refuri=to_figures(here, "all.zip"))], []


def collect(app, error):
    "Copy each figure under its label's name, and all of them into one archive."
    if error or app.builder.name != "html":
        return
    folder = Path(app.outdir) / "figures"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for _, label, _, _, file in figures(app.env):
        shutil.copy(file, folder / name(label, file))
    shutil.move(
        shutil.make_archive(str(folder.with_name("all-figures")), "zip", folder), folder / "all.zip"
    )


def setup(app):
    app.add_node(FigureList)
    app.add_directive("objectives", Objectives)
    app.add_directive("figure-list", Figures)
    app.add_role("figure-archive", archive)
    app.connect("doctree-read", remember)
    app.connect("env-updated", lambda app, env: [PAGE])
    app.connect("doctree-resolved", fill)
    app.connect("build-finished", collect)
    return dict(version="2", env_version=2, parallel_read_safe=False, parallel_write_safe=True)
