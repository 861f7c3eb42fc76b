"""The page on publishing, followed to its end in a clone of its own: what it publishes stays there."""

import shutil
import subprocess
import sys

import pytest

from tests.docs.clones import make_clone, shrink, with_few_images
from tests.docs.pages import REPOSITORY, Reader, blocks, environment


class Stranger(Reader):
    """Has nothing but the clone: its package is imported, in a process for each Python block."""

    def environment(self):
        return environment(self.folder) | {"PYTHONPATH": str(self.folder)}

    def _execute(self, block):
        command, where = [sys.executable, "-c", block.text], {"cwd": self.folder, "env": self.environment()}
        done = subprocess.run(command, capture_output=True, text=True, **where)
        assert done.returncode == 0, f"{block.place}: {done.stderr[-3000:]}"
        return done.stdout


@pytest.fixture
def stranger(tmp_path):
    folder = make_clone(tmp_path / "clone")
    for link in [path for path in (*folder.iterdir(), *(folder / "datasets").iterdir()) if path.is_symlink()]:
        source = link.resolve()
        link.unlink()
        if source.is_dir():
            shutil.copytree(source, link, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, link)
    shutil.copytree(REPOSITORY / "benchmarks/results", folder / "benchmarks/results")
    shutil.copy(REPOSITORY / "MODEL_ZOO.md", folder)
    shrink(folder / "configs/street/detr_small.yaml", ["SOLVER.IMS_PER_BATCH", 2, "TEST.IMS_PER_BATCH", 2])
    return Stranger(folder)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_publish(stranger):
    stranger.follow(with_few_images(blocks(REPOSITORY / "docs/publish.md")))
    assert "mine" in stranger.printed  # by check_zoo
    assert "`mine_4bit`" in (stranger.folder / "MODEL_ZOO.md").read_text()
    weights = (stranger.folder / "fisher_detr/model_zoo/weights").iterdir()
    assert {"mine", "mine_4bit"} <= {path.name.split("-")[0] for path in weights}
    assert not (REPOSITORY / "fisher_detr/model_zoo/entries/mine.yaml").exists()
