"""What values must be, whatever they are part of."""

import contextlib
import dataclasses
import numbers
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

MIN_BITS, MAX_BITS = 2, 8


def check_widths(widths: Sequence[int]) -> None:
    """Raise ValueError unless the candidate widths ascend within what the quantizer can do."""
    if not widths or not all(map(is_width, widths)) or list(widths) != sorted(set(widths)):
        raise ValueError(f"widths {list(widths)}: expected ascending whole numbers, {MIN_BITS} to {MAX_BITS}")


def is_width(bits: Any) -> bool:
    """Whether it is a width that a quantizer has, in bits."""
    return isinstance(bits, int) and not isinstance(bits, bool) and MIN_BITS <= bits <= MAX_BITS


def is_count(value: Any) -> bool:
    """Whether it is a whole number; True is none."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def check_meta(meta: Any) -> None:
    """Raise ValueError unless it maps names to values."""
    if not isinstance(meta, Mapping):
        raise ValueError(f"its meta are {meta!r}: expected values by name")


@contextlib.contextmanager
def refused(what: str, path: str | os.PathLike) -> Iterator[None]:
    """Whatever goes wrong while values are read from a JSON file makes it a broken one, in one line."""
    try:
        yield
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ValueError(f"{what} {path} is broken ({error}): compute it again") from None


def require_keys(content: Any, cls: type, path: str | os.PathLike) -> dict[str, Any]:
    """What a JSON file holds, if it has the fields of a dataclass; else ValueError."""
    expected = {field.name for field in dataclasses.fields(cls)}
    found = set(content) if isinstance(content, dict) else {type(content).__name__}
    if found != expected:
        raise ValueError(f"{path} is no {cls.__name__}: it has {sorted(found)}, expected {sorted(expected)}")
    return content
