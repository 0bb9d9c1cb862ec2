"""Planes of one orientation and size → volumes: what tells images at the same place apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import combinations, pairwise
from typing import Any

from gpuprep.dicom.findings import Finding
from gpuprep.dicom.spacing import Placed, is_evenly_spaced
from gpuprep.errors import GeometryError

#: Parts of a series with fewer slices than this have no spacing of their own to be told by.
LEAST_OVERLAPPING_SLICES = 3

#: Label, planes and findings of each part.
Split = list[tuple[str, list[Placed], list[Finding]]]

#: Traits whose values name a volume: they tell images apart where some place has an image of every value.
CATEGORIES = (
    "series", "type", "echo", "echo time", "stack", "b-value", "direction", "time", "acquisition", "instance",
)  # fmt: skip
#: Those that say what an image shows: an order that puts some of a value here and some there is not that of volumes.
KINDS = ("series", "type", "echo", "echo time", "stack", "b-value", "direction", "time")
#: When an image was made; all images of a volume may have one time, or each its own.
TIMES = ("trigger time", "acquisition time", "content time")
#: Traits whose order at each place names a volume; they may differ from place to place.
ORDERS = (*TIMES, "instance", "dimensions", "frame")
#: Those whose values name volumes that reach into each other without having their places in common.
OVERLAPPING = (*KINDS, "acquisition")


def split(placed: list[Placed], tolerance: float) -> Split:
    """Split planes until each place occurs once in each volume and none overlap.

    Parameters
    ----------
    placed : list of Placed
        In order along the normal.
    tolerance : float
        Share of the median step by which a step may differ from it.

    Returns
    -------
    Split
        The volumes in the order of what tells them apart, with it as their label; one without a label if there is
        nothing to be split.

    Raises
    ------
    GeometryError
        ``duplicate-position``: images share places and nothing tells all of them apart.
    """
    is_repeated = len({p.site for p in placed}) < len(placed)
    parts: Split = []
    if is_repeated:
        parts = _split_by_category(placed, CATEGORIES) or _split_by_order(placed) or _split_by_time(placed)
    parts = parts or _split_by_overlap(placed, tolerance)
    if parts:
        return [
            (", ".join(filter(None, (label, inner))), volume, remarks + more)
            for label, members, remarks in parts
            for inner, volume, more in split(members, tolerance)
        ]
    if not is_repeated:
        return [("", placed, [])]
    places = Counter(p.site for p in placed)
    shared = sum(n > 1 for n in places.values())
    twice = [p for p in placed if places[p.site] > 1]
    one, other = twice[0].plane.instance, twice[1].plane.instance
    raise GeometryError(
        f"{len(twice)} of {len(placed)} images share {shared} position{'s' * (shared > 1)} and nothing tells "
        f"all of them apart: {twice[0].plane.name} and {twice[1].plane.name} are "
        f"{twice[1].along_mm - twice[0].along_mm:.3f} mm apart"
        + (f" ({one.path} and {other.path})" if one.path != other.path else ""),
        code="duplicate-position",
        subject=one.series_instance_uid,
        hint="remove the copies that are not wanted",
    )


def _split_by_category(placed: list[Placed], traits: Sequence[str]) -> Split:
    for trait in traits:
        values = {p.plane.traits.get(trait) for p in placed}
        if len(values) < 2:
            continue
        seen: dict[int, set[Any]] = {}
        for p in placed:
            seen.setdefault(p.site, set()).add(p.plane.traits.get(trait))
        if max(map(len, seen.values())) == len(values):
            ordered = sorted(values, key=lambda v: (v is not None, v))
            labels = _labels(trait, ordered)
            return [(labels[v], [p for p in placed if p.plane.traits.get(trait) == v], []) for v in ordered]
    return []


def _split_by_time(placed: list[Placed]) -> Split:
    """Split planes by times that whole volumes have, if all images of a time are of one kind."""
    for trait in TIMES:
        parts = _split_by_category(placed, [trait])
        kinds = ({p.plane.traits.get(kind) for p in members} for _, members, _ in parts for kind in KINDS)
        if parts and all(len(values) == 1 for values in kinds):
            return parts
    return []


def _split_by_order(placed: list[Placed]) -> Split:
    by_site: dict[int, list[Placed]] = {}
    for p in placed:
        by_site.setdefault(p.site, []).append(p)
    count = len(by_site[placed[0].site])
    if any(len(members) != count for members in by_site.values()):
        return []
    for trait in ORDERS:
        values = [[p.plane.traits.get(trait) for p in members] for members in by_site.values()]
        if any(None in of_site or len(set(of_site)) < count for of_site in values):
            continue
        ranked = [sorted(members, key=lambda p: p.plane.traits[trait]) for members in by_site.values()]
        if any(_mixes(ranked, kind) for kind in KINDS):
            continue
        remark = Finding("repeated-positions", f"{count} images at each position, told apart by the order of {trait}")
        return [(f"{trait} #{n + 1}", [members[n] for members in ranked], [remark]) for n in range(count)]
    return []


def _mixes(ranked: Sequence[Sequence[Placed]], kind: str) -> bool:
    """Whether images of one kind, among others of their place, would be in one volume here and in another there."""
    places: dict[Any, set[frozenset[int]]] = {}
    for members in ranked:
        values = [p.plane.traits.get(kind) for p in members]
        if len(set(values)) > 1:
            for value in set(values) - {None}:
                places.setdefault(value, set()).add(frozenset(n for n, v in enumerate(values) if v == value))
    return any(a.isdisjoint(b) for found in places.values() for a, b in combinations(found, 2))


def _split_by_overlap(placed: list[Placed], tolerance: float) -> Split:
    """Split planes that are not evenly spaced but are so by the values of a trait, where the parts overlap."""
    if is_evenly_spaced(placed, tolerance):
        return []
    for trait in OVERLAPPING:
        parts: dict[Any, list[Placed]] = {}
        for p in placed:
            parts.setdefault(p.plane.traits.get(trait), []).append(p)
        extents = sorted((members[0].along_mm, members[-1].along_mm) for members in parts.values())
        if any(begin < end for (_, end), (begin, _) in pairwise(extents)) and all(
            len(members) >= LEAST_OVERLAPPING_SLICES and is_evenly_spaced(members, tolerance)
            for members in parts.values()
        ):
            ordered = sorted(parts, key=lambda v: (v is not None, v))
            labels = _labels(trait, ordered)
            remark = Finding("overlapping-volumes", f"{len(parts)} volumes that reach into each other, by {trait}")
            return [(labels[v], parts[v], [remark]) for v in ordered]
    return []


def _labels(trait: str, values: Sequence[Any]) -> dict[Any, str]:
    """Return a label for each value.

    Of a time it has the rank; of a direction three decimals, and of an image type what not all share, if that will do.
    """
    if trait in TIMES:
        return {v: f"{trait} #{n}" for n, v in enumerate(values, 1)}
    labels = {v: f"{trait} {v}" for v in values}
    if trait == "direction":
        short = labels | {v: " ".join([trait, *(f"{cosine:.3f}" for cosine in v)]) for v in values if v}
    elif trait == "type":
        components = {v: str(v).split("\\") for v in values}
        common = set.intersection(*map(set, components.values()))
        short = {v: " ".join([trait, *(c for c in parts if c not in common)]) for v, parts in components.items()}
    else:
        return labels
    return short if len(set(short.values())) == len(values) else labels
