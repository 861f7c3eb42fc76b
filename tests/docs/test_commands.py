"""The commands of all pages are commands that the programs take, with configs and keys that are there."""

import pytest

from fisher_detr.engine import read_config
from fisher_detr.model_zoo import PAPER_MODELS, PAPER_TABLES
from tests.docs.commands import ours, parse, shown
from tests.docs.pages import PAGES, REPOSITORY

# Every block of these is run by test_tutorials.py, with the files that they write.
FOLLOWED = {"docs/tutorials/own_data.md"}
COMMANDS = [
    pytest.param(ours(words), id=f"{place} {ours(words)[0]}")
    for page in PAGES
    if str(page.relative_to(REPOSITORY)) not in FOLLOWED
    for place, words in shown(page)
    if ours(words)
]


def test_there_are_commands():
    assert len(COMMANDS) > 50
    assert {"README.md", "docs/qat.md", "docs/distributed.md"} <= {p.id.split(":")[0] for p in COMMANDS}


@pytest.mark.parametrize("words", COMMANDS)
def test_is_taken(words, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    args = parse(words, monkeypatch)
    config = getattr(args, "config_file", "")
    if config and config != "zoo://mine":  # what docs/publish.md publishes
        read_config(config, getattr(args, "opts", []))


def test_the_page_on_reproducing_has_all_names():
    text = (REPOSITORY / "docs" / "reproduce.md").read_text()
    for table in PAPER_TABLES.values():
        assert f"`{table.name}`" in text and all(f"`{arm}`" in text for arm in table.arms)
    for model in PAPER_MODELS:
        assert f"`{model.checkpoint}`" in text and (not model.panoptic or f"`{model.panoptic}`" in text)
