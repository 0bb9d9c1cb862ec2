"""ROIs on a voxel grid: bit planes while rasterising, a palette at rest.

Bit planes are ``uint32[P, D, H, W]``: ROI ``i`` is bit ``i % 32`` of plane ``i // 32``. A palette is one volume of
``codes`` and a table code → set of ROIs; it is as lossless as the planes, has no limit on ROIs, and every output
(label image, sparse, regions, one mask a ROI) is a lookup in the table.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuprep.codes import (
    PLANE_BITS,
    apply_lut,
    canonical_rows,
    code_dtype,
    column_runs,
    count_codes,
    pack_bits,
    row_runs,
    unpack_bits,
)
from gpuprep.errors import GeometryError, OverlapError, RoiError
from gpuprep.geometry import VolumeGeometry

#: As many overlapping pairs of ROIs are named in an error.
LISTED_PAIRS = 10

#: Runs of voxels alike in a slice: what each is made of, shape (R, words), and its length, shape (R,).
_Runs = tuple[NDArray[Any], NDArray[np.intp]]


@dataclass(frozen=True, slots=True)
class Code:
    """A coded concept (PS3.3 8.8): Coding Scheme Designator, Code Value, Code Meaning."""

    scheme: str
    value: str
    meaning: str


#: What formats that demand a category and a type get where neither is known (CID 7150, CID 7151).
TISSUE = Code("SCT", "85756007", "Tissue")


@dataclass(frozen=True, slots=True)
class Roi:
    """A ROI of an RTSTRUCT or a segment of a SEG, as its file names it.

    Parameters
    ----------
    number : int
        ROI Number (3006,0022) or Segment Number (0062,0004): what ties it to its contours or frames.
    name : str
        ROI Name or Segment Label, unfiltered; never used as a file name as it is.
    rgb : (int, int, int) or None
        Display colour, 0 to 255 each.
    category, type, region : Code or None
        Segmented Property Category and Type, Anatomic Region.
    type_modifiers, region_modifiers : tuple of Code
        Laterality and the like of `type` and `region`.
    algorithm : str
        Segment Algorithm Type: ``AUTOMATIC``, ``SEMIAUTOMATIC``, ``MANUAL``, or empty when unknown.
    tracking_uid : str
        Tracking UID (0062,0021): the same finding in other files; empty when unknown.
    """

    number: int
    name: str
    rgb: tuple[int, int, int] | None = None
    category: Code | None = None
    type: Code | None = None
    type_modifiers: tuple[Code, ...] = ()
    region: Code | None = None
    region_modifiers: tuple[Code, ...] = ()
    algorithm: str = ""
    tracking_uid: str = ""


@dataclass(frozen=True, eq=False)
class RoiMask:
    """Which ROIs cover each voxel, as a canonical palette.

    Parameters
    ----------
    codes : ndarray of shape (D, H, W), uint8, uint16 or uint32
        Index into `table`; the smallest dtype that holds ``len(table) - 1``.
    table : ndarray of shape (K, P), uint32
        ``table[code, p]`` has bit ``b`` set when ROI ``32 * p + b`` is in the set. Row 0 is the empty set; rows are
        unique and ascend as integers whose most significant word is the last: equal planes give equal bytes on
        every backend.
    rois : sequence of Roi
        The ROIs, in the order of their bits; a ROI without any voxel keeps its place.
    geometry : VolumeGeometry
        Grid of `codes`.

    Raises
    ------
    GeometryError
        ``shape-mismatch``: `codes` and `geometry` differ in shape.
    """

    codes: NDArray[np.unsignedinteger]
    table: NDArray[np.uint32]
    rois: Sequence[Roi]
    geometry: VolumeGeometry

    def __post_init__(self) -> None:
        if tuple(self.codes.shape) != self.geometry.shape:
            raise GeometryError(
                f"codes of shape {tuple(self.codes.shape)} on a grid of shape {self.geometry.shape}",
                code="shape-mismatch",
            )

    @cached_property
    def members(self) -> NDArray[np.bool_]:
        """Array of shape (K, N): whether ROI n is in the set of code k."""
        return unpack_bits(self.table, len(self.rois))

    @cached_property
    def code_counts(self) -> NDArray[np.int64]:
        """Voxels of each code, shape (K,)."""
        return count_codes(self.codes, len(self.table))

    @property
    def voxel_counts(self) -> NDArray[np.int64]:
        """Voxels of each ROI, shape (N,)."""
        return self.code_counts @ self.members

    def binary(self, roi: int) -> NDArray[np.uint8]:
        """Return the mask of the ROI with index `roi`, uint8 0 or 1, shape (D, H, W)."""
        return apply_lut(self.members[:, roi].astype(np.uint8), self.codes)

    def binaries(self) -> Iterator[tuple[NDArray[np.uint8], range]]:
        """Yield the mask of each ROI, as `binary` does, and the slices that hold it.

        It is one array, which holds each in turn: what is not copied is lost. So ROIs take the time of their boxes.
        """
        volume = np.full(self.codes.shape, 0, np.uint8)  # zeros would come in small pages, each a fault when written
        for roi, (start, stop) in enumerate(self.bounding_boxes().tolist()):
            box = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
            volume[box] = apply_lut(self.members[:, roi].astype(np.uint8), self.codes[box])
            yield volume, range(start[0], stop[0])
            volume[box] = 0

    def overlaps(self) -> list[tuple[int, int, int]]:
        """Return (ROI index, ROI index, common voxels) of each pair of ROIs that overlap, in order."""
        members = self.members.astype(np.float64)  # exact: voxel counts are far below 2^53
        common = ((members * self.code_counts[:, None]).T @ members).astype(np.int64)
        return [(int(i), int(j), int(common[i, j])) for i, j in np.argwhere(np.triu(common, 1))]

    def bounding_boxes(self) -> NDArray[np.int64]:
        """Return the first voxel and the one after the last along (d, h, w) of each ROI, shape (N, 2, 3).

        All zero for a ROI without voxels.
        """
        width = self.codes.shape[2]
        limits = np.empty((len(self.table), 2, 3), np.int64)
        limits[:, 0], limits[:, 1] = self.codes.shape, 0
        for d, plane in enumerate(self.codes):
            starts, ends, codes = row_runs(plane)
            for part, ufunc, at in ((0, np.minimum, starts), (1, np.maximum, ends)):
                for axis, position in ((0, d + part), (1, at // width + part), (2, at % width + part)):
                    ufunc.at(limits[:, part, axis], codes, position)
        boxes = np.zeros((len(self.rois), 2, 3), np.int64)
        for roi in np.flatnonzero(self.voxel_counts):
            of = limits[self.members[:, roi]]
            boxes[roi] = of[:, 0].min(axis=0), of[:, 1].max(axis=0)
        return boxes

    def to_planes(self) -> NDArray[np.uint32]:
        """Return the bit planes, uint32 of shape (P, D, H, W)."""
        planes = np.empty((self.table.shape[1], *self.codes.shape), np.uint32)
        for p, plane in enumerate(planes):
            plane[...] = apply_lut(self.table[:, p], self.codes)
        return planes


def from_slices(slices: Iterable[NDArray[np.uint32]], rois: Sequence[Roi], geometry: VolumeGeometry) -> RoiMask:
    """Build the palette of bit planes given slice by slice.

    Parameters
    ----------
    slices : iterable of arrays of shape (P, H, W), uint32
        Words of each slice, lowest first.
    rois : sequence of Roi
        What the bits mean; bits beyond are zero.
    geometry : VolumeGeometry
        Grid of the planes.

    Raises
    ------
    GeometryError
        ``shape-mismatch``: the planes do not fill `geometry`, or hold too few words for `rois`.
    """
    words = max(1, -(-len(rois) // PLANE_BITS))

    def find_runs() -> Iterator[_Runs]:
        for planes in slices:
            _check_slice(planes, (words, *geometry.shape[1:]))
            flat = planes.reshape(words, -1)
            starts, lengths = column_runs(flat)
            yield flat[:, starts].T, lengths

    codes, table = _encode(find_runs(), words, geometry)
    return RoiMask(codes, table, tuple(rois), geometry)


def from_planes(planes: NDArray[np.uint32], rois: Sequence[Roi], geometry: VolumeGeometry) -> RoiMask:
    """Build the palette of bit planes (P, D, H, W), uint32; see `from_slices`. Inverse of `RoiMask.to_planes`."""
    return from_slices((planes[:, d] for d in range(planes.shape[1])), rois, geometry)


def from_layers(
    slices: Iterable[NDArray[np.unsignedinteger]],
    layers: int,
    places: Sequence[tuple[int, int]],
    rois: Sequence[Roi],
    geometry: VolumeGeometry,
) -> RoiMask:
    """Build the palette of label images that lie over each other.

    Parameters
    ----------
    slices : iterable of arrays of shape (H, W, L)
        Labels of each slice in L layers; 0 is nothing.
    layers : int
        L.
    places : sequence of (int, int)
        Layer and label of each ROI.
    rois : sequence of Roi
        What they are.
    geometry : VolumeGeometry
        Grid of the layers.

    Raises
    ------
    RoiError
        ``label-unknown``: a layer holds a label that is no ROI's.
    GeometryError
        ``shape-mismatch``: the slices do not fill `geometry`.
    """

    def find_runs() -> Iterator[_Runs]:
        for labels in slices:
            _check_slice(labels, (*geometry.shape[1:], layers))
            flat = np.ascontiguousarray(labels).reshape(-1)
            changes = np.flatnonzero(flat[layers:] != flat[:-layers]) // layers + 1
            starts = np.concatenate([[0], changes[np.diff(changes, prepend=0) > 0]])
            yield flat.reshape(-1, layers)[starts], np.diff(starts, append=flat.size // layers)

    codes, combinations = _encode(find_runs(), layers, geometry)
    for layer, labels in enumerate(combinations.T):
        known = [label for of, label in places if of == layer]
        if unknown := sorted(set(labels.tolist()) - {0, *known}):
            raise RoiError(f"layer {layer} holds the labels {unknown}, which no ROI has", code="label-unknown")
    members = [combinations[:, layer] == label for layer, label in places]
    sets = pack_bits(np.stack(members, axis=1) if members else np.zeros((len(combinations), 0), np.bool_))
    table, lut = canonical_rows(sets)
    return RoiMask(apply_lut(lut.astype(code_dtype(len(table))), codes), table, tuple(rois), geometry)


def from_boxes(
    boxes: Iterable[tuple[Sequence[int], NDArray[np.bool_]]], rois: Sequence[Roi], geometry: VolumeGeometry
) -> RoiMask:
    """Build the palette of one mask a ROI, in the time and memory that the ROIs take, not the volume.

    Parameters
    ----------
    boxes : iterable of (three ints, array of shape (d, h, w), bool)
        First voxel of a box, and which voxels of it are the ROI's: all of them. In the order of `rois`.
    rois : sequence of Roi
        What they are.
    geometry : VolumeGeometry
        Grid of the volume.
    """
    codes: NDArray[np.unsignedinteger] = np.zeros(geometry.shape, np.uint8)
    table = np.zeros((1, max(1, -(-len(rois) // PLANE_BITS))), np.uint32)
    for n, (_, (start, inside)) in enumerate(zip(rois, boxes, strict=True)):
        place = tuple(slice(a, a + size) for a, size in zip(start, inside.shape, strict=True))
        covered = codes[place][inside]
        is_covered = np.zeros(len(table), np.bool_)
        is_covered[covered] = True
        lut = len(table) - 1 + np.cumsum(is_covered)
        joined = table[is_covered]
        joined[:, n // PLANE_BITS] |= np.uint32(1 << n % PLANE_BITS)
        table = np.concatenate([table, joined])
        codes = codes.astype(code_dtype(len(table)), copy=False)
        codes[place][inside] = lut[covered]
    return recode(RoiMask(codes, table, tuple(rois), geometry), table, rois)


def list_labels(labels: NDArray[np.unsignedinteger]) -> list[int]:
    """Return the values in a label image (D, H, W), ascending, without 0."""
    found: set[int] = set()
    for plane in labels:
        flat = plane.reshape(1, -1)
        starts, _ = column_runs(flat)
        found |= set(flat[0, starts].tolist())
    return sorted(found - {0})


def _check_slice(found: NDArray[Any], shape: tuple[int, ...]) -> None:
    if found.shape != shape:
        raise GeometryError(f"a slice of shape {found.shape}, not {shape}", code="shape-mismatch")


def _encode(
    slices: Iterable[_Runs], words: int, geometry: VolumeGeometry
) -> tuple[NDArray[np.unsignedinteger], NDArray[np.uint32]]:
    """Return codes (D, H, W) and the table (K, words), canonical, of slices given by their runs."""
    codes: NDArray[np.unsignedinteger] = np.zeros(geometry.shape, np.uint8)
    known = {bytes(words * np.uint32().itemsize): 0}
    count = 0
    for count, (keys, lengths) in enumerate(slices, 1):
        if count > len(codes):
            break
        rows, place = canonical_rows(keys.astype(np.uint32, copy=False))
        found = [known.setdefault(row.tobytes(), len(known)) for row in rows]
        codes = codes.astype(code_dtype(len(known)), copy=False)
        if found != [0]:
            codes[count - 1] = np.repeat(np.array(found, codes.dtype)[place], lengths).reshape(codes.shape[1:])
    if count != len(codes):
        found_slices = count if count < len(codes) else f"more than {len(codes)}"
        raise GeometryError(f"{found_slices} slices for a grid of {len(codes)}", code="shape-mismatch")
    table, lut = canonical_rows(np.frombuffer(b"".join(known), np.uint32).reshape(-1, words))
    return apply_lut(lut.astype(code_dtype(len(table))), codes), table


def recode(mask: RoiMask, table: NDArray[np.uint32], rois: Sequence[Roi]) -> RoiMask:
    """Return the mask in which code k of `mask` stands for row k of `table` (K, P), made canonical again."""
    used = mask.code_counts > 0
    used[0] = True
    rows, inverse = canonical_rows(table[used])
    lut = np.zeros(len(table), code_dtype(len(rows)))
    lut[used] = inverse
    return RoiMask(apply_lut(lut, mask.codes), rows, tuple(rois), mask.geometry)


def merge_to_labels(mask: RoiMask, members: Sequence[Sequence[int]], labels: Sequence[Roi] | None = None) -> RoiMask:
    """Return the mask of labels, each the union of some ROIs.

    Parameters
    ----------
    mask : RoiMask
        Mask of ROIs.
    members : sequence of sequences of int
        Indices of the ROIs of each label; an empty label has none.
    labels : sequence of Roi, optional
        What the labels are called; by default each is its only ROI.

    Returns
    -------
    RoiMask
        Its ROIs are `labels`.
    """
    if labels is None:
        labels = [mask.rois[only] for (only,) in members]
    columns = [mask.members[:, list(of)].any(axis=1) for of in members]
    table = pack_bits(np.stack(columns, axis=1) if columns else np.zeros((len(mask.table), 0), np.bool_))
    return recode(mask, table, labels)


def select_rois(mask: RoiMask, patterns: Sequence[str]) -> RoiMask:
    """Return the mask of the ROIs whose name fits a pattern: case ignored, ``*`` and ``?`` as in file names.

    Each ROI once, in the order of the patterns, and of `mask` among those that fit the same one.

    Raises
    ------
    RoiError
        ``name-unmatched``: no ROI fits a pattern; the hint lists the names.
    """
    chosen: dict[int, None] = {}
    for pattern in patterns:
        # a bracket is part of the name
        found = [
            i for i, roi in enumerate(mask.rois)
            if fnmatchcase(roi.name.casefold(), pattern.casefold().replace("[", "[[]"))
        ]  # fmt: skip
        if not found:
            raise RoiError(
                f"no ROI is named {pattern!r}",
                code="name-unmatched",
                hint=f"there are {', '.join(repr(roi.name) for roi in mask.rois)}",
            )
        chosen |= dict.fromkeys(found)
    return merge_to_labels(mask, [(i,) for i in chosen])


def merge_same_names(mask: RoiMask) -> RoiMask:
    """Return the mask in which ROIs of one name are one, the first of them."""
    members: dict[str, list[int]] = {}
    for i, roi in enumerate(mask.rois):
        members.setdefault(roi.name, []).append(i)
    return merge_to_labels(mask, list(members.values()), [mask.rois[of[0]] for of in members.values()])


def assign_layers(mask: RoiMask, limit: int) -> list[tuple[int, int]]:
    """Put ROIs into as few layers as first fit finds, so that those of a layer share no voxel.

    Parameters
    ----------
    mask : RoiMask
    limit : int
        ROIs a layer may hold: the largest label.

    Returns
    -------
    list of (int, int)
        Layer and label of each ROI, in order; labels count from 1 within a layer.
    """
    members = mask.members.astype(np.float32)  # exact: sums are below 2^24 rows
    overlaps = members.T @ members > 0
    layers: list[list[int]] = []
    places = []
    for roi, clashes in enumerate(overlaps):
        free = (n for n, layer in enumerate(layers) if len(layer) < limit and not clashes[layer].any())
        at = next(free, len(layers))
        if at == len(layers):
            layers.append([])
        layers[at].append(roi)
        places.append((at, len(layers[at])))
    return places


def is_exclusive(mask: RoiMask) -> bool:
    """Whether no voxel belongs to two ROIs."""
    return not (mask.members.sum(axis=1) > 1).any()


def let_last_win(mask: RoiMask) -> tuple[RoiMask, NDArray[np.int64]]:
    """Return the mask in which a voxel belongs to the last of its ROIs alone, and the voxels each ROI (N,) lost."""
    members = mask.members
    later = np.cumsum(members[:, ::-1], axis=1)[:, ::-1]
    exclusive = recode(mask, pack_bits(members & (later == 1)), mask.rois)
    return exclusive, mask.voxel_counts - exclusive.voxel_counts


def join_masks(masks: Sequence[RoiMask]) -> RoiMask:
    """Return one mask with the ROIs of all `masks`, in order.

    Raises
    ------
    GeometryError
        ``shape-mismatch``: they do not lie on the same grid.
    """
    joined = masks[0]
    for mask in masks[1:]:
        if not mask.geometry.same_grid(joined.geometry):
            raise GeometryError(
                f"masks on different grids, {joined.geometry.shape} and {mask.geometry.shape}", code="shape-mismatch"
            )
        size = len(mask.table)
        codes = np.empty(joined.codes.shape, np.uint32)
        seen = [np.zeros(1, np.uint64)]
        for d, plane in enumerate(joined.codes):
            pairs = (np.multiply(plane, size, dtype=np.uint64) + mask.codes[d]).reshape(-1)
            starts, lengths = column_runs(pairs[None])
            keys, place = np.unique(pairs[starts], return_inverse=True)
            codes[d] = np.repeat(place + sum(map(len, seen)), lengths).reshape(plane.shape)
            seen.append(keys)
        first, second = np.divmod(np.concatenate(seen), np.uint64(size))
        table = pack_bits(np.concatenate([joined.members[first], mask.members[second]], axis=1))
        rows, lut = canonical_rows(table)
        narrow: NDArray[np.unsignedinteger] = lut.astype(code_dtype(len(rows)))
        joined = RoiMask(apply_lut(narrow, codes), rows, (*joined.rois, *mask.rois), joined.geometry)
    return joined


def to_label_image(
    mask: RoiMask, *, hint: str = "write what keeps overlaps, or let the last ROI win"
) -> NDArray[np.unsignedinteger]:
    """Return an image (D, H, W) whose value is 1 + the index of the ROI that covers a voxel, 0 where none does.

    The dtype is the smallest unsigned one that holds the number of ROIs.

    Parameters
    ----------
    mask : RoiMask
    hint : str
        What to do about overlaps, for the error.

    Raises
    ------
    OverlapError
        ``labels-overlap``: two ROIs share voxels; the message names the pairs and counts the voxels.
    """
    if not is_exclusive(mask):
        pairs = mask.overlaps()
        worst = sorted(pairs, key=lambda pair: -pair[2])[:LISTED_PAIRS]
        names = [roi.name for roi in mask.rois]
        listed = ", ".join(f"{names[i]!r} and {names[j]!r} ({voxels} voxels)" for i, j, voxels in worst)
        raise OverlapError(
            f"ROIs overlap: {listed}"
            + (f" and {len(pairs) - len(worst)} pairs more" if len(pairs) > len(worst) else ""),
            code="labels-overlap",
            hint=hint,
        )
    return to_sparse(mask)[0]


def to_sparse(mask: RoiMask) -> tuple[NDArray[np.unsignedinteger], NDArray[np.int64]]:
    """Return an image of 1 + the index of the last ROI that covers a voxel, and how many voxels each ROI lost by that.

    Returns
    -------
    ndarray of shape (D, H, W)
        The smallest unsigned dtype that holds the number of ROIs.
    ndarray of shape (N,), int64
        Voxels of each ROI that a later one took.
    """
    count = len(mask.rois)
    last = (mask.members * np.arange(1, count + 1)).max(axis=1, initial=0)
    kept = np.bincount(last, weights=mask.code_counts, minlength=count + 1)[1:].astype(np.int64)
    return apply_lut(last.astype(code_dtype(count + 1)), mask.codes), mask.voxel_counts - kept
