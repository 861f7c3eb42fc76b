"""The entries on disk: one YAML each in `entries/`; weights are shipped in `weights/`, or fetched."""

import dataclasses
import difflib
import os
from pathlib import Path

import yaml
from iopath.common.file_io import get_cache_dir

from fisher_detr.files import sha256_of, write_atomically, write_text
from fisher_detr.model_zoo.download import fetch
from fisher_detr.model_zoo.schema import parse, plain
from fisher_detr.model_zoo.zoo_entry import ZooEntry

ENTRIES = Path(__file__).parent / "entries"
WEIGHTS = Path(__file__).parent / "weights"
REPOSITORY = Path(__file__).resolve().parents[2]  # of a clone
INSTALLED = Path(__file__).resolve().parent  # where setup.py puts the configs of a wheel
_DIGITS = 8  # of the sha256, in the name of a file


def entries() -> list[ZooEntry]:
    """All entries, by name.

    Raises:
        ValueError: a file that is not an entry.
    """
    return [read_entry(path) for path in sorted(ENTRIES.glob("*.yaml"))]


def entry(name: str) -> ZooEntry:
    """The entry of that name.

    Raises:
        ValueError: no such entry; the nearest names are given.
    """
    names = sorted(path.stem for path in ENTRIES.glob("*.yaml"))
    if name not in names:
        nearest = difflib.get_close_matches(name, names) or names
        raise ValueError(f"model zoo has no entry {name!r}: did you mean {', '.join(nearest)}?")
    return read_entry(ENTRIES / f"{name}.yaml")


def weights_path(name: str) -> Path:
    """The weights of an entry, checked by their sha256; fetched into iopath's cache where not shipped.

    Raises:
        ValueError: no such entry, an entry without weights, or a file that is not the published one.
        FileNotFoundError: a shipped file is missing.
        OSError: the file cannot be fetched.
    """
    found = entry(name)
    if found.file is None:
        remedy = (
            f"convert the official checkpoint: {found.converter}" if found.converter else "see MODEL_ZOO.md"
        )
        raise ValueError(f"model zoo entry {name!r} ships no weights: {remedy}")
    path = WEIGHTS / found.file
    if found.url and not path.is_file():
        return fetch(found.url, Path(get_cache_dir(), "fisher_detr", found.file), found.sha256)
    if not path.is_file():
        raise FileNotFoundError(f"weights {path} of model zoo entry {name!r} do not exist: install again")
    if (digest := sha256_of(path)) != found.sha256:
        raise ValueError(f"weights {path} have sha256 {digest}, {found.sha256} was published: get them again")
    return path


def config_path(name: str) -> Path:
    """The config file of an entry.

    Raises:
        ValueError: no such entry, or one without a config.
        FileNotFoundError: the configs are neither in a clone nor in the installed package.
    """
    found = entry(name)
    if found.config is None:
        raise ValueError(f"model zoo entry {name!r} names no config: see MODEL_ZOO.md")
    for folder in (REPOSITORY, INSTALLED):
        if (path := folder / found.config).is_file():
            return path
    raise FileNotFoundError(
        f"config {found.config} of model zoo entry {name!r} is neither in {REPOSITORY} nor in {INSTALLED}: "
        "work in a clone of the repository, or install again"
    )


def read_entry(path: str | os.PathLike) -> ZooEntry:
    """Read and check one entry.

    Raises:
        ValueError: not YAML, or unknown, missing or wrong keys; file and keys are named.
    """
    path = Path(path)
    try:
        content = yaml.safe_load(path.read_bytes())
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    found = parse(ZooEntry, content, str(path))
    if found.name != path.stem:
        raise ValueError(f"{path}: name is {found.name!r}, expected the file's, {path.stem!r}")
    return found


def hashed_name(name: str, weights: str | os.PathLike) -> str:
    """File name of published weights: `<name>-<first digits of the sha256><ending>`."""
    return f"{name}-{sha256_of(weights)[:_DIGITS]}{Path(weights).suffix}"


def write_entry(new: ZooEntry, weights: str | os.PathLike | None = None, url: str | None = None) -> Path:
    """Write an entry, in place of one of the same name; `make zoo` then writes the page.

    Args:
        new: `file`, `sha256` and `url` are filled in when weights are given.
        weights: file to copy into `weights/`, under its `hashed_name`; what was shipped before goes.
        url: https address where the publisher will put the weights, which are not copied then.

    Returns:
        The entry's file.

    Raises:
        ValueError: a value of the wrong type; nothing is written.
        FileNotFoundError: no such weights.
    """
    path = ENTRIES / f"{new.name}.yaml"
    if weights is not None:
        if not Path(weights).is_file():
            raise FileNotFoundError(f"weights {weights} do not exist: check the path")
        file = hashed_name(new.name, weights)
        new = dataclasses.replace(new, file=file, sha256=sha256_of(weights), url=url)
    # Annotations are not enforced at run time: what is written must be what can be read.
    content = plain(parse(ZooEntry, plain(new), f"model zoo entry {new.name!r}"))
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=110, default_flow_style=None)
    before = read_entry(path).file if path.is_file() else None
    if weights is not None and new.url is None:
        stored = Path(weights).read_bytes()
        write_atomically(WEIGHTS / new.file, lambda file: file.write(stored))
    write_text(path, text)
    if before is not None and before != new.file:
        (WEIGHTS / before).unlink(missing_ok=True)
    return path
