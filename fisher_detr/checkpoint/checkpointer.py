"""Detectron2's checkpointer made safe: nothing unpickled, half written, or mismatched in silence."""

import dataclasses
import os
from typing import Any

import numpy as np
import torch
from detectron2.checkpoint import DetectionCheckpointer
from torch import nn

from fisher_detr.checkpoint.architecture import OFFICIAL_CLASS_LOSS, Architecture, spelled
from fisher_detr.checkpoint.official import fit_to_model, holds_official, take_apart
from fisher_detr.checkpoint.query_rows import GROUPS_KEY, stored_groups
from fisher_detr.checkpoint.recognition import recognise_model, recognise_ours
from fisher_detr.checkpoint.tensors import load_tensors
from fisher_detr.checkpoint.unpickler import load_array_pickle
from fisher_detr.files import write_atomically, write_text

_SHOWN = 4  # keys named in an error


class SafeCheckpointer(DetectionCheckpointer):
    """Saves atomically, loads tensors only, and accepts a checkpoint only where it fits the model.

    An official checkpoint of DETR, Deformable DETR or DAB-DETR is known by its names and converted in memory.
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

        The number of query groups, which the weights do not tell, is stored beside them.

        Args:
            name: of the file, without `.pth`.
            tag: whether a training may resume from it; otherwise `last_checkpoint` stays as it is.
            **kwargs: more to store.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        data = {"model": self.model.state_dict()}
        if groups := getattr(self.model, GROUPS_KEY, None):
            data[GROUPS_KEY] = groups
        data |= {key: item.state_dict() for key, item in self.checkpointables.items()} | kwargs
        path = os.path.join(self.save_dir, f"{name}.pth")
        self.logger.info("Saving checkpoint to %s", path)
        write_atomically(path, lambda file: torch.save(data, file))
        if tag:
            self.tag_last_checkpoint(f"{name}.pth")

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Name the newest checkpoint in `last_checkpoint`."""
        write_text(os.path.join(self.save_dir, "last_checkpoint"), last_filename_basename)

    def get_checkpoint_file(self) -> str:
        """The checkpoint that `last_checkpoint` names.

        Raises:
            ValueError: the file is damaged, or there is no such checkpoint; those that there are are named.
        """
        try:
            path = super().get_checkpoint_file()
            found = os.path.isfile(path)
        except ValueError:  # bytes that are no text, or no name
            path, found = "", False
        if not found:
            there = sorted(name for name in os.listdir(self.save_dir) if name.endswith(".pth"))
            raise ValueError(
                f"{os.path.join(self.save_dir, 'last_checkpoint')} names no checkpoint of its folder "
                f"({os.path.basename(path)!r}): write the name of one into it; there "
                f"are {', '.join(there) or 'none'}"
            )
        return path

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
        if holds_official(loaded):
            return {"model": self._from_official(loaded)}
        self._check_ours(loaded)
        checkpoint = _with_weights(loaded if "model" in loaded else {"model": loaded}, filename)
        if self.backbone_only and not self.model.state_dict().keys() & checkpoint["model"].keys():
            checkpoint["matching_heuristics"] = True
        return checkpoint

    def _from_official(self, loaded: dict[str, Any]) -> dict[str, Any]:
        """The model's state dict from an official checkpoint."""
        try:
            official = take_apart(loaded)
            self._check_architecture(official.architecture, converted=True)
            return fit_to_model(official, self.model.num_classes, self._path)
        except ValueError as error:
            raise ValueError(f"checkpoint {self._path}: {error}") from None

    def _check_ours(self, loaded: dict[str, Any]) -> None:
        """Name the settings that differ, where the checkpoint is of another detector than the model."""
        weights, conversion = loaded.get("model", loaded), loaded.get("conversion")
        if not isinstance(weights, dict) or not all(_is_tensor(*item) for item in weights.items()):
            return
        found = recognise_ours(weights)
        if found is None or recognise_model(self.model) is None:
            return
        found = dataclasses.replace(found, query_groups=stored_groups(loaded))
        if isinstance(conversion, dict):
            found = dataclasses.replace(
                found, dilation=conversion.get("dilation"), class_loss=OFFICIAL_CLASS_LOSS[found.family]
            )
        try:
            self._check_architecture(found, converted=bool(conversion))
        except ValueError as error:
            raise ValueError(f"checkpoint {self._path}: {error}") from None

    def _check_architecture(self, found: Architecture, converted: bool) -> None:
        """Raise where a checkpoint contradicts the model; of a converted one there is a config."""
        model = recognise_model(self.model)
        conflicts = found.conflicts(model) if model else {}
        if model and not conflicts:
            return
        built = model.title if model else "another kind of model"
        told = f"it holds {found.title}, the config builds {'another' if built == found.title else built}"
        if not converted:
            raise ValueError(f"{told}: set {spelled(conflicts)}")
        path, settings = found.config(self.model.num_classes if model else 0)
        config = f"use --config-file {path}" + (f" with {spelled(settings)}" if settings else "")
        raise ValueError(
            f"{told}: {config}" + (f" (what differs: {spelled(conflicts)})" if conflicts else "")
        )

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


def _is_tensor(key: Any, value: Any) -> bool:
    return isinstance(key, str) and isinstance(value, torch.Tensor)


def _in_backbone(key: str) -> bool:
    return key.startswith("backbone.")


def _is_counter(key: str) -> bool:
    return key.endswith("num_batches_tracked")
