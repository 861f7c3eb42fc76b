"""How the numbers were made."""

from collections.abc import Sequence

from fisher_detr.report.arms import ReportArm
from fisher_detr.report.blocks import Block, Cell, Missing, Section, Table, Text

_LEAD = "Commands, versions, seeds and settings, as the runs have written them down."


def origin(arms: Sequence[ReportArm]) -> Section:
    """Commands, versions and settings of all arms."""
    known = [arm for arm in arms if arm.provenance]
    blocks: list[Block] = []
    if known:
        blocks.append(_table(known))
        blocks += [
            Text(arm.provenance["config"], preformatted=True, title=f"Config of {arm.name}") for arm in known
        ]
    if unknown := [arm.name for arm in arms if not arm.provenance]:
        command = "tools/train_net.py --eval-only --config-file CONFIG MODEL.WEIGHTS CHECKPOINT"
        blocks.append(Missing(f"No provenance.json of {', '.join(unknown)}.", command))
    return Section("origin", "How it was made", _LEAD, blocks)


def _table(arms: Sequence[ReportArm]) -> Table:
    rows = []
    for arm in arms:
        made = arm.provenance
        versions = ", ".join(f"{name} {version}" for name, version in made["environment"].items())
        weights, digest = made.get("started_from") or "–", made.get("started_from_sha256") or ""
        rows.append(
            [
                Cell(arm.name),
                Cell(made["command"]),
                Cell(str(made["seed"])),
                Cell(weights, digest[:12]),
                Cell(made["time"]),
                Cell(versions),
            ]
        )
    return Table(["arm", "command", "seed", "began with", "time (UTC)", "versions"], rows)
