"""DICOM Segmentation (PS3.3 A.51) and Label Map Segmentation (A.86): what their headers say; no pixels."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from gpuprep.dicom.datasets import (
    EXPLICIT_BIG_UID,
    EXPLICIT_LITTLE_UID,
    IMPLICIT_LITTLE_UID,
    PREFIX_END,
    begins_like_dicom,
    parse_file,
    pydicom_errors,
    quiet_pydicom,
)
from gpuprep.dicom.display import expand_palette
from gpuprep.dicom.framespec import FrameSpec
from gpuprep.dicom.groups import PER_FRAME, PER_FRAME_TAG, SHARED, SHARED_TAG, read_groups
from gpuprep.dicom.header import LABELMAP_SEG_UID, SEG_UID
from gpuprep.dicom.planes import are_orthonormal, axes_of
from gpuprep.errors import HeaderError
from gpuprep.masks import Code, Roi

SegmentationKind = Literal["BINARY", "FRACTIONAL", "LABELMAP"]
Point = tuple[float, float, float]
Number = TypeVar("Number", int, float)

#: Segment number and stored value of "no segment" in a label map (PS3.3 C.8.20.2).
BACKGROUND = 0

#: What is read of the functional groups; the slide's position only tells that there is one.
_GROUPS = (
    "SegmentIdentificationSequence.ReferencedSegmentNumber",
    "PlanePositionSequence.ImagePositionPatient",
    "PlanePositionSlideSequence.XOffsetInSlideCoordinateSystem",
    "PlaneOrientationSequence.ImageOrientationPatient",
    *(f"PixelMeasuresSequence.{name}" for name in ("PixelSpacing", "SpacingBetweenSlices", "SliceThickness")),
)

#: Where gpuprep keeps its own description of a mask in the segmentations that it writes: group, creator, element.
PRIVATE_GROUP, PRIVATE_CREATOR, PRIVATE_OFFSET = 0x0063, "gpuprep", 0x01

#: White point D65, and XYZ to linear sRGB (IEC 61966-2-1). DICOM names D50, but DCMTK, dcmqi and highdicom all write
#: CIELab under D65, and this gives back the colours that they were given.
D65_WHITE = (0.95047, 1.0, 1.08883)
XYZ_TO_LINEAR_SRGB = ((3.2406, -1.5372, -0.4986), (-0.9689, 1.8758, 0.0415), (0.0557, -0.2040, 1.0570))


@dataclass(frozen=True, slots=True)
class SegmentFrame:
    """Where one frame of a segmentation lies, and whose it is.

    Parameters
    ----------
    index : int
        0-based place in the file.
    segment_number : int or None
        Referenced Segment Number; None in a label map, where each pixel says it.
    position_lps_mm : (x, y, z)
        Centre of the first pixel, LPS mm.
    orientation : six floats
        Image Orientation (Patient), made orthonormal: unit vectors along a row and down a column.
    pixel_spacing_mm : (float, float)
        Between rows, between columns.
    """

    index: int
    segment_number: int | None
    position_lps_mm: Point
    orientation: tuple[float, ...]
    pixel_spacing_mm: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Segmentation:
    """The header of a segmentation.

    Parameters
    ----------
    path : Path
        Its file.
    kind : {"BINARY", "FRACTIONAL", "LABELMAP"}
        Segmentation Type.
    segments : tuple of Roi
        In the order of the Segment Sequence; equal labels stay apart, and the background of a label map is none.
    frames : tuple of SegmentFrame
        In the order of the file.
    spec : FrameSpec
        Layout of each frame.
    maximum_fractional_value : int
        What stands for 1.0 in a FRACTIONAL segmentation; 1 otherwise.
    fractional_type : str
        ``"PROBABILITY"``, ``"OCCUPANCY"`` or empty.
    background_values : frozenset of int
        Pixel values of a label map that are no segment: 0 and Pixel Padding Value.
    slice_spacing_mm, slice_thickness_mm : float or None
        Spacing Between Slices of its own grid, and Slice Thickness, when stated.
    frame_of_reference_uid, sop_instance_uid, series_instance_uid : str
        Its UIDs.
    referenced_series_uids, referenced_sop_instance_uids : tuple of str
        The images it was made on, from the Referenced Series Sequence.
    description : str
        What gpuprep says of a mask that it wrote itself; empty in files of others.
    """

    path: Path
    kind: SegmentationKind
    segments: tuple[Roi, ...]
    frames: tuple[SegmentFrame, ...]
    spec: FrameSpec
    maximum_fractional_value: int = 1
    fractional_type: str = ""
    background_values: frozenset[int] = frozenset()
    slice_spacing_mm: float | None = None
    slice_thickness_mm: float | None = None
    frame_of_reference_uid: str = ""
    sop_instance_uid: str = ""
    series_instance_uid: str = ""
    referenced_series_uids: tuple[str, ...] = ()
    referenced_sop_instance_uids: tuple[str, ...] = ()
    description: str = ""

    @property
    def rows(self) -> int:
        """Rows of each frame."""
        return self.spec.rows

    @property
    def columns(self) -> int:
        """Columns of each frame."""
        return self.spec.columns


def read_segmentation(path: str | Path) -> Segmentation:
    """Read the header of a segmentation.

    Parameters
    ----------
    path : str or Path
        A DICOM file.

    Returns
    -------
    Segmentation
        All but the pixels, which `gpuprep.codecs.segframes` decodes.

    Raises
    ------
    HeaderError
        ``unreadable``, ``not-dicom``, ``header-unreadable``; ``not-seg``: of another SOP class;
        ``attribute-missing``; ``attribute-invalid``.
    """
    from pydicom.filereader import read_partial

    try:
        file = Path(path).open("rb")  # noqa: SIM115 - closed below; an OSError of pydicom's means a broken data set
    except OSError as error:
        raise HeaderError(error.strerror or "cannot be read", code="unreadable", subject=str(path)) from error
    with file, quiet_pydicom():
        try:
            size = os.fstat(file.fileno()).st_size
            if not begins_like_dicom(file.read(PREFIX_END), size):
                raise HeaderError("not a DICOM file", code="not-dicom", subject=str(path))
            groups: Any = read_groups(file, _GROUPS)
            file.seek(0)
            if groups is None:
                parsed = parse_file(file, size)
                return _Reader(Path(path), parsed.meta, parsed.dataset, parsed.dataset).read()
            data = read_partial(file, lambda tag, *_: tag >= SHARED_TAG, force=True)
            return _Reader(Path(path), data.file_meta, data, groups).read()
        except pydicom_errors() as error:
            raise HeaderError(f"{error}", code="header-unreadable", subject=str(path)) from error


@quiet_pydicom()
def read_source_frames(path: str | Path) -> frozenset[tuple[str, int | None]]:
    """Read which images the frames of a segmentation were derived from (PS3.3 C.7.6.16.2.6).

    Returns
    -------
    frozenset of (str, int or None)
        SOP Instance UIDs, each with the number of a frame, from 1; with None where no number is given.

    Raises
    ------
    HeaderError
        ``header-unreadable``.
    """
    found: set[tuple[str, int | None]] = set()
    try:
        with Path(path).open("rb") as file:
            data = parse_file(file, os.fstat(file.fileno()).st_size, [SHARED_TAG, PER_FRAME_TAG]).dataset
        for groups in (*(data.get(SHARED) or ()), *(data.get(PER_FRAME) or ())):
            for derivation in groups.get("DerivationImageSequence") or ():
                for source in derivation.get("SourceImageSequence") or ():
                    numbers = source.get("ReferencedFrameNumber")
                    of_source = numbers if isinstance(numbers, Sequence) else (numbers,)
                    uid = str(source.get("ReferencedSOPInstanceUID", ""))
                    found |= {(uid, None if n in (None, "") else int(n)) for n in of_source}
    except pydicom_errors() as error:
        raise HeaderError(f"{error}", code="header-unreadable", subject=str(path)) from error
    return frozenset(found)


def cielab_to_rgb(stored: Sequence[int]) -> tuple[int, int, int]:
    """Convert a Recommended Display CIELab Value, three of 0 to 65535, to sRGB, three of 0 to 255.

    PS3.3 C.10.7.1.1: L* 0…100, a* and b* −128…127 over 0…65535; transfer function of IEC 61966-2-1.
    """
    lightness, a, b = np.asarray(stored, np.float64) / 65535 * (100, 255, 255) - (0, 128, 128)
    y = (lightness + 16) / 116
    f = np.array((y + a / 500, y, y - b / 200))
    xyz = np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29)) * D65_WHITE
    linear = np.clip(np.array(XYZ_TO_LINEAR_SRGB) @ xyz, 0, 1)
    rgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    red, green, blue = (int(v) for v in np.rint(rgb * 255))
    return red, green, blue


def _code(entry: Any) -> Code:
    """Return a coded concept; its value has three places by length and kind (PS3.3 8.1)."""
    values = (entry.get(keyword) for keyword in ("CodeValue", "LongCodeValue", "URNCodeValue"))
    value = next((str(v) for v in values if v), "")
    return Code(str(entry.get("CodingSchemeDesignator", "")), value, str(entry.get("CodeMeaning", "")))


@lru_cache(maxsize=16)
def _make_unit(orientation: tuple[float, ...]) -> tuple[float, ...]:
    """Return direction cosines made orthonormal; nothing when they are too far from that."""
    if not are_orthonormal(orientation):
        return ()
    _, down, right = axes_of(orientation)
    return (*right.tolist(), *down.tolist())


class _Reader:
    """Takes what is needed out of file meta, data set and functional groups; every complaint names the file."""

    def __init__(self, path: Path, meta: Any, data: Any, groups: Any) -> None:
        self.path = path
        self.meta = meta
        self.data = data
        self.groups = groups

    def read(self) -> Segmentation:
        data = self.data
        sop_class = str(data.get("SOPClassUID", ""))
        if sop_class not in (SEG_UID, LABELMAP_SEG_UID):
            raise HeaderError(
                f"SOP class {sop_class or 'missing'} is no segmentation", code="not-seg", subject=str(self.path)
            )
        kind = str(self.value(data, "SegmentationType"))
        if kind not in ("BINARY", "FRACTIONAL", "LABELMAP"):
            raise self.invalid("SegmentationType", kind)
        background = {BACKGROUND} if kind == "LABELMAP" else set()
        if kind == "LABELMAP" and data.get("PixelPaddingValue") is not None:
            background.add(self.integer(data, "PixelPaddingValue"))
        referenced = data.get("ReferencedSeriesSequence") or ()
        instances = [i for s in referenced for i in s.get("ReferencedInstanceSequence") or ()]
        is_fractional = kind == "FRACTIONAL"
        maximum = self.integer(data, "MaximumFractionalValue") if is_fractional else 1
        if maximum < 1:
            raise self.invalid("MaximumFractionalValue", maximum)
        return Segmentation(
            path=self.path,
            kind=cast(SegmentationKind, kind),
            segments=self.segments(background, self.palette(kind)),
            frames=self.frames(has_segments=kind != "LABELMAP"),
            spec=self.spec(is_binary=kind == "BINARY"),
            maximum_fractional_value=maximum,
            fractional_type=str(data.get("SegmentationFractionalType", "")) if is_fractional else "",
            background_values=frozenset(background),
            slice_spacing_mm=self.slice_measure("SpacingBetweenSlices"),
            slice_thickness_mm=self.slice_measure("SliceThickness"),
            frame_of_reference_uid=str(data.get("FrameOfReferenceUID", "")),
            sop_instance_uid=str(data.get("SOPInstanceUID", "")),
            series_instance_uid=str(data.get("SeriesInstanceUID", "")),
            referenced_series_uids=tuple(str(s.get("SeriesInstanceUID", "")) for s in referenced),
            referenced_sop_instance_uids=tuple(str(i.get("ReferencedSOPInstanceUID", "")) for i in instances),
            description=self.description(),
        )

    def description(self) -> str:
        try:
            block = self.data.private_block(PRIVATE_GROUP, PRIVATE_CREATOR)
            return str(block[PRIVATE_OFFSET].value)
        except KeyError:
            return ""

    def palette(self, kind: str) -> NDArray[Any] | None:
        """Return the colours of the values of a label map in colour, whose segments say none; None without them."""
        if kind != "LABELMAP" or self.data.get("PhotometricInterpretation") != "PALETTE COLOR":
            return None
        try:
            colours = expand_palette(self.data, self.integer(self.data, "BitsAllocated"))
        except pydicom_errors():
            return None
        return colours >> (8 * colours.itemsize - 8)

    def colour(self, segment: Any, number: int, palette: NDArray[Any] | None) -> tuple[int, int, int] | None:
        """Return what a segment is displayed in; one that is damaged is none, for nothing depends on it."""
        if palette is not None and number < len(palette):
            red, green, blue = palette[number].tolist()
            return red, green, blue
        try:
            return cielab_to_rgb(self.numbers(segment, "RecommendedDisplayCIELabValue", 3, of=int))
        except HeaderError:
            return None

    def segments(self, background: set[int], palette: NDArray[Any] | None) -> tuple[Roi, ...]:
        rois: list[Roi] = []
        for item in self.value(self.data, "SegmentSequence"):
            number = self.integer(item, "SegmentNumber")
            if number in background:
                continue
            if number < 0 or any(roi.number == number for roi in rois):
                raise self.invalid("SegmentNumber", f"{number} (negative, or used twice)")
            rois.append(
                Roi(
                    number,
                    str(item.get("SegmentLabel", "")),
                    self.colour(item, number, palette),
                    category=self.code(item, "SegmentedPropertyCategoryCodeSequence"),
                    type=self.code(item, "SegmentedPropertyTypeCodeSequence"),
                    type_modifiers=self.modifiers(
                        item, "SegmentedPropertyTypeCodeSequence", "SegmentedPropertyTypeModifierCodeSequence"
                    ),
                    region=self.code(item, "AnatomicRegionSequence"),
                    region_modifiers=self.modifiers(item, "AnatomicRegionSequence", "AnatomicRegionModifierSequence"),
                    algorithm=str(item.get("SegmentAlgorithmType", "")),
                    tracking_uid=str(item.get("TrackingUID", "")),
                )
            )
        return tuple(rois)

    def modifiers(self, item: Any, keyword: str, modifier_keyword: str) -> tuple[Code, ...]:
        coded = item.get(keyword) or [{}]
        return tuple(_code(entry) for entry in coded[0].get(modifier_keyword) or ())

    def code(self, item: Any, keyword: str) -> Code | None:
        coded = item.get(keyword)
        return _code(coded[0]) if coded else None

    def spec(self, *, is_binary: bool) -> FrameSpec:
        data = self.data
        bits = self.integer(data, "BitsAllocated")
        if bits not in ((1, 8) if is_binary else (8, 16)):
            raise self.invalid("BitsAllocated", bits)
        rows, columns = self.integer(data, "Rows"), self.integer(data, "Columns")
        if rows < 1 or columns < 1:
            raise self.invalid("Rows and Columns", f"{rows} x {columns}")
        if self.integer(data, "SamplesPerPixel") != 1:
            raise self.invalid("SamplesPerPixel", data.SamplesPerPixel)
        return FrameSpec(
            transfer_syntax_uid=self.transfer_syntax(),
            rows=rows,
            columns=columns,
            bits_allocated=bits,
            bits_stored=bits,
            high_bit=bits - 1,
            is_signed=False,
            number_of_frames=self.integer(data, "NumberOfFrames"),
        )

    def transfer_syntax(self) -> str:
        """Return the transfer syntax; of a data set without file meta, the one it was read with."""
        is_implicit, is_little = self.data.original_encoding
        read_with = IMPLICIT_LITTLE_UID if is_implicit else EXPLICIT_LITTLE_UID if is_little else EXPLICIT_BIG_UID
        return str(self.meta.get("TransferSyntaxUID") or read_with)

    def frames(self, *, has_segments: bool) -> tuple[SegmentFrame, ...]:
        declared = self.integer(self.data, "NumberOfFrames")
        items = self.groups.get(PER_FRAME) or ()
        if declared and not items:
            raise self.missing(PER_FRAME, "whole-slide segmentations are not supported")
        if len(items) != declared:
            raise self.invalid("NumberOfFrames", f"{declared}, with functional groups for {len(items)} frames")
        shared = self.shared_groups()
        return tuple(self.frame(i, item, shared, has_segments=has_segments) for i, item in enumerate(items))

    def frame(self, index: int, item: Any, shared: Any, *, has_segments: bool) -> SegmentFrame:
        position = self.group(item, shared, "PlanePositionSequence")
        orientation = self.numbers(
            self.group(item, shared, "PlaneOrientationSequence"), "ImageOrientationPatient", 6, of=float
        )
        axes = _make_unit(orientation)
        if not axes:
            raise self.invalid("ImageOrientationPatient", orientation)
        spacing = self.numbers(self.group(item, shared, "PixelMeasuresSequence"), "PixelSpacing", 2, of=float)
        if min(spacing) <= 0:
            raise self.invalid("PixelSpacing", spacing)
        number = None
        if has_segments:
            identification = self.group(item, shared, "SegmentIdentificationSequence")
            number = self.integer(identification, "ReferencedSegmentNumber")
        x, y, z = self.numbers(position, "ImagePositionPatient", 3, of=float)
        return SegmentFrame(index, number, (x, y, z), axes, (spacing[0], spacing[1]))

    def slice_measure(self, keyword: str) -> float | None:
        """Return a distance across slices from the shared groups, which is where a regular grid has it."""
        measures = self.shared_groups().get("PixelMeasuresSequence") or ()
        if not measures or measures[0].get(keyword) in (None, ""):
            return None
        (distance_mm,) = self.numbers(measures[0], keyword, 1, of=float)
        return abs(distance_mm) or None

    def shared_groups(self) -> Any:
        groups = self.groups.get(SHARED)
        return groups[0] if groups else {}

    def group(self, item: Any, shared: Any, keyword: str) -> Any:
        """Return a functional group macro's item, of the frame or shared by all."""
        sequence = item.get(keyword) or shared.get(keyword)
        if not sequence:
            is_slide = bool(item.get("PlanePositionSlideSequence") or shared.get("PlanePositionSlideSequence"))
            raise self.missing(keyword, "whole-slide segmentations are not supported" if is_slide else "")
        return sequence[0]

    def value(self, item: Any, keyword: str) -> Any:
        value = item.get(keyword)
        if value is None or value == "":
            raise self.missing(keyword)
        return value

    def integer(self, item: Any, keyword: str) -> int:
        (number,) = self.numbers(item, keyword, 1, of=int)
        return number

    def numbers(self, item: Any, keyword: str, count: int, *, of: type[Number]) -> tuple[Number, ...]:
        try:
            value = self.value(item, keyword)
            is_single = isinstance(value, str | bytes) or not hasattr(value, "__iter__")
            numbers = tuple(of(v) for v in ((value,) if is_single else value))
        except (TypeError, ValueError) as error:
            raise self.invalid(keyword, error) from error
        if len(numbers) != count or not all(map(math.isfinite, numbers)):
            raise self.invalid(keyword, numbers)
        return numbers

    def missing(self, keyword: str, hint: str = "") -> HeaderError:
        return HeaderError(f"{keyword} is missing", code="attribute-missing", subject=str(self.path), hint=hint)

    def invalid(self, keyword: str, value: object) -> HeaderError:
        return HeaderError(f"{keyword}: {value}", code="attribute-invalid", subject=str(self.path))
