"""One thread for all tests of exports: a small graph is slower on several."""

import pytest


@pytest.fixture(autouse=True)
def fast(one_thread):
    """See `one_thread`."""
