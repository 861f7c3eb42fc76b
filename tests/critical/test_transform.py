import pytest
import torch

from fisher_detr.critical import collapse_labels, collapse_logits, num_collapsed
from fisher_detr.structures import CategorySet

N = 5
SETS = [CategorySet("s", indices, N) for indices in [(0,), (4,), (1, 3), (0, 2, 4), (0, 1, 2, 3)]]
EVERYTHING = CategorySet("everything", tuple(range(N)), N)


def naive_logits(logits, category_set, softmax):
    """One query at a time, one category at a time."""
    rows = []
    for query in logits.reshape(-1, logits.shape[-1]).tolist():
        row = [query[c] for c in category_set.indices]
        others = [query[j] for j in range(N) if j not in category_set.indices]
        row += [max(others)] if others else []
        row += [query[N]] if softmax else []
        rows.append(row)
    return torch.tensor(rows, dtype=torch.float64).reshape(*logits.shape[:-1], -1)


@pytest.mark.parametrize("category_set", [*SETS, EVERYTHING])
@pytest.mark.parametrize("softmax", [True, False])
def test_logits_equal_a_naive_loop(category_set, softmax):
    logits = torch.randn(2, 3, 7, N + softmax, dtype=torch.float64)
    collapsed = collapse_logits(logits, category_set)
    assert collapsed.shape[-1] == num_collapsed(category_set) + softmax
    assert torch.equal(collapsed, naive_logits(logits, category_set, softmax))


@pytest.mark.parametrize("softmax", [True, False])
def test_hand_computed(softmax):
    logits = torch.tensor([[1.0, 5.0, 2.0, -3.0, 4.0, 9.0]])[:, : N + softmax]
    # C = {1, 3}: critical 5 and -3; others 1, 2, 4 -> 4; no-object 9 stays apart.
    assert collapse_logits(logits, SETS[2]).tolist() == [[5.0, -3.0, 4.0, 9.0][: 3 + softmax]]


@pytest.mark.parametrize("softmax", [True, False])
def test_all_categories_change_nothing(softmax):
    logits = torch.randn(4, N + softmax)
    assert torch.equal(collapse_logits(logits, EVERYTHING), logits)
    assert torch.equal(collapse_labels(torch.arange(N), EVERYTHING), torch.arange(N))
    assert num_collapsed(EVERYTHING) == N


@pytest.mark.parametrize("category_set", [*SETS, EVERYTHING])
def test_first_and_second_derivatives(category_set):
    logits = torch.randn(3, N + 1, dtype=torch.float64, requires_grad=True)

    def loss(values):
        return collapse_logits(values, category_set).log_softmax(-1)[..., 0].sum()

    assert torch.autograd.gradcheck(loss, logits)
    assert torch.autograd.gradgradcheck(loss, logits)


def test_gradient_of_a_tie_is_split_evenly():
    logits = torch.tensor([0.0, 2.0, 1.0, 2.0, -1.0], requires_grad=True)
    collapse_logits(logits, CategorySet("s", (0,), N))[1].backward()
    assert logits.grad.tolist() == [0.0, 0.5, 0.0, 0.5, 0.0]


def test_saturated_logits_stay_finite():
    logits = torch.full((2, N + 1), -1e30)
    logits[0, 2] = 1e30
    assert collapse_logits(logits, SETS[0])[0].tolist() == pytest.approx([-1e30, 1e30, -1e30])


@pytest.mark.parametrize("width", [N - 1, N + 2])
def test_wrong_number_of_logits(width):
    with pytest.raises(
        ValueError, match=rf"\(4, {width}\).*'s' of 5 categories.*expected a last dimension of 5"
    ):
        collapse_logits(torch.zeros(4, width), SETS[0])


@pytest.mark.parametrize("category_set", SETS)
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_labels_equal_a_naive_loop(category_set, dtype):
    labels = torch.randint(N, (2, 9), dtype=dtype)
    expected = [
        [category_set.indices.index(c) if c in category_set.indices else len(category_set) for c in row]
        for row in labels.tolist()
    ]
    collapsed = collapse_labels(labels, category_set)
    assert collapsed.dtype == dtype and collapsed.tolist() == expected


def test_no_labels():
    assert collapse_labels(torch.zeros(0, dtype=torch.int64), SETS[0]).shape == (0,)


def test_an_empty_set_is_refused():
    with pytest.raises(ValueError, match="category set 'none' is empty"):
        CategorySet("none", (), N)
