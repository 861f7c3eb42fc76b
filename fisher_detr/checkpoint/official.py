"""What an official checkpoint holds besides the tensors of the detector."""

import argparse
import dataclasses
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from fisher_detr.checkpoint.architecture import Architecture
from fisher_detr.checkpoint.class_rows import ClassPolicy, ClassRows, choose_rows, describe
from fisher_detr.checkpoint.convert import State, keep_rows, to_ours, with_repeated
from fisher_detr.checkpoint.recognition import class_rows, is_official, recognise_official

PANOPTIC_PREFIX = "detr."  # of the detector inside DETR's panoptic model
_MASK_HEAD = ("bbox_attention.", "mask_head.")
# A profiler left the first two; a frozen norm counts no batches.
_COUNTERS = ("total_params", "total_ops", "num_batches_tracked")


@dataclasses.dataclass(frozen=True)
class OfficialCheckpoint:
    """An official checkpoint, taken apart.

    Attributes:
        state: tensors of the detector, by its own official names.
        architecture: as the names tell it; its dilation where the checkpoint holds the settings of its
            training.
        prefix: before all names of `state` in the file.
        left_out: tensors of a mask head, by their names in the file.
        counters: keys in the file that no one needs.
    """

    state: State
    architecture: Architecture
    prefix: str
    left_out: State
    counters: tuple[str, ...]

    @property
    def raw_rows(self) -> int:
        """Rows of the class head, without no-object."""
        return class_rows(self.state) - self.architecture.has_no_object


def holds_official(checkpoint: Mapping[str, Any]) -> bool:
    """Whether a loaded file is an official checkpoint, of whatever detector."""
    weights = checkpoint.get("model", checkpoint)
    return isinstance(weights, dict) and is_official([key for key in weights if isinstance(key, str)])


def take_apart(checkpoint: Mapping[str, Any]) -> OfficialCheckpoint:
    """Sort what a loaded file holds.

    Args:
        checkpoint: with the tensors in `model` or at the top, and perhaps the settings of its training in
            `args`.

    Raises:
        ValueError: it is of no known detector, or holds something else than tensors.
    """
    weights = checkpoint.get("model", checkpoint)
    strange = [str(key) for key, value in weights.items() if not isinstance(value, Tensor)]
    if strange:
        raise ValueError(f"holds something else than tensors: {', '.join(strange[:4])}")
    if all(key.startswith("module.") for key in weights):  # saved from a parallel model
        weights = {key.removeprefix("module."): value for key, value in weights.items()}
    counters = tuple(key for key in weights if key.endswith(_COUNTERS))
    left_out = {key: value for key, value in weights.items() if key.startswith(_MASK_HEAD)}
    state = {k: v for k, v in weights.items() if k not in counters and k not in left_out}
    prefix = PANOPTIC_PREFIX if all(key.startswith(PANOPTIC_PREFIX) for key in state) else ""
    state = {key.removeprefix(prefix): value for key, value in state.items()}
    architecture = recognise_official(state)
    architecture = dataclasses.replace(architecture, dilation=_dilation(checkpoint.get("args")))
    return OfficialCheckpoint(state, architecture, prefix, left_out, counters)


def rows_for_model(raw: int, num_classes: int) -> ClassRows | None:
    """The rows that a model of so many classes takes: all, or those of the id map; None: neither fits."""
    if raw == num_classes:
        return ClassRows.all_of(raw)
    try:
        return choose_rows(raw, ClassPolicy.REMAP, num_classes)
    except ValueError:
        return None


def fit_to_model(official: OfficialCheckpoint, num_classes: int, path: str) -> State:
    """The state dict of a model of this architecture.

    Args:
        official: the checkpoint.
        num_classes: of the model.
        path: of the file, for the error.

    Raises:
        ValueError: keys without a place, or rows that do not give that number of classes.
    """
    rows = rows_for_model(official.raw_rows, num_classes)
    if rows is None:
        raise ValueError(
            f"it has {describe(official.raw_rows)}, the model {num_classes} classes: give it a new head with "
            f"`python tools/convert_checkpoint.py {path} --output NEW.pth --classes reinit "
            f"--num-classes {num_classes}`"
        )
    architecture = official.architecture
    kept, _dropped = keep_rows(to_ours(official.state, architecture), architecture, rows)
    return with_repeated(kept, architecture)


def _dilation(settings: Any) -> bool | None:
    """Whether the last stage was dilated, where the settings of the training say so."""
    if isinstance(settings, argparse.Namespace):
        settings = vars(settings)
    found = settings.get("dilation") if isinstance(settings, dict) else None
    return found if isinstance(found, bool) else None
