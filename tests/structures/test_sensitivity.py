import dataclasses

import numpy as np
import pytest

from fisher_detr.structures import SensitivityTable
from tests.structures.rewriting import assert_refused


def test_table_round_trip_is_exact(table, tmp_path):
    path = tmp_path / "new folder" / "sensitivity.json"
    table.save(path)
    loaded = SensitivityTable.load(path)
    for field in dataclasses.fields(SensitivityTable):
        before, after = getattr(table, field.name), getattr(loaded, field.name)
        if field.name in ("terms", "traces", "standard_errors", "linear"):
            assert set(before) == set(after)
            assert all(after[k].dtype == np.float64 and (after[k] == before[k]).all() for k in before)
        else:
            assert before == after, field.name


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"widths": [2, 8, 4]}, "ascending"),
        ({"widths": [2, 4]}, r"shape \(2, 3\), expected \(2, 2\)"),
        ({"widths": [2, 4, 9]}, "2 to 8"),
        ({"widths": 4}, "not iterable"),
        ({"form": "round"}, "round"),
        ({"layers": [{"name": "a"}, {"name": "b"}]}, "numel"),
        ({"layers": [{"name": "a", "numel": "7", "num_scales": 1}]}, "'a' has numel '7'"),
        ({"layers": [{"name": "a", "numel": 7, "num_scales": 1}] * 2}, "named twice"),
        ({"layers": []}, "no layers"),
        ({"terms": {"overall": [[1, 2, 3]]}}, "same names"),
        ({"terms": {}, "traces": {}}, "same names"),
        ({"terms": [1]}, "items"),
        ({"terms": {"overall": [["x"] * 3] * 2}, "traces": {"overall": [1, 1]}}, "could not convert"),
        ({"terms": {"overall": [[None] * 3] * 2}, "traces": {"overall": [1, 1]}}, "not finite"),
        ({"linear": {"overall": [1]}}, "linear 'overall' has shape"),
        ({"terms": {"overall": 10**400}, "traces": {"overall": [1, 1]}}, "too large"),
        ({"meta": None}, "its meta are None"),
    ],
)
def test_broken_tables(table, tmp_path, changes, message):
    assert_refused(table, "sensitivity file", tmp_path / "file.json", changes, message)


def test_a_table_at_some_of_its_widths(table):
    assert table.widths == (2, 4, 8)
    some = table.at_widths([2, 8])
    assert some.widths == (2, 8)
    for field in ("terms", "standard_errors", "linear"):
        for name, values in getattr(table, field).items():
            np.testing.assert_array_equal(getattr(some, field)[name], values[:, [0, 2]])
    np.testing.assert_array_equal(some.traces["overall"], table.traces["overall"])
    with pytest.raises(ValueError, match=r"has the widths \[2, 4, 8\] and lacks \[3, 7\]"):
        table.at_widths((2, 3, 7))


def test_a_table_that_is_not_finite_is_refused(table):
    table.terms["overall"][0, 0] = np.inf
    with pytest.raises(ValueError, match="terms 'overall' is not finite"):
        dataclasses.replace(table)
