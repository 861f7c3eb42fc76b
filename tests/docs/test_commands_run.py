"""The commands of the pages that are no tutorials, as they stand there: on few images, for few iterations."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch

from tests.checkpoint.official_models import SMALL_SETTINGS, small_tensors
from tests.data.layouts import write_cityscapes_tree, write_coco_panoptic_tree, write_coco_tree
from tests.docs.clones import DRAW, shrink, with_few_images
from tests.docs.pages import REPOSITORY, Block, blocks

pytestmark = pytest.mark.timeout(900)

SHORT = ["SOLVER.MAX_ITER", 2, "SOLVER.WARMUP_ITERS", 1, "SOLVER.IMS_PER_BATCH", 2]


def commands(page, *sections) -> list[Block]:
    """The shell's blocks of a page, or of some of its sections."""
    found = [block for block in blocks(REPOSITORY / page) if block.kind == "bash"]
    assert set(sections) <= {block.section for block in found}
    return [block for block in found if not sections or block.section in sections]


def without(block, words) -> Block:
    """What cannot be done here is left out."""
    assert words in block.text
    return dataclasses.replace(block, text=block.text.replace(words, ""))


@pytest.fixture
def on_street(reader):
    """With few images, and the street configs for few of them."""
    street = reader.folder / "configs/street"
    shrink(street / "detr_small.yaml", SHORT)
    shrink(street / "Base-street-QAT.yaml", SHORT)
    for name in ("detr", "deformable_detr"):
        shrink(street / f"{name}_small_ptq.yaml", ["QUANT.CALIBRATION.NUM_IMAGES", 8])
    reader.follow(with_few_images([DRAW]))
    return reader


@pytest.fixture
def official(reader):
    """With a small tree of COCO and small files under the official names."""
    write_coco_tree(reader.folder / "datasets")
    for name in ("DETR", "Deformable-DETR"):
        shrink(reader.folder / f"configs/Base-{name}.yaml", [*SMALL_SETTINGS, *SHORT])
    shrink(reader.folder / "configs/Base-PTQ.yaml", ["QUANT.CALIBRATION.NUM_IMAGES", 4])
    for name, variant in (
        ("detr-r50-e632da11.pth", "detr_r50"),
        ("r50_deformable_detr-checkpoint.pth", "deformable"),
    ):
        torch.save({"model": small_tensors(variant)}, reader.folder / name)
    return reader


def quantized(reader, *settings) -> Path:
    """The folder of a post-training quantization."""
    command = "python tools/train_net.py --config-file configs/street/detr_small_ptq.yaml"
    reader.follow([Block("bash", "", " ".join([command, *settings]), "", "the quantized model")])
    return reader.folder / "output/street/detr_small_ptq"


def copy_runs(folder: Path, **runs: str) -> None:
    """What a page calls output/<name> is a run of output/street."""
    for name, run in runs.items():
        shutil.copytree(folder / "output/street" / run, folder / "output" / name)


def write_own_data(folder: Path) -> None:
    """A data set of the reader's own: train.json, val.json, and all images in one folder."""
    for split in ("train", "val"):
        shutil.copytree(folder / "datasets/street/images" / split, folder / "images" / split)
        content = json.loads((folder / f"datasets/street/annotations/{split}.json").read_text())
        for image in content["images"]:
            image["file_name"] = f"{split}/{image['file_name']}"
        (folder / f"{split}.json").write_text(json.dumps(content))


def test_readme(on_street):
    street, demo, onnx, report, own, _ = commands("README.md", "Use it")
    on_street.follow(with_few_images([street]))
    copy_runs(on_street.folder, full="detr_small", uniform="detr_small_ptq", qat="deformable_detr_small_qat")
    write_own_data(on_street.folder)
    on_street.follow([demo, onnx, report, own])
    assert "APcrit_vulnerable" in on_street.printed
    assert len(list((on_street.folder / "output/demo").glob("*.jpg"))) == 4
    assert (on_street.folder / "detr.onnx").is_file()
    assert "<html" in (on_street.folder / "report.html").read_text()


def test_readme_on_official_files(official):
    *_, block = commands("README.md", "Use it")
    official.follow([block])
    assert "APcrit_person" in official.printed


@pytest.mark.slow
def test_data_sets(reader):
    """Trees of a few images, which one program has to be told; without those of aquarium."""
    root = reader.folder / "datasets"
    write_coco_panoptic_tree(root)
    write_cityscapes_tree(root)
    check, panoptic, cityscapes, street, _ = commands("datasets/README.md")
    fewer = {
        "prepare_cityscapes.py": "prepare_cityscapes.py --subset",
        "make_street.py": "make_street.py --output datasets/street --num-train 16 --num-val 8 --num-test 4",
    }
    for block in (panoptic, cityscapes, street, check):
        text = block.text
        for program, with_options in fewer.items():
            text = text.replace(program, with_options)
        reader.follow([dataclasses.replace(block, text=text)])
    assert len(list(root.glob("street/images/*/*.jpg"))) == 28


@pytest.mark.slow
def test_checkpoints(official):
    """Where `trained.pth` was trained on categories 1, 2 and 4: rows 0 to 4, and one for no object."""
    first, kinds, converting, back = commands("docs/checkpoints.md")
    *_, all_rows = kinds.text.splitlines(keepends=True)
    trained = small_tensors("detr_r50")
    for name in ("class_embed.weight", "class_embed.bias"):
        trained[name] = trained[name][:6]
    torch.save({"model": trained}, official.folder / "trained.pth")
    official.follow([first, dataclasses.replace(kinds, text=kinds.text.replace(all_rows, ""))])
    assert (official.folder / "start.pth").is_file()
    for path in official.folder.glob("mine.*"):  # nothing is overwritten
        path.unlink()
    official.follow([dataclasses.replace(kinds, text=all_rows), converting, back])
    restored = torch.load(official.folder / "restored.pth", weights_only=True)["model"]
    assert all(torch.equal(restored[name], value) for name, value in small_tensors("detr_r50").items())


@pytest.mark.slow
def test_qat(on_street):
    on_street.follow(commands("docs/qat.md", "Commands"))
    assert (on_street.folder / "output/street/deformable_detr_small_qat/model_final.pth").is_file()
    assert "APcrit_person" in on_street.printed


@pytest.mark.slow
def test_where_qat_starts(on_street):
    on_street.follow(commands("docs/qat.md", "Where it starts"))
    assert (on_street.folder / "output/qat_start/deformable_fisher/model_final.pth").is_file()


@pytest.mark.slow
def test_training(on_street):
    """The second evaluation is of the best model; AMP needs a GPU."""
    write_coco_tree(on_street.folder / "datasets", num_images=16)
    accumulated = [*SHORT, "SOLVER.IMS_PER_BATCH", 4, "MODEL.WEIGHTS", ""]
    shrink(on_street.folder / "configs/Base-DETR.yaml", [*SMALL_SETTINGS, *accumulated])
    first, memory = commands("docs/training.md")
    on_street.follow([without(first, " SOLVER.AMP.ENABLED True"), memory])
    assert "APcrit_person" in on_street.printed


@pytest.mark.slow
def test_deployment_and_plans(on_street):
    """Exported, packed and planned from one quantized model."""
    quantized(on_street)
    (deployment,) = commands("docs/deploy.md", "Deployment with ONNX")
    on_street.follow([without(deployment, 'pip install -e ".[onnx]"\n')])
    assert (on_street.folder / "detr_int.onnx").is_file()
    on_street.follow(blocks(REPOSITORY / "docs/packed.md"))
    assert "APcrit_person" in on_street.printed
    on_street.follow(commands("docs/allocation.md"))
    assert "bits" in on_street.printed


@pytest.mark.slow
def test_report(on_street):
    folder = on_street.folder
    shutil.copytree(quantized(on_street), folder / "output/quickstart/detr/fisher_critical")
    copy_runs(folder, full="detr_small_ptq", uniform="detr_small_ptq", qat="detr_small_ptq")
    first, second, *measured = commands("docs/report.md")
    on_street.follow([*with_few_images(measured), first, second])
    made = {path.name for path in (folder / "output/quickstart/detr").glob("*.json")}
    assert made == {"traces.json", "pareto.json", "landscape.json"}
    assert len(list((folder / "figures").glob("*.svg"))) > 4
