"""The benchmark of scaling: a point is measured, and exponents are those of powers."""

import pytest

from benchmarks import bench_scaling
from benchmarks.bench_scaling import AXES, Point
from fisher_detr.model_zoo.study import Table


def test_a_point_is_measured():
    few = Point(size=64, queries=5, layers=1, images=2)
    found = bench_scaling.measure(few)
    assert found["seconds"] > 0 and found["peak_bytes"] > 2**28


def test_exponents_are_those_of_powers():
    assert bench_scaling.slope([2, 4, 8], [3.0, 12.0, 48.0]) == pytest.approx(2.0)
    assert bench_scaling.slope([1, 10], [5.0, 5.0]) == pytest.approx(0.0)


def test_tables():
    points = {point for axis in AXES.values() for point in axis}
    turns = {point: [{"seconds": 2.0 * point.images / point.ranks, "peak_bytes": 2**30}] for point in points}
    values, exponents = bench_scaling.describe(1, turns)["tables"]
    assert ["images", 16, 32.0, 1.0] in values["rows"]
    assert dict(row[:2] for row in exponents["rows"]) == pytest.approx(
        {name: {"images": 1.0, "ranks of one thread, 8 images": -1.0}.get(name, 0.0) for name in AXES}
    )
    for table in (values, exponents):
        Table(**table)


def test_one_thing_is_varied_at_a_time():
    assert all(len(set(axis)) == len(axis) > 1 for axis in AXES.values())
    for name, axis in AXES.items():
        varied = bench_scaling.VARIED[name]
        assert len({(*(v for k, v in vars(point).items() if k != varied),) for point in axis}) == 1
