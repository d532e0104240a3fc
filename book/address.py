"Carry the project's address from settings.ini to the files that cannot read it."

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "book" / "_ext"))
from nbdev_book import settings

FILES = [
    "README.md",
    "CITATION.cff",
    "pyproject.toml",
    *(str(path.relative_to(ROOT)) for path in sorted((ROOT / "nbs").rglob("*.ipynb"))),
]


def rewrite(name, text, known):
    """The file `name`'s `text` with every address of the repository and of the site replaced by
    that of the settings; a notebook's badge leads to the notebook.
    """
    repo = known["repo"]
    text = re.sub(rf"https://github\.com/[\w.-]+/{repo}", known["git_url"], text)
    text = re.sub(
        rf"(colab\.research\.google\.com/github/)[\w.-]+/{repo}/blob/[\w.-]+",
        rf"\g<1>{known['user']}/{repo}/blob/{known['branch']}",
        text,
    )
    if name.endswith(".ipynb"):
        text = re.sub(
            rf"(Open in Colab.*?/{repo}/blob/[\w.-]+/)[\w./-]+", rf"\g<1>{name}", text, count=1
        )
    return re.sub(
        rf"https://[\w.-]+\.github\.io/{repo}", known["doc_host"] + known["doc_baseurl"], text
    )


if __name__ == "__main__":
    for name in FILES:
        path = ROOT / name
        text = path.read_text()
        new = rewrite(name, text, settings())
        if new != text:
            path.write_text(new)
