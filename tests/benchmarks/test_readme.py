"""benchmarks/README.md is what the results say."""

import pytest

from benchmarks import all as every
from benchmarks import readme
from fisher_detr.model_zoo import read_studies


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
    for what, _, times in readme.training(study):
        row = next(row for row in study.tables[0].rows if what == f"training step, {row[0]}")
        assert times == pytest.approx(row[2] / row[1])
    study = by_title["Exported detectors"]
    milliseconds = {tuple(row[:2]): row[2] for row in study.tables[0].rows}
    for what, _, times in readme.deployment(study):
        model = what.partition(" exported")[0]
        before, after = (milliseconds[model, f"onnxruntime, {way}"] for way in ("float32", "W8A8"))
        assert times == pytest.approx(before / after)
