"""The tables of bad input, all chapters together: long enough, no row twice, no public function
left out.
"""

import importlib.util
import re
from pathlib import Path

import guided_diffusion_edu as gde

FILES = sorted(Path(__file__).parents[1].glob("*/test_*_bad_input.py"))


def tables(name):
    "The rows of every table of this name."
    rows = []
    for path in FILES:
        spec = importlib.util.spec_from_file_location(f"read_{path.stem}", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        rows += getattr(module, name, [])
    return rows


def test_the_tables_are_long_enough():
    table, files, commands, writers = map(tables, ("TABLE", "FILES", "COMMANDS", "WRITERS"))
    assert len(table) >= 150 and len(table) + len(files) + len(commands) + 4 * len(writers) >= 400
    assert len({what for what, _, _ in table}) == len(table)


# Public names without a case of their own. Arithmetic on what they are given, numbers or tensors:
# their only errors are torch's.
FORMULAS = {"eps_from_v", "eps_from_x_0", "replace_known", "x_0_from_eps"}
# What they are made of is tried above, or they take nothing that could be wrong.
FORMULAS |= {"Pretrained", "available_weights", "eps_model", "rescaled_model", "three_modes"}


def test_no_public_function_is_left_out():
    used = "".join(
        path.read_text() for path in [*FILES, Path(__file__).parents[1] / "bad_input.py"]
    )
    public = {
        name for name in vars(gde) if not name.startswith("_") and callable(getattr(gde, name))
    }
    left_out = {name for name in public if not re.search(rf"\bgde\.{name}\b", used)}
    assert left_out == FORMULAS, left_out ^ FORMULAS
