"""The Fisher information of every detector, in float64, against gradients of single images by autograd."""

import pytest
import torch

from fisher_detr.engine import Trainer
from fisher_detr.engine.estimation import image_losses
from fisher_detr.engine.insertion import float_model_for_quantization
from fisher_detr.fisher import GradientMethod, PassSettings, estimate_fisher
from fisher_detr.quantization import quantizable_layers
from fisher_detr.structures import CategorySet
from tests.modeling.detectors import NUM_CLASSES, SMALL_BACKBONE, VARIANTS, make_cfg, make_input

HEADS = ("class_embed", "bbox_embed")
CRITICAL = CategorySet("some", (0, 3), NUM_CLASSES)


@pytest.fixture(params=list(VARIANTS))
def model(request):
    torch.manual_seed(0)
    cfg = make_cfg(VARIANTS[request.param].settings | SMALL_BACKBONE)
    return float_model_for_quantization(Trainer.build_float_model(cfg).double(), fold_norm=True)


@pytest.fixture
def batch():
    """Of images with their own numbers of objects; one has none."""
    return [make_input(64, 96, count, seed) for seed, count in enumerate((1, 5, 0, 3))]


@pytest.mark.parametrize("aux_loss", [False, True])
def test_the_loss_of_an_image_in_a_batch_is_its_loss_alone(model, batch, aux_loss):
    losses = image_losses(model, CRITICAL, aux_loss)
    together, alone = losses(batch), [losses([sample]) for sample in batch]
    assert together.keys() == {"overall", "critical"}
    for objective, values in together.items():
        expected = torch.cat([of_image[objective] for of_image in alone])
        torch.testing.assert_close(values, expected, rtol=1e-10, atol=0)


def test_batches_give_what_autograd_gives_image_by_image(model, batch):
    losses = image_losses(model, CRITICAL)
    weights = {name: layer.weight for name, layer in quantizable_layers(model, HEADS).items()}
    settings = PassSettings(GradientMethod.BATCHED, progress=False)
    found = estimate_fisher(losses, weights, [batch], settings).diagonals
    for objective in ("overall", "critical"):
        of_layers = by_autograd(losses, weights, batch, objective)
        # The first queries of DETR's decoder are equal: its first self-attention has rounding for gradients.
        rounding = 1e-28 * max(expected.max() for expected in of_layers.values())
        for name, expected in of_layers.items():
            allowed = 1e-8 * expected + 1e-14 * expected.max() + rounding
            assert ((found[objective][name] - expected).abs() <= allowed).all(), (objective, name)


def by_autograd(losses, weights, batch, objective):
    """Means of the squared gradients."""
    sums = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    for sample in batch:
        gradients = torch.autograd.grad(losses([sample])[objective], weights.values(), materialize_grads=True)
        for name, gradient in zip(weights, gradients, strict=True):
            sums[name] += gradient.square() / len(batch)
    return sums
