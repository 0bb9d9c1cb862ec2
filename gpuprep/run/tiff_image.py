"""One file, or a batch of like ones, to the images that TIFFs are made of: grey levels, frames, crop, size, padding."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gpuprep.backends.base import Backend
from gpuprep.codecs.batch import decode_instance
from gpuprep.coordinates import CoordinateMap
from gpuprep.dicom.display import SPACING_RANGE_MM, Display, read_display
from gpuprep.dicom.header import InstanceHeader
from gpuprep.dicom.stack import FrameSpec
from gpuprep.errors import ConfigError, DeviceMemoryError, GeometryError
from gpuprep.ops.crop import crop_or_pad_array, move_planes
from gpuprep.ops.frames import FrameHandling, combine_frames, interpolate_frames
from gpuprep.ops.grey import (
    GreyImage,
    GreyImages,
    GreyRule,
    GreyWindow,
    look_up,
    to_grey,
    to_grey_images,
    to_value_images,
    to_values,
)
from gpuprep.ops.region import CropOptions, Region, find_region, find_regions, greatest_value
from gpuprep.ops.resize import FILTERS, resize_boxes, resize_planes
from gpuprep.run.case import Stopwatch
from gpuprep.run.memory import check_room, describe_shortage
from gpuprep.writers.tiff import TiffOrigin, TiffStyle

_LOG = logging.getLogger(__name__)

Padding = Literal["zero", "top-left", "bottom-right", "center", "none"]
Layout = Literal["study/sop", "study/series/sop"]

#: Most pixels along an axis of the output, and most frames: what PageNumber can count.
MOST_PIXELS = 65535
#: Bytes of a value, at most, and how many copies of all values a batch makes of its images and of what is written.
_VALUE_BYTES, _IMAGE_COPIES, _OUTPUT_COPIES = 4, 3, 2
#: Grey levels of 16 bits up to here count as zero where padding looks for empty borders: what 8 bits would make 0.
_BLACK_16 = 128


@dataclass(frozen=True, slots=True)
class TiffOptions:
    """What is done to every image.

    Parameters
    ----------
    crop : CropOptions or None
    size : (int, int) or None
        Width and height that the image is fitted into.
    spacing_xyz_mm : (float, float, float) or None
        Pixel and, if not 0, frame distance to resample to; not with `size`.
    filter_name : str
        One of `FILTERS`.
    padding : str
        Where pixels are added to reach `size`; ``zero``: at the sides that are emptier.
    frames : str
        What becomes of several frames.
    target_frames : int
        Frames of ``interpolate``.
    window : "voi", "minmax", "none" or (float, float)
        The file's VOI LUT or window, else least to greatest; the latter; modality values; centre and width.
    style : TiffStyle
    layout : str

    Raises
    ------
    ConfigError
        ``bad-size``, ``bad-spacing``, ``bad-window``, ``bad-frames``.
    """

    crop: CropOptions | None = None
    size: tuple[int, int] | None = None
    spacing_xyz_mm: tuple[float, float, float] | None = None
    filter_name: str = "triangle"
    padding: Padding = "zero"
    frames: FrameHandling = "keep"
    target_frames: int = 32
    window: Literal["voi", "minmax", "none"] | tuple[float, float] = "voi"
    style: TiffStyle = field(default_factory=TiffStyle)
    layout: Layout = "study/sop"

    def __post_init__(self) -> None:
        if self.size is not None and not all(0 < n <= MOST_PIXELS for n in self.size):
            raise ConfigError(
                f"size {self.size} is not from 1 to {MOST_PIXELS}", code="bad-size", hint="as in --size 384,512"
            )
        if self.spacing_xyz_mm is not None:
            x, y, z = self.spacing_xyz_mm
            least, most = SPACING_RANGE_MM
            if not (least <= x <= most and least <= y <= most and (z == 0 or least <= z <= most)):
                raise ConfigError(
                    f"spacing {self.spacing_xyz_mm} mm is not usable",
                    code="bad-spacing",
                    hint="give x,y or x,y,z in mm, as in --spacing 0.2,0.2",
                )
            if self.size is not None:
                raise ConfigError("--size and --spacing exclude each other", code="bad-size")
        if isinstance(self.window, tuple) and not (np.isfinite(self.window).all() and self.window[1] > 0):
            raise ConfigError(f"window {self.window} has no positive width", code="bad-window")
        if not 1 <= self.target_frames <= MOST_PIXELS:
            raise ConfigError(f"{self.target_frames} target frames", code="bad-frames")
        if self.filter_name not in FILTERS:
            raise ConfigError(f"there is no filter {self.filter_name!r}", code="unknown-filter")


@dataclass(frozen=True, slots=True)
class TiffImage:
    """Pixels as they are written, (frames, H, W) or (frames, H, W, 3), where they come from, and what decoded them."""

    frames: NDArray[Any]
    origin: TiffOrigin
    decoder: str


@dataclass(frozen=True, slots=True, eq=False)
class Loaded:
    """A decoded file: stored values of shape (frames, H, W) or (frames, H, W, samples), frames in display order."""

    header: InstanceHeader
    spec: FrameSpec
    display: Display
    stored: NDArray[Any]
    decoder: str


def load_image(header: InstanceHeader, threads: int, clock: Stopwatch) -> Loaded:
    """Read how a file is shown, and decode it.

    Raises
    ------
    CaseError
        HeaderError, GeometryError, DecodeError of the reading layers.
    """
    with clock.stage("headers"):
        spec = FrameSpec.from_header(header)
        display = read_display(header)
    with clock.stage("decode"):
        decoded = decode_instance(header, spec, workers=threads)
        stored = decoded.array
        if display.order != tuple(range(len(stored))):
            stored = stored[list(display.order)]
    return Loaded(header, spec, display, stored, decoded.decoder)


def make_image(
    header: InstanceHeader, options: TiffOptions, backend: Backend, threads: int, clock: Stopwatch | None = None
) -> TiffImage:
    """Decode a file and bring it to the wanted grey levels, frames, crop, size and padding.

    Raises
    ------
    CaseError
        As `load_image`; GeometryError ``spacing-unknown``: a spacing is asked for and the file has none, ``too-large``:
        it makes too many pixels or frames; DeviceMemoryError.
    """
    clock = clock or Stopwatch()
    return _make_image(load_image(header, threads, clock), options, backend, clock)


def _make_image(loaded: Loaded, options: TiffOptions, backend: Backend, clock: Stopwatch) -> TiffImage:
    display = loaded.display
    with clock.stage("intensity"):
        stored = backend.upload(loaded.stored)
        image, samples = _to_planes(stored, loaded.spec, display, options, backend)
        del stored
    with clock.stage("frames"):
        planes = _handle_frames(image.planes, samples, display, options, backend)
    with clock.stage("resample"):
        fitted, fit = fit_planes(
            planes,
            image.background,
            display.pixel_spacing_yx_mm,
            options,
            white=image.white,
            samples=samples,
            backend=backend,
        )
        frames = backend.download(fitted)
    if samples > 1:
        frames = np.ascontiguousarray(np.moveaxis(frames.reshape(-1, samples, *frames.shape[1:]), 1, -1))
    return _describe_image(loaded, frames, image.background, image.window, fit, planes.shape[1:], options)


@dataclass(frozen=True, slots=True)
class Made:
    """An image, where it was made, together with how many others, and a warning when that was for want of memory."""

    image: TiffImage
    backend: Backend
    together: int = 1
    warnings: tuple[str, ...] = ()


def make_where_it_fits(loaded: Loaded, options: TiffOptions, backend: Backend, clock: Stopwatch) -> Made:
    """Make an image on a backend, or on its host when the device has too little memory; see `make_image`.

    Raises
    ------
    CaseError
        Those of `make_image` but DeviceMemoryError.
    """
    try:
        with backend.activate():
            return Made(_make_image(loaded, options, backend, clock), backend)
    except DeviceMemoryError as error:
        shortage = error.message
    backend.free_memory()  # here, where the error is gone, and with it the frames that held arrays
    host = backend.host
    return Made(_make_image(loaded, options, host, clock), host, warnings=(describe_shortage(0, shortage),))


def make_where_they_fit(
    loaded: Sequence[Loaded], options: TiffOptions, backend: Backend, clock: Stopwatch
) -> list[Made]:
    """Make the images of a batch together; in halves, down to one by one, when the device has too little memory.

    Raises
    ------
    CaseError
        Those of `make_images` but DeviceMemoryError.
    """
    if len(loaded) < 2:
        return [make_where_it_fits(each, options, backend, clock) for each in loaded]
    try:
        if backend.memory_bytes is not None:
            check_room(estimate_batch_bytes(loaded, options), backend.memory_bytes)
        with backend.activate():
            images = make_images(loaded, options, backend, clock)
    except DeviceMemoryError as error:
        _LOG.info("%d images are too much for the device's memory: %s", len(loaded), error.message)
    else:
        return [Made(image, backend, len(loaded)) for image in images]
    backend.free_memory()
    half = len(loaded) // 2
    parts = loaded[:half], loaded[half:]
    return [made for part in parts for made in make_where_they_fit(part, options, backend, clock)]


def make_images(loaded: Sequence[Loaded], options: TiffOptions, backend: Backend, clock: Stopwatch) -> list[TiffImage]:
    """Bring the images of a batch to what `make_image` makes of each, with one launch a step for all of them.

    Parameters
    ----------
    loaded : sequence of Loaded
        With the same `batch_key`.
    options : TiffOptions
        With a size.

    Raises
    ------
    CaseError
        DeviceMemoryError.
    """
    spec = loaded[0].spec
    with clock.stage("intensity"):
        stored = backend.upload(np.concatenate([image.stored for image in loaded]))
        rules = [rule for image in loaded for rule in _grey_rules(image.display, image.spec, options)]
        to_images = to_value_images if options.window == "none" else to_grey_images
        grey = to_images(stored, rules, range(len(loaded)), spec.bits_stored, backend=backend)
        del stored
    with clock.stage("resample"):
        fitted, fits = _fit_each(grey, options, backend)
        pictures = backend.download(fitted)
    size = grey.planes.shape[1:]
    return [
        _describe_image(image, pictures[i : i + 1], grey.backgrounds[i], grey.windows[i], fits[i], size, options)
        for i, image in enumerate(loaded)
    ]


def estimate_batch_bytes(loaded: Sequence[Loaded], options: TiffOptions) -> int:
    """Return how many bytes of a device `make_images` is likely to take at most."""
    width, height = options.size or (0, 0)
    pixels = _IMAGE_COPIES * sum(each.stored.size for each in loaded) + _OUTPUT_COPIES * len(loaded) * width * height
    return sum(each.stored.nbytes for each in loaded) + _VALUE_BYTES * pixels


def _describe_image(
    loaded: Loaded,
    frames: NDArray[Any],
    background: float,
    window: GreyWindow | None,
    fit: Fit,
    source_shape: tuple[int, int],
    options: TiffOptions,
) -> TiffImage:
    """Return fitted pixels with all that their file says of them; what `fit` does not reach is cut off."""
    display, spacing = loaded.display, loaded.display.pixel_spacing_yx_mm
    left, top, right, bottom = fit.pad
    frames = frames[:, : fit.size[1] + top + bottom, : fit.size[0] + left + right]
    height, width = source_shape
    scale = (fit.size[0] / fit.crop[2], fit.size[1] / fit.crop[3])
    flip = (display.is_turned, display.is_turned)
    origin = TiffOrigin(
        coordinates=CoordinateMap((width, height), flip, fit.crop, scale, fit.pad),
        nominal_scale=fit.nominal_scale,
        was_cropped=options.crop is not None,
        was_resized=options.size is not None or options.spacing_xyz_mm is not None,
        was_padded=options.size is not None and options.padding != "none",
        pixels_per_mm=(scale[0] / spacing[1], scale[1] / spacing[0]) if spacing else None,
        description=_describe(loaded.header, display, background, window, options, len(frames)),
    )
    return TiffImage(np.ascontiguousarray(frames), origin, loaded.decoder)


# From planes to their place in the output


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
    white : float, optional
        The other end, by default the greatest value of the dtype.

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


def _fit_each(images: GreyImages, options: TiffOptions, backend: Backend) -> tuple[Any, list[Fit]]:
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


def _to_planes(
    stored: Any, spec: FrameSpec, display: Display, options: TiffOptions, backend: Backend
) -> tuple[GreyImage, int]:
    """Return planes and the samples a pixel: grey levels, or the channels of colour as neighbouring planes."""
    xp = backend.xp
    if display.palette is not None:
        channels = [look_up(stored, np.ascontiguousarray(display.palette[:, c]), backend=backend) for c in range(3)]
        return _colour(xp.stack(channels, axis=1).reshape(-1, *stored.shape[1:])), 3
    if spec.samples_per_pixel > 1:
        planes = xp.ascontiguousarray(xp.moveaxis(stored, -1, 1)).reshape(-1, *stored.shape[1:3])
        if planes.dtype.itemsize > 2:  # the upper 16 bits
            planes = (planes >> (8 * planes.dtype.itemsize - 16)).astype(np.uint16)
        return _colour(planes), spec.samples_per_pixel
    rules = _grey_rules(display, spec, options)
    if options.window == "none":
        return to_values(stored, rules, spec.bits_stored, backend=backend), 1
    return to_grey(stored, rules, spec.bits_stored, backend=backend), 1


def _colour(planes: Any) -> GreyImage:
    return GreyImage(planes, 0.0, greatest_value(planes.dtype), None)


def _grey_rules(display: Display, spec: FrameSpec, options: TiffOptions) -> list[GreyRule]:
    """Return the rule of each frame in display order."""
    return [_grey_rule(display, i, spec, options) for i in display.order]


def _grey_rule(display: Display, frame: int, spec: FrameSpec, options: TiffOptions) -> GreyRule:
    shown = display.frames[frame]
    function: Any = shown.voi_function
    if options.style.is_compat and function == "LINEAR":
        function = "LOWEST_IS_BLACK"
    voi: Any = None
    if isinstance(options.window, tuple):
        voi = GreyWindow(*options.window, function)
    elif options.window == "voi" and display.voi_lut is not None:
        voi = display.voi_lut
    elif options.window == "voi" and shown.window_centre is not None and shown.window_width is not None:
        voi = GreyWindow(shown.window_centre, shown.window_width, function)
    return GreyRule(
        slope=shown.slope,
        intercept=shown.intercept,
        modality_lut=display.modality_lut,
        voi=voi,
        is_inverted=spec.photometric_interpretation == "MONOCHROME1",
        padding=display.padding,
    )


def _handle_frames(planes: Any, samples: int, display: Display, options: TiffOptions, backend: Backend) -> Any:
    count = len(planes) // samples
    if options.frames == "interpolate":
        if count > 1:
            planes = interpolate_frames(planes, options.target_frames, samples=samples, backend=backend)
    elif count > 1:
        planes = combine_frames(planes, options.frames, samples=samples, backend=backend)
    if display.is_turned:
        planes = backend.xp.ascontiguousarray(planes[:, ::-1, ::-1])
    count = len(planes) // samples
    if options.spacing_xyz_mm is not None and options.spacing_xyz_mm[2] > 0 and count > 1:
        if display.slice_spacing_mm is None:
            raise GeometryError("the distance of its frames is not known", code="spacing-unknown")
        wanted = int((count - 1) * display.slice_spacing_mm / options.spacing_xyz_mm[2] + 0.5) + 1
        _check_length(wanted, f"a frame distance of {options.spacing_xyz_mm[2]:g} mm", "frames")
        planes = interpolate_frames(planes, wanted, samples=samples, backend=backend)
    return planes


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
        _check_length(max(size), f"a spacing of {x:g} × {y:g} mm", "pixels")
        return size, None
    return (width, height), None


def _check_length(n: int, what: str, unit: str) -> None:
    if n > MOST_PIXELS:
        raise GeometryError(f"{what} makes {n} {unit}, more than {MOST_PIXELS}", code="too-large")


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


def _describe(
    header: InstanceHeader,
    display: Display,
    background: float,
    window: GreyWindow | None,
    options: TiffOptions,
    frames: int,
) -> dict[str, Any]:
    voi = "modality values" if options.window == "none" else "voi lut" if display.voi_lut else None
    return {
        "study_instance_uid": header.study_instance_uid,
        "series_instance_uid": header.series_instance_uid,
        "sop_instance_uid": header.sop_instance_uid,
        "sop_class_uid": header.sop_class_uid,
        "photometric_interpretation": header.photometric_interpretation,
        "window": {"centre": window.centre, "width": window.width, "function": window.function} if window else voi,
        "background": background,
        "frames": {
            "source": header.number_of_frames or 1,
            "written": frames,
            "handling": options.frames,
            "ordered_by": display.ordered_by,
        },
        "source_spacing_xyz_mm": [
            *(reversed(display.pixel_spacing_yx_mm) if display.pixel_spacing_yx_mm else (None, None)),
            display.slice_spacing_mm,
        ],
        "filter": options.filter_name,
    }
