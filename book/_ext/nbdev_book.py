"""Read nbdev notebooks for the book: `#|` directives become MyST-NB cell tags and metadata,
exported cells get a label.

The address of the project comes from settings.ini, the one place where it stands.
"""

import ast
import configparser
import hashlib
import re
from pathlib import Path

import nbformat
import yaml

ROOT = Path(__file__).parents[2]
BADGE = re.compile(r"\[!\[[^\]]*\]\([^)]*\)\]\([^)]*\)\s+")
LINE = re.compile(r"^\s*#\s*\|\s*([\w-]+)\s*:?\s*(.*?)\s*$")
CONTINUED = re.compile(r"^#\|\s{3,}(.*?)\s*$")
TAGS = {
    "hide": "remove-cell",
    "default_exp": "remove-cell",
    "eval=false": "skip-execution",
    "slow": "skip-execution",
    "plot": "plot",
    "checker": "hide-input",
    "code-fold": "hide-input",
    "solution": "hide-cell",
}


def settings():
    parser = configparser.ConfigParser()
    parser.read(ROOT / "settings.ini")
    return parser["DEFAULT"]


def _has_cuda():
    import torch

    return torch.cuda.is_available()


def _directives(cell):
    """Take the directive lines off the head of a code cell; a text that goes on, as captions do,
    is set in by three spaces.
    """
    lines, texts = cell.source.splitlines(keepends=True), []
    while lines and (m := CONTINUED.match(lines[0]) or LINE.match(lines[0])):
        if m.re is CONTINUED:
            texts[-1][1] += " " + m[1]
        else:
            texts.append([m[1], m[2]])
        lines.pop(0)
    cell.source = "".join(lines)
    return {name: yaml.safe_load(text) if text.startswith('"') else text for name, text in texts}


def _public_names(source):
    return [
        n.name
        for n in ast.parse(source).body
        if isinstance(n, (ast.FunctionDef, ast.ClassDef)) and not n.name.startswith("_")
    ]


def _export_label(source, module):
    names = " ".join(f"{{py:obj}}`{n} <{module}.{n}>`" for n in _public_names(source))
    return nbformat.v4.new_markdown_cell(
        f"```{{container}} nbdev-export\nexported to {{py:mod}}`{module}` {names}\n```"
    )


def read(text):
    "A notebook as MyST-NB wants it."
    nb, cells, module = nbformat.reads(text, as_version=4), [], None
    package = settings()["lib_name"]
    # on the site the theme has a button, and no picture comes from elsewhere
    nb.cells[0].source = BADGE.sub("", nb.cells[0].source, count=1)
    for cell in nb.cells:
        if cell.cell_type == "code":
            found = _directives(cell)
            module = found.get("default_exp") or module
            tags = cell.metadata.setdefault("tags", [])
            tags += [
                tag
                for key, value in found.items()
                if (tag := TAGS.get(key) or TAGS.get(f"{key}={value}"))
            ]
            if "cuda" in found and not _has_cuda():
                tags.append("skip-execution")
            figure = {
                key: found[name]
                for key, name in dict(name="label", caption="fig-cap").items()
                if name in found
            }
            if figure:
                cell.metadata["mystnb"] = dict(
                    figure=figure, image=dict(alt=found.get("fig-alt", ""))
                )
            to = found.get("export", "__init__") or module
            if to not in ("__init__", "__main__"):
                cells.append(_export_label(cell.source, f"{package}.{to}"))
                tags.append("nbdev-exported")
        cells.append(cell)
    if any(
        c.cell_type == "code" for c in cells
    ):  # the execution cache is keyed on code: make the package part of it
        sha = hashlib.sha256(
            b"".join(
                p.read_bytes()
                for folder in (ROOT / package, ROOT / "results")
                for p in sorted(folder.rglob("*"))
                if p.suffix in (".py", ".json", ".safetensors")
            )
        ).hexdigest()[:12]
        cells.insert(
            0, nbformat.v4.new_code_cell(f"# package {sha}", metadata=dict(tags=["remove-cell"]))
        )
    nb.cells = cells
    return nb


def address(app, config):
    "Repository, launch buttons and base URL from settings.ini."
    known = settings()
    config.html_baseurl = known["doc_host"] + known["doc_baseurl"]
    config.html_theme_options |= dict(
        repository_url=known["git_url"], repository_branch=known["branch"]
    )


def no_thebe(app, page, template, context, doctree):
    """sphinx-thebe registers its script twice, which throws in the reader's console; the book does
    not use it.
    """
    for key in ("script_files", "css_files"):
        context[key] = [
            f
            for f in context.get(key, [])
            if "thebe"
            not in (str(getattr(f, "filename", f)) + str(getattr(f, "attributes", {}))).lower()
        ]


def setup(app):
    app.connect("config-inited", address)
    app.connect("html-page-context", no_thebe, priority=900)
    return dict(version="1", parallel_read_safe=True, parallel_write_safe=True)
