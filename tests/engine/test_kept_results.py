import dataclasses
import math

import pytest
from detectron2.config import get_cfg

from fisher_detr.engine import ArmResult, KeptResults
from fisher_detr.structures import BitAllocation

PLAN = BitAllocation({"layer": 3}, 10, 12, 0.5, {"arm": "fisher_overall"})
RESULT = ArmResult("fisher_overall", {"AP": 40.0, "APl": math.nan}, 100, 2.5, "folder", PLAN)


@pytest.fixture
def cfg(tmp_path):
    cfg = get_cfg()
    cfg.OUTPUT_DIR = str(tmp_path)
    return cfg


@pytest.mark.parametrize("plan", [PLAN, None])
def test_a_result_is_measured_once(cfg, plan):
    calls = []
    expected = dataclasses.replace(RESULT, allocation=plan)
    for _ in range(2):
        found = KeptResults(cfg).get("a", lambda: calls.append(0) or expected)
        assert math.isnan(found.metrics.pop("APl"))
        assert found == dataclasses.replace(expected, metrics={"AP": 40.0})
    assert len(calls) == 1


def test_a_measurement_that_fails_leaves_nothing(cfg):
    def fails():
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError):
        KeptResults(cfg).get("a", fails)
    assert KeptResults(cfg).get("a", lambda: RESULT).name == "fisher_overall"


def test_other_settings_are_refused(cfg):
    KeptResults(cfg).get("a", lambda: RESULT)
    cfg.SEED = 5
    with pytest.raises(ValueError, match=r"a.json was measured with other settings: name another OUTPUT_DIR"):
        KeptResults(cfg).get("a", lambda: RESULT)
