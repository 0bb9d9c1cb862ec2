"""The TIFF job: every image file becomes one TIFF whose tags lead back to the source's coordinates."""

from __future__ import annotations

import os
import re
import time
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gpuprep.backends.base import Backend
from gpuprep.codecs.batch import decode_instance
from gpuprep.config import OnExisting, Resources, digest
from gpuprep.coordinates import CoordinateMap
from gpuprep.dicom.display import BREAST_TOMOSYNTHESIS_UID, SPACING_RANGE_MM, Display, read_display
from gpuprep.dicom.header import InstanceHeader, read_headers
from gpuprep.dicom.index import Index, build_index
from gpuprep.dicom.stack import FrameSpec
from gpuprep.errors import CaseError, ConfigError, GeometryError, HeaderError, InputNotFoundError, LinkError
from gpuprep.ops.crop import crop_or_pad_array, move_planes
from gpuprep.ops.frames import FrameHandling, combine_frames, interpolate_frames
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
from gpuprep.ops.region import CropOptions, Region, find_region, find_regions
from gpuprep.ops.resize import FILTERS, resize_boxes, resize_planes
from gpuprep.run.case import Stopwatch
from gpuprep.run.job import Batching, OnRow, OnStart, run_plans
from gpuprep.run.ledger import CaseRow, FileProblem, Ledger
from gpuprep.run.plan import FailedPlan
from gpuprep.run.slots import BackendChoice, place, slot_backend
from gpuprep.writers.base import Output
from gpuprep.writers.names import text_digest
from gpuprep.writers.tiff import TiffOrigin, TiffStyle, write_tiff

Padding = Literal["zero", "top-left", "bottom-right", "center", "none"]
PADDINGS = ("zero", "top-left", "bottom-right", "center", "none")
Layout = Literal["study/sop", "study/series/sop"]
LAYOUTS = ("study/sop", "study/series/sop")

#: Most pixels along an axis of the output, and most frames: what PageNumber can count.
MOST_PIXELS = 65535
#: Images up to this size are small: their kernels take hardly longer than their starts.
SMALL_IMAGE_PIXELS = 1 << 22
#: Pixels that go to the backend together at most; a batch takes some six times as many bytes there.
BATCH_PIXELS = 1 << 25
#: Grey levels of 16 bits up to here count as zero where padding looks for empty borders: what 8 bits would make 0.
_BLACK_16 = 128
_UID = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,127}")


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
class ImagePlan:
    """One file to convert; `path` is where its TIFF goes, relative to the output folder."""

    case: str
    patient: str
    header: InstanceHeader
    path: str
    key: str

    @property
    def subject(self) -> str:
        """What messages name: the file."""
        return self.header.path


@dataclass(frozen=True, slots=True)
class TiffImage:
    """Pixels as they are written, (frames, H, W) or (frames, H, W, 3), where they come from, and what decoded them."""

    frames: NDArray[Any]
    origin: TiffOrigin
    decoder: str


@dataclass(frozen=True, slots=True)
class TiffWork:
    """What a worker does with a plan; picklable."""

    options: TiffOptions
    root: Path
    choice: BackendChoice

    def __call__(self, plan: ImagePlan) -> CaseRow:
        """Convert one file and return its row; a `CaseError` becomes a failed row and leaves no file."""
        clock, start = Stopwatch(), time.perf_counter()
        backend = slot_backend(self.choice)
        row = self._row(plan, backend, clock.seconds)
        try:
            with backend.activate():
                image = make_image(plan.header, self.options, backend, self.choice.threads, clock)
            row = self._write(plan, row, image, backend, clock)
        except CaseError as error:
            row = self._fail(plan, row, error)
        return replace(row, seconds=round(time.perf_counter() - start, 6))

    def convert_together(self, plans: Sequence[ImagePlan]) -> list[CaseRow]:
        """Convert the images of a batch and return their rows; times are shared out evenly.

        The result of each is that of converting it alone. A file that cannot be read or written costs itself; when the
        backend refuses them all, they are converted one by one.
        """
        if len(plans) == 1:
            return [self(plans[0])]
        clock, start = Stopwatch(), time.perf_counter()
        backend = slot_backend(self.choice)
        rows = {plan.case: self._row(plan, backend, {}) for plan in plans}
        loaded: dict[str, Loaded] = {}
        for plan in plans:
            try:
                image = load_image(plan.header, self.choice.threads, clock)
            except CaseError as error:
                rows[plan.case] = self._fail(plan, rows[plan.case], error)
                continue
            if self.options.window == "none" and image.display.modality_lut is not None:
                return [self(each) for each in plans]  # its values may have another type
            loaded[plan.case] = image
        try:
            with backend.activate():
                images = make_images(list(loaded.values()), self.options, backend, clock) if loaded else []
        except CaseError:
            return [self(plan) for plan in plans]
        made = dict(zip(loaded, images, strict=True))
        for plan in plans:
            if plan.case in made:
                try:
                    rows[plan.case] = self._write(plan, rows[plan.case], made[plan.case], backend, clock)
                except CaseError as error:
                    rows[plan.case] = self._fail(plan, rows[plan.case], error)
        share = {stage: seconds / len(plans) for stage, seconds in clock.seconds.items()}
        seconds = round((time.perf_counter() - start) / len(plans), 6)
        return [
            replace(row, timings=share, seconds=seconds, details={**row.details, "batch": len(loaded)})
            for row in rows.values()
        ]

    def _row(self, plan: ImagePlan, backend: Backend, timings: dict[str, float]) -> CaseRow:
        return CaseRow(
            case=plan.case,
            key=plan.key,
            config=config_of(self.options),
            patient=plan.patient,
            status="done",
            backend=f"{backend.name} {backend.device}".strip(),
            input_bytes=plan.header.size,
            timings=timings,
        )

    def _write(self, plan: ImagePlan, row: CaseRow, image: TiffImage, backend: Backend, clock: Stopwatch) -> CaseRow:
        with clock.stage("write"):
            output = write_tiff(self.root / plan.path, image.frames, image.origin, self.options.style, root=self.root)
        details = {**image.origin.description, "backend_reason": backend.reason}
        return replace(row, decoder=image.decoder, outputs=(output,), details=details)

    def _fail(self, plan: ImagePlan, row: CaseRow, error: CaseError) -> CaseRow:
        (self.root / plan.path).unlink(missing_ok=True)
        return row.failed(error)


def config_of(options: TiffOptions) -> str:
    """Return the digest of the options."""
    return digest(options)


# From sources to plans


def read_sources(source: Path, *, workers: int) -> Index:
    """Read the headers below a folder, of one file, or of the files that a text file lists.

    A listed path that is not there is a row with an error.

    Raises
    ------
    InputNotFoundError
        ``path-missing``; ``no-dicom-found``: no file is DICOM.
    ConfigError
        ``bad-list``: the text file is not UTF-8.
    """
    paths = [source]
    if source.suffix.lower() == ".txt" and source.is_file():
        paths = [Path(line) for line in _read_lines(source) if line]
    is_list = paths != [source]
    lost = [str(path) for path in paths if is_list and not path.exists()]
    index = build_index([path for path in paths if str(path) not in lost], workers=workers)
    index = Index((*index.instances, *read_headers(lost)))
    if not any(_is_usable(row) for row in index.instances):
        raise InputNotFoundError(
            f"none of {len(index.instances)} files is DICOM", code="no-dicom-found", subject=str(source)
        )
    return index


def _read_lines(source: Path) -> list[str]:
    try:
        text = source.read_text(encoding="utf-8-sig")  # editors on Windows put a mark before UTF-8
    except UnicodeDecodeError as error:
        raise ConfigError(
            "a list of paths has to be text in UTF-8", code="bad-list", subject=str(source), hint="one path a line"
        ) from error
    return [line.strip() for line in text.splitlines()]


def _is_usable(row: InstanceHeader) -> bool:
    return row.error_code in ("", "no-series-uid")


def only_image(index: Index, output: Path) -> InstanceHeader:
    """Return the one image of an index, to become a single TIFF.

    Raises
    ------
    ConfigError
        ``bad-output``: there are several.
    """
    images = [row for row in index.instances if _is_usable(row) and row.rows]
    if len(images) != 1:
        raise ConfigError(
            f"{len(images)} images cannot become one TIFF",
            code="bad-output",
            subject=str(output),
            hint="name a folder",
        )
    return images[0]


def plan_images(index: Index, layout: Layout) -> tuple[list[ImagePlan | FailedPlan], tuple[FileProblem, ...]]:
    """Make a plan for each image file; return them, by case, with the files that are no image.

    Further copies of an instance are left out; different files that say to be the same instance are failed plans.
    """
    copies = {copy.path for series in index.series() for copy in series.copies}
    rows = [row for row in index.instances if _is_usable(row) and row.path not in copies]
    images = [row for row in rows if row.rows]
    problems = [
        FileProblem(row.path, row.error_code, row.error_detail) for row in index.problems if not _is_usable(row)
    ]
    problems += [FileProblem(path, "duplicate-instance", "a further copy of an instance") for path in sorted(copies)]
    problems += [
        FileProblem(row.path, "not-an-image", f"modality {row.modality or 'unknown'} without rows and columns")
        for row in rows
        if not row.rows
    ]
    same = Counter(row.sop_instance_uid for row in images if row.sop_instance_uid)
    plans: list[ImagePlan | FailedPlan] = []
    for row in images:
        patient = row.patient_id or row.study_instance_uid
        try:
            name = name_output(row, layout)
        except HeaderError as error:
            plans.append(FailedPlan(f"unnamed/{text_digest(row.path)}", patient, error))
            continue
        if same[row.sop_instance_uid] > 1:
            conflict = LinkError(
                f"{same[row.sop_instance_uid]} different files have the SOP Instance UID {row.sop_instance_uid}",
                code="conflicting-instances",
                subject=row.path,
                hint="convert the file that is meant on its own",
            )
            plans.append(FailedPlan(f"{name}_{text_digest(row.path)}", patient, conflict))
            continue
        plans.append(_plan(row, name, f"{name}.tiff"))
    return sorted(plans, key=lambda plan: plan.case), tuple(problems)


def _plan(row: InstanceHeader, case: str, path: str) -> ImagePlan:
    key = digest([row.sop_instance_uid, row.path, row.size, row.mtime_ns])
    return ImagePlan(case, row.patient_id or row.study_instance_uid, row, path, key)


def name_output(header: InstanceHeader, layout: Layout) -> str:
    """Return study/sop or study/series/sop, of the UIDs.

    Raises
    ------
    HeaderError
        ``attribute-missing``: there is no UID; ``attribute-invalid``: it is none that a file can be named by.
    """
    parts = []
    for part in layout.split("/"):
        attribute = f"{part}_instance_uid"
        uid = getattr(header, attribute)
        if not uid:
            raise HeaderError(f"{attribute} is missing", code="attribute-missing", subject=header.path)
        if not _UID.fullmatch(uid):
            raise HeaderError(f"{attribute} is no UID", code="attribute-invalid", subject=header.path)
        parts.append(uid)
    return "/".join(parts)


# From a file to an image


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
        it makes too many pixels or frames.
    """
    clock = clock or Stopwatch()
    loaded = load_image(header, threads, clock)
    display = loaded.display
    with clock.stage("intensity"):
        stored = backend.upload(loaded.stored)
        image, samples = _to_planes(stored, loaded.spec, display, options, backend)
        del stored
    with clock.stage("frames"):
        planes = _handle_frames(image.planes, samples, display, options, backend)
    with clock.stage("resample"):
        fitted, fit = fit_planes(
            planes, image.background, display.pixel_spacing_yx_mm, options, samples=samples, backend=backend
        )
        frames = backend.download(fitted)
    if samples > 1:
        frames = np.ascontiguousarray(np.moveaxis(frames.reshape(-1, samples, *frames.shape[1:]), 1, -1))
    return _describe_image(loaded, frames, image.background, image.window, fit, planes.shape[1:], options)


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
        fitted, fits = _fit_each(grey.planes, grey.backgrounds, options, backend)
        pictures = backend.download(fitted)
    size = grey.planes.shape[1:]
    return [
        _describe_image(image, pictures[i : i + 1], grey.backgrounds[i], grey.windows[i], fits[i], size, options)
        for i, image in enumerate(loaded)
    ]


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


# Batches


def batch_key(header: InstanceHeader) -> Hashable | None:
    """Return what images that go to the backend together have in common; None for one that goes alone.

    Those that do are small, have one frame of grey levels in whole numbers, and are rescaled alike, which gives their
    values one type.
    """
    pixels = (header.rows or 0) * (header.columns or 0)
    is_grey = header.photometric_interpretation in ("MONOCHROME1", "MONOCHROME2") and header.samples_per_pixel == 1
    is_single = (header.number_of_frames or 1) == 1 and header.sop_class_uid != BREAST_TOMOSYNTHESIS_UID
    if not is_grey or not is_single or header.bits_allocated not in (8, 16) or not 0 < pixels <= SMALL_IMAGE_PIXELS:
        return None
    return (
        header.rows,
        header.columns,
        header.bits_allocated,
        header.bits_stored,
        header.high_bit,
        header.pixel_representation,
        header.rescale_slope,
        header.rescale_intercept,
    )


def group_images(plans: Sequence[ImagePlan], options: TiffOptions) -> list[tuple[ImagePlan, ...]]:
    """Return batches of plans, of at most `BATCH_PIXELS` pixels each, in the order of their last images."""
    batches: list[tuple[ImagePlan, ...]] = []
    waiting: dict[Hashable, list[ImagePlan]] = {}
    for plan in plans:
        key = batch_key(plan.header) if options.size is not None else None
        if key is None:
            batches.append((plan,))
            continue
        batch = waiting.setdefault(key, [])
        batch.append(plan)
        if (len(batch) + 1) * (plan.header.rows or 0) * (plan.header.columns or 0) > BATCH_PIXELS:
            batches.append(tuple(waiting.pop(key)))
    return batches + [tuple(batch) for batch in waiting.values()]


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

    Raises
    ------
    GeometryError
        ``spacing-unknown``.
    """
    height, width = planes.shape[1:]
    crop: Region = (0, 0, width, height)
    if options.crop is not None:
        crop = find_region(planes, background, options.crop, samples=samples, backend=backend)
    size, nominal = _target_size(crop, spacing_yx_mm, options)
    planes = _resize(planes, crop, size, options.filter_name, backend)
    pad = _padding(planes[:samples], background, options, backend)
    if any(pad):
        left, top, right, bottom = pad
        shape = (len(planes), size[1] + top + bottom, size[0] + left + right)
        planes = crop_or_pad_array(planes, (0, -top, -left), shape, background, backend)
    return planes, Fit(crop, size, nominal, pad)


def _fit_each(
    planes: Any, backgrounds: Sequence[float], options: TiffOptions, backend: Backend
) -> tuple[Any, list[Fit]]:
    """Crop, resize and pad each plane as `fit_planes` does one; each result is the upper left of its plane."""
    if options.size is None:
        raise ValueError("planes without a common size")
    count, height, width = planes.shape
    fill = np.array(backgrounds).astype(planes.dtype)
    crops: list[Region] = [(0, 0, width, height)] * count
    if options.crop is not None:
        crops = find_regions(planes, fill, options.crop, backend=backend)
    targets = [_target_size(crop, None, options) for crop in crops]
    sizes = [size for size, _ in targets]
    shape = (options.size[1], options.size[0])
    fitted = resize_boxes(planes, crops, sizes, shape, fill, filter_name=options.filter_name, backend=backend)
    pads = [
        _pad_sides(size, dark, options)
        for size, dark in zip(sizes, _dark_ends(fitted, sizes, fill, options, backend), strict=True)
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
        return GreyImage(xp.stack(channels, axis=1).reshape(-1, *stored.shape[1:]), 0.0, None), 3
    if spec.samples_per_pixel > 1:
        planes = xp.ascontiguousarray(xp.moveaxis(stored, -1, 1)).reshape(-1, *stored.shape[1:3])
        if planes.dtype.itemsize > 2:  # the upper 16 bits
            planes = (planes >> (8 * planes.dtype.itemsize - 16)).astype(np.uint16)
        return GreyImage(planes, 0.0, None), spec.samples_per_pixel
    rules = _grey_rules(display, spec, options)
    if options.window == "none":
        return to_values(stored, rules, spec.bits_stored, backend=backend), 1
    return to_grey(stored, rules, spec.bits_stored, backend=backend), 1


def _grey_rules(display: Display, spec: FrameSpec, options: TiffOptions) -> list[GreyRule]:
    """Return the rule of each frame in display order; modality values need no more than rescale and padding."""
    rules = [_grey_rule(display, i, spec, options) for i in display.order]
    return [replace(rule, is_inverted=False, voi=None) for rule in rules] if options.window == "none" else rules


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


def _padding(frame: Any, background: float, options: TiffOptions, backend: Backend) -> tuple[int, int, int, int]:
    """Return how many pixels are added at left, top, right and bottom of a resized frame, (samples, H, W)."""
    dark: DarkEnds = (0, 0, 0, 0)
    if options.size is not None and options.padding == "zero":
        limit = _BLACK_16 if frame.dtype == np.uint16 else background
        first_column, last_column, first_row, last_row = (
            int((backend.download(edge) <= limit).all(axis=0).sum())
            for edge in (frame[:, :, 0], frame[:, :, -1], frame[:, 0, :], frame[:, -1, :])
        )
        dark = first_column, last_column, first_row, last_row
    return _pad_sides((frame.shape[2], frame.shape[1]), dark, options)


def _dark_ends(
    fitted: Any, sizes: Sequence[tuple[int, int]], fill: NDArray[Any], options: TiffOptions, backend: Backend
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
        limit = _BLACK_16 if fitted.dtype == np.uint16 else fill[i]
        first_column, last_column = (int((c[i, :height] <= limit).sum()) for c in (columns_first, columns_last))
        first_row, last_row = (int((r[i, :width] <= limit).sum()) for r in (rows_first, rows_last))
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


# The job


def convert_one(source: InstanceHeader, path: Path, options: TiffOptions, resources: Resources) -> Output:
    """Convert one file to a TIFF of the given name.

    Raises
    ------
    CaseError
        As `make_image` and `write_tiff`.
    """
    placement = place(resources, 1)
    choice = replace(placement.choice, threads=resources.workers or placement.threads)
    os.environ.update(placement.environments[0])
    backend = slot_backend(choice)
    with backend.activate():
        image = make_image(source, options, backend, choice.threads)
    return write_tiff(path, image.frames, image.origin, options.style, root=path.parent)


def convert_to_tiff(
    index: Index,
    root: Path,
    options: TiffOptions,
    *,
    on_existing: OnExisting,
    resources: Resources,
    strict: bool,
    on_start: OnStart,
    on_row: OnRow,
) -> tuple[tuple[CaseRow, ...], tuple[FileProblem, ...]]:
    """Convert all images, resuming what an earlier run left; return rows and problems.

    Parameters
    ----------
    strict : bool
        Stop at the first file that is no DICOM, or cannot be converted, with its `CaseError`.

    Raises
    ------
    CaseError
        When `strict`.
    OutputError
        ``exists``, ``output-locked``.
    """
    plans, problems = plan_images(index, options.layout)
    unreadable = next((p for p in problems if p.code not in ("duplicate-instance", "not-an-image")), None)
    if strict and unreadable is not None:
        raise HeaderError(unreadable.detail, code=unreadable.code, subject=unreadable.path, hint="leave out --strict")

    def pass_on(row: CaseRow) -> None:
        on_row(row)
        if strict and row.status == "failed":
            raise CaseError(row.message, code=row.code, subject=row.subject or row.case, hint=row.hint)

    ledger = Ledger(root / "gpuprep" / "ledger.sqlite")
    try:
        ledger.set_file_problems(problems)
        placement = place(resources, len(plans))
        work = TiffWork(options, root, placement.choice)
        batching = Batching(partial(group_images, options=options), work.convert_together)
        run_plans(
            plans,
            work=work,
            batching=batching if placement.choice.name == "cuda" else None,
            config=config_of(options),
            discard=lambda case: (root / f"{case}.tiff").unlink(missing_ok=True),
            root=root,
            own_folders=[root],
            ledger=ledger,
            on_existing=on_existing,
            placement=placement,
            on_start=on_start,
            on_row=pass_on,
        )
        rows = ledger.rows()
    finally:
        ledger.close()
    planned = {p.case for p in plans}
    return tuple(row for case, row in rows.items() if case in planned), problems
