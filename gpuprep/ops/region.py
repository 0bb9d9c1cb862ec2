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
from gpuprep.ops.resize import resize_planes

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
        White is background too: burnt-in marks do not hold up the crop.
    border_fraction : float
        Share of width and height at each border where nothing is looked for; the box is grown by as much.
    empty_frame_keeps_all : bool
        A frame without picture makes the crop keep everything, as in dicom-preprocessing.

    Raises
    ------
    ConfigError
        ``bad-border``: `border_fraction` is not from 0 to less than 0.5.
    """

    mode: CropMode = "box"
    max_is_background: bool = False
    border_fraction: float = 0.0
    empty_frame_keeps_all: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.border_fraction < 0.5:
            raise ConfigError(
                f"border fraction {self.border_fraction} is not from 0 to less than 0.5",
                code="bad-border",
                hint="0.05 leaves out a twentieth of the image at each border",
            )


def find_region(
    planes: Any,
    background: float,
    options: CropOptions,
    *,
    white: float | None = None,
    samples: int = 1,
    backend: Backend,
) -> Region:
    """Return the smallest region that holds the picture of all frames; the whole image when there is none.

    Parameters
    ----------
    planes : array of shape (frames · samples, H, W), uint8, uint16, int16 or float32
        On `backend`; the samples of a pixel are neighbouring planes.
    background : float
        Value of black: it and values beyond it, seen from white, are background.
    options : CropOptions
    white : float, optional
        Less than `background` where lower values are brighter; by default the greatest value of the dtype. A colour is
        white when all its samples are.
    samples : int
        1, or 3 for RGB.
    backend : Backend
        Where to compute.
    """
    height, width = planes.shape[1:]
    whole: Region = (0, 0, width, height)
    ends = np.array([background, greatest_value(planes.dtype) if white is None else white]).astype(planes.dtype)
    planes, black, whites = _ascending(planes, ends[:1], ends[1:], backend)
    per_frame = [planes[i : i + samples] for i in range(0, len(planes), samples)]
    one_by_one = options.mode == "components" or options.empty_frame_keeps_all
    regions = []
    for frames in per_frame if one_by_one else [planes]:
        inner, margins = _search_area(frames, black, whites, options, samples, backend)
        box = foreground_box(inner, float(black[0]), backend) if inner.size else None
        if box is None and options.empty_frame_keeps_all:
            return whole
        if box is not None:
            region = _grown(box, margins, width, height)
            if options.mode == "components":
                region = _largest_component(frames, region, backend)
            regions.append(region)
    return _union(regions) if regions else whole


def find_regions(
    planes: Any, backgrounds: NDArray[Any], whites: NDArray[Any], options: CropOptions, *, backend: Backend
) -> list[Region]:
    """Return the region of each plane, an image of its own: what `find_region` says of it, from one launch.

    Parameters
    ----------
    planes : array of shape (N, H, W), uint8, uint16, int16 or float32
        On `backend`.
    backgrounds, whites : ndarray of shape (N,) and the dtype of `planes`
        Black and white of each, as `find_region` takes them.
    options : CropOptions
    backend : Backend
        Where to compute.
    """
    height, width = planes.shape[1:]
    planes, black, whites = _ascending(planes, backgrounds, whites, backend)
    inner, margins = _search_area(planes, black, whites, options, 1, backend)
    boxes = foreground_boxes(inner, black, backend) if inner.size else [None] * len(planes)
    regions: list[Region] = []
    for plane, box in zip(planes, boxes, strict=True):
        region = _grown(box, margins, width, height) if box is not None else (0, 0, width, height)
        if box is not None and options.mode == "components":
            region = _largest_component(plane.reshape(1, height, width), region, backend)
        regions.append(region)
    return regions


def greatest_value(dtype: np.dtype[Any]) -> float:
    """Return the greatest value of a dtype; of floats infinity."""
    return float(np.iinfo(dtype).max) if dtype.kind in "iu" else np.inf


def _ascending(
    planes: Any, black: NDArray[Any], white: NDArray[Any], backend: Backend
) -> tuple[Any, NDArray[Any], NDArray[Any]]:
    """Return planes, black and white, one for all planes or one each, so that greater values are brighter."""
    descends = white < black
    if not descends.any():
        return planes, black, white
    top = planes.dtype.type(-1 if planes.dtype.kind == "i" else 0)  # -1 - v has a value for each int16
    turned = backend.xp.where(backend.upload(descends[:, None, None]), top - planes, planes)
    return turned, np.where(descends, top - black, black), np.where(descends, top - white, white)


def _search_area(
    planes: Any, black: NDArray[Any], white: NDArray[Any], options: CropOptions, samples: int, backend: Backend
) -> tuple[Any, tuple[int, int]]:
    """Return where the picture is looked for, with white as black if that is asked for, and the margins left out."""
    height, width = planes.shape[1:]
    fraction = np.float32(options.border_fraction)
    margin_x, margin_y = int(np.float32(width) * fraction), int(np.float32(height) * fraction)
    end_x, end_y = int(np.float32(width) * (1 - fraction)), int(np.float32(height) * (1 - fraction))
    inner = planes[:, margin_y:end_y, margin_x:end_x]
    if options.max_is_background and inner.size:
        frames = inner.reshape(-1, samples, *inner.shape[1:])
        each_black, each_white = (backend.upload(values[:, None, None, None]) for values in (black, white))
        is_white = (frames == each_white).all(axis=1, keepdims=True)
        inner = backend.xp.where(is_white, each_black, frames).reshape(inner.shape)
    return inner, (margin_x, margin_y)


def _grown(box: Box, margins: tuple[int, int], width: int, height: int) -> Region:
    """Return the region of a box that was found within margins, grown by as much."""
    (_, top, left), (_, box_height, box_width) = box
    margin_x, margin_y = margins
    right, bottom = min(width, left + box_width + 2 * margin_x), min(height, top + box_height + 2 * margin_y)
    return left, top, right - left, bottom - top


def _union(regions: list[Region]) -> Region:
    left, top = min(r[0] for r in regions), min(r[1] for r in regions)
    return left, top, max(r[0] + r[2] for r in regions) - left, max(r[1] + r[3] for r in regions) - top


def _largest_component(frame: Any, region: Region, backend: Backend) -> Region:
    """Return the box of the largest connected part of a region, found on a thumbnail of it."""
    left, top, width, height = region
    scale = min(_THUMBNAIL / width, _THUMBNAIL / height, 1.0)
    small_width, small_height = (max(1, int(n * scale + 0.5)) for n in (width, height))
    thumbnail = resize_planes(frame, small_height, small_width, filter_name="nearest", backend=backend, box=region)
    found = largest_component(_to_8_bits(thumbnail, backend) > _THUMBNAIL_LEVEL, backend)
    if found is None:
        return region
    x, y, found_width, found_height = found
    new_left, new_right = x * width // small_width, -(-(x + found_width) * width // small_width)
    new_top, new_bottom = y * height // small_height, -(-(y + found_height) * height // small_height)
    return left + new_left, top + new_top, new_right - new_left, new_bottom - new_top


def _to_8_bits(planes: Any, backend: Backend) -> Any:
    """Return one plane of 0 to 255: luma of colour, 16 bits by division, other values stretched to their range."""
    values = planes.astype(np.int64 if planes.dtype.kind == "u" else np.float64)
    grey = values[0]
    if len(planes) == len(_LUMA):
        red, green, blue = (values[i] * weight for i, weight in enumerate(_LUMA))
        grey = (red + green + blue) // sum(_LUMA)
    if planes.dtype == np.uint16:
        return (grey + 128) // 257
    if planes.dtype == np.uint8:
        return grey
    low, high = float(grey.min()), float(grey.max())
    return backend.xp.floor((grey - low) / ((high - low) or 1.0) * 255)


def largest_component(foreground: Any, backend: Backend) -> Region | None:
    """Return the box of the 4-connected component with the most pixels; of several, of the one that begins last.

    Parameters
    ----------
    foreground : array of shape (H, W), bool
        On `backend`; on a device it is looked at there.
    backend : Backend
        Where to compute.
    """
    if backend.ndimage is None:
        return _largest_on_host(foreground)
    labels, count = backend.ndimage.label(foreground)  # 1, 2, … in the order of their first pixels
    if count == 0:
        return None
    sizes = backend.download(backend.xp.bincount(labels.reshape(-1)))[1:]
    largest = int(np.flatnonzero(sizes == sizes.max())[-1]) + 1
    box = foreground_box((labels == largest).view(np.uint8).reshape(1, *labels.shape), 0, backend)
    if box is None:
        raise AssertionError
    (_, top, left), (_, height, width) = box
    return left, top, width, height


def _largest_on_host(foreground: NDArray[np.bool_]) -> Region | None:
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
