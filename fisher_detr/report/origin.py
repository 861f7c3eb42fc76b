"""How the numbers were made."""

from collections.abc import Mapping, Sequence
from typing import Any

from fisher_detr.report.arms import ReportArm
from fisher_detr.report.blocks import Block, Cell, Missing, Section, Table, Text

_LEAD = "Commands, versions, seeds and settings, as the runs have written them down."
_COLUMNS = ("arm or file", "command", "seed", "began with", "time (UTC)", "versions")


def origin(arms: Sequence[ReportArm], shared: Mapping[str, Any]) -> Section:
    """Commands, versions and settings.

    Args:
        arms: the models.
        shared: contents of files that belong to all of them, by name of the file; None: there is none.
    """
    made = {arm.name: arm.provenance for arm in arms}
    made |= {name: content["provenance"] for name, content in shared.items() if _tells(content)}
    known = {name: provenance for name, provenance in made.items() if provenance}
    blocks: list[Block] = []
    if known:
        blocks.append(Table(_COLUMNS, [_row(*pair) for pair in known.items()]))
        blocks += [
            Text(found["config"], preformatted=True, title=f"Config of {name}")
            for name, found in known.items()
            if found.get("config")
        ]
    if unknown := [arm.name for arm in arms if not arm.provenance]:
        command = "tools/train_net.py --eval-only --config-file CONFIG MODEL.WEIGHTS CHECKPOINT"
        blocks.append(Missing(f"No provenance.json of {', '.join(unknown)}.", command))
    return Section("origin", "How it was made", _LEAD, blocks)


def _tells(content: Any) -> bool:
    return isinstance(content, Mapping) and isinstance(content.get("provenance"), Mapping)


def _row(name: str, made: Mapping[str, Any]) -> list[Cell]:
    versions = ", ".join(f"{package} {version}" for package, version in made.get("environment", {}).items())
    return [
        Cell(name),
        Cell(made.get("command", "–")),
        Cell(str(made.get("seed", "–"))),
        Cell(made.get("started_from") or "–", (made.get("started_from_sha256") or "")[:12]),
        Cell(made.get("time", "–")),
        Cell(versions),
    ]
