"""What is measured of a training of the grid (`qat_grid`): accuracy, critical loss and its Fisher trace.

    python -m benchmarks.qat_measure CONFIG CHECKPOINT FOLDER SPLIT [KEY VALUE ...]

Leaves `result_SPLIT.json` in the folder.
"""

import argparse
import contextlib
import dataclasses
from pathlib import Path

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog
from pycocotools.coco import COCO
from scipy.stats import spearmanr

from fisher_detr.critical import resolve_category_sets
from fisher_detr.data import DetrDatasetMapper, sample_calibration_images
from fisher_detr.engine import Trainer, load_config, load_float
from fisher_detr.engine.commands import load_quantized
from fisher_detr.engine.critical_sets import target_set
from fisher_detr.engine.estimation import image_losses
from fisher_detr.engine.insertion import float_model_for_quantization
from fisher_detr.engine.qat import is_quantized
from fisher_detr.evaluation import BootstrapAP, bootstrap_ap, complete_ground_truth
from fisher_detr.files import read_json, write_json
from fisher_detr.fisher import GradientMethod, PassSettings, estimate_fisher
from fisher_detr.modeling import DetrBase
from fisher_detr.quantization import held_weights, quantizable_layers, quantized_layers

ROOT = Path(__file__).resolve().parents[1]
RESAMPLES = 1000  # of the images that are evaluated
IMAGES = 256  # of each split, for losses and traces


def main() -> None:
    """Parse the command line, measure, write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("config", help="of the training")
    parser.add_argument("checkpoint", help="quantized, or in full precision")
    parser.add_argument("folder", type=Path, help="where detections and the result go")
    parser.add_argument("split", help="of the street data to evaluate on")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="config keys and values of the training")
    args = parser.parse_args()
    keys = ["MODEL.WEIGHTS", args.checkpoint, "DATASETS.TEST", (f"street_{args.split}",)]
    output = ["OUTPUT_DIR", str(args.folder / args.split)]
    cfg = load_config(str(ROOT / args.config), [*args.opts, *keys, *output])
    write_json(args.folder / f"result_{args.split}.json", measure(cfg))


def measure(cfg: CfgNode) -> dict:
    """Evaluate a checkpoint.

    Args:
        cfg: of the training, with the checkpoint and the split to evaluate on.

    Returns:
        `metrics` (of "bbox"), `target` and `others` (names of the critical sets), `resampled` (AP of the
        target on resamples of the images, see `packed`), and for `train` and `evaluated` what `describe`
        says.
    """
    model = load_quantized(cfg) if is_quantized(cfg.MODEL.WEIGHTS) else load_float(cfg)
    metrics = Trainer.test(cfg, model)["bbox"]
    target, split = cfg.CRITICAL.TARGET, cfg.DATASETS.TEST[0]
    metadata = MetadataCatalog.get(split)
    sets = resolve_category_sets(cfg.CRITICAL.SETS, metadata)
    if not quantized_layers(model):
        float_model_for_quantization(model, cfg.QUANT.FOLD_NORM)  # the same weights as the quantized one
    return {
        "metrics": {name: None if np.isnan(value) else value for name, value in metrics.items()},
        "target": target,
        "others": [chosen.name for chosen in sets if chosen.name != target],
        "resampled": packed(resampled(cfg, metadata)),
        "train": critical_statistics(cfg, model, cfg.DATASETS.TRAIN[0]),
        "evaluated": critical_statistics(cfg, model, split),
    }


def resampled(cfg: CfgNode, metadata: Metadata) -> BootstrapAP:
    """AP of the target on resamples of the images, from the detections of an evaluation."""
    path = Path(cfg.OUTPUT_DIR, "inference", metadata.name, f"critical_{cfg.CRITICAL.TARGET}_results.json")
    ids = {index: id_ for id_, index in metadata.thing_dataset_id_to_contiguous_id.items()}
    category_ids = [ids[index] for index in target_set(cfg).indices]
    ground_truth = complete_ground_truth(COCO(metadata.json_file))
    detections = {"run": read_json(path, "detections")}
    return bootstrap_ap(ground_truth, detections, category_ids, RESAMPLES)["run"]


def packed(estimate: BootstrapAP) -> dict:
    """For JSON: `point`, `samples` in one string, `draw`."""
    return dataclasses.asdict(estimate) | {"samples": " ".join(f"{value:.3f}" for value in estimate.samples)}


def unpacked(found: dict) -> BootstrapAP:
    """What was `packed`."""
    return BootstrapAP(found["point"], np.array(found["samples"].split(), dtype=float), found["draw"])


def critical_statistics(cfg: CfgNode, model: DetrBase, data_set: str) -> dict[str, float]:
    """Critical loss of an image, and trace of its Fisher information at the weights that are multiplied."""
    records = sample_calibration_images(DatasetCatalog.get(data_set), IMAGES, seed=0)
    mapper = DetrDatasetMapper(cfg, is_train=False)
    of_both = image_losses(model.eval(), target_set(cfg))
    losses = []

    def critical(batch):
        loss = of_both([mapper(record) for record in batch])["critical"]
        losses.extend(loss.tolist())
        return {"critical": loss}

    with contextlib.ExitStack() as stack:
        if quantized_layers(model):
            weights = stack.enter_context(held_weights(quantized_layers(model))).leaves
        else:
            layers = quantizable_layers(model, cfg.QUANT.SKIP_LAYERS)
            weights = {name: layer.weight for name, layer in layers.items()}
        settings = PassSettings(GradientMethod.SINGLE, progress=False)
        fisher = estimate_fisher(critical, weights, [[record] for record in records], settings)
    return describe(np.array(losses), fisher.image_traces["critical"].sum(axis=1))


def describe(losses: np.ndarray, traces: np.ndarray) -> dict[str, float]:
    """Means, and what the trace is made of.

    Args:
        losses: of the images, `[N]`.
        traces: squared norms of their gradients, `[N]`.

    Returns:
        `loss` and `trace`, `top_tenth` (part of the trace that the tenth of the images with the largest has),
        `rank_correlation` (Spearman's, of an image's loss and trace).
    """
    largest = np.sort(traces)[::-1][: max(1, len(traces) // 10)]
    return {
        "loss": float(losses.mean()),
        "trace": float(traces.mean()),
        "top_tenth": float(largest.sum() / traces.sum()),
        "rank_correlation": float(spearmanr(losses, traces).statistic),
    }


if __name__ == "__main__":
    main()
