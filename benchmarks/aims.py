"""What was aimed for, and whether what was measured holds it: a table of benchmarks/README.md."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence

from fisher_detr.model_zoo import Study, markdown_table

# Of a DETR in onnxruntime: what they hold, and which part of float32's size they may have.
FILES = {
    "onnxruntime, W8A8": ("8 bits", 0.27),
    "onnxruntime, plan of 4 bits, A8": ("a plan of 4 bits", 0.15),
}
COLUMNS = ["benchmark", "what", "measured", "aimed for", "holds"]


@dataclasses.dataclass(frozen=True)
class Aim:
    """A number, and what it should be.

    Attributes:
        what: in words.
        value: measured.
        bound: the greatest that was aimed for, or the least.
        is_least: which of the two.
    """

    what: str
    value: float
    bound: float
    is_least: bool = False

    @property
    def holds(self) -> bool:
        """Whether the aim is met, by the number as it was measured and not as it is shown."""
        return self.value >= self.bound if self.is_least else self.value <= self.bound

    def row(self) -> list[str]:
        """For the table."""
        bound = f"at {'least' if self.is_least else 'most'} {self.bound:g}"
        return [self.what, f"{self.value:.3g}", bound, "yes" if self.holds else "**no**"]


def table(studies: Sequence[Study]) -> str:
    """All aims of the studies in Markdown."""
    rows = [
        [study.title, *aim.row()]
        for study in studies
        for aim in AIMS.get(study.title, lambda _: iter(()))(study)
    ]
    return markdown_table(COLUMNS, rows)


def evaluation(study: Study) -> Iterator[Aim]:
    """Whole critical evaluations, times a plain one, where sets share the overall detections."""
    times = {by: times for case, by, _, times in study.tables[0].rows if case == "shared"}
    for backend, bound in (("pycocotools", 2.2), ("faster-coco-eval", 0.5)):
        yield Aim(f"evaluation on {backend}, times plain", times[f"evaluator on {backend}"], bound)


def allocation(study: Study) -> Iterator[Aim]:
    """Median of a plan under three limits."""
    seconds = {limits: median for limits, median, *_ in study.tables[0].rows}
    yield Aim("plan under three limits, seconds", seconds["bytes, bit operations, latency"], 2.0)


def fisher(study: Study) -> Iterator[Aim]:
    """Passes of a DETR, times the plain one, and their memory."""
    passes = {name: numbers for name, *numbers in study.tables[0].rows}
    times = [passes[f"diagonal, {count} objective{'s' * (count > 1)}"] for count in (1, 2, 3)]
    # The last row: batches of one image, by autograd.
    *_, (one_by_one, *_) = passes.values()
    yield Aim("diagonal, one objective, times plain", times[0][1], 1.3)
    yield Aim("two objectives", times[1][1], 2.3)
    yield Aim("each further one", times[2][1] - times[1][1], 1.0)
    yield Aim("one objective, times image by image", times[0][0] / one_by_one, 1.0)
    if whole := passes.get("diagonal, 1 objective, whole batches"):
        yield Aim("one objective, whole batches, times plain", whole[1], 1.3)
    yield Aim("memory, one objective, times plain", times[0][3], 1.3)
    yield Aim("memory, two objectives", times[1][3], 1.3)


def qat(study: Study) -> Iterator[Aim]:
    """Steps, times plain ones; intervals of four with a penalty, times QAT."""
    for of_model in study.tables:
        model = of_model.caption.partition(",")[0]
        steps = {name: numbers for name, *numbers in of_model.rows}
        yield Aim(f"{model}: QAT, times plain", steps["QAT"][1], 1.3)
        for method, estimate, bound in (
            ("exact", "per_image", 2.25),
            ("exact", "minibatch", 1.75),
            ("finite_difference", "per_image", 1.75),
            ("finite_difference", "minibatch", 1.5),
        ):
            times = steps[f"QAT + {method}, {estimate}, every 4"][2]
            yield Aim(f"{model}: {method}, {estimate}, times QAT", times, bound)


def deployment(study: Study) -> Iterator[Aim]:
    """Integers beside floats in the same runtime, and files beside those of float32."""
    rows = {(model, how): numbers for model, how, *numbers in study.tables[0].rows}
    has_vnni = any("vnni" in text for text in study.text)
    for (model, how), (_, _, times, _, part, _) in rows.items():
        if how == "onnxruntime, W8A8":
            least = 1.0 if model != "DETR" else 2.0 if has_vnni else 1.6
            yield Aim(f"{model}: W8A8, times as fast as float32", times, least, is_least=True)
        if model == "DETR" and how in FILES:
            what, bound = FILES[how]
            yield Aim(f"DETR: file of {what}, part of float32's", part, bound)


def packed(study: Study) -> Iterator[Aim]:
    """Of a DETR whose weights have 4 bits."""
    rows = {(model, weights): numbers for model, weights, *numbers in study.tables[0].rows}
    megabytes, _, written, read = rows["DETR", "4 bits"]
    yield Aim("DETR at 4 bits, MB", megabytes, 24.0)
    yield Aim("to pack it, seconds", written, 2.0)
    yield Aim("to unpack it, seconds", read, 2.0)


AIMS: dict[str, Callable[[Study], Iterator[Aim]]] = {
    "Critical evaluator": evaluation,
    "Exported detectors": deployment,
    "Fisher information": fisher,
    "Integer program for the widths": allocation,
    "Packed models": packed,
    "Steps of quantization-aware training": qat,
}
