"""How well a prediction ranks the layers: the records of a validation, as JSON and as a table.

What the numbers mean is said in `validation.py`, which computes them.
"""

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

from fisher_detr.files import write_json

REQUIRED_PART = 0.9  # of the ceiling
_NOISE = 2.0  # standard errors


@dataclasses.dataclass(frozen=True)
class MisrankedLayer:
    """A layer whose place by prediction is far from its place by measurement.

    Attributes:
        layer: its name.
        predicted: the prediction, in its own unit.
        measured: mean change of the loss.
        standard_error: of it, over images.
        predicted_rank: place among the layers, 1 for the largest; ties share the mean of their places.
        measured_rank: the same by measurement.
        rank_interval: bootstrap interval (95 %) of the measured rank.
    """

    layer: str
    predicted: float
    measured: float
    standard_error: float
    predicted_rank: float
    measured_rank: float
    rank_interval: tuple[float, float]

    @property
    def within_noise(self) -> bool:
        """The measured change is less than two standard errors from none."""
        return abs(self.measured) < _NOISE * self.standard_error

    @property
    def place_within_noise(self) -> bool:
        """The predicted rank lies in the interval of the measured one."""
        low, high = self.rank_interval
        return low <= self.predicted_rank <= high


@dataclasses.dataclass(frozen=True)
class RankAgreement:
    """Prediction and measurement of one objective at one width. What is undefined is NaN.

    Attributes:
        objective: whose loss changes.
        bits: width.
        correlation: Spearman's, over layers; undefined where either has one value for all layers.
        interval: its bootstrap interval (95 %) over images. A resample is noisier than the images, so that
            the interval reaches lower than it should.
        split_half: r, the mean Spearman correlation of the measurements from two halves of the images.
        ceiling: `sqrt(2 r / (1 + r))`, what a perfect prediction would have; 0 where r is not above 0.
        misranked: the layers furthest from their place, furthest first.
    """

    objective: str
    bits: int
    correlation: float
    interval: tuple[float, float]
    split_half: float
    ceiling: float
    misranked: tuple[MisrankedLayer, ...]

    @property
    def part_of_ceiling(self) -> float:
        """Correlation over ceiling; undefined where the measurement is nothing but noise."""
        return self.correlation / self.ceiling if self.ceiling > 0.0 else math.nan

    @property
    def holds(self) -> bool:
        """Whether it is at least 0.9 of the ceiling; not where that is undefined."""
        return self.part_of_ceiling >= REQUIRED_PART


@dataclasses.dataclass(frozen=True)
class PredictionCheck:
    """How well a prediction ranks the layers; `str` of it is a table for the console.

    Attributes:
        agreements: one for each objective and width.
        num_images: N of the measurement.
        num_layers: L.
        meta: where prediction and measurement come from.
    """

    agreements: tuple[RankAgreement, ...]
    num_images: int
    num_layers: int
    meta: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def holds(self) -> bool:
        """Whether it is at least 0.9 of the ceiling for every objective and width."""
        return all(agreement.holds for agreement in self.agreements)

    def to_json(self) -> dict[str, Any]:
        """Everything, with what follows from it, as plain data; None stands for NaN."""
        agreements = []
        for agreement in self.agreements:
            layers = [_row(layer, ("within_noise", "place_within_noise")) for layer in agreement.misranked]
            agreements.append(_row(agreement, ("part_of_ceiling", "holds")) | {"misranked": layers})
        return _row(self, ("holds",)) | {"agreements": agreements}

    def save(self, path: str | os.PathLike) -> None:
        """Write as JSON, atomically."""
        write_json(path, self.to_json())

    def __str__(self) -> str:
        summary = [("objective", "bits", "Spearman", "95 %", "split half", "ceiling", "part", "holds")]
        places = [("objective", "bits", "layer", "place", "measured place", "predicted", "measured", "")]
        for x in self.agreements:
            numbers = map(_number, (x.split_half, x.ceiling, x.part_of_ceiling))
            correlation = (_number(x.correlation), _span(x.interval, 2))
            holds = "unknown" if math.isnan(x.part_of_ceiling) else "yes" if x.holds else "no"
            summary.append((x.objective, str(x.bits), *correlation, *numbers, holds))
            places += [(x.objective, str(x.bits), *_cells(layer)) for layer in x.misranked]
        text = f"{self.num_layers} layers, measured on {self.num_images} images\n{_aligned(summary)}"
        return f"{text}\nfurthest from their place (1: the largest change)\n{_aligned(places)}"


def _row(record: Any, properties: Sequence[str]) -> dict[str, Any]:
    """Fields and properties of a record, None for NaN."""
    names = [field.name for field in dataclasses.fields(record)] + list(properties)
    return {name: _plain(getattr(record, name)) for name in names}


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _cells(layer: MisrankedLayer) -> tuple[str, ...]:
    measured_place = f"{layer.measured_rank:g} {_span(layer.rank_interval, 0)}"
    measured = f"{layer.measured:.3g} +- {layer.standard_error:.1g}"
    notes = [("change within noise", layer.within_noise), ("place within noise", layer.place_within_noise)]
    note = ", ".join(text for text, applies in notes if applies)
    place = f"{layer.predicted_rank:g}"
    return layer.layer, place, measured_place, f"{layer.predicted:.3g}", measured, note


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"


def _span(interval: tuple[float, float], digits: int) -> str:
    return "-" if math.isnan(interval[0]) else f"({interval[0]:.{digits}f} to {interval[1]:.{digits}f})"


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(line.rstrip() for line in lines)
