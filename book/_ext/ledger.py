"""The proof ledger: for each labelled equation its page, source, symbols in the code, and its two
tests with their results.

Labels are read from the notebooks in reading order, symbols and sources from the docstrings of the
package (a paragraph that ends with "Equation: `eq-label`; Author year, Eq. n."), tests by name from
tests/<part>/test_<page>_symbolic.py and test_<page>_numeric.py. An entry that lacks one of these,
or whose test did not pass, is a warning, and the book is built with warnings as errors.
"""

import ast
import hashlib
import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

import nbformat
import yaml
from docutils import nodes
from docutils.statemachine import StringList
from sphinx.util.docutils import SphinxDirective
from sphinx.util.logging import getLogger

from nbdev_book import ROOT, settings

KINDS = ("symbolic", "numeric")
LABEL = re.compile(r"^\$\$ \((eq-[\w-]+)\)", re.M)
CITATION = re.compile(r"\b(?:Eqs?\.|Equations?:) (`eq-.*)$")
GROUP = re.compile(r"(`eq-[\w-]+`(?:, `eq-[\w-]+`)*)(?:; ([^`].*?))?[.;]?(?: (?=`eq-)|$)")


@dataclass
class Entry:
    label: str
    page: str
    source: str = "this book"
    symbols: list = field(default_factory=list)
    tests: dict = field(default_factory=dict)  # kind -> (file's stem, name of the test)

    def missing(self):
        return [kind for kind in KINDS if kind not in self.tests] + (
            [] if self.symbols else ["symbol in the code"]
        )


def docname(path):
    "A page's name in Sphinx: nbs/guidance/taylor_proof."
    return str(path.relative_to(ROOT).with_suffix(""))


def pages():
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text())
    return [ROOT / f"{c['file']}.ipynb" for part in toc["parts"] for c in part["chapters"]]


def labels():
    "(label, page) of every labelled equation, in reading order."
    for page in filter(Path.exists, pages()):
        for cell in nbformat.read(page, 4).cells:
            if cell.cell_type == "markdown":
                for label in LABEL.findall(cell.source):
                    yield label, docname(page)


def docstrings(tree, prefix):
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield f"{prefix}.{node.name}", ast.get_docstring(node) or ""
            yield from docstrings(node, f"{prefix}.{node.name}")


def cited(text):
    "(label, source or None) for every equation that a docstring cites."
    for paragraph in re.split(r"\n\s*\n", text):
        if found := CITATION.search(" ".join(paragraph.split())):
            for group in GROUP.finditer(found[1]):
                for label in re.findall(r"`(eq-[\w-]+)`", group[1]):
                    yield label, group[2]


def citations():
    "(label, symbol, source or None) for every equation that a docstring of the package names."
    for path in sources():
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for symbol, text in docstrings(ast.parse(path.read_text()), module):
            for label, source in cited(text):
                yield label, symbol, source


def sources():
    "The modules of the package, those in folders included."
    return sorted((ROOT / settings()["lib_name"]).rglob("*.py"))


def test_files(kind):
    return sorted((ROOT / "tests").glob(f"*/test_*_{kind}.py"))


def test_names(path):
    return [
        node.name
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_eq_")
    ]


def entries():
    "The ledger without results, by label."
    ledger = {label: Entry(label, page) for label, page in labels()}
    for label, symbol, source in citations():
        ledger[label].symbols.append(symbol)
        if source and ledger[label].source == "this book":
            ledger[label].source = source
    for kind in KINDS:
        for path in test_files(kind):
            for name in test_names(path):
                label = name.removeprefix("test_").replace("_", "-")
                ledger[label].tests[kind] = (path.stem, name)
    return ledger


def inputs():
    return [*sorted((ROOT / "tests").glob("*.py")), *map(Path, tested()), *sources()]


def tested():
    return [str(path) for kind in KINDS for path in test_files(kind)]


def results():
    """{(file, test): 'passed', 'failed' or 'skipped'} of a run of all these files, kept in _build
    until the tests or the package change.
    """
    sha = hashlib.sha256(b"".join(path.read_bytes() for path in inputs())).hexdigest()[:16]
    report = ROOT / "_build" / f"ledger-{sha}.xml"
    if not report.exists():
        report.parent.mkdir(exist_ok=True)
        partial = report.with_suffix(".part")
        subprocess.run(
            [
                sys.executable,
                "-m",
                "pytest",
                "-q",
                "-p",
                "no:cacheprovider",
                f"--junitxml={partial}",
                *tested(),
            ],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
        )
        os.replace(partial, report)

    def outcome(case):
        return {"failure": "failed", "error": "failed", "skipped": "skipped"}.get(
            next((child.tag for child in case), ""), "passed"
        )

    return {
        (case.get("classname").split(".")[-1], case.get("name")): outcome(case)
        for case in ElementTree.parse(report).iter("testcase")
    }


class ProofLedger(SphinxDirective):
    def run(self):
        for path in [Path(__file__), *inputs(), *filter(Path.exists, pages())]:
            self.env.note_dependency(str(path))
        outcomes, lines = (
            results(),
            [
                "```{list-table}",
                ":header-rows: 1",
                ":class: proof-ledger",
                ":widths: 20 18 18 24 10 10",
                "",
            ],
        )
        lines += [
            "* - Equation",
            "  - Page",
            "  - Source",
            "  - In the code",
            "  - Symbolic",
            "  - Numeric",
        ]
        ledger = entries()
        for entry in ledger.values():
            seen = {kind: outcomes.get(test, "not run") for kind, test in entry.tests.items()}
            bad = entry.missing() + [
                f"{kind} test {outcome}" for kind, outcome in seen.items() if outcome != "passed"
            ]
            if bad:
                getLogger(__name__).warning(
                    "proof ledger: %s: %s",
                    entry.label,
                    ", ".join(bad),
                    location=self.get_location(),
                )
            symbols = ", ".join(
                f"{{py:obj}}`{symbol.split('.', 1)[1]} <{symbol}>`" for symbol in entry.symbols
            )
            lines += [
                f"* - {{eq}}`{entry.label}` `{entry.label}`",
                f"  - {{doc}}`/{entry.page}`",
                f"  - {entry.source}",
                f"  - {symbols}",
                *(f"  - {seen.get(kind, 'none')}" for kind in KINDS),
            ]
        node = nodes.container()
        self.state.nested_parse(
            StringList(
                [f"{len(ledger)} equations, {2 * len(ledger)} tests.", "", *lines, "```"],
                self.get_source_info()[0],
            ),
            self.content_offset,
            node,
        )
        return node.children


def setup(app):
    app.add_directive("proof-ledger", ProofLedger)
    return dict(version="1", parallel_read_safe=True, parallel_write_safe=True)
