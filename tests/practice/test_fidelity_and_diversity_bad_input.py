"""What the page "fidelity and diversity" refuses, and how it says so."""

import pytest

import guided_diffusion_edu as gde
from bad_input import cases, file_is_refused, is_refused, written
from guided_diffusion_edu import tradeoff

TABLE = [  # (what, said, call)
    (
        "trade_off of unknown weights",
        "weights must be one of",
        lambda: gde.trade_off("lion", "/nowhere/out.json"),
    ),
]


@cases(TABLE)
def test_it_is_refused_in_one_line(said, call):
    is_refused(said, call)


FILES = [  # (what, said, what is done with the path)
    (
        "a record of measurements that is none",
        "out must be a new file or a record of such a run",
        lambda p: tradeoff.resume_record(written(p, b'{"rows"'), {}),
    ),
]


@cases(FILES)
@pytest.mark.filterwarnings("ignore")
def test_a_bad_file_is_refused_in_one_line_and_runs_nothing(tmp_path, said, call):
    file_is_refused(tmp_path, said, call)
