"""Calibration sees all images, and names the one that spoils it."""

import pytest
import torch
from torch import nn

from fisher_detr.engine.calibration import calibrate_on_ranks
from fisher_detr.quantization import RangeMethod, activation_quantizers, quantize_model
from fisher_detr.structures import BitAllocation


class Net(nn.Module):
    """Takes Detectron2's dictionaries."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def forward(self, batch):
        return self.layer(torch.stack([sample["image"] for sample in batch]))


@pytest.fixture
def model():
    net = Net()
    quantize_model(net, BitAllocation({"layer": 4}, 10, 10), activation_bits=8)
    return net


def batches(*values, size=1):
    found = [{"image": torch.tensor([value, 0.5]), "image_id": 10 + i} for i, value in enumerate(values)]
    return [found[i : i + size] for i in range(0, len(found), size)]


@pytest.mark.parametrize("size", [1, 2, 3])
def test_ranges_are_those_of_all_images(model, size):
    calibrate_on_ranks(model, batches(-1.0, 3.0, 2.0, size=size), RangeMethod.MAX, 99.0)
    (quantizer,) = activation_quantizers(model).values()
    step = 4.0 / 255
    assert quantizer(torch.tensor([5.0])).item() == pytest.approx(3.0, abs=step)
    assert quantizer(torch.tensor([-5.0])).item() == pytest.approx(-1.0, abs=step)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_the_image_of_a_value_that_is_not_finite_is_named(model, size):
    with pytest.raises(ValueError, match=r"^image_id 11: layer.*: activation values are not finite"):
        calibrate_on_ranks(model, batches(1.0, float("nan"), 2.0, size=size), RangeMethod.MAX, 99.0)


def test_where_no_image_does_it_alone_all_are_named(model, monkeypatch):
    def forward(batch):
        if len(batch) > 1:
            raise ValueError("too many")
        return model.layer(batch[0]["image"])

    monkeypatch.setattr(model, "forward", forward)
    with pytest.raises(ValueError, match=r"^image_id 12, 13: too many"):
        calibrate_on_ranks(model, batches(1.0, 3.0, 2.0, 4.0, size=2)[1:], RangeMethod.MAX, 99.0)


def test_no_images(model):
    with pytest.raises(ValueError, match="calibration got no batches"):
        calibrate_on_ranks(model, [], RangeMethod.MAX, 99.0)
