"""The tutorials, followed from the first command to the last."""

from tests.docs.pages import REPOSITORY, blocks

TUTORIALS = REPOSITORY / "docs" / "tutorials"


def test_own_data(reader):
    reader.follow(blocks(TUTORIALS / "own_data.md"))
    assert {path.name for path in (reader.folder / "output/mine_ptq").iterdir()} >= {
        "allocation.json",
        "sensitivity.json",
        "coverage.json",
        "model_quantized.pth",
    }
