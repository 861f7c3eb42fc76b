"""The criterion and its critical form against loops over plain numbers."""

import pytest
import torch
from detectron2.utils import comm

from fisher_detr.modeling import (
    BoxLoss,
    HungarianMatcher,
    Predictions,
    SetCriterion,
    SigmoidClassification,
    SoftmaxClassification,
    Targets,
    critical_losses,
)
from fisher_detr.structures import CategorySet
from tests.modeling.set_problems import NUM_CLASSES, as_lists, random_problem
from tests.oracles import naive_set_loss

COUNTS = [[3, 0, 2], [0, 0], [6, 1], [1]]  # four queries: six objects are more than that


def make_criterion(no_object_weight=0.1, **options):
    return SetCriterion(
        matcher=HungarianMatcher(classification=SoftmaxClassification(no_object_weight)), **options
    )


def check(found, expected):
    assert list(found) != []
    assert set(found) == set(expected)
    for name, value in found.items():
        assert value.shape == ()
        assert float(value) == pytest.approx(expected[name], abs=1e-12), name


@pytest.mark.parametrize("counts", COUNTS, ids=str)
def test_equals_a_loop(counts):
    predictions, targets = random_problem(counts, layers=3)
    expected = naive_set_loss.set_losses(predictions.logits, predictions.boxes, as_lists(targets))
    check(make_criterion()(predictions, targets), expected)


def test_small_objects_count_as_they_are():
    """4 px in an image of 1000 px: an epsilon of 1e-7 in the areas would be 1 % of the IoU."""
    predictions, targets = random_problem([3], layers=1, groups=1)
    targets = [Targets(t.classes, t.boxes * torch.tensor([1, 1, 0.01, 0.01])) for t in targets]
    boxes = predictions.boxes.clone()
    boxes[0, 0, 0, :3] = targets[0].boxes + 1e-3
    predictions = Predictions(predictions.logits, boxes)
    expected = naive_set_loss.set_losses(predictions.logits, predictions.boxes, as_lists(targets))
    check(make_criterion()(predictions, targets), expected)


def test_weights():
    predictions, targets = random_problem([2, 1])
    weights, no_object = (2.0, 3.0, 0.5), 0.4
    expected = naive_set_loss.set_losses(
        predictions.logits, predictions.boxes, as_lists(targets), None, weights, no_object
    )
    criterion = make_criterion(class_weight=2.0, l1_weight=3.0, giou_weight=0.5, no_object_weight=no_object)
    check(criterion(predictions, targets), expected)


@pytest.mark.parametrize("counted", [[True, False, True], [False, False, False]], ids=["some", "none"])
def test_objects_that_do_not_count_in_the_box_losses(counted):
    predictions, targets = random_problem([2, 0, 1])
    expected = naive_set_loss.set_losses(predictions.logits, predictions.boxes, as_lists(targets), counted)
    found = make_criterion()(predictions, targets, torch.tensor(counted))
    check(found, expected)
    if not any(counted):
        assert found["loss_bbox"] == found["loss_giou"] == 0


@pytest.mark.parametrize("box_loss", list(BoxLoss))
@pytest.mark.parametrize("critical", [(1, 3), (4,), tuple(range(NUM_CLASSES))], ids=str)
def test_critical_losses_equal_the_transform_by_hand(critical, box_loss):
    predictions, targets = random_problem([3, 0, 2, 6], seed=3)
    plain = as_lists(targets)
    logits, labels = naive_set_loss.collapse(predictions.logits, [c for c, _ in plain], critical)
    collapsed = [(labels[i], boxes) for i, (_, boxes) in enumerate(plain)]
    counted = None
    if box_loss is BoxLoss.CRITICAL:
        counted = [c in critical for classes, _ in plain for c in classes]
    expected = naive_set_loss.set_losses(logits, predictions.boxes, collapsed, counted)
    category_set = CategorySet("critical", critical, NUM_CLASSES)
    check(critical_losses(make_criterion(), predictions, targets, category_set, box_loss), expected)


def test_critical_losses_without_a_critical_object_are_finite():
    predictions, targets = random_problem([2])
    targets = [Targets(torch.tensor([0, 1]), targets[0].boxes)]
    category_set = CategorySet("absent", (3,), NUM_CLASSES)
    found = critical_losses(make_criterion(), predictions, targets, category_set, BoxLoss.CRITICAL)
    assert found["loss_bbox"] == found["loss_giou"] == 0
    assert torch.isfinite(found["loss_ce"])


def sigmoid_criterion():
    return SetCriterion(matcher=HungarianMatcher(classification=SigmoidClassification()))


def test_critical_losses_of_a_sigmoid_head():
    """No column for no-object: [1, 3, largest of the others], and an other object is of that class."""
    predictions, targets = random_problem([3, 0, 2], seed=3, columns=NUM_CLASSES)
    logits = predictions.logits
    others = torch.maximum(torch.maximum(logits[..., 0], logits[..., 2]), logits[..., 4])
    collapsed = torch.stack([logits[..., 1], logits[..., 3], others], dim=-1)
    position = {1: 0, 3: 1}
    labels = [torch.tensor([position.get(c, 2) for c in t.classes.tolist()]).long() for t in targets]
    expected = sigmoid_criterion()(
        Predictions(collapsed, predictions.boxes),
        [Targets(label, t.boxes) for label, t in zip(labels, targets, strict=True)],
    )
    category_set = CategorySet("critical", (1, 3), NUM_CLASSES)
    found = critical_losses(sigmoid_criterion(), predictions, targets, category_set, BoxLoss.ALL)
    check(found, {name: float(value) for name, value in expected.items()})


def with_proposals(predictions, seed=9):
    proposals, _ = random_problem(
        [0] * predictions.logits.shape[1], layers=1, groups=1, seed=seed, columns=NUM_CLASSES
    )
    return Predictions(predictions.logits, predictions.boxes, proposals)


def test_losses_of_proposals_know_one_category():
    """They are the losses of the proposals alone, with every object of category 0."""
    predictions, targets = random_problem([3, 0, 2], columns=NUM_CLASSES)
    predictions = with_proposals(predictions)
    found = sigmoid_criterion()(predictions, targets)
    objects = [Targets(torch.zeros_like(t.classes), t.boxes) for t in targets]
    alone = sigmoid_criterion()(predictions.proposals, objects)
    without = sigmoid_criterion()(Predictions(predictions.logits, predictions.boxes), targets)
    expected = without | {f"{name}_enc": value for name, value in alone.items()}
    check(found, {name: float(value) for name, value in expected.items()})


def test_critical_losses_leave_the_classes_of_proposals_alone():
    predictions, targets = random_problem([3, 0, 2], columns=NUM_CLASSES)
    predictions = with_proposals(predictions)
    overall = sigmoid_criterion()(predictions, targets)
    category_set = CategorySet("critical", (1,), NUM_CLASSES)
    found = critical_losses(sigmoid_criterion(), predictions, targets, category_set, BoxLoss.ALL)
    assert {name for name in found if name.endswith("_enc")} == {
        "loss_ce_enc",
        "loss_bbox_enc",
        "loss_giou_enc",
    }
    for name in ("loss_ce_enc", "loss_bbox_enc", "loss_giou_enc"):
        torch.testing.assert_close(found[name], overall[name])
    assert not torch.allclose(found["loss_ce"], overall["loss_ce"])


def test_no_object_weight_of_zero_on_empty_images():
    """0 / 0: nothing counts, so there is no loss."""
    predictions, targets = random_problem([0, 0])
    found = make_criterion(no_object_weight=0.0)(predictions, targets)
    assert all(value == 0 for value in found.values())


@pytest.mark.parametrize("sign", [-1, 1])
def test_gradients_of_saturated_heads_are_finite(sign):
    """Logits of 1e4 and boxes that the sigmoid drives to 0 or 1, in float32."""
    generator = torch.Generator().manual_seed(0)
    logits = (sign * 1e4 * torch.randn(1, 2, 1, 4, NUM_CLASSES + 1, generator=generator)).requires_grad_()
    raw = (sign * 1e3 * torch.ones(1, 2, 1, 4, 4)).requires_grad_()
    _, targets = random_problem([3, 0])
    targets = [Targets(target.classes, target.boxes.float()) for target in targets]
    losses = make_criterion()(Predictions(logits, raw.sigmoid()), targets)
    total = sum(losses.values())
    total.backward()
    assert torch.isfinite(total)
    assert torch.isfinite(logits.grad).all()
    assert torch.isfinite(raw.grad).all()


def test_gradients_equal_finite_differences():
    predictions, targets = random_problem([2, 1], layers=1, groups=1)
    criterion = make_criterion()

    def total(logits, boxes):
        return sum(criterion(Predictions(logits, boxes), targets).values())

    inputs = (predictions.logits.requires_grad_(), predictions.boxes.requires_grad_())
    assert torch.autograd.gradcheck(total, inputs, eps=1e-7, atol=1e-5)


def test_every_process_divides_by_the_mean_number_of_objects(monkeypatch):
    """This process has 3 objects, the other 1: both divide by 2."""
    predictions, targets = random_problem([3])
    alone = make_criterion()(predictions, targets)
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda total: total.add_(1))
    shared = make_criterion()(predictions, targets)
    torch.testing.assert_close(shared["loss_bbox"], alone["loss_bbox"] * 3 / 2)
    torch.testing.assert_close(shared["loss_ce"], alone["loss_ce"])


def test_one_image_as_one_sample_asks_no_other_process(monkeypatch):
    """Where the ranks do not all call, a collective would wait for ever."""
    predictions, targets = random_problem([3])
    chosen = CategorySet("chosen", (0, 2), NUM_CLASSES)
    alone = make_criterion()(predictions, targets)
    critical = critical_losses(make_criterion(), predictions, targets, chosen)
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda _: pytest.fail("a collective"))
    assert make_criterion()(predictions, targets, across_ranks=False) == alone
    assert critical_losses(make_criterion(), predictions, targets, chosen, across_ranks=False) == critical


def test_half_precision_is_widened():
    half = Predictions(torch.zeros(1, dtype=torch.float16), torch.zeros(1, dtype=torch.bfloat16))
    assert {half.in_float32().logits.dtype, half.in_float32().boxes.dtype} == {torch.float32}
    double = Predictions(torch.zeros(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64))
    assert double.in_float32().logits.dtype == torch.float64
