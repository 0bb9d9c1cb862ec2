"""ROI contours → a mask, straight on the output grid.

A voxel belongs to a ROI when its centre is inside the contour by the even-odd rule. Vertices keep their sub-pixel
position: they become Q16 fixed-point pixel coordinates, from where on all is exact integer arithmetic and equal on
every backend. Each edge toggles its ROI's bit at the first pixel below each column it crosses, then a prefix XOR down
the columns fills all ROIs at once (kernels/roi.cu); the words become codes of a palette (kernels/palette.cu).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gpuprep.backends.base import BLOCK_THREADS, Backend
from gpuprep.codes import PLANE_BITS, pack_bits, unpack_bits
from gpuprep.dicom.rtstruct import AREA_TYPES, RoiContours
from gpuprep.dicom.stack import Stack
from gpuprep.errors import GeometryError
from gpuprep.geometry import DIRECTION_TOLERANCE, SAME_GRID_TOLERANCE_MM, VolumeGeometry, median
from gpuprep.masks import Roi, RoiMask, from_slices
from gpuprep.ops.palette import PaletteEncoder

Overlap = Literal["xor", "union"]
Float = NDArray[np.float64]
Int = NDArray[np.int64]

#: How far the points of one contour may spread along the normal of the slices, in mm.
PLANAR_TOLERANCE_MM = 0.5
#: Contours of one ROI at most this far apart along the normal, in mm, were drawn on one plane, which may be a little
#: askew; nor may they be further apart than half of how far a contour may be from its slice.
SAME_HEIGHT_TOLERANCE_MM = 0.25
#: Vertices farther than this from the first voxel do not fit the kernels' 64-bit products, in pixels.
VERTEX_LIMIT_PX = 16384
#: One pixel in Q16 fixed point.
Q16 = 1 << 16
#: Bytes of bit planes at a time: what a CPU's cache holds, or enough to keep a GPU busy.
SLAB_BYTES = {"cpu": 8 << 20, "cuda": 512 << 20}
#: Box columns are widened to multiples of this, so that rows of bit planes begin on cache lines.
COLUMN_STEP = 64
#: Threads that share the edges of a contour.
CONTOUR_THREADS = 64

#: What is said of Contour Geometric Types other than `AREA_TYPES`.
OTHER_TYPES = {"POINT": "point-contour", "OPEN_PLANAR": "open-contour", "OPEN_NONPLANAR": "open-contour"}


@dataclass(frozen=True, slots=True, eq=False)
class SliceGrid:
    """The planes that were acquired, which contours belong to.

    Parameters
    ----------
    geometry : VolumeGeometry
        Regular grid of the planes, or the one they imply when they are irregular.
    plane_offsets_lps_mm : sequence of (x, y, z), optional
        Position of the first pixel of each plane when they do not lie on `geometry` (slices missing, unevenly spaced
        or sheared), along its slice axis.

    Raises
    ------
    GeometryError
        ``planes-not-sorted``: the planes do not ascend along the slice axis of `geometry`.
    """

    geometry: VolumeGeometry
    plane_offsets_lps_mm: Sequence[Sequence[float]] | Float | None = None

    def __post_init__(self) -> None:
        if (np.diff(self.positions_mm()) <= 0).any():
            raise GeometryError("planes do not ascend along the slice axis", code="planes-not-sorted")

    @classmethod
    def of_stack(cls, stack: Stack) -> SliceGrid:
        """Return the planes of a stack: those of its grid unless it is irregular."""
        return cls(stack.geometry, stack.plane_offsets_lps_mm if stack.is_irregular else None)

    def positions_mm(self) -> Float:
        """Return the position of each plane along the normal, from the first voxel of `geometry`, shape (D,), mm."""
        normal = self.geometry.normal
        if self.plane_offsets_lps_mm is None:
            return np.arange(self.geometry.shape[0]) * (self.geometry.index_to_lps[:3, 0] @ normal)
        offsets = np.asarray(self.plane_offsets_lps_mm, np.float64).reshape(-1, 3)
        return (offsets - self.geometry.origin_lps_mm) @ normal


@dataclass(frozen=True, slots=True)
class RoiProblem:
    """Why contours of a ROI were left out.

    Parameters
    ----------
    roi : Roi
        Their ROI.
    code : str
        ``point-contour``, ``open-contour``, ``contour-type-unknown``, ``degenerate-contour``, ``contour-not-finite``,
        ``contour-not-planar``, ``contour-off-slices``, ``contour-out-of-range``, ``contour-repeated`` or
        ``contour-superseded``.
    message : str
        What is wrong.
    contours : tuple of int
        Indices of the contours within the ROI.
    """

    roi: Roi
    code: str
    message: str
    contours: tuple[int, ...]

    def __str__(self) -> str:
        return f"ROI {self.roi.number} {self.roi.name!r}: {self.message} [{self.code}]"


@dataclass(frozen=True, slots=True, eq=False)
class RasterResult:
    """A mask with all ROIs, also those without a voxel, and what of them could not be drawn."""

    mask: RoiMask
    problems: tuple[RoiProblem, ...]


def rasterize(
    rois: Sequence[RoiContours],
    grid: SliceGrid,
    *,
    overlap: Overlap,
    backend: Backend,
    target: VolumeGeometry | None = None,
) -> RasterResult:
    """Draw ROIs given by contours.

    A contour belongs to the nearest acquired plane, within half a slice: half the distance to the nearer neighbour of
    that plane, and at most half the median distance, so that a contour of a missing slice does not spoil the next one.
    Where contours of a ROI were drawn at several heights within reach of a plane, those nearest to it count; the lower
    ones of two that are equally near. A contour that a ROI has twice is drawn once: it is no hole of itself.
    A slice of the output takes the contours of the nearest acquired plane; beyond the first and last one by more than
    half a slice it stays empty.

    Parameters
    ----------
    rois : sequence of RoiContours
        ROIs with their contours, LPS mm.
    grid : SliceGrid
        The acquired planes.
    overlap : {"xor", "union"}
        What two contours of one ROI on one plane make: ``xor`` leaves out what both cover (holes), ``union`` keeps it.
        Contours of type CLOSEDPLANAR_XOR are always XORed with each other.
    backend : Backend
        Where to do it.
    target : VolumeGeometry, optional
        Output grid; its slices are parallel to those of `grid`. ``grid.geometry`` by default.

    Returns
    -------
    RasterResult
        The mask on `target` with the ROIs in the order given. A bad contour is a problem and costs only itself.

    Raises
    ------
    GeometryError
        ``target-not-parallel``: slices of `target` and `grid` are not parallel. ``target-sheared``: `target` is not
        orthogonal, and a plane makes more than one of its slices.
    """
    out = grid.geometry if target is None else target
    planes = _PlaneMap.between(grid, out)
    contours, problems = _place_contours(rois, planes, overlap, backend)
    every_roi = tuple(r.roi for r in rois)
    draw = _draw_by_kernels if backend.has_kernels else _draw_reference
    return RasterResult(draw(contours, planes, every_roi, out, backend), problems)


@dataclass(frozen=True, slots=True, eq=False)
class _PlaneMap:
    """Acquired planes, and which slices of the output they make.

    to_pixel: (3, 3), LPS mm from `anchor` → (mm along the normal, row, column of the first slice).
    positions_mm, reach_mm: of each plane; plane_of_slice: of each output slice, -1 for none; first_slice: of each
    plane, -1 for none; row_column: what to add for the first slice of each plane, (planes, 2).
    """

    anchor: Float
    to_pixel: Float
    positions_mm: Float
    reach_mm: Float
    plane_of_slice: Int
    first_slice: Int
    row_column: Float

    @classmethod
    def between(cls, grid: SliceGrid, out: VolumeGeometry) -> _PlaneMap:
        normal = grid.geometry.normal
        if np.linalg.norm(np.cross(out.normal, normal)) > DIRECTION_TOLERANCE:
            raise GeometryError("slices of the output and of the series are not parallel", code="target-not-parallel")
        positions = grid.positions_mm()
        gaps = np.diff(positions) if len(positions) > 1 else np.array([grid.geometry.spacing_dhw_mm[0]])
        before, after = np.append(gaps[0], gaps), np.append(gaps, gaps[-1])
        reach = np.minimum(np.minimum(before, after)[: len(positions)], median(gaps)) / 2

        anchor = out.origin_lps_mm
        to_pixel = np.linalg.inv(np.column_stack([normal, out.index_to_lps[:3, 1], out.index_to_lps[:3, 2]]))
        steps = to_pixel @ out.index_to_lps[:3, 0]
        positions = positions + (grid.geometry.origin_lps_mm - anchor) @ normal
        slices = np.arange(out.shape[0])
        plane_of_slice = _nearest(positions, slices * steps[0])
        distance = slices * steps[0] - positions[plane_of_slice]
        allowed = np.where(distance < 0, gaps[0], gaps[-1]) / 2 + SAME_GRID_TOLERANCE_MM
        is_outside = (slices * steps[0] < positions[0]) | (slices * steps[0] > positions[-1])
        plane_of_slice[is_outside & (np.abs(distance) > allowed)] = -1

        first = np.full(len(positions), -1)
        used, at, counts = np.unique(plane_of_slice[plane_of_slice >= 0], return_index=True, return_counts=True)
        first[used] = np.flatnonzero(plane_of_slice >= 0)[at]
        if (counts > 1).any() and not out.is_orthogonal():
            raise GeometryError("the output grid is sheared", code="target-sheared")
        return cls(anchor, to_pixel, positions, reach, plane_of_slice, first, -np.outer(first, steps[1:]))


def _nearest(ascending: Float, values: Float) -> Int:
    """Return the index of the nearest of `ascending`; the lower one of two that are equally near."""
    return np.searchsorted((ascending[1:] + ascending[:-1]) / 2, values)


@dataclass(frozen=True, slots=True, eq=False)
class _PlacedContours:
    """The contours that can be drawn, sorted by plane.

    points: (n, 3) LPS mm, of all contours of the file, on the backend; ranges: first and end point of each contour,
    (m, 2); transform: what `_project` takes; shifts: rows and columns to add, (m, 2); boxes: first row and column and
    those after the last, (m, 4); plane, layer: of each contour; roi_of_layer: index of the ROI that a layer is part of.
    """

    points: Any
    ranges: Int
    transform: Float
    shifts: Float
    boxes: Int
    plane: Int
    layer: Int
    roi_of_layer: Int


def _place_contours(
    rois: Sequence[RoiContours], planes: _PlaneMap, overlap: Overlap, backend: Backend
) -> tuple[_PlacedContours, tuple[RoiProblem, ...]]:
    refused: dict[tuple[int, str], list[tuple[int, float]]] = {}
    arrays, roi_of, contour_of, is_xor = [], [], [], []
    for r, item in enumerate(rois):
        for c, contour in enumerate(item.contours):
            says_xor = AREA_TYPES.get(contour.geometric_type)
            if says_xor is None:
                code = OTHER_TYPES.get(contour.geometric_type, "contour-type-unknown")
            elif len(contour.points_lps_mm) < 3:
                code = "degenerate-contour"
            else:
                arrays.append(contour.points_lps_mm)
                roi_of.append(r)
                contour_of.append(c)
                is_xor.append(says_xor or overlap == "xor")
                continue
            refused.setdefault((r, code), []).append((c, 0.0))

    points = backend.upload(np.concatenate([np.zeros((0, 3)), *arrays]))
    bounds = np.cumsum([0, *map(len, arrays)], dtype=np.int64)
    transform = np.concatenate([planes.anchor, planes.to_pixel.reshape(-1)])
    measure = _measure_by_kernel if backend.has_kernels else _measure_reference
    low, high, is_finite = measure(points, bounds, transform, backend)
    with np.errstate(invalid="ignore", over="ignore"):  # the next lines sort out what is not finite or far away
        spread = high[:, 0] - low[:, 0]
        middle = low[:, 0] + spread / 2
        plane = _nearest(planes.positions_mm, middle)
        off = np.abs(middle - planes.positions_mm[plane])
        shifts = planes.row_column[plane]
        corners = np.concatenate([low[:, 1:] + shifts, high[:, 1:] + shifts], axis=1)
        reaches = np.abs(corners).max(axis=1, initial=0)
    is_left = np.ones(len(arrays), np.bool_)

    def refuse(code: str, found: Int, amount: Float) -> None:
        for i in found.tolist():
            refused.setdefault((roi_of[i], code), []).append((contour_of[i], float(amount[i])))
        is_left[found] = False

    for code, is_bad, amount in (
        ("contour-not-finite", ~is_finite, spread),
        ("contour-not-planar", spread > PLANAR_TOLERANCE_MM, spread),
        ("contour-off-slices", off > planes.reach_mm[plane] + SAME_GRID_TOLERANCE_MM, off),
        ("contour-out-of-range", reaches > VERTEX_LIMIT_PX, reaches),
    ):
        refuse(code, np.flatnonzero(is_left & is_bad), amount)
    roi = np.array(roi_of, np.int64)
    extremes = np.column_stack([low, high])
    refuse("contour-repeated", _find_repeated(np.flatnonzero(is_left), roi, arrays, extremes), off)
    same_mm = np.minimum(SAME_HEIGHT_TOLERANCE_MM, planes.reach_mm[plane] / 2)
    superseded = _find_superseded(np.flatnonzero(is_left), roi, plane, middle, off, same_mm)
    refuse("contour-superseded", superseded, off)

    kept = np.flatnonzero(is_left & (planes.first_slice[plane] >= 0))
    kept = kept[np.argsort(plane[kept], kind="stable")]
    boxes = -(-_to_q16(corners[kept]).astype(np.int64) // Q16)
    roi = roi[kept]
    part = np.zeros(len(kept), np.int64)
    if overlap == "union":
        _separate(part, plane[kept], roi, np.array(is_xor, np.bool_)[kept], boxes)
    layers, layer = np.unique(np.stack([roi, part]), axis=1, return_inverse=True)
    placed = _PlacedContours(
        points=points,
        ranges=np.stack([bounds[kept], bounds[kept + 1]], axis=1),
        transform=transform,
        shifts=shifts[kept],
        boxes=boxes,
        plane=plane[kept],
        layer=layer.reshape(-1),
        roi_of_layer=layers[0],
    )
    return placed, tuple(_problem(rois[r].roi, code, found) for (r, code), found in refused.items())


def _find_repeated(among: Int, roi: Int, arrays: Sequence[Float], extremes: Float) -> Int:
    """Return which of the contours `among` are the polygon of an earlier one of their ROI."""
    keys = np.column_stack([roi, extremes])[among]
    order = np.lexsort(keys.T)
    is_like_next = (keys[order][1:] == keys[order][:-1]).all(axis=1)
    is_candidate = np.zeros(len(order), np.bool_)
    is_candidate[1:] = is_like_next
    is_candidate[:-1] |= is_like_next
    seen: set[tuple[int, bytes]] = set()
    repeated = []
    for i in np.sort(among[order[is_candidate]]).tolist():
        key = (int(roi[i]), _polygon_key(arrays[i]))
        if key in seen:
            repeated.append(i)
        seen.add(key)
    return np.array(repeated, np.int64)


def _polygon_key(points: Float) -> bytes:
    """Return the vertices of a polygon, whichever comes first, whichever way round, whether or not it is last again."""
    if len(points) > 1 and (points[0] == points[-1]).all():
        points = points[:-1]
    first = int(np.lexsort(points.T)[0])
    forwards, backwards = np.roll(points, -first, axis=0), np.roll(points[::-1], first + 1, axis=0)
    return min(forwards.tobytes(), backwards.tobytes())


def _find_superseded(among: Int, roi: Int, plane: Int, middle_mm: Float, off_mm: Float, same_mm: Float) -> Int:
    """Return which of the contours `among` lie higher or lower than the one of their ROI nearest to their plane."""
    nearness = np.rint(off_mm[among] / SAME_GRID_TOLERANCE_MM)
    order = among[np.lexsort((middle_mm[among], nearness, plane[among], roi[among]))]
    begins = np.diff(roi[order], prepend=-1) != 0
    begins |= np.diff(plane[order], prepend=-1) != 0
    nearest = order[begins][np.cumsum(begins) - 1]
    return np.sort(order[np.abs(middle_mm[order] - middle_mm[nearest]) > same_mm[order]])


_Extremes = tuple[Float, Float, NDArray[np.bool_]]


def _measure_by_kernel(points: Any, bounds: Int, transform: Float, backend: Backend) -> _Extremes:
    """Return lowest and highest (mm along the normal, row, column) of each contour, and whether all are finite."""
    count = len(bounds) - 1
    extremes = backend.xp.empty((count, 7), np.float64)
    arrays = (points, *map(backend.upload, (bounds, transform)), extremes)
    backend.launch("roi_measure", (max(1, -(-count // BLOCK_THREADS)),), (BLOCK_THREADS,), (*arrays, np.int32(count)))
    found = backend.download(extremes)
    return found[:, :3], found[:, 3:6], found[:, 6] == 0


def _measure_reference(points: Float, bounds: Int, transform: Float, backend: Backend) -> _Extremes:
    with np.errstate(invalid="ignore", over="ignore"):
        values = _project(points, transform)
    pieces = [values[start:end] for start, end in pairwise(bounds)]
    low = np.array([v.min(axis=0) for v in pieces]).reshape(-1, 3)
    high = np.array([v.max(axis=0) for v in pieces]).reshape(-1, 3)
    return low, high, np.array([np.isfinite(v).all() for v in pieces], np.bool_)


def _project(points: Float, transform: Float) -> Float:
    """Return (mm along the normal, row, column) of points (n, 3), in the order of operations of kernels/roi.cu."""
    x, y, z = (points - transform[:3]).T
    return np.stack([x * a + y * b + z * c for a, b, c in transform[3:].reshape(3, 3)], axis=1)


def _to_q16(pixels: Float) -> NDArray[np.int32]:
    return np.floor(pixels * Q16 + 0.5).astype(np.int32)


def _separate(part: Int, plane: Int, roi: Int, is_xor: NDArray[np.bool_], boxes: Int) -> None:
    """Put contours of one ROI and plane whose boxes overlap into different parts, for a union; XORed ones into one.

    The parts are drawn as layers of their own and OR-ed: an exact union.
    """
    order = np.lexsort((~is_xor, roi, plane))
    changes = np.flatnonzero((np.diff(plane[order]) != 0) | (np.diff(roi[order]) != 0)) + 1
    for group in np.split(order, changes):
        y0, x0, y1, x1 = boxes[group].T
        for n in range(int(is_xor[group].sum()), len(group)):
            meets = (y0[:n] <= y1[n]) & (y0[n] <= y1[:n]) & (x0[:n] <= x1[n]) & (x0[n] <= x1[:n])
            taken = set(part[group[:n]][meets].tolist())
            part[group[n]] = next(at for at in range(n + 1) if at not in taken)


_MESSAGES: dict[str, Callable[[float], str]] = {
    "point-contour": lambda _: "is a point and encloses no area",
    "open-contour": lambda _: "is open and encloses no area",
    "contour-type-unknown": lambda _: "is of an unknown type",
    "degenerate-contour": lambda _: "has fewer than three points",
    "contour-not-finite": lambda _: "has coordinates that are not finite",
    "contour-not-planar": lambda mm: f"spreads over {mm:.3f} mm along the normal of the slices",
    "contour-off-slices": lambda mm: f"is {mm:.3f} mm away from the nearest slice",
    "contour-repeated": lambda _: "is one of its ROI again",
    "contour-superseded": lambda mm: f"is {mm:.3f} mm away from the nearest slice, and others of its ROI are nearer",
    "contour-out-of-range": lambda px: f"reaches {px:.0f} pixels from the first voxel, over {VERTEX_LIMIT_PX}",
}


def _problem(roi: Roi, code: str, found: list[tuple[int, float]]) -> RoiProblem:
    worst, amount = max(found, key=lambda pair: pair[1])
    more = f", and {len(found) - 1} more like it" if len(found) > 1 else ""
    message = f"contour {worst + 1} {_MESSAGES[code](amount)}{more}; left out"
    return RoiProblem(roi, code, message, tuple(c for c, _ in found))


@dataclass(frozen=True, slots=True, eq=False)
class _Slab:
    """Some planes' contours (first to end), and the box of pixels around them, in rows and columns of the output."""

    first: int
    end: int
    planes: Int
    layers: Int
    rows: tuple[int, int]
    columns: tuple[int, int]

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(words, depth, rows, columns) of its bit planes."""
        words = -(-len(self.layers) // PLANE_BITS)
        return words, len(self.planes), self.rows[1] - self.rows[0], self.columns[1] - self.columns[0]


def _cut_slabs(contours: _PlacedContours, out: VolumeGeometry, slab_bytes: int) -> Iterator[_Slab]:
    _, height, width = out.shape
    words = -(-len(contours.roi_of_layer) // PLANE_BITS)
    used, first = np.unique(contours.plane, return_index=True)
    depth = max(1, slab_bytes // (4 * words * height * width)) if len(used) else 1
    for at in range(0, len(used), depth):
        begin = int(first[at])
        end = int(first[at + depth]) if at + depth < len(used) else len(contours.plane)
        y0, x0 = np.maximum(contours.boxes[begin:end, :2].min(axis=0), 0).tolist()
        y1, x1 = np.minimum(contours.boxes[begin:end, 2:].max(axis=0), (height, width)).tolist()
        if x0 < x1 and y0 < y1:
            layers = np.flatnonzero(np.bincount(contours.layer[begin:end]))
            columns = (x0 // COLUMN_STEP * COLUMN_STEP, min(width, -(-x1 // COLUMN_STEP) * COLUMN_STEP))
            yield _Slab(begin, end, used[at : at + depth], layers, (y0, y1), columns)


def _draw_by_kernels(
    contours: _PlacedContours, planes: _PlaneMap, rois: tuple[Roi, ...], out: VolumeGeometry, backend: Backend
) -> RoiMask:
    slabs = list(_cut_slabs(contours, out, SLAB_BYTES[backend.name]))
    encoder = PaletteEncoder(out.shape, backend)
    buffer = backend.xp.empty(max((int(np.prod(slab.shape)) for slab in slabs), default=0), np.uint32)
    records, vertices = _project_contours(contours, backend)
    sets = []
    for slab in slabs:
        words = buffer[: int(np.prod(slab.shape))].reshape(slab.shape)
        _fill_planes(words, slab, records[slab.first : slab.end], vertices, backend)
        keys = encoder.add(words, planes.first_slice[slab.planes], slab.rows[0], slab.columns[0])
        sets.append(_roi_sets(keys, slab.layers, contours.roi_of_layer, len(rois)))
    codes, table = encoder.finish(sets, max(1, -(-len(rois) // PLANE_BITS)))
    for d, plane in enumerate(planes.plane_of_slice):
        if plane >= 0 and planes.first_slice[plane] != d:
            codes[d] = codes[int(planes.first_slice[plane])]
    return RoiMask(backend.download(codes), table, rois, out)


def _project_contours(contours: _PlacedContours, backend: Backend) -> tuple[NDArray[np.int32], Any]:
    """Return (first point, end point, plane, layer) of each contour, and the vertices (x, y) of all, Q16."""
    records = np.column_stack([contours.ranges, contours.plane, contours.layer]).astype(np.int32)
    vertices = backend.xp.empty((len(contours.points), 2), np.int32)
    if len(records):
        arrays = map(backend.upload, (contours.transform, records, contours.shifts))
        backend.launch("roi_vertices", (len(records),), (CONTOUR_THREADS,), (contours.points, *arrays, vertices))
    return records, vertices


def _fill_planes(words: Any, slab: _Slab, contours: NDArray[np.int32], vertices: Any, backend: Backend) -> None:
    """Draw contours (first point, end point, plane, layer) into bit planes (words, depth, rows, columns) of a slab."""
    _, depth, rows, columns = slab.shape
    local = contours.copy()
    local[:, 2] = np.searchsorted(slab.planes, contours[:, 2])
    local[:, 3] = np.searchsorted(slab.layers, contours[:, 3])
    words.fill(0)
    sizes = (depth, rows, columns, slab.rows[0], slab.columns[0])
    arrays = (vertices, backend.upload(local), words)
    backend.launch("roi_toggle", (len(local),), (CONTOUR_THREADS,), (*arrays, *map(np.int32, sizes)))
    block = min(columns, BLOCK_THREADS)
    grid = (-(-columns // block), len(words) * depth)
    backend.launch("roi_scan", grid, (block,), (words, np.int32(rows), np.int32(columns)))


def _roi_sets(keys: NDArray[np.uint32], layers: Int, roi_of_layer: Int, count: int) -> NDArray[np.uint32]:
    """Return keys over the layers of a slab (K, words) as sets of ROIs (K, P)."""
    members = np.zeros((count, len(keys)), np.bool_)
    np.logical_or.at(members, roi_of_layer[layers], unpack_bits(np.ascontiguousarray(keys), len(layers)).T)
    return pack_bits(members.T)


def _draw_reference(
    contours: _PlacedContours, planes: _PlaneMap, rois: tuple[Roi, ...], out: VolumeGeometry, backend: Backend
) -> RoiMask:
    """Fill contour by contour, plane by plane: what the kernels have to equal."""

    def draw(plane: int) -> NDArray[np.uint32]:
        layers = np.zeros((len(contours.roi_of_layer), *out.shape[1:]), np.bool_)
        for i in np.flatnonzero(contours.plane == plane):
            points = _project(contours.points[slice(*contours.ranges[i])], contours.transform)
            vertices = _to_q16(points[:, 1:] + contours.shifts[i])
            layers[contours.layer[i]] ^= fill_contour(vertices[:, ::-1], out.shape[1:])
        members = np.zeros((len(rois), *out.shape[1:]), np.bool_)
        np.logical_or.at(members, contours.roi_of_layer, layers)
        words = pack_bits(members.reshape(len(rois), -1).T).T
        return words.reshape(-1, *out.shape[1:])

    return from_slices((draw(int(plane)) for plane in planes.plane_of_slice), rois, out)


def fill_contour(vertices_q16: NDArray[np.int32], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Return which pixels (rows, columns) have their centre inside a contour: an odd number of edges above it.

    Parameters
    ----------
    vertices_q16 : array of shape (n, 2), int32
        x and y of the vertices, Q16 fixed-point pixels.
    shape : (int, int)
        Rows and columns.
    """
    start = vertices_q16.astype(np.int64)
    end = np.roll(start, -1, axis=0)
    is_left_to_right = start[:, 0] <= end[:, 0]
    (ax, ay), (bx, by) = np.where(is_left_to_right, start.T, end.T), np.where(is_left_to_right, end.T, start.T)
    inside = np.zeros(shape, np.bool_)
    rows = np.arange(shape[0])[:, None] * Q16
    low, high = (-(-int(v) // Q16) for v in (ax.min(), bx.max()))
    for column in range(max(0, low), min(shape[1], high)):
        x = column * Q16
        crosses = (ax <= x) & (x < bx)
        edge = [v[crosses] for v in (ax, ay, bx, by)]
        above = (x - edge[0]) * (edge[3] - edge[1]) <= (rows - edge[1]) * (edge[2] - edge[0])
        inside[:, column] = above.sum(axis=1) % 2 == 1
    return inside
