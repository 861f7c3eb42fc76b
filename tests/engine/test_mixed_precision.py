"""The hook under Detectron2's mixed precision, which needs a GPU."""

import copy
import inspect

import pytest
import torch
from detectron2.engine import AMPTrainer
from detectron2.modeling import build_model

from fisher_detr.engine import FisherTracePenalty, PenaltySettings, QATHook, QATSchedule, prepare
from fisher_detr.engine.objectives import DetrObjective
from fisher_detr.engine.penalty_term import LOSS_NAME
from fisher_detr.fisher import PenaltyMethod
from fisher_detr.quantization import ScaleTraining, calibrate_activations
from fisher_detr.structures import CategorySet
from tests.modeling.detectors import NUM_CLASSES, SMALL_BACKBONE, VARIANTS, make_cfg, make_input

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="mixed precision needs a GPU")

PEOPLE = CategorySet("people", (0, 2), NUM_CLASSES)
BATCH = [make_input(64, 96, 3, seed=0), make_input(48, 80, 2, seed=1)]
FIXED = ScaleTraining.FIXED
WEIGHT, INTERVAL = 0.5, 2
# Detectron2 0.6 knows float16 alone.
TAKES_PRECISION = "precision" in inspect.signature(AMPTrainer).parameters
PRECISIONS = [torch.float16, *([torch.bfloat16] if TAKES_PRECISION else [])]


def make_quantized(variant):
    torch.manual_seed(0)
    model = build_model(make_cfg(VARIANTS[variant].settings | SMALL_BACKBONE))
    prepare(model, bits=4, skip=("class_embed", "bbox_embed"), weights=FIXED, activations=FIXED)
    calibrate_activations(model, [BATCH])
    return model.cuda().train()


def gradient_of_a_step(model, precision, *hooks):
    """What the optimizer sees, unscaled."""
    scaler = torch.amp.GradScaler("cuda", init_scale=256.0)
    optimizer = torch.optim.SGD(model.parameters(), 1e-6)
    chosen = {"precision": precision} if TAKES_PRECISION else {}
    trainer = AMPTrainer(model, [BATCH] * 2, optimizer, grad_scaler=scaler, **chosen)
    trainer.register_hooks(list(hooks))
    trainer.train(0, 1)
    gradients = [parameter.grad for parameter in model.parameters() if parameter.requires_grad]
    return trainer, torch.cat([part.flatten() for part in gradients if part is not None])


@pytest.mark.parametrize("variant", ["detr", "dab", "deformable"])
@pytest.mark.parametrize("method", PenaltyMethod)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_penalty_is_that_of_full_precision(variant, method, precision):
    model = make_quantized(variant)
    settings = PenaltySettings(WEIGHT, method, interval=INTERVAL, normalize=False, clip_norm=0.0)
    penalty = FisherTracePenalty(DetrObjective(PEOPLE), settings)
    expected = penalty.measure(model, BATCH)
    hook = QATHook(QATSchedule(weights=FIXED, activations=FIXED), penalty)
    _, alone = gradient_of_a_step(copy.deepcopy(model), precision, QATHook(hook.schedule))
    trainer, both = gradient_of_a_step(model, precision, hook)
    assert trainer.storage.history(LOSS_NAME).latest() == pytest.approx(
        WEIGHT * expected.value.item(), rel=1e-3
    )
    found = both - alone
    wanted = INTERVAL * WEIGHT * torch.cat([part.flatten() for part in expected.gradients])
    assert found.isfinite().all() and wanted.norm() > 0.01 * alone.norm()
    assert (found @ wanted / (found.norm() * wanted.norm())).item() > 0.99
    assert (found.norm() / wanted.norm()).item() == pytest.approx(1.0, abs=0.02)
