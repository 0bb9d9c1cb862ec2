"""Bounding boxes, cropping and padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuprep.backends.base import MAX_GRID_YZ, TYPE_SUFFIX, Backend, Dims, ready
from gpuprep.errors import ConfigError
from gpuprep.geometry import VolumeGeometry
from gpuprep.volume import Step, Volume

Triple = tuple[int, int, int]
#: First voxel (d, h, w) and shape.
Box = tuple[Triple, Triple]

#: A margin may exceed whole voxels by this fraction of one (rounding) without taking another.
WHOLE_VOXELS = 1e-9

#: Rows in which a thread looks for foreground before it widens the box of the plane.
_BOX_ROWS = 8
#: Threads a block along y.
_BLOCK_HEIGHT = 8


def foreground_box(array: Any, threshold: float, backend: Backend) -> Box | None:
    """Return the smallest box that holds all voxels above `threshold`.

    Parameters
    ----------
    array : array of shape (D, H, W)
        int16, int32, float32 or codes in uint8, uint16, uint32, on `backend`. NaN is not above anything.
    threshold : float
        In the units of `array`.
    backend : Backend
        Where to compute.

    Returns
    -------
    (start_dhw, shape) or None
        First voxel and shape; None when no voxel is above.

    Raises
    ------
    ConfigError
        ``bad-threshold``: not a number.
    """
    if np.isnan(threshold):
        raise ConfigError("the foreground threshold is not a number", code="bad-threshold")
    if not backend.has_kernels:
        return reference_foreground_box(array, threshold)
    with np.errstate(over="ignore"):
        limit: Any = np.float32(threshold)
    if float(limit) > threshold:  # v > t is v > the greatest float32 up to t for such v
        limit = np.nextafter(limit, np.float32(-np.inf))
    if array.dtype.kind in "iu":  # and v > floor(t) for whole v
        info = np.iinfo(array.dtype)
        if threshold < info.min:
            return (0, 0, 0), tuple(array.shape)
        limit = array.dtype.type(min(np.floor(threshold), info.max))
    boxes = _plane_boxes(array, np.full(len(array), limit), backend)
    found = np.flatnonzero(boxes[:, 0] <= boxes[:, 2]).tolist()
    if not found:
        return None
    return _box((found[0], *boxes[:, :2].min(axis=0).tolist()), (found[-1], *boxes[:, 2:].max(axis=0).tolist()))


def _plane_boxes(planes: Any, thresholds: NDArray[Any], backend: Backend) -> NDArray[np.int32]:
    """Return first h, w and last h, w of each plane, (N, 4); the first is greater where nothing is above."""
    planes = ready(planes, backend)
    count, height, width = planes.shape
    blocks = -(-height // (_BLOCK_HEIGHT * _BOX_ROWS))
    bounds = np.iinfo(np.int32)
    nothing = np.array([[bounds.max, bounds.max, bounds.min, bounds.min]], np.int32)
    boxes = backend.upload(nothing.repeat(count, axis=0))
    arguments = (planes, backend.upload(thresholds), boxes, *map(np.int32, (height, width, blocks, _BOX_ROWS)))
    kernel = f"plane_boxes_{TYPE_SUFFIX[planes.dtype.name]}"
    backend.launch(kernel, (count * blocks,), (backend.row_threads, _BLOCK_HEIGHT), arguments)
    found: NDArray[np.int32] = backend.download(boxes)
    return found


def _box(first: Sequence[int], last: Sequence[int]) -> Box:
    depth, height, width = (b - a + 1 for a, b in zip(first, last, strict=True))
    return (first[0], first[1], first[2]), (depth, height, width)


def reference_foreground_box(array: Any, threshold: float) -> Box | None:
    """Plain form of `foreground_box`."""
    above = np.argwhere(array > np.float64(threshold))
    return _box(above.min(axis=0).tolist(), above.max(axis=0).tolist()) if len(above) else None


def foreground_boxes(planes: Any, thresholds: NDArray[Any], backend: Backend) -> list[Box | None]:
    """Return the box of each plane on its own, as `foreground_box` of it, from one launch.

    Parameters
    ----------
    planes : array of shape (N, H, W), uint8, uint16, int16 or float32
        On `backend`.
    thresholds : ndarray of shape (N,) and the dtype of `planes`
    backend : Backend
        Where to compute.

    Returns
    -------
    list of N Box or None
        Boxes of planes of depth 1.
    """
    if not backend.has_kernels:
        return [reference_foreground_box(plane[None], t) for plane, t in zip(planes, thresholds, strict=True)]
    boxes = _plane_boxes(planes, np.ascontiguousarray(thresholds), backend).tolist()
    return [_box((0, y0, x0), (0, y1, x1)) if y0 <= y1 else None for y0, x0, y1, x1 in boxes]


def move_planes(
    planes: Any, down: NDArray[np.int32], right: NDArray[np.int32], fill: NDArray[Any], backend: Backend
) -> Any:
    """Move each plane by its own number of pixels; where nothing comes from, there is its value of `fill`.

    Parameters
    ----------
    planes : array of shape (N, H, W), elements of 1, 2 or 4 bytes
        On `backend`, C contiguous.
    down, right : ndarray of shape (N,), int32
        Pixels.
    fill : ndarray of shape (N,) and the dtype of `planes`
    backend : Backend
        Where to compute.
    """
    _, height, width = planes.shape
    if not backend.has_kernels:
        moves = zip(planes, down.tolist(), right.tolist(), fill, strict=True)
        return np.stack([reference_crop_or_pad(p[None], (0, -y, -x), (1, height, width), v)[0] for p, y, x, v in moves])
    word = np.dtype(f"u{planes.dtype.itemsize}")
    result = backend.xp.empty_like(planes)
    arguments = (planes.view(word), result.view(word), *map(backend.upload, (down, right, fill.view(word))))
    _launch_rows(f"move_{word.itemsize}", planes.shape, (*arguments, *map(np.int32, planes.shape)), backend)
    return result


def with_margin(box: Box, geometry: VolumeGeometry, margin_mm: float) -> Box:
    """Return `box` grown by at least `margin_mm` on every side, in whole voxels, as far as the volume reaches."""
    margin = np.minimum(np.ceil(margin_mm / geometry.spacing_dhw_mm - WHOLE_VOXELS), geometry.shape).astype(int)
    start = np.maximum(np.array(box[0]) - margin, 0)
    end = np.minimum(np.array(box[0]) + box[1] + margin, geometry.shape)
    return _box(start.tolist(), (end - 1).tolist())


def crop_or_pad(
    volume: Volume, start_dhw: Sequence[int], shape: Sequence[int], fill: float, backend: Backend
) -> Volume:
    """Cut a box out of a volume; where the box reaches beyond it, there is `fill`.

    Parameters
    ----------
    volume : Volume
        On `backend`.
    start_dhw : (int, int, int)
        First voxel of the box; negative numbers pad.
    shape : (int, int, int)
        Shape of the box.
    fill : float
        Value of new voxels; must be a value of the volume's dtype.
    backend : Backend
        Where to compute.

    Raises
    ------
    ConfigError
        ``bad-box``: an empty box; ``bad-fill``: no value of the volume's dtype.
    """
    array = crop_or_pad_array(volume.array, start_dhw, shape, fill, backend)
    step = Step("crop", {"start_dhw": [int(i) for i in start_dhw], "shape": list(array.shape), "fill": fill})
    return volume.changed(array, volume.geometry.crop(start_dhw, shape), step)


def crop_or_pad_array(array: Any, start_dhw: Sequence[int], shape: Sequence[int], fill: float, backend: Backend) -> Any:
    """Return the array of `crop_or_pad`; for codes of masks too."""
    bounds = np.iinfo(np.int32)
    numbers = [*start_dhw, *shape, *(a + n for a, n in zip(start_dhw, shape, strict=True))]
    if len(shape) != 3 or min(shape) < 1 or min(numbers) < bounds.min or max(numbers) > bounds.max:
        raise ConfigError(f"box of shape {tuple(shape)} from voxel {tuple(start_dhw)}", code="bad-box")
    value = fill_value(fill, array.dtype)
    if not backend.has_kernels:
        return reference_crop_or_pad(array, start_dhw, shape, value)
    word = np.dtype(f"u{array.dtype.itemsize}")
    source = ready(array, backend)
    result = backend.xp.empty(tuple(shape), array.dtype)
    arguments = (source.view(word), result.view(word), *map(np.int32, (*array.shape, *shape, *start_dhw)))
    _launch_rows(f"pad_{word.itemsize}", shape, (*arguments, value.view(word)), backend)
    return result


def _launch_rows(kernel: str, shape: Sequence[int], arguments: Sequence[Any], backend: Backend) -> None:
    """Run a kernel whose threads along x share a row of an array of `shape`."""
    grid: Dims = (-(-shape[1] // _BLOCK_HEIGHT), min(shape[0], MAX_GRID_YZ))  # which stride over more slices
    backend.launch(kernel, grid, (backend.row_threads, _BLOCK_HEIGHT), arguments)


def fill_value(fill: float, dtype: np.dtype[Any]) -> Any:
    """Return `fill` as a scalar of a dtype; ConfigError ``bad-fill`` where that has no such value."""
    if dtype.kind == "f":
        return dtype.type(fill)
    limits = np.iinfo(dtype)
    if not (float(fill).is_integer() and limits.min <= fill <= limits.max):
        raise ConfigError(
            f"fill value {fill} is none of {dtype.name}",
            code="bad-fill",
            hint=f"choose a whole number from {limits.min} to {limits.max}",
        )
    return dtype.type(fill)


def reference_crop_or_pad(array: Any, start_dhw: Sequence[int], shape: Sequence[int], fill: Any) -> Any:
    """Plain form of `crop_or_pad_array`."""
    result = np.full(tuple(shape), fill, array.dtype)
    overlaps = [(max(a, 0), min(a + n, size)) for a, n, size in zip(start_dhw, shape, array.shape, strict=True)]
    if all(a < b for a, b in overlaps):
        inside = tuple(slice(a - s, b - s) for (a, b), s in zip(overlaps, start_dhw, strict=True))
        result[inside] = array[tuple(slice(a, b) for a, b in overlaps)]
    return result
