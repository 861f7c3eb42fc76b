"""benchmarks/README.md is what the results say."""

import pytest

from benchmarks import all as every
from benchmarks import readme
from fisher_detr.model_zoo import Study, read_studies
from fisher_detr.model_zoo.study import Table

BACKPACK = "BackPACK: SumGradSquared"


def test_the_page_is_what_the_generator_writes(tmp_path, monkeypatch):
    readme.main(["--check"])
    monkeypatch.setattr(readme, "PAGE", tmp_path / "README.md")
    with pytest.raises(SystemExit, match="differs from the results: run `python -m benchmarks.readme`"):
        readme.main(["--check"])
    readme.main([])
    readme.main(["--check"])
    assert (tmp_path / "README.md").read_text() == (readme.FOLDER / "README.md").read_text()


def test_every_benchmark_is_in_make_bench_and_every_comparison_is_of_one():
    studies = {study.title: study for study in read_studies(readme.FOLDER / "results") if study.is_benchmark}
    assert set(readme.GLANCE) <= set(studies)
    commands = {study.command.split()[2] for study in studies.values()}
    assert commands == {f"benchmarks.bench_{name}" for name in every.BENCHMARKS}
    assert all((readme.FOLDER / "results" / f"{name}_cpu.json").exists() for name in every.BENCHMARKS)


def test_times_as_fast_are_those_of_the_files():
    by_title = {study.title: study for study in read_studies(readme.FOLDER / "results")}
    study = by_title["Training step beside transformers"]
    for what, _, times, memory in readme.training(study):
        row = next(row for row in study.tables[0].rows if what == f"training step, {row[0]}")
        assert times == pytest.approx(row[2] / row[1])
        assert memory == pytest.approx(row[4] / row[5])
    study = by_title["Exported detectors"]
    milliseconds = {tuple(row[:2]): row[2] for row in study.tables[0].rows}
    peaks = {tuple(row[:2]): row[7] for row in study.tables[0].rows}
    for what, _, times, memory in readme.deployment(study):
        model = what.partition(" exported")[0]
        before, after = ((model, f"onnxruntime, {way}") for way in ("float32", "W8A8"))
        assert times == pytest.approx(milliseconds[before] / milliseconds[after])
        assert memory == pytest.approx(peaks[after] / peaks[before])


def test_per_image_gradients_are_beside_every_other_way_to_them():
    """Image by image too, which is faster on the classifier."""
    rows = [["plain", 1.0, 1.0, 1.0, 1.0], ["diagonal, 1 objective", 4.0, 4.0, 3.0, 3.0]]
    peers = [["diagonal, 1 objective, by autograd", 2.0, 2.0, 1.5, 1.5], [BACKPACK, 8.0, 8.0, 6.0, 6.0]]
    table = Table("ResNet-50 classifier, 512 pixels", ["pass", "a", "b", "c", "d"], rows + peers)
    study = Study("Fisher information", "", [], {"torch": "", "device": ""}, [table])
    what = "Fisher diagonal of a ResNet-50 classifier"
    assert list(readme.fisher(study)) == [
        (what, "torch.autograd, image by image", 0.5, 2.0),
        (what, BACKPACK, 2.0, 0.5),
    ]


def test_every_peer_is_shown():
    by_title = {study.title: study for study in read_studies(readme.FOLDER / "results")}
    shown = {beside.peer for title, of in readme.GLANCE.items() for beside in of(by_title[title])}
    assert shown >= {*readme.PER_IMAGE.values(), "transformers", readme.FLOAT32}


@pytest.mark.parametrize(
    ("times", "memory", "verdict"),
    [
        (1.0, 1.0, "yes"),
        (2.0, None, "yes"),
        (0.999, None, "**no: slower**"),
        (2.0, 1.001, "**no: more memory**"),
        (0.5, 2.0, "**no: slower, more memory**"),
    ],
)
def test_what_is_not_better_is_said(times, memory, verdict):
    assert readme.Beside("what", "peer", times, memory).cells()[-1] == verdict
