"""Activation ranges from calibration images that the ranks share."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from detectron2.utils import comm
from torch import nn

from fisher_detr.quantization import Histogram, RangeMethod, observe_activations, set_activation_ranges


def calibrate_on_ranks(
    model: nn.Module, batches: Sequence[Sequence[Any]], method: RangeMethod, percentile: float
) -> None:
    """Set the ranges of all activation quantizers from what all ranks have seen: the same on every rank.

    Args:
        model: quantized; the same on every rank.
        batches: all images, on every rank; those of a batch of one size, so that there is no padding.
        method: max, percentile or mse.
        percentile: of the values, for that method.

    Raises:
        ValueError: no images, or a value that is not finite; names the image.
    """
    own = batches[comm.get_rank() :: comm.get_world_size()]
    seen = _observe(model, own) if own or not batches else {}
    total: dict[str, Histogram] = {}
    add_of_ranks(total, seen)
    set_activation_ranges(model, total, method, percentile=percentile)


def _observe(model: nn.Module, batches: Sequence[Sequence[Any]]) -> dict[str, Histogram]:
    last: Sequence[Any] = ()

    def noted() -> Iterator[list[Any]]:
        nonlocal last
        for last in batches:
            yield list(last)

    try:
        return observe_activations(model, noted())
    except ValueError as error:
        if len(last) > 1:
            _observe(model, [[sample] for sample in last])  # raises where an image spoils them by itself
        where = f"image_id {', '.join(str(sample['image_id']) for sample in last)}: " if last else ""
        raise ValueError(f"{where}{error}") from None


def add_of_ranks(total: dict[str, Histogram], seen: Mapping[str, Histogram]) -> None:
    """Add what every rank has seen: any of them can then save the whole."""
    for of_rank in comm.all_gather({name: found.state_dict() for name, found in seen.items()}):
        for name, state in of_rank.items():
            total.setdefault(name, Histogram()).add(Histogram.from_state(state))
