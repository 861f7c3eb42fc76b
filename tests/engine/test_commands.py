"""What only one of several processes does."""

import pytest
from detectron2.utils import comm

from fisher_detr.engine import commands
from tests.checkpoint.small_detr import make_cfg


@pytest.mark.parametrize("is_main", [True, False])
def test_expected_results_are_asked_for_where_the_results_are(monkeypatch, is_main):
    cfg = make_cfg()
    cfg.DATASETS.TEST = ("some",)
    cfg.TEST.EXPECTED_RESULTS = [["bbox", "AP", 40.0, 0.1]]
    found = {"bbox": {"AP": 40.0}} if is_main else {}
    monkeypatch.setattr(commands.Trainer, "test", lambda cfg, model: found)
    monkeypatch.setattr(comm, "is_main_process", lambda: is_main)
    assert commands.evaluate(cfg, None) == found
