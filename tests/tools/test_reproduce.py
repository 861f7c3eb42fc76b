"""Tables of the paper from end to end, on trees in the official layouts and small official files."""

import json

import pytest
import reproduce
import torch

from fisher_detr import model_zoo
from fisher_detr.data.cityscapes import prepare_cityscapes
from fisher_detr.data.coco_panoptic import prepare_coco_panoptic
from fisher_detr.model_zoo import PAPER_MODELS, PAPER_TABLES, read_studies, reproduction
from tests.checkpoint.official_models import SMALL_SETTINGS, small_tensors
from tests.data.layouts import use_tree, write_cityscapes_tree, write_coco_panoptic_tree, write_coco_tree

VARIANTS = {
    "detr_r50": "detr_r50",
    "detr_r101": "detr_r101",
    "dab_detr_r50": "dab_r50",
    "deformable_detr_r50": "deformable",
}
QUICK = [
    *("INPUT.MIN_SIZE_TEST", 96, "INPUT.MAX_SIZE_TEST", 128, "INPUT.MIN_SIZE_TRAIN", (96,)),
    *("INPUT.MAX_SIZE_TRAIN", 128, "INPUT.DETR_AUG.CROP_PROB", 0.0, "DATALOADER.NUM_WORKERS", 0),
    *("QUANT.CALIBRATION.NUM_IMAGES", 4, "SOLVER.IMS_PER_BATCH", 2, "SOLVER.MAX_ITER", 2, "SOLVER.STEPS", ()),
    *("MODEL.DEVICE", "cpu", "SOLVER.CHECKPOINT_PERIOD", 1, "QUANT.QAT.PENALTY.INTERVAL", 1),
    *("CRITICAL.SETS", (), "QUANT.WEIGHT.SCALE", "max", "ALLOCATION.WIDTHS", (2, 4, 5, 6, 8)),
]


@pytest.fixture
def root(tmp_path, monkeypatch):
    """Folder with COCO, and official checkpoints of all models."""
    write_coco_tree(tmp_path / "datasets")
    use_tree(monkeypatch, tmp_path / "datasets")
    (tmp_path / "checkpoints").mkdir()
    for model in PAPER_MODELS:
        official = small_tensors(VARIANTS[model.leaf])
        torch.save({"model": official}, tmp_path / "checkpoints" / model.checkpoint)
    return tmp_path


def run(root, table, *words):
    """The table's rows, by arm, as they are stored."""
    folders = ["--checkpoints", root / "checkpoints", "--output", root / "out", "--results", root / "results"]
    words = [table, *folders, *words, *([] if "--opts" in words else ["--opts"]), *SMALL_SETTINGS, *QUICK]
    reproduce.main([str(word) for word in words])
    stored = {study.title: study for study in read_studies(root / "results")}[PAPER_TABLES[table].title]
    (found,) = stored.tables
    assert found.columns == ["model", "bits", "arm", "AP", "critical set", "APcrit", "bytes"]
    assert len(found.rows) == 4 * (1 + 3 * 3)
    empty = [row for row in found.rows if row[3] == "not measured here"]
    assert all(row[4:] == ["", "not measured here", None] for row in empty)
    return [row for row in found.rows if row not in empty]


def drawn(root, annotations="instances"):
    """Two categories that the training images have objects of."""
    content = json.loads((root / f"datasets/coco/annotations/{annotations}_train2017.json").read_text())
    names = {category["id"]: category["name"] for category in content["categories"]}
    return sorted({names[a["category_id"]] for a in content["annotations"] if not a["iscrowd"]})[:2]


def test_after_training(root, capsys, monkeypatch):
    words = ["ptq_coco", "--models", "detr_r50", "deformable_detr_r50", "--bits", 4, "--opts"]
    words += ["CRITICAL.TARGET", f"drawn={'+'.join(drawn(root))}"]
    rows = run(root, *words)
    arms = ["uniform", "fisher_overall", "fisher_critical"]
    for title, of_model in (("DETR, ResNet-50", rows[:4]), ("Deformable DETR, ResNet-50", rows[4:])):
        assert [row[:3] for row in of_model] == [
            [title, 32, "full_precision"],
            *([title, 4, arm] for arm in arms),
        ]
        sizes = [row[6] for row in of_model]
        assert sizes[0] > sizes[1] == max(sizes[1:]) > 0
        assert {row[4] for row in of_model} == {"drawn"}
        assert all(0 <= row[3] < 20 for row in of_model)
    printed = capsys.readouterr().out
    assert "| " not in printed.splitlines()[-1] and "fisher_critical" in printed.splitlines()[-1]
    # The same command measures nothing again.
    monkeypatch.setattr(reproduction, "evaluate_arms", None)
    monkeypatch.setattr(reproduction, "evaluate_full_precision", None)
    assert run(root, *words) == rows


def test_with_training_that_is_cut_off(root, monkeypatch):
    """What was measured is taken, and the training that was cut off goes on from its checkpoint."""
    words = ["qat_coco", "--models", "detr_r50", "--bits", "4"]
    train, trained = reproduction.train, []

    def cut_off(cfg, resume):
        trained.append(cfg.OUTPUT_DIR.rpartition("/")[2])
        if trained[-1] == "qat_overall_4" and trained.count("qat_overall_4") == 1:
            cfg = cfg.clone()
            cfg.defrost()
            cfg.SOLVER.MAX_ITER = 1
            train(cfg, resume=resume)
            raise OSError("the machine went down")
        return train(cfg, resume=resume)

    monkeypatch.setattr(reproduction, "train", cut_off)
    with pytest.raises(SystemExit, match="reproduce: the machine went down"):
        run(root, *words)
    assert not (root / "results").exists()
    rows = run(root, *words)
    assert trained == ["qat_4", "qat_overall_4", "qat_overall_4", "qat_critical_4"]
    assert [row[2] for row in rows] == ["full_precision", "qat", "qat_overall", "qat_critical"]
    assert rows[1][6] == rows[2][6] == rows[3][6] < rows[0][6]
    metrics = root / "out" / "qat_coco" / "detr_r50" / "qat_overall_4" / "metrics.json"
    steps = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert any("fisher_trace" in step for step in steps), "the penalty is part of the arm"


def test_data_of_other_classes_are_trained_on_first(root, monkeypatch):
    write_cityscapes_tree(root / "datasets")
    prepare_cityscapes(root / "datasets", ["train", "val"], subset=True)
    use_tree(monkeypatch, root / "datasets")
    rows = run(root, "ptq_cityscapes", "--models", "dab_detr_r50", "--bits", 5, 6)
    arms = ["uniform", "fisher_overall", "fisher_critical"]
    assert [row[2] for row in rows] == ["full_precision", *arms, *arms]
    assert rows[0][6] > rows[4][6] > rows[1][6]
    assert {row[4] for row in rows} == {"human"}
    float_run = root / "out" / "float" / "cityscapes" / "dab_detr_r50"
    assert (float_run / "model_final.pth").exists() and (float_run / "done").exists()
    monkeypatch.setattr(reproduction, "train", None)
    assert run(root, "ptq_cityscapes", "--models", "dab_detr_r50", "--bits", 5, 6) == rows


def test_a_part_is_added_to_what_was_measured(tmp_path):
    table, path = PAPER_TABLES["ptq_coco"], tmp_path / "table.json"
    first = ["DETR, ResNet-50", 4, "uniform", 30.0, "person", 20.0, 100]
    second = ["DAB-DETR, ResNet-50", 5, "fisher_critical", 40.0, "person", 30.0, 200]
    reproduce.store(path, table, [first], [])
    reproduce.store(path, table, [second], [])
    better = [*first[:3], 31.0, *first[4:]]
    reproduce.store(path, table, [better], ["ptq_coco"])
    rows = json.loads(path.read_text())["tables"][0]["rows"]
    assert [row for row in rows if row[3] != "not measured here"] == [better, second]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("table", "model"),
    [
        ("qat_coco", "dab_detr_r50"),
        ("qat_coco", "deformable_detr_r50"),
        ("qat_cityscapes", "detr_r50"),
        ("ptq_coco", "detr_r101"),
    ],
)
def test_other_models_go_the_same_way(root, monkeypatch, table, model):
    if "cityscapes" in table:
        write_cityscapes_tree(root / "datasets")
        prepare_cityscapes(root / "datasets", ["train", "val"], subset=True)
        use_tree(monkeypatch, root / "datasets")
    rows = run(root, table, "--models", model, "--bits", 4)
    of_training = ["qat", "qat_overall", "qat_critical"]
    arms = of_training if "qat" in table else ["uniform", "fisher_overall", "fisher_critical"]
    assert [row[1:3] for row in rows] == [[32, "full_precision"], *([4, arm] for arm in arms)]
    assert all(0 <= row[3] <= 100 for row in rows)
    assert rows[0][6] > rows[1][6] == max(row[6] for row in rows[1:]) > 0


@pytest.mark.slow
def test_panoptic_detectors_are_taken_as_they_are(root, monkeypatch):
    write_coco_panoptic_tree(root / "datasets")
    prepare_coco_panoptic(root / "datasets", ["train", "val"])
    use_tree(monkeypatch, root / "datasets")
    monkeypatch.setattr(reproduction, "train", None)
    official = root / "checkpoints" / PAPER_MODELS[0].panoptic
    torch.save({"model": small_tensors("detr_r50_panoptic")}, official)
    target = ["CRITICAL.TARGET", f"drawn={'+'.join(drawn(root, 'panoptic_detection'))}"]
    rows = run(root, "ptq_coco_panoptic", "--models", "detr_r50", "--bits", "4", "--opts", *target)
    assert [row[1] for row in rows] == [32, 4, 4, 4]


def test_schedules():
    """Whole epochs, and the last fifth with a tenth of the learning rate."""
    from fisher_detr.engine import read_config

    cfg = read_config("", ["SOLVER.IMS_PER_BATCH", 16])
    words = reproduction._schedule(cfg, PAPER_TABLES["qat_coco"].data, 5)
    assert words == ["SOLVER.MAX_ITER", str(7393 * 5), "SOLVER.STEPS", f"({7393 * 4},)"]


def test_every_table_has_its_configs():
    """Six tables of four models, and what they start from has the classes of their data."""
    assert len(PAPER_TABLES) == 6 and model_zoo.PAPER_BITS == (4, 5, 6)
    for table in PAPER_TABLES.values():
        for model in PAPER_MODELS:
            folder = reproduce.ROOT / "configs" / table.data.folder
            assert (folder / f"{model.leaf}_ptq.yaml").is_file() and (folder / f"{model.leaf}.yaml").is_file()
        empty = table.unmeasured()
        assert len(empty.rows) == 12 and all(row[2:] == ["not measured here"] * 3 for row in empty.rows)


def test_mistakes(root, capsys):
    (root / "checkpoints" / PAPER_MODELS[0].checkpoint).unlink()
    (root / "checkpoints" / PAPER_MODELS[2].checkpoint).unlink()
    with pytest.raises(SystemExit, match=r"lacks detr-r50-e632da11.pth, dab_detr_r50-checkpoint.pth: fetch"):
        run(root, "ptq_coco")
    (root / "datasets" / "coco" / "annotations" / "instances_val2017.json").unlink()
    with pytest.raises(SystemExit, match=r"reproduce: annotation file \S+ of data set 'coco_2017_val'"):
        run(root, "ptq_coco", "--models", "detr_r101")
    reproduce.main([])
    assert "ptq_coco_panoptic    The paper's models on COCO Panoptic" in capsys.readouterr().out
