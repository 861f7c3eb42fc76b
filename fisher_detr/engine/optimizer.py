"""The optimizer of DETR: learning rates and weight decay by group, clipping of the whole model's gradient."""

import dataclasses
from collections.abc import Iterable

import torch
from detectron2.config import CfgNode
from torch import Tensor, nn
from torch.optim import Optimizer

# Parts of names whose gradients sum over many points: Deformable DETR lets them learn slowly.
SAMPLING_NAMES = ("sampling_offsets", "reference_points")
# End of the names of learned quantizer scales.
SCALE_NAME = "_quantizer.scale"


@dataclasses.dataclass(frozen=True)
class ParameterGroups:
    """Factors on the learning rate, and weight decay by kind of parameter.

    Attributes:
        backbone: factor for parameters below `backbone`.
        sampling: factor for sampling offsets and reference points.
        weight_decay: of all parameters but those below.
        norm_decay: of the parameters of norms; None: as all others, as in the originals.
        bias_decay: of other biases; None: as all others.
        scales: factor for learned scales of quantizers, which have no weight decay.
    """

    backbone: float = 1.0
    sampling: float = 1.0
    weight_decay: float = 0.0
    norm_decay: float | None = None
    bias_decay: float | None = None
    scales: float = 1.0

    @classmethod
    def from_config(cls, cfg: CfgNode) -> "ParameterGroups":
        """Read SOLVER."""
        solver = cfg.SOLVER
        return cls(
            solver.BACKBONE_MULTIPLIER,
            solver.SAMPLING_MULTIPLIER,
            solver.WEIGHT_DECAY,
            solver.WEIGHT_DECAY_NORM,
            solver.WEIGHT_DECAY_BIAS,
            solver.SCALE_MULTIPLIER,
        )

    def of(self, model: nn.Module, base_lr: float) -> list[dict]:
        """The trainable parameters of a model in groups with `lr` and `weight_decay`, each tensor once."""
        norms = {id(p) for m in model.modules() if _is_norm(m) for p in m.parameters(recurse=False)}
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                setting = (base_lr * self._factor(name), self._decay(name, id(parameter) in norms))
                groups.setdefault(setting, []).append(parameter)
        return [{"params": group, "lr": lr, "weight_decay": decay} for (lr, decay), group in groups.items()]

    def _factor(self, name: str) -> float:
        if name.endswith(SCALE_NAME):
            return self.scales
        if name.startswith("backbone."):
            return self.backbone
        return self.sampling if any(part in name for part in SAMPLING_NAMES) else 1.0

    def _decay(self, name: str, in_norm: bool) -> float:
        if name.endswith(SCALE_NAME):
            return 0.0
        special = None
        if in_norm:
            special = self.norm_decay
        elif name.endswith("bias"):
            special = self.bias_decay
        return self.weight_decay if special is None else special


def build_optimizer(
    model: nn.Module,
    groups: ParameterGroups,
    *,
    name: str,
    base_lr: float,
    momentum: float = 0.9,
    clip_norm: float = 0.0,
) -> Optimizer:
    """Build AdamW or SGD over the trainable parameters.

    Args:
        model: whose parameters are optimized.
        groups: factors on the learning rate, and weight decay.
        name: "ADAMW" or "SGD".
        base_lr: learning rate.
        momentum: of SGD.
        clip_norm: the gradient of the whole model is scaled down to this L2 norm before each step; 0: never.

    Raises:
        ValueError: unknown name.
    """
    params = groups.of(model, base_lr)
    if name == "ADAMW":
        optimizer = torch.optim.AdamW(params, base_lr, fused=True)
    elif name == "SGD":
        optimizer = torch.optim.SGD(params, base_lr, momentum=momentum)
    else:
        raise ValueError(f"SOLVER.OPTIMIZER is {name!r}: expected 'ADAMW' or 'SGD'")
    if clip_norm > 0:
        # A pre-hook clips what the step uses. A fused optimizer takes gradients that are scaled for mixed
        # precision and divides them itself; without this mark the scaler does so before the step.
        optimizer._step_supports_amp_scaling = False
        optimizer.gradient_clip = GradientClip(
            [parameter for group in params for parameter in group["params"]], clip_norm
        )
        optimizer.register_step_pre_hook(optimizer.gradient_clip)
    return optimizer


class GradientClip:
    """Scales the gradient of the whole model down to a norm, but for a part that is told before."""

    def __init__(self, parameters: Iterable[nn.Parameter], norm: float):
        """Args are the parameters and the greatest L2 norm of their gradient."""
        self.parameters = list(parameters)
        self.norm = norm
        self._apart: dict[nn.Parameter, Tensor] = {}

    def keep_apart(self, gradients: Iterable[tuple[nn.Parameter, Tensor]]) -> None:
        """Leave a part of the next step's gradients out of the norm and unscaled: it is clipped elsewhere.

        Args:
            gradients: parameters, and what of their gradients is that part; may be called several times.
        """
        for parameter, part in gradients:
            before = self._apart.get(parameter)
            self._apart[parameter] = part if before is None else before + part

    def forget(self) -> None:
        """Keep nothing apart: the step that it was told for never came, as in mixed precision."""
        self._apart.clear()

    def __call__(self, *_) -> None:
        """Clip."""
        for parameter, part in self._apart.items():
            parameter.grad -= part
        torch.nn.utils.clip_grad_norm_(self.parameters, self.norm)
        for parameter, part in self._apart.items():
            parameter.grad += part
        self.forget()


def _is_norm(module: nn.Module) -> bool:
    return isinstance(module, nn.LayerNorm | nn.GroupNorm | nn.modules.batchnorm._NormBase)
