"""Folders of runs -> report."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fisher_detr.files import read_json
from fisher_detr.report.arms import ReportArm, common_folder, config_file, find_arms, find_shared
from fisher_detr.report.blocks import Missing, Section
from fisher_detr.report.categories import categories
from fisher_detr.report.headline import headline
from fisher_detr.report.landscape import landscape
from fisher_detr.report.layers import layers
from fisher_detr.report.origin import origin
from fisher_detr.report.page import save_page
from fisher_detr.report.pareto import pareto
from fisher_detr.report.samples import samples
from fisher_detr.report.traces import traces


@dataclasses.dataclass(frozen=True)
class ReportRequest:
    """What a report is made of.

    Attributes:
        runs: folders of runs; `name=folder` names the one evaluation of a folder.
        title: heading; empty: made from the data set.
        target: critical set of the pictures; empty: that of a plan, else the first.
        num_samples: images to show; 0: none.
        image_root: folder of the images; None: where the evaluation found them.
        annotations: their annotation file; None: as well.
    """

    runs: Sequence[str]
    title: str = ""
    target: str = ""
    num_samples: int = 4
    image_root: str | None = None
    annotations: str | None = None


# Files that belong to all arms, and what each (or each plan in it) has.
_SHARED = {
    "traces": {"num_images", "objectives"},
    "landscape": {"num_images", "critical_set", "models"},
    "pareto": {"bits", "size_bytes", "cost", "meta"},
}


@dataclasses.dataclass(frozen=True)
class ReportData:
    """What was found in the folders.

    Attributes:
        arms: evaluated models, full precision first.
        traces: content of `traces.json`; None: there is none.
        landscape: of `landscape.json`.
        plans: of `pareto.json`.
    """

    arms: Sequence[ReportArm]
    traces: Any = None
    landscape: Any = None
    plans: Any = None


def read_runs(runs: Sequence[str]) -> ReportData:
    """Read what runs have left.

    Raises:
        FileNotFoundError: no such folder, or no evaluation in it.
        ValueError: a file is broken, or the arms cannot be compared.
    """
    shared = {name: _shared(runs, f"{name}.json", keys) for name, keys in _SHARED.items()}
    return ReportData(find_arms(runs), shared["traces"], shared["landscape"], shared["pareto"])


def build_report(request: ReportRequest, path: str | os.PathLike) -> list[str]:
    """Write the page.

    Args:
        request: what it is made of.
        path: of the HTML file.

    Returns:
        What is missing, a line each: with the command that makes it.

    Raises:
        FileNotFoundError: no such folder, or no evaluation in it.
        ValueError: a file is broken, or the arms cannot be compared.
    """
    data = read_runs(request.runs)
    sections = _sections(data, request)
    of = data.arms[0].evaluation
    title = request.title or f"Quantization on {of['dataset']}"
    subtitle = f"{len(data.arms)} models, {of['num_images']:,} images, {len(of['categories'])} categories"
    save_page(path, title, subtitle, sections)
    gaps = [block for section in sections for block in section.blocks if isinstance(block, Missing)]
    return [f"{block.what} {block.command}" for block in gaps]


def _sections(data: ReportData, request: ReportRequest) -> list[Section]:
    folder, here = common_folder(request.runs), Path.cwd()
    folder = folder.relative_to(here) if folder.is_relative_to(here) else folder
    of_all = folder / "config.yaml"
    config = config_file(data.arms) or (str(of_all) if of_all.is_file() else None)
    made = [
        headline(data.arms),
        categories(data.arms),
        layers(data.arms),
        traces(data.arms, data.traces, str(folder)),
        landscape(data.landscape, str(folder)),
        pareto(data.arms, data.plans, str(folder)),
    ]
    if request.num_samples:
        pictures = (request.target, request.num_samples, request.image_root, request.annotations)
        made.append(samples(data.arms, *pictures))
    files = {"traces.json": data.traces, "landscape.json (first model)": data.landscape}
    return [_with_config(section, config) for section in (*made, origin(data.arms, files))]


def _with_config(section: Section, config: str | None) -> Section:
    """Commands that can be run as they are, where the arms tell their config."""
    if config is None:
        return section
    blocks = [
        dataclasses.replace(block, command=block.command.replace("CONFIG", config))
        if isinstance(block, Missing)
        else block
        for block in section.blocks
    ]
    return dataclasses.replace(section, blocks=blocks)


def _shared(runs: Sequence[str], name: str, keys: set[str]) -> Any:
    """What a file holds, if it is what its name says; None: there is none."""
    path = find_shared(runs, name)
    if path is None:
        return None
    content = read_json(path, "file")
    parts = content if isinstance(content, list) else [content]
    if not parts or not all(isinstance(part, dict) and keys <= set(part) for part in parts):
        raise ValueError(
            f"{path} is no file of that name (expected {', '.join(sorted(keys))}): measure again"
        )
    return content
