"""Every public name has an example on the API page, and each example gives what it says."""

import doctest
from functools import lru_cache

import matplotlib
import pytest
import torch

import guided_diffusion_edu as gde
from examples import examples

matplotlib.use("agg")
EXAMPLES = examples()
PUBLIC = [name for name in dir(gde) if not name.startswith("_") and callable(getattr(gde, name))]
PARSER = doctest.DocTestParser()
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@lru_cache
def start():
    return run("start", {})


def run(name, names):
    "The names after the example; fails with what doctest says of it."
    test, said = PARSER.get_doctest(EXAMPLES[name], names, name, "examples.txt", 0), []
    failed = (
        doctest.DocTestRunner(optionflags=FLAGS, verbose=False)
        .run(test, out=said.append, clear_globs=False)
        .failed
    )
    assert not failed, "".join(said)
    return test.globs


def test_every_public_name_has_an_example():
    assert {*EXAMPLES} == {"start", *PUBLIC}


@pytest.mark.parametrize("name", sorted({*EXAMPLES} - {"start"}))
def test_example(name, tmp_path):
    "It uses the name, shows or asserts something, is short, and is true."
    parts = PARSER.get_examples(EXAMPLES[name])
    source = "".join(part.source for part in parts)
    assert f"gde.{name}" in source and len(parts) <= 7
    assert any(part.want for part in parts) or "assert" in source
    torch.manual_seed(0)
    run(name, start() | dict(folder=str(tmp_path)))
