"""How a file says that its pixels are shown: grey levels, palette, frame order, orientation (PS3.3 C.7.6, C.11)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuprep.dicom.datasets import pydicom_errors, quiet_pydicom
from gpuprep.dicom.header import InstanceHeader
from gpuprep.dicom.multiframe import group_item, read_dataset
from gpuprep.errors import HeaderError
from gpuprep.geometry import median

BREAST_TOMOSYNTHESIS_UID = "1.2.840.10008.5.1.4.1.1.13.1.3"

#: Spacings beyond are no spacings but garbage.
SPACING_RANGE_MM = (1e-6, 1e6)

_ELEMENTS = (
    "ImageLaterality",
    "ModalityLUTSequence",
    "PatientOrientation",
    "PerFrameFunctionalGroupsSequence",
    "PixelRepresentation",  # by which pydicom reads tables
    "SharedFunctionalGroupsSequence",
    "ViewCodeSequence",
    "ViewPosition",
    "VOILUTSequence",
    *(
        f"{colour}PaletteColorLookupTable{part}"
        for colour in ("Red", "Green", "Blue")
        for part in ("Descriptor", "Data")
    ),
    *(f"Segmented{colour}PaletteColorLookupTableData" for colour in ("Red", "Green", "Blue")),
)
_VOI_FUNCTIONS = ("LINEAR", "LINEAR_EXACT", "SIGMOID")
#: Projections stored upside down: (laterality, view) → Patient Orientation of rows and columns that tells it.
_TURNED = {
    ("L", "CC"): ("P", "L"),
    ("R", "CC"): ("P", "R"),
    ("L", "MLO"): ("P", "HL"),
    ("R", "MLO"): ("P", "HR"),
}
#: Codes of View Code Sequence, SRT and SNOMED CT. Source: PS3.16 CID 4014.
_VIEW_CODES = {"R-10242": "CC", "399162004": "CC", "R-10226": "MLO", "399368009": "MLO"}


@dataclass(frozen=True, slots=True)
class Lut:
    """A look-up table of a file: `data` for the values `first`, `first` + 1, …; clamped beyond (PS3.3 C.11.1.1)."""

    first: int
    data: tuple[int, ...]
    bits: int

    def apply(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the entries of values; values between whole numbers take the lower one's."""
        index = np.clip(np.floor(values) - self.first, 0, len(self.data) - 1)
        entries: NDArray[np.float64] = np.asarray(self.data, np.float64)[index.astype(np.int64)]
        return entries


@dataclass(frozen=True, slots=True)
class FrameDisplay:
    """How one frame is shown; what it does not say itself, the file says for all."""

    slope: float
    intercept: float
    window_centre: float | None
    window_width: float | None
    voi_function: str
    voi_lut: Lut | None


@dataclass(frozen=True, slots=True, eq=False)
class Display:
    """How a file is shown.

    Parameters
    ----------
    frames : tuple of FrameDisplay
        In stored order.
    order : tuple of int
        Stored frame numbers in the order of dimension indices, stack positions or positions along the normal.
    ordered_by : str
        ``"dimension-index"``, ``"stack-position"``, ``"position"`` or ``"stored"``.
    modality_lut : Lut or None
    padding : (int, int) or None
        Stored values that are padding, least and greatest.
    pixel_spacing_yx_mm : (float, float) or None
        Pixel Spacing, else Imager Pixel Spacing, else the spacing of the functional groups.
    slice_spacing_mm : float or None
        Distance of frames.
    is_turned : bool
        A tomosynthesis projection stored upside down, to be turned by 180°.
    palette : ndarray of shape (entries, 3) or None
        Colour of each stored value, uint8 or uint16.
    """

    frames: tuple[FrameDisplay, ...]
    order: tuple[int, ...]
    ordered_by: str
    modality_lut: Lut | None
    padding: tuple[int, int] | None
    pixel_spacing_yx_mm: tuple[float, float] | None
    slice_spacing_mm: float | None
    is_turned: bool
    palette: NDArray[Any] | None


@quiet_pydicom()
def read_display(header: InstanceHeader) -> Display:
    """Read how the pixels of a file are shown.

    Raises
    ------
    HeaderError
        ``unreadable``; ``attribute-invalid``: a table or a functional group is garbled.
    """
    dataset = {} if _is_plain(header) else read_dataset(header, _ELEMENTS)
    try:
        return _display(header, dataset)
    except pydicom_errors() as error:
        raise HeaderError(
            f"a look-up table or functional group is garbled: {error}", code="attribute-invalid", subject=header.path
        ) from error


def _is_plain(header: InstanceHeader) -> bool:
    """Whether the file has none of the `_ELEMENTS` that matter to it, so that its row says all."""
    return not (
        header.has_modality_lut
        or header.has_voi_lut
        or header.has_shared_groups
        or header.has_frame_groups
        or header.photometric_interpretation == "PALETTE COLOR"
        or header.sop_class_uid == BREAST_TOMOSYNTHESIS_UID
    )


def _display(header: InstanceHeader, dataset: Any) -> Display:
    count = header.number_of_frames or 1
    shared: Any = next(iter(dataset.get("SharedFunctionalGroupsSequence") or ()), {})
    groups = list(dataset.get("PerFrameFunctionalGroupsSequence") or ())
    if len(groups) != count:
        groups = [{}] * count
    order, ordered_by = _order(groups, shared)
    measures = group_item((groups[0], shared), "PixelMeasuresSequence")
    spacings = header.pixel_spacing_mm, header.imager_pixel_spacing_mm, _numbers(measures.get("PixelSpacing"))
    modality_lut = _table(dataset, "ModalityLUTSequence", is_signed=header.pixel_representation == 1)
    rescale = group_item((groups[0], shared), "PixelValueTransformationSequence")
    intercept = _number(rescale.get("RescaleIntercept"), header.rescale_intercept) or 0
    is_signed = modality_lut is None and (header.pixel_representation == 1 or intercept < 0)
    voi_lut = _table(dataset, "VOILUTSequence", is_signed=is_signed)
    voi_lut = _voi_lut(shared, voi_lut, is_signed=is_signed)
    return Display(
        frames=tuple(_frame(header, group, shared, _voi_lut(group, voi_lut, is_signed=is_signed)) for group in groups),
        order=order,
        ordered_by=ordered_by,
        modality_lut=modality_lut,
        padding=_padding(header),
        pixel_spacing_yx_mm=next(((s[0], s[1]) for s in spacings if len(s) == 2 and all(map(_is_spacing, s))), None),
        slice_spacing_mm=_slice_spacing(header, dataset, groups, shared, order),
        is_turned=header.sop_class_uid == BREAST_TOMOSYNTHESIS_UID and _is_turned(dataset, (groups[0], shared)),
        palette=_palette_of(header, dataset) if header.photometric_interpretation == "PALETTE COLOR" else None,
    )


def _voi_lut(group: Any, otherwise: Lut | None, *, is_signed: bool) -> Lut | None:
    """Return the VOI LUT of a functional group (PS3.3 C.7.6.16.2.10b); `otherwise` when it has no window either."""
    voi = group_item((group,), "FrameVOILUTSequence")
    lut = _table(voi, "VOILUTSequence", is_signed=is_signed)
    return otherwise if lut is None and not _numbers(voi.get("WindowCenter")) else lut


def _frame(header: InstanceHeader, group: Any, shared: Any, voi_lut: Lut | None) -> FrameDisplay:
    rescale = group_item((group, shared), "PixelValueTransformationSequence")
    voi = group_item((group, shared), "FrameVOILUTSequence")
    slope = _number(rescale.get("RescaleSlope"), header.rescale_slope)
    intercept = _number(rescale.get("RescaleIntercept"), header.rescale_intercept)
    if slope == 0 or not np.isfinite([slope or 1.0, intercept or 0.0]).all():
        raise ValueError("Rescale Slope is 0, or it or the Intercept is no number")
    centres = _numbers(voi.get("WindowCenter")) or header.window_center
    widths = _numbers(voi.get("WindowWidth")) or header.window_width
    function = voi.get("VOILUTFunction") or header.voi_lut_function or "LINEAR"
    if function not in _VOI_FUNCTIONS:
        raise ValueError(f"VOI LUT Function {function}")
    has_window = bool(centres and widths) and widths[0] > 0
    return FrameDisplay(
        slope=slope or 1.0,
        intercept=intercept or 0.0,
        window_centre=centres[0] if has_window else None,
        window_width=widths[0] if has_window else None,
        voi_function=function,
        voi_lut=voi_lut,
    )


def _order(groups: list[Any], shared: Any) -> tuple[tuple[int, ...], str]:
    stored = range(len(groups))
    contents = [group_item((group,), "FrameContentSequence") for group in groups]
    indices = [tuple(int(i) for i in _numbers(content.get("DimensionIndexValues"))) for content in contents]
    if all(indices) and len(set(indices)) == len(indices) and len(set(map(len, indices))) == 1:
        return tuple(sorted(stored, key=indices.__getitem__)), "dimension-index"
    places = [_number(content.get("InStackPositionNumber"), None) for content in contents]
    if None not in places and len(set(places)) == len(places):
        return tuple(sorted(stored, key=lambda i: places[i] or 0.0)), "stack-position"
    positions = _positions_mm(groups, shared)
    if positions is not None and len(set(positions)) == len(positions):
        if positions == sorted(positions, reverse=True):  # one direction already
            return tuple(stored), "position"
        return tuple(sorted(stored, key=positions.__getitem__)), "position"
    return tuple(stored), "stored"


def _positions_mm(groups: list[Any], shared: Any) -> list[float] | None:
    """Return where each frame lies along the normal of the first one."""
    orientation = _numbers(group_item((groups[0], shared), "PlaneOrientationSequence").get("ImageOrientationPatient"))
    points = [_numbers(group_item((g,), "PlanePositionSequence").get("ImagePositionPatient")) for g in groups]
    if len(orientation) != 6 or any(len(p) != 3 for p in points):
        return None
    normal = np.cross(orientation[:3], orientation[3:])
    return [float(v) for v in np.asarray(points) @ normal]


def _slice_spacing(
    header: InstanceHeader, dataset: Any, groups: list[Any], shared: Any, order: tuple[int, ...]
) -> float | None:
    positions = _positions_mm(groups, shared)
    if positions is not None and len(positions) > 1:
        steps = np.abs(np.diff([positions[i] for i in order]))
        if _is_spacing(float(steps.min())) and _is_spacing(float(steps.max())):
            return median(steps)
    measures = group_item((groups[0], shared), "PixelMeasuresSequence")
    candidates = (
        _number(measures.get("SpacingBetweenSlices"), header.spacing_between_slices_mm),
        _number(measures.get("SliceThickness"), header.slice_thickness_mm),
    )
    return next((abs(c) for c in candidates if c is not None and _is_spacing(abs(c))), None)


def _is_spacing(value: float) -> bool:
    return SPACING_RANGE_MM[0] <= value <= SPACING_RANGE_MM[1]


def _is_turned(dataset: Any, groups: tuple[Any, ...]) -> bool:
    orientation = tuple(str(part) for part in dataset.get("PatientOrientation") or ())
    anatomy = group_item(groups, "FrameAnatomySequence")
    laterality = str(anatomy.get("FrameLaterality") or dataset.get("ImageLaterality") or "")
    codes = dataset.get("ViewCodeSequence") or ()
    view = _VIEW_CODES.get(str(codes[0].get("CodeValue", ""))) if codes else str(dataset.get("ViewPosition") or "")
    return _TURNED.get((laterality, view or "")) == orientation


def _padding(header: InstanceHeader) -> tuple[int, int] | None:
    value, limit = header.pixel_padding_value, header.pixel_padding_range_limit
    if value is None:
        return None
    other = value if limit is None else limit
    return min(value, other), max(value, other)


def _table(dataset: Any, sequence: str, *, is_signed: bool) -> Lut | None:
    items = dataset.get(sequence)
    if not items:
        return None
    if items[0].get("LUTDescriptor") is None and items[0].get("LUTData") is None:  # a template that nobody filled in
        return None
    entries, first, bits = (int(v) for v in items[0].LUTDescriptor)
    entries = (entries & 0xFFFF) or 1 << 16
    if is_signed and first >= 1 << 15:
        first -= 1 << 16
    elif not is_signed and first < 0:
        first += 1 << 16
    raw = items[0].LUTData
    if isinstance(raw, bytes):
        order = "<" if dataset.original_encoding[1] else ">"
        values = np.frombuffer(raw, f"{order}u2" if len(raw) >= 2 * entries else np.uint8)
    else:
        values = np.atleast_1d(np.asarray(raw, np.int64)) & 0xFFFF
    if len(values) < entries or not 1 <= bits <= 16:
        raise ValueError(f"{sequence} has {len(values)} of {entries} entries of {bits} bits")
    return Lut(first, tuple(int(v) for v in values[:entries]), bits)


def _palette_of(header: InstanceHeader, dataset: Any) -> NDArray[Any]:
    if header.pixel_representation == 1 or (header.bits_allocated or 0) > 16:
        raise ValueError("palette indices are signed, or have more than 16 bits")
    return expand_palette(dataset, header.bits_stored or 8)


def expand_palette(dataset: Any, bits: int) -> NDArray[Any]:
    """Return the colours of a pydicom data set's palette (PS3.3 C.7.9).

    Parameters
    ----------
    dataset : pydicom.Dataset
    bits : int
        Of an index, 16 at most.

    Returns
    -------
    ndarray of shape (2 ** bits, 3), uint8 or uint16
        Red, green and blue of each index, over the whole range of their type.

    Raises
    ------
    Exception
        One of `pydicom_errors`: there is no palette, or a damaged one.
    """
    from pydicom.pixels.processing import apply_color_lut

    indices = np.arange(1 << bits, dtype=np.uint8 if bits <= 8 else np.uint16)
    return np.asarray(apply_color_lut(indices, dataset))


def _numbers(values: Any) -> tuple[float, ...]:
    if values is None or values == "":
        return ()
    numbers = tuple(float(v) for v in values) if hasattr(values, "__iter__") else (float(values),)
    if not np.isfinite(numbers).all():
        raise ValueError(f"{values} is not finite")
    return numbers


def _number(value: Any, otherwise: float | None) -> float | None:
    return otherwise if value is None or value == "" else _numbers(value)[0]
