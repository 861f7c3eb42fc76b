"""MODEL_ZOO.md from entries and studies."""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from fisher_detr.model_zoo.paper import PaperTable
from fisher_detr.model_zoo.study import Study
from fisher_detr.model_zoo.zoo_entry import ZooEntry
from fisher_detr.structures import Arm

_INTRODUCTION = """\
# Model zoo

<!-- Written by `make zoo` from fisher_detr/model_zoo/entries and benchmarks/results: edit those. -->

Models in full precision and their low-bit versions side by side, a table for each data set and split; then
studies.

- **name**: of the entry, `fisher_detr/model_zoo/entries/<name>.yaml`; linked to its weights where there are
  any. `zoo://<name>` is their path, which `MODEL.WEIGHTS` takes; `fisher_detr.model_zoo.get("<name>")` is
  the model.
- **weights**: `float32`, or the average width: the bytes are those of this uniform width over the quantized
  layers. **activations**: their width; empty: float32.
- **arm**: how the bits are spent. `uniform`: the same width everywhere; `fisher_overall`: by what
  quantization costs on all categories; `fisher_critical`: by what it costs on all and on the **critical
  set**.
- **size**: all parameters and buffers, quantized weights packed with their scales (1 MB = 10^6 bytes).
- **AP**: COCO's box AP in percent. **APcrit_&lt;set&gt;**: AP of a critical set with the scores it gets
  when all other categories are merged into one. **AP_&lt;set&gt;**: AP of the same categories with the
  ordinary scores.
- **origin**: *measured* in this project by the command below the tables, or *quoted* and not measured here.

Commands run in a clone of this repository, in its environment (`make setup`, `source .venv/bin/activate`).
A rerun may differ from the row by the tolerance that stands with the command. `python tools/check_zoo.py`
checks all measured rows whose data are there: `python datasets/make_street.py` draws those of street,
[datasets/README.md](datasets/README.md) tells of the others. How a model gets here:
[docs/publish.md](docs/publish.md).
"""

_PAPER = """\
From the official checkpoints on the real data sets; [docs/reproduce.md](docs/reproduce.md) has the steps.
"""

_OFFICIAL = """\
The files are in the authors' repositories ([docs/checkpoints.md](docs/checkpoints.md)); `MODEL.WEIGHTS` takes
them as they are, too.
"""


def render_page(
    entries: Iterable[ZooEntry], studies: Iterable[Study] = (), unmeasured: Sequence[PaperTable] = ()
) -> str:
    """The whole page; data sets that something was measured on come first.

    Args:
        entries: of the zoo.
        studies: what benchmarks have measured.
        unmeasured: tables of the paper that nobody has measured here.
    """
    groups: dict[str, list[ZooEntry]] = {}
    for entry in sorted(entries, key=_order):
        groups.setdefault(f"{entry.data_set} {entry.split}", []).append(entry)
    titles = sorted(groups, key=lambda title: (all(entry.quoted for entry in groups[title]), title))
    sections = [_render_group(title, groups[title]) for title in titles]
    return "\n".join([_INTRODUCTION, *sections, *_render_paper(unmeasured), *map(render_study, studies)])


def _order(entry: ZooEntry) -> tuple:
    """Measured before quoted; full precision, then its low-bit versions by width and arm."""
    key = (bool(entry.quoted), entry.model)
    if quantization := entry.quantization:
        arm = list(Arm).index(quantization.arm)
        return (*key, 1, -quantization.average_bits, arm, quantization.critical_set or "", entry.name)
    return (*key, 0, 0.0, 0, "", entry.name)


def _render_group(title: str, entries: list[ZooEntry]) -> str:
    names = list(dict.fromkeys(name for entry in entries for name in entry.metrics))
    categories = [name for name in names if name.startswith("APcat_")]
    sets = [name for name in names if "_" in name and name not in categories]
    overall = [name for name in names if "_" not in name]
    parts = [f"## {title}\n", _main_table(entries, overall)]
    if sets:
        parts += ["### Critical sets\n", _metric_table(entries, sets)]
    if categories:
        parts += ["### Categories\n", _metric_table(entries, categories)]
    parts += _quotations(entries)
    if official := [entry for entry in entries if entry.converter]:
        parts += ["### Official checkpoints\n", _OFFICIAL, *map(_conversion, official)]
    if reproducible := [entry for entry in entries if entry.command]:
        parts += ["### Commands\n", *map(_reproduction, reproducible)]
    return "\n".join(parts)


def _main_table(entries: list[ZooEntry], metrics: list[str]) -> str:
    """What the entries are and their overall metrics; a column that is empty in all rows is left out."""
    columns = {name: [describe(entry) for entry in entries] for name, describe in _DESCRIPTION.items()}
    columns |= {name: [_value(entry, name) for entry in entries] for name in metrics}
    columns["origin"] = ["quoted" if entry.quoted else "measured" for entry in entries]
    columns = {name: cells for name, cells in columns.items() if any(cells)}
    return markdown_table(list(columns), list(zip(*columns.values(), strict=True)))


def _metric_table(entries: list[ZooEntry], metrics: list[str]) -> str:
    """Metrics of the entries that have any of them."""
    rows = [[f"`{entry.name}`", *(_value(entry, name) for name in metrics)] for entry in entries]
    return markdown_table(["name", *metrics], [row for row in rows if any(row[1:])])


def _value(entry: ZooEntry, metric: str) -> str:
    return f"{entry.metrics[metric].value:.1f}" if metric in entry.metrics else ""


def _name(entry: ZooEntry) -> str:
    name = f"`{entry.name}`"
    return f"[{name}]({entry.url or f'fisher_detr/model_zoo/weights/{entry.file}'})" if entry.file else name


def _activations(entry: ZooEntry) -> str:
    bits = entry.quantization.activation_bits if entry.quantization else 0
    return f"{bits} bits" if bits else ""


_DESCRIPTION: dict[str, Callable[[ZooEntry], str]] = {
    "name": _name,
    "model": lambda entry: entry.model,
    "weights": lambda entry: f"{entry.quantization.average_bits:g} bits" if entry.quantization else "float32",
    "activations": _activations,
    "arm": lambda entry: str(entry.quantization.arm) if entry.quantization else "",
    "critical set": lambda entry: (entry.quantization.critical_set or "") if entry.quantization else "",
    "parameters": lambda entry: f"{entry.parameters / 1e6:.1f} M" if entry.parameters else "",
    "size": lambda entry: f"{entry.size_bytes / 1e6:.2f} MB" if entry.size_bytes else "",
}


def _quotations(entries: list[ZooEntry]) -> list[str]:
    """Citations of the quoted rows, each once."""
    names: dict[str, list[str]] = {}
    for entry in entries:
        if entry.quoted:
            names.setdefault(entry.quoted, []).append(f"`{entry.name}`")
    lines = [f"- {', '.join(quoting)}: {citation}" for citation, quoting in names.items()]
    return ["Quoted, not measured here:\n", *lines, ""] if lines else []


def _conversion(entry: ZooEntry) -> str:
    """How an official checkpoint becomes one of this project, and is evaluated."""
    output = entry.converter.split()[-1]
    evaluate = f"python tools/train_net.py --config-file {entry.config} --eval-only MODEL.WEIGHTS {output}"
    return "\n".join([f"**`{entry.name}`**:\n", _code(f"{entry.converter}\n{evaluate}")])


def _reproduction(entry: ZooEntry) -> str:
    """Commands of an entry, what they took, how far a rerun may differ."""
    config = f", config [{entry.config}]({entry.config})" if entry.config else ""
    parts = [f"**`{entry.name}`**{config}:\n", _code(entry.command)]
    if measured := entry.measured:
        commit = f", commit {measured.commit}" if measured.commit else ""
        parts.append(
            f"Measured {measured.date} with torch {measured.torch} on {measured.device} in "
            f"{_duration(measured.seconds)}{commit}. Tolerance: {_tolerances(entry)}.\n"
        )
    if entry.training:
        parts += [f"Made in {_duration(entry.training.seconds)} by\n", _code(entry.training.command)]
    if entry.sha256:
        parts.append(f"sha256 of the weights: `{entry.sha256}`\n")
    return "\n".join(parts)


def _tolerances(entry: ZooEntry) -> str:
    names: dict[float, list[str]] = {}
    for name, metric in entry.metrics.items():
        names.setdefault(metric.tolerance, []).append(name)
    if len(names) == 1:
        return f"{next(iter(names)):g}"
    return "; ".join(f"{tolerance:g} ({', '.join(metrics)})" for tolerance, metrics in names.items())


def _render_paper(tables: Sequence[PaperTable]) -> list[str]:
    """Tables of the paper without numbers, each with the command that fills it."""
    parts = ["## Tables of the paper\n", _PAPER] if tables else []
    for table in tables:
        empty = table.unmeasured()
        rows = [[str(cell) for cell in row] for row in empty.rows]
        command = f"python tools/reproduce.py {table.name} --checkpoints checkpoints"
        parts += [f"### {table.title}\n", _code(command), markdown_table(empty.columns, rows)]
    return parts


def render_study(study: Study) -> str:
    """A section of its own: text, command, where it was measured, tables."""
    environment = "; ".join(f"{name} {value}" for name, value in study.environment.items())
    parts = [f"## {study.title}\n", *(f"{paragraph}\n" for paragraph in study.text)]
    parts += [_code(study.command), f"Measured with {environment}.\n"]
    for table in study.tables:
        rows = [[_number_or_text(cell) for cell in row] for row in table.rows]
        parts += [f"**{table.caption}**\n", markdown_table(table.columns, rows)]
    return "\n".join(parts)


def _number_or_text(cell: Any) -> str:
    if cell is None or isinstance(cell, str):
        return cell or ""
    return f"{cell:.2f}" if isinstance(cell, float) else f"{cell:,}"


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; columns of numbers are aligned to the right."""
    lines = [[_escape(cell) for cell in row] for row in (columns, *rows)]
    rules = ["---:" if _is_numeric([row[k] for row in rows]) else "---" for k in range(len(columns))]
    lines.insert(1, rules)
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _is_numeric(cells: Sequence[str]) -> bool:
    return all(re.match(r"[+-]?\d", cell) for cell in cells if cell)


def _escape(cell: str) -> str:
    return " ".join(cell.replace("|", r"\|").split())


def _code(command: str) -> str:
    return f"```bash\n{command.strip()}\n```\n"


def _duration(seconds: float) -> str:
    """12 s, 3 min 20 s, or 2 h 5 min."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
