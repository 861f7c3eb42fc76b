"""The tables of pages whose numbers come from results, and what their cells must show."""

import dataclasses
import functools
import json
import re
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

from tests.docs.pages import PAGES, REPOSITORY

RESULTS = REPOSITORY / "benchmarks" / "results"
NUMBER = re.compile(r"[-+−]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?")
NEAR = 6  # lines between a link and its table


@dataclasses.dataclass(frozen=True)
class PageTable:
    """A table of a page.

    Attributes:
        page: path from the repository.
        line: of its header.
        files: names of the results files that the text just above it links, without `.json`.
        columns: of the header.
        rows: their cells; those at the left that are empty are as in the row above.
    """

    page: str
    line: int
    files: tuple[str, ...]
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    @property
    def header(self) -> str:
        """As the page has it, without its last bar."""
        return " ".join(" | ".join(["", *self.columns]).split())


# What the last cells of a row are to show; cells before them are its labels.
Source = Callable[[PageTable, Sequence[str]], list[Any]]


def tables_of(page: Path) -> Iterator[PageTable]:
    """All tables of a page."""
    lines, files, linked = page.read_text(encoding="utf-8").splitlines(), (), -NEAR
    for i, line in enumerate(lines):
        if found := re.findall(r"benchmarks/results/(\w+)\.json", line):
            files, linked = (files if i - linked <= 1 else ()) + tuple(found), i
        if line.startswith("|") and re.match(r"\|[ :|-]+\|$", "".join(lines[i + 1 : i + 2])):
            below = lines[i + 2 :]
            end = next((k for k, row in enumerate(below) if not row.startswith("|")), len(below))
            near = tuple(dict.fromkeys(files)) if i - linked < NEAR else ()
            path = str(page.relative_to(REPOSITORY))
            yield PageTable(path, i + 1, near, cells(line), with_labels(map(cells, below[:end])))


def cells(line: str) -> tuple[str, ...]:
    """Of a row, without the marks of code and bold type."""
    return tuple(re.sub(r"[`*]", "", cell).strip() for cell in re.split(r"(?<!\\)\|", line.strip())[1:-1])


def with_labels(rows) -> tuple[tuple[str, ...], ...]:
    """The rows, with the labels that stand only in a row above."""
    filled, above = [], ()
    for row in rows:
        empty = next((k for k, cell in enumerate(row) if cell), 0)
        above = (*above[:empty], *row[empty:])
        filled.append(above)
    return tuple(filled)


ALL = [table for page in PAGES for table in tables_of(page)]


@functools.cache
def results(file: str) -> list[dict]:
    """Tables of a results file."""
    return json.loads((RESULTS / f"{file}.json").read_text(encoding="utf-8"))["tables"]


def rows_of(file: str, *labels: str, caption: str = "") -> list[dict[str, Any]]:
    """The rows that begin with the labels, each by column.

    Args:
        file: name of a results file.
        labels: first cells of the rows.
        caption: pattern of the captions of their tables.
    """
    return [
        dict(zip(table["columns"], row, strict=True))
        for table in results(file)
        if re.search(caption, table["caption"])
        for row in table["rows"]
        if tuple(map(str, row[: len(labels)])) == labels
    ]


def found(file: str, *labels: str, caption: str = "") -> dict[str, Any]:
    """The first of them."""
    for row in rows_of(file, *labels, caption=caption):
        return row
    raise LookupError(f"{file}.json has no row {', '.join(labels)}")


def numbers(content: Any) -> Iterator[Decimal]:
    """Every number in it, those within texts too."""
    if isinstance(content, str):
        yield from (value(text) for text in NUMBER.findall(content))
    elif isinstance(content, int | float | Decimal):
        yield Decimal(str(content))
    elif isinstance(content, dict | list | tuple):
        for part in content.values() if isinstance(content, dict) else content:
            yield from numbers(part)


def value(text: str) -> Decimal:
    """Of a number as pages write it."""
    return Decimal(text.replace(",", "").replace("−", "-"))


def is_rounded(text: str, number: Decimal) -> bool:
    """Whether the text is the number, with its sign, to as many digits as it has."""
    shown = value(text)
    return abs(shown - number) <= Decimal("0.5001").scaleb(shown.as_tuple().exponent)


def shows(cell: str, source: Any) -> bool:
    """Whether the numbers of a cell are those of its source, one by one."""
    told, known = NUMBER.findall(cell), list(numbers(source))
    return len(told) == len(known) and all(map(is_rounded, told, known))


def mistakes(table: PageTable, source: Source | None) -> list[str]:
    """What a table shows that is not in the results; None: each of its rows is in one of theirs."""
    absent = []
    for row in table.rows:
        try:
            if source:
                absent += wrong_cells(row, source(table, row))
            elif not in_one_row(table, row):
                absent.append(f"{' | '.join(row)}: in no row of {', '.join(table.files)}")
        except LookupError as error:
            absent.append(f"{row[0]}: {error}")
    return absent


def wrong_cells(row: Sequence[str], expected: Sequence[Any]) -> list[str]:
    """The last cells of a row that do not show what is expected there."""
    last = row[len(row) - len(expected) :]
    pairs = zip(last, expected, strict=True)
    return [f"{row[0]}: {cell}, not {known}" for cell, known in pairs if not shows(cell, known)]


def in_one_row(table: PageTable, row: Sequence[str]) -> bool:
    """Whether a row of the results has the label of this one, and behind it its numbers in their order."""
    label, *rest = row
    told = [text for cell in rest for text in NUMBER.findall(cell)]
    sources = [
        list(map(str, source)) for file in table.files for of in results(file) for source in of["rows"]
    ]
    behind = [source[source.index(label) + 1 :] for source in sources if label in source]
    return any(in_order(told, list(numbers(source))) for source in behind)


def in_order(told: Sequence[str], known: Sequence[Decimal]) -> bool:
    """Whether the known numbers, some left out, are those that are told."""
    remaining = iter(known)
    return all(any(is_rounded(text, number) for number in remaining) for text in told)
