"""How the numbers were made."""

from collections.abc import Mapping, Sequence
from typing import Any

from fisher_detr.report.arms import ReportArm
from fisher_detr.report.blocks import Block, Cell, Missing, Section, Table, Text
from fisher_detr.report.commands import Commands

_LEAD = "Commands, versions, seeds and settings, as the runs have written them down."
_COLUMNS = ("arm or file", "command", "seed", "began with", "time (UTC)", "versions")


def origin(arms: Sequence[ReportArm], shared: Mapping[str, Any], commands: Commands) -> Section:
    """Commands, versions and settings.

    Args:
        arms: the models.
        shared: contents of files that belong to all of them, by name of the file; None: there is none.
        commands: for what is missing.
    """
    made = {arm.name: arm.provenance for arm in arms}
    made |= {row: found for name, content in shared.items() for row, found in _told(name, content).items()}
    known = {name: provenance for name, provenance in made.items() if provenance}
    blocks: list[Block] = []
    if known:
        blocks.append(Table(_COLUMNS, [_row(*pair) for pair in known.items()]))
        blocks += [
            Text(found["config"], preformatted=True, title=f"Config of {name}")
            for name, found in known.items()
            if found.get("config")
        ]
    blocks += [
        Missing(f"No provenance.json of {arm.name}.", commands.evaluation(arm))
        for arm in arms
        if not arm.provenance
    ]
    return Section("origin", "How it was made", _LEAD, blocks)


def _told(name: str, content: Any) -> dict[str, Mapping[str, Any]]:
    """Provenance by row of the table: of a file, or of each model in it."""
    if not isinstance(content, Mapping) or not isinstance(content.get("provenance"), Mapping):
        return {}
    found, models = content["provenance"], content.get("models")
    if not models:
        return {name: found}
    # One command measured all models; config and digest are of the first.
    of_file = {key: value for key, value in found.items() if key not in ("config", "started_from_sha256")}
    others = {model["name"]: of_file | {"started_from": model["weights"]} for model in models[1:]}
    rows = {models[0]["name"]: found, **others}
    return {f"{name}: {model}": row for model, row in rows.items()}


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
