"""From the logits of the queries to scored detections."""

from torch import Tensor


def select_detections(logits: Tensor, num_classes: int, top_k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Choose the detections of one image.

    Softmax heads (a last column for no-object) give the best class of each query, as DETR does; sigmoid heads
    the best pairs of query and class, as Deformable DETR does.

    Args:
        logits: [Q, n + 1] (softmax head, no-object last) or [Q, n] (sigmoid head).
        num_classes: n.
        top_k: largest number of detections K.

    Returns:
        scores [K] in [0, 1] descending, classes [K] in [0, n), queries [K] in [0, Q); fewer than top_k where
        there are fewer candidates.

    Raises:
        ValueError: the logits have neither n nor n + 1 columns.
    """
    columns = logits.shape[-1]
    if columns == num_classes + 1:
        scores, classes = logits.softmax(-1)[:, :-1].max(-1)
        scores, queries = scores.topk(min(top_k, len(scores)))
        return scores, classes[queries], queries
    if columns == num_classes:
        scores, flat = logits.sigmoid().flatten().topk(min(top_k, logits.numel()))
        return scores, flat % num_classes, flat // num_classes
    raise ValueError(
        f"logits have {columns} columns: expected {num_classes} (sigmoid head) or {num_classes + 1} (softmax)"
    )
