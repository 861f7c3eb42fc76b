"""Modules that need not run again when a forward pass is repeated."""

import dataclasses
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from fisher_detr.layers.kept_tensor import KeptTensor
from fisher_detr.layers.random_states import random_states


class Counted(Protocol):
    """What is recorded in the order of the calls, within the module too."""

    def count(self) -> int:
        """How many there were so far in this pass."""

    def skip_to(self, count: int) -> None:
        """Go on behind so many."""


class RunOnce:
    """A module that gives the outputs of its first pass again, as long as it gets the same tensors.

    One that takes or gives anything else than tensors without gradients, or draws random numbers, runs.
    """

    def __init__(self, module: nn.Module, choices: Counted):
        """Nothing changes before the context is entered; args are the module and what it may skip."""
        self._module, self._choices = module, choices
        self._forward = module.forward
        self._calls: list[_Call | None] = []
        self._position: int | None = None

    def __enter__(self) -> "RunOnce":
        self._module.forward = self._run
        return self

    def __exit__(self, *_: object) -> None:
        self._module.forward = self._forward

    def rewind(self) -> None:
        """Repeat from the first call on."""
        self._position = 0

    def _run(self, *args: Any, **kwargs: Any) -> Any:
        if self._position is None:
            return self._record(*args, **kwargs)
        call = self._calls[self._position]
        self._position += 1
        if call is None or not call.got(args):
            return self._forward(*args, **kwargs)
        self._choices.skip_to(call.end)
        return call.output.read()

    def _record(self, *args: Any, **kwargs: Any) -> Any:
        before = random_states()
        inputs = [KeptTensor(x) for x in args if isinstance(x, Tensor)]
        output = self._forward(*args, **kwargs)
        constant = all(isinstance(x, Tensor) and not x.requires_grad for x in (*args, *kwargs, output))
        constant = constant and all(map(torch.equal, before, random_states()))
        self._calls.append(_Call(inputs, KeptTensor(output), self._choices.count()) if constant else None)
        return output


@dataclasses.dataclass
class _Call:
    """What a module got and gave, and how many choices had been made by its end."""

    inputs: list[KeptTensor]
    output: KeptTensor
    end: int

    def got(self, args: tuple[Any, ...]) -> bool:
        """Whether it gets the same again."""
        return len(args) == len(self.inputs) and all(
            not kept.has_changed and isinstance(x, Tensor) and torch.equal(kept.read(), x)
            for kept, x in zip(self.inputs, args, strict=True)
        )
