"""Folders of runs -> report."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fisher_detr.files import read_json
from fisher_detr.report.arms import ReportArm, common_folder, find_arms, find_shared
from fisher_detr.report.blocks import Missing, Section
from fisher_detr.report.categories import categories
from fisher_detr.report.commands import Commands
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


# Files that belong to all arms, and what each has.
_SHARED = {
    "traces": {"num_images", "objectives"},
    "landscape": {"num_images", "critical_set", "models"},
    "pareto": {"plans"},
}
_PLAN = {"bits", "size_bytes", "cost", "meta"}


@dataclasses.dataclass(frozen=True)
class ReportData:
    """What was found in the folders.

    Attributes:
        arms: evaluated models, full precision first.
        traces: content of `traces.json`; None: there is none.
        landscape: of `landscape.json`.
        pareto: of `pareto.json`: plans in `plans`.
    """

    arms: Sequence[ReportArm]
    traces: Any = None
    landscape: Any = None
    pareto: Any = None

    @property
    def plans(self) -> Any:
        """Those of `pareto.json`; None: there is none."""
        return self.pareto and self.pareto["plans"]


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
    sections = _sections(data, request, str(path))
    of = data.arms[0].evaluation
    title = request.title or f"Quantization on {of['dataset']}"
    subtitle = f"{len(data.arms)} models, {of['num_images']:,} images, {len(of['categories'])} categories"
    save_page(path, title, subtitle, sections)
    gaps = [block for section in sections for block in section.blocks if isinstance(block, Missing)]
    return [f"{block.what} {block.command}" for block in gaps]


def _sections(data: ReportData, request: ReportRequest, page: str) -> list[Section]:
    folder, here = common_folder(request.runs), Path.cwd()
    folder = folder.relative_to(here) if here in folder.parents else folder
    commands = Commands(data.arms, str(folder), request.runs, page)
    made = [
        headline(data.arms),
        categories(data.arms),
        layers(data.arms, commands),
        traces(data.arms, data.traces, commands),
        landscape(data.landscape, commands),
        pareto(data.arms, data.plans, commands),
    ]
    if request.num_samples:
        pictures = (request.target, request.num_samples, request.image_root, request.annotations)
        made.append(samples(data.arms, commands, *pictures))
    files = {f"{name}.json": getattr(data, name) for name in _SHARED}
    return [*made, origin(data.arms, files, commands)]


def _shared(runs: Sequence[str], name: str, keys: set[str]) -> Any:
    """What a file holds, if it is what its name says; None: there is none."""
    path = find_shared(runs, name)
    if path is None:
        return None
    content = read_json(path, "file")
    if "plans" in keys and isinstance(content, list):  # of a version that wrote the plans alone
        content = {"plans": content}
    if not isinstance(content, dict) or not keys <= set(content) or not _are_plans(content, keys):
        raise ValueError(
            f"{path} is no file of that name (expected {', '.join(sorted(keys))}): measure again"
        )
    return content


def _are_plans(content: Mapping[str, Any], keys: set[str]) -> bool:
    """Whether a file that is to have plans has at least one, and nothing else among them."""
    plans = content["plans"] if "plans" in keys else [dict.fromkeys(_PLAN)]
    whole = isinstance(plans, list) and all(isinstance(plan, dict) and set(plan) >= _PLAN for plan in plans)
    return whole and bool(plans)
