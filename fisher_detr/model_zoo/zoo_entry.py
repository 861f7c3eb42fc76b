"""What is known of one model: how it was made, what it reaches, where its weights are."""

import dataclasses
import datetime
import enum
import math
import re
from pathlib import PurePosixPath

from fisher_detr.structures import MAX_BITS, MIN_BITS, Arm


class Kind(enum.StrEnum):
    """How the weights are stored."""

    FULL_PRECISION = "full precision"
    QUANTIZED = "quantized"


@dataclasses.dataclass(frozen=True)
class Metric:
    """One number of the evaluator.

    Attributes:
        value: as the evaluator prints it; AP in percent.
        tolerance: a rerun of the command may differ by this much; None where the value is only quoted.
    """

    value: float
    tolerance: float | None = None

    def __post_init__(self):
        if not math.isfinite(self.value):
            raise ValueError(f"value {self.value} is not finite")
        if self.tolerance is not None and not 0 <= self.tolerance < math.inf:
            raise ValueError(f"tolerance {self.tolerance} is negative or not finite")


@dataclasses.dataclass(frozen=True)
class Quantization:
    """How the weights were quantized.

    Attributes:
        arm: how the bits were spent.
        average_bits: the bytes are those of this uniform width over the same layers.
        activation_bits: width of the activations; 0: not quantized.
        critical_set: name of the set that `fisher_critical` aimed at; None for the other arms.
    """

    arm: Arm
    average_bits: float
    activation_bits: int
    critical_set: str | None = None

    def __post_init__(self):
        if not MIN_BITS <= self.average_bits <= MAX_BITS:
            raise ValueError(f"average_bits {self.average_bits:g}, expected {MIN_BITS} to {MAX_BITS}")
        if self.activation_bits and not MIN_BITS <= self.activation_bits <= MAX_BITS:
            raise ValueError(
                f"activation_bits {self.activation_bits}, expected 0 or {MIN_BITS} to {MAX_BITS}"
            )
        if (self.arm is Arm.FISHER_CRITICAL) != bool(self.critical_set):
            raise ValueError(
                f"arm {self.arm} with critical_set {self.critical_set!r}: {Arm.FISHER_CRITICAL} names its "
                "set, the other arms have none"
            )


@dataclasses.dataclass(frozen=True)
class Training:
    """How the weights were made: the command and the seconds it took."""

    command: str
    seconds: float


@dataclasses.dataclass(frozen=True)
class Measured:
    """Where and when this project measured the metrics.

    Attributes:
        torch: version.
        device: processor or GPU.
        date: day of the measurement.
        seconds: taken by the entry's command.
        commit: of this repository.
    """

    torch: str
    device: str
    date: datetime.date
    seconds: float
    commit: str | None = None


@dataclasses.dataclass(frozen=True)
class ZooEntry:
    """One model of the zoo: a YAML file `entries/<name>.yaml` with these keys.

    Attributes:
        name: lower-case letters, digits and `_`; `zoo://<name>` is a path of its weights.
        model: a title for people. Full precision and quantized entries of one model share it.
        data_set: what the metrics were measured on.
        split: of the data set.
        metrics: under the evaluator's names (AP, AP50, APcrit_person, ...).
        config: path in the repository. Required where measured.
        command: run in the repository, prints the metrics. Required where measured.
        parameters: number of parameters. Required where measured.
        size_bytes: bytes of all parameters and buffers, quantized weights packed with their scales, the rest
            in float32. Required where measured.
        quantization: None in full precision.
        training: how the weights were made, by training or by quantization; None where nobody made them here.
        file: name of the weights; None: there are none.
        sha256: of the file.
        url: https address of the file; None: it is shipped in `weights/`.
        categories: super-category ("": none) by category name, in the order of the class indices; None: those
            of the config's data sets.
        converter: run in the repository, turns the official checkpoint of a quoted row into one of this
            project.
        measured: provenance of the metrics, this project's own measurement ...
        quoted: ... or the citation they are quoted from.
    """

    name: str
    model: str
    data_set: str
    split: str
    metrics: dict[str, Metric]
    config: str | None = None
    command: str | None = None
    parameters: int | None = None
    size_bytes: int | None = None
    quantization: Quantization | None = None
    training: Training | None = None
    file: str | None = None
    sha256: str | None = None
    url: str | None = None
    categories: dict[str, str] | None = None
    converter: str | None = None
    measured: Measured | None = None
    quoted: str | None = None

    def __post_init__(self):
        problems = [*self._provenance_problems(), *self._file_problems()]
        if not re.fullmatch(r"[a-z0-9_]+", self.name):
            problems.append(f"name {self.name!r}: use lower-case letters, digits and '_'")
        if not self.metrics:
            problems.append("metrics is empty: give at least one")
        problems += [
            f"metrics.{name}: use the evaluator's name (letters, digits and '_')"
            for name in self.metrics
            if not re.fullmatch(r"\w+", name)
        ]
        if problems:
            raise ValueError("; ".join(problems))

    @property
    def kind(self) -> Kind:
        """Full precision or quantized."""
        return Kind.QUANTIZED if self.quantization else Kind.FULL_PRECISION

    def _provenance_problems(self) -> list[str]:
        if (self.measured is None) == (not self.quoted):
            return ["measured and quoted: give exactly one of them"]
        if self.quoted:
            return []
        required = ("config", "command", "parameters", "size_bytes")
        problems = [f"missing key {key} (it was measured)" for key in required if not getattr(self, key)]
        return problems + [
            f"missing key metrics.{name}.tolerance (it was measured)"
            for name, metric in self.metrics.items()
            if metric.tolerance is None
        ]

    def _file_problems(self) -> list[str]:
        problems = []
        if (self.file is None) != (self.sha256 is None):
            problems.append("file and sha256: give both or none")
        if self.file is not None and PurePosixPath(self.file).name != self.file:
            problems.append(f"file {self.file!r} is not the name of a file")
        if self.sha256 is not None and not re.fullmatch(r"[0-9a-f]{64}", self.sha256):
            problems.append(f"sha256 {self.sha256!r}, expected 64 hexadecimal digits")
        if self.url is not None and (self.file is None or not self.url.startswith("https://")):
            problems.append(f"url {self.url!r}: give the https address of file")
        if self.config and (self.config.startswith("/") or ".." in PurePosixPath(self.config).parts):
            problems.append(f"config {self.config!r} is not a path in the repository")
        return problems
