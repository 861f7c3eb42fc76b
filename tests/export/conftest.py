"""All tests of exports: on one thread, since a small graph is slower on several, and as on any processor."""

import pytest


@pytest.fixture(autouse=True)
def fast(one_thread):
    """See `one_thread`."""


@pytest.fixture(autouse=True)
def all_of_8_bits(monkeypatch):
    """As on a processor with VNNI."""
    monkeypatch.setattr("fisher_detr.export.settings.saturates", lambda: False)
