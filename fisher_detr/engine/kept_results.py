"""Results of arms in files: a study that was cut off goes on, and measures nothing twice."""

import dataclasses
import hashlib
import math
from collections.abc import Callable
from pathlib import Path

from detectron2.config import CfgNode

from fisher_detr.engine.compare import ArmResult
from fisher_detr.files import read_json, write_json
from fisher_detr.structures import BitAllocation


class KeptResults:
    """Results of one config, below its OUTPUT_DIR."""

    def __init__(self, cfg: CfgNode):
        """Args are the config; with other settings the results are others."""
        self._folder = Path(cfg.OUTPUT_DIR) / "results"
        self._settings = hashlib.sha256(cfg.dump().encode()).hexdigest()

    def get(self, name: str, measure: Callable[[], ArmResult]) -> ArmResult:
        """What is known by a name, or is measured now.

        Raises:
            ValueError: the file is of other settings, or damaged.
        """
        path = self._folder / f"{name}.json"
        if not path.exists():
            write_json(path, {"settings": self._settings, "result": _to_json(measure())})
        found = read_json(path, "result")
        if not isinstance(found, dict) or found.keys() != {"settings", "result"}:
            raise ValueError(f"{path} is no result, or a damaged one: remove it to measure again")
        if found["settings"] != self._settings:
            raise ValueError(
                f"{path} was measured with other settings: name another OUTPUT_DIR, or remove it"
            )
        try:
            return _from_json(found["result"])
        except (LookupError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"{path} is damaged ({error}): remove it to measure again") from None


def _to_json(result: ArmResult) -> dict:
    """A metric of no objects is NaN, which JSON has not."""
    content = dataclasses.asdict(result)
    content["metrics"] = {k: None if math.isnan(v) else v for k, v in result.metrics.items()}
    return content


def _from_json(content: dict) -> ArmResult:
    metrics = {k: math.nan if v is None else v for k, v in content["metrics"].items()}
    plan = content["allocation"] and BitAllocation(**content["allocation"])
    return ArmResult(**content | {"metrics": metrics, "allocation": plan})
