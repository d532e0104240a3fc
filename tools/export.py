"""What `make export` runs: the package is written from the notebooks, by nbdev.

nbdev's own `nbdev_export` adds a cell that goes to another module than its page's (`#| export
MODULE`) to the file as it is, again at each run, and wants the file to be there. Here each module
begins anew, is written by one page, and goes when no page writes it any more.
"""

from pathlib import Path

from nbdev.config import add_init, get_config
from nbdev.doclinks import _build_modidx, nbglob
from nbdev.export import nb_export
from nbdev.maker import ModuleMaker

WRITTEN = {}  # module -> page


class Maker(ModuleMaker):
    "Writes a module from its beginning the first time that a page exports to it."

    def __init__(self, dest, name, nb_path, is_new=True, **options):
        super().__init__(dest, name, nb_path, is_new=name not in WRITTEN, **options)
        if WRITTEN.setdefault(name, nb_path) != nb_path or (is_new and not self.is_new):
            raise SystemExit(f"{nb_path} exports to {name}, which {WRITTEN[name]} has written")


def main():
    for page in nbglob(as_path=True).sorted("name"):
        nb_export(page, mod_maker=Maker)
    package = Path(get_config().lib_path)
    kept = {package / f"{name.replace('.', '/')}.py" for name in WRITTEN}
    for path in package.rglob("*.py"):
        if path not in kept and path.name not in ("__init__.py", "_modidx.py"):
            path.unlink()
    add_init(package)
    _build_modidx()


if __name__ == "__main__":
    main()
