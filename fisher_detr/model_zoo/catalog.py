"""The entries on disk: one YAML each in `entries/`, weights that are shipped in `weights/`."""

import dataclasses
import difflib
import os
from pathlib import Path

import yaml

from fisher_detr.files import sha256_of, write_atomically, write_text
from fisher_detr.model_zoo.schema import parse, plain
from fisher_detr.model_zoo.zoo_entry import ZooEntry

ENTRIES = Path(__file__).parent / "entries"
WEIGHTS = Path(__file__).parent / "weights"


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
    """The weights of an entry, checked against their sha256.

    Raises:
        ValueError: no such entry, an entry without weights, or a file that is not the published one.
        FileNotFoundError: the file is missing.
    """
    found = entry(name)
    if found.file is None:
        raise ValueError(f"model zoo entry {name!r} ships no weights: see its row in MODEL_ZOO.md")
    path = WEIGHTS / found.file
    if not path.is_file():
        raise FileNotFoundError(f"weights {path} of model zoo entry {name!r} do not exist: install again")
    if (digest := sha256_of(path)) != found.sha256:
        raise ValueError(f"weights {path} have sha256 {digest}, {found.sha256} was published: get them again")
    return path


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


def write_entry(new: ZooEntry, weights: str | os.PathLike | None = None) -> Path:
    """Write an entry, in place of one of the same name; `make zoo` then writes the page.

    Args:
        new: `file` and `sha256` are filled in when weights are given.
        weights: file to copy into `weights/`, as `<name><its ending>`.

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
        new = dataclasses.replace(new, file=new.name + Path(weights).suffix, sha256=sha256_of(weights))
    # Annotations are not enforced at run time: what is written must be what can be read.
    content = plain(parse(ZooEntry, plain(new), f"model zoo entry {new.name!r}"))
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=110, default_flow_style=None)
    if weights is not None:
        stored = Path(weights).read_bytes()
        write_atomically(WEIGHTS / new.file, lambda file: file.write(stored))
    write_text(path, text)
    return path
