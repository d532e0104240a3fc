"""What the build measures: a line under each notebook's title with its running time, and a page
with all of them.

Time and date are those of the execution that a page shows, be it of this build or kept from an
earlier one of the same code; `nb_metadata` of MyST-NB has them. That the executed cells fetch
nothing is held by tests/book/test_notebooks.py, which runs each page with the network out of reach.
"""

import platform
from datetime import UTC, datetime
from importlib.metadata import version

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.util.docutils import SphinxDirective

from nbdev_book import settings

PAGE = "nbs/reference/status"
SHOWN = [
    "torch",
    "torchvision",
    "numpy",
    "matplotlib",
    "safetensors",
    "scikit-learn",
    "jupyter-book",
    "myst-nb",
    "Sphinx",
]
CORES = "one CPU core"  # tools/pages.py gives each page one thread


def execution(env, page):
    "Running time and date of a page's execution, or None where nothing ran."
    return env.nb_metadata.get(page, {}).get("exec_data")


def not_run(document):
    return sum(
        "tag_skip-execution" in node["classes"] for node in document.findall(nodes.container)
    )


def seconds(data):
    return f"{max(1, round(data['runtime']))} s"


def add_line(app, document):
    "Under the title: seconds, megabytes, cells that were left out."
    env, page = app.env, app.env.docname
    env.not_run = getattr(env, "not_run", {}) | {page: not_run(document)}
    data, title = execution(env, page), next(document.findall(nodes.title), None)
    if not data or page == app.config.root_doc:
        return
    left_out = env.not_run[page]
    parts = [f"Runs in {seconds(data)} on {CORES}", "fetches 0 MB"] + (
        [f"{left_out} cell{'s' * (left_out > 1)} for a GPU not run here"] if left_out else []
    )
    line = nodes.paragraph("", " · ".join(parts) + " · ", classes=["measured"])
    line += pending_xref(
        "",
        nodes.inline("", "all pages"),
        refdomain="std",
        reftype="doc",
        reftarget=f"/{PAGE}",
        refdoc=page,
        refexplicit=True,
        refwarn=True,
    )
    title.parent.insert(title.parent.index(title) + 1, line)


class StatusTable(nodes.General, nodes.Element):
    "Stands for the table until all pages have been read."


class Status(SphinxDirective):
    def run(self):
        return [StatusTable()]


def row(cells):
    return nodes.row(
        "",
        *(
            nodes.entry(
                "",
                nodes.paragraph("", "", cell if isinstance(cell, nodes.Node) else nodes.Text(cell)),
            )
            for cell in cells
        ),
    )


def table(head, rows, widths, kind):
    columns = [nodes.colspec(colwidth=width) for width in widths]
    group = nodes.tgroup(
        "", *columns, nodes.thead("", row(head)), nodes.tbody("", *map(row, rows)), cols=len(head)
    )
    return nodes.table("", group, classes=["colwidths-given", kind])


def link(app, here, page):
    return nodes.reference(
        "",
        app.env.titles[page].astext(),
        refuri=app.builder.get_relative_uri(here, page),
        internal=True,
    )


def in_order(env):
    "All pages in the order of the contents."
    found = [env.config.root_doc]
    for page in found:
        found += [child for child in env.toctree_includes.get(page, []) if child not in found]
    return found


def fill(app, document, here):
    for node in list(document.findall(StatusTable)):
        runs = [(page, data) for page in in_order(app.env) if (data := execution(app.env, page))]

        def day(data):
            return datetime.fromtimestamp(data["mtime"], UTC).strftime("%Y-%m-%d %H:%M")

        rows = [
            [
                link(app, here, page),
                seconds(data),
                "0 MB",
                str(app.env.not_run[page] or ""),
                day(data),
            ]
            for page, data in runs
        ]
        total = sum(data["runtime"] for _, data in runs)
        known = settings()
        lines = [
            f"{len(runs)} notebooks, {total / 60:.1f} minutes in all, on {CORES} "
            f"({platform.system()}, {platform.machine()}); "
            f"site made {datetime.now(UTC):%Y-%m-%d %H:%M} (UTC).",
            f"{known['lib_name']} {known['version']}, Python {platform.python_version()}, "
            + ", ".join(f"{name} {version(name)}" for name in SHOWN)
            + ".",
        ]
        node.replace_self(
            [
                *(nodes.paragraph("", line) for line in lines),
                table(
                    ["Page", "Time", "Fetched", "Cells not run", "Executed (UTC)"],
                    rows,
                    [46, 10, 10, 14, 20],
                    "status",
                ),
            ]
        )


def setup(app):
    app.add_node(StatusTable)
    app.add_directive("status", Status)
    app.connect("doctree-read", add_line)
    app.connect("env-updated", lambda app, env: [PAGE])
    app.connect("doctree-resolved", fill)
    return dict(version="1", parallel_read_safe=False, parallel_write_safe=True)
