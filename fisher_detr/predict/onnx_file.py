"""A detector in an ONNX file."""

import json
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from detectron2.structures import Boxes, Instances

METADATA = "fisher_detr"  # key of the file's metadata: JSON with `config` (YAML) and `categories`
OUTPUTS = ("boxes", "scores", "classes")


class OnnxDetector:
    """Takes what a `DetrBase` takes in eval mode, and gives its `instances`, image by image.

    The file's first input is the image, float32 [1, 3, H, W] as the mapper makes it, not normalized; a second
    one, if there is one, its size, int64 [1, 2]. Its outputs are `boxes` [1, K, 4] (xyxy in pixels of the
    input), `scores` [1, K] and `classes` [1, K].
    """

    def __init__(self, path: str | os.PathLike):
        """Open a file.

        Raises:
            ImportError: onnxruntime is not installed.
            FileNotFoundError: no such file.
            ValueError: it is broken, or has other outputs.
        """
        try:
            import onnxruntime
        except ImportError:
            raise ImportError(
                f"{path} is an ONNX model, and onnxruntime is missing: pip install 'fisher_detr[onnx]'"
            ) from None
        if not os.path.isfile(path):
            raise FileNotFoundError(f"ONNX model {path} does not exist: check the path")
        try:
            self._session = onnxruntime.InferenceSession(os.fspath(path), providers=["CPUExecutionProvider"])
        except Exception as error:  # which is the base of what onnxruntime raises
            reason = str(error).splitlines()[0]
            raise ValueError(f"cannot read ONNX model {path} ({reason}): export it again") from error
        names = [output.name for output in self._session.get_outputs()]
        if absent := [name for name in OUTPUTS if name not in names]:
            raise ValueError(
                f"ONNX model {path} has no output {', '.join(absent)} (it has {', '.join(names)}): export a "
                "detector with its post-processing"
            )
        stored = self._session.get_modelmeta().custom_metadata_map.get(METADATA, "{}")
        try:
            self.info: dict[str, Any] = dict(json.loads(stored))
        except (ValueError, TypeError):
            raise ValueError(
                f"the metadata {METADATA!r} of {path} is no JSON object: export it again"
            ) from None

    def __call__(self, batched_inputs: Sequence[dict[str, Any]]) -> list[dict[str, Instances]]:
        """Detect; see `DetrBase.forward`."""
        return [{"instances": self._detect(inputs)} for inputs in batched_inputs]

    def _detect(self, inputs: dict[str, Any]) -> Instances:
        image = inputs["image"].float().numpy()
        size = image.shape[1:]
        values = [image[None], np.array([size], dtype=np.int64)]
        feed = {given.name: value for given, value in zip(self._session.get_inputs(), values, strict=False)}
        boxes, scores, classes = (
            torch.from_numpy(array[0]) for array in self._session.run(list(OUTPUTS), feed)
        )
        shown = inputs.get("height", size[0]), inputs.get("width", size[1])
        scale = boxes.new_tensor([shown[1] / size[1], shown[0] / size[0]]).repeat(2)
        absolute = Boxes(boxes * scale)
        absolute.clip(shown)
        return Instances(shown, pred_boxes=absolute, scores=scores, pred_classes=classes.long())
