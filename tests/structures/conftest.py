import numpy as np
import pytest

from fisher_detr.structures import BitAllocation, LayerInfo, SensitivityForm, SensitivityTable


@pytest.fixture
def table():
    rng = np.random.default_rng(0)
    layers = (LayerInfo("backbone.conv1", 27, 3), LayerInfo("encoder.linear", 64, 8))
    terms = {name: rng.normal(size=(2, 3)) * 1e-17 for name in ("overall", "cross", "critical")}
    return SensitivityTable(
        layers=layers,
        widths=(2, 4, 8),
        terms=terms,
        traces={name: rng.normal(size=2) for name in terms},
        form=SensitivityForm.BLOCK,
        standard_errors={"overall": rng.random((2, 3))},
        linear={"critical": rng.random((2, 3))},
        meta={"image_ids": [3, 5], "seed": 0, "critical": None},
    )


@pytest.fixture
def allocation():
    return BitAllocation({"b": 3, "a": 8}, 100, 120, cost=1e-30, meta={"arm": "fisher_critical", "gap": 0.0})
