"""DETR's matching and loss by loops over plain numbers, the matching by trying every assignment."""

import itertools
import math

import torch

LAYER_NAMES = ("loss_ce", "loss_bbox", "loss_giou")


def corners(box):
    """Corners of a box given by center and size."""
    cx, cy, w, h = box
    return cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2


def giou(box, other):
    """Generalized IoU of two boxes given by center and size."""
    a, b = corners(box), corners(other)
    inner = max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    union = box[2] * box[3] + other[2] * other[3] - inner
    hull = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
    return inner / union - (hull - union) / hull


def l1(box, other):
    """Sum of the absolute differences."""
    return sum(abs(a - b) for a, b in zip(box, other, strict=True))


def probability(logits, index):
    """Softmax of one entry."""
    top = max(logits)
    return math.exp(logits[index] - top) / sum(math.exp(v - top) for v in logits)


def cost_matrix(logits, boxes, classes, objects, weights=(1.0, 5.0, 2.0)):
    """Matching cost of every query with every object, Q lists of N."""
    by_class, by_l1, by_giou = weights
    return [
        [
            -by_class * probability(row, c) + by_l1 * l1(box, obj) - by_giou * giou(box, obj)
            for c, obj in zip(classes, objects, strict=True)
        ]
        for row, box in zip(logits, boxes, strict=True)
    ]


def best_assignment(cost, num_objects):
    """The pairs (query, object) of least total cost among all assignments, by query."""
    num_queries = len(cost)
    if num_objects <= num_queries:
        tries = (
            list(zip(queries, range(num_objects), strict=True))
            for queries in itertools.permutations(range(num_queries), num_objects)
        )
    else:
        tries = (
            list(zip(range(num_queries), objects, strict=True))
            for objects in itertools.permutations(range(num_objects), num_queries)
        )
    return sorted(min(tries, key=lambda pairs: sum(cost[q][n] for q, n in pairs)))


def matching(logits, boxes, targets, weights=(1.0, 5.0, 2.0)):
    """All pairs (layer, image, group, query, object of the batch) of [L, B, G, Q, ...] predictions."""
    found, first = [], 0
    for b, (classes, objects) in enumerate(targets):
        for layer, group in itertools.product(range(logits.shape[0]), range(logits.shape[2])):
            cost = cost_matrix(
                logits[layer, b, group].tolist(), boxes[layer, b, group].tolist(), classes, objects, weights
            )
            pairs = best_assignment(cost, len(classes))
            found += [(layer, b, group, query, first + n) for query, n in pairs]
        first += len(classes)
    return sorted(found)


def set_losses(logits, boxes, targets, counted=None, loss_weights=(1.0, 5.0, 2.0), no_object_weight=0.1):
    """The weighted losses by name.

    Args:
        logits: [L, B, G, Q, n + 1] float64.
        boxes: [L, B, G, Q, 4].
        targets: for each image its classes and its boxes, as lists.
        counted: for each object of the batch whether it counts in the box losses; None: all do.
        loss_weights: of cross entropy, L1 and GIoU.
        no_object_weight: of no-object in the cross entropy.
    """
    depth, batch, groups, queries, columns = logits.shape
    classes = [c for image, _ in targets for c in image]
    objects = [box for _, image in targets for box in image]
    counted = counted or [True] * len(classes)
    pairs = matching(logits, boxes, targets)
    result = {}
    for layer in range(depth):
        labels = dict.fromkeys(itertools.product(range(batch), range(groups), range(queries)), columns - 1)
        sums = {"loss_bbox": 0.0, "loss_giou": 0.0}
        for at, b, g, q, n in pairs:
            if at != layer:
                continue
            labels[b, g, q] = classes[n]
            if counted[n]:
                box = boxes[layer, b, g, q].tolist()
                sums["loss_bbox"] += l1(box, objects[n])
                sums["loss_giou"] += 1 - giou(box, objects[n])
        entropy = total = 0.0
        for (b, g, q), label in labels.items():
            weight = no_object_weight if label == columns - 1 else 1.0
            entropy -= weight * math.log(probability(logits[layer, b, g, q].tolist(), label))
            total += weight
        count = groups * max(1, sum(counted))
        values = (entropy / total, sums["loss_bbox"] / count, sums["loss_giou"] / count)
        suffix = "" if layer == depth - 1 else f"_{layer}"
        for name, weight, value in zip(LAYER_NAMES, loss_weights, values, strict=True):
            result[name + suffix] = weight * value
    return result


def collapse(logits, classes, critical):
    """The logit-label transform by hand: [critical | largest other | no-object], other labels become m."""
    n = logits.shape[-1] - 1
    others = [c for c in range(n) if c not in critical]
    columns = [logits[..., c] for c in critical]
    if others:
        largest = logits[..., others[0]]
        for c in others[1:]:
            largest = torch.where(logits[..., c] > largest, logits[..., c], largest)
        columns.append(largest)
    labels = [[critical.index(c) if c in critical else len(critical) for c in image] for image in classes]
    return torch.stack([*columns, logits[..., n]], dim=-1), labels
