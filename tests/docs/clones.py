"""Folders that stand for a clone."""

import dataclasses
import shutil
from collections.abc import Iterable
from pathlib import Path

import yaml

from tests.docs.pages import REPOSITORY, Block

DRAW = Block("bash", "", "python datasets/make_street.py\n", "", "the data")
_FEW = "make_street.py --output datasets/street --num-train 16 --num-val 8 --num-test 4"


def make_clone(folder: Path) -> Path:
    """Links to the code, copies of what may be added to; without data."""
    folder.mkdir()
    for name in ("tools", "fisher_detr"):
        (folder / name).symlink_to(REPOSITORY / name)
    shutil.copytree(REPOSITORY / "configs", folder / "configs")
    (folder / "datasets").mkdir()
    for script in (REPOSITORY / "datasets").glob("*.py"):
        (folder / "datasets" / script.name).symlink_to(script)
    return folder


def shrink(config, settings):
    """Let a config of the clone build a smaller model, on smaller images."""
    content = yaml.safe_load(config.read_text())
    small = ["INPUT.MIN_SIZE_TEST", 128, "INPUT.MAX_SIZE_TEST", 192, "DATALOADER.NUM_WORKERS", 0, *settings]
    for path, value in zip(small[::2], small[1::2], strict=True):
        *above, key = path.split(".")
        node = content
        for name in above:
            node = node.setdefault(name, {})
        node[key] = value
    config.write_text(yaml.safe_dump(content))


def with_few_images(page: Iterable[Block]) -> list[Block]:
    """The blocks, which draw a smaller street where they draw all of it."""
    page = list(page)
    few = [
        dataclasses.replace(block, text=block.text.replace("make_street.py\n", f"{_FEW}\n")) for block in page
    ]
    assert few != page
    return few
