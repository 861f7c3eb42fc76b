"""Distillation of a quantized detector from the one in full precision, query by query."""

import dataclasses

import torch
from torch import Tensor
from torch.nn import functional as F

from fisher_detr.layers import in_eval_mode
from fisher_detr.modeling import DetrBase, Predictions, SoftmaxClassification, Targets
from fisher_detr.modeling.meta_arch.detr_base import Batch
from fisher_detr.quantization import FakeQuantizer, bypassed

_PROBE = 64  # side of the image that shows what a model predicts, pixels


@dataclasses.dataclass(frozen=True)
class DistillationSettings:
    """Weights of the terms; see the keys QUANT.QAT.DISTILL in config.py.

    Attributes:
        class_weight: of the divergence between class probabilities.
        box_weight: of the L1 distance between boxes.
        temperature: T > 0 that the logits are divided by; the divergence is multiplied by its square.
    """

    class_weight: float = 1.0
    box_weight: float = 1.0
    temperature: float = 1.0

    def __post_init__(self):
        for name in ("class_weight", "box_weight"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"distillation: {name} is {getattr(self, name)}, expected 0 or more")
        if not 0 < self.temperature < float("inf"):
            raise ValueError(f"distillation: temperature is {self.temperature}, expected a number above 0")


class Distillation:
    """Adds the distance from the teacher's predictions to the training loss, for all decoder layers.

    Queries are paired one to one: the student started from the teacher, so query i means the same in both.
    """

    def __init__(self, student: DetrBase, teacher: DetrBase, settings: DistillationSettings):
        """Freeze the teacher; it belongs to no module, so no checkpoint and no optimizer knows it.

        Args:
            student: the trained model.
            teacher: in full precision, with its weights, on the same device.
            settings: weights.

        Raises:
            ValueError: the two predict other things, or queries come from proposals.
        """
        _check_pair(student, teacher)
        self.settings = settings
        self._teacher = teacher.eval().requires_grad_(False)
        # The model alone, none of its modules: all query groups of training, and no dropout.
        self._teacher.training = True

    def __deepcopy__(self, _memo):
        return self  # a copy of the student needs no copy of the teacher

    def __call__(self, predictions: Predictions, _targets: list[Targets], batch: Batch) -> dict[str, Tensor]:
        """`loss_distill_ce` and `loss_distill_bbox`, sums over decoder layers of means over queries."""
        with torch.no_grad():
            wanted = self._teacher.decode(self._teacher.preprocess(batch))
        divergence = self._divergence(predictions.logits, wanted.logits)
        distance = (predictions.boxes - wanted.boxes).abs().sum(-1)
        return {
            "loss_distill_ce": self.settings.class_weight * _over_layers(divergence),
            "loss_distill_bbox": self.settings.box_weight * _over_layers(distance),
        }

    def _divergence(self, logits: Tensor, wanted: Tensor) -> Tensor:
        """`KL(teacher || student)` of every query's class distribution, or the sum over its sigmoids."""
        temperature = self.settings.temperature
        logits, wanted = logits / temperature, wanted / temperature
        if isinstance(self._teacher.criterion.classification, SoftmaxClassification):
            found = F.kl_div(
                logits.log_softmax(-1), wanted.log_softmax(-1), reduction="none", log_target=True
            )
        else:
            # The cross entropy of the two sigmoids less the teacher's own entropy.
            probability = wanted.sigmoid()
            found = F.binary_cross_entropy_with_logits(logits, probability, reduction="none")
            found = found - F.binary_cross_entropy_with_logits(wanted, probability, reduction="none")
        return temperature**2 * found.sum(-1)


def _over_layers(values: Tensor) -> Tensor:
    """Sum over layers of the mean over images, groups and queries, of [L, B, G, Q]."""
    return values.flatten(1).mean(1).sum()


def _check_pair(student: DetrBase, teacher: DetrBase) -> None:
    if getattr(student, "proposals", None) is not None:
        raise ValueError(
            "distillation pairs queries one to one, and those of a two-stage model come from proposals: "
            "set QUANT.QAT.DISTILL.ENABLED to False"
        )
    found, expected = _predicts(teacher), _predicts(student)
    if found != expected:
        raise ValueError(
            f"the teacher of the distillation is a {found}, the student a {expected}: take the checkpoint in "
            "full precision that the student started from"
        )


@torch.no_grad()
def _predicts(model: DetrBase) -> str:
    """What a model predicts in training, found by letting it."""
    with in_eval_mode(model), bypassed(model, FakeQuantizer):
        model.training = True  # all query groups
        image = torch.zeros(3, _PROBE, _PROBE)
        logits = model.decode(model.preprocess([{"image": image}])).logits
    layers, _, groups, queries, width = logits.shape
    kind, head = type(model).__name__, type(model.criterion.classification).__name__
    return f"{kind} ({head}) of {layers} decoder layers, {groups} x {queries} queries and {width} logits"
