"""The optimizer of DETR: two learning rates and clipping of the whole model's gradient."""

from collections.abc import Iterable
from functools import partial

import torch
from torch import nn
from torch.optim import Optimizer


def build_optimizer(
    model: nn.Module,
    *,
    name: str,
    base_lr: float,
    backbone_multiplier: float,
    weight_decay: float,
    momentum: float = 0.9,
    clip_norm: float = 0.0,
) -> Optimizer:
    """Build AdamW or SGD over the trainable parameters.

    Args:
        model: parameters below `backbone` form a group of their own.
        name: "ADAMW" or "SGD".
        base_lr: learning rate.
        backbone_multiplier: factor on the backbone's learning rate.
        weight_decay: on all parameters.
        momentum: of SGD.
        clip_norm: the gradient of the whole model is scaled down to this L2 norm before each step; 0: never.

    Raises:
        ValueError: unknown name.
    """
    groups = {True: [], False: []}
    for key, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups[key.startswith("backbone.")].append(parameter)
    rates = {True: base_lr * backbone_multiplier, False: base_lr}
    params = [{"params": group, "lr": rates[key]} for key, group in groups.items() if group]
    if name == "ADAMW":
        optimizer = torch.optim.AdamW(params, base_lr, weight_decay=weight_decay)
    elif name == "SGD":
        optimizer = torch.optim.SGD(params, base_lr, momentum=momentum, weight_decay=weight_decay)
    else:
        raise ValueError(f"SOLVER.OPTIMIZER is {name!r}: expected 'ADAMW' or 'SGD'")
    if clip_norm > 0:
        # A pre-hook clips what the step uses, under mixed precision too: the scaler unscales before it steps.
        optimizer.register_step_pre_hook(partial(_clip, [*groups[True], *groups[False]], clip_norm))
    return optimizer


def _clip(parameters: Iterable[nn.Parameter], norm: float, *_) -> None:
    torch.nn.utils.clip_grad_norm_(parameters, norm)
