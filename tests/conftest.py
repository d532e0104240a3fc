from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytest.register_assert_rewrite("bad_input", "helpers", "training_runs")


def pytest_sessionstart(session):
    import torch

    torch.cuda.is_available()  # devices are counted once a process: before a test hides them


def pytest_runtest_setup(item):
    import torch

    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("no GPU")


@pytest.fixture(autouse=True)
def on_the_processor(request, monkeypatch):
    """Whatever the machine has, a test is of the CPU, where the last bit is the same in each run,
    and so are its subprocesses; but not one marked `gpu`. (Fixtures of a module are made before.)
    """
    if request.node.get_closest_marker("gpu"):
        return
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


@pytest.fixture
def root():
    return ROOT
