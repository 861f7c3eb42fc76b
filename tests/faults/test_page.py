"""docs/reliability.md names tests that exist, and marks the slow ones."""

import ast
import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PAGE = (REPOSITORY / "docs" / "reliability.md").read_text()
NAMED = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`( \((?:all but \w+ )?slow\))?", PAGE)
ROWS = [line for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith("| ---")]


def function(file, name):
    tree = ast.parse((REPOSITORY / file).read_text())
    return next((x for x in tree.body if isinstance(x, ast.FunctionDef) and x.name == name), None)


@pytest.mark.parametrize(("file", "name", "slow"), NAMED, ids=lambda value: value)
def test_a_named_test_exists(file, name, slow):
    assert (REPOSITORY / file).is_file()
    found = function(file, name)
    assert found is not None, f"{file} has no {name}"
    decorators = " ".join(map(ast.unparse, found.decorator_list))
    assert ("pytest.mark.slow" in decorators) == bool(slow)


def test_every_row_names_a_test():
    header = {"when", "fault", "file", "where", "what"}
    rows = [row for row in ROWS if row.split(" | ")[0].removeprefix("| ") not in header]
    assert len(rows) > 40
    assert not [row for row in rows if "`tests/" not in row.split(" | ")[-1]]


def test_nothing_else_is_named_like_a_test():
    assert len(re.findall(r"::test_", PAGE)) == len(NAMED)
