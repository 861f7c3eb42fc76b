"""The tables of docs/reference/files.md, and what they leave out of a file.

A row names a value by its path: `a.b` is key b of the object a, `a[]` an element of the list a and `a.<name>`
any key of a. What lies below a row without rows of its own is not looked at.
"""

import dataclasses
import json
import re
from typing import Any

from tests.docs.pages import REPOSITORY

PAGE = REPOSITORY / "docs" / "reference" / "files.md"


@dataclasses.dataclass
class Node:
    """A value that the page describes.

    Attributes:
        described: whether it has a row of its own.
        below: keys, `[]` or `<name>` to what is below.
        seen: whether a file had it.
    """

    described: bool = False
    below: dict[str, "Node"] = dataclasses.field(default_factory=dict)
    seen: bool = False


def sections() -> dict[str, str]:
    """Text by heading."""
    _, *parts = re.split(r"^## ", PAGE.read_text(), flags=re.MULTILINE)
    return {part.partition("\n")[0]: part.partition("\n")[2] for part in parts}


def described(section: str) -> Node:
    """The rows of a section as a tree."""
    root = Node(described=True)
    for path in re.findall(r"^\| `([^`]+)` \|", section, re.MULTILINE):
        node = root
        for step in re.findall(r"\[\]|<[^>]+>|[^.\[\]]+", path):
            node = node.below.setdefault(step, Node())
        node.described = True
    return root


def example(section: str) -> Any:
    """The section's JSON example; None where it has none."""
    found = re.search(r"^```json\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    return found and json.loads(found.group(1))


def undescribed(value: Any, node: Node, path: str = "") -> list[str]:
    """Paths of a file that the page does not have; marks what it has as seen."""
    node.seen = True
    if isinstance(value, dict) and node.below:
        pairs = [(f"{path}.{key}", content, _of_key(node, key)) for key, content in value.items()]
    elif isinstance(value, list) and "[]" in node.below:
        pairs = [(f"{path}[]", element, node.below["[]"]) for element in value]
    else:
        return []
    return [
        found
        for where, content, below in pairs
        for found in (undescribed(content, below, where) if below else [where.lstrip(".")])
    ]


def unseen(node: Node, path: str = "") -> list[str]:
    """Rows that no file had."""
    if not node.seen:
        return [path]
    return [found for step, below in node.below.items() for found in unseen(below, f"{path} {step}".strip())]


def _of_key(node: Node, key: str) -> Node | None:
    free = next((below for step, below in node.below.items() if step.startswith("<")), None)
    return node.below.get(key, free)
