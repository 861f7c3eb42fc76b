"""Commands of pages, and what the programs themselves make of them."""

import argparse
import re
import runpy
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.pages import REPOSITORY, Block, blocks

# With the place of each command its words.
Commands = Iterator[tuple[str, list[str]]]


class ParsedError(Exception):
    """Carries what a program made of its command line, in place of the program's work."""


def shown(page: Path) -> Commands:
    """Those of the bash blocks, and those in the text that begin with `python` or `make`."""
    for block in blocks(page):
        if block.kind == "bash":
            yield from ((block.place, words) for words in lines_of(block))
    for command in re.findall(r"(?<!`)`((?:python|make) [^`]+)`", page.read_text(encoding="utf-8")):
        yield page.name, shlex.split(command)


def lines_of(block: Block) -> list[list[str]]:
    """The words of every line that is no comment."""
    lines = block.text.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def ours(words: list[str]) -> list[str]:
    """From a program of the repository on; none where there is no such, or the reader fills something in."""
    found = [i for i, word in enumerate(words) if re.fullmatch(r"\w+/\w+\.py|benchmarks\.\w+", word)]
    if not found or "..." in words or "$" in "".join(words[: found[0]]):
        return []
    return words[found[0] :]


def is_make(words: list[str]) -> bool:
    """Whether a Makefile is asked."""
    return words[0] == "make"


def parse(words: list[str], monkeypatch: pytest.MonkeyPatch) -> argparse.Namespace:
    """What the parser of a program of the repository makes of its words; it gets no further."""
    program, *arguments = words
    for name in ("parse_args", "parse_intermixed_args"):
        monkeypatch.setattr(argparse.ArgumentParser, name, _stopping(getattr(argparse.ArgumentParser, name)))
    monkeypatch.setattr(sys, "argv", [program, *arguments])
    monkeypatch.syspath_prepend(REPOSITORY / "datasets")  # as for a script that is started there
    with pytest.raises(ParsedError) as parsed:
        if program.endswith(".py"):
            runpy.run_path(str(REPOSITORY / program), run_name="__main__")
        else:
            runpy.run_module(program, run_name="__main__")
    return parsed.value.args[0]


def _stopping(parse_args):
    def parse_and_stop(*arguments, **named):
        raise ParsedError(parse_args(*arguments, **named))

    return parse_and_stop
