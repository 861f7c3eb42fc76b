"""Convolutions that compute with their frozen batch norm against the two steps."""

import copy

import pytest
import torch
from detectron2.layers import Conv2d, FrozenBatchNorm2d
from torch import nn
from torch.nn import functional as F

from fisher_detr.modeling.frozen_conv import FrozenNormConv2d, fuse_frozen_norms
from fisher_detr.quantization import QuantConv2d, fold_batch_norm, quantize_model


def make_conv(bias=False, activation=None, norm=True):
    torch.manual_seed(0)
    frozen = FrozenBatchNorm2d(6) if norm else None
    conv = Conv2d(4, 6, 3, stride=2, padding=2, dilation=2, bias=bias, norm=frozen, activation=activation)
    for name, buffer in conv.named_buffers():
        nn.init.uniform_(buffer, 0.5, 2.0) if "var" in name or "weight" in name else nn.init.normal_(buffer)
    return conv.double()


@pytest.mark.parametrize("activation", [None, F.relu])
@pytest.mark.parametrize("bias", [False, True])
def test_equals_convolution_then_norm(bias, activation):
    conv = make_conv(bias, activation)
    fused = fuse_frozen_norms(copy.deepcopy(conv))
    assert type(fused) is FrozenNormConv2d
    assert list(fused.state_dict()) == list(conv.state_dict())
    x = torch.randn(2, 4, 9, 11, dtype=torch.float64)
    torch.testing.assert_close(fused(x), conv(x), atol=1e-12, rtol=0)
    gradients = [torch.autograd.grad(c(x).square().sum(), c.weight)[0] for c in (fused, conv)]
    torch.testing.assert_close(*gradients, atol=1e-9, rtol=1e-12)


def test_only_frozen_norms_are_fused():
    convs = nn.ModuleList(
        [make_conv(norm=False), Conv2d(4, 6, 3, norm=nn.BatchNorm2d(6)), nn.Conv2d(4, 6, 3)]
    )
    kinds = [type(conv) for conv in convs]
    assert [type(conv) for conv in fuse_frozen_norms(convs)] == kinds


def test_norm_can_still_be_folded():
    """Quantization folds norms before it replaces convolutions."""
    x = torch.randn(2, 4, 9, 11, dtype=torch.float64)
    conv = nn.Sequential(fuse_frozen_norms(make_conv()))
    expected = conv(x)
    assert fold_batch_norm(conv) == ("0",)
    torch.testing.assert_close(conv(x), expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("folded", [False, True])
def test_quantized_as_any_other_convolution(folded):
    """At 8 bits, with and without its norm."""
    x = torch.randn(2, 4, 9, 11)
    conv, fused = (nn.Sequential(c.float()) for c in (make_conv(), fuse_frozen_norms(make_conv())))
    for model in (conv, fused):
        if folded:
            fold_batch_norm(model)
        report = quantize_model(model, bits=8, activation_bits=0)
        assert [weight.bits for weight in report.quantized] == [8]
        assert type(model[0]) is QuantConv2d
    torch.testing.assert_close(fused(x), conv(x), atol=1e-6, rtol=0)
