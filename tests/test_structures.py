import dataclasses
import json

import numpy as np
import pytest

from fisher_detr.structures import (
    BitAllocation,
    CategorySet,
    LayerInfo,
    QuantSpec,
    SensitivityForm,
    SensitivityTable,
    check_widths,
)


@pytest.fixture
def table():
    rng = np.random.default_rng(0)
    layers = (LayerInfo("backbone.conv1", 27, 3), LayerInfo("encoder.linear", 64, 8))
    terms = {name: rng.normal(size=(2, 3)) * 1e-17 for name in ("overall", "cross", "critical")}
    return SensitivityTable(
        layers=layers,
        widths=(2, 4, 8),
        terms=terms,
        traces={name: rng.normal(size=2) for name in terms},
        form=SensitivityForm.BLOCK,
        standard_errors={"overall": rng.random((2, 3))},
        linear={"critical": rng.random((2, 3))},
        meta={"image_ids": [3, 5], "seed": 0, "critical": None},
    )


@pytest.fixture
def allocation():
    return BitAllocation({"b": 3, "a": 8}, 100, 120, cost=1e-30, meta={"arm": "fisher_critical", "gap": 0.0})


def rewrite(path, **changes):
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, **changes}))


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


def test_allocation_round_trip(allocation, tmp_path):
    allocation.save(tmp_path / "allocation.json")
    assert BitAllocation.load(tmp_path / "allocation.json") == allocation


def test_saving_again_gives_the_same_bytes(table, allocation, tmp_path):
    for content in (table, allocation):
        content.save(tmp_path / "first")
        type(content).load(tmp_path / "first").save(tmp_path / "second")
        assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()


@pytest.mark.parametrize("cls", [SensitivityTable, BitAllocation])
def test_files_that_are_none(cls, table, allocation, tmp_path):
    path = tmp_path / "file.json"
    with pytest.raises(FileNotFoundError, match="does not exist"):
        cls.load(path)
    path.write_text('{"bits": ')
    with pytest.raises(ValueError, match="not valid JSON"):
        cls.load(path)
    path.write_text("[1]")
    with pytest.raises(ValueError, match=f"is no {cls.__name__}: it has \\['list'\\]"):
        cls.load(path)
    (allocation if cls is SensitivityTable else table).save(path)
    with pytest.raises(ValueError, match=f"is no {cls.__name__}"):
        cls.load(path)


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
    path = tmp_path / "sensitivity.json"
    table.save(path)
    rewrite(path, **changes)
    with pytest.raises(ValueError, match=f"sensitivity file {path} is broken .*{message}"):
        SensitivityTable.load(path)


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
    path = tmp_path / "allocation.json"
    allocation.save(path)
    rewrite(path, **changes)
    with pytest.raises(ValueError, match=f"allocation file {path} is broken .*{message}"):
        BitAllocation.load(path)


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


def test_size_counts_packed_bits_and_scales():
    # 27 weights x 3 bits = 81 bits, 10.125 bytes, so 11; 3 scales of 4 bytes.
    assert LayerInfo("a", 27, 3).size_bytes(3) == 11 + 12
    assert LayerInfo("a", 27, 3).size_bytes(8) == 27 + 12


def test_category_set():
    assert CategorySet("person", (1, 3), 5).others == (0, 2, 4)
    assert CategorySet("all", (0, 1), 2).others == ()
    assert len(CategorySet("all", (0, 1), 2)) == 2
    for name, indices in (("a-b", (0,)), ("", (0,)), ("a", ()), ("a", (1, 0)), ("a", (0, 0)), ("a", (2,))):
        with pytest.raises(ValueError, match="category set"):
            CategorySet(name, indices, 2)


def test_quant_spec_levels():
    # 3 bits: symmetric -3..3, affine 0..7.
    assert (QuantSpec(3).qmin, QuantSpec(3).qmax) == (-3, 3)
    assert (QuantSpec(3, symmetric=False).qmin, QuantSpec(3, symmetric=False).qmax) == (0, 7)
    for bits in (1, 9):
        with pytest.raises(ValueError, match="expected 2 to 8"):
            QuantSpec(bits)


def test_widths():
    check_widths((2, 8))
    for widths in ((), (2, 2), (3, 2), (1,), (9,), (2.0,)):
        with pytest.raises(ValueError, match="ascending whole numbers"):
            check_widths(widths)
