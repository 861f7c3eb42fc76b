"""The backbone of one detector as the start of another."""

import os

from torch import nn

from fisher_detr.checkpoint.tensors import load_tensors

PREFIX = "backbone."


def load_backbone(backbone: nn.Module, path: str | os.PathLike) -> None:
    """Load the backbone of a detector's checkpoint, in place; the rest of the checkpoint is left out.

    Args:
        backbone: of the new detector.
        path: a checkpoint of any detector with the same backbone.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is corrupt, or its backbone has other keys or shapes.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"checkpoint {path} does not exist: check MODEL.BACKBONE.WEIGHTS")
    stored = load_tensors(path)
    stored = stored.get("model", stored)
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
