"""What an exported file is to be."""

import dataclasses
import enum
from collections.abc import Iterable

from fisher_detr.export.processor import saturates

# What the exported graphs are made of: LayerNormalization came with 17, GridSample with 16.
MIN_OPSET = 17
# Weight containers by the operator set that brought their type.
CONTAINER_OPSETS = {8: MIN_OPSET, 4: 21, 2: 25}
MAX_OPSET = 25


class Precision(enum.StrEnum):
    """In what the exported model computes.

    `INTEGER`: weights and activations of quantized layers are integers. `WEIGHT_ONLY`: weights are stored as
    integers, and products are of floats.
    """

    FLOAT = "float32"
    INTEGER = "integer"
    WEIGHT_ONLY = "weight_only"


@dataclasses.dataclass(frozen=True)
class ExportSettings:
    """What the file is to hold.

    Attributes:
        precision: in what it computes.
        opset: ONNX operator set; None: the lowest that has the types of the model's weights.
        post_processing: scored boxes as outputs, instead of the logits and boxes of every query.
        padded: a second input tells the size of each image inside its padding; without it the images of a
            batch are all of one size.
        reduce_range: weights of 8 bits in 7, for processors whose 8-bit products saturate; None: in a file
            that computes in integers, where those of this processor do.
    """

    precision: Precision = Precision.FLOAT
    opset: int | None = None
    post_processing: bool = True
    padded: bool = False
    reduce_range: bool | None = None

    def __post_init__(self):
        if self.opset is not None and not MIN_OPSET <= self.opset <= MAX_OPSET:
            raise ValueError(
                f"ONNX operator set {self.opset}: these models need {MIN_OPSET} to {MAX_OPSET}, "
                f"leave it out for the lowest that does"
            )

    @property
    def reduces_range(self) -> bool:
        """`reduce_range`, decided."""
        if self.reduce_range is None:
            return self.precision is Precision.INTEGER and saturates()
        return self.reduce_range

    def opset_for(self, widths: Iterable[int] = ()) -> int:
        """The operator set of a file with weights of these widths in bits.

        Raises:
            ValueError: the one that was asked for has no type for them.
        """
        needed = max((CONTAINER_OPSETS[container(bits)] for bits in widths), default=MIN_OPSET)
        if self.opset is not None and self.opset < needed:
            narrowest = min(widths)
            raise ValueError(
                f"ONNX operator set {self.opset} has no INT{container(narrowest)} for weights of {narrowest} "
                f"bits: ask for {needed} or leave it out"
            )
        return self.opset or needed


def container(bits: int) -> int:
    """Width of the ONNX integer type that holds weights of 2 to 8 bits: 2, 4 or 8."""
    return next(width for width in sorted(CONTAINER_OPSETS) if bits <= width)
