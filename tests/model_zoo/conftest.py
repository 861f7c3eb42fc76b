"""A measured entry in full precision, its quantized version, and a zoo of one's own."""

import datetime

import pytest

from fisher_detr.model_zoo import Measured, Metric, Quantization, Training, ZooEntry, catalog
from fisher_detr.structures import Arm

MEASURED = Measured("2.11.0", "CPU, two cores", datetime.date(2025, 1, 31), 61.0)


@pytest.fixture
def full():
    return ZooEntry(
        name="toy",
        model="Toy",
        data_set="street",
        split="test",
        metrics={"AP": Metric(41.26, 0.1), "APcrit_person": Metric(33.0, 0.3)},
        config="configs/toy.yaml",
        command="python tools/train_net.py --eval-only",
        parameters=1_700_000,
        size_bytes=6_800_000,
        training=Training("python tools/train_net.py", 7500.0),
        measured=MEASURED,
    )


@pytest.fixture
def quantized(full):
    def make(bits, arm="uniform", critical_set=None):
        return ZooEntry(
            name=f"toy_{arm}_{bits:g}".replace(".", "p"),
            model=full.model,
            data_set=full.data_set,
            split=full.split,
            metrics={"AP": Metric(30.0, 0.1), "APcat_child": Metric(8.0, 1.0)},
            config=full.config,
            command="python tools/train_net.py QUANT.ENABLED True",
            parameters=full.parameters,
            size_bytes=1_000_000,
            quantization=Quantization(Arm(arm), bits, 8, critical_set),
            measured=MEASURED,
        )

    return make


@pytest.fixture
def zoo(tmp_path, monkeypatch):
    """Folder of an empty zoo that takes the place of the package's."""
    (tmp_path / "entries").mkdir()
    monkeypatch.setattr(catalog, "ENTRIES", tmp_path / "entries")
    monkeypatch.setattr(catalog, "WEIGHTS", tmp_path / "weights")
    return tmp_path
