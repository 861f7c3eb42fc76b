"""The logit-label transform of the critical-category objective (method.md section 1), as pure functions.

Legend: n categories, m of them critical; `...` any leading dimensions.
"""

import torch
from torch import Tensor

from fisher_detr.structures import CategorySet


def num_collapsed(category_set: CategorySet) -> int:
    """Classes after the transform, without no-object: m + 1, or n where every category is critical."""
    return len(category_set) + bool(category_set.others)


def collapse_logits(logits: Tensor, category_set: CategorySet) -> Tensor:
    """Keep the critical logits and merge all others by their maximum.

    `p_F = [p_c for c in C | max_{j not in C} p_j | p_no-object]`. With every category in C there is no
    "others" and the logits come back unchanged. Where several others share the maximum, its gradient is split
    evenly among them.

    Args:
        logits: `[..., n + 1]` with no-object last (softmax heads) or `[..., n]` (sigmoid heads).
        category_set: C, of n categories.

    Returns:
        `[..., m + 1 + 1]` or `[..., m + 1]`; without the "others" column where C holds every category.

    Raises:
        ValueError: the last dimension is neither n nor n + 1.
    """
    n = category_set.num_classes
    if logits.shape[-1] not in (n, n + 1):
        raise ValueError(
            f"logits of shape {tuple(logits.shape)} for category set {category_set.name!r} of {n} "
            f"categories: expected a last dimension of {n} (sigmoid head) or {n + 1} (softmax head)"
        )
    columns = [_select(logits, category_set.indices)]
    if category_set.others:
        columns.append(_select(logits, category_set.others).amax(dim=-1, keepdim=True))
    columns.append(logits[..., n:])
    return torch.cat(columns, dim=-1)


def collapse_labels(labels: Tensor, category_set: CategorySet) -> Tensor:
    """Labels that belong to the collapsed logits.

    Args:
        labels: contiguous class indices in `[0, n)`, any shape, an integer type.
        category_set: C, of n categories.

    Returns:
        The position in C of critical labels, m for all others; shape and type of `labels`.
    """
    table = labels.new_full((category_set.num_classes,), len(category_set))
    table[list(category_set.indices)] = torch.arange(
        len(category_set), dtype=labels.dtype, device=labels.device
    )
    return table[labels.long()]


def _select(logits: Tensor, columns: tuple[int, ...]) -> Tensor:
    return logits.index_select(-1, torch.tensor(columns, device=logits.device))
