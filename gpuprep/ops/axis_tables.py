"""What each output position along an axis is made of, when a grid is resampled: neighbours and their weights.

Coordinates count source voxels and are rounded to 2⁻²⁴ voxel, as the kernels round them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gpuprep.config import Interpolation
from gpuprep.errors import GeometryError

Float = NDArray[np.float64]
Index = NDArray[np.int32]

#: Source coordinates are multiples of 1 / COORDINATE_STEPS voxel. The kernels round alike (source_coordinate).
COORDINATE_STEPS = 1 << 24
#: Weights smaller than this are rounding errors of a zero of the filter.
WEIGHT_FLOOR = 1e-12
#: Free parameter of the cubic filter, by which it is that of Catmull and Rom too. Source: Keys, IEEE Trans. ASSP 29
#: (1981) 1153.
KEYS_A = -0.5
LANCZOS_LOBES = 3


def snapped(coordinates: Float) -> Float:
    """Return coordinates rounded to whole steps."""
    return np.asarray(np.rint(coordinates * COORDINATE_STEPS) / COORDINATE_STEPS, np.float64)


def linear(x: Float) -> Float:
    """Return the triangle filter at `x` voxels from its centre."""
    return np.maximum(0.0, 1.0 - np.abs(x))


def cubic(x: Float) -> Float:
    """Return Keys' cubic filter at `x` voxels from its centre."""
    x = np.abs(x)
    near = ((KEYS_A + 2) * x - (KEYS_A + 3)) * x * x + 1
    far = KEYS_A * (((x - 5) * x + 8) * x - 4)
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def lanczos(x: Float) -> Float:
    """Return the Lanczos filter of `LANCZOS_LOBES` lobes at `x` voxels from its centre."""
    return np.where(np.abs(x) < LANCZOS_LOBES, np.sinc(x) * np.sinc(x / LANCZOS_LOBES), 0.0)


#: Filter and the half width of its support, in voxels.
FILTERS: dict[str, tuple[Callable[[Float], Float], int]] = {
    "linear": (linear, 1),
    "cubic": (cubic, 2),
    "lanczos": (lanczos, LANCZOS_LOBES),
}


@dataclass(frozen=True, slots=True, eq=False)
class AxisTable:
    """What each output position along an axis is made of.

    Parameters
    ----------
    inside : slice
        The outputs that have a value; the n of the tables.
    index : ndarray of shape (n, taps), int32
        Source positions; an edge position repeats.
    weight : ndarray of shape (n, taps), float64
        Their weights; each row adds up to 1.
    """

    inside: slice
    index: Index
    weight: Float

    def cut(self, outputs: slice) -> tuple[AxisTable, slice]:
        """Return the table of some of the outputs over the source positions they need, and which these are."""
        start, stop = (min(max(i, outputs.start), outputs.stop) for i in (self.inside.start, self.inside.stop))
        rows = slice(start - self.inside.start, stop - self.inside.start)
        index = self.index[rows]
        low, high = (int(index.min()), int(index.max()) + 1) if len(index) else (0, 1)
        inside = slice(start - outputs.start, stop - outputs.start)
        return AxisTable(inside, index - np.int32(low), self.weight[rows]), slice(low, high)


def axis_table(coordinates: Float, size: int, interpolation: Interpolation, scale: float = 1.0) -> AxisTable:
    """Make the table of an axis.

    Parameters
    ----------
    coordinates : ndarray of shape (m,)
        Source coordinate of each output, monotonic, in source voxels.
    size : int
        Voxels of the source along the axis.
    interpolation : {"linear", "cubic", "lanczos", "nearest"}
        The filter.
    scale : float
        Factor by which the filter is widened, at least 1.
    """
    within = np.flatnonzero((coordinates >= -0.5) & (coordinates < size - 0.5))
    if len(within) == 0:
        return AxisTable(slice(0, 0), np.zeros((0, 1), np.int32), np.zeros((0, 1)))
    inside = slice(int(within[0]), int(within[-1]) + 1)
    centre = coordinates[inside]
    if interpolation == "nearest":
        index = np.floor(centre + 0.5).astype(np.int32)[:, None]
        return AxisTable(inside, index, np.ones(index.shape))
    function, radius = FILTERS[interpolation]
    support = radius * scale
    first = np.floor(centre - support).astype(np.int64) + 1
    taps = first[:, None] + np.arange(int(np.ceil(2 * support)))
    weight = function((taps - centre[:, None]) / scale)
    weight[np.abs(weight) < WEIGHT_FLOOR] = 0.0
    weight /= weight.sum(axis=1, keepdims=True)
    index = np.clip(taps, 0, size - 1).astype(np.int32)
    strongest = np.take_along_axis(index, np.abs(weight).argmax(axis=1)[:, None], axis=1)
    index = np.where(weight == 0, strongest, index)
    used = (weight != 0).any(axis=0)
    return AxisTable(inside, np.ascontiguousarray(index[:, used]), np.ascontiguousarray(weight[:, used]))


def axis_tables(
    to_source: Float,
    source_shape: Sequence[int],
    target_shape: Sequence[int],
    interpolation: Interpolation,
    antialias: bool,
) -> list[AxisTable]:
    """Return the tables of the three axes; what little the other axes contribute is taken at the target's middle."""
    middle = (np.asarray(target_shape) - 1) / 2
    tables = []
    for axis in range(3):
        row = to_source[axis]
        origin = row[3] + row[:3] @ middle - row[axis] * middle[axis]
        coordinates = snapped(origin + row[axis] * np.arange(target_shape[axis]))
        scale = max(1.0, abs(float(row[axis]))) if antialias else 1.0
        tables.append(axis_table(coordinates, source_shape[axis], interpolation, scale))
    return tables


def plane_table(positions: Float, depth: int, interpolation: str) -> tuple[Index, Float]:
    """Return, for each output slice, its two planes and their weights, (depth, 2) each; weights 0 where outside.

    `positions` are those of the planes in slices of the output grid.

    Raises
    ------
    GeometryError
        ``duplicate-position``.
    """
    order = np.argsort(positions, kind="stable")
    ordered = snapped(positions[order])
    twins = np.flatnonzero(np.diff(ordered) == 0)
    if len(twins):
        a, b = sorted(order[twins[0] : twins[0] + 2].tolist())
        raise GeometryError(f"planes {a} and {b} lie at the same position", code="duplicate-position")
    slices = np.arange(depth, dtype=np.float64)
    inside = (slices >= ordered[0] - 0.5) & (slices < ordered[-1] + 0.5)
    between = np.interp(slices, ordered, np.arange(len(ordered), dtype=np.float64))
    between = snapped(between) if interpolation == "linear" else np.floor(between + 0.5)
    low = np.floor(between).astype(np.intp)
    high = np.minimum(low + 1, len(ordered) - 1)
    upper = between - low
    weights = np.stack([1 - upper, upper], axis=1) * inside[:, None]
    return order[np.stack([low, high], axis=1)].astype(np.int32), weights
