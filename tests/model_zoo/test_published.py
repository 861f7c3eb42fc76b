"""What this repository publishes: the page, the entries, and the files that they name."""

import make_model_zoo
import pytest
from detectron2.config import get_cfg

from fisher_detr import add_fisher_detr_config
from fisher_detr.model_zoo import catalog, entries, read_studies, weights_path
from tests.conftest import REPOSITORY


@pytest.fixture
def page(tmp_path, monkeypatch):
    """The tool's page, moved to where a test may write."""
    path = tmp_path / "MODEL_ZOO.md"
    monkeypatch.setattr(make_model_zoo, "PAGE", path)
    return path


def test_the_page_is_what_the_generator_writes(page):
    make_model_zoo.main([])
    assert page.read_text() == (REPOSITORY / "MODEL_ZOO.md").read_text(), "run `make zoo`"


def test_check_tells_whether_the_page_is_current(page):
    with pytest.raises(SystemExit, match="MODEL_ZOO.md differs .*: run `make zoo`"):
        make_model_zoo.main(["--check"])
    make_model_zoo.main([])
    make_model_zoo.main(["--check"])
    page.write_text(page.read_text() + "\n")
    with pytest.raises(SystemExit, match="MODEL_ZOO.md differs"):
        make_model_zoo.main(["--check"])
    assert page.read_text().endswith("\n\n")


def test_a_broken_entry_leaves_the_page_alone(page, zoo):
    page.write_text("before")
    (zoo / "entries" / "broken.yaml").write_text("name: broken")
    with pytest.raises(SystemExit, match=r"make_model_zoo: .*broken\.yaml: missing key model"):
        make_model_zoo.main([])
    assert page.read_text() == "before"


def test_weights_and_entries_name_each_other():
    shipped = {entry.file: entry.name for entry in entries() if entry.file}
    for name in shipped.values():
        weights_path(name)
    on_disk = {path.name for path in catalog.WEIGHTS.glob("*")}
    assert on_disk == set(shipped)


def test_every_config_merges():
    for entry in entries():
        if entry.config:
            cfg = get_cfg()
            add_fisher_detr_config(cfg)
            cfg.merge_from_file(str(REPOSITORY / entry.config))
            assert cfg.MODEL.META_ARCHITECTURE, entry.name


def test_commands_name_files_of_this_repository():
    commands = [entry.command for entry in entries() if entry.command]
    commands += [entry.training.command for entry in entries() if entry.training]
    commands += [study.command for study in read_studies(make_model_zoo.STUDIES)]
    for word in " ".join(commands).split():
        assert not word.startswith("/"), f"a path of one machine: {word}"
        if word.endswith((".py", ".yaml")):
            assert (REPOSITORY / word).is_file(), word
