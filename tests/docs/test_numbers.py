"""Numbers in the tables of pages are those of the results that they come from, row by row.

MODEL_ZOO.md and benchmarks/README.md are written from the results, which other tests check.
"""

import dataclasses
import itertools
import json
import re

import pytest

from tests.docs.pages import REPOSITORY
from tests.docs.sources import SOURCES, source_of
from tests.docs.tables import ALL, NUMBER, RESULTS, PageTable, found, is_rounded, mistakes, numbers, value

TABLES = [table for table in ALL if table.files or source_of(table)]
each_table = pytest.mark.parametrize("table", TABLES, ids=lambda table: f"{table.page}:{table.line}")


def wrong(table: PageTable) -> list[str]:
    return mistakes(table, source_of(table))


@each_table
def test_numbers_are_those_of_the_results(table):
    absent = wrong(table)
    assert not absent, f"{table.page}, line {table.line}:\n" + "\n".join(absent)


def with_cells(table, cells):
    """The table with other cells, by row and column."""
    rows = [list(row) for row in table.rows]
    for (i, k), cell in cells.items():
        rows[i][k] = cell
    return dataclasses.replace(table, rows=tuple(map(tuple, rows)))


@each_table
def test_swapped_cells_are_found(table):
    """Of two rows, in any column: labels too, which make the numbers those of another row."""
    for k, (i, j) in itertools.product(
        range(len(table.columns)), itertools.combinations(range(len(table.rows)), 2)
    ):
        above, below = table.rows[i][k], table.rows[j][k]
        if above != below:
            assert wrong(with_cells(table, {(i, k): below, (j, k): above})), f"{above} and {below}"


@each_table
def test_flipped_signs_are_found(table):
    for i, row in enumerate(table.rows):
        for k, cell in enumerate(row[1:], 1):
            for place in NUMBER.finditer(cell):
                text = place.group()
                flipped = text[1:] if text.startswith("-") else f"-{text.removeprefix('+')}"
                changed = cell[: place.start()] + flipped + cell[place.end() :]
                assert not value(text) or wrong(with_cells(table, {(i, k): changed})), f"{cell}: {flipped}"


def test_decimals_in_the_text_of_the_readme_are_measured_too():
    """In some file that it or docs/method.md links, which it refers to; a number of arXiv has four digits."""
    text, method = (
        (REPOSITORY / page).read_text(encoding="utf-8") for page in ("README.md", "docs/method.md")
    )
    files = set(re.findall(r"benchmarks/results/(\w+\.json)", text + method))
    known = [abs(x) for name in files for x in numbers(json.loads((RESULTS / name).read_text()))]
    prose = re.sub(r"```.*?```|`[^`]*`|\]\([^)]*\)|^\|.*?$", "", text, flags=re.DOTALL | re.MULTILINE)
    told = re.findall(r"(?<![\w.])\d{1,3}\.\d+(?![\w.])", prose)
    assert len(told) > 10
    assert [text for text in told if not any(is_rounded(text, x) for x in known)] == []


def test_what_rounding_leaves_is_in_the_text_of_the_readme():
    text = " ".join((REPOSITORY / "README.md").read_text(encoding="utf-8").split())

    def means(name, bits):
        mean = found(f"street_{name}_arms", "mean", caption=f" uniform {bits} bits")
        uniform, overall, critical = (f"{mean[arm]:.1f}" for arm in ("uniform", "overall", "critical"))
        return f"{uniform}, {overall} and {critical}", f"{mean['full']:.1f}"

    (detr_3, _), (detr_4, _), (dab, dab_full) = means("detr", 3), means("detr", 4), means("dab", 3)
    deformable, deformable_full = means("deformable", 3)
    assert f"DETR then has {detr_3} at 3 bits, and {detr_4} at 4;" in text
    assert f"DAB-DETR {dab} of {dab_full} at 3, Deformable DETR {deformable} of {deformable_full} (" in text


def test_no_source_is_left_over():
    used = {source_of(table) for table in TABLES}
    assert used - {None} == set(SOURCES.values())


@pytest.mark.parametrize(
    ("row", "is_in_one"),
    [
        (("a", "1.23", "7.5 [7.0, 8.1]"), True),
        (("a", "1.24", "7.5 [7.0, 8.1]"), False),
        (("a", "1.23", "-7.5 [7.0, 8.1]"), False),
        (("a", "1.23", "2.00"), False),  # of b
        (("b", "1.23", "7.5"), False),
        (("a", "7.5", "1.23"), False),  # the other way round
    ],
)
def test_a_row_without_a_source_of_its_own_is_one_of_the_results(row, is_in_one, monkeypatch, tmp_path):
    table = {"caption": "", "columns": [], "rows": [["a", 1.2345, "7.5 [7.0, 8.1]"], ["b", 2.0, ""]]}
    (tmp_path / "made.json").write_text(json.dumps({"tables": [table]}))
    monkeypatch.setattr("tests.docs.tables.RESULTS", tmp_path)
    assert bool(mistakes(PageTable("page.md", 1, ("made",), ("", "", ""), (row,)), None)) != is_in_one


def test_there_are_tables_to_look_at():
    assert {table.page for table in TABLES} >= {
        "README.md",
        "docs/deploy.md",
        "docs/method.md",
        "docs/qat.md",
    }
    shown = [row for table in TABLES if table.page == "README.md" for row in table.rows]
    assert any(row[0] == "fisher_critical" for row in shown), "the quickstart's"
