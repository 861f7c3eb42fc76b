"""State dicts of every official variant to the names here and back."""

import dataclasses

import pytest
import torch
from torch import nn

from fisher_detr.checkpoint import Family, UnplacedKeysError
from fisher_detr.checkpoint.convert import to_official, to_ours, with_repeated, without_repeated
from fisher_detr.checkpoint.naming import tensor_names
from fisher_detr.checkpoint.official import take_apart
from fisher_detr.checkpoint.recognition import recognise_model, recognise_official, recognise_ours
from fisher_detr.layers import MultiheadAttention
from tests.checkpoint.official_models import small_model, small_tensors
from tests.oracles.official_keys import VARIANTS, official_shapes

PLAIN = [name for name in VARIANTS if not name.endswith("panoptic")]
# The number of parameters that the originals print when they train: without the frozen ones.
KNOWN_SIZES = {"detr_r50": 41_302_368, "deformable": 39_847_265}


@pytest.mark.parametrize("variant", VARIANTS)
def test_number_of_names(variant):
    arguments, count = VARIANTS[variant]
    assert len(official_shapes(**arguments)) == count


@pytest.mark.parametrize("variant", KNOWN_SIZES)
def test_size_of_the_oracle(variant):
    shapes = official_shapes(**VARIANTS[variant][0])
    frozen = (".bn", "downsample.1", "body.conv1", "layer1")
    trained = {
        key: shape
        for key, shape in shapes.items()
        if not ("backbone" in key and any(part in key for part in frozen))
        and not any(f"_embed.{head}." in key for head in range(1, 6))  # the head of layer 0 once more
    }
    assert sum(torch.Size(shape).numel() for shape in trained.values()) == KNOWN_SIZES[variant]


@pytest.mark.parametrize("variant", PLAIN)
def test_there_and_back(variant):
    official = small_tensors(variant)
    architecture = recognise_official(official)
    state = with_repeated(to_ours(official, architecture), architecture)
    assert recognise_ours(state) == _by_the_weights(architecture)
    back = to_official(without_repeated(state, architecture), architecture)
    assert back.keys() == official.keys()
    assert all(torch.equal(back[key], value) for key, value in official.items())


@pytest.mark.parametrize("variant", VARIANTS)
def test_fits_the_model(variant):
    """Every name, every shape, and what the model tells of itself is what the file told."""
    official = take_apart({"model": small_tensors(variant)})
    rows = official.raw_rows
    model = small_model(variant, "MODEL.DETR.NUM_CLASSES", rows)
    architecture = official.architecture
    state = with_repeated(to_ours(official.state, architecture), architecture)
    model.load_state_dict(state)
    assert not architecture.conflicts(recognise_model(model))
    for key, value in model.state_dict().items():
        assert torch.equal(value, state[key]), key


def test_architectures_are_told_apart():
    found = {name: take_apart({"model": small_tensors(name)}).architecture for name in VARIANTS}
    assert {a.depth for name, a in found.items() if "101" in name} == {101}
    assert {a.depth for name, a in found.items() if "101" not in name} == {50}
    assert [name for name, a in found.items() if a.two_stage] == ["deformable_two_stage"]
    assert [name for name, a in found.items() if a.refinement] == [
        "deformable_refine",
        "deformable_two_stage",
    ]
    assert [name for name, a in found.items() if a.patterns == 3] == ["dab_r50_patterns"]
    assert found["detr_r50"].family is Family.DETR
    assert found["deformable"].levels == 4
    assert found["deformable"].in_features == ("res3", "res4", "res5")
    assert found["deformable_single_scale"].levels == 1
    assert found["deformable_single_scale"].in_features == ("res5",)
    assert found["dab_r50"].title == "DAB-DETR, ResNet-50"
    assert found["deformable_two_stage"].title == "Deformable DETR, two-stage, ResNet-50"


def test_heads_of_a_model_that_are_alike_are_still_its_own():
    model = small_model("deformable_refine")
    for heads in (model.class_embed, model.bbox_embed):
        for head in heads:
            head.load_state_dict(heads[0].state_dict())
    assert recognise_model(model).refinement
    assert not recognise_model(small_model("deformable")).refinement


# Where single tensors go


def test_stem_and_shortcut():
    official = small_tensors("detr_r50")
    ours = to_ours(official, recognise_official(official))
    body, backbone = "backbone.0.body", "backbone"
    for theirs, here in {
        "conv1.weight": "stem.conv1.weight",
        "bn1.running_var": "stem.conv1.norm.running_var",
        "layer1.0.downsample.0.weight": "res2.0.shortcut.weight",
        "layer2.0.downsample.1.running_mean": "res3.0.shortcut.norm.running_mean",
        "layer3.5.conv2.weight": "res4.5.conv2.weight",
        "layer4.2.bn3.bias": "res5.2.conv3.norm.bias",
    }.items():
        assert ours[f"{backbone}.{here}"] is official[f"{body}.{theirs}"]


@pytest.mark.parametrize(
    ("variant", "norms"),
    [
        ("detr_r50", {1: "self_attn_norm", 2: "cross_attn_norm", 3: "ffn.norm"}),
        ("dab_r50", {1: "self_attn_norm", 2: "cross_attn_norm", 3: "ffn.norm"}),
        # Its decoder attends to the queries first and normalizes that with norm2.
        ("deformable", {1: "cross_attn_norm", 2: "self_attn_norm", 3: "ffn.norm"}),
    ],
)
def test_norms_of_the_decoder(variant, norms):
    official = small_tensors(variant)
    ours = to_ours(official, recognise_official(official))
    for number, name in norms.items():
        theirs = official[f"transformer.decoder.layers.4.norm{number}.weight"]
        assert ours[f"transformer.decoder.4.{name}.weight"] is theirs


def test_packed_attention_computes_the_same():
    """nn.MultiheadAttention's state, split by the converter, in our modules: the same function in float64."""
    torch.manual_seed(0)
    theirs = nn.MultiheadAttention(32, 4, batch_first=True).double()
    nn.init.uniform_(theirs.in_proj_bias)
    nn.init.uniform_(theirs.out_proj.bias)
    official = small_tensors("detr_r50")
    prefix = "transformer.encoder.layers.2.self_attn."
    official |= {prefix + key: value for key, value in theirs.state_dict().items()}
    ours = to_ours(official, recognise_official(official))
    here = MultiheadAttention(32, 4).double()
    begin = "transformer.encoder.2.self_attn."
    here.load_state_dict({k.removeprefix(begin): v for k, v in ours.items() if k.startswith(begin)})
    query, key, value = torch.rand(3, 2, 5, 32, dtype=torch.float64)
    mask = torch.tensor([[True] * 5, [True, True, False, True, False]])
    expected = theirs(query, key, value, key_padding_mask=~mask)[0]
    assert (here(query, key, value, mask) - expected).abs().max() < 1e-12


def test_split_tensors_have_their_own_memory():
    official = small_tensors("detr_r50")
    ours = to_ours(official, recognise_official(official))
    q = ours["transformer.encoder.0.self_attn.q_proj.weight"]
    assert q.untyped_storage().nbytes() == q.numel() * q.element_size()


# One tensor under several names


def test_repeated_tensors_are_one():
    official = small_tensors("deformable")
    architecture = recognise_official(official)
    distinct = to_ours(official, architecture)
    assert not [key for key in distinct if key.startswith(("class_embed.1", "bbox_embed.1"))]
    state = with_repeated(distinct, architecture)
    assert state["bbox_embed.5.layers.1.bias"] is state["bbox_embed.0.layers.1.bias"]
    # 561 names stand for 561 - 5 x 8 tensors: a head has 2 + 6, and five of the six repeat the first.
    assert len({id(value) for value in official.values()}) == 521
    assert len({name.ours for name in tensor_names(architecture)}) == 521
    back = to_official(distinct, architecture)
    assert back["class_embed.3.weight"] is back["class_embed.0.weight"]


def test_repeated_tensors_that_lost_their_sharing():
    """Equal copies, as a format without shared memory leaves them."""
    official = {key: value.clone() for key, value in small_tensors("deformable").items()}
    architecture = recognise_official(official)
    assert len(to_ours(official, architecture)) == len(to_ours(small_tensors("deformable"), architecture))


@pytest.mark.parametrize(
    ("variant", "key"),
    [
        ("deformable", "class_embed.3.bias"),
        ("deformable_refine", "transformer.decoder.bbox_embed.2.layers.0.weight"),
        ("dab_r50", "transformer.decoder.bbox_embed.layers.2.bias"),
    ],
)
def test_repeated_tensors_that_differ(variant, key):
    official = small_tensors(variant)
    official[key] = official[key] + 1
    with pytest.raises(ValueError, match="differ: .* stores one tensor under both") as error:
        to_ours(official, recognise_official(official))
    assert key in str(error.value)


def test_heads_of_ours_that_differ():
    official = small_tensors("deformable")
    architecture = recognise_official(official)
    state = with_repeated(to_ours(official, architecture), architecture)
    state["class_embed.3.bias"] = state["class_embed.3.bias"] + 1
    with pytest.raises(ValueError, match="class_embed.3.bias and class_embed.0.bias differ"):
        without_repeated(state, architecture)


# Keys without a place


@pytest.mark.parametrize("variant", PLAIN)
def test_unknown_and_missing_keys_are_named(variant):
    official = small_tensors(variant)
    architecture = recognise_official(official)
    strange = {
        "backbone.1.row_embed.weight": torch.zeros(1),
        "transformer.encoder.norm.weight": torch.zeros(1),
    }
    lost = "transformer.decoder.layers.2.linear1.bias"
    del official[lost]
    with pytest.raises(UnplacedKeysError) as error:
        to_ours(official | strange, architecture)
    assert error.value.unplaced == sorted(strange)
    assert error.value.missing == [lost]
    assert f"looks like {architecture.title}, but 2 keys have no place in it: " in str(error.value)
    assert f"1 keys are missing: {lost}" in str(error.value)
    assert "\n" not in str(error.value)


def test_long_lists_are_shortened_and_kept():
    official = small_tensors("detr_r50") | {f"extra.{i}": torch.zeros(1) for i in range(30)}
    with pytest.raises(UnplacedKeysError, match="30 keys have no place in it: .* and 10 more$") as error:
        to_ours(official, recognise_official(official))
    assert len(error.value.unplaced) == 30


def test_packed_tensor_of_a_strange_length():
    official = small_tensors("detr_r50")
    key = "transformer.encoder.layers.0.self_attn.in_proj_bias"
    official[key] = official[key][:-1]
    with pytest.raises(ValueError, match=f"{key} has 95 rows: expected those of q, k and v"):
        to_ours(official, recognise_official(official))


def test_other_detectors_are_refused():
    keys = {"backbone.0.body.conv1.weight": torch.zeros(1), "transformer.tgt_embed.weight": torch.zeros(1)}
    with pytest.raises(ValueError, match=r"not a checkpoint of DETR.*\(transformer.tgt_embed.weight, ...\)"):
        recognise_official(keys)


def _by_the_weights(architecture):
    """Weights here tell the number of rows, and not what the last one, or a group of queries, is for."""
    return dataclasses.replace(architecture, class_loss=None, query_groups=None)
