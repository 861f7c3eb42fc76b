"""MODEL.WEIGHTS names an official file: SafeCheckpointer converts it, or says what does not fit."""

import pytest
import torch

from fisher_detr.checkpoint import COCO_ROWS, SafeCheckpointer, convert_official_file
from tests.checkpoint.official_models import DILATED, small_model, small_tensors
from tests.checkpoint.test_load import RunsCode
from tests.oracles.official_keys import VARIANTS, training_args


def save(path, tensors, **beside):
    torch.save({"model": tensors} | beside, path)
    return str(path)


def error_of(model, path, **options):
    with pytest.raises(ValueError) as error:
        SafeCheckpointer(model, **options).load(str(path))
    message = str(error.value)
    assert "\n" not in message
    assert str(path) in message
    return message


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_loads(variant, tmp_path):
    tensors, model = small_tensors(variant), small_model(variant)
    SafeCheckpointer(model).load(save(tmp_path / "a.pth", tensors))
    state, prefix = model.state_dict(), "detr." if variant.endswith("panoptic") else ""
    assert torch.equal(
        state["backbone.res4.3.conv2.weight"], tensors[f"{prefix}backbone.0.body.layer3.3.conv2.weight"]
    )
    head = "class_embed.5" if variant.startswith("def") else "class_embed"
    old, new = tensors[f"{prefix}{head}.bias"], state[f"{head}.bias"]
    if prefix:
        assert len(new) == 134 and torch.equal(new[-1], old[250])
    else:
        assert torch.equal(new[:80], old[list(COCO_ROWS.kept)])
    with torch.no_grad():
        (output,) = model([{"image": torch.full((3, 96, 64), 99.0)}])
    assert torch.isfinite(output["queries"].pred_boxes.tensor).all()


def test_rows_as_they_are(tmp_path):
    """A model of 91 classes takes all 91 rows; one trained on own data takes its own."""
    for rows in (91, 5):
        tensors = small_tensors("dab_r50", rows=rows)
        model = small_model("dab_r50", "MODEL.DETR.NUM_CLASSES", rows)
        SafeCheckpointer(model).load(save(tmp_path / f"{rows}.pth", tensors))
        assert torch.equal(model.class_embed.weight, tensors["class_embed.weight"])


def test_training_checkpoint(tmp_path):
    """With optimizer and settings beside the weights, counters among them, from a parallel model."""
    tensors = {f"module.{key}": value for key, value in small_tensors("deformable").items()}
    tensors["module.backbone.0.body.bn1.num_batches_tracked"] = torch.tensor(3)
    tensors["module.transformer.total_params"] = torch.zeros(1)
    tensors["module.total_ops"] = torch.zeros(1)
    optimizer = {"state": {0: {"step": 1}}, "param_groups": [{"lr": 0.1, "params": [0]}]}
    model = small_model("deformable")
    path = save(tmp_path / "a.pth", tensors, optimizer=optimizer, args=training_args(dilation=False), epoch=3)
    extra = SafeCheckpointer(model).load(path)
    assert not extra.keys() & {"optimizer", "args", "epoch"}
    assert torch.equal(model.transformer.level_embed, tensors["module.transformer.level_embed"])


def test_bare_state_dict(tmp_path):
    torch.save(small_tensors("detr_r50"), tmp_path / "a.pth")
    SafeCheckpointer(small_model("detr_r50")).load(str(tmp_path / "a.pth"))


def test_to_start_a_training(tmp_path):
    """Where the backbone alone would do, the whole model is taken, or refused."""
    path = save(tmp_path / "a.pth", small_tensors("detr_r50"))
    model = small_model("detr_r50")
    SafeCheckpointer(model, backbone_only=True).load(path)
    assert torch.equal(
        model.class_embed.bias[:80], small_tensors("detr_r50")["class_embed.bias"][list(COCO_ROWS.kept)]
    )
    message = error_of(small_model("dab_r50"), path, backbone_only=True)
    assert "it holds DETR, ResNet-50" in message


@pytest.mark.parametrize("where", ["weights", "args", "beside"])
def test_code_in_an_official_file_is_refused_and_not_run(tmp_path, where):
    victim = tmp_path / "victim"
    tensors, beside = small_tensors("detr_r50"), {"args": training_args()}
    if where == "weights":
        tensors["class_embed.bias"] = RunsCode(victim)
    elif where == "args":
        beside["args"].device = RunsCode(victim)
    else:
        beside["epoch"] = RunsCode(victim)
    path = save(tmp_path / "evil.pth", tensors, **beside)
    assert "check_call, and only tensors are admitted" in error_of(small_model("detr_r50"), path)
    assert not victim.exists()


# What does not fit


TITLES = {
    "detr_r50": "DETR, ResNet-50",
    "detr_r101": "DETR, ResNet-101",
    "deformable": "Deformable DETR, ResNet-50",
    "deformable_refine": "Deformable DETR with box refinement, ResNet-50",
    "deformable_two_stage": "Deformable DETR, two-stage, ResNet-50",
    "deformable_single_scale": "Deformable DETR, single-scale, ResNet-50",
    "dab_r50": "DAB-DETR, ResNet-50",
    "dab_r101": "DAB-DETR, ResNet-101",
    "dab_r50_patterns": "DAB-DETR with 3 patterns, ResNet-50",
}


@pytest.mark.parametrize(
    ("file", "model", "config"),
    [
        ("deformable_two_stage", "deformable", "deformable_detr_r50_two_stage.yaml"),
        ("deformable", "deformable_two_stage", "deformable_detr_r50.yaml"),
        ("deformable_refine", "deformable", "deformable_detr_r50_refine.yaml"),
        ("deformable", "deformable_refine", "deformable_detr_r50.yaml"),
        ("detr_r101", "detr_r50", "detr_r101.yaml"),
        ("detr_r50", "detr_r101", "detr_r50.yaml"),
        ("dab_r101", "dab_r50", "dab_detr_r50.yaml with MODEL.RESNETS.DEPTH 101"),
        ("dab_r50_patterns", "dab_r50", "dab_detr_r50.yaml with MODEL.DAB_DETR.NUM_PATTERNS 3"),
        (
            "deformable_single_scale",
            "deformable",
            "deformable_detr_r50.yaml with MODEL.DEFORMABLE_DETR.NUM_LEVELS 1 "
            "MODEL.DEFORMABLE_DETR.IN_FEATURES '(\"res5\",)'",
        ),
        ("deformable", "deformable_single_scale", "deformable_detr_r50.yaml"),
        ("dab_r50", "detr_r50", "dab_detr_r50.yaml"),
        ("detr_r50", "deformable", "detr_r50.yaml"),
    ],
)
@pytest.mark.parametrize("converted", [False, True])
def test_other_architecture(tmp_path, file, model, config, converted):
    path = save(tmp_path / "a.pth", small_tensors(file))
    if converted:
        convert_official_file(path, tmp_path / "b.pth")
        path = str(tmp_path / "b.pth")
    message = error_of(small_model(model), path)
    assert f"it holds {TITLES[file]}, the config builds {TITLES[model]}: " in message
    assert f": use --config-file configs/coco/{config} (what differs: MODEL." in message


@pytest.mark.parametrize("variant", ["detr_r50", "deformable", "dab_r50"])
def test_other_depth(tmp_path, variant):
    """Two layers more than the config builds, or four less, on either side alike."""
    for layers in (2, 8):
        path = save(tmp_path / "a.pth", small_tensors(variant, layers=layers))
        message = error_of(small_model(variant), path)
        settings = f"MODEL.DETR.ENC_LAYERS {layers} MODEL.DETR.DEC_LAYERS {layers}"
        assert f"it holds {TITLES[variant]}, the config builds another: use --config-file" in message
        assert f".yaml with {settings} (what differs: {settings})" in message


def test_groups_of_queries(tmp_path):
    """An official file has one."""
    path = save(tmp_path / "a.pth", small_tensors("detr_r50"))
    message = error_of(small_model("detr_r50", "MODEL.DETR.QUERY_GROUPS", 3), path)
    assert "the config builds another: use --config-file configs/coco/detr_r50.yaml (what" in message
    assert message.endswith("(what differs: MODEL.DETR.QUERY_GROUPS 1)")


@pytest.mark.parametrize(
    ("file", "model", "settings"),
    [
        ("deformable_two_stage", "deformable_refine", "MODEL.DEFORMABLE_DETR.TWO_STAGE True"),
        ("deformable_refine", "deformable", "MODEL.DEFORMABLE_DETR.BOX_REFINEMENT True"),
        ("deformable", "deformable_refine", "MODEL.DEFORMABLE_DETR.BOX_REFINEMENT False"),
        (
            "deformable_single_scale",
            "deformable",
            "MODEL.DEFORMABLE_DETR.NUM_LEVELS 1 MODEL.DEFORMABLE_DETR.IN_FEATURES '(\"res5\",)'",
        ),
        ("detr_r50", "dab_r50", "MODEL.META_ARCHITECTURE Detr"),
        ("detr_r101", "detr_r50", "MODEL.RESNETS.DEPTH 101"),
    ],
)
def test_other_architecture_of_a_model_trained_here(tmp_path, file, model, settings):
    trained = small_model(file)
    message = error_of(small_model(model), save(tmp_path / "a.pth", trained.state_dict()))
    assert message.endswith(f"it holds {TITLES[file]}, the config builds {TITLES[model]}: set {settings}")


@pytest.mark.parametrize("variant", [name for name in VARIANTS if "101" not in name])
def test_model_trained_here_is_loaded_again(tmp_path, variant):
    """Fresh heads are alike, and none is taken for another."""
    path = save(tmp_path / "a.pth", small_model(variant).state_dict())
    SafeCheckpointer(small_model(variant)).load(path)


def test_another_kind_of_model(tmp_path):
    path = save(tmp_path / "a.pth", small_tensors("detr_r50"))
    message = error_of(torch.nn.Linear(2, 2), path)
    assert (
        "holds DETR, ResNet-50, the config builds another kind of model: use --config-file configs/"
        in message
    )


def test_number_of_classes(tmp_path):
    path = save(tmp_path / "a.pth", small_tensors("detr_r50"))
    message = error_of(small_model("detr_r50", "MODEL.DETR.NUM_CLASSES", 21), path)
    assert "it has 91 class rows (COCO's raw ids, 80 classes), the model 21 classes" in message
    command = (
        f"`python tools/convert_checkpoint.py {path} --output NEW.pth --classes reinit --num-classes 21`"
    )
    assert command in message


def test_class_loss(tmp_path):
    path = save(tmp_path / "a.pth", small_tensors("detr_r50"))
    message = error_of(small_model("detr_r50", "MODEL.DETR.CLASS_LOSS", "focal"), path)
    assert "detr_r50.yaml (what differs: MODEL.DETR.CLASS_LOSS cross_entropy)" in message


@pytest.mark.parametrize("file_dilated", [True, False, None])
@pytest.mark.parametrize("model_dilated", [True, False])
@pytest.mark.parametrize("converted", [True, False])
def test_dilation_where_the_file_tells_it(tmp_path, file_dilated, model_dilated, converted):
    beside = {} if file_dilated is None else {"args": training_args(dilation=file_dilated)}
    path = save(tmp_path / "a.pth", small_tensors("detr_r50"), **beside)
    if converted:
        convert_official_file(path, tmp_path / "b.pth")
        path = str(tmp_path / "b.pth")
    model = small_model("detr_r50", *(DILATED if model_dilated else ()))
    if file_dilated in (None, model_dilated):
        SafeCheckpointer(model).load(path)
    elif file_dilated:
        message = error_of(model, path)
        assert "holds DETR, ResNet-50 DC5, the config builds DETR, ResNet-50: " in message
        assert "configs/coco/detr_r50_dc5.yaml (what differs: MODEL.RESNETS.RES5_DILATION 2)" in message
    else:
        assert "the config builds DETR, ResNet-50 DC5" in error_of(model, path)


def test_unplaced_keys(tmp_path):
    tensors = small_tensors("detr_r50") | {"backbone.1.row_embed.weight": torch.zeros(50, 16)}
    path = save(tmp_path / "a.pth", tensors)
    message = error_of(small_model("detr_r50"), path)
    assert (
        "looks like DETR, ResNet-50, but 1 keys have no place in it: backbone.1.row_embed.weight" in message
    )


def test_other_sizes(tmp_path):
    path = save(tmp_path / "a.pth", small_tensors("detr_r50", queries=9))
    message = error_of(small_model("detr_r50"), path)
    assert r"query_embed.weight is (9, 32), the model has (6, 32)" in message


def test_something_else_than_tensors(tmp_path):
    path = save(tmp_path / "a.pth", small_tensors("detr_r50") | {"note": "text"})
    assert "holds something else than tensors: note" in error_of(small_model("detr_r50"), path)
