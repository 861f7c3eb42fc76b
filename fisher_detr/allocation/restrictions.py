"""Which widths a layer may have, whatever it costs: ties, fixed layers, a smallest and a largest width."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from fisher_detr.allocation.constraints import near_names
from fisher_detr.structures import MAX_BITS, MIN_BITS


@dataclasses.dataclass(frozen=True)
class Restrictions:
    """What every plan keeps to.

    Attributes:
        ties: groups of layers, by name, that share one width; groups with a layer in common are one.
        fixed: width by layer name.
        min_bits: smallest width of a layer.
        max_bits: largest width of a layer.
    """

    ties: tuple[tuple[str, ...], ...] = ()
    fixed: Mapping[str, int] = dataclasses.field(default_factory=dict)
    min_bits: int = MIN_BITS
    max_bits: int = MAX_BITS

    def check(self, names: Sequence[str], widths: Sequence[int]) -> None:
        """Hold them against the layers and candidate widths.

        Raises:
            ValueError: an unknown layer, a width that is no candidate or outside the smallest and largest
                one, or tied layers that are fixed at several widths; all mistakes in one line.
        """
        if mistakes := [*self._mistakes(names, widths)]:
            raise ValueError("; ".join(mistakes))

    def groups(self, names: Sequence[str]) -> list[list[int]]:
        """Indices of the layers that share one width: G groups in the order of their first layers."""
        leader = {name: name for name in names}
        for tie in self.ties:
            joined = {leader[name] for name in tie}
            for name in names:
                if leader[name] in joined:
                    leader[name] = tie[0]
        found: dict[str, list[int]] = {}
        for index, name in enumerate(names):
            found.setdefault(leader[name], []).append(index)
        return list(found.values())

    def allowed(self, names: Sequence[str], widths: Sequence[int]) -> np.ndarray:
        """Whether a group of `groups` may have a width, `[G, W]`."""
        candidates = np.array(widths)
        between = (candidates >= self.min_bits) & (candidates <= self.max_bits)
        rows = []
        for group in self.groups(names):
            fixed = [self.fixed[names[index]] for index in group if names[index] in self.fixed]
            rows.append(np.isin(candidates, fixed) if fixed else between)
        return np.array(rows)

    def _mistakes(self, names: Sequence[str], widths: Sequence[int]) -> Iterator[str]:
        tied = [name for tie in self.ties for name in tie]
        unknown = [name for name in dict.fromkeys([*tied, *self.fixed]) if name not in names]
        for name in unknown:
            yield f"no layer {name!r} to tie or fix, near are {near_names(name, names)}"
        if not any(self.min_bits <= bits <= self.max_bits for bits in widths):
            yield (
                f"none of the widths {list(widths)} lies between the minimum of {self.min_bits} and the "
                f"maximum of {self.max_bits} bits"
            )
        for name, bits in self.fixed.items():
            if bits not in widths:
                yield f"layer {name!r} is fixed at {bits} bits, the widths are {list(widths)}"
            elif bits < self.min_bits:
                yield f"layer {name!r} is fixed at {bits} bits, below the minimum of {self.min_bits}"
            elif bits > self.max_bits:
                yield f"layer {name!r} is fixed at {bits} bits, above the maximum of {self.max_bits}"
        if not unknown:
            yield from self._torn_ties(names)

    def _torn_ties(self, names: Sequence[str]) -> Iterator[str]:
        for group in self.groups(names):
            fixed = {names[i]: self.fixed[names[i]] for i in group if names[i] in self.fixed}
            if len(set(fixed.values())) > 1:
                listed = ", ".join(f"{name!r} at {bits}" for name, bits in fixed.items())
                yield f"tied layers are fixed at several widths: {listed} bits"
