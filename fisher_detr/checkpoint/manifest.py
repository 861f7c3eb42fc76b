"""What a conversion did, as JSON beside its output."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from fisher_detr.checkpoint.architecture import Architecture, spelled
from fisher_detr.checkpoint.class_rows import ClassPolicy, ClassRows
from fisher_detr.checkpoint.naming import repeated_names, tensor_names
from fisher_detr.checkpoint.output_files import FileRecord


@dataclasses.dataclass(frozen=True)
class KeyCounts:
    """How many keys there were.

    Attributes:
        official: in the official file.
        counters: of these, numbers of a profiler or a norm; dropped.
        left_out: of these, tensors of a mask head; kept in the side file.
        tensors: distinct tensors of the detector, q, k and v counted as one where they are packed.
        ours: keys here, repeated names included.
        parameters: numbers in the distinct tensors here.
    """

    official: int
    counters: int
    left_out: int
    tensors: int
    ours: int
    parameters: int

    @classmethod
    def of(
        cls,
        architecture: Architecture,
        distinct: Mapping[str, Tensor],
        left_out: Mapping[str, Tensor],
        counters: Sequence[str] = (),
    ) -> "KeyCounts":
        """Count.

        Args:
            architecture: of the detector.
            distinct: the tensors here, each once.
            left_out: tensors of a mask head.
            counters: keys that no one needs.
        """
        names = tensor_names(architecture)
        return cls(
            official=len(names) + len(left_out) + len(counters),
            counters=len(counters),
            left_out=len(left_out),
            tensors=len({name.ours for name in names}),
            ours=len(distinct) + len(repeated_names(architecture)),
            parameters=sum(tensor.numel() for tensor in distinct.values()),
        )


@dataclasses.dataclass(frozen=True)
class ClassRecord:
    """What became of the class head.

    Attributes:
        policy: `remap`, `reinit` or `error`.
        official_rows: without no-object.
        num_classes: rows here, without no-object.
        kept: official row of each class; empty: new rows.
        dropped: official rows that are no class here.
        made_up: of these, on the way back, rows that no side file had: they are never predicted.
    """

    policy: ClassPolicy
    official_rows: int
    num_classes: int
    kept: tuple[int, ...]
    dropped: tuple[int, ...]
    made_up: tuple[int, ...] = ()

    @property
    def rows(self) -> ClassRows | None:
        """The id map; None: new rows."""
        return ClassRows(self.official_rows, self.kept) if self.kept else None


@dataclasses.dataclass(frozen=True)
class ConversionManifest:
    """A conversion, in either direction.

    Attributes:
        direction: "from official" or "to official".
        source: what was converted.
        output: what came out.
        dropped_rows: name of the side file with what the names here have no place for; None: nothing.
        other_queries: name of the side file with the queries of all groups but the first, for which the
            official names have no place; None: there is one group.
        architecture: what both are of, with the query groups of the file with the names here.
        keys: their numbers.
        classes: what became of the class head.
    """

    direction: str
    source: FileRecord
    output: FileRecord
    dropped_rows: str | None
    other_queries: str | None
    architecture: Architecture
    keys: KeyCounts
    classes: ClassRecord

    def as_json(self) -> dict[str, Any]:
        """Plain JSON, with what the architecture means for a user."""
        content = dataclasses.asdict(self)
        config, keys = self.architecture.config(self.classes.num_classes)
        content["architecture"]["title"] = self.architecture.title
        content["architecture"]["dilation"] = {True: True, False: False}.get(
            self.architecture.dilation, "unknown: the weights of DC5 have the same names (--dc5 says it)"
        )
        content["fits"] = {"config": config, "settings": spelled(keys)} | self.architecture.settings
        return content
