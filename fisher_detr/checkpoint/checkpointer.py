"""Detectron2's checkpointer made safe: nothing unpickled, half written, or mismatched in silence."""

import os
import pickle
import re
from typing import Any

import numpy as np
import torch
from detectron2.checkpoint import DetectionCheckpointer
from torch import nn

from fisher_detr.checkpoint.unpickler import load_array_pickle
from fisher_detr.files import write_atomically, write_text

_SHOWN = 4  # keys named in an error


class SafeCheckpointer(DetectionCheckpointer):
    """Saves atomically, loads tensors only, and accepts a checkpoint only where it fits the model.

    With `backbone_only` a file that holds the weights of the backbone and nothing else is accepted too, to
    start a training; names without the prefix `backbone.` are matched by Detectron2's heuristics.
    """

    def __init__(
        self, model: nn.Module, save_dir: str = "", *, backbone_only: bool = False, **checkpointables: Any
    ):
        """Args are the model, where to save, whether backbone weights are enough, and what else to save."""
        super().__init__(model, save_dir, **checkpointables)
        self.backbone_only = backbone_only

    def save(self, name: str, *, tag: bool = True, **kwargs: Any) -> None:
        """Write `<save_dir>/<name>.pth`, then point `last_checkpoint` to it; a kill in between loses neither.

        Args:
            name: of the file, without `.pth`.
            tag: whether a training may resume from it; otherwise `last_checkpoint` stays as it is.
            **kwargs: more to store.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        data = {"model": self.model.state_dict()}
        data |= {key: item.state_dict() for key, item in self.checkpointables.items()} | kwargs
        path = os.path.join(self.save_dir, f"{name}.pth")
        self.logger.info("Saving checkpoint to %s", path)
        write_atomically(path, lambda file: torch.save(data, file))
        if tag:
            self.tag_last_checkpoint(f"{name}.pth")

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Name the newest checkpoint in `last_checkpoint`."""
        write_text(os.path.join(self.save_dir, "last_checkpoint"), last_filename_basename)

    def load(self, path: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Load a checkpoint into the model.

        Raises:
            FileNotFoundError: no such file.
            ValueError: the file is corrupt, or made for another model (keys, shapes, widths are named).
        """
        # An address is fetched; what else there is no file of is an error here.
        if path and not os.path.isfile(self.path_manager.get_local_path(path)):
            raise FileNotFoundError(f"checkpoint {path} does not exist: check MODEL.WEIGHTS")
        self._path = path
        return super().load(path, *args, **kwargs)

    def _load_file(self, filename: str) -> dict[str, Any]:
        if filename.endswith(".pkl"):
            return _with_weights(_zoo_format(load_array_pickle(filename)), filename)
        loaded = load_tensors(filename)
        checkpoint = _with_weights(loaded if "model" in loaded else {"model": loaded}, filename)
        if self.backbone_only and not self.model.state_dict().keys() & checkpoint["model"].keys():
            checkpoint["matching_heuristics"] = True
        return checkpoint

    def _load_model(self, checkpoint: dict[str, Any]) -> Any:
        known = self.model.state_dict().keys()
        # Batch norm counts its batches in training and not when it is frozen: no mismatch.
        checkpoint["model"] = {
            k: v for k, v in checkpoint["model"].items() if k in known or not _is_counter(k)
        }
        only_backbone = checkpoint.get("matching_heuristics") or all(
            _in_backbone(k) for k in checkpoint["model"]
        )
        stored = {key: tuple(value.shape) for key, value in checkpoint["model"].items()}
        try:
            incompatible = super()._load_model(checkpoint)
        except RuntimeError as error:  # what modules say of their own state, a line each
            raise ValueError(self._misfit(str(error).splitlines()[1:] or [str(error)])) from None
        missing = [key for key in incompatible.missing_keys if not _is_counter(key)]
        if self.backbone_only and only_backbone:
            missing = [key for key in missing if _in_backbone(key)]
        unknown, wrong = incompatible.unexpected_keys, incompatible.incorrect_shapes
        if checkpoint.get("matching_heuristics"):
            unknown, wrong = [], self._other_shapes(missing, stored)
            missing = [key for key in missing if key not in {key for key, _, _ in wrong}]
        shapes = [f"{key} is {there}, the model has {here}" for key, there, here in wrong]
        if missing or unknown or shapes:
            raise ValueError(
                self._mismatch({"other shapes": shapes, "missing keys": missing, "unknown keys": unknown})
            )
        return incompatible

    def _other_shapes(self, missing: list[str], stored: dict[str, tuple]) -> list[tuple[str, tuple, tuple]]:
        """Missing keys that Detectron2's heuristics found by a shorter name, and left out for their shape."""
        here = {key: tuple(value.shape) for key, value in self.model.state_dict().items()}
        return [
            (key, shape, here[key])
            for key in missing
            for name, shape in stored.items()
            if key.endswith(f".{name}") and shape != here[key]
        ]

    def _misfit(self, lines: list[str]) -> str:
        more = f" and {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else ""
        return (
            f"checkpoint {self._path} does not fit the model "
            f"({'; '.join(line.strip() for line in lines[:_SHOWN])}{more}): use the config it was made with"
        )

    def _mismatch(self, parts: dict[str, list[str]]) -> str:
        told = "; ".join(
            f"{len(keys)} {what}: {', '.join(keys[:_SHOWN])}" for what, keys in parts.items() if keys
        )
        return (
            f"checkpoint {self._path} was made for another model ({told}): "
            "use the config it was trained with, with its number of classes"
        )


def load_tensors(path: str | os.PathLike) -> dict[str, Any]:
    """Read a `.pth` file with `weights_only=True`, onto the CPU.

    Raises:
        ValueError: the file is corrupt, or holds anything but tensors and plain containers.
    """
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # damaged bytes raise whatever they happen to ask for
        raise ValueError(
            f"cannot read checkpoint {path} ({_reason(error)}): fetch or make it again"
        ) from error
    if not isinstance(loaded, dict):
        raise ValueError(
            f"checkpoint {path} holds a {type(loaded).__name__}: expected a dictionary of tensors"
        )
    return loaded


def _zoo_format(data: dict[str, Any]) -> dict[str, Any]:
    """A `.pkl` of Detectron2's zoo as it is; one of Detectron1's, marked for conversion."""
    if "model" in data and "__author__" in data:
        return data
    blobs = data.get("blobs", data)
    model = {key: value for key, value in blobs.items() if not key.endswith("_momentum")}
    return {"model": model, "__author__": "Caffe2", "matching_heuristics": True}


def _with_weights(checkpoint: dict[str, Any], path: str) -> dict[str, Any]:
    weights = checkpoint["model"]
    if isinstance(weights, dict):
        strange = [str(key) for key, value in weights.items() if not _is_weight(key, value)]
    else:
        strange = [type(weights).__name__]
    if strange:
        raise ValueError(
            f"checkpoint {path} holds something else than weights: {', '.join(strange[:_SHOWN])}; "
            "expected arrays by name"
        )
    return checkpoint


def _is_weight(key: Any, value: Any) -> bool:
    return isinstance(key, str) and isinstance(value, torch.Tensor | np.ndarray)


def _reason(error: Exception) -> str:
    """One line; torch's own tells how to load the file all the same, which runs the code in it."""
    asked = re.search(r"GLOBAL ([\w.]+)", str(error))
    if asked:
        return f"it asks for {asked[1]}, and only tensors are admitted"
    if isinstance(error, pickle.UnpicklingError):
        return "it is no checkpoint, or a damaged one"
    return (str(error).splitlines() or [type(error).__name__])[0]


def _in_backbone(key: str) -> bool:
    return key.startswith("backbone.")


def _is_counter(key: str) -> bool:
    return key.endswith("num_batches_tracked")
