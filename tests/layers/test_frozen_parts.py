"""Which modules count as parts that are not trained."""

from torch import nn

from fisher_detr.layers import frozen_parts


def make_model():
    """A frozen stem of two layers, a trained body, a frozen layer within it."""
    model = nn.ModuleDict(
        {
            "stem": nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3)),
            "body": nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Linear(4, 4)),
        }
    )
    for part in (model["stem"], model["body"][2]):
        part.requires_grad_(False)
    return model


def test_outermost_with_parameters():
    model = make_model()
    assert frozen_parts(model) == [model["stem"], model["body"][2]]
    assert frozen_parts(nn.Sequential(nn.ReLU())) == []
    model.requires_grad_(False)
    assert frozen_parts(model) == [model]
    assert frozen_parts(model.requires_grad_(True)) == []


def test_shared_with_another_place():
    """A module, or something within it, that is found twice."""
    model = make_model()
    model["again"] = model["body"][2]
    assert frozen_parts(model) == [model["stem"]]
    model["body"].append(model["stem"][1])
    assert frozen_parts(model) == []


def test_watched_from_inside():
    model = make_model()
    handle = model["stem"][1].register_forward_hook(lambda *_: None)
    assert frozen_parts(model) == [model["body"][2]]
    handle.remove()
    model["stem"].register_forward_hook(lambda *_: None)  # which is called all the same
    assert frozen_parts(model) == [model["stem"], model["body"][2]]
