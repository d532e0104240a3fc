from pathlib import Path
import sys

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / 'book' / '_ext'))


@pytest.fixture
def root(): return ROOT
