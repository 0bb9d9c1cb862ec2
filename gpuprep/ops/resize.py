"""Resizing planes in two dimensions by an antialiased separable filter.

An output pixel ``o`` of an axis that shrinks by ``r = source / output`` is centred at ``(o + 0.5) r`` in source pixel
edges. Its taps are the source pixels within ``support · max(r, 1)`` of there, those beyond the border left out, with
weights ``filter((i + 0.5 - centre) / max(r, 1))`` that are normalised. Values are summed in float32, saturated, and
rounded half away from zero.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuprep.backends.base import MAX_GRID_YZ, TYPE_SUFFIX, Backend, Dims
from gpuprep.errors import ConfigError
from gpuprep.ops.axis_tables import LANCZOS_LOBES, cubic, lanczos, linear
from gpuprep.ops.resample import RUN

Float = NDArray[np.float64]

#: Taps along x come in groups of this many. Source: kChains in kernels/resize2d.cu.
TAP_GROUP = 8
#: Kernel (float32) and reference (float64) differ by at most this share of the largest magnitude of the source, and
#: integers by one more where that decides which way a value is rounded.
REFERENCE_TOLERANCE = 2e-6
#: Standard deviation of the Gaussian, output pixels.
GAUSSIAN_SIGMA = 0.5

#: Taps of so many axes are kept; those of 4096 pixels to 512 take 100 KB.
_KEPT_TAPS = 64

_BLOCK = (64, 4, 1)


def _gaussian(x: Float) -> Float:
    return np.exp(-(x**2) / (2 * GAUSSIAN_SIGMA**2))


def _box(x: Float) -> Float:
    return ((x > -0.5) & (x <= 0.5)).astype(np.float64)


_FILTERS: dict[str, tuple[float, Callable[[Float], Float]]] = {
    "triangle": (1.0, linear),
    "catmull-rom": (2.0, cubic),
    "gaussian": (3.0, _gaussian),
    "lanczos3": (float(LANCZOS_LOBES), lanczos),
    "box": (0.5, _box),
}
FILTERS = ("triangle", "nearest", "catmull-rom", "gaussian", "lanczos3", "box")


@dataclass(frozen=True, slots=True, eq=False)
class Taps:
    """The filter along one axis: source pixels ``first[o] … first[o] + weights.shape[1] - 1`` of output ``o``.

    Weights beyond the filter or the border are 0.
    """

    first: NDArray[np.int32]
    weights: Float


@lru_cache(maxsize=_KEPT_TAPS)
def filter_taps(source: int, output: int, name: str) -> Taps:
    """Return the taps of an axis of `source` pixels resized to `output`; `name` is any filter but ``nearest``.

    Images of a data set often have the same size: the last ones are kept, and are not to be written to.
    """
    support, kernel = _FILTERS[name]
    ratio = source / output
    widening = max(ratio, 1.0)
    centres = (np.arange(output) + 0.5) * ratio
    first = np.clip(np.floor(centres - support * widening), 0, source - 1).astype(np.int32)
    end = np.clip(np.ceil(centres + support * widening), first + 1, source).astype(np.int32)
    taps = int((end - first).max())
    pixels = first[:, None] + np.arange(taps)
    # (pixel + 0.5 - centre) / widening, in whole numbers up to the division: an edge of the box is hit exactly
    distances = (2 * pixels + 1) * output - (2 * np.arange(output)[:, None] + 1) * source
    weights = np.where(pixels < end[:, None], kernel(distances / (2 * max(source, output))), 0.0)
    weights /= weights.sum(axis=1, keepdims=True)
    for table in (first, weights):
        table.flags.writeable = False
    return Taps(first, weights)


def nearest_pixels(source: int, output: int) -> NDArray[np.int32]:
    """Return the source pixel that each output pixel's centre lies in."""
    return ((2 * np.arange(output) + 1) * source // (2 * output)).astype(np.int32)


def resize_planes(
    planes: Any,
    height: int,
    width: int,
    *,
    filter_name: str,
    backend: Backend,
    box: tuple[int, int, int, int] | None = None,
) -> Any:
    """Resize each plane, or a box of it, to ``height × width``.

    Parameters
    ----------
    planes : array of shape (D, H, W), uint8, uint16, int16 or float32
        On `backend`, C contiguous.
    height, width : int
        Wanted size, pixels.
    filter_name : str
        One of `FILTERS`.
    backend : Backend
        Where to compute.
    box : (left, top, width, height), optional
        Part of each plane that is resized, pixels; pixels beside it have no influence.

    Returns
    -------
    array of shape (D, height, width) and the dtype of `planes`

    Raises
    ------
    ConfigError
        ``unknown-filter``; ``bad-size``: an empty output, or a box that is not in the plane; ``unsupported-dtype``.
    """
    if filter_name not in FILTERS:
        raise ConfigError(
            f"there is no filter {filter_name!r}", code="unknown-filter", hint=f"choose one of: {', '.join(FILTERS)}"
        )
    depth, source_height, source_width = planes.shape
    left, top, box_width, box_height = box or (0, 0, source_width, source_height)
    if (
        min(height, width, box_width, box_height) < 1
        or min(left, top) < 0
        or left + box_width > source_width
        or top + box_height > source_height
    ):
        raise ConfigError(
            f"box {box} of a {source_width} × {source_height} plane to {width} × {height}", code="bad-size"
        )
    if planes.dtype.name not in ("uint8", "uint16", "int16", "float32"):
        raise ConfigError(f"cannot resize {planes.dtype}", code="unsupported-dtype")
    if not backend.has_kernels:
        part = planes[:, top : top + box_height, left : left + box_width]
        return reference_resize(part, height, width, filter_name)
    result = backend.xp.empty((depth, height, width), planes.dtype)
    for start in range(0, depth, MAX_GRID_YZ):
        count = min(MAX_GRID_YZ, depth - start)
        grid = (-(-width // _BLOCK[0]), -(-height // _BLOCK[1]), count)
        source, target = planes[start : start + count], result[start : start + count]
        if filter_name == "nearest":
            _launch_gather(source, target, (left, top, box_width, box_height), grid, backend)
        else:
            _launch_resize(source, target, (left, top, box_width, box_height), filter_name, grid, backend)
    return result


def resize_boxes(
    planes: Any,
    boxes: Sequence[tuple[int, int, int, int]],
    sizes: Sequence[tuple[int, int]],
    shape: tuple[int, int],
    fill: NDArray[Any],
    *,
    filter_name: str,
    backend: Backend,
) -> Any:
    """Resize a box of each plane, each to its own size, by one launch; values are those of `resize_planes`.

    Parameters
    ----------
    planes : array of shape (N, H, W), uint8, uint16, int16 or float32
        On `backend`, C contiguous; at most 65535 planes.
    boxes : sequence of N (left, top, width, height)
        Parts of the planes, pixels.
    sizes : sequence of N (width, height)
        What they become; a box of this size already is copied.
    shape : (int, int)
        Rows and columns of the result, no less than any size.
    fill : ndarray of shape (N,) and the dtype of `planes`
        What is right of and below each resized box.
    filter_name : str
        One of `FILTERS`.
    backend : Backend
        Where to compute.

    Returns
    -------
    array of shape (N, *shape) and the dtype of `planes`
    """
    if not backend.has_kernels:
        result = np.empty((len(planes), *shape), planes.dtype)
        for plane, out, box, (width, height), value in zip(planes, result, boxes, sizes, fill, strict=True):
            name = "nearest" if box[2:] == (width, height) else filter_name
            out[...] = value
            out[:height, :width] = resize_planes(
                plane[None], height, width, filter_name=name, backend=backend, box=box
            )[0]
        return result
    names = ["nearest" if tuple(box[2:]) == tuple(s) else filter_name for box, s in zip(boxes, sizes, strict=True)]
    x_axes, y_axes = (
        [(box[2 + axis], size[axis], name) for box, size, name in zip(boxes, sizes, names, strict=True)]
        for axis in (0, 1)
    )
    x, y = _tables(x_axes, shape[1], TAP_GROUP), _tables(y_axes, shape[0], 1)
    how = [
        (box[3], box[2], size[1], size[0], y_table, x_table)
        for box, size, y_table, x_table in zip(boxes, sizes, y.table_of, x.table_of, strict=True)
    ]
    _, height, width = planes.shape
    start = np.array([(z * height + box[1]) * width + box[0] for z, box in enumerate(boxes)], np.int64)
    result = backend.xp.empty((len(planes), *shape), planes.dtype)
    backend.launch(
        f"fit_{TYPE_SUFFIX[planes.dtype.name]}",
        (-(-shape[1] // _BLOCK[0]), -(-shape[0] // _BLOCK[1]), len(planes)),
        _BLOCK,
        (
            planes,
            result,
            backend.upload(start),
            backend.upload(np.array(how, np.int32)),
            backend.upload(fill),
            backend.upload(y.first),
            backend.upload(y.weights),
            np.int32(y.weights.shape[2]),
            backend.upload(x.first),
            backend.upload(x.weights),
            np.int32(x.weights.shape[2]),
            *map(np.int32, result.shape),
            np.int64(width),
        ),
    )
    return result


@dataclass(frozen=True, slots=True, eq=False)
class _Tables:
    """Taps of several axes: first (tables, n) int32, weights (tables, n, taps) float32, and the table of each plane."""

    first: NDArray[np.int32]
    weights: NDArray[np.float32]
    table_of: list[int]


def _tables(axes: Sequence[tuple[int, int, str]], n: int, group: int) -> _Tables:
    """Return the taps of axes (source, output, filter), each distinct one once, for `n` outputs and whole groups."""
    distinct = list(dict.fromkeys(axes))
    taps = [
        Taps(nearest_pixels(source, output), np.ones((output, 1)))
        if name == "nearest"
        else filter_taps(source, output, name)
        for source, output, name in distinct
    ]
    longest = max(t.weights.shape[1] for t in taps)
    first = np.zeros((len(taps), n), np.int32)
    weights = np.zeros((len(taps), n, longest + -longest % group), np.float32)
    for i, t in enumerate(taps):
        first[i, : len(t.first)] = t.first
        weights[i, : len(t.first), : t.weights.shape[1]] = t.weights
    return _Tables(first, weights, [distinct.index(axis) for axis in axes])


def _launch_resize(
    planes: Any, result: Any, box: tuple[int, int, int, int], filter_name: str, grid: Dims, backend: Backend
) -> None:
    depth, height, width = result.shape
    left, top, box_width, box_height = box
    y, x = filter_taps(box_height, height, filter_name), filter_taps(box_width, width, filter_name)
    x_weights = np.pad(x.weights, ((0, 0), (0, -x.weights.shape[1] % TAP_GROUP)))
    _, rows, row = planes.shape
    origin = planes.reshape(-1)[top * row + left :]
    backend.launch(
        f"resize_{TYPE_SUFFIX[planes.dtype.name]}",
        grid,
        _BLOCK,
        (
            origin,
            result,
            backend.upload(y.first),
            backend.upload(y.weights.astype(np.float32)),
            np.int32(y.weights.shape[1]),
            backend.upload(x.first),
            backend.upload(np.ascontiguousarray(x_weights, np.float32)),
            np.int32(x_weights.shape[1]),
            *map(np.int32, (depth, height, width, box_height, box_width)),
            np.int64(row),
            np.int64(rows * row),
        ),
    )


def _launch_gather(planes: Any, result: Any, box: tuple[int, int, int, int], grid: Dims, backend: Backend) -> None:
    depth, height, width = result.shape
    left, top, box_width, box_height = box
    word = np.dtype(f"u{planes.dtype.itemsize}")
    tables = (
        np.arange(depth, dtype=np.int32),
        nearest_pixels(box_height, height) + np.int32(top),
        nearest_pixels(box_width, width) + np.int32(left),
    )
    strides = (planes.shape[2], planes.shape[1] * planes.shape[2], 0, width, height * width)
    backend.launch(
        f"gather_{TYPE_SUFFIX[word.name]}",
        (*grid[:2], -(-depth // RUN)),
        _BLOCK,
        (
            planes.view(word),
            result.view(word),
            *map(backend.upload, tables),
            *map(np.int32, result.shape),
            *map(np.int64, strides),
        ),
    )


def reference_resize(planes: Any, height: int, width: int, filter_name: str) -> Any:
    """Plain form of `resize_planes`, in float64."""
    _, source_height, source_width = planes.shape
    if filter_name == "nearest":
        return planes[:, nearest_pixels(source_height, height)[:, None], nearest_pixels(source_width, width)]
    y = _dense(filter_taps(source_height, height, filter_name), source_height)
    x = _dense(filter_taps(source_width, width, filter_name), source_width)
    values = y @ planes.astype(np.float64) @ x.T
    if planes.dtype.kind == "f":
        return values.astype(planes.dtype)
    limits = np.iinfo(planes.dtype)
    return np.trunc(np.clip(values, limits.min, limits.max) + np.copysign(0.5, values)).astype(planes.dtype)


def _dense(taps: Taps, source: int) -> Float:
    matrix = np.zeros((len(taps.first), source))
    for row, first, weights in zip(matrix, taps.first, taps.weights, strict=True):
        row[first : first + len(weights)] = weights[: source - first]
    return matrix
