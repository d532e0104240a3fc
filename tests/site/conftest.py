"""The built site in a real browser."""

import pytest

import chromium
from browsing import SITE, Reader


@pytest.fixture(scope="session")
def site():
    with chromium.served(SITE) as address:
        yield address


@pytest.fixture(scope="session")
def browser():
    with chromium.chromium() as running:
        yield running


@pytest.fixture(scope="module")
def reader(browser, site):
    context = browser.new_context(reduced_motion="reduce")
    yield Reader(context, site)
    context.close()
