"""Export the notebooks to the package, as `nbdev_export` does, but write every module anew.

`nbdev_export` begins only the module that a page names as its `default_exp`; to a module that a
page exports beside it (`#| export MODULE`) it appends, once more with each run.

python tools/export.py          in the root of the repository
"""

from nbdev.config import add_init, get_config
from nbdev.doclinks import _build_modidx, nbglob
from nbdev.export import nb_export
from nbdev.maker import ModuleMaker


class WholeModules(ModuleMaker):
    "Writes each module from its first line on. A module is exported by one page only."

    def __init__(self, *args, **options):
        super().__init__(*args, **options | dict(is_new=True))


def main():
    for notebook in nbglob(as_path=True).sorted("name"):
        nb_export(notebook, mod_maker=WholeModules)
    add_init(get_config().lib_path)
    _build_modidx()


if __name__ == "__main__":
    main()
