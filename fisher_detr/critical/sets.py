"""Named critical sets from what a user writes: categories, super-categories and data set ids."""

import difflib
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Protocol

from fisher_detr.structures import CategorySet

# Stands for every super-category of the data set, each as a set of its own.
ALL_SUPERCATEGORIES = "supercategories"


class CategoryMetadata(Protocol):
    """What this module reads of Detectron2's Metadata; the last two may be missing."""

    thing_classes: list[str]
    thing_dataset_id_to_contiguous_id: dict[int, int]
    thing_supercategories: list[str]
    # Contiguous indices of larger groups, such as the "things" and the "stuff" of COCO Panoptic.
    category_groups: dict[str, tuple[int, ...]]


def resolve_category_sets(
    specs: Iterable[str | CategorySet], metadata: CategoryMetadata
) -> list[CategorySet]:
    """Resolve several sets.

    Args:
        specs: each as `resolve_category_set` takes it, or "supercategories" for every super-category as
            a set of its own (none where the data set has none), or a set that is resolved already.
        metadata: of the data set.

    Returns:
        The sets in the order of `specs`, repetitions left out.

    Raises:
        ValueError: an unknown member, an empty set, one name for two different sets, or a set that was made
            for another number of categories.
    """
    sets: dict[str, CategorySet] = {}
    for spec in specs:
        for category_set in _expand(spec, metadata):
            known = sets.setdefault(category_set.name, category_set)
            if known != category_set:
                raise ValueError(
                    f"two category sets are called {category_set.name!r} (the second from {spec!r}): "
                    f"give one of them another name, as in 'name=member+member'"
                )
    return list(sets.values())


def as_defined(spec: str, definitions: Iterable[str | CategorySet]) -> str:
    """A name stands for the set that was defined under it.

    Args:
        spec: of a set, or a name that one of the definitions gives, as it is written there or as metrics
            have it; a definition comes before a category of its name.
        definitions: specs of sets; those without "name=" define no name.
    """
    texts = {text.rpartition("=")[0].strip(): text for text in definitions if isinstance(text, str)}
    named = {name: text for name, text in texts.items() if name}
    return ({_plain(name): text for name, text in named.items()} | named).get(spec.strip(), spec)


def resolve_category_set(spec: str, metadata: CategoryMetadata) -> CategorySet:
    """Resolve one critical set C.

    A member is looked up as a super-category first, then as a category, then as a data set id, then as one of
    the data set's groups ("things" and "stuff" of COCO Panoptic); "supercategory:fish", "category:fish" and
    "id:3" leave no choice. Without "name=" the set is called after its members, with `_` for what is no
    letter or digit of any script.

    Args:
        spec: "member", "member+member" or "name=member+member".
        metadata: of the data set.

    Raises:
        ValueError: an unknown member (with the nearest names) or an empty set.
    """
    name, _, members = spec.rpartition("=")
    members = [member.strip() for member in members.split("+")]
    if not all(members):
        raise ValueError(
            f"critical set {spec!r} has an empty member: write 'category' or 'name=category+category'"
        )
    indices = sorted({index for member in members for index in _members(member, metadata)})
    name = name.strip() or "_".join(_bare(member) for member in members)
    return _named(name, indices, metadata)


def _named(name: str, indices: list[int], metadata: CategoryMetadata) -> CategorySet:
    return CategorySet(_plain(name), tuple(indices), len(metadata.thing_classes))


def _expand(spec: str | CategorySet, metadata: CategoryMetadata) -> list[CategorySet]:
    if isinstance(spec, CategorySet):
        if spec.num_classes != len(metadata.thing_classes):
            raise ValueError(
                f"category set {spec.name!r} is one of {spec.num_classes} categories, "
                f"the data set has {len(metadata.thing_classes)}: resolve it with its metadata"
            )
        return [spec]
    if spec != ALL_SUPERCATEGORIES:
        return [resolve_category_set(spec, metadata)]
    members: dict[str, list[int]] = {}
    for index, name in enumerate(_supercategories(metadata)):
        if name:
            members.setdefault(name, []).append(index)
    names = metric_names(list(members), [_id_of(indices[0], metadata) for indices in members.values()])
    return [_named(name, indices, metadata) for name, indices in zip(names, members.values(), strict=True)]


def metric_names(names: Sequence[str], ids: Sequence[int]) -> list[str]:
    """Names with `_` for what is no letter or digit, and the id behind those that this would make equal.

    Args:
        names: of categories or super-categories.
        ids: one data set id for each.
    """
    plain = [_plain(name) for name in names]
    count = Counter(plain)
    return [name if count[name] == 1 else f"{name}_{id_}" for name, id_ in zip(plain, ids, strict=True)]


def _plain(name: str) -> str:
    return re.sub(r"\W+", "_", name)


def _id_of(index: int, metadata: CategoryMetadata) -> int:
    ids = getattr(metadata, "thing_dataset_id_to_contiguous_id", {})
    return next((id_ for id_, contiguous in ids.items() if contiguous == index), index)


def _members(member: str, metadata: CategoryMetadata) -> list[int]:
    """Contiguous indices of one member: the first kind of name that knows it."""
    ids = getattr(metadata, "thing_dataset_id_to_contiguous_id", {})
    by_kind = {
        "supercategory": _supercategories(metadata),
        "category": list(metadata.thing_classes),
        "id": [str(id_) for id_ in sorted(ids, key=ids.__getitem__)],
    }
    kind, _, name = member.partition(":")
    if kind in by_kind and name:
        by_kind = {kind: by_kind[kind]}
    else:
        name = member
    for names in by_kind.values():
        found = [i for i, candidate in enumerate(names) if candidate == name]
        if found:
            return found
    groups = getattr(metadata, "category_groups", {})
    if member in groups:
        return list(groups[member])
    known = dict.fromkeys(name for names in [*by_kind.values(), groups] for name in names if name)
    raise ValueError(f"unknown critical category {member!r}: {_nearest(name, list(known))}")


def _nearest(name: str, known: list[str]) -> str:
    by_lower = {candidate.lower(): candidate for candidate in known}
    near = difflib.get_close_matches(name.lower(), by_lower, n=3, cutoff=0.5)
    if near:
        return "did you mean " + ", ".join(repr(by_lower[candidate]) for candidate in near) + "?"
    return f"known are {', '.join(known[:30])}{', ...' if len(known) > 30 else ''}"


def _bare(member: str) -> str:
    kind, _, name = member.partition(":")
    return name if kind in ("supercategory", "category") and name else member


def _supercategories(metadata: CategoryMetadata) -> list[str]:
    return getattr(metadata, "thing_supercategories", [""] * len(metadata.thing_classes))
