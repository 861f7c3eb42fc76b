"""The backbone of one detector as the start of another."""

import os
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from fisher_detr.checkpoint.convert import to_ours
from fisher_detr.checkpoint.official import holds_official, take_apart
from fisher_detr.checkpoint.paths import local_path
from fisher_detr.checkpoint.tensors import load_tensors

PREFIX = "backbone."


def load_backbone(backbone: nn.Module, path: str | os.PathLike) -> None:
    """Load the backbone of a detector's checkpoint, in place; the rest of the checkpoint is left out.

    Args:
        backbone: of the new detector.
        path: a checkpoint of any detector with the same backbone, with the names here or the official ones.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is corrupt, or its backbone has other keys or shapes.
    """
    if not os.path.isfile(local_path(path)):
        raise FileNotFoundError(f"checkpoint {path} does not exist: check MODEL.BACKBONE.WEIGHTS")
    stored = _named_here(load_tensors(path), path)
    weights = {key.removeprefix(PREFIX): x for key, x in stored.items() if key.startswith(PREFIX)}
    known = backbone.state_dict()
    ignored = {key for key in known.keys() ^ weights.keys() if key.endswith("num_batches_tracked")}
    problems = [f"no {key}" for key in known.keys() - weights.keys() - ignored]
    problems += [f"unknown {key}" for key in weights.keys() - known.keys() - ignored]
    problems += [
        f"{key} of shape {tuple(weights[key].shape)} for {tuple(known[key].shape)}"
        for key in known.keys() & weights.keys()
        if weights[key].shape != known[key].shape
    ]
    if problems:
        raise ValueError(
            f"checkpoint {path} has another backbone ({', '.join(sorted(problems)[:4])}): "
            "name one with the same MODEL.BACKBONE in MODEL.BACKBONE.WEIGHTS"
        )
    backbone.load_state_dict({key: x for key, x in weights.items() if key in known}, strict=False)


def _named_here(checkpoint: Mapping[str, Any], path: str | os.PathLike) -> Mapping[str, Tensor]:
    """Weights by the names here."""
    if not holds_official(checkpoint):
        return checkpoint.get("model", checkpoint)
    try:
        official = take_apart(checkpoint)
        return to_ours(official.state, official.architecture)
    except ValueError as error:
        raise ValueError(f"checkpoint {path}: {error}") from None
