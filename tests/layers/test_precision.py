"""Widening, and products in full float32."""

import contextlib

import pytest
import torch

from fisher_detr.layers import at_least_float32, without_tf32


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_half_precision_alone_is_widened(given, expected):
    assert at_least_float32(torch.ones(2, dtype=given)).dtype == expected


def may_round():
    """Of convolutions and of matrix products."""
    matmul = torch.backends.cuda.matmul
    if not hasattr(matmul, "fp32_precision"):
        return torch.backends.cudnn.allow_tf32, matmul.allow_tf32
    return torch.backends.cudnn.conv.fp32_precision == "tf32", matmul.fp32_precision == "tf32"


@pytest.mark.parametrize("fails", [True, False])
@pytest.mark.parametrize("before", [(True, True), (True, False), (False, False)])
def test_tf32_is_off_within_and_as_before_afterwards(before, fails):
    """As set by the names that every release has, which can be read again afterwards."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    original = cudnn.allow_tf32, matmul.allow_tf32
    try:
        cudnn.allow_tf32, matmul.allow_tf32 = before
        with pytest.raises(ZeroDivisionError) if fails else contextlib.nullcontext(), without_tf32():
            assert may_round() == (False, False)
            if fails:
                raise ZeroDivisionError
        assert may_round() == (cudnn.allow_tf32, matmul.allow_tf32) == before
    finally:
        cudnn.allow_tf32, matmul.allow_tf32 = original


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_convolutions_of_a_gpu_are_as_precise_as_float32():
    generator = torch.Generator().manual_seed(0)
    x, w = torch.randn(2, 64, 32, 32, generator=generator), torch.randn(64, 64, 3, 3, generator=generator)
    expected = torch.nn.functional.conv2d(x.double(), w.double())
    with without_tf32():
        found = torch.nn.functional.conv2d(x.cuda(), w.cuda()).cpu()
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()
