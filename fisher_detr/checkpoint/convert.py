"""Official state dicts to the names here and back: pure functions on dictionaries of tensors."""

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from fisher_detr.checkpoint.architecture import Architecture
from fisher_detr.checkpoint.class_rows import ClassRows
from fisher_detr.checkpoint.naming import class_heads, repeated_names, tensor_names

State = dict[str, Tensor]
_SHOWN = 20  # keys named in an error
_PRIOR = 0.01  # probability that a fresh sigmoid head gives every class
_NEVER = -100.0  # logit of a row that is made up: never predicted


class UnplacedKeysError(ValueError):
    """Keys that have no place, or places that have no key.

    Attributes:
        unplaced: keys of the file that the architecture does not have.
        missing: keys of the architecture that the file does not have.
    """

    def __init__(self, title: str, unplaced: Iterable[str], missing: Iterable[str]):
        """Args are the architecture's title and both lists."""
        self.unplaced, self.missing = sorted(unplaced), sorted(missing)
        parts = [
            f"{len(keys)} keys {what}: {', '.join(keys[:_SHOWN])}"
            + (f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else "")
            for keys, what in ((self.unplaced, "have no place in it"), (self.missing, "are missing"))
            if keys
        ]
        super().__init__(f"looks like {title}, but {'; '.join(parts)}")


def to_ours(official: Mapping[str, Tensor], architecture: Architecture) -> State:
    """Official tensors under the names here, each distinct tensor once.

    Args:
        official: exactly the tensors of the architecture.
        architecture: as `recognise_official` tells it.

    Returns:
        without the repeated names of one tensor: see `with_repeated`.

    Raises:
        UnplacedKeysError: keys that are unknown or missing.
        ValueError: one tensor is stored as two that differ.
    """
    names = tensor_names(architecture)
    expected = {name.official for name in names}
    if official.keys() != expected:
        raise UnplacedKeysError(architecture.title, official.keys() - expected, expected - official.keys())
    ours: State = {}
    for name in names:
        tensor = official[name.official]
        parts = (tensor,) if len(name.ours) == 1 else _unpack(name.official, tensor)
        for our_name, part in zip(name.ours, parts, strict=True):
            if our_name in ours and not torch.equal(ours[our_name], part):
                raise ValueError(
                    f"{name.official} and another name of the same tensor ({our_name} here) differ: "
                    f"{architecture.title} stores one tensor under both"
                )
            ours.setdefault(our_name, part)
    return ours


def to_official(ours: Mapping[str, Tensor], architecture: Architecture) -> State:
    """The inverse of `to_ours`: every official name; those of one tensor share it.

    Args:
        ours: each distinct tensor once: see `without_repeated`.
        architecture: as `recognise_ours` tells it.

    Raises:
        UnplacedKeysError: tensors that are unknown or missing.
    """
    names = tensor_names(architecture)
    expected = {our_name for name in names for our_name in name.ours}
    if ours.keys() != expected:
        raise UnplacedKeysError(architecture.title, ours.keys() - expected, expected - ours.keys())
    return {
        name.official: ours[name.ours[0]] if len(name.ours) == 1 else torch.cat([ours[n] for n in name.ours])
        for name in names
    }


def with_repeated(ours: Mapping[str, Tensor], architecture: Architecture) -> State:
    """What the model's state dict holds: tensors of a module under each of its names."""
    return {**ours, **{name: ours[first] for name, first in repeated_names(architecture).items()}}


def without_repeated(state: Mapping[str, Tensor], architecture: Architecture) -> State:
    """Each distinct tensor once.

    Raises:
        ValueError: one tensor is stored as two that differ.
    """
    repeated = repeated_names(architecture)
    for name, first in repeated.items():
        if name in state and first in state and not torch.equal(state[name], state[first]):
            raise ValueError(f"{name} and {first} differ: {architecture.title} has one head for all layers")
    return {name: tensor for name, tensor in state.items() if name not in repeated}


def keep_rows(ours: Mapping[str, Tensor], architecture: Architecture, rows: ClassRows) -> tuple[State, State]:
    """Keep the rows of the classes.

    Returns:
        the state with smaller class heads, and the rows that were dropped, ascending, by the heads' names.
    """
    kept, dropped = dict(ours), {}
    for name, head_rows in _head_tensors(architecture, rows):
        no_object = (rows.raw,) if architecture.has_no_object else ()
        kept[name] = ours[name][[*head_rows.kept, *no_object]]
        if not rows.is_identity:
            dropped[name] = ours[name][list(head_rows.dropped)]
    return kept, dropped


def restore_rows(
    ours: Mapping[str, Tensor], architecture: Architecture, rows: ClassRows, dropped: Mapping[str, Tensor]
) -> State:
    """The inverse of `keep_rows`; of heads without dropped rows, rows that are never predicted."""
    restored = dict(ours)
    for name, head_rows in _head_tensors(architecture, rows):
        small = ours[name]
        if name in dropped and dropped[name].shape != (len(head_rows.dropped), *small.shape[1:]):
            raise ValueError(
                f"{len(head_rows.dropped)} dropped rows of {name} are needed, the side file has "
                f"{tuple(dropped[name].shape)}: it is of another checkpoint"
            )
        full = small.new_empty(rows.raw + architecture.has_no_object, *small.shape[1:])
        full[list(head_rows.kept)] = small[: rows.num_classes]
        full[rows.raw :] = small[rows.num_classes :]
        never = _NEVER if name.endswith(".bias") else 0.0
        full[list(head_rows.dropped)] = dropped.get(name, never)
        restored[name] = full
    return restored


def new_rows(
    ours: Mapping[str, Tensor], architecture: Architecture, num_classes: int, seed: int = 0
) -> State:
    """Fresh class heads for another number of classes, initialized as a new model's.

    The head that ranks proposals does so by its first row, whatever the classes are: it keeps its rows as far
    as they go.
    """
    generator = torch.Generator().manual_seed(seed)
    state = dict(ours)
    for head in class_heads(architecture):
        old = ours[f"{head}.weight"]
        bound = 1 / math.sqrt(old.shape[1])
        weight = old.new_empty(num_classes + architecture.has_no_object, old.shape[1])
        weight.uniform_(-bound, bound, generator=generator)
        bias = old.new_full((len(weight),), -math.log((1 - _PRIOR) / _PRIOR))
        if architecture.has_no_object:
            bias.uniform_(-bound, bound, generator=generator)
        if _ranks_proposals(head, architecture):
            kept = min(num_classes, len(old))
            weight[:kept], bias[:kept] = old[:kept], ours[f"{head}.bias"][:kept]
        state |= {f"{head}.weight": weight, f"{head}.bias": bias}
    return state


def _head_tensors(architecture: Architecture, rows: ClassRows) -> list[tuple[str, ClassRows]]:
    return [
        (f"{head}.{leaf}", rows.of_proposals() if _ranks_proposals(head, architecture) else rows)
        for head in class_heads(architecture)
        for leaf in ("weight", "bias")
    ]


def _ranks_proposals(head: str, architecture: Architecture) -> bool:
    return architecture.two_stage and head == f"class_embed.{architecture.decoder_layers}"


def _unpack(name: str, packed: Tensor) -> tuple[Tensor, ...]:
    """The thirds of [3 D, ...] for q, k and v, each in memory of its own."""
    if len(packed) % 3:
        raise ValueError(f"{name} has {len(packed)} rows: expected those of q, k and v, three times the same")
    return tuple(part.clone() for part in packed.chunk(3))
