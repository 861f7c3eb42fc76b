"""Batch norm folded into the convolution before it."""

import copy

import pytest
import torch
from detectron2.layers import Conv2d, FrozenBatchNorm2d
from torch import nn

from fisher_detr.quantization import QuantConv2d, fold_batch_norm, freeze_batch_norm
from fisher_detr.structures import QuantSpec
from tests.quantization.models import images, randomize_norm, toy_detector


@pytest.mark.parametrize("norm", ["FrozenBN", "BN"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_folded_model_equals_unfolded(norm, dtype, tolerance):
    model = toy_detector(norm=norm).to(dtype)
    expected = model(images().to(dtype))
    folded = fold_batch_norm(model)
    assert len(folded) == 6 and "backbone.res2.0.conv1" in folded
    assert model.backbone.stem.conv1.norm is None
    assert not any(".norm." in name for name in model.backbone.state_dict())
    torch.testing.assert_close(model(images().to(dtype)), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("affine", [True, False])
def test_bias_affine_and_groups(bias, affine):
    conv = (
        Conv2d(4, 6, 3, groups=2, bias=bias, norm=nn.BatchNorm2d(6, affine=affine, eps=0.1)).double().eval()
    )
    conv.norm.running_var.uniform_(0.1, 3)
    conv.norm.running_mean.normal_()
    x = torch.randn(2, 4, 8, 8, dtype=torch.float64)
    expected = conv(x)
    fold_batch_norm(nn.Sequential(conv))
    torch.testing.assert_close(conv(x), expected, rtol=0, atol=1e-12)


def test_frozen_layers_stay_frozen_and_shared_weights_stay_right():
    first, second = (Conv2d(3, 3, 1, bias=False, norm=FrozenBatchNorm2d(3)) for _ in range(2))
    second.weight = first.weight
    for conv in (first, second):
        randomize_norm(conv.norm)
    first.weight.requires_grad_(False)
    model, x = nn.Sequential(first, second), torch.randn(1, 3, 4, 4)
    expected = model(x)
    fold_batch_norm(model)
    torch.testing.assert_close(model(x), expected)
    assert not first.weight.requires_grad and not first.bias.requires_grad


def test_freezing_keeps_the_outputs_of_eval_mode():
    model = toy_detector(norm="BN")
    frozen = freeze_batch_norm(copy.deepcopy(model)).train()
    assert not any(isinstance(module, nn.BatchNorm2d) for module in frozen.modules())
    torch.testing.assert_close(frozen(images()), model(images()))


def test_norms_that_cannot_be_folded():
    with pytest.raises(
        ValueError, match=r"backbone.stem.conv1.norm normalises by the statistics of its batch"
    ):
        fold_batch_norm(toy_detector(norm="BN").train())
    conv = Conv2d(3, 4, 1, norm=FrozenBatchNorm2d(4))
    QuantConv2d.from_float(conv, QuantSpec(4))
    with pytest.raises(ValueError, match="0 is quantized already"):
        fold_batch_norm(nn.Sequential(conv))
    assert fold_batch_norm(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))) == ()
