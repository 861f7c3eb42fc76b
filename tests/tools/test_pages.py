"""The commands of the pages are commands that the tools take, on files that are there."""

import re
import shlex

import check_zoo
import demo
import publish_model
import pytest
import reproduce
from detectron2.engine import default_argument_parser

from fisher_detr.model_zoo import PAPER_MODELS, PAPER_TABLES
from tests.conftest import REPOSITORY

PARSERS = {
    "tools/train_net.py": lambda words: default_argument_parser().parse_args(words),
    "tools/publish_model.py": publish_model.parse,
    "tools/demo.py": demo.parse,
    "tools/reproduce.py": reproduce.parse,
    "tools/check_zoo.py": check_zoo.parse,
}


def commands(page):
    """Words of every `python` command in the page's bash blocks."""
    text = "\n".join(re.findall(r"^ *```bash\n(.*?)^ *```", page.read_text(), re.MULTILINE | re.DOTALL))
    lines = text.replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.strip().startswith("python ")]


@pytest.mark.parametrize("name", ["publish", "reproduce"])
def test_commands_are_taken(name):
    found = commands(REPOSITORY / "docs" / f"{name}.md")
    assert len(found) >= 2
    for _, program, *words in found:
        assert (REPOSITORY / program).is_file()
        if program in PARSERS:
            args = PARSERS[program](words)
            config = getattr(args, "config_file", "")
            assert not config or config.startswith("zoo://") or (REPOSITORY / config).is_file(), config


def test_the_page_on_reproducing_has_all_names():
    text = (REPOSITORY / "docs" / "reproduce.md").read_text()
    for table in PAPER_TABLES.values():
        assert f"`{table.name}`" in text and all(f"`{arm}`" in text for arm in table.arms)
    for model in PAPER_MODELS:
        assert f"`{model.checkpoint}`" in text and (not model.panoptic or f"`{model.panoptic}`" in text)
