"""Quantized layers as the exported file has them: integer levels behind DequantizeLinear.

A copy of the model is changed in place: layers keep their places and names, which become those of the nodes.
"""

import torch
from detectron2.layers import FrozenBatchNorm2d
from torch import Tensor, nn
from torch.autograd import Function

from fisher_detr.quantization import (
    ActivationQuantizer,
    QuantConv2d,
    QuantizedLayer,
    QuantLinear,
    quantized_layers,
)
from fisher_detr.structures import QuantSpec

REDUCED_BITS = 7
# Buffers, by whose names the levels are found in the graph.
LEVELS = "integer_levels"
_ACTIVATION_BITS = 8  # uint8 is the one type that integer operators take for activations
_ACTIVATION_MAX = 2**_ACTIVATION_BITS - 1
_INT32_MAX = 2**31 - 1


def reduce_weight_range(model: nn.Module) -> None:
    """Let weights of 8 bits have 7, over the same range, in place."""
    for layer in quantized_layers(model).values():
        quantizer = layer.weight_quantizer
        if quantizer.spec.bits > REDUCED_BITS:
            reduced = QuantSpec(REDUCED_BITS, per_channel=quantizer.spec.per_channel)
            quantizer.set_scale(quantizer.scale * (quantizer.spec.qmax / reduced.qmax))
            quantizer.spec = reduced


def use_integer_layers(model: nn.Module, weight_only: bool = False) -> dict[str, int]:
    """Let a quantized model compute by operators that export as ONNX' Quantize- and DequantizeLinear.

    Args:
        model: calibrated; changed in place.
        weight_only: inputs stay in float.

    Returns:
        width in bits of every weight, by the layer's path; a layer with several paths has it under all.

    Raises:
        ValueError: activations have another width than 8 bits, or there are none.
    """
    for name, module in list(model.named_modules()):
        if isinstance(module, ActivationQuantizer):
            _check_activation(name, module, weight_only)
            module.__class__ = UnquantizedActivation if weight_only else QuantizedActivation
        elif isinstance(module, QuantLinear | QuantConv2d):
            if module.input_quantizer is None and not weight_only:
                raise ValueError(
                    f"layer {name} has no quantizer of its input (QUANT.ACTIVATION.BITS 0): "
                    "export it weight-only, or quantize activations to 8 bits"
                )
            if weight_only:
                module.input_quantizer = None
            (_to_linear if isinstance(module, QuantLinear) else _to_convolution)(module)
    return {
        name: module.weight_quantizer.spec.bits
        for name, module in model.named_modules(remove_duplicate=False)
        if isinstance(module, IntegerLinear | IntegerConv2d)
    }


class QuantizedActivation(ActivationQuantizer):
    """An activation quantizer that exports as QuantizeLinear and DequantizeLinear."""

    def forward(self, x: Tensor) -> Tensor:
        """Round to levels, and back."""
        zero = torch.tensor(int(self.zero_point), dtype=torch.uint8)
        return _QuantizeDequantize.apply(x, torch.tensor(float(self.scale)), zero)


class UnquantizedActivation(ActivationQuantizer):
    """An activation quantizer that is left out."""

    def forward(self, x: Tensor) -> Tensor:
        """Pass on."""
        return x


class IntegerLinear(QuantLinear):
    """A linear layer as MatMul and Sub.

    Where sizes are fixed onnxruntime fuses a product and Add to Gemm, which is of floats.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Multiply `x: [..., in_features]`."""
        x = x if self.input_quantizer is None else self.input_quantizer(x)
        y = _MatMul.apply(x, self.integer_levels, self.integer_scale)
        return y if self.bias is None else y - self.negative_bias


class IntegerConv2d(QuantConv2d):
    """A convolution, with a frozen batch norm behind it taken into its scales."""

    def forward(self, x: Tensor) -> Tensor:
        """Convolve `x: [B, C_in, H, W]`."""
        x = x if self.input_quantizer is None else self.input_quantizer(x)
        bias = self.float_bias
        if bias is None:
            bias = _Dequantize.apply(self.bias_levels, self.bias_step)
        geometry = (self.stride, self.padding, self.dilation, self.groups)
        x = _Convolution.apply(x, self.integer_levels, self.integer_scale, bias, *geometry)
        x = x if self.norm is None else self.norm(x)
        return x if self.activation is None else self.activation(x)


def _check_activation(name: str, quantizer: ActivationQuantizer, weight_only: bool) -> None:
    if quantizer.spec.bits != _ACTIVATION_BITS and not weight_only:
        raise ValueError(
            f"{name} has {quantizer.spec.bits} bits: ONNX' integer operators take activations of "
            f"{_ACTIVATION_BITS} bits, quantize with QUANT.ACTIVATION.BITS {_ACTIVATION_BITS}"
        )


@torch.no_grad()
def _to_linear(layer: QuantLinear) -> None:
    levels, scale = _levels(layer)
    layer.register_buffer(LEVELS, levels.t().contiguous())  # [in_features, out_features]
    layer.register_buffer("integer_scale", scale)
    layer.register_buffer("negative_bias", None if layer.bias is None else -layer.bias)
    layer.__class__ = IntegerLinear


@torch.no_grad()
def _to_convolution(layer: QuantConv2d) -> None:
    levels, scale = _levels(layer)
    bias = torch.zeros_like(scale) if layer.bias is None else layer.bias.detach()
    norm = layer.norm
    if isinstance(norm, FrozenBatchNorm2d):
        factor = norm.weight * (norm.running_var + norm.eps).rsqrt()
        bias = norm.bias + (bias - norm.running_mean) * factor
        levels = levels * factor.sign().to(levels.dtype)[:, None, None, None]
        scale = (scale * factor.abs()).clamp(min=torch.finfo(scale.dtype).tiny)
        layer.norm = None
    layer.register_buffer(LEVELS, levels.contiguous())
    layer.register_buffer("integer_scale", scale)
    _set_bias(layer, bias, scale)
    layer.__class__ = IntegerConv2d


def _set_bias(layer: QuantConv2d, bias: Tensor, scale: Tensor) -> None:
    """In steps of the product's, as int32, where it fits: the whole convolution is then one of integers."""
    layer.float_bias = bias
    if layer.input_quantizer is None:
        return
    step = scale * layer.input_quantizer.scale.detach()
    levels = (bias.double() / step.double()).round()
    if bool((levels.abs() < _INT32_MAX // 2).all()):  # the other half is for the sum of products
        layer.float_bias = None
        layer.register_buffer("bias_levels", levels.to(torch.int32))
        layer.register_buffer("bias_step", step)


def _levels(layer: QuantizedLayer) -> tuple[Tensor, Tensor]:
    """Weight in levels [C, ...], and a scale for each of the C channels."""
    levels = layer.weight_quantizer.quantize(layer.weight.detach())
    return levels, layer.weight_quantizer.scale.detach().expand(len(levels)).clone()


class _QuantizeDequantize(Function):
    @staticmethod
    def forward(ctx, x: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
        return torch.fake_quantize_per_tensor_affine(x, scale, zero.int(), 0, _ACTIVATION_MAX)

    @staticmethod
    def symbolic(g, x, scale, zero):
        levels = g.op("QuantizeLinear", x, scale, zero)
        return g.op("DequantizeLinear", levels, scale, zero).setType(x.type())


class _Dequantize(Function):
    @staticmethod
    def forward(ctx, levels: Tensor, scale: Tensor) -> Tensor:
        return levels * scale

    @staticmethod
    def symbolic(g, levels, scale):
        return g.op("DequantizeLinear", levels, scale, axis_i=0)


class _MatMul(Function):
    @staticmethod
    def forward(ctx, x: Tensor, levels: Tensor, scale: Tensor) -> Tensor:
        return x @ (levels * scale)

    @staticmethod
    def symbolic(g, x, levels, scale):
        return g.op("MatMul", x, g.op("DequantizeLinear", levels, scale, axis_i=1))


class _Convolution(Function):
    @staticmethod
    def forward(ctx, x, levels, scale, bias, stride, padding, dilation, groups) -> Tensor:
        weight = levels * scale[:, None, None, None]
        return torch.conv2d(x, weight, bias, stride, padding, dilation, groups)

    @staticmethod
    def symbolic(g, x, levels, scale, bias, stride, padding, dilation, groups):
        weight = g.op("DequantizeLinear", levels, scale, axis_i=0)
        geometry = {"strides_i": stride, "pads_i": [*padding, *padding], "dilations_i": dilation}
        return g.op("Conv", x, weight, bias, group_i=groups, **geometry)
