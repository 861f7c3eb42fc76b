"""Detectron2's checkpointer made safe: nothing unpickled, half written, or mismatched in silence."""

import os
import pickle
import zipfile
from typing import Any

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

    def save(self, name: str, **kwargs: Any) -> None:
        """Write `<save_dir>/<name>.pth`, then point `last_checkpoint` to it; a kill in between loses neither.

        Args:
            name: of the file, without `.pth`.
            **kwargs: more to store.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        data = {"model": self.model.state_dict()}
        data |= {key: item.state_dict() for key, item in self.checkpointables.items()} | kwargs
        path = os.path.join(self.save_dir, f"{name}.pth")
        self.logger.info("Saving checkpoint to %s", path)
        write_atomically(path, lambda file: torch.save(data, file))
        self.tag_last_checkpoint(f"{name}.pth")

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Name the newest checkpoint in `last_checkpoint`."""
        write_text(os.path.join(self.save_dir, "last_checkpoint"), last_filename_basename)

    def load(self, path: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Load a checkpoint into the model.

        Raises:
            FileNotFoundError: no such file.
            ValueError: the file is corrupt, or made for another model (keys and shapes are named).
        """
        if path and not self.path_manager.isfile(path):
            raise FileNotFoundError(f"checkpoint {path} does not exist: check MODEL.WEIGHTS")
        self._path = path
        return super().load(path, *args, **kwargs)

    def _load_file(self, filename: str) -> dict[str, Any]:
        if filename.endswith(".pkl"):
            return _zoo_format(load_array_pickle(filename))
        loaded = load_tensors(filename)
        checkpoint = loaded if "model" in loaded else {"model": loaded}
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
        incompatible = super()._load_model(checkpoint)
        missing = [key for key in incompatible.missing_keys if not _is_counter(key)]
        if self.backbone_only and only_backbone:
            missing = [key for key in missing if _in_backbone(key)]
        unknown = [] if checkpoint.get("matching_heuristics") else incompatible.unexpected_keys
        shapes = [
            f"{key} is {there}, the model has {here}" for key, there, here in incompatible.incorrect_shapes
        ]
        if missing or unknown or shapes:
            raise ValueError(
                self._mismatch({"other shapes": shapes, "missing keys": missing, "unknown keys": unknown})
            )
        return incompatible

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
    except (
        pickle.UnpicklingError,
        RuntimeError,
        EOFError,
        zipfile.BadZipFile,
        ValueError,
        KeyError,
    ) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"cannot read checkpoint {path} ({reason}): fetch or make it again") from None
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


def _in_backbone(key: str) -> bool:
    return key.startswith("backbone.")


def _is_counter(key: str) -> bool:
    return key.endswith("num_batches_tracked")
