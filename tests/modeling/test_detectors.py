"""Every detector against transformers' with the same weights, and its behaviour at the edges."""

import contextlib

import pytest
import torch
from detectron2.modeling import build_model
from torch.overrides import TorchFunctionMode

from fisher_detr.layers import twice_differentiable
from fisher_detr.structures import CategorySet
from tests.modeling.detectors import (
    DAB,
    DEFORMABLE,
    NUM_CLASSES,
    NUM_QUERIES,
    REFINED,
    TWO_STAGE,
    VARIANTS,
    feed_oracle,
    make_cfg,
    make_detector,
    make_input,
    make_pair,
    oracle_losses,
)

SIZES = {
    "one": [(96, 128)],
    "padded": [(96, 128), (64, 160)],
    "no multiples of the stride": [(90, 121), (67, 150)],
    "padded by less than a cell": [(90, 121), (90, 120)],
}
ONE_STAGE = [name for name in VARIANTS if name != "two-stage"]


@pytest.fixture(scope="module", params=VARIANTS)
def pair(request):
    return make_pair(request.param)


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_logits_and_boxes_equal_transformers(pair, sizes):
    model, oracle = pair
    batch = [make_input(*size, 3, seed) for seed, size in enumerate(sizes)]
    with torch.no_grad():
        expected = feed_oracle(model, oracle, batch)
        found = model.decode(model.preprocess(batch))
    assert expected.logits.std() > 0.1, "weights too small for a comparison"
    torch.testing.assert_close(found.logits[-1, :, 0], expected.logits, atol=1e-4, rtol=0)
    torch.testing.assert_close(found.boxes[-1, :, 0], expected.pred_boxes, atol=1e-4, rtol=0)


def test_proposals_equal_transformers():
    """Where a box is no proposal its logit is infinite on both sides."""
    model, oracle = make_pair("two-stage")
    batch = [make_input(96, 128, 1, 0), make_input(64, 160, 1, 1)]
    with torch.no_grad():
        expected = feed_oracle(model, oracle, batch)
        found = model.decode(model.preprocess(batch)).proposals
    boxes = expected.enc_outputs_coord_logits.sigmoid()
    torch.testing.assert_close(found.logits[0, :, 0], expected.enc_outputs_class, atol=1e-4, rtol=0)
    torch.testing.assert_close(found.boxes[0, :, 0], boxes, atol=1e-4, rtol=0)
    assert (boxes == 1).any() and (boxes < 1).any()


def test_losses_equal_transformers(pair):
    model, oracle = pair
    batch = [make_input(96, 128, 3, 1), make_input(64, 160, 1, 2), make_input(64, 160, 0, 3)]
    with torch.no_grad():
        found = model.losses(batch)
        expected = oracle_losses(model, oracle, batch)
    found = {name: value for name, value in found.items() if not name.endswith("_enc")}
    assert set(found) == set(expected)
    for name, value in found.items():
        weight = model.criterion.weights[name.removesuffix("_0")]
        torch.testing.assert_close(value, weight * expected[name], atol=1e-4, rtol=1e-5)


def test_batch_one_equals_batch_many(pair):
    model, _ = pair
    batch = [make_input(96, 128, 2, seed) for seed in range(3)]
    with torch.no_grad():
        together = model.decode(model.preprocess(batch))
        for i, item in enumerate(batch):
            alone = model.decode(model.preprocess([item]))
            torch.testing.assert_close(alone.logits[:, 0], together.logits[:, i], atol=1e-4, rtol=0)
            torch.testing.assert_close(alone.boxes[:, 0], together.boxes[:, i], atol=1e-4, rtol=0)


@pytest.mark.parametrize("objects", [[0, 0], [1, 0], [1], [12]], ids=str)
@pytest.mark.parametrize("variant", VARIANTS)
def test_any_number_of_objects_trains(variant, objects):
    """Empty images, one object, and more objects than queries; every parameter takes part."""
    model = make_detector(variant, QUERY_GROUPS=1 if variant == "two-stage" else 2).train()
    losses = model([make_input(64, 96, count, seed) for seed, count in enumerate(objects)])
    total = sum(losses.values())
    total.backward()
    assert torch.isfinite(total)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert not [name for name, p in trained.items() if p.grad is None]
    assert not [name for name, p in trained.items() if not torch.isfinite(p.grad).all()]
    if not any(objects):
        assert all(value == 0 for name, value in losses.items() if "bbox" in name or "giou" in name)


def test_input_without_annotations_is_named():
    model = make_detector("detr").train()
    item = make_input(64, 96, 1)
    del item["instances"]
    with pytest.raises(KeyError, match="instances"):
        model([item | {"file_name": "a.png"}])


def test_detections_are_in_the_original_size(pair):
    model, _ = pair
    with torch.no_grad():
        (output,) = model([make_input(96, 128, 1)])
    for found in output.values():
        assert found.image_size == (192, 256)
        assert (found.pred_boxes.tensor[:, 2] <= 256).all()
        assert (found.pred_boxes.tensor[:, 3] <= 192).all()
    assert len(output["queries"]) in (NUM_QUERIES, 2 * NUM_QUERIES)  # of two patterns
    assert output["queries"].logits.shape[1] == model.criterion.classification.num_logits(NUM_CLASSES)
    assert (output["instances"].scores.diff() <= 0).all()


def test_critical_objective_over_all_categories_is_the_overall_one(pair):
    model, _ = pair
    batch = [make_input(64, 96, 3)]
    everything = CategorySet("all", tuple(range(NUM_CLASSES)), NUM_CLASSES)
    with torch.no_grad():
        overall, critical = model.objectives(batch, [None, everything])
    for name in overall:
        torch.testing.assert_close(critical[name], overall[name])


@pytest.mark.parametrize("variant", ONE_STAGE)
def test_groups_are_matched_on_their_own(variant):
    """The loss of two equal groups is the loss of one."""
    model = make_detector(variant, QUERY_GROUPS=2).train()
    embedding = model.refpoint_embed if variant.startswith("dab") else model.query_embed
    with torch.no_grad():
        embedding.weight[NUM_QUERIES:] = embedding.weight[:NUM_QUERIES]
        batch = [make_input(64, 96, 3)]
        grouped = model(batch)
        model.query_groups = 1
        single = model(batch)
    for name in single:
        torch.testing.assert_close(grouped[name], single[name])


@pytest.mark.parametrize("variant", VARIANTS)
def test_without_deep_supervision_the_last_layer_alone_counts(variant):
    torch.manual_seed(0)
    deep = make_detector(variant).eval()
    shallow = make_detector(variant, DEEP_SUPERVISION=False).eval()
    shallow.load_state_dict(deep.state_dict())
    batch = [make_input(64, 96, 2)]
    with torch.no_grad():
        expected, found = deep.losses(batch), shallow.losses(batch)
    assert found.keys() == {name for name in expected if not name.endswith("_0")}
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name])


def test_number_of_classes_must_be_known():
    with pytest.raises(ValueError, match="NUM_CLASSES is 0"):
        build_model(make_cfg(NUM_CLASSES=0))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"DETR.IN_FEATURE": "res2"}, "IN_FEATURE is 'res2', the backbone gives res3, res4, res5: name one"),
        ({**DAB, "DETR.IN_FEATURE": "res2"}, "IN_FEATURE is 'res2', the backbone gives res3"),
        (
            {**DEFORMABLE, "DEFORMABLE_DETR.IN_FEATURES": ("res2", "res3")},
            "IN_FEATURES is 'res2', the backbone gives res3",
        ),
        (
            {**DEFORMABLE, "DEFORMABLE_DETR.NUM_LEVELS": 2},
            "IN_FEATURES names 3 feature maps and NUM_LEVELS is 2",
        ),
        ({**DEFORMABLE, "DEFORMABLE_DETR.TWO_STAGE": True}, "TWO_STAGE is True: set BOX_REFINEMENT to True"),
        ({**TWO_STAGE, "DETR.QUERY_GROUPS": 3}, "QUERY_GROUPS is 3: a two-stage model"),
    ],
)
def test_settings_that_cannot_be_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        build_model(make_cfg(settings))


def test_images_with_fewer_tokens_than_two_stage_queries_are_named():
    model = build_model(make_cfg(TWO_STAGE, NUM_QUERIES=200)).eval()
    # Strides 8, 16, 32 and 64: 8 x 12 + 4 x 6 + 2 x 3 + 1 x 2.
    with pytest.raises(
        ValueError, match="128 tokens for 200 two-stage queries: lower MODEL.DETR.NUM_QUERIES"
    ):
        model([make_input(64, 96, 0)])


@pytest.mark.parametrize("settings", [DEFORMABLE, REFINED, TWO_STAGE], ids=["plain", "refined", "two-stage"])
def test_heads_are_shared_without_refinement_alone(settings):
    model = build_model(make_cfg(settings))
    depth = 3 if settings is TWO_STAGE else 2
    assert len(model.class_embed) == len(model.bbox_embed) == depth
    assert len({id(head) for head in model.bbox_embed}) == (1 if settings is DEFORMABLE else depth)


def test_first_boxes_and_scores_of_deformable_detr():
    """Box head 0 but for a bias of -2 on the sides (0 in two-stage), classes at a prior of 0.01."""
    for variant, side in (("deformable", -2.0), ("refined", -2.0), ("two-stage", 0.0)):
        model = make_detector(variant)
        first = model.bbox_embed[0].layers[-1]
        assert not first.weight.any()
        assert first.bias.tolist() == [0.0, 0.0, side, side]
        assert model.class_embed[0].bias.sigmoid().tolist() == pytest.approx([0.01] * NUM_CLASSES)


def test_forward_pass_asks_the_device_for_nothing(pair, monkeypatch):
    """Each answer that Python asks for makes a GPU wait."""
    model, _ = pair
    images = model.preprocess([make_input(96, 128, 0), make_input(64, 96, 0)])

    def refuse(_tensor):
        raise AssertionError("asked for a value")

    for name in ("__bool__", "item", "tolist", "cpu", "numpy"):
        monkeypatch.setattr(torch.Tensor, name, refuse)
    with torch.no_grad():
        model.decode(images)


class CopiesToDevice(TorchFunctionMode):
    """Counts the tensors that are made of Python's numbers; on a GPU each is a copy from the host."""

    count = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        self.count += function in (torch.tensor, torch.as_tensor, torch.Tensor.new_tensor)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("twice", [False, True], ids=["grid sample", "gather"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_layers_copy_nothing_to_the_device(variant, twice):
    """A level's size is known to all layers: more layers make no more copies."""
    counts = []
    for depth in (1, 3):
        model = make_detector(variant, ENC_LAYERS=depth, DEC_LAYERS=depth).eval()
        images = model.preprocess([make_input(96, 128, 0), make_input(64, 96, 0)])
        operators = twice_differentiable() if twice else contextlib.nullcontext()
        with torch.no_grad(), operators, CopiesToDevice() as copies:
            model.decode(images)
        counts.append(copies.count)
    assert counts == ([0, 0] if variant.startswith(("detr", "dab")) else [1, 1])
