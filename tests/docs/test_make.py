"""What pages say to make are targets of the Makefile, whose commands the programs take."""

import os
import re
import shlex
import shutil
import subprocess

import pytest

from tests.docs.commands import is_make, ours, parse, shown
from tests.docs.pages import PAGES, REPOSITORY

TARGETS = re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
SETUP = "tools/bootstrap.py"  # of every target; it has no arguments and no parser
MAKES = {
    shlex.join(words): pytest.param(words, id=f"{place} {shlex.join(words)}")
    for page in reversed(PAGES)
    for place, words in shown(page)
    if is_make(words)
}
needs_make = pytest.mark.skipif(not shutil.which("make"), reason="no make here")


def printed(words):
    """The lines that make would run. No setting of a make that runs these tests is theirs."""
    environment = {name: text for name, text in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    done = subprocess.run(
        ["make", "--dry-run", *words[1:]], cwd=REPOSITORY, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return [shlex.split(line) for line in done.stdout.splitlines()]


def test_there_are_some():
    assert {"make quickstart", "make test", "make test-all", "make lint", "make docs", "make zoo"} <= set(
        MAKES
    )
    assert any("QAT=1" in command for command in MAKES)


@pytest.mark.parametrize("words", MAKES.values())
@needs_make
def test_is_a_target_whose_commands_are_taken(words, monkeypatch):
    targets = [word for word in words[1:] if "=" not in word]
    assert targets and set(targets) <= set(TARGETS)
    programs = [ours(line) for line in printed(words) if ours(line)]
    assert programs[:1] == ([] if targets == ["help"] else [[SETUP]])
    for program in programs[1:]:
        parse(program, monkeypatch)


@needs_make
def test_a_target_that_is_not_there_is_an_error():
    with pytest.raises(AssertionError, match="No rule to make target"):
        printed(["make", "quickstrat"])


@needs_make
@pytest.mark.parametrize("settings", ["QAT=0", "QAT=1", "MODEL=dab"])
def test_settings_reach_the_command(settings):
    (quickstart,) = [ours(line) for line in printed(["make", "quickstart", settings]) if ours(line)][1:]
    assert ("--qat" in quickstart) == (settings == "QAT=1")
    assert ("dab" in quickstart) == (settings == "MODEL=dab")
