"""Attention with explicit projections against torch's packed one, and its products against a loop."""

import math

import pytest
import torch
from torch import nn

from fisher_detr.layers import AttentionProducts, MultiheadAttention

BATCH, QUERIES, KEYS, DIM, HEADS = 3, 4, 6, 16, 4


def make_pair(dropout=0.0):
    """Ours and torch's in float64 with the same weights; biases are not zero."""
    torch.manual_seed(0)
    ours = MultiheadAttention(DIM, HEADS, dropout).double()
    theirs = nn.MultiheadAttention(DIM, HEADS, dropout, batch_first=True).double()
    projections = [ours.q_proj, ours.k_proj, ours.v_proj]
    with torch.no_grad():
        for layer in [*projections, ours.out_proj]:
            layer.bias.normal_()
        theirs.in_proj_weight.copy_(torch.cat([layer.weight for layer in projections]))
        theirs.in_proj_bias.copy_(torch.cat([layer.bias for layer in projections]))
        theirs.out_proj.load_state_dict(ours.out_proj.state_dict())
    return ours, theirs


def make_inputs():
    generator = torch.Generator().manual_seed(1)
    return [
        torch.randn(BATCH, n, DIM, generator=generator, dtype=torch.float64) for n in (QUERIES, KEYS, KEYS)
    ]


def make_mask():
    """All keys, the first two, and every second one."""
    keys = torch.arange(KEYS)
    return torch.stack([keys >= 0, keys < 2, keys % 2 == 0])


@pytest.mark.parametrize("masked", [False, True])
def test_equals_torch_with_the_same_weights(masked):
    ours, theirs = make_pair()
    inputs = make_inputs()
    mask = make_mask() if masked else None
    expected, _ = theirs(*inputs, key_padding_mask=None if mask is None else ~mask)
    torch.testing.assert_close(ours(*inputs, mask), expected, atol=1e-12, rtol=0)


def test_gradients_equal_torch():
    ours, theirs = make_pair()
    inputs = make_inputs()
    ours(*inputs, make_mask()).square().sum().backward()
    theirs(*inputs, key_padding_mask=~make_mask())[0].square().sum().backward()
    found = torch.cat([layer.weight.grad for layer in (ours.q_proj, ours.k_proj, ours.v_proj)])
    torch.testing.assert_close(found, theirs.in_proj_weight.grad, atol=1e-10, rtol=0)
    torch.testing.assert_close(ours.out_proj.weight.grad, theirs.out_proj.weight.grad, atol=1e-10, rtol=0)


def test_products_equal_a_loop():
    generator = torch.Generator().manual_seed(2)
    q, k, v = (
        torch.randn(BATCH, HEADS, n, 3, generator=generator, dtype=torch.float64)
        for n in (QUERIES, KEYS, KEYS)
    )
    mask = make_mask()
    found = AttentionProducts()(q, k, v, mask[:, None, None, :])
    for b in range(BATCH):
        for h in range(HEADS):
            for t in range(QUERIES):
                scores = [
                    math.exp(float(q[b, h, t] @ k[b, h, s]) / math.sqrt(3)) if mask[b, s] else 0.0
                    for s in range(KEYS)
                ]
                expected = sum(scores[s] / sum(scores) * v[b, h, s] for s in range(KEYS))
                torch.testing.assert_close(found[b, h, t], expected, atol=1e-12, rtol=0)


def test_masked_keys_do_not_count():
    ours, _ = make_pair()
    query, key, value = make_inputs()
    mask = make_mask()
    before = ours(query, key, value, mask)
    key[~mask], value[~mask] = 1e6, -1e6
    torch.testing.assert_close(ours(query, key, value, mask), before, atol=0, rtol=0)


def test_dropout_is_for_training_only():
    ours, _ = make_pair(dropout=0.5)
    inputs = make_inputs()
    assert not torch.equal(ours.train()(*inputs), ours(*inputs))
    assert torch.equal(ours.eval()(*inputs), ours(*inputs))


def test_products_can_be_swapped():
    """What quantization does: the module is asked for, with the tensors its contract names."""
    seen = {}

    class Recorder(AttentionProducts):
        def forward(self, q, k, v, mask=None, dropout_p=0.0):
            seen.update(q=q.shape, k=k.shape, v=v.shape, mask=mask.shape, dropout_p=dropout_p)
            return super().forward(q, k, v, mask, dropout_p)

    ours, _ = make_pair(dropout=0.5)
    expected = ours.eval()(*make_inputs(), make_mask())
    ours.products = Recorder()
    assert torch.equal(ours(*make_inputs(), make_mask()), expected)
    side = DIM // HEADS
    assert seen == {
        "q": (BATCH, HEADS, QUERIES, side),
        "k": (BATCH, HEADS, KEYS, side),
        "v": (BATCH, HEADS, KEYS, side),
        "mask": (BATCH, 1, 1, KEYS),
        "dropout_p": 0.0,
    }


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="width 10 with 4 heads: the heads must divide"):
        MultiheadAttention(10, 4)


def test_starts_as_torch_does():
    """Its three input projections are one matrix [3 D, D] to Xavier's rule: bounds sqrt(6 / 4 D)."""
    ours, torchs = MultiheadAttention(64, 4), torch.nn.MultiheadAttention(64, 4)
    bound = float(torchs.in_proj_weight.detach().abs().max())
    assert bound == pytest.approx((6 / (4 * 64)) ** 0.5, rel=0.01)
    for layer in (ours.q_proj, ours.k_proj, ours.v_proj):
        assert float(layer.weight.detach().abs().max()) == pytest.approx(bound, rel=0.01)
