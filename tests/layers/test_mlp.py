"""The box head against the same arithmetic by hand."""

import torch

from fisher_detr.layers import MLP


def test_relu_between_the_layers_and_none_behind_the_last():
    torch.manual_seed(0)
    mlp = MLP(3, 5, 2, num_layers=3).double()
    torch.nn.init.constant_(mlp.layers[-1].bias, -10.0)
    x = torch.randn(2, 4, 3, dtype=torch.float64)
    first, second, last = mlp.layers
    hidden = (x @ first.weight.T + first.bias).clamp(min=0)
    hidden = (hidden @ second.weight.T + second.bias).clamp(min=0)
    torch.testing.assert_close(mlp(x), hidden @ last.weight.T + last.bias, atol=1e-12, rtol=0)
    assert (mlp(x) < 0).all()


def test_one_layer_is_linear():
    mlp = MLP(3, 5, 2, num_layers=1)
    assert [tuple(layer.weight.shape) for layer in mlp.layers] == [(2, 3)]
    x = torch.randn(4, 3)
    torch.testing.assert_close(mlp(x), mlp.layers[0](x))
