"""One file, or a batch of like ones, to the images that TIFFs are made of: grey levels, frames, crop, size, padding."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuprep.backends.base import Backend
from gpuprep.codecs.batch import decode_instance
from gpuprep.coordinates import CoordinateMap
from gpuprep.dicom.display import Display, read_display
from gpuprep.dicom.framespec import FrameSpec
from gpuprep.dicom.header import InstanceHeader, check_unchanged
from gpuprep.errors import DecodeError, DeviceMemoryError, GeometryError
from gpuprep.ops.frames import combine_frames, interpolate_frames
from gpuprep.ops.grey import (
    GreyImage,
    GreyRule,
    GreyWindow,
    look_up,
    to_grey,
    to_grey_images,
    to_value_images,
    to_values,
)
from gpuprep.ops.region import greatest_value
from gpuprep.run.memory import check_room, describe_shortage
from gpuprep.run.stopwatch import Stopwatch
from gpuprep.run.tiff_fit import Fit, check_length, fit_each, fit_planes
from gpuprep.run.tiff_options import TiffOptions
from gpuprep.writers.tiff import TiffOrigin

_LOG = logging.getLogger(__name__)

#: Bytes of a value, at most, and how many copies of all values a batch makes of its images and of what is written.
_VALUE_BYTES, _IMAGE_COPIES, _OUTPUT_COPIES = 4, 3, 2


@dataclass(frozen=True, slots=True)
class TiffImage:
    """Pixels as they are written, (frames, H, W) or (frames, H, W, 3), where they come from, and what decoded them."""

    frames: NDArray[Any]
    origin: TiffOrigin
    decoder: str


@dataclass(frozen=True, slots=True, eq=False)
class Loaded:
    """A decoded file: stored values of shape (frames, H, W) or (frames, H, W, samples), frames in display order.

    `ends` are the least and greatest stored value of each frame, shape (frames, 2), where they are known.
    """

    header: InstanceHeader
    spec: FrameSpec
    display: Display
    stored: NDArray[Any]
    decoder: str
    ends: NDArray[np.int64] | None


def load_image(header: InstanceHeader, threads: int, clock: Stopwatch) -> Loaded:
    """Read how a file is shown, and decode it.

    Raises
    ------
    CaseError
        HeaderError ``file-changed``; HeaderError, GeometryError, DecodeError of the reading layers.
    """
    with clock.stage("headers"):
        check_unchanged([header])
        spec = FrameSpec.from_header(header)
        display = read_display(header)
    with clock.stage("decode"):
        decoded = decode_instance(header, spec, workers=threads)
        stored, ends, order = decoded.array, decoded.ends, list(display.order)
        if order != list(range(len(stored))):
            stored, ends = stored[order], None if ends is None else ends[order]
    return Loaded(header, spec, display, stored, decoded.decoder, ends)


def make_image(header: InstanceHeader, options: TiffOptions, backend: Backend, threads: int) -> TiffImage:
    """Decode a file and bring it to the wanted grey levels, frames, crop, size and padding.

    Raises
    ------
    CaseError
        As `load_image`; GeometryError ``spacing-unknown``: a spacing is asked for and the file has none, ``too-large``:
        it makes too many pixels or frames; DecodeError ``unsupported-pixels``: signed colour; DeviceMemoryError.
    """
    clock = Stopwatch()
    return _make_image(load_image(header, threads, clock), options, backend, clock)


def _make_image(loaded: Loaded, options: TiffOptions, backend: Backend, clock: Stopwatch) -> TiffImage:
    display = loaded.display
    with clock.stage("intensity"):
        stored = backend.upload(loaded.stored)
        image, samples = _to_planes(stored, loaded, options, backend)
        del stored
    with clock.stage("frames"):
        planes = _handle_frames(image, samples, display, options, backend)
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
    backend : Backend
        Where to compute.
    clock : Stopwatch
        Gets the time of each step.

    Raises
    ------
    CaseError
        DeviceMemoryError.
    """
    spec = loaded[0].spec
    with clock.stage("intensity"):
        words = backend.host_array((len(loaded), *loaded[0].stored.shape[1:]), loaded[0].stored.dtype)
        stored = backend.upload(np.concatenate([image.stored for image in loaded], out=words))
        rules = [rule for image in loaded for rule in _grey_rules(image.display, image.spec, options)]
        known = [image.ends for image in loaded if image.ends is not None]
        ends = np.concatenate(known) if len(known) == len(loaded) else None
        to_images = to_value_images if options.window == "none" else to_grey_images
        grey = to_images(stored, rules, range(len(loaded)), spec.bits_stored, ends=ends, backend=backend)
        del stored
    with clock.stage("resample"):
        fitted, fits = fit_each(grey, options, backend)
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


def _to_planes(stored: Any, loaded: Loaded, options: TiffOptions, backend: Backend) -> tuple[GreyImage, int]:
    """Return planes and the samples a pixel: grey levels, or the channels of colour as neighbouring planes."""
    xp, spec, display = backend.xp, loaded.spec, loaded.display
    if display.palette is not None:
        channels = [look_up(stored, np.ascontiguousarray(display.palette[:, c]), backend=backend) for c in range(3)]
        return _colour(xp.stack(channels, axis=1).reshape(-1, *stored.shape[1:])), 3
    if spec.samples_per_pixel > 1:
        if spec.is_signed:
            raise DecodeError(
                "samples of colour that are signed", code="unsupported-pixels", subject=loaded.header.path
            )
        planes = xp.ascontiguousarray(xp.moveaxis(stored, -1, 1)).reshape(-1, *stored.shape[1:3])
        return _colour(_full_range(planes, spec.bits_stored, backend)), spec.samples_per_pixel
    rules = _grey_rules(display, spec, options)
    make = to_values if options.window == "none" else to_grey
    return make(stored, rules, spec.bits_stored, ends=loaded.ends, backend=backend), 1


def _full_range(planes: Any, bits_stored: int, backend: Backend) -> Any:
    """Return samples of colour over the whole range of 8 bits, or of 16: of more the upper 16."""
    if planes.dtype.itemsize > 2:
        planes, bits_stored = (planes >> max(0, bits_stored - 16)).astype(np.uint16), min(bits_stored, 16)
    if bits_stored == 8 * planes.dtype.itemsize:
        return planes
    dtype: np.dtype[Any] = np.dtype("u1" if bits_stored <= 8 else "u2")
    levels = np.linspace(0, greatest_value(dtype), 1 << bits_stored)
    return look_up(planes, np.rint(levels).astype(dtype), backend=backend)


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
    elif options.window == "voi" and shown.voi_lut is not None:
        voi = shown.voi_lut
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


def _handle_frames(image: GreyImage, samples: int, display: Display, options: TiffOptions, backend: Backend) -> Any:
    planes = image.planes
    steps = len(planes) // samples - 1
    if options.frames == "interpolate":
        if steps:
            planes = interpolate_frames(planes, options.target_frames, samples=samples, backend=backend)
    elif steps:
        least_is_white = image.white < image.background
        planes = combine_frames(planes, options.frames, samples=samples, least_is_white=least_is_white, backend=backend)
    if display.is_turned:
        planes = backend.xp.ascontiguousarray(planes[:, ::-1, ::-1])
    if options.spacing_xyz_mm is not None and options.spacing_xyz_mm[2] > 0 and len(planes) > samples:
        if display.slice_spacing_mm is None:
            raise GeometryError(
                "the distance of its frames is not known", code="spacing-unknown", hint="leave Z out of --spacing X,Y,Z"
            )
        wanted = int(steps * display.slice_spacing_mm / options.spacing_xyz_mm[2] + 0.5) + 1
        check_length(wanted, f"a frame distance of {options.spacing_xyz_mm[2]:g} mm", "frames")
        planes = interpolate_frames(planes, wanted, samples=samples, backend=backend)
    return planes


def _describe(
    header: InstanceHeader,
    display: Display,
    background: float,
    window: GreyWindow | None,
    options: TiffOptions,
    frames: int,
) -> dict[str, Any]:
    has_lut = display.frames[display.order[0]].voi_lut is not None
    voi = "modality values" if options.window == "none" else "voi lut" if has_lut else None
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
