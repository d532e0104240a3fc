"""A short, repeatable part of `make fuzz`: damaged files and arbitrary arguments end in documented
errors only.
"""

import pytest

import fuzz


@pytest.mark.parametrize("name", fuzz.READERS)
def test_damaged_files_end_in_documented_errors(name):
    assert fuzz.by_mutation(name, count=100) == 100


@pytest.mark.parametrize("name", fuzz.CALLS)
def test_any_argument_ends_in_a_documented_error(name):
    fuzz.by_hypothesis(name, examples=15)


@pytest.mark.parametrize("name", fuzz.READERS)
def test_what_it_begins_from_is_read(name, tmp_path):
    "A reader that refused everything would pass the other tests."
    for content in fuzz.READERS[name][0]:
        if name in ("released", "PyTorch"):
            continue  # of these some are refused for what they hold
        path = tmp_path / (
            "a.safetensors" if name == "safetensors" else "a.gz" if name == "IDX.gz" else "a"
        )
        path.write_bytes(content)
        fuzz.READERS[name][1](path)
