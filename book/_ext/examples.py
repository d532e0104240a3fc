"""On the API page: labels of equations in docstrings become links, and below each public name
stands an example, from book/examples.txt; tests/book/test_examples.py runs those.
"""

import re

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

from nbdev_book import ROOT, settings

# a label with the word that the link brings along: "Equation: `eq-x`" becomes "Eq. (3.1)"
LABEL = re.compile(r"(?:\b(?:Eqs?\.|Equations?:)\s+)?`(eq-[a-z0-9-]+)`")
PATH = ROOT / "book" / "examples.txt"


def examples():
    "{name: example}, and under 'start' what all of them start from."
    _name, *rest = re.split(r"^# (\w+)\n", PATH.read_text(), flags=re.M)
    return {name: text.strip() for name, text in zip(rest[::2], rest[1::2])}


def link(app, what, name, obj, options, lines):
    """Docstrings name equations by their labels, as `help()` shows them; here each is a link with
    its number.
    """
    lines[:] = LABEL.sub(r":eq:`\1`", "\n".join(lines)).split("\n")


def append(app, what, name, obj, options, lines):
    "Public names of the package get their example."
    app.env.note_dependency(str(PATH))
    package, _, module_and_name = name.partition(".")
    _module, _, short = module_and_name.partition(".")
    if package == settings()["lib_name"] and short in known:
        lines += ["", "For example:", "", *known[short].splitlines(), ""]


class Start(SphinxDirective):
    "What all examples start from."

    def run(self):
        self.env.note_dependency(str(PATH))
        return [nodes.doctest_block(known["start"], known["start"], language="pycon")]


known = examples()


def setup(app):
    app.add_directive("example-start", Start)
    app.connect("autodoc-process-docstring", link)
    app.connect("autodoc-process-docstring", append, priority=900)  # after napoleon
    return dict(version="1", parallel_read_safe=True, parallel_write_safe=True)
