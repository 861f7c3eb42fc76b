"""Reading settings from a file and the command line, with all mistakes in one error."""

import difflib
import os
from collections.abc import Iterator, Sequence
from typing import Any

import yaml
from detectron2.config import CfgNode
from detectron2.utils.file_io import PathManager

# What the tuples hold whose default is empty; the others hold what is in their default.
_ELEMENTS = {
    "DATASETS.REGISTER": str,
    "DATASETS.TRAIN": str,
    "DATASETS.TEST": str,
    "ALLOCATION.CRITICAL_SETS": str,
    "ALLOCATION.SET_WEIGHTS": float,
    "ALLOCATION.TIES": str,
    "ALLOCATION.FIXED": str,
    "QUANT.QAT.PENALTY.PARAMS": str,
}


def merge_config(cfg: CfgNode, config_file: str = "", overrides: Sequence[Any] = ()) -> None:
    """Merge a YAML file with its bases and then the overrides into a config, in place.

    A whole number is accepted where a fraction is expected.

    Args:
        cfg: with the default of every key.
        config_file: empty: none; `zoo://<name>`: that of a model zoo entry.
        overrides: alternating full keys and values.

    Raises:
        FileNotFoundError: no such file, or no such base of it.
        ValueError: not YAML, or settings that do not fit; all of them are named.
    """
    if len(overrides) % 2:
        raise ValueError(
            f"settings on the command line are pairs of KEY VALUE: {overrides[-1]!r} has no value"
        )
    config_file = _of_zoo(os.fspath(config_file))
    settings = [*_leaves(_read(config_file), cfg)] if config_file else []
    settings += zip(overrides[::2], overrides[1::2], strict=True)
    mistakes = [mistake for key, value in settings if (mistake := _set(cfg, key, value))]
    if mistakes:
        raise ValueError("config: " + " ".join("; ".join(mistakes).splitlines()))  # a key may be any text


def _of_zoo(config_file: str) -> str:
    """The file of `zoo://<name>`, which stands for the config where one is read."""
    if not config_file.startswith("zoo://"):
        return config_file
    return PathManager.get_local_path(f"{config_file.removesuffix('.yaml')}.yaml")


def _read(config_file: str) -> dict[str, Any]:
    try:
        # Unsafe YAML may run code; no config needs it.
        content = CfgNode.load_yaml_with_base(config_file, allow_unsafe=False)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"config file {error.filename} does not exist: check the path") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"config file {config_file} is not plain YAML ({reason}): repair it") from None
    except TypeError:
        content = None  # an empty file, or one below it
    if not isinstance(content, dict):
        raise ValueError(
            f"config file {config_file}, or a base of it, holds no settings: expected KEY: VALUE"
        )
    return content


def _leaves(content: dict[str, Any], node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Full keys and values; what the config does not know as a section is a value."""
    for key, value in content.items():
        below = node.get(key) if isinstance(node, CfgNode) else None
        if isinstance(value, dict) and isinstance(below, CfgNode):
            yield from _leaves(value, below, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _set(cfg: CfgNode, key: str, value: Any) -> str | None:
    """Set one key; what is wrong with it, or None."""
    *path, name = str(key).split(".")
    section = cfg
    for part in path:
        section = section.get(part) if isinstance(section, CfgNode) else None
    if not isinstance(section, CfgNode) or name not in section:
        return f"unknown key {key}{_nearest(str(key), list(_keys(cfg)))}"
    default = section[name]
    if isinstance(default, CfgNode):
        return f"{key} is a section: name a key below it, such as {next(_keys(default, f'{key}.'))}"
    return _set_value(cfg, key, value, default)


def _set_value(cfg: CfgNode, key: str, value: Any, default: Any) -> str | None:
    try:
        cfg.merge_from_list([key, value])
    except ValueError:
        if isinstance(default, float) and not isinstance(value, bool):
            try:
                cfg.merge_from_list([key, float(value)])
                return None
            except (TypeError, ValueError):
                pass
        return f"{key} is {value!r}, expected {type(default).__name__} as in {default!r}"
    return _wrong_element(cfg, key, default)


def _wrong_element(cfg: CfgNode, key: str, default: Any) -> str | None:
    """What is wrong with an element of a tuple, which yacs does not look at."""
    *path, name = key.split(".")
    for part in path:
        cfg = cfg[part]
    if not isinstance(default, tuple | list) or not isinstance(cfg[name], tuple | list):
        return None
    kinds = {_ELEMENTS[key]} if key in _ELEMENTS else {type(element) for element in default}
    if len(kinds) != 1 or (kind := kinds.pop()) not in (int, float, str):
        return None
    wrong = [
        element
        for element in cfg[name]
        if isinstance(element, bool) or not isinstance(element, int | float if kind is float else kind)
    ]
    return f"{key} holds {wrong[0]!r}, expected {kind.__name__} in it" if wrong else None


def setting_differences(base: CfgNode, other: CfgNode) -> dict[str, str]:
    """What to put behind a config to get another one: values as the command line takes them, by full key."""
    known = dict(_flat(base))
    return {key: str(value) for key, value in _flat(other) if key not in known or known[key] != value}


def _flat(node: CfgNode, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, CfgNode):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", _tuples(value)


def _tuples(value: Any) -> Any:
    """A config that was dumped has lists in place of tuples, which YAML has not."""
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value


def _keys(node: CfgNode, prefix: str = "") -> Iterator[str]:
    for key, value in node.items():
        if isinstance(value, CfgNode):
            yield from _keys(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def _nearest(key: str, known: list[str]) -> str:
    """Keys of the same last part first: a section is forgotten more often than a letter."""
    name = key.rpartition(".")[2]
    same = [other for other in known if other.rpartition(".")[2] == name]
    near = same[:3] or difflib.get_close_matches(key, known, n=3, cutoff=0.6)
    return f", did you mean {' or '.join(near)}?" if near else ""
