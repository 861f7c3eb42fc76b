"""Critical categories: named sets and the logit-label transform."""

from fisher_detr.critical.sets import as_defined, metric_names, resolve_category_set, resolve_category_sets
from fisher_detr.critical.transform import collapse_labels, collapse_logits, num_collapsed

__all__ = [
    "as_defined",
    "collapse_labels",
    "collapse_logits",
    "metric_names",
    "num_collapsed",
    "resolve_category_set",
    "resolve_category_sets",
]
