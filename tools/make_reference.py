#!/usr/bin/env python
"""Write docs/reference/config.md from the comments of fisher_detr/config.py.

tools/make_reference.py
tools/make_reference.py --check    (writes nothing; exits with 1 where the page differs)
"""

import argparse
import ast
import dataclasses
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode, get_cfg

from fisher_detr import add_fisher_detr_config
from fisher_detr.files import write_text

REPOSITORY = Path(__file__).resolve().parents[1]
SOURCE = REPOSITORY / "fisher_detr" / "config.py"
PAGE = REPOSITORY / "docs" / "reference" / "config.md"
HEAD = """\
# Config keys

<!-- Written by `make reference` from fisher_detr/config.py: edit that. -->

Every key that this package adds to Detectron2's, with its default. A config file or the command line sets it
(`QUANT.WEIGHT.SCALE mse`); the bases in `configs/` set some of them for each model. Symbols such as `L_F` are
those of [the method](../method.md). An unknown key ends a command in one line with the names that are near.
"""


@dataclasses.dataclass(frozen=True)
class Key:
    """A config key.

    Attributes:
        path: dotted, such as "QUANT.WEIGHT.SCALE".
        default: its value in a new config.
        meaning: the comment above it, or above the keys that share one comment.
    """

    path: str
    default: Any
    meaning: str

    @property
    def section(self) -> str:
        """The node that holds it."""
        return self.path.rpartition(".")[0]


def main(arguments: Sequence[str] | None = None) -> None:
    """Write or check the page; a key without a comment ends in one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--check", action="store_true", help="exit with 1 where the page differs")
    check = parser.parse_args(arguments).check
    try:
        text = render(read_keys())
    except ValueError as error:
        sys.exit(f"make_reference: {error}")
    if not check:
        write_text(PAGE, text)
    elif not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != text:
        sys.exit(f"make_reference: {PAGE.name} differs from {SOURCE.name}: run `make reference`")


def read_keys() -> list[Key]:
    """All keys that are not Detectron2's, or have another default there, in the order of config.py.

    Raises:
        ValueError: a key has no comment, or is set in a way that is not understood.
    """
    ours, before = get_cfg(), dict(defaults(get_cfg()))
    add_fisher_detr_config(ours)
    added = {path: value for path, value in defaults(ours) if (path, value) not in before.items()}
    meanings = dict(comments(SOURCE.read_text(encoding="utf-8")))
    if absent := sorted(added.keys() ^ meanings.keys()):
        raise ValueError(f"{SOURCE.name}: expected each key once, as NODE.KEY = value: {', '.join(absent)}")
    if silent := [path for path, meaning in meanings.items() if not meaning]:
        raise ValueError(f"{SOURCE.name}: say what it means in a comment above: {', '.join(silent)}")
    return [Key(path, added[path], meaning) for path, meaning in meanings.items()]


def defaults(node: CfgNode, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted path and value of every key."""
    for name, value in node.items():
        if isinstance(value, CfgNode):
            yield from defaults(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def comments(source: str) -> Iterator[tuple[str, str]]:
    """Path of every key that the source sets, and the comment above it or above its neighbour.

    A variable stands for the same node throughout the file.
    """
    lines, nodes, above = source.splitlines(), {"cfg": ""}, ""
    assigned = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Assign)]
    for node in sorted(assigned, key=lambda node: node.lineno):
        paths = [_path(target, nodes) for target in node.targets if isinstance(target, ast.Attribute)]
        if isinstance(node.value, ast.Call):  # a new node, and the names of it
            nodes |= {name.id: f"{paths[0]}." for name in node.targets if isinstance(name, ast.Name)}
            above = ""
        else:
            above = _comment_above(lines, node.lineno) or above
            yield from ((path, above) for path in paths)


def _path(target: ast.Attribute, nodes: dict[str, str]) -> str:
    base = target.value
    return (nodes[base.id] if isinstance(base, ast.Name) else f"{_path(base, nodes)}.") + target.attr


def _comment_above(lines: Sequence[str], number: int) -> str:
    """Text of the comment lines that end above a line (counted from 1)."""
    found: list[str] = []
    while (line := lines[number - 2 - len(found)].strip()).startswith("#"):
        found.insert(0, line.lstrip("# "))
    return " ".join(found)


def render(keys: Sequence[Key]) -> str:
    """The page: a table for each section; keys that share a comment share a row."""
    sections: dict[str, dict[str, list[Key]]] = {}
    for key in keys:
        sections.setdefault(key.section, {}).setdefault(key.meaning, []).append(key)
    tables = (
        "\n".join(
            [
                f"## {section}\n",
                "| key | default | meaning |",
                "| --- | --- | --- |",
                *map(_row, rows.values()),
            ]
        )
        for section, rows in sections.items()
    )
    return "\n\n".join([HEAD.rstrip(), *tables]) + "\n"


def _row(keys: Sequence[Key]) -> str:
    """Keys of one meaning; in it values in quotes and names of keys are code."""
    meaning = re.sub(r'(?<!\{)"([^"]*)"', r"`\1`", keys[0].meaning).replace("|", r"\|")
    meaning = re.sub(r"\b[A-Z][A-Z0-9_]*(?:\.[A-Z0-9_]+)+\b", r"`\g<0>`", meaning)
    names = ", ".join(f"`{key.path.rpartition('.')[2]}`" for key in keys)
    return f"| {names} | {', '.join(f'`{key.default!r}`' for key in keys)} | {meaning} |"


if __name__ == "__main__":
    main()
