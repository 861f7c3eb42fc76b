"""Modules that hold the scale of one tensor and fake-quantize it."""

import contextlib
import enum
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from fisher_detr.quantization.primitives import LearnedStep, StepGradient, fake_quantize, quantize
from fisher_detr.quantization.rounding_tape import RoundingTape
from fisher_detr.quantization.scales import weight_scale
from fisher_detr.structures import QuantSpec, ScaleMethod


class QuantizerMode(enum.Enum):
    """What a quantizer does with its input."""

    QUANTIZE = "quantize"
    BYPASS = "bypass"


class FakeQuantizer(nn.Module):
    """Fake-quantizes its input with one scale, or one for each channel.

    The scale is 0 until it is set, and a module with such a scale refuses to run: whether a quantizer is
    calibrated is part of the state dict. The width is in it as well, so that a checkpoint of other widths is
    refused. A learned scale is a parameter of the same name as the buffer it replaces: state dicts of
    training and of deployment are the same.

    Attributes:
        tape: records or repeats the rounding; None: neither (see `frozen_rounding`).
        is_observed: whether those who watch the inputs take notice (see `unobserved`).
    """

    def __init__(self, spec: QuantSpec, num_scales: int = 1):
        """Build uncalibrated.

        Args:
            spec: width and range.
            num_scales: number of channels when `spec.per_channel`, else 1.
        """
        super().__init__()
        self.spec = spec
        self.mode = QuantizerMode.QUANTIZE
        self.tape: RoundingTape | None = None
        self.is_observed = True
        self._step = LearnedStep()
        # None: look at the buffer. Its answer is kept, because on a GPU every look waits for the device.
        self._is_calibrated: bool | None = False
        self.register_buffer("scale", torch.zeros(num_scales))
        self.register_buffer(
            "zero_point", torch.zeros(num_scales, dtype=torch.int32), persistent=not spec.symmetric
        )
        self.register_buffer("bits", torch.tensor(spec.bits, dtype=torch.int32))

    @property
    def is_calibrated(self) -> bool:
        """Whether scale and zero point are set."""
        if self._is_calibrated is None:
            self._is_calibrated = bool((torch.isfinite(self.scale) & (self.scale > 0)).all())
        return self._is_calibrated

    def forward(self, x: Tensor) -> Tensor:
        """Fake-quantize `x`.

        Raises:
            RuntimeError: the quantizer is not calibrated.
        """
        if self.mode is QuantizerMode.BYPASS:
            return _WithZeroGradient.apply(x, self.scale) if self.is_learned else x
        self._require_calibrated()
        return self._fake_quantize(x)

    def quantize(self, x: Tensor) -> Tensor:
        """Integer levels of `x`; see `primitives.quantize`."""
        self._require_calibrated()
        return quantize(x, self.scale.detach(), self.spec, self.zero_point)

    @property
    def is_learned(self) -> bool:
        """Whether the scale is a parameter."""
        return isinstance(self.scale, nn.Parameter)

    def learn_scale(self, gradient: StepGradient, values_per_scale: int | None = None) -> None:
        """Turn the scale into a parameter.

        Under LSQ the gradient is divided by `sqrt(N qmax)` (section 2.2), where qmax is the number of levels
        above zero. Under PACT it is divided by `qmax^2`: plain gradient descent then moves the clipping bound
        `qmax scale` as if that were the parameter.

        Args:
            gradient: LSQ or PACT.
            values_per_scale: N of LSQ; None: the values of each item of a batch.
        """
        qmax = self.spec.qmax
        factor = ((values_per_scale or 1) * qmax) ** -0.5 if gradient is StepGradient.LSQ else qmax**-2
        per_item = gradient is StepGradient.LSQ and values_per_scale is None
        self._step = LearnedStep(gradient, factor, per_item)
        scale = self.scale.detach().clone()
        del self.scale
        self.scale = nn.Parameter(scale)

    def fix_scale(self) -> None:
        """Turn a learned scale into a buffer again."""
        if self.is_learned:
            scale = self.scale.detach().clone()
            del self.scale
            self.register_buffer("scale", scale)

    @torch.no_grad()
    def set_scale(self, scale: Tensor, zero_point: Tensor | int = 0) -> None:
        """Set scale and zero point, each `[num_scales]` or one number.

        Raises:
            ValueError: a scale is not positive and finite.
        """
        if not (torch.isfinite(scale).all() and (scale > 0).all()):
            raise ValueError(
                f"quantizer scale must be positive and finite, got {scale.min()} to {scale.max()}"
            )
        self.scale.copy_(scale)
        self.zero_point.copy_(torch.as_tensor(zero_point))
        self._is_calibrated = True

    @torch.no_grad()
    def reset(self) -> None:
        """Forget the calibration."""
        self.scale.zero_()
        self._is_calibrated = False

    def extra_repr(self) -> str:
        """Width, range and state, for `print(model)`."""
        kind = "symmetric" if self.spec.symmetric else "affine"
        state = "calibrated" if self.is_calibrated else "not calibrated"
        return f"{self.spec.bits} bits, {kind}, {self.scale.numel()} scale(s), {state}"

    def _fake_quantize(self, x: Tensor) -> Tensor:
        zero_point = 0 if self.spec.symmetric else self.zero_point
        function = self.tape.fake_quantize if self.tape else fake_quantize
        return function(x, self.scale, self.spec, zero_point, self._step)

    def _require_calibrated(self) -> None:
        if not self.is_calibrated:
            raise RuntimeError(
                f"{type(self).__name__} is not calibrated: call calibrate_weights(model) and "
                "calibrate_activations(model, batches), or load the state dict of a calibrated model"
            )

    def _load_from_state_dict(self, state_dict, prefix, metadata, strict, missing, unexpected, errors):
        loaded_bits = state_dict.get(prefix + "bits")
        if loaded_bits is not None and int(loaded_bits) != self.spec.bits:
            errors.append(
                f"{prefix[:-1]}: the state dict has {int(loaded_bits)} bits, the model {self.spec.bits}"
            )
            return
        super()._load_from_state_dict(state_dict, prefix, metadata, strict, missing, unexpected, errors)
        self._is_calibrated = None


class _WithZeroGradient(torch.autograd.Function):
    """Passes values on, and gives a scale that is not used yet the gradient 0: DDP waits for every one."""

    @staticmethod
    def forward(ctx, x: Tensor, scale: Tensor) -> Tensor:
        ctx.save_for_backward(scale)
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor]:
        return grad, torch.zeros_like(ctx.saved_tensors[0])


class WeightQuantizer(FakeQuantizer):
    """Fake-quantizes a weight: symmetric, with one scale for each output channel or one in all.

    Attributes:
        held: what is given instead, whatever the weight is; None: nothing (see `held_weights`).
    """

    held: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Fake-quantize `x`; see `FakeQuantizer.forward`."""
        return super().forward(x) if self.held is None else self.held

    def calibrate(
        self, weight: Tensor, method: ScaleMethod = ScaleMethod.MAX, fisher: Tensor | None = None
    ) -> None:
        """Set the scale from a weight; arguments as in `scales.weight_scale`."""
        self.set_scale(weight_scale(weight, self.spec, method, fisher))


class ActivationQuantizer(FakeQuantizer):
    """Fake-quantizes an activation: one scale and zero point for the tensor."""

    def set_range(self, low: float, high: float) -> None:
        """Set scale and zero point from the range of values to represent.

        The range is widened to hold 0, which is represented exactly: a convolution pads with it.

        Args:
            low: smallest value.
            high: largest value.
        """
        low, high = min(low, 0.0), max(high, 0.0)
        if self.spec.symmetric:
            low, high = -max(-low, high), max(-low, high)
        scale = max((high - low) / (self.spec.qmax - self.spec.qmin), torch.finfo(torch.float32).tiny)
        zero_point = 0 if self.spec.symmetric else round(self.spec.qmin - low / scale)
        self.set_scale(torch.tensor([scale]), zero_point)

    def value_range(self) -> tuple[float, float]:
        """Smallest and largest value that is represented."""
        scale, zero_point = self.scale.item(), self.zero_point.item()
        return (self.spec.qmin - zero_point) * scale, (self.spec.qmax - zero_point) * scale


def is_training_pass(quantizer: FakeQuantizer) -> bool:
    """Whether the pass under way is one of the training: no evaluation, and not hidden from watchers."""
    return quantizer.training and quantizer.is_observed and torch.is_grad_enabled()


def activation_quantizers(model: nn.Module) -> dict[str, ActivationQuantizer]:
    """The activation quantizers of a model by their paths."""
    return {name: module for name, module in model.named_modules() if isinstance(module, ActivationQuantizer)}


@contextlib.contextmanager
def bypassed(model: nn.Module, *kinds: type[FakeQuantizer]) -> Iterator[None]:
    """Let the quantizers of these kinds pass their input through unchanged, calibrated or not.

    Args:
        model: the model that holds them.
        kinds: `WeightQuantizer`, `ActivationQuantizer`, or `FakeQuantizer` for both.
    """
    quantizers = [module for module in model.modules() if isinstance(module, kinds)]
    before = [quantizer.mode for quantizer in quantizers]
    try:
        for quantizer in quantizers:
            quantizer.mode = QuantizerMode.BYPASS
        yield
    finally:
        for quantizer, mode in zip(quantizers, before, strict=True):
            quantizer.mode = mode
