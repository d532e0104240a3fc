from pathlib import Path
import sys

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / 'book' / '_ext'))


def pytest_runtest_setup(item):
    import torch
    if item.get_closest_marker('gpu') and not torch.cuda.is_available(): pytest.skip('no GPU')


@pytest.fixture
def root(): return ROOT
