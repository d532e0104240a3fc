"""An example below the docstring of every public name on the API page; they stand in book/examples.txt, and tests/test_examples.py runs them."""
import re

from docutils import nodes
from nbdev_book import ROOT, settings
from sphinx.util.docutils import SphinxDirective

PATH = ROOT / 'book' / 'examples.txt'


def examples():
    "{name: example}, and under 'start' what all of them start from."
    name, *rest = re.split(r'^# (\w+)\n', PATH.read_text(), flags=re.M)
    return {name: text.strip() for name, text in zip(rest[::2], rest[1::2])}


def append(app, what, name, obj, options, lines):
    "Public names of the package get their example."
    app.env.note_dependency(str(PATH))
    package, _, module_and_name = name.partition('.')
    module, _, short = module_and_name.partition('.')
    if package == settings()['lib_name'] and short in known: lines += ['', 'For example:', '', *known[short].splitlines(), '']


class Start(SphinxDirective):
    "What all examples start from."
    def run(self):
        self.env.note_dependency(str(PATH))
        return [nodes.doctest_block(known['start'], known['start'], language='pycon')]


known = examples()


def setup(app):
    app.add_directive('example-start', Start)
    app.connect('autodoc-process-docstring', append, priority=900)  # after napoleon
    return dict(version='1', parallel_read_safe=True, parallel_write_safe=True)
