"""How often a model multiplies by each of its weights."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fisher_detr.quantization.selection import weight_groups


@torch.no_grad()
def count_macs(model: nn.Module, run: Callable[[], Any], skip: Sequence[str] = ()) -> dict[str, int]:
    """Count the multiply-accumulates of every quantizable layer during a run.

    One multiply-accumulate is one multiplication and one addition; a convolution or linear layer takes
    `output elements x weights of one output channel`, biases aside. Calls are summed, those of all layers
    that share a weight too. Bit operations are multiply-accumulates x bits of the weight x bits of the
    activation, where 0 bits mean float and count as 32. Products of activations by each other (attention's)
    belong to no layer and are not counted.

    Args:
        model: float or already quantized.
        run: runs the model on one image, for counts of an image; what it runs on is counted as it is.
        skip: module paths that stay in full precision, with everything below them.

    Returns:
        Count by layer name, in the order of `quantizable_layers`; 0 for a layer that was not called.
    """
    groups = [group for group in weight_groups(model, skip) if not group.reason]
    counts = {group.layer_name: 0 for group in groups}

    def hook(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def count(layer: nn.Module, _: Any, output: Tensor) -> None:
            counts[name] += output.numel() * layer.weight[0].numel()

        return count

    handles = [
        owner.register_forward_hook(hook(group.layer_name)) for group in groups for owner in group.owners
    ]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    return counts
