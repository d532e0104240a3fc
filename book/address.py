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
    *(str(path.relative_to(ROOT)) for path in sorted((ROOT / "nbs").glob("*.ipynb"))),
]


def rewritten(text, known):
    "`text` with every address of the repository and of the site replaced by that of the settings."
    repo = known["repo"]
    text = re.sub(rf"https://github\.com/[\w.-]+/{repo}", known["git_url"], text)
    text = re.sub(
        rf"(colab\.research\.google\.com/github/)[\w.-]+/{repo}/blob/[\w.-]+",
        rf"\g<1>{known['user']}/{repo}/blob/{known['branch']}",
        text,
    )
    return re.sub(
        rf"https://[\w.-]+\.github\.io/{repo}", known["doc_host"] + known["doc_baseurl"], text
    )


if __name__ == "__main__":
    for name in FILES:
        path = ROOT / name
        path.write_text(rewritten(path.read_text(), settings()))
