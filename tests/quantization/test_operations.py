"""`count_macs`: by hand, and beside fvcore's count."""

import pytest
import torch
from fvcore.nn import FlopCountAnalysis
from torch import nn

from fisher_detr.quantization import count_macs, quantizable_layers, quantize_model
from fisher_detr.structures import BitAllocation
from tests.quantization.models import images, toy_detector


def test_by_hand():
    model = nn.Sequential(nn.Conv2d(4, 6, (3, 2), stride=2, groups=2), nn.Flatten(2), nn.Linear(12, 5))
    # 9 x 7 pixels become 4 x 3; each of 6 channels sees 2 channels of 3 x 2. Then 6 rows of 12 numbers.
    assert count_macs(model, lambda: model(torch.zeros(1, 4, 9, 7))) == {
        "0": 6 * 4 * 3 * (2 * 3 * 2),
        "2": 6 * 5 * 12,
    }


def test_equals_another_counter():
    model, batch = toy_detector(), images(1)
    counts = count_macs(model, lambda: model(batch))
    analysis = (
        FlopCountAnalysis(model, batch).unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    )
    theirs = analysis.by_module_and_operator()
    expected = {name: theirs[name]["conv"] + theirs[name]["linear"] for name in counts}
    assert counts == expected
    assert all(counts.values())


def test_calls_are_summed_and_a_layer_without_calls_has_none():
    model = nn.ModuleDict({"twice": nn.Linear(3, 3), "idle": nn.Linear(3, 2)})
    x = torch.zeros(7, 3)
    counts = count_macs(model, lambda: model["twice"](model["twice"](x)))
    assert counts == {"twice": 2 * 7 * 9, "idle": 0}


def test_layers_that_share_a_weight_count_as_one():
    model = nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.Linear(3, 3)})
    model["b"].weight = model["a"].weight
    x = torch.zeros(7, 3)
    assert count_macs(model, lambda: model["b"](model["a"](x))) == {"a": 2 * 7 * 9}


def test_quantized_layers_count_as_before_and_skipped_ones_do_not():
    model, batch = toy_detector(), images(2)
    skip = ["class_embed"]
    counts = count_macs(model, lambda: model(batch), skip)
    assert list(counts) == list(quantizable_layers(model, skip))
    bits = dict.fromkeys(counts, 8)
    quantize_model(model, BitAllocation(bits, size_bytes=1, budget_bytes=1), activation_bits=0, skip=skip)
    assert count_macs(model, lambda: model(batch), skip) == counts


def test_no_hook_is_left_behind():
    model = nn.Linear(3, 3)
    wrapped = nn.Sequential(model)
    with pytest.raises(RuntimeError, match="shapes"):
        count_macs(wrapped, lambda: wrapped(torch.zeros(1, 4)))
    assert not model._forward_hooks
