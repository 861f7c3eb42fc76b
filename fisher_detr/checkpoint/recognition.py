"""Telling the architecture of a state dict by its names and shapes."""

import dataclasses
import re
from collections.abc import Callable, Collection, Mapping

import torch
from torch import Tensor, nn

from fisher_detr.checkpoint.architecture import (
    OFFICIAL_CLASS_LOSS,
    Architecture,
    Family,
)
from fisher_detr.structures import ClassLoss

OFFICIAL_BACKBONE = "backbone.0.body."
_SHOWN = 6  # keys named in an error


def is_official(keys: Collection[str]) -> bool:
    """Whether these are the names of an official checkpoint, of whatever detector."""
    return any(OFFICIAL_BACKBONE in key for key in keys)


def recognise_official(state: Mapping[str, Tensor]) -> Architecture:
    """The architecture of an official state dict.

    Raises:
        ValueError: it is of none of the three detectors.
    """
    family = _official_family(state.keys())
    found = _describe(
        state,
        family,
        stages=[f"{OFFICIAL_BACKBONE}layer{stage}." for stage in range(1, 5)],
        layers="transformer.{}.layers.",
        proposals="transformer.enc_output.weight",
        patterns="transformer.patterns.weight",
        refined=any(key.startswith("transformer.decoder.bbox_embed.") for key in state),
    )
    return dataclasses.replace(found, class_loss=OFFICIAL_CLASS_LOSS[family], query_groups=1)


def recognise_ours(
    state: Mapping[str, Tensor], same: Callable[[Tensor, Tensor], bool] = torch.equal
) -> Architecture | None:
    """The architecture of a state dict with the names here; None: of another model.

    Args:
        state: the state dict.
        same: whether two heads are one module: by their values in a file, by `is_one` in a model, whose heads
            may be initialized alike.
    """
    family = _our_family(state.keys())
    if family is None:
        return None
    return _describe(
        state,
        family,
        stages=[f"backbone.res{stage}." for stage in range(2, 6)],
        layers="transformer.{}.",
        proposals="proposals.enc_output.weight",
        patterns="patterns.weight",
        refined=family is Family.DEFORMABLE and not _heads_are_one(state, same),
    )


def recognise_model(model: nn.Module) -> Architecture | None:
    """The architecture of a model, with what its weights do not tell; None: it is of another kind."""
    state = model.state_dict()
    found = recognise_ours(state, is_one)
    if found is None:
        return None
    dilated = any(
        max(module.dilation) > 1
        for name, module in model.named_modules()
        if name.startswith("backbone.res5.") and isinstance(module, nn.Conv2d)
    )
    no_object = class_rows(state) > model.num_classes
    return dataclasses.replace(
        found,
        dilation=dilated if found.depth else None,
        class_loss=ClassLoss.CROSS_ENTROPY if no_object else ClassLoss.FOCAL,
        query_groups=model.query_groups,
    )


def is_one(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are the same memory."""
    return a.data_ptr() == b.data_ptr() and a.shape == b.shape


def class_rows(state: Mapping[str, Tensor]) -> int:
    """Rows of the class head, no-object included."""
    key = "class_embed.weight" if "class_embed.weight" in state else "class_embed.0.weight"
    return len(state[key])


def _describe(
    state: Mapping[str, Tensor],
    family: Family,
    *,
    stages: list[str],
    layers: str,
    proposals: str,
    patterns: str,
    refined: bool,
) -> Architecture:
    """Count what is below the names of either side."""
    deformable = family is Family.DEFORMABLE
    two_stage = deformable and proposals in state
    bottleneck = any(key.startswith(tuple(stages)) and ".conv3." in key for key in state)
    return Architecture(
        family=family,
        blocks=tuple(_count(state, stage) for stage in stages),
        bottleneck=bottleneck,
        encoder_layers=_count(state, layers.format("encoder")),
        decoder_layers=_count(state, layers.format("decoder")),
        levels=_count(state, "input_proj.") if deformable else 0,
        in_features=_in_features(state, stages, 3 if bottleneck else 2) if deformable else (),
        refinement=two_stage or (deformable and refined),
        two_stage=two_stage,
        patterns=len(state[patterns]) if family is Family.DAB and patterns in state else 0,
    )


def _in_features(state: Mapping[str, Tensor], stages: list[str], last: int) -> tuple[str, ...]:
    """The feature maps that are projected, by their channels; (): the weights do not tell.

    Args:
        state: of a Deformable DETR.
        stages: of the backbone, what its names begin with.
        last: number of the last convolution in a block.
    """
    channels = [
        len(state[key]) if (key := f"{stage}0.conv{last}.weight") in state else None for stage in stages
    ]
    found = []
    for level in range(_count(state, "input_proj.")):
        projection = state.get(f"input_proj.{level}.0.weight")
        if projection is None or projection.dim() != 4:
            return ()
        if projection.shape[-1] > 1:  # a convolution on the level before, as are those that follow
            break
        if channels.count(projection.shape[1]) != 1:
            return ()
        found.append(f"res{channels.index(projection.shape[1]) + 2}")
    return tuple(found)


def _official_family(keys: Collection[str]) -> Family:
    if "transformer.level_embed" in keys:
        return Family.DEFORMABLE
    if "refpoint_embed.weight" in keys:
        return Family.DAB
    if "query_embed.weight" in keys and any(".multihead_attn." in key for key in keys):
        return Family.DETR
    raise ValueError(
        "not a checkpoint of DETR, Deformable DETR or DAB-DETR: none of query_embed.weight with "
        "multihead_attn, transformer.level_embed and refpoint_embed.weight is among its keys "
        f"({', '.join(sorted(key for key in keys if 'backbone' not in key)[:_SHOWN])}, ...)"
    )


def _our_family(keys: Collection[str]) -> Family | None:
    if "transformer.encoder.0.ffn.linear1.weight" not in keys:
        return None
    if "transformer.level_embed" in keys:
        return Family.DEFORMABLE
    if "refpoint_embed.weight" in keys:
        return Family.DAB
    return Family.DETR if "query_embed.weight" in keys else None


def _heads_are_one(state: Mapping[str, Tensor], same: Callable[[Tensor, Tensor], bool]) -> bool:
    others = [key for key in state if re.match(r"(class|bbox)_embed\.[1-9]", key)]
    return all(same(state[key], state[re.sub(r"_embed\.\d+", "_embed.0", key)]) for key in others)


def _count(keys: Collection[str], prefix: str) -> int:
    """One more than the largest number that follows the prefix."""
    numbers = [
        int(key[len(prefix) :].partition(".")[0])
        for key in keys
        if key.startswith(prefix) and key[len(prefix)].isdigit()
    ]
    return max(numbers, default=-1) + 1
