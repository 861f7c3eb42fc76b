"""Converting files of checkpoints, official to ours and back."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fisher_detr.checkpoint.architecture import Architecture
from fisher_detr.checkpoint.class_rows import ClassPolicy, ClassRows, choose_rows, rows_behind
from fisher_detr.checkpoint.convert import (
    State,
    keep_rows,
    new_rows,
    restore_rows,
    to_official,
    to_ours,
    with_repeated,
    without_repeated,
)
from fisher_detr.checkpoint.manifest import ClassRecord, ConversionManifest, KeyCounts
from fisher_detr.checkpoint.naming import tensor_names
from fisher_detr.checkpoint.official import OfficialCheckpoint, holds_official, take_apart
from fisher_detr.checkpoint.output_files import FileRecord, OutputFiles
from fisher_detr.checkpoint.recognition import class_rows, recognise_ours
from fisher_detr.checkpoint.side_file import Dropped, read_dropped, write_dropped
from fisher_detr.checkpoint.tensors import load_tensors
from fisher_detr.files import write_atomically, write_json


@dataclasses.dataclass(frozen=True)
class ClassChoice:
    """What shall become of the class head.

    Attributes:
        policy: keep the rows of the classes, replace all, or keep all.
        num_classes: classes here; needed for `reinit`, else checked where it is given.
        ids: raw ids of the classes for `remap`; None: COCO's or COCO Panoptic's, by the number of rows.
        seed: of new rows.
    """

    policy: ClassPolicy = ClassPolicy.REMAP
    num_classes: int | None = None
    ids: Sequence[int] | None = None
    seed: int = 0

    def __post_init__(self):
        if self.num_classes is not None and self.num_classes < 1:
            raise ValueError(f"--num-classes {self.num_classes}: expected 1 or more")
        if self.policy is ClassPolicy.REINIT and self.num_classes is None:
            raise ValueError("--classes reinit needs the number of classes: give --num-classes N")
        if self.ids is not None and self.policy is not ClassPolicy.REMAP:
            raise ValueError(f"--class-ids goes with --classes remap, not with {self.policy}")


REMAP = ClassChoice()


def convert_official_file(
    path: str | os.PathLike,
    output: str | os.PathLike,
    choice: ClassChoice = REMAP,
    dilation: bool | None = None,
    force: bool = False,
) -> ConversionManifest:
    """Convert an official checkpoint to the names here.

    Args:
        path: the official file.
        output: `.pth` to write; `<stem>.manifest.json` comes beside it, and `<stem>.dropped.safetensors`
            where rows of the class head or a mask head are left out.
        choice: what becomes of the class head.
        dilation: whether the last stage is dilated (DC5), where the file does not tell.
        force: overwrite.

    Raises:
        FileNotFoundError: no such file.
        FileExistsError: there is an output already.
        ValueError: the file is of no known detector, or not the whole of one, or the classes do not fit.
    """
    checkpoint = _load(path)
    files = OutputFiles.at(output, path, force)
    if not holds_official(checkpoint):
        raise ValueError(
            f"checkpoint {path} has no official names (none has backbone.0.body.): give one of DETR, "
            "Deformable DETR or DAB-DETR, or --to-official for the way back"
        )
    try:
        official = _with_dilation(take_apart(checkpoint), dilation)
        kept, record, head_rows = _choose_classes(official, choice)
    except ValueError as error:
        raise _about(path, error) from None
    source, architecture = FileRecord.of(path), official.architecture
    ours = with_repeated(kept, architecture)
    rows = record.rows or ClassRows.all_of(official.raw_rows)
    dropped = Dropped(rows, head_rows, official.left_out, official.prefix, source.sha256)
    with files.staged() as staged:
        if dropped:
            write_dropped(staged.dropped, dropped)
        _save({"model": ours, "conversion": _provenance(source, architecture, record)}, staged.checkpoint)
        manifest = ConversionManifest(
            direction="from official",
            source=source,
            output=FileRecord.of(staged.checkpoint),
            dropped_rows=files.dropped.name if dropped else None,
            architecture=architecture,
            keys=_count(architecture, ours, kept, official.left_out, official.counters),
            classes=record,
        )
        write_json(staged.manifest, manifest.as_json())
    return manifest


def restore_official_file(
    path: str | os.PathLike,
    output: str | os.PathLike,
    dropped_file: str | os.PathLike | None = None,
    policy: ClassPolicy = ClassPolicy.REMAP,
    force: bool = False,
) -> ConversionManifest:
    """Convert a checkpoint with the names here back to the official ones.

    Args:
        path: a checkpoint of this project in full precision, converted or trained here.
        output: `.pth` to write, with its manifest.
        dropped_file: side file of the conversion; None: the one beside `path`, if there is one. Without it
            rows that no class here has are never predicted, and there is no mask head.
        policy: `remap` gives COCO's and COCO Panoptic's classes the rows of their raw ids; `error` keeps the
            rows as they are.
        force: overwrite.

    Raises:
        FileNotFoundError: no such file.
        FileExistsError: there is an output already.
        ValueError: the file is of no known detector, or of one that has no official names; a side file that
            does not belong to it.
    """
    checkpoint = _load(path)
    files = OutputFiles.at(output, path, force)
    beside = OutputFiles(Path(path)).dropped
    dropped_file = dropped_file or (beside if beside.is_file() else None)
    dropped = read_dropped(dropped_file) if dropped_file else None
    try:
        state, architecture = _our_state(checkpoint)
        rows = _official_rows(checkpoint, state, architecture, dropped, policy)
        restored = restore_rows(state, architecture, rows, dropped.head_rows if dropped else {})
        official = to_official(restored, architecture)
    except ValueError as error:
        raise _about(path, error) from None
    prefix, left_out = (dropped.prefix, dropped.left_out) if dropped else ("", {})
    whole = {prefix + key: value for key, value in official.items()} | left_out
    made_up = () if dropped and dropped.head_rows else rows.dropped
    with files.staged() as staged:
        _save({"model": whole}, staged.checkpoint)
        manifest = ConversionManifest(
            direction="to official",
            source=FileRecord.of(path),
            output=FileRecord.of(staged.checkpoint),
            dropped_rows=Path(dropped_file).name if dropped_file else None,
            architecture=architecture,
            keys=_count(architecture, with_repeated(state, architecture), state, left_out, ()),
            classes=ClassRecord(policy, rows.raw, rows.num_classes, rows.kept, rows.dropped, made_up),
        )
        write_json(staged.manifest, manifest.as_json())
    return manifest


def _save(content: dict[str, Any], path: Path) -> None:
    write_atomically(path, lambda file: torch.save(content, file))


def _provenance(source: FileRecord, architecture: Architecture, record: ClassRecord) -> dict[str, Any]:
    """What a converted checkpoint says of itself, for the way back and for the check against a config."""
    return {
        "source": source.file,
        "sha256": source.sha256,
        "dilation": architecture.dilation,
        "official_rows": record.official_rows,
        "kept": list(record.kept),
    }


def _load(path: str | os.PathLike) -> dict[str, Any]:
    if not os.path.isfile(path):
        raise FileNotFoundError(f"checkpoint {path} does not exist: check the path")
    return load_tensors(path)


def _about(path: str | os.PathLike, error: ValueError) -> ValueError:
    """The same error, with the file's name in front."""
    error.args = (f"checkpoint {path}: {error}",)
    return error


def _with_dilation(official: OfficialCheckpoint, dilation: bool | None) -> OfficialCheckpoint:
    told = official.architecture.dilation
    if dilation is None or dilation == told:
        return official
    if told is not None:
        raise ValueError(f"its training had dilation {told}, and --dc5 says {dilation}: leave --dc5 out")
    architecture = dataclasses.replace(official.architecture, dilation=dilation)
    return dataclasses.replace(official, architecture=architecture)


def _choose_classes(official: OfficialCheckpoint, choice: ClassChoice) -> tuple[State, ClassRecord, State]:
    """The distinct tensors here, what became of the class head, and its dropped rows."""
    architecture, raw = official.architecture, official.raw_rows
    ours = to_ours(official.state, architecture)
    if choice.policy is ClassPolicy.REINIT:
        fresh = new_rows(ours, architecture, choice.num_classes, choice.seed)
        return fresh, ClassRecord(choice.policy, raw, choice.num_classes, (), ()), {}
    rows = choose_rows(raw, choice.policy, choice.num_classes, choice.ids)
    kept, head_rows = keep_rows(ours, architecture, rows)
    return kept, ClassRecord(choice.policy, raw, rows.num_classes, rows.kept, rows.dropped), head_rows


def _our_state(checkpoint: Mapping[str, Any]) -> tuple[State, Architecture]:
    """The distinct tensors of a checkpoint of this project."""
    if holds_official(checkpoint):
        raise ValueError("it has the official names already: leave out --to-official to convert it")
    if "bits" in checkpoint:
        raise ValueError("it is quantized, and official checkpoints are not: give one in full precision")
    weights = checkpoint.get("model", checkpoint)
    state = {
        key: value
        for key, value in weights.items()
        if isinstance(value, Tensor) and not key.endswith("num_batches_tracked")
    }
    architecture = recognise_ours(state)
    if architecture is None:
        raise ValueError("it is of no Detr, DeformableDetr or DabDetr: nothing official has its names")
    dilation = (checkpoint.get("conversion") or {}).get("dilation")
    return without_repeated(state, architecture), dataclasses.replace(architecture, dilation=dilation)


def _official_rows(
    checkpoint: Mapping[str, Any],
    state: State,
    architecture: Architecture,
    dropped: Dropped | None,
    policy: ClassPolicy,
) -> ClassRows:
    """Where the rows here go: as the side file says, else the checkpoint, else by their number."""
    num_classes = class_rows(state) - architecture.has_no_object
    conversion = checkpoint.get("conversion") or {}
    if dropped is not None:
        if conversion.get("sha256") not in (None, dropped.source_sha256):
            raise ValueError("the file of dropped rows is of another official checkpoint: give its own")
        rows = dropped.rows
    elif policy is ClassPolicy.ERROR:
        rows = ClassRows.all_of(num_classes)
    elif conversion.get("kept"):
        rows = ClassRows(conversion["official_rows"], tuple(conversion["kept"]))
    else:
        found = None if conversion else rows_behind(num_classes)
        rows = found or ClassRows.all_of(num_classes)
    if rows.num_classes != num_classes:
        raise ValueError(
            f"it has {num_classes} classes, and the file of dropped rows was made for {rows.num_classes}: "
            "leave it out"
        )
    return rows


def _count(
    architecture: Architecture,
    ours: Mapping[str, Tensor],
    distinct: Mapping[str, Tensor],
    left_out: Mapping[str, Tensor],
    counters: Sequence[str],
) -> KeyCounts:
    names = tensor_names(architecture)
    return KeyCounts(
        official=len(names) + len(left_out) + len(counters),
        counters=len(counters),
        left_out=len(left_out),
        tensors=len({name.ours for name in names}),
        ours=len(ours),
        parameters=sum(tensor.numel() for tensor in distinct.values()),
    )
