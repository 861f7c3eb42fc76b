"""A critical set of categories."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class CategorySet:
    """A critical set C of categories.

    Attributes:
        name: used in metric names; letters, digits and `_`.
        indices: contiguous class indices in `[0, num_classes)`, ascending, without repetition.
        num_classes: number n of categories of the data set, without no-object.
    """

    name: str
    indices: tuple[int, ...]
    num_classes: int

    def __post_init__(self):
        if not self.name.replace("_", "a").isalnum():
            raise ValueError(f"category set name {self.name!r}: use letters, digits and '_' only")
        if not self.indices:
            raise ValueError(f"category set {self.name!r} is empty: name at least one category")
        if list(self.indices) != sorted(set(self.indices)):
            raise ValueError(
                f"category set {self.name!r}: indices {self.indices} must ascend without repetition"
            )
        if self.indices[0] < 0 or self.indices[-1] >= self.num_classes:
            raise ValueError(
                f"category set {self.name!r}: indices {self.indices} outside [0, {self.num_classes})"
            )

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def others(self) -> tuple[int, ...]:
        """Class indices that are not critical; empty when C holds every category."""
        return tuple(i for i in range(self.num_classes) if i not in self.indices)
