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
    """A module that gives the output of the first pass again, as long as it gets the same tensors.

    One runs that is called more than once in a pass, takes or gives anything else than tensors without
    gradients, draws random numbers, or writes into a buffer in place; and one whose output was written into
    since.
    """

    def __init__(self, module: nn.Module, choices: Counted):
        """Nothing changes before the context is entered; args are the module and what it may skip."""
        self._module, self._choices = module, choices
        self._forward = module.forward
        self._was_own = "forward" in vars(module)
        self._calls: list[_Call | None] = []
        self._repeats = False

    def __enter__(self) -> "RunOnce":
        self._module.forward = self._run
        return self

    def __exit__(self, *_: object) -> None:
        if self._was_own:
            self._module.forward = self._forward
        else:  # an attribute that stays would hide the method of another class or of a copy
            del self._module.forward

    def rewind(self) -> None:
        """The passes from now on repeat the first one."""
        self._repeats = True

    def _run(self, *args: Any, **kwargs: Any) -> Any:
        if not self._repeats:
            return self._record(*args, **kwargs)
        call = self._calls[0] if len(self._calls) == 1 else None
        if call is None or kwargs or not call.holds(args, self._choices.count()):
            return self._forward(*args, **kwargs)
        self._choices.skip_to(call.end)
        return call.output.read()

    def _record(self, *args: Any, **kwargs: Any) -> Any:
        before, start = self._state(), self._choices.count()
        inputs = [KeptTensor(x) for x in args if isinstance(x, Tensor)]
        output = self._forward(*args, **kwargs)
        constant = all(isinstance(x, Tensor) and not x.requires_grad for x in (*args, *kwargs, output))
        constant = constant and all(map(torch.equal, before, self._state()))
        end = self._choices.count()
        self._calls.append(_Call(inputs, KeptTensor(output), start, end) if constant else None)
        return output

    def _state(self) -> list[Tensor]:
        """What changes where random numbers are drawn, and where somebody writes into a buffer."""
        return [*random_states(), torch.tensor([buffer._version for buffer in self._module.buffers()])]


@dataclasses.dataclass
class _Call:
    """What a module got and gave, and how many choices had been made before and after."""

    inputs: list[KeptTensor]
    output: KeptTensor
    start: int
    end: int

    def holds(self, args: tuple[Any, ...], start: int) -> bool:
        """Whether it gets the same again, at the same place, and what it gave is still that."""
        kept = [self.output, *self.inputs]
        return (
            start == self.start
            and len(args) == len(self.inputs)
            and not any(tensor.has_changed for tensor in kept)
            and all(isinstance(x, Tensor) for x in args)
            and all(torch.equal(tensor.read(), x) for tensor, x in zip(self.inputs, args, strict=True))
        )
