"""Small detectors, float and quantized, their inputs, and files that are exported from them."""

import functools
from pathlib import Path

import torch
from detectron2.modeling import build_model

from fisher_detr.export import ExportResult, ExportSettings, Precision, export_onnx
from fisher_detr.quantization import (
    calibrate_activations,
    fold_batch_norm,
    quantizable_layers,
    quantize_model,
)
from fisher_detr.structures import BitAllocation
from tests.modeling.detectors import SMALL_BACKBONE, VARIANTS, make_cfg, make_input

SKIP = ("class_embed", "bbox_embed")
SIZE = (64, 96)
INTEGER, WEIGHT_ONLY = Precision.INTEGER, Precision.WEIGHT_ONLY


def inputs(count: int = 3, size: tuple[int, int] = SIZE) -> list[dict]:
    return [make_input(*size, 0, seed) for seed in range(count)]


@functools.cache
def detector(variant: str) -> torch.nn.Module:
    """With weights that let all queries find something else; not to be changed."""
    torch.manual_seed(0)
    model = build_model(make_cfg(SMALL_BACKBONE | dict(VARIANTS[variant].settings))).eval()
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1 and "bbox_embed" not in name:
            torch.nn.init.xavier_normal_(parameter, gain=1.5)
    for name, parameter in model.named_parameters():
        if "bbox_embed" in name or "class_embed" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return model


@functools.cache
def quantized(
    variant: str, bits: tuple[int, ...] = (8,), fold: bool = True, skip: tuple[str, ...] = SKIP, **options
) -> torch.nn.Module:
    """With these widths of weights in turn; calibrated; not to be changed."""
    torch.manual_seed(0)
    model = build_model(make_cfg(SMALL_BACKBONE | dict(VARIANTS[variant].settings))).eval()
    model.load_state_dict(detector(variant).state_dict())
    if fold:
        fold_batch_norm(model)
    names = list(quantizable_layers(model, skip))
    widths = {name: bits[i % len(bits)] for i, name in enumerate(names)}
    quantize_model(model, BitAllocation(widths, 0, 0), skip=skip, **options)
    if options.get("activation_bits", 8):
        calibrate_activations(model, [inputs(2)])
    return model


def export(
    model: torch.nn.Module, folder: Path, *precision: Precision, **options
) -> tuple[Path, ExportResult]:
    """Export without a comparison, which the tests make."""
    settings = ExportSettings(*precision, **{k: v for k, v in options.items() if k != "images"})
    path = folder / "model.onnx"
    return path, export_onnx(model, path, options.get("images", inputs()), settings, verify=False)
