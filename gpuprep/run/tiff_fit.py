"""Planes to their place in a TIFF: crop, size and padding, of one image or of each of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuprep.backends.base import Backend
from gpuprep.errors import GeometryError
from gpuprep.ops.crop import crop_or_pad_array, move_planes
from gpuprep.ops.grey import GreyImages
from gpuprep.ops.region import Region, find_region, find_regions, greatest_value
from gpuprep.ops.resize import resize_boxes, resize_planes
from gpuprep.run.tiff_options import MOST_PIXELS, TiffOptions

#: Grey levels of 16 bits up to here count as zero where padding looks for empty borders: what 8 bits would make 0.
_BLACK_16 = 128


@dataclass(frozen=True, slots=True)
class Fit:
    """How planes were fitted: the crop, the size it was resized to, the one scale aimed at, and the padding."""

    crop: Region
    size: tuple[int, int]
    nominal_scale: float | None
    pad: tuple[int, int, int, int]


def fit_planes(
    planes: Any,
    background: float,
    spacing_yx_mm: tuple[float, float] | None,
    options: TiffOptions,
    *,
    white: float | None = None,
    samples: int = 1,
    backend: Backend,
) -> tuple[Any, Fit]:
    """Crop, resize and pad all planes alike, as the first of them and the options say.

    Parameters
    ----------
    planes : array of shape (frames · samples, H, W), uint8, uint16, int16 or float32
        On `backend`; the samples of a pixel are neighbouring planes.
    background : float
        Value of background and padding.
    spacing_yx_mm : (float, float) or None
        Pixel spacing of the planes.
    options : TiffOptions
        Crop, size, filter and padding.
    white : float, optional
        The other end, by default the greatest value of the dtype.
    samples : int
        1, or 3 for RGB.
    backend : Backend
        Where to compute.

    Raises
    ------
    GeometryError
        ``spacing-unknown``.
    """
    height, width = planes.shape[1:]
    crop: Region = (0, 0, width, height)
    if options.crop is not None:
        crop = find_region(planes, background, options.crop, white=white, samples=samples, backend=backend)
    size, nominal = _target_size(crop, spacing_yx_mm, options)
    planes = _resize(planes, crop, size, options.filter_name, backend)
    white = greatest_value(planes.dtype) if white is None else white
    pad = _padding(planes[:samples], background, white, options, backend)
    if any(pad):
        left, top, right, bottom = pad
        shape = (len(planes), size[1] + top + bottom, size[0] + left + right)
        planes = crop_or_pad_array(planes, (0, -top, -left), shape, background, backend)
    return planes, Fit(crop, size, nominal, pad)


def fit_each(images: GreyImages, options: TiffOptions, backend: Backend) -> tuple[Any, list[Fit]]:
    """Crop, resize and pad each plane as `fit_planes` does one; each result is the upper left of its plane."""
    if options.size is None:
        raise ValueError("planes without a common size")
    planes = images.planes
    count, height, width = planes.shape
    fill, whites = (np.array(values).astype(planes.dtype) for values in (images.backgrounds, images.whites))
    crops: list[Region] = [(0, 0, width, height)] * count
    if options.crop is not None:
        crops = find_regions(planes, fill, whites, options.crop, backend=backend)
    targets = [_target_size(crop, None, options) for crop in crops]
    sizes = [size for size, _ in targets]
    shape = (options.size[1], options.size[0])
    fitted = resize_boxes(planes, crops, sizes, shape, fill, filter_name=options.filter_name, backend=backend)
    pads = [
        _pad_sides(size, dark, options)
        for size, dark in zip(sizes, _dark_ends(fitted, sizes, fill, whites, options, backend), strict=True)
    ]
    left, top = (np.array([pad[side] for pad in pads], np.int32) for side in (0, 1))
    if left.any() or top.any():
        fitted = move_planes(fitted, top, left, fill, backend)
    fits = [Fit(crop, size, nominal, pad) for crop, (size, nominal), pad in zip(crops, targets, pads, strict=True)]
    return fitted, fits


def _target_size(
    crop: Region, spacing_yx_mm: tuple[float, float] | None, options: TiffOptions
) -> tuple[tuple[int, int], float | None]:
    """Return width and height of the resized image, and the one scale that was aimed at for both."""
    _, _, width, height = crop
    if options.size is not None:
        scale = min(np.float32(wanted) / np.float32(n) for wanted, n in zip(options.size, (width, height), strict=True))
        fitted = (_scaled(width, scale), _scaled(height, scale))
        return (min(fitted[0], options.size[0]), min(fitted[1], options.size[1])), float(scale)
    if options.spacing_xyz_mm is not None:
        if spacing_yx_mm is None:
            raise GeometryError("its pixel spacing is not known", code="spacing-unknown", hint="use --size")
        spacing_y, spacing_x = spacing_yx_mm
        x, y, _ = options.spacing_xyz_mm
        size = (_scaled(width, np.float32(spacing_x / x)), _scaled(height, np.float32(spacing_y / y)))
        check_length(max(size), f"a spacing of {x:g} × {y:g} mm", "pixels")
        return size, None
    return (width, height), None


def check_length(n: int, what: str, unit: str) -> None:
    """Refuse more pixels along an axis, or frames, than a TIFF counts: GeometryError ``too-large``."""
    if n > MOST_PIXELS:
        raise GeometryError(
            f"{what} makes {n} {unit}, more than {MOST_PIXELS}",
            code="too-large",
            hint="use a coarser --spacing, or --size",
        )


def _scaled(n: int, scale: np.float32) -> int:
    return max(1, int(np.floor(float(np.float32(n) * scale) + 0.5)))


def _resize(planes: Any, crop: Region, size: tuple[int, int], filter_name: str, backend: Backend) -> Any:
    left, top, width, height = crop
    if size != (width, height):
        return resize_planes(planes, size[1], size[0], filter_name=filter_name, backend=backend, box=crop)
    if (height, width) == planes.shape[1:]:
        return planes
    return crop_or_pad_array(planes, (0, top, left), (len(planes), height, width), 0, backend)


#: How many pixels are background in the first and last column, and in the first and last row.
DarkEnds = tuple[int, int, int, int]


def _is_dark(values: NDArray[Any], background: Any, white: Any) -> NDArray[np.bool_]:
    if values.dtype == np.uint16:
        background = _BLACK_16
    return np.asarray(values <= background if background <= white else values >= background)


def _padding(
    frame: Any, background: float, white: float, options: TiffOptions, backend: Backend
) -> tuple[int, int, int, int]:
    """Return how many pixels are added at left, top, right and bottom of a resized frame, (samples, H, W)."""
    dark: DarkEnds = (0, 0, 0, 0)
    if options.size is not None and options.padding == "zero":
        first_column, last_column, first_row, last_row = (
            int(_is_dark(backend.download(edge), background, white).all(axis=0).sum())
            for edge in (frame[:, :, 0], frame[:, :, -1], frame[:, 0, :], frame[:, -1, :])
        )
        dark = first_column, last_column, first_row, last_row
    return _pad_sides((frame.shape[2], frame.shape[1]), dark, options)


def _dark_ends(
    fitted: Any,
    sizes: Sequence[tuple[int, int]],
    fill: NDArray[Any],
    whites: NDArray[Any],
    options: TiffOptions,
    backend: Backend,
) -> list[DarkEnds]:
    """Return the dark ends of each picture at the upper left of its plane; zeros when the padding does not ask."""
    if options.padding != "zero":
        return [(0, 0, 0, 0)] * len(sizes)
    each = backend.xp.arange(len(sizes))
    last_x, last_y = (backend.upload(np.array([size[axis] - 1 for size in sizes])) for axis in (0, 1))
    edges = fitted[:, :, 0], fitted[each, :, last_x], fitted[:, 0, :], fitted[each, last_y, :]
    columns_first, columns_last, rows_first, rows_last = map(backend.download, edges)
    ends = []
    for i, (width, height) in enumerate(sizes):
        columns = (c[i, :height] for c in (columns_first, columns_last))
        rows = (r[i, :width] for r in (rows_first, rows_last))
        first_column, last_column, first_row, last_row = (
            int(_is_dark(edge, fill[i], whites[i]).sum()) for edge in (*columns, *rows)
        )
        ends.append((first_column, last_column, first_row, last_row))
    return ends


def _pad_sides(size: tuple[int, int], dark: DarkEnds, options: TiffOptions) -> tuple[int, int, int, int]:
    """Return how many pixels are added at left, top, right and bottom of a picture of this width and height."""
    if options.size is None or options.padding == "none":
        return 0, 0, 0, 0
    x, y = options.size[0] - size[0], options.size[1] - size[1]
    match options.padding:
        case "top-left":
            return x, y, 0, 0
        case "bottom-right":
            return 0, 0, x, y
        case "center":
            return x // 2, y // 2, x - x // 2, y - y // 2
    first_column, last_column, first_row, last_row = dark
    left, top = (0 if first_column < last_column else x), (0 if first_row < last_row else y)
    return left, top, x - left, y - top
