"""Every block of the pages that shows something to run, or what is printed, is held by a test."""

import re

import pytest

from tests.docs.commands import is_make, lines_of, ours
from tests.docs.pages import PAGES, REPOSITORY, Block, blocks

TESTS = {path.name: path.read_text(encoding="utf-8") for path in REPOSITORY.glob("tests/docs/test_*.py")}
# Pages that a test follows from the first block to the last.
WHOLE = {
    "docs/packed.md": "test_commands_run.py",
    "docs/publish.md": "test_publishing.py",
    "docs/tutorials/deploy.md": "test_tutorials.py",
    "docs/tutorials/evaluator.md": "test_tutorials.py",
    "docs/tutorials/official.md": "test_tutorials.py",
    "docs/tutorials/own_data.md": "test_tutorials.py",
    "docs/tutorials/qat_hook.md": "test_qat_pages.py",
}
# Pages whose Python blocks are run, and sections whose text is compared.
PYTHON = set(re.findall(r'follow\(python_of\("([^"]+)"\)\)', TESTS["test_python_blocks.py"]))
TEXT = set(re.findall(r'text_of\("([^"]+)", "([^"]+)"\)', TESTS["test_messages.py"]))
# Commands that no test can look at, by their first word.
EXCEPTIONS = {
    "M=glibc.malloc": "a setting; test_commands_run.py runs it",
    "export": "a setting; test_commands_run.py runs it",
    "first=$(scontrol": "Slurm",
    "srun": "Slurm",
    "pip": "needs a package index",
    "pytest": "these tests",
}
BLOCKS = [
    pytest.param(page, block, id=f"{block.place} {block.kind}")
    for page in (str(path.relative_to(REPOSITORY)) for path in PAGES)
    for block in blocks(REPOSITORY / page)
    if block.kind in ("bash", "python", "text")
]


def is_held(page, block):
    """Whether a test runs it, reads its commands with their parsers or compares it."""
    if page in WHOLE:
        return True
    if block.kind == "bash":  # test_commands.py, test_make.py
        return all(ours(line) or is_make(line) or line[0] in EXCEPTIONS for line in lines_of(block))
    return page in PYTHON if block.kind == "python" else (page, block.section) in TEXT


@pytest.mark.parametrize(("page", "block"), BLOCKS)
def test_block_is_held(page, block):
    assert is_held(page, block), f"{block.place}: no test runs it, parses it or compares it"


@pytest.mark.parametrize("page", WHOLE)
def test_whole_pages_are_followed(page):
    name = re.escape(page.rpartition("/")[2])
    assert re.search(rf'follow\((?:with_few_images\()?blocks\([^)]*\b{name}"\)', TESTS[WHOLE[page]])


def test_no_exception_is_left_over():
    scripts = [block for _, block in (shown.values for shown in BLOCKS) if block.kind == "bash"]
    assert set(EXCEPTIONS) <= {line[0] for block in scripts for line in lines_of(block)}


@pytest.mark.parametrize(
    ("kind", "text", "held"),
    [
        ("bash", "# a comment\nmake lint\npython tools/train_net.py --resume", True),
        ("bash", "make lint\nsometool --option", False),
        ("python", "print(1)", False),
        ("text", "1", False),
    ],
)
def test_what_nobody_looks_at_is_found(kind, text, held):
    assert is_held("docs/new.md", Block(kind, "", text, "Section", "docs/new.md:1")) == held
