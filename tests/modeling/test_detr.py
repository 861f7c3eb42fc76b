"""Detr against transformers' DETR with the same weights, and its behaviour at the edges."""

import copy

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances

from fisher_detr import add_fisher_detr_config
from fisher_detr.structures import CategorySet
from tests.oracles.hf_detectors import build_hf_detr, to_our_names

NUM_CLASSES = 5


def make_cfg(**detr):
    cfg = get_cfg()
    add_fisher_detr_config(cfg)
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.META_ARCHITECTURE = "Detr"
    cfg.MODEL.BACKBONE.NAME = "build_resnet_backbone"
    cfg.MODEL.RESNETS.DEPTH = 18
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res5"]
    cfg.MODEL.PIXEL_MEAN = [123.675, 116.28, 103.53]
    cfg.MODEL.PIXEL_STD = [58.395, 57.12, 57.375]
    small = {
        "NUM_CLASSES": NUM_CLASSES,
        "NUM_QUERIES": 10,
        "HIDDEN_DIM": 32,
        "NHEADS": 4,
        "DIM_FEEDFORWARD": 64,
    }
    small |= {"ENC_LAYERS": 2, "DEC_LAYERS": 2, "DROPOUT": 0.0}
    for key, value in (small | detr).items():
        setattr(cfg.MODEL.DETR, key, value)
    return cfg


def make_input(height, width, num_objects, seed=0):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(num_objects, 2, generator=generator) * torch.tensor([width / 2, height / 2])
    side = 5 + torch.rand(num_objects, 2, generator=generator) * torch.tensor([width / 3, height / 3])
    instances = Instances((height, width))
    instances.gt_boxes = Boxes(torch.cat([corner, corner + side], 1))
    instances.gt_classes = torch.randint(0, NUM_CLASSES, (num_objects,), generator=generator)
    image = torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8)
    return {"image": image, "instances": instances, "height": 2 * height, "width": 2 * width}


@pytest.fixture(scope="module")
def pair():
    oracle = build_hf_detr(NUM_CLASSES)
    model = build_model(make_cfg()).eval()
    model.load_state_dict(to_our_names(oracle.state_dict()), strict=True)
    return model, oracle


def feed_oracle(model, oracle, batch):
    images = model.preprocess(batch)
    mask = torch.zeros(len(batch), *images.tensor.shape[-2:], dtype=torch.int64)
    for i, (h, w) in enumerate(images.image_sizes):
        mask[i, :h, :w] = 1
    return oracle(pixel_values=images.tensor, pixel_mask=mask)


def oracle_labels(batch):
    labels = []
    for x in batch:
        height, width = x["image"].shape[-2:]
        xyxy = x["instances"].gt_boxes.tensor / torch.tensor([width, height, width, height])
        boxes = torch.cat([(xyxy[:, :2] + xyxy[:, 2:]) / 2, xyxy[:, 2:] - xyxy[:, :2]], 1)
        labels.append({"class_labels": x["instances"].gt_classes, "boxes": boxes})
    return labels


@pytest.mark.parametrize(
    "sizes",
    [[(96, 128)], [(96, 128), (64, 160)], [(90, 121), (67, 150)], [(90, 121), (90, 120)]],
    ids=["one", "padded", "no multiples of the stride", "padded by less than a cell"],
)
def test_logits_and_boxes_equal_transformers(pair, sizes):
    model, oracle = pair
    batch = [make_input(*size, 3, seed) for seed, size in enumerate(sizes)]
    with torch.no_grad():
        expected = feed_oracle(model, oracle, batch)
        found = model.decode(model.preprocess(batch))
    torch.testing.assert_close(found.logits[-1, :, 0], expected.logits, atol=1e-4, rtol=0)
    torch.testing.assert_close(found.boxes[-1, :, 0], expected.pred_boxes, atol=1e-4, rtol=0)


def test_losses_equal_transformers(pair):
    """transformers' loss on our predictions of all decoder layers."""
    model, oracle = pair
    batch = [make_input(96, 128, 3, 1), make_input(64, 160, 1, 2), make_input(64, 160, 0, 3)]
    config = copy.deepcopy(oracle.config)
    config.auxiliary_loss = True
    with torch.no_grad():
        found = model.losses(batch)
        predictions = model.decode(model.preprocess(batch))
        logits, boxes = predictions.logits[:, :, 0], predictions.boxes[:, :, 0]
        total, expected, _ = oracle.loss_function(
            logits[-1],
            oracle_labels(batch),
            "cpu",
            boxes[-1],
            config,
            outputs_class=logits,
            outputs_coord=boxes,
        )
    weights = {"loss_ce": 1, "loss_bbox": 5, "loss_giou": 2}
    assert set(found) == {name for name in expected if "cardinality" not in name}
    for name, value in found.items():
        torch.testing.assert_close(
            value, weights[name.removesuffix("_0")] * expected[name], atol=1e-4, rtol=0
        )
    torch.testing.assert_close(sum(found.values()), total, atol=1e-3, rtol=0)


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
def test_any_number_of_objects_trains(objects):
    """Empty images, one object, and more objects than queries."""
    model = build_model(make_cfg(QUERY_GROUPS=2)).train()
    losses = model([make_input(64, 96, count, seed) for seed, count in enumerate(objects)])
    total = sum(losses.values())
    total.backward()
    assert torch.isfinite(total)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    if not any(objects):
        assert losses["loss_bbox"] == 0
        assert losses["loss_giou"] == 0


def test_input_without_annotations_is_named():
    model = build_model(make_cfg()).train()
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
    assert len(output["queries"]) == 10
    assert output["queries"].logits.shape == (10, NUM_CLASSES + 1)
    assert (output["instances"].scores.diff() <= 0).all()


def test_critical_objective_over_all_categories_is_the_overall_one(pair):
    model, _ = pair
    batch = [make_input(64, 96, 3)]
    everything = CategorySet("all", tuple(range(NUM_CLASSES)), NUM_CLASSES)
    with torch.no_grad():
        overall, critical = model.objectives(batch, [None, everything])
    for name in overall:
        torch.testing.assert_close(critical[name], overall[name])


def test_groups_are_matched_on_their_own():
    """The loss of two equal groups is the loss of one."""
    model = build_model(make_cfg(QUERY_GROUPS=2)).train()
    with torch.no_grad():
        model.query_embed.weight[10:] = model.query_embed.weight[:10]
        batch = [make_input(64, 96, 3)]
        grouped = model(batch)
        model.query_groups = 1
        single = model(batch)
    for name in single:
        torch.testing.assert_close(grouped[name], single[name])


def test_number_of_classes_must_be_known():
    with pytest.raises(ValueError, match="NUM_CLASSES is 0"):
        build_model(make_cfg(NUM_CLASSES=0))


def test_feature_that_the_backbone_does_not_give_is_named():
    message = "IN_FEATURE is 'res4', the backbone gives res5: name one.*add it to MODEL.RESNETS.OUT_FEATURES"
    with pytest.raises(ValueError, match=message):
        build_model(make_cfg(IN_FEATURE="res4"))


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
