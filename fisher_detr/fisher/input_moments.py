"""How errors of one output channel's weights interact: the second moment of what they multiply.

In `y_tc = sum_k W_ck x_tk` the gradient by row c of the weight is `sum_t g_tc x_t`, where `g` is that by the
output. Positions t taken for independent, and the C channels for equals that share one matrix, the Fisher
information of a row is, up to a factor,

    H = E_x[ sum_t (sum_c g_tc^2) x_t x_t' ],

close to K-FAC (arXiv 1503.05671; convolutions 1602.01407), which takes the expectations of the two factors
apart. Without gradients it is `E_x[sum_t x_t x_t']`: the layer's own squared output error.
"""

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.modules.utils import _pair

# Stride, padding and dilation (in pixels: a number or one for each direction), groups.
Geometry = tuple[int | tuple[int, int], int | tuple[int, int], int | tuple[int, int], int]


@torch.no_grad()
def input_moment(
    x: Tensor,
    gradient: Tensor | None,
    weight_shape: tuple[int, ...],
    geometry: Geometry | None = None,
    with_bias: bool = False,
) -> Tensor:
    """`sum_t (sum_c g_tc^2) x_t x_t'` of one product, over all its images and positions.

    K are the inputs of one output channel, G the groups. A convolution's positions are those of its output,
    and `x_t` is what the kernel covers there, flattened as the weight is.

    Args:
        x: what went in: `[..., K]`, or `[B, C', H, W]` or `[C', H, W]` of a convolution.
        gradient: by what came out, `[..., C]`, or `[B, C, H', W']` or `[C, H', W']`; of every image's own
            loss, not of a mean over the batch. Those of several objectives, one behind the other among the
            channels (of each group), are added up. None: every position counts 1.
        weight_shape: `[C, K]`, or `[C, C' / G, h, w]` of a convolution, where `K = C' / G * h * w`.
        geometry: of a convolution; None: a linear layer.
        with_bias: count the bias as one more input, the last, that is always 1: K + 1 take the place of K.

    Returns:
        Tensor: `[G, K, K]` (a linear layer: G = 1), symmetric and positive semidefinite, in the precision of
            `x`, at least float32. To be added up over images in float64.

    Raises:
        ValueError: the shapes do not belong together.
    """
    if geometry is None:
        rows, weights = _linear(x, gradient)
    else:
        rows, weights = _convolution(x, gradient, weight_shape, geometry)
    num_inputs = torch.Size(weight_shape[1:]).numel()
    if rows.shape[-1] != num_inputs or (weights is not None and weights.shape != rows.shape[:2]):
        found = "no gradient" if gradient is None else f"gradient {tuple(gradient.shape)}"
        raise ValueError(
            f"input {tuple(x.shape)} and {found} do not belong to a weight of shape {tuple(weight_shape)}"
        )
    if with_bias:
        rows = F.pad(rows, (0, 1), value=1.0)
    if weights is not None:
        rows = rows * weights[..., None]  # by the root on both sides: symmetric to the last bit
    return rows.mT @ rows  # [G, K, K]


def _linear(x: Tensor, gradient: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """The T inputs `[1, T, K]`, and roots of their weights `[1, T]`."""
    rows = _at_least_float32(x).reshape(1, -1, x.shape[-1])
    if gradient is None:
        return rows, None
    return rows, _norm(gradient.reshape(1, -1, gradient.shape[-1]), dim=-1)


def _convolution(
    x: Tensor, gradient: Tensor | None, weight_shape: tuple[int, ...], geometry: Geometry
) -> tuple[Tensor, Tensor | None]:
    """The patches `[G, T, K]`, and roots of their weights `[G, T]`."""
    *window, groups = geometry
    stride, padding, dilation = map(_pair, window)
    images = _at_least_float32(x if x.dim() == 4 else x[None])
    patches = F.unfold(images, tuple(weight_shape[2:]), dilation, padding, stride)  # [B, C' h w, T / B]
    rows = patches.unflatten(1, (groups, -1)).permute(1, 0, 3, 2).flatten(1, 2)  # [G, T, K]
    if gradient is None:
        return rows, None
    gradient = gradient if gradient.dim() == 4 else gradient[None]
    norms = _norm(gradient.unflatten(1, (groups, -1)).flatten(3), dim=2)  # [B, G, T / B]
    return rows, norms.transpose(0, 1).flatten(1)


def _norm(gradient: Tensor, dim: int) -> Tensor:
    return torch.linalg.vector_norm(_at_least_float32(gradient), dim=dim)


def _at_least_float32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
