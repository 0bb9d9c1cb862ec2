"""Turning a volume so that its axes run along given patient directions: no interpolation, only order."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpuprep.backends.base import Backend, ready
from gpuprep.errors import ConfigError
from gpuprep.geometry import VolumeGeometry, closest_axes
from gpuprep.volume import Step, Volume

Axes = tuple[int, int, int]
Flips = tuple[bool, bool, bool]

#: Letter → (LPS axis, whether the coordinate grows that way).
_LETTERS = {"R": (0, False), "L": (0, True), "A": (1, False), "P": (1, True), "I": (2, False), "S": (2, True)}

#: Threads a block, each with a square of voxels: along the rows of the old array, and along those of the new one.
_BLOCK = (8, 32)


def plan_orientation(geometry: VolumeGeometry, code: str) -> tuple[Axes, Flips]:
    """Return how to transpose and flip a (D, H, W) array so that `VolumeGeometry.orientation` gives `code`.

    Parameters
    ----------
    geometry : VolumeGeometry
        Grid of the array.
    code : str
        Three letters: where the columns, the rows and the slices shall grow to; ``"RAS"``, ``"LPS"``.

    Returns
    -------
    axes : (int, int, int)
        For each new (slice, row, column) axis the old one, as `numpy.transpose` takes them.
    flips : (bool, bool, bool)
        Which of the new axes are reversed.

    Raises
    ------
    ConfigError
        ``bad-orientation``: not one letter of each pair R/L, A/P, I/S.
    """
    wanted = [_LETTERS.get(letter) for letter in reversed(code)]
    targets = [target for target in wanted if target is not None]
    if len(code) != 3 or sorted(axis for axis, _ in targets) != [0, 1, 2]:
        raise ConfigError(
            f"orientation {code!r} is not understood",
            code="bad-orientation",
            hint="write one letter of each pair R/L, A/P, I/S, such as RAS or LPS",
        )
    directions = geometry.directions_dhw
    runs_along = closest_axes(directions)
    first, second, third = (runs_along.index(axis) for axis, _ in targets)
    axes = (first, second, third)
    d, h, w = (bool(directions[old, axis] > 0) != grows for old, (axis, grows) in zip(axes, targets, strict=True))
    return axes, (d, h, w)


def reorient(volume: Volume, code: str, backend: Backend) -> Volume:
    """Return a volume whose columns, rows and slices grow to the sides that `code` names; see `plan_orientation`.

    Every voxel keeps its place in the patient.

    Raises
    ------
    ConfigError
        ``bad-orientation``.
    """
    axes, flips = plan_orientation(volume.geometry, code)
    array = reorient_array(volume.array, axes, flips, backend)
    step = Step("orient", {"code": code, "axes": list(axes), "flips": list(flips)})
    return volume.changed(array, volume.geometry.reoriented(axes, flips), step)


def reorient_array(array: Any, axes: Axes, flips: Flips, backend: Backend) -> Any:
    """Return ``array.transpose(axes)`` with the new axes where `flips` is true reversed, C contiguous."""
    if not backend.has_kernels or axes[2] == 2:  # whole rows are copied well as they are
        return reference_reorient(array, axes, flips, backend)
    array = ready(array, backend)
    word = np.dtype(f"u{array.dtype.itemsize}")
    shape = tuple(array.shape[old] for old in axes)
    result = backend.xp.empty(shape, array.dtype)
    strides = [array.strides[old] // array.dtype.itemsize for old in axes]
    start = sum(stride * (n - 1) for stride, n, flip in zip(strides, shape, flips, strict=True) if flip)
    steps = [-stride if flip else stride for stride, flip in zip(strides, flips, strict=True)]
    outer, run = (0, 1) if axes[1] == 2 else (1, 0)  # new axes; the old rows run along `run`
    new = (shape[1] * shape[2], shape[2])
    side = backend.lanes if word.itemsize == 1 else backend.lanes // 2  # Square in kernels/orient.cu
    grid = (-(-shape[run] // (side * _BLOCK[0])), -(-shape[2] // (side * _BLOCK[1])), shape[outer])
    arguments = (
        array.view(word),
        result.view(word),
        *map(np.int32, (shape[outer], shape[run], shape[2])),
        *map(np.int64, (start, steps[outer], steps[run], steps[2], new[outer], new[run])),
    )
    backend.launch(f"orient_{word.itemsize}", grid, _BLOCK, arguments)
    return result


def reference_reorient(array: Any, axes: Axes, flips: Flips, backend: Backend) -> Any:
    """Plain form of `reorient_array`."""
    turned = array.transpose(axes)[tuple(slice(None, None, -1 if flip else 1) for flip in flips)]
    return backend.xp.ascontiguousarray(turned)
