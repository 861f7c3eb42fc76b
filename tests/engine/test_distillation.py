"""Distillation from the model in full precision against loops over plain numbers."""

import copy
import gc
import itertools
import math
import weakref

import pytest
import torch
from detectron2.modeling import build_model

from fisher_detr.engine import prepare
from fisher_detr.engine.distillation import Distillation, DistillationSettings
from fisher_detr.quantization import calibrate_activations
from tests.modeling.detectors import NUM_QUERIES, SMALL_BACKBONE, VARIANTS, make_cfg, make_input

BATCH = [make_input(64, 96, 3, seed=0), make_input(48, 80, 0, seed=1)]
MODELS = ("detr", "dab", "deformable")
GROUPS = 2


def make_model(variant, seed=0, **detr):
    torch.manual_seed(seed)
    model = build_model(
        make_cfg(VARIANTS[variant].settings | SMALL_BACKBONE, **({"QUERY_GROUPS": GROUPS} | detr))
    )
    with torch.no_grad():
        for parameter in model.parameters():  # so that class and box heads say something
            parameter += 0.05 * torch.randn(parameter.shape)
    return model.double()


def make_pair(variant, **detr):
    """A student in training mode and a teacher that differs from it."""
    return make_model(variant, 0, **detr).train(), make_model(variant, 1, **detr)


def predict(model):
    """Predictions in the mode of the model."""
    return model.decode(model.preprocess(BATCH))


def distilled(student, teacher, **settings):
    term = Distillation(student, teacher, DistillationSettings(**settings))
    return term(predict(student), [], BATCH)


def probabilities(logits, temperature):
    """Softmax, by the plain formula."""
    top = max(logits)
    powers = [math.exp((value - top) / temperature) for value in logits]
    return [power / sum(powers) for power in powers]


def divergence(wanted, found, temperature):
    """`sum_c p log(p / q)`."""
    pairs = zip(probabilities(wanted, temperature), probabilities(found, temperature), strict=True)
    return sum(p * math.log(p / q) for p, q in pairs)


def binary_divergence(wanted, found, temperature):
    """The same of `(p, 1 - p)` for every category, and their sum."""
    return sum(
        divergence([value, 0.0], [other, 0.0], temperature)
        for value, other in zip(wanted, found, strict=True)
    )


def naive(student, teacher, variant, temperature):
    """Both terms: over layers the sum, over images, groups and queries the mean."""
    kind = divergence if variant == "detr" else binary_divergence
    teacher.eval().training = True  # all query groups
    with torch.no_grad():
        found, wanted = predict(student), predict(teacher)
    layers, images, groups, queries, _ = found.logits.shape
    classes = boxes = 0.0
    for index in itertools.product(*map(range, (layers, images, groups, queries))):
        share = 1 / (images * groups * queries)
        classes += share * kind(wanted.logits[index].tolist(), found.logits[index].tolist(), temperature)
        pairs = zip(wanted.boxes[index].tolist(), found.boxes[index].tolist(), strict=True)
        boxes += share * sum(abs(a - b) for a, b in pairs)
    assert (layers, images, groups, queries) == (2, 2, GROUPS, NUM_QUERIES)
    return temperature**2 * classes, boxes


@pytest.mark.parametrize("variant", MODELS)
@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_equals_a_loop(variant, temperature):
    """Of softmax and sigmoid heads, all layers, groups and queries paired one to one."""
    student, teacher = make_pair(variant)
    losses = distilled(student, teacher, class_weight=0.3, box_weight=7.0, temperature=temperature)
    classes, boxes = naive(student, teacher, variant, temperature)
    assert list(losses) == ["loss_distill_ce", "loss_distill_bbox"]
    assert losses["loss_distill_ce"].item() == pytest.approx(0.3 * classes, rel=1e-9)
    assert losses["loss_distill_bbox"].item() == pytest.approx(7.0 * boxes, rel=1e-9)
    assert classes > 1e-3 and boxes > 1e-3


@pytest.mark.parametrize("variant", MODELS)
def test_nothing_to_learn_from_itself(variant):
    """Value and gradient are zero where the student is its teacher, without dropout."""
    student = make_model(variant).train()
    losses = distilled(student, copy.deepcopy(student))
    assert all(abs(value.item()) < 1e-12 for value in losses.values())
    losses["loss_distill_ce"].backward()
    gradients = [p.grad for p in student.parameters() if p.grad is not None]
    assert gradients and all(gradient.abs().max() < 1e-10 for gradient in gradients)


@pytest.mark.parametrize("variant", MODELS)
@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_saturated_logits(variant, scale):
    """Neither infinite nor NaN, whatever the logits are; never below zero."""
    student, teacher = make_pair(variant)
    term = Distillation(student, teacher, DistillationSettings())
    found = predict(student)
    logits = (scale * found.logits).detach().requires_grad_()
    losses = term(type(found)(logits, found.boxes), [], BATCH)
    losses["loss_distill_ce"].backward()
    assert losses["loss_distill_ce"] > -1e-9 and logits.grad.isfinite().all()


def needs_gradient(output):
    return isinstance(output, torch.Tensor) and output.requires_grad


@pytest.mark.parametrize("variant", MODELS)
def test_gradients_are_the_students_alone(variant):
    """The teacher keeps no graph, needs no gradient, and is in no state dict and no optimizer."""
    student, teacher = make_pair(variant)
    names = set(student.state_dict())
    term = Distillation(student, teacher, DistillationSettings())
    student.more_losses.append(term)
    needed = []
    for module in teacher.modules():
        module.register_forward_hook(lambda _, inputs, output: needed.append(needs_gradient(output)))
    total = sum(student(BATCH).values())
    assert len(needed) > 10 and not any(needed)
    total.backward()
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in teacher.parameters())
    assert all(p.grad is not None for p in student.class_embed.parameters())
    assert set(student.state_dict()) == names
    assert not {id(p) for p in teacher.parameters()} & {id(p) for p in student.parameters()}


def test_predictions_of_the_teacher_are_freed():
    """What `no_grad` computes is gone once the loss is made; the loss holds what its gradient needs."""
    student, teacher = make_pair("detr")
    kept = []
    teacher.input_proj.register_forward_hook(lambda _, inputs, output: kept.append(weakref.ref(output)))
    losses = distilled(student, teacher)
    gc.collect()
    assert kept and all(reference() is None for reference in kept)
    assert all(value.requires_grad for value in losses.values())


def test_gradient_equals_numeric_differences():
    """Of both terms by logits and boxes."""
    for variant in ("detr", "dab"):
        student, teacher = make_pair(variant, NUM_QUERIES=2, DEC_LAYERS=1)
        term = Distillation(student, teacher, DistillationSettings(temperature=2.0))
        found = predict(student)

        def losses(logits, boxes, term=term, found=found):
            return sum(term(type(found)(logits, boxes), [], BATCH).values())

        leaves = (found.logits.detach().requires_grad_(), found.boxes.detach().requires_grad_())
        assert torch.autograd.gradcheck(losses, leaves)


def test_teacher_has_no_dropout_and_all_groups():
    student, teacher = make_pair("detr", DROPOUT=0.5)
    term = Distillation(student, teacher, DistillationSettings())
    found = predict(student)
    assert found.logits.shape[2] == GROUPS
    first, second = (term(found, [], BATCH) for _ in range(2))
    assert first == second  # the student drops, the teacher does not
    assert not any(module.training for module in teacher.modules() if module is not teacher)
    student.train()  # as a trainer does, again and again
    assert not teacher.transformer.training


def test_quantized_student_learns_from_its_float_model():
    """A few steps bring its predictions nearer; before its scales are set it can be paired as well."""
    teacher = make_model("dab").float()
    student = copy.deepcopy(teacher)
    prepare(student, bits=3, skip=("class_embed", "bbox_embed"))
    term = Distillation(student, teacher, DistillationSettings())
    calibrate_activations(student, [BATCH])
    optimizer = torch.optim.Adam(student.train().parameters(), 1e-3)
    values = []
    for _ in range(8):
        optimizer.zero_grad()
        loss = sum(term(predict(student), [], BATCH).values())
        values.append(loss.item())
        loss.backward()
        optimizer.step()
    assert values[0] > 0.01 and values[-1] < 0.7 * values[0]


def test_copies_of_the_student_share_the_teacher():
    student, teacher = make_pair("detr")
    student.more_losses.append(Distillation(student, teacher, DistillationSettings()))
    assert copy.deepcopy(student).more_losses[0] is student.more_losses[0]


@pytest.mark.parametrize(
    ("variant", "options", "message"),
    [
        ("detr", {"NUM_QUERIES": 4}, "2 x 4 queries and 6 logits, the student a Detr .* 2 x 10 queries"),
        ("detr", {"DEC_LAYERS": 3}, "Detr .* of 3 decoder layers.*, the student a Detr .* of 2 decoder"),
        ("detr", {"NUM_CLASSES": 7}, "and 8 logits, the student .* and 6 logits"),
        ("detr", {"QUERY_GROUPS": 1}, "1 x 10 queries .* the student .* 2 x 10 queries"),
        ("dab", {}, r"DabDetr \(SigmoidClassification\) .* the student a Detr \(SoftmaxClassification\)"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_teacher_of_another_shape(variant, options, message):
    student, teacher = make_model("detr"), make_model(variant, **options)
    with pytest.raises(ValueError, match=f"the teacher of the distillation is a .*{message}.*take the check"):
        Distillation(student, teacher, DistillationSettings())


def test_two_stage_models_have_no_queries_to_pair():
    model = make_model("two-stage", QUERY_GROUPS=1)
    with pytest.raises(ValueError, match="those of a two-stage model come from proposals: set .*DISTILL"):
        Distillation(model, copy.deepcopy(model), DistillationSettings())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"class_weight": -1.0}, "class_weight is -1.0, expected 0 or more"),
        ({"box_weight": float("nan")}, "box_weight is nan, expected 0 or more"),
        ({"box_weight": float("inf")}, "box_weight is inf"),
        ({"temperature": 0.0}, "temperature is 0.0, expected a number above 0"),
        ({"temperature": float("nan")}, "temperature is nan"),
    ],
    ids=str,
)
def test_settings_that_cannot_be(settings, message):
    with pytest.raises(ValueError, match=f"distillation: {message}"):
        DistillationSettings(**settings)


def test_pairing_leaves_the_models_as_they_were():
    student, teacher = make_pair("detr")
    student.backbone.eval()
    modes = [module.training for module in student.modules()]
    Distillation(student, teacher, DistillationSettings())
    assert [module.training for module in student.modules()] == modes
