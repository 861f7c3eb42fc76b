"""Converting files of checkpoints, official to ours."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fisher_detr.checkpoint.architecture import Architecture
from fisher_detr.checkpoint.class_rows import ClassPolicy, ClassRows, choose_rows
from fisher_detr.checkpoint.convert import State, keep_rows, new_rows, to_ours, with_repeated
from fisher_detr.checkpoint.manifest import ClassRecord, ConversionManifest, KeyCounts
from fisher_detr.checkpoint.official import OfficialCheckpoint, holds_official, take_apart
from fisher_detr.checkpoint.output_files import FileRecord, OutputFiles, about, read_source, write_checkpoint
from fisher_detr.checkpoint.query_rows import GROUPS_KEY, restore_groups
from fisher_detr.checkpoint.side_file import Dropped, OtherGroups, read_other_groups, write_dropped
from fisher_detr.files import write_json


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
        path: the official file; with `<stem>.queries.safetensors` beside it, the other groups of queries of
            the model that it was made from are restored.
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
    checkpoint = read_source(path)
    files = OutputFiles.at(output, path, force)
    if not holds_official(checkpoint):
        raise ValueError(
            f"checkpoint {path} has no official names (none has backbone.0.body.): give one of DETR, "
            "Deformable DETR or DAB-DETR, or --to-official for the way back"
        )
    source = FileRecord.of(path)
    others = _other_groups(path, source)
    try:
        official = _with_dilation(take_apart(checkpoint), dilation)
        distinct, record, head_rows = _choose_classes(official, choice)
        architecture = official.architecture
        if others:
            architecture = dataclasses.replace(architecture, query_groups=others.groups)
            distinct = restore_groups(distinct, architecture, others.rows)
    except ValueError as error:
        raise about(path, error) from None
    rows = record.rows or ClassRows.all_of(record.num_classes)
    dropped = Dropped(rows, head_rows, official.left_out, official.prefix, source.sha256)
    content = {
        "model": with_repeated(distinct, architecture),
        "conversion": _provenance(source, architecture, record),
    }
    with files.staged() as staged:
        if dropped:
            write_dropped(staged.dropped, dropped)
        write_checkpoint(content, staged.checkpoint)
        manifest = ConversionManifest(
            direction="from official",
            source=source,
            output=FileRecord.of(staged.checkpoint),
            dropped_rows=files.dropped.name if dropped else None,
            other_queries=OutputFiles(Path(path)).queries.name if others else None,
            architecture=architecture,
            keys=KeyCounts.of(architecture, distinct, official.left_out, official.counters),
            classes=record,
        )
        write_json(staged.manifest, manifest.as_json())
    return manifest


def _other_groups(path: str | os.PathLike, source: FileRecord) -> OtherGroups | None:
    """The queries that a conversion to the official names left out, where their file lies beside."""
    beside = OutputFiles(Path(path)).queries
    if not beside.is_file():
        return None
    others = read_other_groups(beside)
    if others.official_sha256 != source.sha256:
        raise ValueError(
            f"checkpoint {path}: {beside} beside it has the queries of another file: move it away"
        )
    return others


def _provenance(source: FileRecord, architecture: Architecture, record: ClassRecord) -> dict[str, Any]:
    """What a converted checkpoint says of itself, for the way back and for the check against a config."""
    return {
        "source": source.file,
        "sha256": source.sha256,
        "dilation": architecture.dilation,
        GROUPS_KEY: architecture.query_groups,
        "official_rows": record.official_rows,
        "kept": list(record.kept),
    }


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
