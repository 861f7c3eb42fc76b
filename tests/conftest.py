"""Fixtures for every room."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Callable[[str], Path]:
    """Path of data that are not in the repository; the test is skipped where they are absent.

    They are looked for in the folder that FISHER_DETR_DATA names, else in `../shared/data`.
    """
    root = Path(os.environ.get("FISHER_DETR_DATA") or REPOSITORY.parent / "shared" / "data")

    def find(name: str) -> Path:
        path = root / name
        if not path.exists():
            pytest.skip(f"{path} is absent: set FISHER_DETR_DATA to the folder that holds {name}")
        return path

    return find


@pytest.fixture
def one_thread():
    """As processes that tests start have: sums over more threads are rounded otherwise."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
