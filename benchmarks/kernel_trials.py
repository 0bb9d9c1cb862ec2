"""Every kernel on random input, through the ops that launch it: what two backends have to agree on.

A trial makes its input from a random generator, so that each backend gets the same, and returns NumPy arrays.
`compare` runs one on two backends and says which kernels took part; a test asserts that trials leave none out.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from gpuprep.backends.base import Backend
from gpuprep.backends.metered import MeteredBackend
from gpuprep.dicom.display import Lut
from gpuprep.dicom.framespec import FrameSpec
from gpuprep.dicom.rtstruct import Contour, RoiContours
from gpuprep.errors import DeviceLostError
from gpuprep.geometry import VolumeGeometry
from gpuprep.masks import Roi
from gpuprep.ops import resample, resize
from gpuprep.ops.crop import crop_or_pad_array, foreground_box, foreground_boxes, move_planes
from gpuprep.ops.frames import combine_frames, interpolate_frames
from gpuprep.ops.grey import GreyRule, GreyWindow, look_up, to_grey, to_values
from gpuprep.ops.intensity import Window, apply_window_array, to_modality
from gpuprep.ops.orient import reorient_array
from gpuprep.ops.palette import BOX_BLOCK, palette_of_planes
from gpuprep.ops.rasterize import SliceGrid, rasterize
from gpuprep.ops.region import CropOptions, find_region, find_regions
from gpuprep.volume import Volume

Shape = tuple[int, int, int]
Arrays = list[np.ndarray[Any, Any]]

#: A share of the largest magnitude by which float32 kernels and float64 references of windows may differ.
WINDOW_TOLERANCE = 2e-6
#: A grey level, by which a rounded voxel may differ: 1 / 400 of the range, of which results reach half at least.
LEVEL = 2 / 400
#: Of values that differ, this many are told.
_PLACES_TOLD = 5
_WINDOWS = {
    "clamp": Window(40, 400),
    "map": Window(40, 400, (0, 1)),
    "map to bytes": Window(40, 400, (0, 255), "uint8"),
}
_REAL = (np.int16, np.int32, np.float32)
_WORDS = (np.uint8, np.uint16, np.uint32)
_RESAMPLED = (np.uint8, np.int16, np.uint16, np.int32, np.float32)
_RESIZED = (np.uint8, np.uint16, np.int16, np.float32)
#: Words of pixels and how many of their bits are stored.
_STORED = [(np.uint8, 8), (np.int8, 8), (np.uint16, 12), (np.int16, 12)]
_AXES = ((2, 0, 1), (0, 2, 1), (1, 2, 0))
_AXIAL = np.eye(3)[::-1]
_SPACING_DHW_MM = (2.5, 0.8, 0.7)


@dataclass(frozen=True)
class Trial:
    """An op on random input.

    `tolerance` is what its kernels (float32) and its reference (float64) may differ by, as a share of the largest
    magnitude, and integers by one more, where that decides which way a value is rounded; 0 for none. Two backends with
    kernels always agree bit for bit. `is_cupys`: on a device kernels of CuPy's own take part.
    """

    name: str
    run: Callable[[Backend, np.random.Generator, Shape], Arrays]
    tolerance: float = 0.0
    is_cupys: bool = False


@dataclass(frozen=True)
class Outcome:
    """What became of a trial: the kernels it launched, and in which way the backends differ; "" when they agree."""

    trial: str
    shape: Shape
    kernels: tuple[str, ...]
    difference: str


def compare(trial: Trial, subject: Backend, oracle: Backend, shape: Shape, seed: Sequence[int]) -> Outcome:
    """Run a trial on `subject` and `oracle`, and hold their results against each other.

    They are equal bit for bit when both have kernels, else within the tolerance of the trial. What goes wrong is a
    difference too, but for a device that is lost.
    """
    metered = MeteredBackend(subject)
    difference = ""
    try:
        with subject.activate():
            found = trial.run(metered, np.random.default_rng(seed), shape)
        expected = trial.run(oracle, np.random.default_rng(seed), shape)
        tolerance = 0.0 if oracle.has_kernels else trial.tolerance
        for place, (a, b) in enumerate(zip(found, expected, strict=True)):
            if not difference and (said := describe_difference(a, b, tolerance)):
                difference = f"array {place}: {said}"
    except DeviceLostError as error:
        error.add_note(f"last of the kernels launched: {', '.join(metered.kernels)}")
        raise
    except Exception:  # one kernel that fails must not keep the others from being checked
        difference = traceback.format_exc()
    return Outcome(trial.name, shape, tuple(metered.kernels), difference)


def describe_difference(found: np.ndarray[Any, Any], expected: np.ndarray[Any, Any], tolerance: float) -> str:
    """Say in which way two arrays differ by more than `Trial.tolerance` allows; "" when they do not.

    NaN is NaN: CUDA makes another one than the host, and its bits mean nothing.
    """
    if (found.shape, found.dtype) != (expected.shape, expected.dtype):
        return f"{found.dtype}{list(found.shape)} instead of {expected.dtype}{list(expected.shape)}"
    word = f"u{found.dtype.itemsize}"
    bits, expected_bits = (_with_one_nan(array).view(word) for array in (found, expected))
    differs = bits != expected_bits
    if tolerance:
        a, b = found.astype(np.float64), expected.astype(np.float64)
        largest = np.abs(b[np.isfinite(b)]).max(initial=0)
        with np.errstate(invalid="ignore"):  # infinities
            differs &= ~(np.abs(a - b) <= tolerance * largest + (found.dtype.kind in "iu"))
    if not differs.any():
        return ""
    places = [tuple(place) for place in np.argwhere(differs)[:_PLACES_TOLD].tolist()]
    told = (f"{found[p]} instead of {expected[p]} ({bits[p]:#x}, {expected_bits[p]:#x}) at {p}" for p in places)
    return f"{differs.sum()} of {found.size} values differ: {'; '.join(told)}"


def _with_one_nan(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.where(np.isnan(array), array.dtype.type(np.nan), array) if array.dtype.kind == "f" else array


def list_trials() -> list[Trial]:
    """Return all trials."""
    return [
        *(Trial(f"box {np.dtype(t)}", _box(t)) for t in (*_WORDS, *_REAL)),
        *(Trial(f"boxes of planes {np.dtype(t)}", _plane_boxes(t)) for t in _RESIZED),
        *(Trial(f"largest component {np.dtype(t)}", _component(t), is_cupys=True) for t in _RESIZED),
        *(Trial(f"regions of either end {np.dtype(t)}", _regions(t), is_cupys=True) for t in _RESIZED),
        *(Trial(f"frames {np.dtype(t)}", _frames(t), is_cupys=True) for t in _RESIZED),
        *(Trial(f"move planes {np.dtype(t)}", _move(t)) for t in _WORDS),
        *(Trial(f"crop {np.dtype(t)}", _crop(t)) for t in _WORDS),
        *(Trial(f"orient {np.dtype(t)} {axes}", _orient(t, axes)) for t, axes in product(_WORDS, _AXES)),
        *(
            Trial(f"modality {np.dtype(t)} {slope:g}", _modality(t, bits, slope))
            for (t, bits), slope in product(_STORED, (1.0, 1000.0, 0.37))
        ),
        *(
            Trial(f"{name} {np.dtype(t)}", _window(t, window), WINDOW_TOLERANCE)
            for t, (name, window) in product(_REAL, _WINDOWS.items())
        ),
        *(
            Trial(f"{make.__name__} {np.dtype(t)} {bits} bits", _grey(t, bits, make))
            for (t, bits), make in product([*_STORED, (np.uint16, 8), (np.int16, 7)], (to_grey, to_values))
        ),
        Trial("palette colours", _look_up),
        *(Trial(f"values {np.dtype(t)} × 0.37", _grey(t, bits, to_values, 0.37)) for t, bits in _STORED),
        *(
            Trial(f"resample {np.dtype(t)} {how}", _resample(t, how), resample.REFERENCE_TOLERANCE)
            for t, how in product(_RESAMPLED, ("linear", "lanczos"))
        ),
        *(
            Trial(
                f"resample {np.dtype(t)} {how} and {name}",
                _resample_and_window(t, how, window),
                LEVEL + WINDOW_TOLERANCE,
            )
            for t, how, (name, window) in product(_REAL, ("linear", "cubic"), _WINDOWS.items())
        ),
        *(Trial(f"labels {np.dtype(t)}", _labels(t, 0)) for t in _WORDS),
        *(Trial(f"labels oblique {np.dtype(t)}", _labels(t, 20)) for t in _WORDS),
        *(Trial(f"oblique {np.dtype(t)}", _oblique(t), resample.REFERENCE_TOLERANCE) for t in _RESAMPLED),
        *(Trial(f"regularize {np.dtype(t)}", _regularize(t), resample.REFERENCE_TOLERANCE) for t in _RESAMPLED),
        *(
            Trial(f"resize {np.dtype(t)} {how}", _resize(t, how), resize.REFERENCE_TOLERANCE)
            for t, how in product(_RESIZED, ("triangle", "lanczos3"))
        ),
        *(Trial(f"resize boxes {np.dtype(t)}", _fit(t), resize.REFERENCE_TOLERANCE) for t in _RESIZED),
        *(Trial(f"rasterize {overlap}, {rois} ROIs", _rasterize(rois, overlap)) for rois, overlap in
          ((5, "xor"), (40, "union"), (300, "xor"))),
        *(Trial(f"palette of planes, {rois} ROIs", _planes(rois)) for rois in (5, 70)),
        *(Trial(f"codes {np.dtype(t)}", _codes(t)) for t in _WORDS),
    ]  # fmt: skip


def _noise(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any) -> np.ndarray[Any, Any]:
    """Values over the whole range of a type; NaN and infinities among floats."""
    if np.dtype(dtype).kind == "f":
        values = rng.normal(0, 500, shape).astype(dtype)
        values[rng.random(shape) < 0.01] = np.nan
        values[rng.random(shape) < 0.01] = np.inf
        return values
    limits = np.iinfo(dtype)
    return rng.integers(limits.min, limits.max, shape, dtype, endpoint=True)


def _smooth(rng: np.random.Generator, shape: Shape, dtype: Any) -> np.ndarray[Any, Any]:
    """Finite values of moderate size."""
    return rng.integers(0, 250, shape).astype(dtype)


def _grid(shape: Shape, spacing_dhw_mm: Sequence[float] = _SPACING_DHW_MM, degrees: float = 0.0) -> VolumeGeometry:
    """An axial grid, turned about x."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    turn = np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    return VolumeGeometry.from_axes(
        shape, origin_lps_mm=(-31.3, 12.7, 101.0), directions_dhw=_AXIAL @ turn.T, spacing_dhw_mm=spacing_dhw_mm
    )


def _box(dtype: Any) -> Callable[..., Arrays]:
    def run(backend: Backend, rng: np.random.Generator, shape: Shape) -> Arrays:
        array = np.zeros(shape, dtype)
        start = [int(rng.integers(0, n)) for n in shape]
        inside = tuple(slice(a, int(rng.integers(a, n)) + 1) for a, n in zip(start, shape, strict=True))
        array[inside] = rng.integers(0, 100, array[inside].shape).astype(dtype)
        found = foreground_box(backend.upload(array), 90.5, backend)
        return [np.array(found if found else -1)]

    return run


def _crop(dtype: Any) -> Callable[..., Arrays]:
    def run(backend: Backend, rng: np.random.Generator, shape: Shape) -> Arrays:
        source = backend.upload(_noise(rng, shape, dtype))
        start = [int(rng.integers(-5, n)) for n in shape]
        size = [int(rng.integers(1, n + 20)) for n in shape]
        return [backend.download(crop_or_pad_array(source, start, size, 7, backend))]

    return run


def _plane_boxes(dtype: Any) -> Callable[..., Arrays]:
    def run(backend: Backend, rng: np.random.Generator, shape: Shape) -> Arrays:
        planes = (rng.integers(0, 100, shape) * (rng.random(shape) < 0.02)).astype(dtype)
        thresholds = rng.integers(0, 99, shape[0]).astype(dtype)
        boxes = foreground_boxes(backend.upload(planes), thresholds, backend)
        return [np.array(box if box else np.full((2, 3), -1)) for box in boxes]

    return run


def _component(dtype: Any) -> Callable[..., Arrays]:
    def run(backend: Backend, rng: np.random.Generator, shape: Shape) -> Arrays:
        planes = (rng.integers(0, 250, shape) * (rng.random(shape) < 0.5)).astype(dtype)
        options = CropOptions("components")
        regions = [find_region(backend.upload(plane[None]), 0, options, backend=backend) for plane in planes]
        return [np.array(regions)]

    return run


def _regions(dtype: Any) -> Callable[..., Arrays]:
    def run(backend: Backend, rng: np.random.Generator, shape: Shape) -> Arrays:
        count, _, width = shape
        ends = np.stack([np.zeros(count), np.full(count, 250)]).astype(dtype)
        ends = np.where(np.arange(count) % 2 == 0, ends, ends[::-1])  # every other image is white on black
        planes = rng.integers(0, 251, shape).astype(dtype)
        planes[:, ::2] = ends[0][:, None, None]
        planes[:, :, : width // 3] = ends[1][:, None, None]
        options = CropOptions("box", max_is_background=True, border_fraction=0.05)
        return [np.array(find_regions(backend.upload(planes), *ends, options, backend=backend))]

    return run


def _frames(dtype: Any) -> Callable[..., Arrays]:
    def run(backend: Backend, rng: np.random.Generator, shape: Shape) -> Arrays:
        planes = backend.upload(_smooth(rng, shape, dtype))
        made = [combine_frames(planes, handling, backend=backend) for handling in ("max-intensity", "mean")]
        return [backend.download(m) for m in (*made, interpolate_frames(planes, 2 * shape[0] + 1, backend=backend))]

    return run


def _move(dtype: Any) -> Callable[..., Arrays]:
    def run(backend: Backend, rng: np.random.Generator, shape: Shape) -> Arrays:
        planes = backend.upload(_noise(rng, shape, dtype))
        down, right = (rng.integers(-n, n + 1, shape[0]).astype(np.int32) for n in shape[1:])
        fill = rng.integers(0, 100, shape[0]).astype(dtype)
        return [backend.download(move_planes(planes, down, right, fill, backend))]

    return run


def _orient(dtype: Any, axes: Shape) -> Callable[..., Arrays]:
    def run(backend: Backend, rng: np.random.Generator, shape: Shape) -> Arrays:
        results = []
        squares = [-(-n // 64) * 64 if axis in (2, axes[2]) else n for axis, n in enumerate(shape)]
        for size in (shape, tuple(squares)):  # as they come, and whole squares of the old columns and the new
            source = backend.upload(_noise(rng, size, dtype))
            flips = (bool(rng.integers(2)), True, bool(rng.integers(2)))
            results.append(backend.download(reorient_array(source, axes, flips, backend)))
        return results

    return run


def _spec(dtype: Any, bits: int, shape: Shape) -> FrameSpec:
    kind = np.dtype(dtype)
    return FrameSpec("", shape[1], shape[2], 8 * kind.itemsize, bits, bits - 1, kind.kind == "i")


def _modality(dtype: Any, bits: int, slope: float) -> Callable[..., Arrays]:
    def run(backend: Backend, rng: np.random.Generator, shape: Shape) -> Arrays:
        stored = backend.upload(_noise(rng, shape, dtype))
        slopes = np.full(shape[0], slope)
        intercepts = rng.integers(-1024, 0, shape[0]).astype(np.float64)
        return [backend.download(to_modality(stored, _spec(dtype, bits, shape), slopes, intercepts, backend=backend))]

    return run


def _window(dtype: Any, window: Window) -> Callable[..., Arrays]:
    def run(backend: Backend, rng: np.random.Generator, shape: Shape) -> Arrays:
        source = backend.upload(_noise(rng, shape, dtype))
        return [backend.download(apply_window_array(source, window, backend))]

    return run


def _grey(dtype: Any, bits: int, make: Any, slope: float = 1.0) -> Callable[..., Arrays]:
    def run(backend: Backend, rng: np.random.Generator, shape: Shape) -> Arrays:
        least = -(1 << bits - 1) if np.dtype(dtype).kind == "i" else 0
        stored = rng.integers(least, least + (1 << bits), shape).astype(dtype)
        plain = [GreyRule(slope, -3.0), GreyRule(slope, 5.0, voi=GreyWindow(20, 100))]
        padded = [GreyRule(slope, 5.0, is_inverted=True, padding=(0, 1)), GreyRule(modality_lut=Lut(0, (5, 9, 2), 8))]
        results = []
        for rules in (plain, padded):
            image = make(backend.upload(stored.copy()), [rules[z % 2] for z in range(shape[0])], bits, backend=backend)
            results += [backend.download(image.planes), np.array(image.background)]
        return results

    return run


def _look_up(backend: Backend, rng: np.random.Generator, shape: Shape) -> Arrays:
    table = rng.integers(0, 1 << 16, 256).astype(np.uint16)
    stored = rng.integers(0, 256, shape)
    return [
        backend.download(look_up(backend.upload(stored.astype(dtype)), colours, backend=backend))
        for dtype, colours in product((np.uint8, np.uint16), (table, (table >> 8).astype(np.uint8)))
    ]


def _resample(dtype: Any, interpolation: Any) -> Callable[..., Arrays]:
    def run(backend: Backend, rng: np.random.Generator, shape: Shape) -> Arrays:
        volume = Volume(backend.upload(_smooth(rng, shape, dtype)), _grid(shape))
        target = volume.geometry.with_spacing((1.1, 1.0, 1.3))
        done = resample.resample_volume(
            volume, target, interpolation=interpolation, antialias=interpolation == "lanczos", fill=3, backend=backend
        )
        return [backend.download(done.array)]

    return run


def _resample_and_window(dtype: Any, interpolation: Any, window: Window) -> Callable[..., Arrays]:
    def run(backend: Backend, rng: np.random.Generator, shape: Shape) -> Arrays:
        volume = Volume(backend.upload(_smooth(rng, shape, dtype)), _grid(shape))
        target = volume.geometry.with_spacing((1.1, 1.0, 1.3))
        done = resample.resample_and_window(
            volume, target, window, interpolation=interpolation, antialias=False, fill=3, backend=backend
        )
        return [backend.download(done.array)]

    return run


def _labels(dtype: Any, degrees: float) -> Callable[..., Arrays]:
    def run(backend: Backend, rng: np.random.Generator, shape: Shape) -> Arrays:
        codes = backend.upload(_noise(rng, shape, dtype))
        target = _grid((shape[0] + 2, shape[1], shape[2] + 3), (2.1, 0.9, 0.8), degrees)
        return [backend.download(resample.resample_labels(codes, _grid(shape), target, backend=backend))]

    return run


def _oblique(dtype: Any) -> Callable[..., Arrays]:
    def run(backend: Backend, rng: np.random.Generator, shape: Shape) -> Arrays:
        volume = Volume(backend.upload(_smooth(rng, shape, dtype)), _grid(shape))
        target = _grid(shape, (2.1, 0.9, 0.8), 20)
        done = resample.resample_to_grid(volume, target, interpolation="linear", fill=3, backend=backend)
        return [backend.download(done.array)]

    return run


def _regularize(dtype: Any) -> Callable[..., Arrays]:
    def run(backend: Backend, rng: np.random.Generator, shape: Shape) -> Arrays:
        planes = backend.upload(_smooth(rng, shape, dtype))
        grid = _grid(shape)
        steps = np.cumsum(rng.uniform(1.5, 4.0, shape[0]))
        offsets = grid.origin_lps_mm + np.outer(steps, (0, 0.1, 1))
        done = resample.regularize(planes, offsets, grid, interpolation="linear", fill=3, backend=backend)
        return [backend.download(done)]

    return run


def _resize(dtype: Any, name: str) -> Callable[..., Arrays]:
    def run(backend: Backend, rng: np.random.Generator, shape: Shape) -> Arrays:
        planes = backend.upload(_smooth(rng, shape, dtype))
        height, width = max(1, shape[1] * 3 // 5), shape[2] * 5 // 3
        return [backend.download(resize.resize_planes(planes, height, width, filter_name=name, backend=backend))]

    return run


def _fit(dtype: Any) -> Callable[..., Arrays]:
    def run(backend: Backend, rng: np.random.Generator, shape: Shape) -> Arrays:
        planes = backend.upload(_smooth(rng, shape, dtype))
        count, height, width = shape
        left, top = rng.integers(0, width, count), rng.integers(0, height, count)
        sizes = [(int(rng.integers(1, width + 4)), int(rng.integers(1, height + 4))) for _ in range(count)]
        boxes = [(int(x), int(y), int(width - x), int(height - y)) for x, y in zip(left, top, strict=True)]
        fill = rng.integers(0, 100, count).astype(dtype)
        done = resize.resize_boxes(
            planes, boxes, sizes, (height + 3, width + 3), fill, filter_name="triangle", backend=backend
        )
        return [backend.download(done)]

    return run


def _rasterize(count: int, overlap: Any) -> Callable[..., Arrays]:
    def run(backend: Backend, rng: np.random.Generator, shape: Shape) -> Arrays:
        grid = _grid(shape)
        depth, height, width = shape
        rois = []
        for number in range(count):
            contours = []
            for _ in range(3):
                angles = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(3, 60))))
                radii = rng.uniform(0.1, 1, len(angles)) * min(height, width) / 2
                centre = rng.uniform(0, 1, 2) * (height, width)
                index = np.stack(
                    [
                        np.full(len(angles), rng.integers(0, depth)),
                        centre[0] + radii * np.sin(angles),
                        centre[1] + radii * np.cos(angles),
                    ],
                    axis=1,
                )
                contours.append(Contour("CLOSED_PLANAR", grid.to_lps(index)))
            rois.append(RoiContours(Roi(number, f"ROI {number}"), tuple(contours)))
        mask = rasterize(rois, SliceGrid(grid), overlap=overlap, backend=backend).mask
        return [mask.codes, mask.table]

    return run


def _planes(count: int) -> Callable[..., Arrays]:
    def run(backend: Backend, rng: np.random.Generator, shape: Shape) -> Arrays:
        words = -(-count // 32)
        planes = rng.integers(0, 2**32, (words, *shape), np.uint32) & rng.integers(0, 2, shape, np.uint32) * 0x01000011
        planes[-1] &= np.uint32((1 << (count - 32 * (words - 1))) - 1)
        rois = [Roi(number, f"ROI {number}") for number in range(count)]
        mask = palette_of_planes(backend.upload(planes), rois, _grid(shape), backend=backend)
        return [mask.codes, mask.table]

    return run


def _codes(dtype: Any) -> Callable[..., Arrays]:
    """Planes → codes → other codes in a box of a volume, each kernel on its own.

    Which code a set gets depends on the order of threads: the codes are told by the sets they stand for.
    """
    capacity, sets = 256, 40

    def run(backend: Backend, rng: np.random.Generator, shape: Shape) -> Arrays:
        depth, rows, columns = shape
        planes = rng.integers(0, sets, (1, *shape)).astype(np.uint32)
        slices = rng.permutation(depth + 1)[:depth].astype(np.int32)
        volume, y0, x0 = (depth + 1, rows + 5, columns + 9), 2, 7
        inside = (slices, slice(y0, y0 + rows), slice(x0, x0 + columns))
        if not backend.has_kernels:
            filled = np.zeros(volume, np.uint32)
            filled[inside] = planes[0]
            return [filled, filled > 0]
        codes, slots = backend.xp.zeros(volume, dtype), backend.xp.zeros(capacity, np.uint32)
        suffix = f"u{8 * np.dtype(dtype).itemsize}"
        grid = (-(-columns // (backend.lanes * BOX_BLOCK[0])), -(-rows // BOX_BLOCK[1]), depth)
        box = tuple(map(np.int32, (rows, columns, *volume[1:], y0, x0)))
        where = backend.upload(slices)
        sizes = (np.uint32(capacity), np.int32(1), np.int32(depth))
        arrays = (backend.upload(planes), slots, codes, where)
        backend.launch(f"palette_encode_{suffix}", grid, BOX_BLOCK, (*arrays, *sizes, *box))
        owner = backend.download(slots).astype(np.int64)
        key = np.where(owner > 0, planes.reshape(-1)[owner - 1], 0).astype(np.uint32)
        encoded = key[backend.download(codes).copy()]
        lut = (np.arange(capacity) > 0).astype(dtype)
        backend.launch(f"palette_relabel_{suffix}", grid, BOX_BLOCK, (codes, backend.upload(lut), where, *box))
        return [encoded, backend.download(codes) > 0]

    return run
