"""Fake quantization with learned steps as formulas that autograd differentiates any number of times."""

import torch


def fake_quantize_formula(x, scale, spec, zero_point, step):
    """Straight-through LSQ or PACT, composed of plain operations; arguments as of `fake_quantize`."""
    scale = scale * step.factor + (scale - scale * step.factor).detach()
    scales, zero_point = (_align(torch.as_tensor(each), x, spec) for each in (scale, zero_point))
    levels = (x / scales).round().detach() + zero_point
    inside = (levels >= spec.qmin) & (levels <= spec.qmax)
    clipped = (levels.clamp(spec.qmin, spec.qmax) - zero_point) * scales
    if step.gradient == "lsq":
        ratio = x / scales
        passed = (ratio + (ratio.round() - ratio).detach()) * scales
    else:
        passed = x + ((x / scales).round() * scales - x).detach()
    return torch.where(inside, passed, clipped)


def _align(each, x, spec):
    return each.view(-1, *[1] * (x.dim() - 1)) if spec.per_channel and each.dim() else each
