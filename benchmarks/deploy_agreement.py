#!/usr/bin/env python
"""Do exported files find in photographs what the published models find in PyTorch?

    python -m benchmarks.deploy_agreement --images $DETECTRON2_DATASETS/aquarium/images \
        --output benchmarks/results/deploy_photographs.json

The detectors of street have never seen such pictures, and are unsure of nearly all that they find: small
differences of scores would change which of it is there. Needs no annotations.
"""

import argparse
import itertools
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import cv2

from fisher_detr import model_zoo
from fisher_detr.data import DetrDatasetMapper
from fisher_detr.export import ExportSettings, export_onnx
from fisher_detr.files import write_json

MODELS = ("street_detr_small", "street_dab_detr_small", "street_deformable_detr_small")
COLUMNS = ["model", "images", "detections", "agree, %", "of them the farthest box (px)", "the farthest score"]


def main() -> None:
    """Parse the command line, compare, write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="folder of photographs (.jpg)")
    parser.add_argument("--count", type=int, default=20, help="how many of them, by name")
    parser.add_argument("--models", nargs="+", default=MODELS, help="zoo entries in full precision")
    parser.add_argument("--output", help="results file (JSON)")
    args = parser.parse_args()
    paths = list(itertools.islice(sorted(args.images.glob("*.jpg")), args.count))
    if len(paths) < args.count:
        sys.exit(
            f"deploy_agreement: {args.images} has {len(paths)} .jpg files, expected {args.count} or more"
        )
    results = describe([compare(name, paths) for name in args.models], args.images.parent.name)
    if args.output:
        write_json(args.output, results)
    print(json.dumps(results["tables"], indent=1))


def compare(name: str, paths: Sequence[Path]) -> list:
    """Row of a model: its float32 file beside PyTorch, each image made as the model's config says.

    Raises:
        ValueError: they do not find the same.
    """
    mapper, model = DetrDatasetMapper(model_zoo.get_config(name), is_train=False), model_zoo.get(name).cpu()
    images = [mapper(record(path, index)) for index, path in enumerate(paths)]
    with tempfile.TemporaryDirectory() as folder:
        found = export_onnx(model, Path(folder, "model.onnx"), images, ExportSettings()).comparison
    return [name, len(images), found.detections, 100 * found.agreement, found.box, found.score]


def record(path: Path, index: int) -> dict:
    """Of an image, as Detectron2's data sets have them."""
    height, width = cv2.imread(str(path)).shape[:2]
    return {"file_name": str(path), "image_id": index, "height": height, "width": width}


def describe(rows: list[list], name: str) -> dict:
    """The results file."""
    caption = f"Detections of score 0.05 and above in photographs of {name}, in onnxruntime and in PyTorch"
    table = {"caption": caption, "columns": COLUMNS, "rows": rows}
    text = "Files of float32. They agree within 0.5 px and 0.01 of score."
    program = "python -m benchmarks.deploy_agreement"
    return model_zoo.describe_study(
        program, "Exported detectors on photographs", [text], [table], peers=["onnxruntime"]
    )


if __name__ == "__main__":
    main()
