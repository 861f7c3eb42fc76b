"""The files that runs leave behind, read as arms of one comparison.

An arm is a folder with an `evaluation.json`, which every evaluation leaves. What else is known of it is
looked for there and in the folders above, up to the one that was named: a run writes its plan into OUTPUT_DIR
and its evaluation into `OUTPUT_DIR/inference/<data set>`. A training keeps its plan in `start/`.
"""

import dataclasses
import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fisher_detr.files import read_json
from fisher_detr.structures import FULL_PRECISION, NEAREST, Arm, BitAllocation, SensitivityTable

EVALUATION = "evaluation.json"
_ORDER = {name: place for place, name in enumerate([NEAREST, *map(str, Arm)])}
_FOLDER = re.compile(rf"(?P<arm>{'|'.join(_ORDER)})(_.+)?_(?P<size>\d+)bytes")  # of one of several arms
EMA = "ema"  # folder of the evaluations of averaged weights, within that of the training
_KEYS = ("dataset", "categories", "sets", "metrics", "num_images")
_ALIKE = ("num_images", "categories", "sets")


@dataclasses.dataclass(frozen=True)
class ReportArm:
    """One evaluated model.

    Attributes:
        name: shown.
        folder: of its evaluation.
        evaluation: content of `evaluation.json`.
        coverage: content of `coverage.json`; None: unknown.
        allocation: widths; None: full precision, or unknown.
        sensitivity: by critical set, as the files are called; empty: unknown.
        provenance: how it came about; None: unknown.
        latency: milliseconds of an image; None: not measured.
    """

    name: str
    folder: Path
    evaluation: Mapping[str, Any]
    coverage: Mapping[str, Any] | None = None
    allocation: BitAllocation | None = None
    sensitivity: Mapping[str, SensitivityTable] = dataclasses.field(default_factory=dict)
    provenance: Mapping[str, Any] | None = None
    latency: float | None = None

    @property
    def is_float(self) -> bool:
        """Whether it is known to be in full precision."""
        return self.of_coverage("quantized_fraction") == 0.0

    def metric(self, name: str) -> float | None:
        """In percent; None: it has no value, or was not measured."""
        return self.evaluation["metrics"].get(name)

    def of_coverage(self, name: str) -> Any:
        """A total of the coverage; None: unknown."""
        return self.coverage.get(name) if self.coverage else None


def find_arms(paths: Sequence[str]) -> list[ReportArm]:
    """Read all arms below some folders, in full precision first.

    Args:
        paths: folders; `name=folder` gives a name to the one arm of a folder.

    Raises:
        FileNotFoundError: no such folder, or no evaluation in it.
        ValueError: a file is broken, two arms are called the same, or they are of several data sets.
    """
    arms = _shortened([arm for path in paths for arm in _arms_of(*split_name(path))])
    _check(arms)
    return sorted(arms, key=_place)


def _place(arm: ReportArm) -> tuple[int, int, int]:
    """Full precision, then by size the ways to quantize; of unknown precision: where it was named."""
    if arm.is_float or arm.name == FULL_PRECISION:
        return 0, 0, 0
    found = _FOLDER.fullmatch(arm.name)
    name, size = (found["arm"], int(found["size"])) if found else (arm.name, 0)
    return 1, size, _ORDER.get(name, len(_ORDER)) if arm.coverage else 0


def common_folder(paths: Sequence[str]) -> Path:
    """The folder that has all of some folders: the place of what belongs to all of them."""
    return Path(os.path.commonpath([Path(split_name(path)[1]).resolve() for path in paths]))


def find_shared(paths: Sequence[str], name: str) -> Path | None:
    """The uppermost file of a name in the folder that has all of some folders, or below them; None: none."""
    folders = [Path(split_name(path)[1]).resolve() for path in paths]
    above = common_folder(paths) / name
    found = [file for folder in folders for file in folder.rglob(name)]
    found += [above] if above.is_file() else []
    return min(found, key=lambda file: (len(file.parts), str(file)), default=None)


def config_file(arms: Sequence[ReportArm]) -> str | None:
    """That of the first arm which was made by a command with `--config-file`; None: there is none."""
    for arm in arms:
        words = typed_words(arm)
        if "--config-file" in words[:-1]:
            return words[words.index("--config-file") + 1]
    return None


def typed_words(arm: ReportArm) -> list[str]:
    """Of the command that made an arm; empty: unknown."""
    return shlex.split((arm.provenance or {}).get("command", ""))


def reference(arms: Sequence[ReportArm]) -> ReportArm:
    """What the others are compared with: full precision, else the first."""
    return next((arm for arm in arms if arm.is_float or arm.name == FULL_PRECISION), arms[0])


def split_name(path: str) -> tuple[str, str]:
    """Name (empty: none) and folder of `[name=]folder`."""
    name, equals, folder = ("", "", "") if Path(path).is_dir() else path.partition("=")
    return (name, folder) if equals else ("", path)


def _arms_of(name: str, path: str) -> Iterator[ReportArm]:
    root = Path(path)
    if not root.is_dir():
        raise FileNotFoundError(f"folder {path} does not exist: name the OUTPUT_DIR of a run")
    files = sorted(root.rglob(EVALUATION))
    if not files:
        raise FileNotFoundError(
            f"{path} holds no {EVALUATION}, which every evaluation leaves: evaluate by "
            "tools/train_net.py --eval-only, or by CriticalCategoryEvaluator with an output_dir"
        )
    if name and len(files) > 1:  # one of the weights, one of their average
        files = [file for file in files if EMA not in file.relative_to(root).parts] or files
    if name and len(files) > 1:
        raise ValueError(
            f"{path} holds {len(files)} evaluations, and has one name, {name}: name their folders"
        )
    for file in files:
        yield _read(name or _name_of(file.parent, root), file.parent, root)


def _name_of(folder: Path, root: Path) -> str:
    """The path below the root without `inference/<data set>`; of the root itself, its own name."""
    parts = folder.relative_to(root).parts
    parts = parts[:-2] if parts[-2:-1] == ("inference",) else parts
    root = root.resolve()
    named = root.relative_to(run_folder(root).parent).parts
    return "/".join(parts or named[: 2 if named[1:2] == (EMA,) else 1])


def _shortened(arms: Sequence[ReportArm]) -> list[ReportArm]:
    """Folders that are called by arm, critical sets and bytes are shown by the arm, where that is enough."""
    found = [_FOLDER.fullmatch(arm.name) for arm in arms]
    short = [match["arm"] if match else arm.name for match, arm in zip(found, arms, strict=True)]
    return [
        dataclasses.replace(arm, name=name) if short.count(name) == 1 else arm
        for arm, name in zip(arms, short, strict=True)
    ]


def run_folder(root: Path) -> Path:
    """The run's folder, where that of one of its evaluations is named."""
    top = root.parent.parent if root.parent.name == "inference" else root
    return top.parent if top.name == EMA else top


def _read(name: str, folder: Path, root: Path) -> ReportArm:
    evaluation = read_json(folder / EVALUATION, "evaluation file")
    if absent := [key for key in _KEYS if not isinstance(evaluation, dict) or key not in evaluation]:
        raise ValueError(f"evaluation file {folder / EVALUATION} lacks {', '.join(absent)}: evaluate again")
    top = run_folder(root)
    files = {"coverage": "coverage", "provenance": "provenance", "latency": "image_latency"}
    found = {field: _optional(folder, top, f"{file}.json") for field, file in files.items()}
    latency = (found.pop("latency") or {}).get("milliseconds")
    arm = ReportArm(name, folder, evaluation, latency=latency, **found)
    if arm.is_float:
        return arm
    plan = _nearest(folder, top, "allocation.json")
    return dataclasses.replace(
        arm,
        allocation=BitAllocation.load(plan) if plan else None,
        sensitivity=_sensitivities(folder, top),
    )


def _folders(folder: Path, root: Path) -> Iterator[Path]:
    """From the evaluation's folder up to the root, each with its `start`."""
    for above in (folder, *folder.parents):
        if not above.is_relative_to(root):
            return
        yield above
        yield above / "start"


def _nearest(folder: Path, root: Path, name: str) -> Path | None:
    return next((x / name for x in _folders(folder, root) if (x / name).is_file()), None)


def _optional(folder: Path, root: Path, name: str) -> Any:
    path = _nearest(folder, root, name)
    content = read_json(path, "file") if path else None
    if path and not isinstance(content, dict):
        raise ValueError(f"{path} is no {name} of an evaluation: evaluate again")
    return content


def _sensitivities(folder: Path, root: Path) -> dict[str, SensitivityTable]:
    for above in _folders(folder, root):
        if files := sorted(above.glob("sensitivity*.json")):
            names = [file.stem.removeprefix("sensitivity").lstrip("_") for file in files]
            return {name: SensitivityTable.load(file) for name, file in zip(names, files, strict=True)}
    return {}


def _check(arms: Sequence[ReportArm]) -> None:
    names = [arm.name for arm in arms]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"several arms are called {', '.join(twice)}: name them as name=folder")
    if len(data_sets := {arm.evaluation["dataset"] for arm in arms}) > 1:
        raise ValueError(
            f"evaluations on {', '.join(sorted(data_sets))}: compare on one data set, by naming its folders, "
            f"as in OUTPUT_DIR{os.sep}inference{os.sep}{min(data_sets)}"
        )
    first = arms[0].evaluation
    for arm in arms[1:]:
        if differing := [key for key in _ALIKE if arm.evaluation[key] != first[key]]:
            raise ValueError(
                f"the evaluations of {arms[0].name} and {arm.name} differ in {' and '.join(differing)}: "
                "evaluate both on the same images and critical sets"
            )
