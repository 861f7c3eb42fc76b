import pytest

from fisher_detr.structures import BitAllocation
from tests.structures.rewriting import assert_refused


def test_allocation_round_trip(allocation, tmp_path):
    allocation.save(tmp_path / "allocation.json")
    assert BitAllocation.load(tmp_path / "allocation.json") == allocation


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"bits": {"a": 9}}, "'a' has width 9: expected 2 to 8"),
        ({"bits": {"a": 3.5}}, "'a' has width 3.5"),
        ({"bits": {"a": True}}, "'a' has width True"),
        ({"bits": [4]}, "of no layers"),
        ({"bits": {}}, "of no layers"),
        ({"size_bytes": 121}, "121 bytes exceeds its budget of 120"),
        ({"size_bytes": "121"}, "'121' bytes, its budget of 120: expected whole numbers"),
        ({"budget_bytes": 1e9}, "expected whole numbers"),
        ({"cost": float("nan")}, "costs nan: expected a finite number, or none"),
        ({"cost": "0.5"}, "costs '0.5'"),
        ({"meta": []}, r"its meta are \[\]: expected values by name"),
    ],
)
def test_broken_allocations(allocation, tmp_path, changes, message):
    assert_refused(allocation, "allocation file", tmp_path / "file.json", changes, message)
