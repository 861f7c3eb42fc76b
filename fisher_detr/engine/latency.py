"""Latency tables for the allocator: how long every layer takes at every width, measured on this machine."""

import copy
import logging

from detectron2.config import CfgNode

from fisher_detr.engine.calibration_images import calibration_images
from fisher_detr.engine.commands import load_float
from fisher_detr.engine.exporting import few_ranges, on_processor
from fisher_detr.engine.insertion import float_model_for_quantization
from fisher_detr.export import (
    ExportSettings,
    Precision,
    container,
    feed_of,
    onnx_bytes,
    profile_layers,
)
from fisher_detr.quantization import calibrate_activations, quantizable_layers, quantize_model

logger = logging.getLogger(__name__)
LatencyTable = dict[str, dict[str, float]]


def measure_latencies(cfg: CfgNode, runs: int = 20) -> LatencyTable:
    """Export the model of a config in every container of its widths, and time the layers.

    Args:
        cfg: of a model in full precision; the first calibration image decides the size.
        runs: of each file.

    Returns:
        milliseconds `{layer: {"4": time}}` for ALLOCATION.WIDTHS, of the products alone: what `LATENCY_TABLE`
        takes.
    """
    cfg = on_processor(few_ranges(cfg))
    model = float_model_for_quantization(load_float(cfg), cfg.QUANT.FOLD_NORM)
    images = calibration_images(cfg)
    widths = {bits: container(bits) for bits in cfg.ALLOCATION.WIDTHS}
    times = {}
    for bits in sorted(set(widths.values())):
        quantized = copy.deepcopy(model)
        quantize_model(quantized, bits=bits, skip=cfg.QUANT.SKIP_LAYERS)
        calibrate_activations(quantized, [[image] for image in images])
        content = onnx_bytes(quantized, images, ExportSettings(Precision.INTEGER))
        times[bits] = profile_layers(content, feed_of(images[0]["image"], padded=False), runs)
        logger.info("%d bits: %.1f ms in products", bits, sum(times[bits].values()))
    layers = quantizable_layers(model, cfg.QUANT.SKIP_LAYERS)
    return {
        layer: {str(bits): times[stored].get(layer, 0.0) for bits, stored in widths.items()}
        for layer in layers
    }
