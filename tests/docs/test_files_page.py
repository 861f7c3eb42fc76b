"""docs/reference/files.md has every field of every file that the package writes, and no other."""

import dataclasses
import json
import math

import pytest
import quickstart
import torch
import yaml

from fisher_detr.checkpoint import convert_official_file, restore_official_file
from fisher_detr.data.cityscapes import prepare_cityscapes
from fisher_detr.data.coco_panoptic import prepare_coco_panoptic
from fisher_detr.data.street import make_dataset
from fisher_detr.engine import (
    ArmResult,
    KeptResults,
    LandscapeSettings,
    environment,
    explain_curve,
    load_config,
    measure_landscape,
    measure_traces,
)
from fisher_detr.model_zoo import read_studies
from fisher_detr.quantization import load_packed, save_packed
from fisher_detr.structures import BitAllocation
from tests.checkpoint.official_models import small_tensors
from tests.data.layouts import write_cityscapes_tree, write_coco_panoptic_tree
from tests.docs.formats import described, example, sections, undescribed, unseen
from tests.docs.pages import REPOSITORY
from tests.tools.driver import QUANTIZE, Work

SECTIONS = sections()


def load(path):
    return json.loads(path.read_text())


def as_json(content):
    return json.loads(json.dumps(content))


def check(heading, *files):
    """Every field of the files and of the example is described, and every described one is in one of them."""
    tree, shown = described(SECTIONS[heading]), example(SECTIONS[heading])
    absent = [path for content in files for path in undescribed(content, tree)]
    assert not absent, f"{heading}: add {sorted(set(absent))}"
    assert not (spare := unseen(tree)), f"{heading}: no file has {spare}"
    assert shown is None or not undescribed(shown, tree)


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A tiny model, trained, with what its quantization leaves."""
    work = Work(tmp_path_factory.mktemp("work"), "tiny_files")
    work.run()
    fast = ["FISHER.VALIDATE", True, "FISHER.VALIDATE_IMAGES", 4, "FISHER.VALIDATE_WIDTHS", (2, 4)]
    limits = ["ALLOCATION.FIXED", ("backbone.stem:8",), "ALLOCATION.MAX_CONTAINER_BYTES", 10**9]
    weights = ["MODEL.WEIGHTS", work.output / "model_final.pth"]
    work.quantized = work.output.parent / "quantized"
    work.settings = [*QUANTIZE, *weights, *limits, "OUTPUT_DIR", work.quantized]
    work.run(*work.settings, *fast)
    return work


def test_every_section_has_an_example_and_a_table():
    for heading, text in SECTIONS.items():
        assert "\n| `" in text and ("\n```json\n" in text or "\n```yaml\n" in text), heading


def test_sensitivity(work):
    others = {"measured": ["ALLOCATION.SENSITIVITY", "measured"], "hawq": ["ALLOCATION.ARM", "hawq"]}
    for name, words in others.items():
        work.run(*work.settings, *words, "OUTPUT_DIR", work.quantized.parent / name)
    folders = [work.quantized, *(work.quantized.parent / name for name in others)]
    check("Sensitivities", *(load(folder / "sensitivity.json") for folder in folders))


def test_allocation(work, tmp_path):
    cfg = load_config(str(work.config), [str(word) for word in work.settings])
    explain_curve(cfg, 2, tmp_path / "curve.json", measured=1)
    uniform = tmp_path / "uniform"
    work.run(*work.settings, "ALLOCATION.ARM", "uniform", "OUTPUT_DIR", uniform)
    plans = [work.quantized / "allocation.json", uniform / "allocation.json"]
    curve = load(tmp_path / "curve.json")
    check("Plans", *map(load, plans), *curve["plans"])
    check("Curves", curve)


def test_coverage(work):
    check("Coverage", load(work.quantized / "coverage.json"))


def test_evaluation(work):
    (folder,) = work.quantized.glob("inference/*")
    check("Evaluation", load(folder / "evaluation.json"))
    check("Provenance", load(folder / "provenance.json"))


def test_traces_and_landscape(work):
    weights = ["MODEL.WEIGHTS", work.output / "model_final.pth", "OUTPUT_DIR", work.quantized]
    cfg = load_config(str(work.config), [str(word) for word in weights])
    check("Traces", as_json(measure_traces(cfg)))
    few = LandscapeSettings(num_images=2, points=1, directions=2, plane_points=1)
    check("Landscape", as_json(measure_landscape({"full": cfg}, few)))


def test_validation(work):
    check("Validation", load(work.quantized / "validation.json"))


def test_detections(work):
    files = [*work.quantized.glob("inference/*/*_results.json")]
    assert {path.name for path in files} >= {"coco_instances_results.json", "critical_animal_results.json"}
    check("Detections", *map(load, files))


def test_scalars(work):
    lines = (work.output / "metrics.json").read_text().splitlines()
    check("Scalars", *map(json.loads, lines))


def test_kept_results(work):
    cfg = load_config(str(work.config), [str(word) for word in work.settings])
    plan = BitAllocation.load(work.quantized / "allocation.json")
    metrics = {"AP": 1.5, "AP_vehicle": math.nan}
    KeptResults(cfg).get("arm", lambda: ArmResult("arm", metrics, 10, 2.0, "folder", plan))
    check("Results of arms", load(work.quantized / "results" / "arm.json"))


def test_quickstart(work):
    cfg = load_config(str(work.config), [str(word) for word in work.settings])
    plan = BitAllocation.load(work.quantized / "allocation.json")
    results = [ArmResult("arm", {"AP": 1.5}, 10, 2.0, "folder", chosen) for chosen in (plan, None)]
    check("Quickstart summary", quickstart.summary(cfg, results))


def test_latency_table():
    check("Latency table", example(SECTIONS["Latency table"]))


def test_onnx_metadata(work, tmp_path):
    pytest.importorskip("onnxruntime")
    from fisher_detr.engine.exporting import ExportRequest, export_from_config, image_latency
    from fisher_detr.export import OnnxDetector

    settings = [*work.settings, "MODEL.WEIGHTS", work.quantized / "model_quantized.pth"]
    cfg = load_config(str(work.config), [str(word) for word in settings])
    found = export_from_config(cfg, ExportRequest(path=tmp_path / "a.onnx", verify_images=0))
    check("Audit of an ONNX file", as_json(found.audit.as_json() | {"environment": environment()}))
    check("ONNX metadata", OnnxDetector(tmp_path / "a.onnx").info)
    check("Latency of an image", image_latency(cfg, tmp_path / "a.onnx", runs=1))


def test_packed_header(work, tmp_path):
    import safetensors

    state = torch.load(work.quantized / "model_quantized.pth", weights_only=True)["model"]
    save_packed(tmp_path / "a.safetensors", state, {"categories": ["a"]})
    assert load_packed(tmp_path / "a.safetensors").info == {"categories": ["a"]}
    with safetensors.safe_open(tmp_path / "a.safetensors", "pt") as file:
        check("Packed models", json.loads(file.metadata()["header"]))


def test_manifest(tmp_path):
    torch.save({"model": small_tensors("detr_r50_panoptic")}, tmp_path / "official.pth")
    convert_official_file(tmp_path / "official.pth", tmp_path / "ours.pth")
    restore_official_file(tmp_path / "ours.pth", tmp_path / "back.pth")
    check("Conversion manifest", *(load(tmp_path / f"{name}.manifest.json") for name in ("ours", "back")))


def test_zoo_entries():
    entries = [
        yaml.safe_load(path.read_text()) for path in REPOSITORY.glob("fisher_detr/model_zoo/entries/*.yaml")
    ]
    assert len(entries) > 10
    elsewhere = {"url": "https://host/a.pth", "measured": entries[0].get("measured", {}) | {"commit": "0a"}}
    check("Model zoo entries", *entries, entries[0] | elsewhere)


def test_studies():
    folder = REPOSITORY / "benchmarks" / "results"
    studies = [dataclasses.asdict(study) for study in read_studies(folder)]
    assert len(studies) > 10
    check("Studies", *map(load, folder.glob("*.json")), *studies)


def test_runs_of_a_training_study():
    runs = [*(REPOSITORY / "benchmarks" / "results").glob("*/**/seed*.json")]
    assert len(runs) > 20
    check("Runs of a training study", *map(load, runs))


def test_street(tmp_path):
    make_dataset(tmp_path / "street", {"train": 2, "val": 1}, workers=1)
    check("street.json", load(tmp_path / "street" / "street.json"))


def test_prepared_annotations(tmp_path):
    write_coco_panoptic_tree(tmp_path)
    prepare_coco_panoptic(tmp_path, ["val"])
    write_cityscapes_tree(tmp_path)
    prepare_cityscapes(tmp_path, ["val"], subset=True)
    files = sorted(tmp_path.glob("c*/annotations/*detection_val*.json"))
    assert len(files) == 2
    check("Prepared annotations", *map(load, files))
