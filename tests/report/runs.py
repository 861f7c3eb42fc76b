"""Folders as runs leave them: three arms of four categories, whose numbers are known."""

import json

import cv2
import numpy as np

from fisher_detr.files import write_json
from fisher_detr.structures import BitAllocation, LayerInfo, SensitivityForm, SensitivityTable

DATA = "toy_val"
CATEGORIES = [(3, "person", 40), (5, "rider", 10), (8, "car", 90), (9, "<i>sign</i>", 2)]
PERSON = [3, 5]
# By arm: AP, AP of the categories, APcrit_person.
ARMS = {
    "full_precision": (50.0, (60.0, 40.0, 70.0, None), 55.0),
    "uniform": (30.0, (30.0, 35.0, 60.0, None), 25.0),
    "fisher_critical": (42.0, (55.0, 36.0, 65.0, None), 50.0),
}
LAYERS = (
    LayerInfo("backbone.stem.conv1", 100, 4),
    LayerInfo("transformer.encoder.0.ffn.linear1", 300, 4),
    LayerInfo("transformer.decoder.0.ffn.linear1", 600, 4),
)
# Of a page of these runs, in its order.
CHARTS = [
    "categories",
    "layers",
    "traces",
    "landscape-lines",
    "landscape-planes-overall",
    "landscape-planes-critical",
    "pareto-measured",
    "pareto",
]
WIDTHS = {"uniform": (4, 4, 4), "fisher_critical": (8, 3, 4)}


def make_runs(root, arms=tuple(ARMS), dataset=DATA):
    """Evaluations in `root/<arm>/inference/toy_val`, plans in `root/<arm>`."""
    annotations, images = make_images(root / "data")
    for arm in arms:
        folder = root / "runs" / arm / "inference" / dataset
        write_json(folder / "evaluation.json", evaluation(arm, annotations, images, dataset))
        write_json(folder / "coverage.json", coverage(arm))
        write_json(folder / "provenance.json", provenance(arm))
        write_json(folder / "coco_instances_results.json", detections(arm))
        if arm in WIDTHS:
            plan(arm).save(root / "runs" / arm / "allocation.json")
    if "fisher_critical" in arms:
        table().save(root / "runs" / "fisher_critical" / "sensitivity.json")
    return root / "runs"


def make_shared(runs):
    write_json(runs / "traces.json", traces())
    write_json(runs / "landscape.json", landscape())
    write_json(runs / "pareto.json", pareto())


def evaluation(arm, annotations="", images="", dataset=DATA):
    overall, of_categories, critical = ARMS[arm]
    metrics = {"AP": overall, "APcrit_person": critical}
    keys = [f"APcat_{id_}" for id_, _, _ in CATEGORIES]
    return {
        "dataset": dataset,
        "annotations": str(annotations),
        "image_root": str(images),
        "num_images": 2,
        "categories": [
            {"id": id_, "name": name, "metric": key, "objects": objects}
            for (id_, name, objects), key in zip(CATEGORIES, keys, strict=True)
        ],
        "sets": {"person": PERSON},
        "metrics": metrics | dict(zip(keys, of_categories, strict=True)),
    }


def coverage(arm):
    bits = 32 if arm == "full_precision" else 4
    return {
        "quantized_fraction": float(arm != "full_precision"),
        "average_bits": float(bits),
        "total_bytes": 1000 * bits,
        "bit_operations": 10**9 * bits,
        "traced_size": [48, 64],
    }


def provenance(arm):
    return {
        "command": f"train_net.py --arm {arm}",
        "config": "MODEL:\n  DEVICE: cpu\n",
        "environment": {"torch": "2.0", "device": "CPU"},
        "seed": 7,
        "started_from": "model.pth",
        "started_from_sha256": "0123456789abcdef",
        "time": "2026-01-01T00:00:00+00:00",
    }


def plan(arm):
    bits = dict(zip((layer.name for layer in LAYERS), WIDTHS[arm], strict=True))
    size = sum(layer.size_bytes(bits[layer.name]) for layer in LAYERS)
    meta = {"arm": arm, "sensitivity": {"critical_set": {"name": "person", "indices": [0, 1]}}}
    return BitAllocation(bits, size, size, None if arm == "uniform" else 0.25, meta)


def table():
    overall = np.array([[8.0, 4.0], [1.0, 1.0], [1.0, 5.0]])  # at 4 bits: 0.4, 0.1, 0.5
    critical = np.array([[1.0, 9.0], [1.0, 0.5], [1.0, 0.5]])  # at 4 bits: 0.9, 0.05, 0.05
    terms = {"overall": overall, "critical": critical, "cross": np.zeros((3, 2))}
    sums = {name: values.sum(axis=1) for name, values in terms.items()}
    meta = {"critical_set": {"name": "person", "indices": [0, 1], "num_classes": 4}}
    return SensitivityTable(LAYERS, (2, 4), terms, sums, SensitivityForm.BLOCK, meta=meta)


def traces():
    of_categories = [("person", [3], 30.0), ("rider", [5], 5.0), ("car", [8], 10.0), ("sign", [9], 1.0)]
    kinds = [("overall", "overall", [3, 5, 8, 9], 20.0), ("person", "set", PERSON, 25.0)]
    kinds += [(name, "category", ids, trace) for name, ids, trace in of_categories]
    return {
        "num_images": 16,
        "objectives": [
            {"name": name, "kind": kind, "categories": ids, "trace": trace, "standard_error": trace / 10}
            for name, kind, ids, trace in kinds
        ],
        "provenance": provenance("full_precision"),
    }


def landscape():
    steps = [-0.2, -0.1, 0.0, 0.1, 0.2]

    def model(name, curvature):
        lines = [[curvature * step**2 + 1.0 for step in steps] for _ in range(2)]
        plane = [[curvature * (a**2 + b**2) + 1.0 for b in (-0.2, 0.0, 0.2)] for a in (-0.2, 0.0, 0.2)]
        rise = {"step": steps[3:], "rise": lines[0][3:], "standard_error": [0.1, 0.1]}
        return {
            "name": name,
            "weights": f"{name}.pth",
            "steps": steps,
            "lines": {"critical": lines, "overall": lines},
            "plane_steps": [-0.2, 0.0, 0.2],
            "planes": {"critical": plane, "overall": plane},
            "sharpness": {"critical": rise, "overall": rise},
        }

    models = [model("full_precision", 5.0), model("qat", 2.0)]
    return {
        "data_set": DATA,
        "num_images": 8,
        "critical_set": "person",
        "models": models,
        "provenance": provenance("full_precision"),
    }


def pareto():
    plans = []
    for i, size in enumerate((400, 500, 700)):
        found = {"overall": {"rise": 0.4 / (i + 1), "standard_error": 0.01}}
        meta = {"arm": "fisher_critical", "predicted": {"overall": 0.5 / (i + 1)}, "measured": found}
        bits = {layer.name: 2 + i for layer in LAYERS}
        plans.append(
            {"bits": bits, "size_bytes": size, "budget_bytes": size, "cost": 1.0 / (i + 1), "meta": meta}
        )
    return {"plans": plans, "provenance": provenance("fisher_critical")}


def make_images(folder):
    """Two images; the second has more people, one of them in a crowd that does not count."""
    images = folder / "images"
    images.mkdir(parents=True)
    for number in (1, 2):
        cv2.imwrite(str(images / f"{number}.png"), np.full((48, 64, 3), 60 * number, np.uint8))
    objects = [
        (1, 8, [0, 0, 20, 20], 0),
        (2, 3, [0, 0, 10, 20], 0),
        (2, 5, [30, 0, 10, 20], 0),
        (1, 3, [0, 0, 9, 9], 1),
    ]
    content = {
        "images": [{"id": n, "file_name": f"{n}.png", "width": 64, "height": 48} for n in (1, 2)],
        "categories": [{"id": id_, "name": name} for id_, name, _ in CATEGORIES],
        "annotations": [
            {"id": i, "image_id": image, "category_id": category, "bbox": box, "iscrowd": crowd}
            for i, (image, category, box, crowd) in enumerate(objects, start=1)
        ],
    }
    (folder / "annotations.json").write_text(json.dumps(content))
    return folder / "annotations.json", images


def detections(arm):
    """All arms find the person of image 2, only full precision the rider."""
    found = [{"image_id": 2, "category_id": 3, "bbox": [0, 0, 10, 20], "score": 0.9}]
    if arm == "full_precision":
        found.append({"image_id": 2, "category_id": 5, "bbox": [30, 0, 10, 20], "score": 0.8})
    return found
