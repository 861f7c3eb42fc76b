"""The page of config keys is that of config.py."""

import make_reference
import pytest
from detectron2.config import get_cfg

from fisher_detr import add_fisher_detr_config

SOURCE = """
def add(cfg):
    # Of the data.
    cfg.DATASETS.A = 1
    node = cfg.B = CN()
    # First line,
    # second "value" of |w| and DATASETS.A.
    node.ONE = ""
    node.TWO = (2,)
    inner = node.C = CN()
    inner.D = 0
"""


def test_the_page_is_current():
    make_reference.main(["--check"])


def test_every_key_is_there_and_no_other():
    before, ours = get_cfg(), get_cfg()
    add_fisher_detr_config(ours)
    added = dict(make_reference.defaults(ours)).keys() - dict(make_reference.defaults(before)).keys()
    keys = make_reference.read_keys()
    assert {key.path for key in keys} == added
    assert "QUANT.QAT.PENALTY.WEIGHT" in added and "SOLVER.MAX_ITER" not in added
    page = make_reference.PAGE.read_text()
    for section in {key.section for key in keys}:
        table = page.split(f"## {section}\n\n")[1].split("\n\n")[0]
        assert all(f"`{key.path.rpartition('.')[2]}`" in table for key in keys if key.section == section)


def test_comments_are_those_above_or_of_the_neighbour():
    assert dict(make_reference.comments(SOURCE)) == {
        "DATASETS.A": "Of the data.",
        "B.ONE": 'First line, second "value" of |w| and DATASETS.A.',
        "B.TWO": 'First line, second "value" of |w| and DATASETS.A.',
        "B.C.D": "",
    }


def test_a_row_is_a_meaning():
    meaning = 'First line, second "value" of |w| and DATASETS.A.'
    page = make_reference.render(
        [make_reference.Key("B.ONE", "", meaning), make_reference.Key("B.TWO", (2,), meaning)]
    )
    assert page.endswith(
        "## B\n\n| key | default | meaning |\n| --- | --- | --- |\n"
        r"| `ONE`, `TWO` | `''`, `(2,)` | First line, second `value` of \|w\| and `DATASETS.A`. |" + "\n"
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            ("# Layers of the encoder and of the decoder.\n", "\n"),
            None,
        ),  # the neighbour's comment stands for it
        (
            ("    # Seed of that sample.\n    quant.CALIBRATION.SEED = 0\n", ""),
            "expected each key .* QUANT.CALIBRATION.SEED",
        ),
        (
            ("    # Quantize MODEL.WEIGHTS as", "\n    as_ = 0  # Quantize MODEL.WEIGHTS as"),
            "say what .* QUANT.ENABLED",
        ),
    ],
)
def test_a_key_without_meaning_is_an_error(change, message, tmp_path, monkeypatch):
    source = make_reference.SOURCE.read_text()
    assert source.count(change[0]) == 1
    (tmp_path / "config.py").write_text(source.replace(*change))
    monkeypatch.setattr(make_reference, "SOURCE", tmp_path / "config.py")
    monkeypatch.setattr(make_reference, "PAGE", tmp_path / "page.md")
    if message:
        with pytest.raises(SystemExit, match=message):
            make_reference.main([])
    else:
        with pytest.raises(SystemExit, match="page.md differs from config.py: run `make reference`"):
            make_reference.main(["--check"])
        make_reference.main([])
        make_reference.main(["--check"])
