"""Numbers in the tables of pages are those of the results that the text above the table links."""

import json
import re

import pytest

from tests.docs.pages import PAGES, REPOSITORY

RESULTS = REPOSITORY / "benchmarks" / "results"
NUMBER = re.compile(r"[-+−]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?")
RULE = re.compile(r"\|[ :|-]+\|$")
NEAR = 6  # lines between a link and its table


def linked_tables(page):
    """Line, linked results files and rows of every table below a link."""
    lines, linked, at = page.read_text(encoding="utf-8").splitlines(), [], -NEAR
    for i, line in enumerate(lines):
        if found := re.findall(r"benchmarks/results/(\w+\.json)", line):
            linked, at = (linked if i - at <= 1 else []) + found, i
        if line.startswith("|") and i + 1 < len(lines) and RULE.match(lines[i + 1]) and i - at < NEAR:
            rows = lines[i + 2 :]
            end = next((k for k, row in enumerate(rows) if not row.startswith("|")), len(rows))
            yield i + 1, set(linked), rows[:end]


def numbers(content):
    """Every number in a file, those within texts too."""
    if isinstance(content, str):
        yield from (value(text) for text in NUMBER.findall(content))
    elif isinstance(content, int | float):
        yield float(content)
    elif isinstance(content, dict | list):
        for part in content.values() if isinstance(content, dict) else content:
            yield from numbers(part)


def value(text):
    return float(text.replace(",", "").replace("−", "-"))


def unknown(rows, known):
    """Numbers of a table, its first column aside, that none of the known ones rounds to."""
    absent = []
    cells = [cell for row in rows for cell in row.strip("|").split("|")[1:]]
    for text in (text for cell in cells for text in NUMBER.findall(cell)):
        digits = len(text.partition(".")[2]) if "e" not in text else 0
        if not any(abs(abs(value(text)) - abs(x)) <= 0.5001 * 10**-digits for x in known):
            absent.append(text)
    return absent


TABLES = [(page, *found) for page in PAGES for found in linked_tables(page)]


@pytest.mark.parametrize(
    ("page", "line", "files", "rows"), TABLES, ids=[f"{page.name}:{line}" for page, line, _, _ in TABLES]
)
def test_numbers_are_those_of_the_results(page, line, files, rows):
    known = [x for name in files for x in numbers(json.loads((RESULTS / name).read_text()))]
    absent = unknown(rows, known)
    assert not absent, f"{page.name}, line {line}: {absent} are not in {', '.join(sorted(files))}"


def test_decimals_in_the_text_of_the_readme_are_measured_too():
    """In some file that it or docs/method.md links, which it refers to; a number of arXiv has four digits."""
    text, method = (
        (REPOSITORY / page).read_text(encoding="utf-8") for page in ("README.md", "docs/method.md")
    )
    files = set(re.findall(r"benchmarks/results/(\w+\.json)", text + method))
    known = [abs(x) for name in files for x in numbers(json.loads((RESULTS / name).read_text()))]
    prose = re.sub(r"```.*?```|`[^`]*`|\]\([^)]*\)|^\|.*?$", "", text, flags=re.DOTALL | re.MULTILINE)
    found = re.findall(r"(?<![\w.])\d{1,3}\.\d+(?![\w.])", prose)
    assert len(found) > 10
    assert unknown([f"| | {number} |" for number in found], known) == []


def test_a_stale_number_is_found():
    known = list(numbers({"tables": [{"rows": [["a", 1.2345, "7.5 [7.0, 8.1]"]]}]}))
    assert unknown(["| a | 1.23 | 7.5 [7.0, 8.1] |"], known) == []
    assert unknown(["| a | 1.24 | 7.5 [7.0, 8.2] |"], known) == ["1.24", "8.2"]


def test_there_are_tables_to_look_at():
    assert {page.name for page, *_ in TABLES} >= {"README.md", "deploy.md", "method.md", "qat.md"}
    shown = [row for page, _, _, rows in TABLES if page.name == "README.md" for row in rows]
    assert any(row.startswith("| fisher_critical |") for row in shown), "the quickstart's"
