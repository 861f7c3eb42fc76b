"""Which rows of an official class head become which class."""

import pytest
import torch

from fisher_detr.checkpoint import COCO_ROWS, PANOPTIC_ROWS, ClassPolicy, ClassRows
from fisher_detr.checkpoint.class_rows import choose_rows
from fisher_detr.checkpoint.convert import keep_rows, new_rows, restore_rows, to_ours
from fisher_detr.checkpoint.recognition import recognise_official
from tests.checkpoint.official_models import small_tensors

# By hand: ids that COCO does not use, as rows of a head with one for each id from 0 to 90.
UNUSED = (0, 12, 26, 29, 30, 45, 66, 68, 69, 71, 83)


def ours_of(variant, **changes):
    official = small_tensors(variant, **changes)
    architecture = recognise_official(official)
    return to_ours(official, architecture), architecture


def test_rows_of_coco():
    assert COCO_ROWS.raw == 91
    assert COCO_ROWS.dropped == UNUSED
    assert COCO_ROWS.num_classes == 80
    assert COCO_ROWS.kept[:3] == (1, 2, 3)
    assert COCO_ROWS.kept[11] == 13  # stop sign: 12 is not used
    assert COCO_ROWS.kept[-1] == 90  # toothbrush


def test_rows_of_coco_panoptic():
    assert PANOPTIC_ROWS.raw == 250
    assert PANOPTIC_ROWS.num_classes == 133
    assert PANOPTIC_ROWS.kept[:80] == COCO_ROWS.kept
    assert PANOPTIC_ROWS.kept[80] == 92  # banner
    assert PANOPTIC_ROWS.kept[-1] == 200  # rug-merged


def test_detr_keeps_no_object_last():
    ours, architecture = ours_of("detr_r50")
    kept, dropped = keep_rows(ours, architecture, COCO_ROWS)
    old, new = ours["class_embed.weight"], kept["class_embed.weight"]
    assert old.shape[0] == 92 and new.shape[0] == 81
    assert torch.equal(new[80], old[91])
    assert torch.equal(new[11], old[13])
    assert torch.equal(dropped["class_embed.weight"], old[list(UNUSED)])
    assert torch.equal(kept["class_embed.bias"][79], ours["class_embed.bias"][90])
    assert kept["bbox_embed.layers.0.weight"] is ours["bbox_embed.layers.0.weight"]


def test_sigmoid_heads_have_no_object_row():
    for variant in ("dab_r50", "deformable"):
        ours, architecture = ours_of(variant)
        kept, dropped = keep_rows(ours, architecture, COCO_ROWS)
        (name,) = (key for key in dropped if key.endswith("weight"))
        assert len(kept[name]) == 80
        assert torch.equal(kept[name], ours[name][list(COCO_ROWS.kept)])


def test_head_of_the_proposals_keeps_its_first_rows():
    """Proposals are ranked by channel 0: the id map would put id 1 there."""
    ours, architecture = ours_of("deformable_two_stage")
    kept, dropped = keep_rows(ours, architecture, COCO_ROWS)
    for leaf in ("weight", "bias"):
        name = f"class_embed.6.{leaf}"
        assert torch.equal(kept[name], ours[name][:80])
        assert torch.equal(dropped[name], ours[name][80:])
        last_layer = f"class_embed.5.{leaf}"
        assert torch.equal(kept[last_layer], ours[last_layer][list(COCO_ROWS.kept)])


@pytest.mark.parametrize("variant", ["detr_r50", "deformable", "deformable_two_stage", "dab_r50"])
def test_dropped_rows_come_back(variant):
    ours, architecture = ours_of(variant)
    kept, dropped = keep_rows(ours, architecture, COCO_ROWS)
    restored = restore_rows(kept, architecture, COCO_ROWS, dropped)
    assert restored.keys() == ours.keys()
    assert all(torch.equal(restored[key], value) for key, value in ours.items())


@pytest.mark.parametrize("variant", ["detr_r50", "deformable_two_stage"])
def test_rows_that_are_lost_are_never_predicted(variant):
    """All else is as it was; a made-up row scores below every other, whatever the query."""
    ours, architecture = ours_of(variant)
    kept, _ = keep_rows(ours, architecture, COCO_ROWS)
    restored = restore_rows(kept, architecture, COCO_ROWS, {})
    head = "class_embed.0" if variant.startswith("def") else "class_embed"
    logits = torch.nn.functional.linear(
        torch.randn(10, 32, generator=torch.Generator().manual_seed(0)),
        restored[f"{head}.weight"],
        restored[f"{head}.bias"],
    )
    others = [row for row in range(logits.shape[1]) if row not in UNUSED]
    assert logits[:, list(UNUSED)].max() == -100 < logits[:, others].min()
    rows = restored[f"{head}.weight"][others]
    assert torch.equal(rows, ours[f"{head}.weight"][others])


def test_dropped_rows_of_another_shape():
    ours, architecture = ours_of("detr_r50")
    kept, dropped = keep_rows(ours, architecture, COCO_ROWS)
    dropped["class_embed.bias"] = dropped["class_embed.bias"][1:]
    with pytest.raises(ValueError, match=r"11 dropped rows of class_embed.bias .* has \(10,\)"):
        restore_rows(kept, architecture, COCO_ROWS, dropped)


@pytest.mark.parametrize("variant", ["detr_r50", "deformable_refine", "dab_r50"])
def test_new_rows(variant):
    ours, architecture = ours_of(variant)
    fresh = new_rows(ours, architecture, 7)
    no_object = architecture.has_no_object
    assert no_object == (variant == "detr_r50")
    heads = [key for key in ours if key.startswith("class_embed") and key.endswith("weight")]
    assert len(heads) == (6 if variant == "deformable_refine" else 1)
    for head in heads:
        weight, bias = fresh[head], fresh[head.replace("weight", "bias")]
        assert weight.shape == (7 + no_object, 32)
        assert 0.1 < weight.abs().max() <= 32**-0.5
        if no_object:
            assert bias.abs().max() <= 32**-0.5
        else:
            assert torch.allclose(bias.sigmoid(), torch.tensor(0.01))
    rest = fresh.keys() - {key for key in ours if key.startswith("class_embed")}
    assert all(fresh[key] is ours[key] for key in rest)
    again, other = new_rows(ours, architecture, 7), new_rows(ours, architecture, 7, seed=1)
    assert torch.equal(again[heads[0]], fresh[heads[0]])
    assert not torch.equal(other[heads[0]], fresh[heads[0]])


@pytest.mark.parametrize("num_classes", [7, 120])
def test_new_rows_leave_the_ranking_of_proposals(num_classes):
    ours, architecture = ours_of("deformable_two_stage")
    fresh = new_rows(ours, architecture, num_classes)
    for leaf in ("weight", "bias"):
        new, old = fresh[f"class_embed.6.{leaf}"], ours[f"class_embed.6.{leaf}"]
        assert len(new) == num_classes
        assert torch.equal(new[: min(num_classes, 91)], old[:num_classes])


# Choosing


def test_choice_by_number():
    assert choose_rows(91, ClassPolicy.REMAP) is COCO_ROWS
    assert choose_rows(250, ClassPolicy.REMAP) is PANOPTIC_ROWS
    assert choose_rows(8, ClassPolicy.ERROR).kept == tuple(range(8))
    assert choose_rows(8, ClassPolicy.REMAP, ids=[3, 1, 7]).kept == (1, 3, 7)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            (8, ClassPolicy.REMAP),
            "its head has 8 class rows, neither COCO's 91 nor .* --class-ids, .* --classes",
        ),
        (
            (91, ClassPolicy.REMAP, 21),
            r"91 class rows \(COCO's raw ids, 80 classes\), 80 .* kept, not 21: .* --num-classes 21$",
        ),
        ((91, ClassPolicy.ERROR, 80), r"91 class rows .*, 91 of them are kept, not 80"),
        ((8, ClassPolicy.REMAP, None, [1, 8]), "class ids 1 to 8, the head has 8 rows"),
        ((8, ClassPolicy.REMAP, None, [-1, 3]), "class ids -1 to 3"),
        ((8, ClassPolicy.REMAP, None, [2, 2]), r"class ids \[2, 2\]: expected ascending"),
        ((8, ClassPolicy.REMAP, None, []), r"class ids \[\]"),
    ],
)
def test_choices_that_do_not_fit(arguments, message):
    with pytest.raises(ValueError, match=message):
        choose_rows(*arguments)


def test_identity():
    rows = ClassRows.all_of(5)
    assert rows.is_identity and not rows.dropped
    ours, architecture = ours_of("dab_r50", rows=5)
    kept, dropped = keep_rows(ours, architecture, rows)
    assert not dropped
    assert torch.equal(kept["class_embed.weight"], ours["class_embed.weight"])
