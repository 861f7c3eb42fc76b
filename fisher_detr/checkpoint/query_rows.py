"""Rows of the queries: a checkpoint here has those of all training groups, an official one of one group."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fisher_detr.checkpoint.architecture import Architecture, Family
from fisher_detr.checkpoint.convert import State

GROUPS_KEY = "query_groups"  # in a checkpoint, and the model's attribute


def stored_groups(checkpoint: Mapping[str, Any]) -> int | None:
    """The number of query groups that a checkpoint tells of, itself or in its record of a conversion."""
    conversion = checkpoint.get("conversion")
    converted = isinstance(conversion, dict)
    # An official file has one group, which a record of its conversion need not say.
    found = conversion.get(GROUPS_KEY, 1) if converted else checkpoint.get(GROUPS_KEY)
    return found if isinstance(found, int) and found > 0 else None


def query_table(architecture: Architecture) -> str | None:
    """The tensor with a row for each query; None: a two-stage model has proposals instead."""
    if architecture.two_stage:
        return None
    return "refpoint_embed.weight" if architecture.family is Family.DAB else "query_embed.weight"


def count_groups(ours: Mapping[str, Tensor], architecture: Architecture, num_queries: int | None) -> int:
    """How many groups the rows of the queries are of.

    Args:
        ours: with the rows of all groups, group after group.
        architecture: with the number of groups, where that is known.
        num_queries: of one group, as the user says; None: nothing.

    Raises:
        ValueError: neither tells it, or it cannot be.
    """
    table = query_table(architecture)
    if table not in ours:
        if num_queries is not None:
            raise ValueError(f"it has no rows of queries, and --num-queries says {num_queries}: leave it out")
        return 1
    rows, groups = len(ours[table]), architecture.query_groups
    if groups is not None:
        if rows % groups:
            raise ValueError(f"{table} has {rows} rows, and its record says {groups} groups: it is damaged")
        if num_queries not in (None, rows // groups):
            raise ValueError(
                f"{table} has {rows} rows of {groups} groups, and --num-queries says {num_queries}: "
                "leave it out"
            )
        return groups
    if num_queries is None:
        raise ValueError(
            f"{table} has {rows} rows, and nothing tells of how many groups of queries: "
            "give --num-queries N with the MODEL.DETR.NUM_QUERIES that it was trained with"
        )
    if num_queries < 1 or rows % num_queries:
        raise ValueError(f"--num-queries {num_queries}: expected a divisor of the {rows} rows of {table}")
    return rows // num_queries


def keep_first_group(ours: Mapping[str, Tensor], architecture: Architecture) -> tuple[State, State]:
    """Keep the queries of inference.

    Returns:
        the state with the rows of the first group, and the rows of the others by the tensor's name.
    """
    table, groups = query_table(architecture), architecture.query_groups
    if groups == 1 or table is None:
        return dict(ours), {}
    kept = len(ours[table]) // groups
    return {**ours, table: ours[table][:kept].clone()}, {table: ours[table][kept:].clone()}


def restore_groups(
    ours: Mapping[str, Tensor], architecture: Architecture, others: Mapping[str, Tensor]
) -> State:
    """The inverse of `keep_first_group`, for an architecture with all groups.

    Raises:
        ValueError: the other groups are of another model.
    """
    table, groups = query_table(architecture), architecture.query_groups
    first, rest = ours.get(table), others.get(table)
    if first is None or rest is None or rest.shape != (len(first) * (groups - 1), *first.shape[1:]):
        shapes = {name: tuple(tensor.shape) for name, tensor in others.items()}
        raise ValueError(
            f"the file of queries of other groups has {shapes}, which are not {groups - 1} groups more of "
            f"{table}: it is of another checkpoint, move it away"
        )
    return {**ours, table: torch.cat([first, rest])}
