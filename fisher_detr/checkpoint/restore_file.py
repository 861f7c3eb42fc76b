"""Converting files of checkpoints back, ours to official."""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from fisher_detr.checkpoint.architecture import Architecture
from fisher_detr.checkpoint.class_rows import ClassPolicy, ClassRows, rows_behind
from fisher_detr.checkpoint.convert import State, restore_rows, to_official, without_repeated
from fisher_detr.checkpoint.manifest import ClassRecord, ConversionManifest, KeyCounts
from fisher_detr.checkpoint.official import holds_official
from fisher_detr.checkpoint.output_files import FileRecord, OutputFiles, about, read_source, write_checkpoint
from fisher_detr.checkpoint.query_rows import count_groups, keep_first_group, stored_groups
from fisher_detr.checkpoint.recognition import class_rows, recognise_ours
from fisher_detr.checkpoint.side_file import Dropped, OtherGroups, read_dropped, write_other_groups
from fisher_detr.files import write_json


def restore_official_file(
    path: str | os.PathLike,
    output: str | os.PathLike,
    dropped_file: str | os.PathLike | None = None,
    policy: ClassPolicy = ClassPolicy.REMAP,
    force: bool = False,
    num_queries: int | None = None,
) -> ConversionManifest:
    """Convert a checkpoint with the names here back to the official ones.

    Args:
        path: a checkpoint of this project in full precision, converted or trained here.
        output: `.pth` to write, with its manifest. Of a model with several groups of queries the first, which
            is that of inference, is written, and the others to `<stem>.queries.safetensors`.
        dropped_file: side file of the conversion; None: the one beside `path`, if there is one. Without it
            rows that no class here has are never predicted, and there is no mask head.
        policy: `remap` gives COCO's and COCO Panoptic's classes the rows of their raw ids; `error` keeps the
            rows as they are.
        force: overwrite.
        num_queries: of one group, where the checkpoint does not tell how many groups there are.

    Raises:
        FileNotFoundError: no such file.
        FileExistsError: there is an output already.
        ValueError: the file is of no known detector, or of one that has no official names; a side file that
            does not belong to it; the number of query groups is not known.
    """
    checkpoint = read_source(path)
    files = OutputFiles.at(output, path, force)
    beside = OutputFiles(Path(path)).dropped
    dropped_file = dropped_file or (beside if beside.is_file() else None)
    dropped = read_dropped(dropped_file) if dropped_file else None
    try:
        state, architecture = _our_state(checkpoint, num_queries)
        if dropped:
            rows = _rows_of_side_file(checkpoint, dropped, dropped_file, _num_classes(state, architecture))
        else:
            rows = _rows_without(checkpoint, _num_classes(state, architecture), policy)
        first, others = keep_first_group(state, architecture)
        restored = restore_rows(first, architecture, rows, dropped.head_rows if dropped else {})
        official = to_official(restored, architecture)
    except ValueError as error:
        raise about(path, error) from None
    prefix, left_out = (dropped.prefix, dropped.left_out) if dropped else ("", {})
    whole = {prefix + key: value for key, value in official.items()} | left_out
    made_up = () if dropped and dropped.head_rows else rows.dropped
    with files.staged() as staged:
        write_checkpoint({"model": whole}, staged.checkpoint)
        record = FileRecord.of(staged.checkpoint)
        if others:
            write_other_groups(staged.queries, OtherGroups(architecture.query_groups, others, record.sha256))
        manifest = ConversionManifest(
            direction="to official",
            source=FileRecord.of(path),
            output=record,
            dropped_rows=Path(dropped_file).name if dropped_file else None,
            other_queries=files.queries.name if others else None,
            architecture=architecture,
            keys=KeyCounts.of(architecture, state, left_out),
            classes=ClassRecord(policy, rows.raw, rows.num_classes, rows.kept, rows.dropped, made_up),
        )
        write_json(staged.manifest, manifest.as_json())
    return manifest


def _our_state(checkpoint: Mapping[str, Any], num_queries: int | None) -> tuple[State, Architecture]:
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
    architecture = dataclasses.replace(
        architecture, dilation=dilation, query_groups=stored_groups(checkpoint)
    )
    groups = count_groups(state, architecture, num_queries)
    return without_repeated(state, architecture), dataclasses.replace(architecture, query_groups=groups)


def _num_classes(state: Mapping[str, Tensor], architecture: Architecture) -> int:
    return class_rows(state) - architecture.has_no_object


def _rows_of_side_file(
    checkpoint: Mapping[str, Any], dropped: Dropped, dropped_file: str | os.PathLike, num_classes: int
) -> ClassRows:
    """Where the rows here go, as the side file says."""
    conversion = checkpoint.get("conversion") or {}
    if conversion.get("sha256") not in (None, dropped.source_sha256):
        raise ValueError(
            f"the file of dropped rows {dropped_file} is of another official checkpoint: give its own"
        )
    if dropped.rows.num_classes != num_classes:
        raise ValueError(
            f"it has {num_classes} classes, and the file of dropped rows {dropped_file} was made for "
            f"{dropped.rows.num_classes}: leave it out, or move it away if it lies beside the checkpoint"
        )
    return dropped.rows


def _rows_without(checkpoint: Mapping[str, Any], num_classes: int, policy: ClassPolicy) -> ClassRows:
    """Where the rows here go without a side file: as the checkpoint says, else by their number."""
    conversion = checkpoint.get("conversion") or {}
    if policy is ClassPolicy.ERROR:
        return ClassRows.all_of(num_classes)
    if not conversion.get("kept"):
        known = None if conversion else rows_behind(num_classes)
        return known or ClassRows.all_of(num_classes)
    rows = ClassRows(conversion["official_rows"], tuple(conversion["kept"]))
    if rows.num_classes != num_classes:
        raise ValueError(
            f"it has {num_classes} classes, and its own record of its conversion says {rows.num_classes}: "
            "write its rows as they are with --classes error, or convert the official file again"
        )
    return rows
