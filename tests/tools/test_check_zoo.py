"""The check runs the entry's own command, and sees a number that is off."""

import dataclasses
import math

import check_zoo
import pytest

from fisher_detr.model_zoo import Metric, catalog, entry, read_studies, write_entry
from tests.conftest import REPOSITORY


def test_what_was_published_passes_until_a_number_is_off(publish, trained, zoo, capsys):
    found = publish(trained.output)
    check_zoo.main([])
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["tiny", "0.00", "0.00", "0.00", "0.3", str(len(found.metrics)), "0"] in rows
    other = found.metrics | {"AP50": Metric(found.metrics["AP50"].value + 0.4, 0.3)}
    write_entry(dataclasses.replace(found, metrics=other))
    with pytest.raises(SystemExit, match=r"check_zoo: tiny: AP50 is \S+, the row says \S+ within 0.3"):
        check_zoo.main(["tiny"])


def test_what_was_found_is_noted(publish, trained, zoo, tmp_path, capsys):
    found = publish(trained.output)
    write_entry(dataclasses.replace(found, metrics=found.metrics | {"AP75": Metric(0.2, 0.3)}))
    check_zoo.main(["tiny", "--output", str(tmp_path / "check.json")])
    (study,) = read_studies(tmp_path)
    (table,) = study.tables
    ((name, of_row, now, furthest, *_, off),) = table.rows
    assert (name, of_row, now, furthest, off) == ("tiny", 0.0, 0.0, 0.2, 0)
    assert study.command == f"python tools/check_zoo.py tiny --output {tmp_path / 'check.json'}"


def test_data_that_are_absent(publish, trained, zoo, monkeypatch, capsys):
    """Said of an entry among all, an error of one that is named."""
    publish(trained.output)
    missing = FileNotFoundError("annotation file a.json does not exist, of data set 'b'")

    def absent(*_):
        raise missing

    monkeypatch.setattr(check_zoo, "prepare", absent)
    monkeypatch.setattr(check_zoo, "run_training_command", absent)
    check_zoo.main([])
    assert f"tiny is not checked: {missing}" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="check_zoo: annotation file a.json does not exist"):
        check_zoo.main(["tiny"])


def test_weights_that_are_not_the_published_ones(publish, trained, zoo):
    found = publish(trained.output)
    (zoo / "weights" / found.file).write_bytes(b"other")
    with pytest.raises(SystemExit, match=r"check_zoo: weights \S+ have sha256 \w+, \w+ was published"):
        check_zoo.main([])


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "street_detr_small",
        "street_dab_detr_small_fisher_critical_person_4bit",
        "street_deformable_detr_small_qat_distill_person_3bit",
    ],
)
def test_shipped_weights_give_their_rows(name, monkeypatch):
    """One of each architecture; the command without names checks all."""
    if not (REPOSITORY / "datasets" / "street" / "street.json").exists():
        pytest.skip("datasets/street is absent: python datasets/make_street.py draws it")
    monkeypatch.chdir(REPOSITORY)
    check_zoo.main([name])


def test_deviations():
    row = entry("street_detr_small")
    exact = {name: metric.value for name, metric in row.metrics.items()}
    assert check_zoo.deviations(row, exact) == []
    assert check_zoo.deviations(row, exact | {"AP": exact["AP"] + 0.29}) == []
    for wrong in (exact["AP"] - 0.31, math.nan):
        (line,) = check_zoo.deviations(row, exact | {"AP": wrong})
        assert line.startswith(f"AP is {wrong:.2f}, the row says {exact['AP']:.2f} within 0.3")


def test_every_measured_row_is_checked():
    names = {found.name for found in check_zoo.chosen([])}
    assert names >= {path.stem for path in catalog.ENTRIES.glob("street_*.yaml")}
    for found in check_zoo.chosen([]):
        assert f"--eval-only MODEL.WEIGHTS zoo://{found.name} " in f"{found.command} "


def test_mistakes():
    with pytest.raises(SystemExit, match="check_zoo: model zoo has no entry 'tinny'"):
        check_zoo.main(["tinny"])
    with pytest.raises(SystemExit, match="check_zoo: detr_r50_coco: quoted and not measured here"):
        check_zoo.main(["detr_r50_coco", "street_detr_small"])
