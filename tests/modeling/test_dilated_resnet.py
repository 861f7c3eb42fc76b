"""The backbone of the DC5 variants, and the bottleneck's stride, against torchvision's ResNet-50."""

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from torchvision.models import resnet50
from torchvision.models._utils import IntermediateLayerGetter

from fisher_detr.modeling import build_dilated_resnet_backbone
from fisher_detr.modeling.frozen_conv import fuse_frozen_norms


def make_backbone(dilation):
    cfg = get_cfg()
    cfg.MODEL.RESNETS.RES5_DILATION = dilation
    cfg.MODEL.RESNETS.STRIDE_IN_1X1 = False
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res3", "res4", "res5"]
    return build_dilated_resnet_backbone(cfg, ShapeSpec(channels=3))


def our_name(name):
    """torchvision's name as Detectron2 spells it."""
    parts = name.split(".")
    if not parts[0].startswith("layer"):
        parts = ["stem", *parts]
    else:
        parts[0] = f"res{int(parts[0][-1]) + 1}"
    text = ".".join(parts).replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")
    for number in "123":
        text = text.replace(f"bn{number}", f"conv{number}.norm")
    return text


@pytest.mark.parametrize("dilation", [1, 2])
def test_equals_torchvision(dilation):
    torch.manual_seed(0)
    theirs = resnet50(weights=None, replace_stride_with_dilation=[False, False, dilation > 1]).eval()
    with torch.no_grad():
        for name, tensor in [*theirs.named_parameters(), *theirs.named_buffers()]:
            if "bn" in name or "downsample.1" in name:
                tensor.uniform_(0.5, 1.0) if tensor.is_floating_point() else None
    ours = make_backbone(dilation).eval()
    state = {
        our_name(name): tensor
        for name, tensor in theirs.state_dict().items()
        if not name.startswith("fc") and not name.endswith("num_batches_tracked")
    }
    ours.load_state_dict(state, strict=True)
    image = torch.randn(1, 3, 97, 128)
    layers = {"layer2": "res3", "layer3": "res4", "layer4": "res5"}
    with torch.no_grad():
        expected = IntermediateLayerGetter(theirs, layers)(image)
        for model in (ours, fuse_frozen_norms(ours)):
            found = model(image)
            for name, value in expected.items():
                scale = float(value.abs().max())
                torch.testing.assert_close(found[name] / scale, value / scale, atol=1e-5, rtol=0)
