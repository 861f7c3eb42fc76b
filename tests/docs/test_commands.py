"""The commands of all pages are commands that the programs take, with configs and keys that are there."""

import argparse
import re
import runpy
import shlex
import sys

import pytest

from fisher_detr.engine import read_config
from fisher_detr.model_zoo import PAPER_MODELS, PAPER_TABLES
from tests.docs.pages import PAGES, REPOSITORY, blocks

# Every block of these is run by test_tutorials.py, with the files that they write.
FOLLOWED = {"docs/tutorials/own_data.md"}


class ParsedError(Exception):
    """Carries what a program made of its command line, in place of the program's work."""


def commands(page):
    """(place, words) of every command in bash blocks and in text that starts a program of the repository."""
    text = page.read_text()
    told = [(page.name, command) for command in re.findall(r"(?<!`)`(python [^`]+)`", text)]
    shown = [
        (block.place, line) for block in blocks(page) if block.kind == "bash" for line in lines_of(block)
    ]
    for place, line in [*shown, *told]:
        words = shlex.split(line, comments=True)
        ours = [i for i, word in enumerate(words) if re.fullmatch(r"\w+/\w+\.py|benchmarks\.\w+", word)]
        if ours and "..." not in words and "$" not in "".join(words[: ours[0]]):
            yield place, words[ours[0] :]


def lines_of(block):
    return block.text.replace("\\\n", " ").splitlines()


COMMANDS = [
    pytest.param(words, id=f"{place} {words[0]}")
    for page in PAGES
    if str(page.relative_to(REPOSITORY)) not in FOLLOWED
    for place, words in commands(page)
]


def stopping(parse):
    """The parser's method, with which the program ends."""

    def parse_and_stop(*arguments, **named):
        raise ParsedError(parse(*arguments, **named))

    return parse_and_stop


def parse(program, words, monkeypatch):
    """What the program's own parser makes of the words."""
    for name in ("parse_args", "parse_intermixed_args"):
        monkeypatch.setattr(argparse.ArgumentParser, name, stopping(getattr(argparse.ArgumentParser, name)))
    monkeypatch.setattr(sys, "argv", [program, *words])
    monkeypatch.syspath_prepend(REPOSITORY / "datasets")  # as for a script that is started there
    with pytest.raises(ParsedError) as parsed:
        if program.endswith(".py"):
            runpy.run_path(str(REPOSITORY / program), run_name="__main__")
        else:
            runpy.run_module(program, run_name="__main__")
    return parsed.value.args[0]


def test_there_are_commands():
    assert len(COMMANDS) > 50
    assert {"README.md", "docs/qat.md", "docs/distributed.md"} <= {p.id.split(":")[0] for p in COMMANDS}


@pytest.mark.parametrize("words", COMMANDS)
def test_is_taken(words, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    args = parse(words[0], words[1:], monkeypatch)
    config = getattr(args, "config_file", "")
    if config and config != "zoo://mine":  # what docs/publish.md publishes
        read_config(config, getattr(args, "opts", []))


def test_the_page_on_reproducing_has_all_names():
    text = (REPOSITORY / "docs" / "reproduce.md").read_text()
    for table in PAPER_TABLES.values():
        assert f"`{table.name}`" in text and all(f"`{arm}`" in text for arm in table.arms)
    for model in PAPER_MODELS:
        assert f"`{model.checkpoint}`" in text and (not model.panoptic or f"`{model.panoptic}`" in text)
