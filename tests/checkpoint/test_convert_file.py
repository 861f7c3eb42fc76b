"""Files of checkpoints to the names here and back, what comes beside them, and what a failure leaves."""

import json
import os

import pytest
import torch

from fisher_detr.checkpoint import (
    COCO_ROWS,
    ClassChoice,
    ClassPolicy,
    SafeCheckpointer,
    UnplacedKeysError,
    convert_official_file,
    load_tensors,
    output_files,
    restore_official_file,
)
from fisher_detr.files import sha256_of
from tests.checkpoint.official_models import small_model, small_tensors
from tests.oracles.official_keys import SMALL, VARIANTS, training_args


def save(path, tensors, **beside):
    torch.save({"model": tensors} | beside, path)
    return path


def same(found, expected):
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert found[key].dtype == value.dtype
        assert torch.equal(found[key], value), key


@pytest.mark.parametrize("variant", VARIANTS)
def test_there_and_back(variant, tmp_path):
    """Bit for bit, with dropped rows and mask head; and the file between fits the model strictly."""
    tensors = small_tensors(variant)
    source = save(tmp_path / "official.pth", tensors)
    convert_official_file(source, tmp_path / "ours.pth")
    SafeCheckpointer(small_model(variant)).load(str(tmp_path / "ours.pth"))
    restore_official_file(tmp_path / "ours.pth", tmp_path / "back.pth")
    back = load_tensors(tmp_path / "back.pth")["model"]
    same(back, tensors)
    aliases = {key: value.data_ptr() for key, value in tensors.items()}
    shared = {key: value.data_ptr() for key, value in back.items()}
    assert len(set(aliases.values())) == len(set(shared.values())), "one tensor is stored once"


def test_what_is_loaded_directly_is_what_is_converted(tmp_path):
    source = save(tmp_path / "official.pth", small_tensors("deformable_two_stage"))
    convert_official_file(source, tmp_path / "ours.pth")
    direct, converted = small_model("deformable_two_stage"), small_model("deformable_two_stage")
    SafeCheckpointer(direct).load(str(source))
    SafeCheckpointer(converted).load(str(tmp_path / "ours.pth"))
    same(converted.state_dict(), direct.state_dict())


def test_half_precision_stays(tmp_path):
    tensors = {key: value.half() for key, value in small_tensors("dab_r50").items()}
    convert_official_file(save(tmp_path / "a.pth", tensors), tmp_path / "b.pth")
    restore_official_file(tmp_path / "b.pth", tmp_path / "c.pth")
    same(load_tensors(tmp_path / "c.pth")["model"], tensors)


def test_manifest(tmp_path):
    tensors = small_tensors("deformable_refine") | {"transformer.total_ops": torch.zeros(1)}
    source = save(tmp_path / "official.pth", tensors, args=training_args(dilation=False))
    convert_official_file(source, tmp_path / "ours.pth")
    assert sorted(os.listdir(tmp_path)) == [
        "official.pth",
        "ours.dropped.safetensors",
        "ours.manifest.json",
        "ours.pth",
    ]
    manifest = json.loads((tmp_path / "ours.manifest.json").read_text())
    assert manifest["direction"] == "from official"
    for role, file in (("source", source), ("output", tmp_path / "ours.pth")):
        record = {"file": file.name, "sha256": sha256_of(file), "bytes": os.path.getsize(file)}
        assert manifest[role] == record
    assert manifest["architecture"]["title"] == "Deformable DETR with box refinement, ResNet-50"
    assert manifest["architecture"]["dilation"] is False
    # 36 names of the decoder's for the same tensors; six packed attentions: weight and bias become three.
    assert manifest["keys"] == {
        "official": 598,
        "counters": 1,
        "left_out": 0,
        "tensors": 597 - 36,
        "ours": 597 - 36 + 6 * 2 * 2,
        "parameters": sum(
            value.numel() for key, value in small_model("deformable_refine").state_dict().items()
        ),
    }
    assert manifest["classes"] == {
        "policy": "remap",
        "official_rows": 91,
        "num_classes": 80,
        "kept": list(COCO_ROWS.kept),
        "dropped": list(COCO_ROWS.dropped),
        "made_up": [],
    }
    assert manifest["dropped_rows"] == "ours.dropped.safetensors"
    assert manifest["fits"]["config"] == "configs/coco/deformable_detr_r50_refine.yaml"
    assert manifest["fits"]["MODEL.META_ARCHITECTURE"] == "DeformableDetr"


def test_manifest_of_the_panoptic_model(tmp_path):
    source = save(tmp_path / "official.pth", small_tensors("detr_r50_panoptic"))
    manifest = convert_official_file(source, tmp_path / "ours.pth")
    assert (manifest.keys.official, manifest.keys.left_out) == (490, 32)
    assert (manifest.classes.official_rows, manifest.classes.num_classes) == (250, 133)
    written = json.loads((tmp_path / "ours.manifest.json").read_text())
    assert "--dc5 says it" in written["architecture"]["dilation"]


def test_tensors_that_are_one_are_counted_and_stored_once(tmp_path):
    manifest = convert_official_file(
        save(tmp_path / "a.pth", small_tensors("deformable")), tmp_path / "b.pth"
    )
    assert manifest.keys.tensors == 521
    stored = load_tensors(tmp_path / "b.pth")["model"]
    assert len(stored) == manifest.keys.ours
    distinct = {value.data_ptr(): value.numel() for value in stored.values()}
    assert sum(distinct.values()) == manifest.keys.parameters


def test_dilation(tmp_path):
    told = save(tmp_path / "told.pth", small_tensors("detr_r50"), args=training_args(dilation=True))
    assert convert_official_file(told, tmp_path / "a.pth").architecture.dilation is True
    assert convert_official_file(told, tmp_path / "b.pth", dilation=True).architecture.dilation is True
    silent = save(tmp_path / "silent.pth", small_tensors("detr_r50"))
    assert convert_official_file(silent, tmp_path / "c.pth").architecture.dilation is None
    found = convert_official_file(silent, tmp_path / "d.pth", dilation=True)
    assert found.architecture.title == "DETR, ResNet-50 DC5"
    assert load_tensors(tmp_path / "d.pth")["conversion"]["dilation"] is True
    plain = save(tmp_path / "plain.pth", small_tensors("detr_r50"), args=training_args(dilation=False))
    with pytest.raises(ValueError, match="plain.pth: its training had dilation False, and --dc5 says True"):
        convert_official_file(plain, tmp_path / "e.pth", dilation=True)


# Classes


def test_reinit(tmp_path):
    tensors = small_tensors("detr_r50")
    choice = ClassChoice(ClassPolicy.REINIT, num_classes=21)
    manifest = convert_official_file(save(tmp_path / "a.pth", tensors), tmp_path / "b.pth", choice)
    assert manifest.dropped_rows is None
    assert not (tmp_path / "b.dropped.safetensors").exists()
    assert (manifest.classes.kept, manifest.classes.num_classes) == ((), 21)
    model = small_model("detr_r50", "MODEL.DETR.NUM_CLASSES", 21)
    SafeCheckpointer(model).load(str(tmp_path / "b.pth"))
    back = restore_official_file(tmp_path / "b.pth", tmp_path / "c.pth")
    assert (back.classes.official_rows, back.classes.made_up) == (21, ())
    restored = load_tensors(tmp_path / "c.pth")["model"]
    assert torch.equal(restored["class_embed.weight"], model.class_embed.weight)
    same(
        {key: value for key, value in restored.items() if "class_embed" not in key},
        {key: value for key, value in tensors.items() if "class_embed" not in key},
    )


def test_reinit_of_the_panoptic_model(tmp_path):
    """The mask head comes back from the side file; of the class rows there are none in it."""
    tensors = small_tensors("detr_r50_panoptic")
    choice = ClassChoice(ClassPolicy.REINIT, num_classes=21)
    convert_official_file(save(tmp_path / "a.pth", tensors), tmp_path / "b.pth", choice)
    manifest = restore_official_file(tmp_path / "b.pth", tmp_path / "c.pth")
    assert (manifest.classes.official_rows, manifest.classes.made_up) == (21, ())
    back = load_tensors(tmp_path / "c.pth")["model"]
    assert back.keys() == tensors.keys()
    assert back["detr.class_embed.bias"].shape == (22,)
    same(
        {key: value for key, value in back.items() if "class_embed" not in key},
        {key: value for key, value in tensors.items() if "class_embed" not in key},
    )


def test_reinit_for_80_classes_stays_80(tmp_path):
    """Their number is COCO's, and their rows are not."""
    source = save(tmp_path / "a.pth", small_tensors("dab_r50"))
    convert_official_file(source, tmp_path / "b.pth", ClassChoice(ClassPolicy.REINIT, num_classes=80))
    assert restore_official_file(tmp_path / "b.pth", tmp_path / "c.pth").classes.official_rows == 80


def test_all_rows_as_they_are(tmp_path):
    tensors = small_tensors("dab_r50", rows=5)
    source = save(tmp_path / "a.pth", tensors)
    with pytest.raises(ValueError, match="a.pth: its head has 5 class rows, neither"):
        convert_official_file(source, tmp_path / "b.pth")
    convert_official_file(source, tmp_path / "b.pth", ClassChoice(ClassPolicy.ERROR, num_classes=5))
    assert not (tmp_path / "b.dropped.safetensors").exists()
    restore_official_file(tmp_path / "b.pth", tmp_path / "c.pth")
    same(load_tensors(tmp_path / "c.pth")["model"], tensors)


def test_ids_of_own_data(tmp_path):
    """Ids 1, 2 and 4: a head of 5 rows and no-object, as the original makes it for own data."""
    tensors = small_tensors("detr_r50", rows=6)
    source = save(tmp_path / "a.pth", tensors)
    convert_official_file(source, tmp_path / "b.pth", ClassChoice(ids=(1, 2, 4), num_classes=3))
    head = load_tensors(tmp_path / "b.pth")["model"]["class_embed.weight"]
    assert torch.equal(head, tensors["class_embed.weight"][[1, 2, 4, 5]])
    restore_official_file(tmp_path / "b.pth", tmp_path / "c.pth")
    same(load_tensors(tmp_path / "c.pth")["model"], tensors)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"policy": ClassPolicy.REINIT}, "--classes reinit needs .* --num-classes N"),
        ({"num_classes": 0}, "--num-classes 0: expected 1 or more"),
        ({"policy": ClassPolicy.ERROR, "ids": (1,)}, "--class-ids goes with --classes remap, not with error"),
    ],
)
def test_choices_that_contradict(arguments, message):
    with pytest.raises(ValueError, match=message):
        ClassChoice(**arguments)


# The way back without what was dropped


def test_without_the_side_file(tmp_path):
    tensors = small_tensors("detr_r50")
    convert_official_file(save(tmp_path / "a.pth", tensors), tmp_path / "b.pth")
    (tmp_path / "b.dropped.safetensors").unlink()
    manifest = restore_official_file(tmp_path / "b.pth", tmp_path / "c.pth")
    assert manifest.classes.made_up == COCO_ROWS.dropped
    assert manifest.dropped_rows is None
    back = load_tensors(tmp_path / "c.pth")["model"]
    kept = [*COCO_ROWS.kept, 91]
    assert torch.equal(back["class_embed.weight"][kept], tensors["class_embed.weight"][kept])
    assert (back["class_embed.bias"][list(COCO_ROWS.dropped)] == -100).all()


def test_side_file_of_a_trained_model(tmp_path):
    """Trained on after the conversion: its own rows, and those that were dropped."""
    tensors = small_tensors("dab_r50")
    convert_official_file(save(tmp_path / "a.pth", tensors), tmp_path / "b.pth")
    model = small_model("dab_r50")
    SafeCheckpointer(model).load(str(tmp_path / "b.pth"))
    with torch.no_grad():
        model.class_embed.bias.add_(1)
    SafeCheckpointer(model, str(tmp_path / "out")).save("model_final")
    manifest = restore_official_file(
        tmp_path / "out/model_final.pth", tmp_path / "c.pth", tmp_path / "b.dropped.safetensors"
    )
    assert manifest.dropped_rows == "b.dropped.safetensors"
    back, old = load_tensors(tmp_path / "c.pth")["model"]["class_embed.bias"], tensors["class_embed.bias"]
    dropped, kept = list(COCO_ROWS.dropped), list(COCO_ROWS.kept)
    assert torch.equal(back[kept], old[kept] + 1)
    assert torch.equal(back[dropped], old[dropped])


@pytest.mark.parametrize(("policy", "rows"), [(ClassPolicy.REMAP, 91), (ClassPolicy.ERROR, 80)])
def test_model_that_was_never_official(tmp_path, policy, rows):
    path = save(tmp_path / "a.pth", small_model("deformable").state_dict())
    manifest = restore_official_file(path, tmp_path / "b.pth", policy=policy, num_queries=SMALL["queries"])
    back = load_tensors(tmp_path / "b.pth")["model"]
    assert manifest.classes.official_rows == len(back["class_embed.2.weight"]) == rows
    assert len(back) == 561
    # The originals load it, and so do we.
    if rows == 91:
        SafeCheckpointer(small_model("deformable")).load(str(tmp_path / "b.pth"))


# Errors, and what they leave


def no_output(tmp_path, *before):
    assert sorted(os.listdir(tmp_path)) == sorted(before)


def test_missing_file(tmp_path):
    for convert in (convert_official_file, restore_official_file):
        with pytest.raises(FileNotFoundError, match="checkpoint .*gone.pth does not exist: check the path"):
            convert(tmp_path / "gone.pth", tmp_path / "b.pth")
    no_output(tmp_path)


def test_unplaced_keys(tmp_path):
    source = save(tmp_path / "a.pth", small_tensors("detr_r50") | {"extra.weight": torch.zeros(1)})
    with pytest.raises(UnplacedKeysError, match="a.pth: looks like DETR.* no place in it: extra.weight") as e:
        convert_official_file(source, tmp_path / "b.pth")
    assert e.value.unplaced == ["extra.weight"]
    no_output(tmp_path, "a.pth")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a": torch.zeros(1)}, "has no official names .*: give one of DETR"),
        (
            {"backbone.0.body.conv1.weight": torch.zeros(1)},
            "not a checkpoint of DETR, Deformable DETR or DAB",
        ),
        (
            {"backbone.0.body.conv1.weight": "text"},
            "something else than tensors: backbone.0.body.conv1.weight",
        ),
    ],
)
def test_files_that_are_not_official(tmp_path, content, message):
    source = save(tmp_path / "a.pth", content)
    with pytest.raises(ValueError, match=message):
        convert_official_file(source, tmp_path / "b.pth")
    no_output(tmp_path, "a.pth")


def test_ways_back_that_there_are_not(tmp_path):
    official = save(tmp_path / "a.pth", small_tensors("detr_r50"))
    with pytest.raises(ValueError, match="a.pth: it has the official names already: leave out --to-official"):
        restore_official_file(official, tmp_path / "b.pth")
    other = save(tmp_path / "c.pth", torch.nn.Linear(2, 2).state_dict())
    with pytest.raises(ValueError, match="c.pth: it is of no Detr, DeformableDetr or DabDetr"):
        restore_official_file(other, tmp_path / "b.pth")
    quantized = save(tmp_path / "d.pth", small_model("detr_r50").state_dict(), bits={"a": 4})
    with pytest.raises(ValueError, match="d.pth: it is quantized"):
        restore_official_file(quantized, tmp_path / "b.pth")
    state = small_model("detr_r50").state_dict()
    headless = {key: value for key, value in state.items() if not key.startswith("backbone.res5")}
    with pytest.raises(UnplacedKeysError, match="e.pth: looks like DETR, another backbone, but 1 keys have"):
        path = save(tmp_path / "e.pth", headless | {"x": torch.zeros(1)}, query_groups=1)
        restore_official_file(path, tmp_path / "b.pth")
    assert not list(tmp_path.glob("b.*"))


def test_side_files_that_do_not_belong(tmp_path):
    convert_official_file(save(tmp_path / "a.pth", small_tensors("detr_r50")), tmp_path / "b.pth")
    convert_official_file(save(tmp_path / "c.pth", small_tensors("detr_r50", seed=1)), tmp_path / "d.pth")
    message = "b.pth: the file of dropped rows .*d.dropped.safetensors is of another official checkpoint"
    with pytest.raises(ValueError, match=message):
        restore_official_file(tmp_path / "b.pth", tmp_path / "e.pth", tmp_path / "d.dropped.safetensors")
    with pytest.raises(FileNotFoundError, match="file of dropped rows .*gone does not exist"):
        restore_official_file(tmp_path / "b.pth", tmp_path / "e.pth", tmp_path / "gone")
    broken = tmp_path / "broken.safetensors"
    whole = (tmp_path / "b.dropped.safetensors").read_bytes()
    for content in (b"", b"text", whole[:100], whole[:-5]):
        broken.write_bytes(content)
        with pytest.raises(
            ValueError, match="broken.safetensors is not a file of dropped rows, or a damaged"
        ):
            restore_official_file(tmp_path / "b.pth", tmp_path / "e.pth", broken)
    five = save(
        tmp_path / "five.pth",
        small_model("detr_r50", "MODEL.DETR.NUM_CLASSES", 5).state_dict(),
        query_groups=1,
    )
    message = "it has 5 classes, and the file of dropped rows .*b.dropped.safetensors was made for 80: leave"
    with pytest.raises(ValueError, match=message):
        restore_official_file(five, tmp_path / "e.pth", tmp_path / "b.dropped.safetensors")
    (tmp_path / "b.dropped.safetensors").rename(tmp_path / "five.dropped.safetensors")
    with pytest.raises(ValueError, match="five.dropped.safetensors was made for 80: .* move it away if it"):
        restore_official_file(five, tmp_path / "e.pth")
    assert not (tmp_path / "e.pth").exists()


def test_record_of_another_number_of_classes(tmp_path):
    """Without a side file there is none to blame."""
    convert_official_file(save(tmp_path / "a.pth", small_tensors("dab_r50")), tmp_path / "b.pth")
    conversion = load_tensors(tmp_path / "b.pth")["conversion"]
    five = small_model("dab_r50", "MODEL.DETR.NUM_CLASSES", 5).state_dict()
    path = save(tmp_path / "five.pth", five, conversion=conversion)
    message = "it has 5 classes, and its own record of its conversion says 80: write .* --classes error"
    with pytest.raises(ValueError, match=message) as error:
        restore_official_file(path, tmp_path / "c.pth")
    assert "side file" not in str(error.value) and "dropped" not in str(error.value)
    assert not (tmp_path / "c.pth").exists()
    manifest = restore_official_file(path, tmp_path / "c.pth", policy=ClassPolicy.ERROR)
    assert manifest.classes.official_rows == 5


def test_outputs_that_may_not_be_written(tmp_path):
    source = save(tmp_path / "a.pth", small_tensors("dab_r50"))
    with pytest.raises(ValueError, match="b.pkl: expected a name that ends in .pth"):
        convert_official_file(source, tmp_path / "b.pkl")
    with pytest.raises(ValueError, match="a.pth is the file to convert"):
        convert_official_file(source, source, force=True)
    convert_official_file(source, tmp_path / "b.pth")
    for file in ("b.pth", "b.manifest.json", "b.dropped.safetensors"):
        for other in ("b.pth", "b.manifest.json", "b.dropped.safetensors"):
            (tmp_path / other).unlink(missing_ok=True)
        (tmp_path / file).write_text("mine")
        with pytest.raises(FileExistsError, match=f"{file} exists: give another --output, or --force"):
            convert_official_file(source, tmp_path / "b.pth")
        assert (tmp_path / file).read_text() == "mine"


def test_force(tmp_path):
    """A side file of before would restore rows that are not these: it goes."""
    source = save(tmp_path / "a.pth", small_tensors("dab_r50"))
    convert_official_file(source, tmp_path / "b.pth")
    choice = ClassChoice(ClassPolicy.REINIT, num_classes=3)
    convert_official_file(source, tmp_path / "b.pth", choice, force=True)
    no_output(tmp_path, "a.pth", "b.pth", "b.manifest.json")
    assert load_tensors(tmp_path / "b.pth")["model"]["class_embed.weight"].shape == (3, 32)


@pytest.mark.parametrize("error", [OSError("no space left"), KeyboardInterrupt()])
@pytest.mark.parametrize("step", ["save", "sha256_of"])
def test_failure_leaves_what_was_there(tmp_path, monkeypatch, error, step):
    source = save(tmp_path / "a.pth", small_tensors("dab_r50"))
    convert_official_file(source, tmp_path / "b.pth")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def fail(first, *_others):
        if step == "save" or str(first).endswith("b.pth"):
            raise error
        return sha256_of(first)

    monkeypatch.setattr(*((torch, "save") if step == "save" else (output_files, "sha256_of")), fail)
    with pytest.raises(type(error)):
        convert_official_file(source, tmp_path / "b.pth", force=True)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
