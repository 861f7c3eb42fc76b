"""Plain data of a YAML or JSON file -> frozen dataclasses, with errors that name the file and the key."""

import dataclasses
import datetime
import enum
import types
import typing
from typing import Any, TypeVar

T = TypeVar("T")

_NAMES = {
    str: "a text (quote it if it looks like a number)",
    int: "a whole number",
    float: "a number",
    datetime.date: "a date (YYYY-MM-DD)",
}


def parse(cls: type[T], content: Any, source: str) -> T:
    """Build a dataclass from nested mappings and lists; its annotations are the schema.

    Args:
        cls: fields without a default are required. Fields may be str, int, float, date, an enum of strings,
            another dataclass, `dict[str, X]`, `list[X]`, `Any`, or one of these `| None`.
        content: what the file holds.
        source: names the file in errors.

    Raises:
        ValueError: unknown, missing or wrong keys; all of them are named.
    """
    problems: list[str] = []
    value = _parse(cls, content, "", problems)
    if problems:
        raise ValueError(f"{source}: {'; '.join(problems)}")
    return value


def plain(value: Any) -> Any:
    """Undo `parse`: nested mappings and lists, without the fields that hold None."""
    if dataclasses.is_dataclass(value):
        pairs = ((field.name, getattr(value, field.name)) for field in dataclasses.fields(value))
        return {name: plain(content) for name, content in pairs if content is not None}
    if isinstance(value, dict):
        return {key: plain(content) for key, content in value.items()}
    if isinstance(value, list):
        return [plain(content) for content in value]
    return str(value) if isinstance(value, enum.StrEnum) else value


def _parse(kind: Any, value: Any, key: str, problems: list[str]) -> Any:
    if isinstance(kind, types.UnionType):
        if value is None:
            return None
        (kind,) = (option for option in typing.get_args(kind) if option is not type(None))
    container, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if dataclasses.is_dataclass(kind) or container is dict:
        if not isinstance(value, dict):
            return _wrong(value, "keys with values", key, problems)
        if container is dict:
            return {str(k): _parse(arguments[1], v, _join(key, k), problems) for k, v in value.items()}
        return _parse_dataclass(kind, value, key, problems)
    if container is list:
        if not isinstance(value, list):
            return _wrong(value, "a list", key, problems)
        return [_parse(arguments[0], v, _join(key, i), problems) for i, v in enumerate(value)]
    return _parse_scalar(kind, value, key, problems)


def _parse_dataclass(cls: Any, content: dict, key: str, problems: list[str]) -> Any:
    before = len(problems)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    types_ = typing.get_type_hints(cls)
    required = [name for name, field in fields.items() if _is_required(field)]
    problems += [f"unknown key {_join(key, name)}" for name in content if name not in fields]
    problems += [f"missing key {_join(key, name)}" for name in required if name not in content]
    values = {
        name: _parse(types_[name], value, _join(key, name), problems)
        for name, value in content.items()
        if name in fields
    }
    if len(problems) > before:
        return None
    try:
        return cls(**values)
    except ValueError as error:
        problems.append(f"{key}: {error}" if key else str(error))
        return None


def _parse_scalar(kind: type, value: Any, key: str, problems: list[str]) -> Any:
    if issubclass(kind, enum.StrEnum):
        options = [str(option) for option in kind]
        return kind(value) if value in options else _wrong(value, " or ".join(options), key, problems)
    # A boolean is an int to Python, and a timestamp a date; a whole number will do for a float.
    accepted = (int, float) if kind is float else kind
    if not isinstance(value, accepted) or isinstance(value, bool | datetime.datetime):
        return _wrong(value, _NAMES[kind], key, problems)
    return float(value) if kind is float else value


def _wrong(value: Any, expected: str, key: str, problems: list[str]) -> None:
    problems.append(f"{key or 'the file'} is {value!r}, expected {expected}")


def _is_required(field: dataclasses.Field) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _join(key: str, name: Any) -> str:
    return f"{key}.{name}" if key else str(name)
