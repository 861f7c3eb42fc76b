"""What a plan may use beside its bytes, and which widths are not free: from the config to the allocator."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence

from detectron2.config import CfgNode

from fisher_detr.allocation import (
    Constraint,
    Restrictions,
    bit_operation_limit,
    container_limit,
    latency_limit,
    load_latency_table,
)
from fisher_detr.quantization import is_at_or_below
from fisher_detr.structures import LayerInfo

_GIGA = 1e9


@dataclasses.dataclass(frozen=True)
class Limits:
    """The keys of ALLOCATION that limit a plan; see config.py."""

    container_bytes: int = 0
    giga_bit_operations: float = 0.0
    latency_table: str = ""
    latency: float = 0.0
    ties: tuple[str, ...] = ()
    fixed: tuple[str, ...] = ()

    @classmethod
    def from_config(cls, cfg: CfgNode) -> "Limits":
        """Read ALLOCATION."""
        keys = cfg.ALLOCATION
        return cls(
            container_bytes=keys.MAX_CONTAINER_BYTES,
            giga_bit_operations=keys.MAX_BIT_OPERATIONS,
            latency_table=keys.LATENCY_TABLE,
            latency=keys.MAX_LATENCY,
            ties=tuple(keys.TIES),
            fixed=tuple(keys.FIXED),
        )

    def constraints(
        self,
        layers: Sequence[LayerInfo],
        widths: Sequence[int],
        activation_bits: int,
        count_macs: Callable[[], Mapping[str, int]],
    ) -> list[Constraint]:
        """Limits beside the bytes of a plan.

        Args:
            layers: L layers.
            widths: W candidate widths in bits.
            activation_bits: of their inputs; 0: floats.
            count_macs: counts the multiply-accumulates of an image by layer; called where they are limited.

        Raises:
            FileNotFoundError: no such latency table.
            ValueError: the latency table is broken, or lacks a layer or a width.
        """
        found = []
        if self.container_bytes:
            found.append(container_limit(layers, widths, self.container_bytes))
        if self.giga_bit_operations:
            limit = self.giga_bit_operations * _GIGA
            found.append(bit_operation_limit(layers, widths, count_macs(), activation_bits, limit))
        if self.latency:
            found.append(latency_limit(layers, widths, load_latency_table(self.latency_table), self.latency))
        return found

    def restrictions(self, layers: Sequence[LayerInfo]) -> Restrictions:
        """Ties and fixed layers.

        Raises:
            ValueError: an entry fits no layer, or cannot be read.
        """
        names = [layer.name for layer in layers]
        ties = [tie for entry in self.ties for tie in _ties(entry, names)]
        fixed: dict[str, int] = {}
        for name, bits in (pair for entry in self.fixed for pair in _fixed(entry, names)):
            if fixed.setdefault(name, bits) != bits:
                raise ValueError(f"ALLOCATION.FIXED gives {name!r} {fixed[name]} bits, and {bits}: keep one")
        return Restrictions(ties=tuple(ties), fixed=fixed)


def _ties(entry: str, names: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Of "q+k": the layers of every module that has both."""
    ends = entry.split("+")
    parents = [name.removesuffix(ends[0]) for name in names if _ends_with(name, ends[0])]
    tied = [tuple(parent + end for end in ends) for parent in parents]
    found = [tie for tie in tied if set(tie) <= set(names)]
    if len(ends) < 2 or not found:
        raise ValueError(
            f"ALLOCATION.TIES has {entry!r}, which fits no layers: expected names, or the ends of names, of "
            'layers of one module, such as "q_proj+k_proj"'
        )
    return iter(found)


def _ends_with(name: str, end: str) -> bool:
    return name == end or name.endswith(f".{end}")


def _fixed(entry: str, names: Sequence[str]) -> Iterator[tuple[str, int]]:
    """Of "backbone.stem:8": the layers at or below that path."""
    path, colon, bits = entry.rpartition(":")
    found = [name for name in names if is_at_or_below(name, path)]
    if not colon or not bits.isdigit() or not found:
        raise ValueError(
            f"ALLOCATION.FIXED has {entry!r}: expected the path of layers and a width in bits, such as "
            f'"backbone.stem:8"; layers are {", ".join(names[:3])}, ...'
        )
    return ((name, int(bits)) for name in found)
