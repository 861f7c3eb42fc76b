"""One predictor for checkpoints, packed models and ONNX files."""

import dataclasses
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from detectron2.data.catalog import Metadata
from detectron2.structures import Instances
from torch import nn

from fisher_detr import model_zoo
from fisher_detr.checkpoint import load_tensors
from fisher_detr.data import DetrDatasetMapper
from fisher_detr.engine import (
    fit_device,
    is_quantized,
    known_categories,
    load_float,
    load_quantized,
    read_config,
    target_spec,
)

_ZOO = "zoo://"


class Predictor:
    """Detects objects in one image at a time.

    Attributes:
        metadata: `thing_classes`, and `thing_supercategories` where they are known; for a visualizer and for
            `resolve_category_set`.
        critical: CRITICAL.TARGET of the model's config; may be empty.
    """

    def __init__(self, model: str | os.PathLike, config_file: str = "", device: str | None = None):
        """Load a model.

        Args:
            model: `zoo://<name>`, a checkpoint (`.pth`), a packed model (`.safetensors`) or an exported one
                (`.onnx`).
            config_file: with which it was made. Empty: what a published or exported file says of itself, else
                the config that a run has left beside its weights.
            device: such as "cuda:0"; None: the config's, or the processor where it has no GPU. An ONNX model
                runs on the processor.

        Raises:
            FileNotFoundError: no such file, or no config.
            ValueError: the file is broken, or does not fit the config; the model zoo has no such entry.
        """
        model = os.fspath(model)
        exported = _open_exported(model) if model.endswith(".onnx") else None
        told = _describe(model, config_file, exported.info if exported else None)
        self._detect = exported or _load(told.cfg, model, device)
        self._augmentations = T.AugmentationList(
            DetrDatasetMapper(told.cfg, is_train=False).augmentations.augs
        )
        self._flips = _reads_rgb(told.cfg)
        self.metadata = Metadata(name=model, thing_classes=list(told.categories))
        self.metadata.thing_supercategories = list(told.categories.values())
        self.critical = told.critical

    @torch.no_grad()
    def __call__(self, image: np.ndarray) -> Instances:
        """Detect.

        Args:
            image: uint8 [H, W, 3] in OpenCV's order, blue, green, red.

        Returns:
            On the processor: `pred_boxes` (xyxy in pixels of the image), `scores` in [0, 1] descending, and
            `pred_classes`, indices into `metadata.thing_classes`.

        Raises:
            ValueError: the image is of another type or shape.
        """
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
            raise ValueError(
                f"image is {image.dtype} {list(image.shape)}, expected uint8 [H, W, 3]: use cv2.imread"
            )
        height, width = image.shape[:2]
        augmented = T.AugInput(image[:, :, ::-1] if self._flips else image)
        self._augmentations(augmented)
        tensor = torch.from_numpy(np.ascontiguousarray(augmented.image.transpose(2, 0, 1)))
        (output,) = self._detect([{"image": tensor, "height": height, "width": width}])
        return output["instances"].to("cpu")


@dataclasses.dataclass(frozen=True)
class _Description:
    """What a predictor needs besides the weights.

    Attributes:
        cfg: the model's config.
        categories: super-category by name, in the order of the class indices.
        critical: CRITICAL.TARGET.
    """

    cfg: CfgNode
    categories: Mapping[str, str]
    critical: str


def _describe(model: str, config_file: str, exported: Mapping[str, Any] | None) -> _Description:
    """What the user, the zoo, the file or its run tells of a model."""
    if model.startswith(_ZOO):
        name = model.removeprefix(_ZOO)
        cfg = read_config(config_file) if config_file else model_zoo.get_config(name)
        return _complete(cfg, model_zoo.entry(name).categories or known_categories(cfg))
    info = load_tensors(_existing(model)) if exported is None else exported
    info = info.get("info", info)  # a packed file's is beside its weights
    cfg = read_config(config_file) if config_file else _config_of(model, info)
    return _complete(cfg, info.get("categories") or known_categories(cfg))


def _complete(cfg: CfgNode, categories: Mapping[str, str] | Sequence[str] | None) -> _Description:
    """Without names the categories are numbers; without a number building the model is the error."""
    number = cfg.MODEL.DETR.NUM_CLASSES
    if categories and not isinstance(categories, Mapping):  # names alone
        categories = dict.fromkeys(categories, "")
    categories = categories or {f"class {index}": "" for index in range(number)}
    cfg.MODEL.DETR.NUM_CLASSES = number or len(categories)
    return _Description(cfg, dict(categories), target_spec(cfg))


def _config_of(model: str, info: Mapping[str, Any]) -> CfgNode:
    """The config that a file holds, or that a run has left beside it."""
    if text := info.get("config"):
        if not isinstance(text, str) or "_BASE_" in text:  # a file of someone else opens no others
            raise ValueError(f"the config in {model} is not one that stands by itself: name a config file")
        with tempfile.NamedTemporaryFile("w", suffix=".yaml", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            return read_config(file.name)
    path = Path(model)
    beside = [path.with_suffix(".yaml"), path.with_name("config.yaml")]
    found = next((config for config in beside if config.is_file()), None)
    if found is None:
        raise FileNotFoundError(
            f"{model} does not tell its config, and there is no {beside[1]}: name the config file"
        )
    return read_config(str(found))


def _existing(model: str) -> str:
    if not os.path.isfile(model):
        raise FileNotFoundError(f"model {model} does not exist: check the path, or name one as zoo://<name>")
    return model


def _load(cfg: CfgNode, model: str, device: str | None):
    cfg = cfg.clone()
    cfg.MODEL.WEIGHTS = model
    cfg.MODEL.DEVICE = device or cfg.MODEL.DEVICE
    fit_device(cfg)
    return load_quantized(cfg) if is_quantized(model) else load_float(cfg)


def _open_exported(path: str) -> nn.Module:
    """An ONNX file; what reads it is an extra."""
    try:
        from fisher_detr.export import OnnxDetector
    except ImportError as error:
        raise ImportError(f"{path} is an ONNX model, and {error}") from None
    return OnnxDetector(path)


def _reads_rgb(cfg: CfgNode) -> bool:
    return cfg.INPUT.FORMAT == "RGB"
