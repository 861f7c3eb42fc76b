"""Every image's own weight gradients, from one pass over a batch of images.

The gradient of a weight is the sum over the images of what went into its layer times what comes back.
Autograd forms the sum; here the two factors are caught and multiplied image by image. A batch then costs what
it costs in training, and the gradient of one layer and one image is in memory at a time.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

# Takes layer, image and its gradients of all objectives, `[O, *weight.shape]`.
Visitor = Callable[[str, int, Tensor], None]
# Takes layer and all products of its weight, with what came back to them.
ProductVisitor = Callable[[str, Sequence["Product"]], None]


class UncaughtWeightError(ValueError):
    """A weight takes part in something whose factors cannot be caught."""


class AmbiguousBatchError(UncaughtWeightError):
    """Several dimensions of a layer's input have as many entries as there are images."""


@dataclasses.dataclass
class Product:
    """One product of a watched weight, with the B images in the first dimension.

    Attributes:
        x: what went in.
        version: of its memory when it went in.
        geometry: stride, padding, dilation and groups of a convolution; None: of a linear layer.
        gradients: what came back, by objective.
    """

    x: Tensor
    version: int
    geometry: tuple | None
    gradients: dict[int, Tensor] = dataclasses.field(default_factory=dict)

    def release(self) -> None:
        """Let go of the factors: the graph holds the call, and is there until the last layer is done."""
        self.gradients.clear()
        self.x = self.x.new_zeros(0)

    def weight_gradient(self, image: int, objective: int, weight: Tensor) -> Tensor:
        """The part of one image and objective."""
        x, gradient = self.x[image], self.gradients[objective][image]
        if self.geometry is None:
            return gradient.reshape(-1, gradient.shape[-1]).mT @ x.reshape(-1, x.shape[-1])
        stride, padding, dilation, groups = self.geometry
        return torch.ops.aten.convolution_backward(
            gradient[None], x[None], weight, None, stride, padding, dilation, False, [0, 0], groups,
            [False, True, False],
        )[1]  # fmt: skip

    def bias_gradient(self, gradient: Tensor) -> Tensor:
        """Of what came back, `[B, ...]`, the part of a bias: `[B, C]`, the sum over all positions."""
        channels = -1 if self.geometry is None else 1
        return gradient.movedim(channels, 1).flatten(2).sum(2) if gradient.dim() > 2 else gradient


class WeightProducts(TorchFunctionMode):
    """Watches the products of some weights within a forward pass; `visit` differentiates.

    The weights need not require gradients; without, autograd does not form their sums.
    """

    def __init__(self, weights: Mapping[str, Tensor], num_images: int):
        """Args are the weights by layer name, and how many images the batch has."""
        super().__init__()
        self._weights = weights
        self._names = {id(weight): name for name, weight in weights.items()}
        self._num_images = num_images
        self._leaf = torch.zeros((), requires_grad=True)  # lets every product be part of a graph
        self._calls: dict[str, list[Product]] = {}
        self._receive: Callable[[str, Product, Tensor], None] | None = None
        self._of_products: ProductVisitor | None = None

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None):
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if func in _GEOMETRY and id(args[1]) in self._names:
            return self._watch(self._names[id(args[1])], func, args, kwargs, result)
        if isinstance(result, Tensor):
            for name in (self._names[id(x)] for x in (*args, *kwargs.values()) if id(x) in self._names):
                raise UncaughtWeightError(
                    f"the weight of layer {name!r} takes part in {getattr(func, '__name__', func)}: only "
                    "linear layers and convolutions can be differentiated image by image in a batch"
                )
        return result

    def visit(
        self, losses: Sequence[Tensor], visitor: Visitor, of_products: ProductVisitor | None = None
    ) -> None:
        """Give every layer's gradients of every image to a visitor, layer by layer as they come.

        Args:
            losses: of the O objectives, `[B]` each: of every image alone.
            visitor: called once for each image and each layer that an objective depends on; the tensor is
                its own.
            of_products: called once for each such layer; the products are gone afterwards.
        """
        self._of_products = of_products
        num_objectives = len(losses)
        last = num_objectives - 1
        for objective, loss in enumerate(losses):
            missing = {name: len(calls) for name, calls in self._calls.items()}

            def receive(name: str, call: Product, gradient: Tensor, objective=objective, missing=missing):
                call.gradients[objective] = gradient
                missing[name] -= 1
                if objective == last and not missing[name]:
                    self._form(name, num_objectives, visitor)

            self._receive = receive
            if loss.requires_grad:
                torch.autograd.grad(loss.sum(), self._leaf, retain_graph=objective < last, allow_unused=True)
        for name in list(self._calls):  # what the last objective does not depend on in all its calls
            self._form(name, num_objectives, visitor)
        # The graph holds what receives: whatever that holds must not hold the graph, which nobody would free.
        self._receive = self._of_products = None

    def _watch(self, name: str, func: Callable, args: tuple, kwargs: dict, result: Tensor) -> Tensor:
        x, geometry = args[0], _GEOMETRY[func](*args, **kwargs)
        dim = self._image_dim(name, x, geometry is not None)
        call = Product(x.detach().movedim(dim, 0), x._version, geometry)
        self._calls.setdefault(name, []).append(call)
        return _Caught.apply(result, self._leaf, lambda g: self._receive(name, call, g.movedim(dim, 0)))

    def _image_dim(self, name: str, x: Tensor, is_convolution: bool) -> int:
        last = 1 if is_convolution and x.dim() == 4 else x.dim() - 1
        found = [dim for dim in range(last) if x.shape[dim] == self._num_images]
        if len(found) > 1 and self._num_images > 1:
            raise AmbiguousBatchError(
                f"the input of layer {name!r} has shape {tuple(x.shape)}: which of its dimensions are the "
                f"{self._num_images} images?"
            )
        if found:
            return found[0]
        raise UncaughtWeightError(
            f"the input of layer {name!r} has shape {tuple(x.shape)}, which has no dimension of the "
            f"{self._num_images} images: its gradients cannot be told apart"
        )

    def _form(self, name: str, num_objectives: int, visitor: Visitor) -> None:
        calls, weight = self._calls.pop(name), self._weights[name].detach()
        for call in calls:
            if call.x._version != call.version:
                raise RuntimeError(f"the input of layer {name!r} was changed in place after it was used")
        if any(call.gradients for call in calls):
            if self._of_products is not None:
                self._of_products(name, calls)
            for image in range(self._num_images):
                visitor(name, image, _summed(calls, image, num_objectives, weight))
        for call in calls:
            call.release()


def _summed(calls: Sequence[Product], image: int, num_objectives: int, weight: Tensor) -> Tensor:
    """Gradients of one image, those of all calls of the layer together, `[O, *weight.shape]`."""
    gradients = []
    for objective in range(num_objectives):
        parts = [c.weight_gradient(image, objective, weight) for c in calls if objective in c.gradients]
        gradients.append(sum(parts[1:], parts[0]) if parts else torch.zeros_like(weight))
    return torch.stack(gradients)


class _Caught(torch.autograd.Function):
    """Passes a product on, and shows what comes back."""

    @staticmethod
    def forward(ctx, product: Tensor, _leaf: Tensor, receive: Callable[[Tensor], None]) -> Tensor:
        ctx.receive = receive
        ctx.mark_dirty(product)  # the same memory, and yet not a view, which could not be changed in place
        return product

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:
        ctx.receive(gradient)
        return gradient, None, None


def _linear(x, weight, bias=None) -> None:
    """Nothing to know."""


def _convolution(x, weight, bias=None, stride=1, padding=0, dilation=1, groups=1) -> tuple:
    pair = torch.nn.modules.utils._pair
    if isinstance(padding, str):
        raise UncaughtWeightError(f"a convolution with padding {padding!r}: give it in pixels")
    return pair(stride), pair(padding), pair(dilation), groups


_GEOMETRY = {F.linear: _linear, F.conv2d: _convolution, torch.conv2d: _convolution}
