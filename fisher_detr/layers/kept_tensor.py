"""Tensors of one forward pass that a later one reads."""

from torch import Tensor


class KeptTensor:
    """A reference, not a copy: it notices when somebody writes into the tensor."""

    def __init__(self, tensor: Tensor):
        """Keep `tensor` as it is now."""
        self._tensor = tensor.detach()
        self._version = tensor._version

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the tensor."""
        return tuple(self._tensor.shape)

    @property
    def has_changed(self) -> bool:
        """Whether it was written into since."""
        return self._tensor._version != self._version

    def read(self) -> Tensor:
        """The tensor.

        Raises:
            RuntimeError: it was written into since.
        """
        if self.has_changed:
            raise RuntimeError(
                f"a tensor of shape {self.shape} was changed in place after a quantizer or ReLU had seen it, "
                "whose choices can then not be repeated: add to a new tensor in the model, or take the "
                "method exact for the Fisher-trace penalty"
            )
        return self._tensor
