"""Aims beside what was measured."""

import pytest

from benchmarks import aims, readme
from benchmarks.aims import Aim


@pytest.mark.parametrize(
    ("value", "is_least", "holds"),
    [(1.5, False, True), (1.5001, False, False), (1.4999, True, False), (1.5, True, True)],
)
def test_a_bound_counts_as_met_and_no_rounding_helps(value, is_least, holds):
    aim = Aim("a step", value, 1.5, is_least)
    assert aim.holds == holds
    assert aim.row() == [
        "a step",
        "1.5",
        f"at {'least' if is_least else 'most'} 1.5",
        "yes" if holds else "**no**",
    ]


def test_every_study_with_aims_is_there_and_has_some():
    studies = {study.title: study for study in readme.benchmarks()}
    found = {title: list(of_study(studies[title])) for title, of_study in aims.AIMS.items()}
    assert all(found.values())
    assert len(found["Steps of quantization-aware training"]) == 15
    assert aims.table(readme.benchmarks()).count("\n") > 25


def test_numbers_are_those_of_the_tables():
    studies = {study.title: study for study in readme.benchmarks()}
    rows = {row[0]: row for row in studies["Steps of quantization-aware training"].tables[1].rows}
    assert studies["Steps of quantization-aware training"].tables[1].columns[3] == "times QAT"
    of_dab = {aim.what: aim.value for aim in aims.qat(studies["Steps of quantization-aware training"])}
    expected = rows["QAT + exact, minibatch, every 4"][3]
    assert of_dab["DAB-DETR: exact, minibatch, times QAT"] == expected
    (by_one,) = [
        aim.value for aim in aims.fisher(studies["Fisher information"]) if "image by image" in aim.what
    ]
    seconds = {row[0]: row[1] for row in studies["Fisher information"].tables[0].rows}
    *_, last = seconds.values()
    assert by_one == seconds["diagonal, 1 objective"] / last
