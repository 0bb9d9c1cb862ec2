"""Resampling: images and labels onto another grid.

Conventions, the same on every backend:

* The centre of an output voxel is mapped into the source; coordinates are rounded to 2⁻²⁴ voxel, so that a voxel centre
  or a tie is met exactly whatever the last bits of the affines say.
* A centre inside the source's extent, which ends half a voxel beyond the outermost centres (lower end included, upper
  end not), takes a value; missing neighbours are replaced by the edge voxel. Any other gets `fill` (labels: 0).
* Nearest takes the voxel ``floor(coordinate + 0.5)``: a tie goes to the larger index.
* Values are computed in float32 and stored in the source's dtype: integers round to nearest even and saturate; int32
  beyond ±2²⁴ loses its last bits. Where every output centre is a voxel centre (identity, crop, flip) voxels are copied
  bit for bit.
* A neighbour of weight 0 has no influence: NaN reaches only voxels whose value depends on it.

Axes that run along the source's are resampled with tables of neighbours and weights, one table an axis; any other
orientation goes through an affine kernel.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gpuprep.backends.base import TYPE_SUFFIX, Backend, Dims
from gpuprep.config import Interpolation
from gpuprep.errors import ConfigError, GeometryError
from gpuprep.geometry import VolumeGeometry
from gpuprep.ops.axis_tables import FILTERS, AxisTable, Float, Index, axis_table, axis_tables, plane_table, snapped
from gpuprep.ops.crop import fill_value
from gpuprep.ops.intensity import (
    Window,
    apply_window,
    apply_window_array,
    needs_floats,
    window_kernel,
    window_step,
)
from gpuprep.volume import Step, Volume

GridInterpolation = Literal["linear", "nearest"]

#: Axes are parallel when no voxel of the target is farther than this from where parallel axes put it, in source voxels.
AXIS_DRIFT_TOLERANCE_VOXEL = 1e-3
#: Kernels (float32) and reference (float64) differ by no more than this times the largest magnitude of the source;
#: integers by one more, where that decides which way a value is rounded.
REFERENCE_TOLERANCE = 2e-6

_BLOCK = (64, 4, 1)
#: Slices that a thread of the separable kernels makes, and rows where no axis has more than two taps. Source: kRun and
#: kRows in kernels/resample.cu.
RUN = 16
_ROWS = 2
_IMAGE_DTYPES = ("uint8", "int16", "uint16", "int32", "float32")
_WINDOWED = ("int16", "int32", "float32")
_LABEL_DTYPES = ("uint8", "uint16", "uint32")


def resample_volume(
    volume: Volume,
    target: VolumeGeometry,
    *,
    interpolation: Interpolation,
    antialias: bool,
    fill: float,
    backend: Backend,
) -> Volume:
    """Resample an image onto a grid whose axes run along those of its own.

    Parameters
    ----------
    volume : Volume
        uint8, int16, uint16, int32 or float32, an array of `backend`.
    target : VolumeGeometry
        Any origin, spacing and shape; axes parallel or antiparallel to the volume's.
    interpolation : {"linear", "cubic", "lanczos", "nearest"}
        ``cubic`` is Keys' convolution with a = -0.5, ``lanczos`` has three lobes; weights are normalised.
    antialias : bool
        Where the target is coarser, widen the filter by the ratio of the spacings, so that each voxel averages what it
        covers.
    fill : float
        Value outside the volume; must be a value of its dtype.
    backend : Backend
        Where to compute.

    Returns
    -------
    Volume
        On `target`, in the dtype of `volume`, with one more step, ``resample``.

    Raises
    ------
    GeometryError
        ``axes-not-parallel``, ``frame-of-reference-mismatch``.
    ConfigError
        ``unknown-interpolation``, ``antialias-nearest``, ``bad-fill``, ``unsupported-dtype``.
    """
    axes, value, step = _plan_axes(volume, target, interpolation, fill, antialias=antialias)
    return volume.changed(_resample_axes(volume.array, axes, target.shape, value, backend), target, step)


def resample_and_window(
    volume: Volume,
    target: VolumeGeometry,
    window: Window,
    *,
    interpolation: Interpolation,
    antialias: bool,
    fill: float,
    backend: Backend,
) -> Volume:
    """Resample an image and apply a window: `resample_volume` and `apply_window`, bit for bit.

    Each voxel is windowed as it is stored, in one pass, where the window takes its type and it is no copy.

    Parameters
    ----------
    volume, target, interpolation, antialias, fill, backend
        As in `resample_volume`.
    window : Window
        As in `apply_window`; of `fill` too.

    Raises
    ------
    GeometryError, ConfigError
        As `resample_volume`.
    """
    axes, value, step = _plan_axes(volume, target, interpolation, fill, antialias=antialias)
    dtype = np.dtype(volume.array.dtype)
    in_one_pass = (
        backend.has_kernels and dtype.name in _WINDOWED and not needs_floats(window, dtype) and not _are_copied(axes)
    )
    array = _resample_axes(volume.array, axes, target.shape, value, backend, window if in_one_pass else None)
    resampled = volume.changed(array, target, step)
    if in_one_pass:
        return resampled.changed(array, target, window_step(window, array.dtype))
    return apply_window(resampled, window, backend)


def resample_in_slabs(
    volume: Volume,
    target: VolumeGeometry,
    *,
    interpolation: Interpolation,
    antialias: bool,
    fill: float,
    slabs: int,
    backend: Backend,
) -> Volume:
    """Resample an image that lies on the host, some of its slices at a time: `resample_volume` in less memory.

    Parameters
    ----------
    volume : Volume
        A NumPy array, of a type that `resample_volume` takes.
    slabs : int
        Into how many slabs of slices the output is cut. Each goes with the slices of `volume` it depends on.
    target, interpolation, antialias, fill, backend
        As in `resample_volume`.

    Returns
    -------
    Volume
        A NumPy array, bit for bit the one of `resample_volume`.

    Raises
    ------
    GeometryError, ConfigError
        As `resample_volume`.
    """
    axes, value, step = _plan_axes(volume, target, interpolation, fill, antialias=antialias)
    depth, height, width = target.shape
    result = np.empty(target.shape, volume.array.dtype)
    thickness = -(-depth // slabs)
    for first in range(0, depth, thickness):
        slab = slice(first, min(first + thickness, depth))
        slices, source = axes[0].cut(slab)
        array = backend.upload(volume.array[source])
        shape = (slab.stop - slab.start, height, width)
        result[slab] = backend.download(_resample_axes(array, [slices, *axes[1:]], shape, value, backend))
    return volume.changed(result, target, step)


def are_parallel(source: VolumeGeometry, target: VolumeGeometry) -> bool:
    """Whether the axes of two grids run along each other, so that tables of each axis resample one to the other.

    Raises
    ------
    GeometryError
        ``frame-of-reference-mismatch``.
    """
    return _is_parallel(_index_to_source(source, target), target.shape)


def resample_to_grid(
    volume: Volume, target: VolumeGeometry, *, interpolation: GridInterpolation, fill: float, backend: Backend
) -> Volume:
    """Resample an image onto a grid of any orientation, for example MR or PET onto a CT.

    Parameters
    ----------
    volume, fill, backend
        As in `resample_volume`.
    target : VolumeGeometry
        In the same patient space.
    interpolation : {"linear", "nearest"}
        Trilinear or nearest voxel.

    Returns
    -------
    Volume
        On `target`, in the dtype of `volume`, with one more step, ``resample``.

    Raises
    ------
    GeometryError
        ``frame-of-reference-mismatch``: both frames of reference are known and differ.
    ConfigError
        ``unknown-interpolation``, ``bad-fill``, ``unsupported-dtype``.
    """
    _check_grid_interpolation(interpolation)
    source = volume.geometry
    to_source = _index_to_source(source, target)
    value = fill_value(fill, _checked_dtype(volume.array, _IMAGE_DTYPES))
    if _is_parallel(to_source, target.shape):
        axes = axis_tables(to_source, source.shape, target.shape, interpolation, antialias=False)
        array = _resample_axes(volume.array, axes, target.shape, value, backend)
    else:
        array = _resample_affine(volume.array, to_source, target.shape, interpolation, value, backend)
    return volume.changed(array, target, _step(to_source, target, interpolation, fill, antialias=False))


def resample_labels(codes: Any, source: VolumeGeometry, target: VolumeGeometry, *, backend: Backend) -> Any:
    """Put labels, codes or masks onto another grid by nearest voxel.

    Parameters
    ----------
    codes : ndarray of shape (D, H, W), uint8, uint16 or uint32
        An array of `backend`.
    source, target : VolumeGeometry
        Grid of `codes`, and the wanted grid, in any orientation.
    backend : Backend
        Where to compute.

    Returns
    -------
    ndarray of shape ``target.shape`` and the dtype of `codes`
        0 outside `source`.

    Raises
    ------
    GeometryError
        ``shape-mismatch``; ``frame-of-reference-mismatch``.
    ConfigError
        ``unsupported-dtype``.
    """
    zero = _checked_dtype(codes, _LABEL_DTYPES).type(0)
    if tuple(codes.shape) != source.shape:
        raise GeometryError(
            f"labels of shape {tuple(codes.shape)} on a grid of shape {source.shape}", code="shape-mismatch"
        )
    to_source = _index_to_source(source, target)
    if _is_parallel(to_source, target.shape):
        axes = axis_tables(to_source, source.shape, target.shape, "nearest", antialias=False)
        return _resample_axes(codes, axes, target.shape, zero, backend)
    return _resample_affine(codes, to_source, target.shape, "nearest", zero, backend)


def regularize(
    array: Any,
    plane_offsets_lps_mm: ArrayLike,
    geometry: VolumeGeometry,
    *,
    interpolation: GridInterpolation,
    fill: float,
    backend: Backend,
) -> Any:
    """Put parallel planes that lie where they please (gaps, uneven steps, gantry tilt) onto a regular grid.

    A voxel is interpolated along the normal between the two planes it lies between, and in each plane at the point
    where the normal through the voxel meets it. Beyond the outermost planes it takes their value up to half a slice.

    Parameters
    ----------
    array : ndarray of shape (D, H, W)
        The planes in any order; uint8, int16, uint16, int32 or float32, an array of `backend`.
    plane_offsets_lps_mm : array of shape (D, 3)
        Centre of the first pixel of each plane, (x, y, z) LPS mm.
    geometry : VolumeGeometry
        The wanted grid: rows, columns and their spacings as in the planes, slices at a right angle to them; any shape.
    interpolation : {"linear", "nearest"}
        ``nearest`` takes the nearest plane and its nearest pixel.
    fill : float
        Value outside the planes; must be a value of their dtype.
    backend : Backend
        Where to compute.

    Returns
    -------
    ndarray of shape ``geometry.shape`` and the dtype of `array`
        The planes on `geometry`.

    Raises
    ------
    GeometryError
        ``shape-mismatch``: not one offset a plane; ``not-orthogonal``: `geometry` is sheared; ``duplicate-position``.
    ConfigError
        ``unknown-interpolation``, ``bad-fill``, ``unsupported-dtype``.
    """
    _check_grid_interpolation(interpolation)
    dtype = _checked_dtype(array, _IMAGE_DTYPES)
    value = fill_value(fill, dtype)
    offsets = np.asarray(plane_offsets_lps_mm, np.float64)
    if offsets.shape != (array.shape[0], 3):
        raise GeometryError(
            f"{array.shape[0]} planes with plane offsets of shape {offsets.shape}", code="shape-mismatch"
        )
    if not geometry.is_orthogonal():
        raise GeometryError("planes can be put on a grid with slices at a right angle only", code="not-orthogonal")
    positions = geometry.to_index(offsets)
    planes, weights = plane_table(positions[:, 0], geometry.shape[0], interpolation)
    shifts = snapped(-positions[:, 1:])
    if interpolation == "nearest":
        shifts = np.floor(shifts + 0.5)
    if not backend.has_kernels:
        return _reference_planes(array, planes, weights, shifts, geometry.shape, value)
    out = backend.xp.empty(geometry.shape, dtype)
    tables = (planes, weights.astype(np.float32), np.ascontiguousarray(shifts))
    backend.launch(
        f"regularize_{TYPE_SUFFIX[dtype.name]}",
        _grid(geometry.shape),
        _BLOCK,
        [
            backend.xp.ascontiguousarray(array),
            out,
            *map(backend.upload, tables),
            *map(np.int32, (*array.shape[1:], *geometry.shape)),
            value,
        ],
    )
    return out


# Grids and checks


def _plan_axes(
    volume: Volume, target: VolumeGeometry, interpolation: Interpolation, fill: float, *, antialias: bool
) -> tuple[list[AxisTable], Any, Step]:
    """Return the tables of `resample_volume`, the fill value in the volume's type, and what is noted of it."""
    if interpolation not in FILTERS and interpolation != "nearest":
        raise ConfigError(
            f"there is no interpolation {interpolation!r}",
            code="unknown-interpolation",
            hint=f"choose one of: {', '.join(FILTERS)}, nearest",
        )
    if antialias and interpolation == "nearest":
        raise ConfigError(
            "nearest takes one voxel and cannot average", code="antialias-nearest", hint="use linear with antialias"
        )
    source = volume.geometry
    to_source = _index_to_source(source, target)
    if not _is_parallel(to_source, target.shape):
        raise GeometryError(
            "the target's axes do not run along the volume's",
            code="axes-not-parallel",
            hint="linear or nearest interpolation without antialiasing takes any orientation",
        )
    value = fill_value(fill, _checked_dtype(volume.array, _IMAGE_DTYPES))
    axes = axis_tables(to_source, source.shape, target.shape, interpolation, antialias)
    return axes, value, _step(to_source, target, interpolation, fill, antialias=antialias)


def _index_to_source(source: VolumeGeometry, target: VolumeGeometry) -> Float:
    """Return the affine from indices of `target` to indices of `source`, shape (4, 4)."""
    known = {source.frame_of_reference_uid, target.frame_of_reference_uid} - {""}
    if len(known) > 1:
        raise GeometryError(
            f"the volume is in frame of reference {source.frame_of_reference_uid}, the target grid in "
            f"{target.frame_of_reference_uid}",
            code="frame-of-reference-mismatch",
            hint="register the images first",
        )
    return np.asarray(source.lps_to_index @ target.index_to_lps, np.float64)


def _is_parallel(to_source: Float, target_shape: Sequence[int]) -> bool:
    drift = np.abs(to_source[:3, :3] * (1 - np.eye(3))) @ (np.asarray(target_shape) - 1)
    return bool(drift.max() <= AXIS_DRIFT_TOLERANCE_VOXEL)


def _check_grid_interpolation(interpolation: str) -> None:
    if interpolation not in ("linear", "nearest"):
        raise ConfigError(
            f"there is no interpolation {interpolation!r} here",
            code="unknown-interpolation",
            hint="choose linear or nearest",
        )


def _checked_dtype(array: Any, supported: Sequence[str]) -> np.dtype[Any]:
    dtype: np.dtype[Any] = np.dtype(array.dtype)
    if dtype.name not in supported or not dtype.isnative:
        raise ConfigError(
            f"cannot resample {dtype.str} ({dtype.name})",
            code="unsupported-dtype",
            hint=f"convert to one of: {', '.join(supported)}",
        )
    return dtype


def _step(to_source: Float, target: VolumeGeometry, interpolation: str, fill: float, *, antialias: bool) -> Step:
    return Step(
        "resample",
        {
            "interpolation": interpolation,
            "antialias": antialias,
            "fill": float(fill),
            "shape": list(target.shape),
            "index_to_source": to_source.tolist(),
        },
    )


# Kernel forms


def _grid(shape: Sequence[int], slices: int = 1, rows: int = 1) -> Dims:
    """Return the blocks whose threads make so many slices and rows each."""
    depth, height, width = shape
    return -(-width // _BLOCK[0]), -(-height // (_BLOCK[1] * rows)), -(-depth // slices)


def _are_copied(axes: Sequence[AxisTable]) -> bool:
    """Whether each output is one voxel of the source."""
    return all(axis.index.shape[1] == 1 for axis in axes)


def _resample_axes(
    array: Any,
    axes: list[AxisTable],
    shape: tuple[int, int, int],
    fill: Any,
    backend: Backend,
    window: Window | None = None,
) -> Any:
    """Resample along the axes; with a `window`, which copies do not take, its results are stored."""
    if not backend.has_kernels:
        return _reference_axes(array, axes, shape, fill)
    copies = _are_copied(axes)
    name, dtype, numbers = "" if copies else TYPE_SUFFIX[array.dtype.name], array.dtype, ()
    if window is not None:
        name, dtype, numbers = window_kernel(window, array.dtype)
        fill = apply_window_array(backend.xp.full(1, fill, array.dtype), window, backend)
    out = backend.xp.empty(shape, dtype)
    _fill_outside(out, [axis.inside for axis in axes], fill)
    box = tuple(len(axis.index) for axis in axes)
    if min(box) == 0:
        return out
    array = backend.xp.ascontiguousarray(array)
    tables: list[Any] = []
    for axis in axes:
        tables.append(backend.upload(axis.index))
        if not copies:
            tables += [backend.upload(axis.weight.astype(np.float32)), np.int32(axis.index.shape[1])]
    start = np.ravel_multi_index([axis.inside.start for axis in axes], shape)
    _, height, width = array.shape
    strides = (width, height * width, start, shape[2], shape[1] * shape[2])
    arguments = [*tables, *map(np.int32, box), *map(np.int64, strides), *numbers]
    if copies:
        bits = np.dtype(f"u{array.dtype.itemsize}")
        arguments = [array.view(bits), out.view(bits), *arguments]
        backend.launch(f"gather_u{8 * bits.itemsize}", _grid(box, RUN), _BLOCK, arguments)
    else:
        is_linear = all(axis.index.shape[1] <= 2 for axis in axes)
        kernel, rows = (f"linear_{name}", _ROWS) if is_linear else (f"resample_{name}", 1)
        backend.launch(kernel, _grid(box, RUN, rows), _BLOCK, [array, out, *arguments])
    return out


def _fill_outside(out: Any, inside: list[slice], fill: Any) -> None:
    """Set all voxels outside the box `inside` to `fill`, each once."""
    region = [slice(None)] * 3
    for axis, box in enumerate(inside):
        for beyond in (slice(0, box.start), slice(box.stop, None)):
            region[axis] = beyond
            out[tuple(region)] = fill
        region[axis] = box


def _resample_affine(
    array: Any, to_source: Float, shape: tuple[int, int, int], interpolation: str, fill: Any, backend: Backend
) -> Any:
    if not backend.has_kernels:
        return _reference_affine(array, to_source, shape, interpolation, fill)
    array = backend.xp.ascontiguousarray(array)
    out = backend.xp.empty(shape, array.dtype)
    if interpolation == "nearest":
        bits = np.dtype(f"u{array.dtype.itemsize}")
        kernel, arrays, value = (
            f"affine_nearest_u{8 * bits.itemsize}",
            (array.view(bits), out.view(bits)),
            fill.view(bits),
        )
    else:
        kernel, arrays, value = f"affine_linear_{TYPE_SUFFIX[array.dtype.name]}", (array, out), fill
    matrix = backend.upload(np.ascontiguousarray(to_source[:3]))
    backend.launch(kernel, _grid(shape), _BLOCK, [*arrays, matrix, *map(np.int32, (*array.shape, *shape)), value])
    return out


# References: float64, NumPy


def _stored(values: Float, dtype: np.dtype[Any]) -> NDArray[Any]:
    if dtype.kind == "f":
        return values.astype(dtype)
    limits = np.iinfo(dtype)
    return np.clip(np.rint(values), limits.min, limits.max).astype(dtype)


def _filtered(array: NDArray[Any], axes: Sequence[AxisTable]) -> Float:
    values = array.astype(np.float64)
    for axis, table in enumerate(axes):
        along = [-1 if a == axis else 1 for a in range(len(axes))]
        taps = [
            np.take(values, index, axis) * weight.reshape(along)
            for index, weight in zip(table.index.T, table.weight.T, strict=True)
        ]
        values = np.sum(taps, axis=0)
    return values


def _reference_axes(array: NDArray[Any], axes: list[AxisTable], shape: tuple[int, int, int], fill: Any) -> NDArray[Any]:
    out = np.full(shape, fill, array.dtype)
    box = tuple(axis.inside for axis in axes)
    if all(axis.index.shape[1] == 1 for axis in axes):
        out[box] = array[np.ix_(*(axis.index[:, 0] for axis in axes))]
    else:
        out[box] = _stored(_filtered(array, axes), array.dtype)
    return out


def _reference_affine(
    array: NDArray[Any], to_source: Float, shape: tuple[int, int, int], interpolation: str, fill: Any
) -> NDArray[Any]:
    out = np.full(shape, fill, array.dtype)
    size = np.asarray(array.shape)
    rows, columns = np.meshgrid(np.arange(shape[1]), np.arange(shape[2]), indexing="ij")
    for d in range(shape[0]):
        index = np.stack([np.full(rows.shape, d), rows, columns], axis=-1)
        centre = snapped(index @ to_source[:3, :3].T + to_source[:3, 3])
        inside = ((centre >= -0.5) & (centre < size - 0.5)).all(axis=-1)
        centre = centre[inside]
        if interpolation == "nearest":
            out[d][inside] = array[tuple(np.floor(centre + 0.5).astype(np.intp).T)]
            continue
        below = np.floor(centre).astype(np.intp)
        upper = centre - below
        values = np.zeros(len(centre))
        for corner in np.ndindex(2, 2, 2):
            weight = np.where(corner, upper, 1 - upper).prod(axis=-1)
            voxel = array[tuple(np.clip(below + corner, 0, size - 1).T)].astype(np.float64)
            values += np.where(weight > 0, weight * voxel, 0.0)
        out[d][inside] = _stored(values, array.dtype)
    return out


def _reference_planes(
    array: NDArray[Any], planes: Index, weights: Float, shifts: Float, shape: tuple[int, int, int], fill: Any
) -> NDArray[Any]:
    out = np.full(shape, fill, array.dtype)
    for d in range(shape[0]):
        values = np.zeros(shape[1:])
        inside = np.full(shape[1:], bool(weights[d].any()))
        for plane, weight in zip(planes[d], weights[d], strict=True):
            if weight > 0:
                axes = [
                    axis_table(np.arange(n) + shift, size, "linear")
                    for n, shift, size in zip(shape[1:], shifts[plane], array.shape[1:], strict=True)
                ]
                box = (axes[0].inside, axes[1].inside)
                covered = np.zeros(shape[1:], np.bool_)
                covered[box] = True
                inside &= covered
                values[box] += weight * _filtered(array[plane], axes)
        out[d][inside] = _stored(values[inside], array.dtype)
    return out
