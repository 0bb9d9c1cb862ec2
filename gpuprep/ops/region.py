"""Which part of an image is picture: the box that a crop keeps, for all frames alike."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gpuprep import hostlib
from gpuprep.backends.base import Backend
from gpuprep.errors import ConfigError
from gpuprep.ops.crop import Box, foreground_box, foreground_boxes
from gpuprep.ops.resize import nearest_pixels

#: Left, top, width, height, pixels.
Region = tuple[int, int, int, int]

CropMode = Literal["box", "components"]

#: Components are looked for in an image of at most this many pixels a side, in 8 bits, above this level. Source: the
#: behaviour of dicom-preprocessing.
_THUMBNAIL = 512
_THUMBNAIL_LEVEL = 1
#: Luma weights, ten-thousandths. Source: ITU-R BT.709.
_LUMA = (2126, 7152, 722)


@dataclass(frozen=True, slots=True)
class CropOptions:
    """How the picture is told from the background.

    Parameters
    ----------
    mode : {"box", "components"}
        All that is not background, or of each frame only the largest connected part of that.
    max_is_background : bool
        The dtype's greatest value is background too: burnt-in marks do not hold up the crop.
    border_fraction : float
        Share of width and height at each border where nothing is looked for; the box is grown by as much.
    empty_frame_keeps_all : bool
        A frame without picture makes the crop keep everything, as in dicom-preprocessing.

    Raises
    ------
    ConfigError
        ``bad-border``: `border_fraction` is not from 0 to 0.5.
    """

    mode: CropMode = "box"
    max_is_background: bool = False
    border_fraction: float = 0.0
    empty_frame_keeps_all: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.border_fraction < 0.5:
            raise ConfigError(
                f"border fraction {self.border_fraction} is not from 0 to 0.5",
                code="bad-border",
                hint="0.05 leaves out a twentieth of the image at each border",
            )


def find_region(planes: Any, background: float, options: CropOptions, *, samples: int = 1, backend: Backend) -> Region:
    """Return the smallest region that holds the picture of all frames; the whole image when there is none.

    Parameters
    ----------
    planes : array of shape (frames · samples, H, W), uint8, uint16, int16 or float32
        On `backend`; the samples of a pixel are neighbouring planes.
    background : float
        Values up to this one are background.
    options : CropOptions
    samples : int
        1, or 3 for RGB.
    backend : Backend
        Where to compute.
    """
    height, width = planes.shape[1:]
    whole: Region = (0, 0, width, height)
    per_frame = [planes[i : i + samples] for i in range(0, len(planes), samples)]
    one_by_one = options.mode == "components" or options.empty_frame_keeps_all
    regions = []
    for frames in per_frame if one_by_one else [planes]:
        region = _box(frames, background, options, backend)
        if region is None and options.empty_frame_keeps_all:
            return whole
        if region is not None and options.mode == "components":
            region = _largest_component(backend.download(frames), region)
        if region is not None:
            regions.append(region)
    return _union(regions) if regions else whole


def find_regions(planes: Any, backgrounds: NDArray[Any], options: CropOptions, *, backend: Backend) -> list[Region]:
    """Return the region of each plane, an image of its own: what `find_region` says of it, from one launch.

    Parameters
    ----------
    planes : array of shape (N, H, W), uint8, uint16, int16 or float32
        On `backend`.
    backgrounds : ndarray of shape (N,) and the dtype of `planes`
        Values up to these are background.
    options : CropOptions
    backend : Backend
        Where to compute.
    """
    height, width = planes.shape[1:]
    whole: Region = (0, 0, width, height)
    inner, thresholds, margins = _search_area(planes, backgrounds, options)
    regions = []
    for plane, box in zip(planes, foreground_boxes(inner, thresholds, backend) if inner.size else [], strict=False):
        region = _grown(box, margins, width, height) if box is not None else None
        if region is not None and options.mode == "components":
            region = _largest_component(backend.download(plane[None]), region)
        regions.append(region or whole)
    return regions or [whole] * len(planes)


def _search_area(planes: Any, background: Any, options: CropOptions) -> tuple[Any, Any, tuple[int, int]]:
    """Return where the picture is looked for, above which value, and the margins (x, y) that are left out."""
    height, width = planes.shape[1:]
    fraction = np.float32(options.border_fraction)
    margin_x, margin_y = int(np.float32(width) * fraction), int(np.float32(height) * fraction)
    end_x, end_y = int(np.float32(width) * (1 - fraction)), int(np.float32(height) * (1 - fraction))
    inner = planes[:, margin_y:end_y, margin_x:end_x]
    if options.max_is_background and inner.size and inner.dtype.kind == "u":
        inner, background = inner + inner.dtype.type(1), background + 1  # the greatest value wraps to 0
    return inner, background, (margin_x, margin_y)


def _box(planes: Any, background: float, options: CropOptions, backend: Backend) -> Region | None:
    inner, threshold, margins = _search_area(planes, background, options)
    box = foreground_box(inner, threshold, backend) if inner.size else None
    return _grown(box, margins, planes.shape[2], planes.shape[1]) if box is not None else None


def _grown(box: Box, margins: tuple[int, int], width: int, height: int) -> Region:
    """Return the region of a box that was found within margins, grown by as much."""
    (_, top, left), (_, box_height, box_width) = box
    margin_x, margin_y = margins
    right, bottom = min(width, left + box_width + 2 * margin_x), min(height, top + box_height + 2 * margin_y)
    return left, top, right - left, bottom - top


def _union(regions: list[Region]) -> Region:
    left, top = min(r[0] for r in regions), min(r[1] for r in regions)
    return left, top, max(r[0] + r[2] for r in regions) - left, max(r[1] + r[3] for r in regions) - top


def _largest_component(frame: NDArray[Any], region: Region) -> Region:
    """Return the box of the largest connected part of a region, found on a thumbnail of it."""
    left, top, width, height = region
    part = frame[:, top : top + height, left : left + width]
    scale = min(_THUMBNAIL / width, _THUMBNAIL / height, 1.0)
    small_width, small_height = (max(1, int(n * scale + 0.5)) for n in (width, height))
    rows, columns = nearest_pixels(height, small_height), nearest_pixels(width, small_width)
    found = largest_component(_to_8_bits(part[:, rows[:, None], columns]) > _THUMBNAIL_LEVEL)
    if found is None:
        return region
    x, y, found_width, found_height = found
    new_left, new_right = x * width // small_width, -(-(x + found_width) * width // small_width)
    new_top, new_bottom = y * height // small_height, -(-(y + found_height) * height // small_height)
    return left + new_left, top + new_top, new_right - new_left, new_bottom - new_top


def _to_8_bits(planes: NDArray[Any]) -> NDArray[Any]:
    """Return one plane of 0 to 255: luma of colour, 16 bits by division, other values stretched to their range."""
    values: NDArray[Any] = planes.astype(np.int64 if planes.dtype.kind == "u" else np.float64)
    grey: NDArray[Any] = (
        np.tensordot(np.array(_LUMA), values, 1) // sum(_LUMA) if len(planes) == len(_LUMA) else values[0]
    )
    if planes.dtype == np.uint16:
        return np.asarray((grey + 128) // 257)
    if planes.dtype == np.uint8:
        return grey
    span = float(grey.max() - grey.min()) or 1.0
    return np.asarray(np.floor((grey - grey.min()) / span * 255))


def largest_component(foreground: NDArray[np.bool_]) -> Region | None:
    """Return the box of the 4-connected component with the most pixels; of several, of the one that begins last."""
    library, _ = hostlib.load()
    library.gp_largest_component.restype = ctypes.c_int64
    image = np.ascontiguousarray(foreground, np.uint8)
    box = (ctypes.c_int32 * 4)()
    height, width = image.shape
    count = library.gp_largest_component(
        image.ctypes.data_as(ctypes.c_void_p), ctypes.c_int32(height), ctypes.c_int32(width), box
    )
    if count < 0:
        raise MemoryError(f"no memory for the components of {height} × {width} pixels")
    top, left, bottom, right = box
    return (left, top, right - left + 1, bottom - top + 1) if count else None
