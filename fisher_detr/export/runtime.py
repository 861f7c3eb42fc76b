"""An exported file as a detector, in the place of the model it was made from."""

import json
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnxruntime
import torch
from detectron2.structures import Boxes, ImageList, Instances
from torch import Tensor, nn
from torchvision.ops import box_convert

from fisher_detr.export.detector_graph import best_detections
from fisher_detr.export.onnx_graph import open_session, session_options

METADATA = "fisher_detr"  # key of the JSON that says what a file is


class OnnxDetector(nn.Module):
    """Takes what a `DetrBase` takes in eval mode, and gives what it gives."""

    def __init__(
        self,
        model: str | os.PathLike | bytes,
        threads: int | None = None,
        options: onnxruntime.SessionOptions | None = None,
    ):
        """Open a file.

        Args:
            model: path of a file that `export_onnx` wrote, or its content.
            threads: within an operator; None: torch's number.
            options: of the session, in place of this package's.

        Raises:
            FileNotFoundError: no such file.
            ValueError: it is broken, or a file of something else.
        """
        super().__init__()
        name = "of these bytes" if isinstance(model, bytes) else os.fspath(model)
        if not isinstance(model, bytes) and not os.path.isfile(model):
            raise FileNotFoundError(f"ONNX model {name} does not exist: check the path")
        options = options or session_options()
        if threads:
            options.intra_op_num_threads = threads
        try:
            self.session = open_session(model if isinstance(model, bytes) else name, options)
        except Exception as error:  # which is the base of what onnxruntime raises
            reason = str(error).splitlines()[0]
            raise ValueError(f"cannot read ONNX model {name} ({reason}): export it again") from error
        self.info = _metadata(self.session, name)
        self.eval()

    def forward(self, batched_inputs: Sequence[dict[str, Any]]) -> list[dict[str, Instances]]:
        """Detect.

        Args:
            batched_inputs: for each image `image` [3, H, W] and optionally `height`, `width` of the output.

        Returns:
            for each image `instances`; from a file without post-processing also `queries`. See `DetrBase`.
        """
        images = [inputs["image"].float() for inputs in batched_inputs]
        alike = len({tuple(image.shape) for image in images}) == 1
        if not (alike or self.info["padded"]):  # the file knows no padding
            return [self([inputs])[0] for inputs in batched_inputs]
        padded = ImageList.from_tensors(images)
        feed = {"images": padded.tensor.numpy()}
        if self.info["padded"]:
            feed["sizes"] = np.array(padded.image_sizes, dtype=np.int64)
        outputs = [torch.from_numpy(array) for array in self.session.run(None, feed)]
        of_images = zip(batched_inputs, padded.image_sizes, *outputs, strict=True)
        return [self._detect(inputs, size, tensors) for inputs, size, *tensors in of_images]

    def _detect(
        self, inputs: dict[str, Any], size: tuple[int, int], tensors: Sequence[Tensor]
    ) -> dict[str, Instances]:
        """Outputs of one image in the size that it is shown in.

        Raises:
            ValueError: they are not finite.
        """
        if not all(tensor.isfinite().all() for tensor in tensors):
            raise ValueError(
                "the ONNX model's boxes or scores are NaN or infinite: export a sound checkpoint"
            )
        shown = inputs.get("height", size[0]), inputs.get("width", size[1])
        if self.info["post_processing"]:
            boxes, scores, classes = tensors
            absolute = _scaled(boxes, (shown[0] / size[0], shown[1] / size[1]), shown)
            return {"instances": _instances(shown, absolute, scores, classes)}
        logits, boxes = tensors
        absolute = _scaled(box_convert(boxes, "cxcywh", "xyxy"), shown, shown)
        scores, classes, queries = (
            x[0] for x in best_detections(logits[None], self.info["num_classes"], self.info["top_k"])
        )
        return {
            "instances": _instances(shown, absolute[queries], scores, classes),
            "queries": Instances(shown, pred_boxes=absolute, logits=logits),
        }


def _metadata(session: onnxruntime.InferenceSession, name: str) -> dict[str, Any]:
    """What the file says of itself."""
    stored = session.get_modelmeta().custom_metadata_map.get(METADATA, "")
    try:
        info = json.loads(stored)
    except ValueError:
        info = None
    if not isinstance(info, dict):
        raise ValueError(f"ONNX model {name} was not exported by this package: make it with export_onnx")
    return info


def _scaled(boxes: Tensor, factors: tuple[float, float], shown: tuple[int, int]) -> Boxes:
    height, width = factors
    scaled = Boxes(boxes * boxes.new_tensor([width, height, width, height]))
    scaled.clip(shown)
    return scaled


def _instances(shown: tuple[int, int], boxes: Boxes, scores: Tensor, classes: Tensor) -> Instances:
    return Instances(shown, pred_boxes=boxes, scores=scores, pred_classes=classes)
