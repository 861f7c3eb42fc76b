"""Rows of the class head: official heads have one for each raw id, the heads here one for each class."""

import dataclasses
import enum
from collections.abc import Sequence

from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES


class ClassPolicy(enum.StrEnum):
    """What becomes of the rows of the class head."""

    REMAP = "remap"  # keep the rows of the data set's categories, by the id map
    REINIT = "reinit"  # new rows for another number of classes
    ERROR = "error"  # keep all rows as they are, or fail where they do not fit


@dataclasses.dataclass(frozen=True)
class ClassRows:
    """Which rows of an official class head are the classes here.

    Attributes:
        raw: rows of the official head, without no-object.
        kept: the row of each class, ascending.
    """

    raw: int
    kept: tuple[int, ...]

    def __post_init__(self):
        if list(self.kept) != sorted(set(self.kept)) or not self.kept:
            raise ValueError(f"class ids {list(self.kept)}: expected ascending numbers, none of them twice")
        if self.kept[0] < 0 or self.kept[-1] >= self.raw:
            raise ValueError(f"class ids {self.kept[0]} to {self.kept[-1]}, the head has {self.raw} rows")

    @classmethod
    def all_of(cls, raw: int) -> "ClassRows":
        """Every row is a class."""
        return cls(raw, tuple(range(raw)))

    @property
    def num_classes(self) -> int:
        """Classes here."""
        return len(self.kept)

    @property
    def dropped(self) -> tuple[int, ...]:
        """Rows that are no class here, ascending."""
        kept = set(self.kept)
        return tuple(row for row in range(self.raw) if row not in kept)

    @property
    def is_identity(self) -> bool:
        """Whether nothing is dropped."""
        return self.num_classes == self.raw

    def of_proposals(self) -> "ClassRows":
        """Those of the head that ranks proposals: by its first row alone, which no id map may move."""
        return ClassRows(self.raw, tuple(range(self.num_classes)))


_THINGS = tuple(sorted(c["id"] for c in COCO_CATEGORIES if c["isthing"]))
_THINGS_AND_STUFF = tuple(sorted(c["id"] for c in COCO_CATEGORIES))
# The official heads have a row for every id up to the largest of COCO, and for COCO Panoptic up to 249.
COCO_ROWS = ClassRows(91, _THINGS)
PANOPTIC_ROWS = ClassRows(250, _THINGS_AND_STUFF)
_KNOWN = (COCO_ROWS, PANOPTIC_ROWS)
_NAMES = {COCO_ROWS: "COCO's raw ids", PANOPTIC_ROWS: "COCO Panoptic's raw ids"}


def known_rows(raw: int) -> ClassRows | None:
    """The id map of an official head by its number of rows without no-object."""
    return next((rows for rows in _KNOWN if rows.raw == raw), None)


def rows_behind(num_classes: int) -> ClassRows | None:
    """The id map that gives a number of classes."""
    return next((rows for rows in _KNOWN if rows.num_classes == num_classes), None)


def describe(raw: int) -> str:
    """A number of rows with what it stands for, such as "91 class rows (COCO's raw ids, 80 classes)"."""
    rows = known_rows(raw)
    return f"{raw} class rows" + (f" ({_NAMES[rows]}, {rows.num_classes} classes)" if rows else "")


def choose_rows(
    raw: int, policy: ClassPolicy, num_classes: int | None = None, ids: Sequence[int] | None = None
) -> ClassRows:
    """The rows that a policy keeps.

    Args:
        raw: rows of the official head, without no-object.
        policy: `remap` or `error`.
        num_classes: what must come out; None: whatever does.
        ids: raw ids of the classes for `remap`; None: those of COCO or COCO Panoptic, by the number of rows.

    Raises:
        ValueError: the rows do not give that number of classes, or their ids are not known.
    """
    if policy is ClassPolicy.ERROR:
        rows = ClassRows.all_of(raw)
    elif ids is not None:
        rows = ClassRows(raw, tuple(sorted(ids)))
    else:
        rows = known_rows(raw)
    if rows is None:
        raise ValueError(
            f"its head has {describe(raw)}, neither COCO's 91 nor COCO Panoptic's 250: name the "
            "ids of your classes with --class-ids, keep all rows with --classes error, or replace them with "
            "--classes reinit --num-classes N"
        )
    if num_classes not in (None, rows.num_classes):
        raise ValueError(
            f"its head has {describe(raw)}, {rows.num_classes} of them are kept, not {num_classes}: give it "
            f"new rows with --classes reinit --num-classes {num_classes}"
        )
    return rows
