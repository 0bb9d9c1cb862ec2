"""Synthetic segmentations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuprep.dicom.header import LABELMAP_SEG_UID, SEG_UID
from gpuprep.dicom.seg import SegmentationKind
from gpuprep.dicom.synth.elements import (
    CT_STORAGE,
    ImageSeries,
    decimal,
    decimals,
    derive_uid,
    orientation_of,
    reference,
    set_pixels,
    start,
    write_dataset,
)
from gpuprep.geometry import VolumeGeometry

#: The largest Maximum Fractional Value, for which a fraction fills its byte.
MAXIMUM_FRACTIONAL_VALUE = 255


@dataclass(frozen=True, slots=True, eq=False)
class SegmentSpec:
    """A segment to be written into a segmentation.

    Parameters
    ----------
    number : int
        Segment Number.
    label : str
        Segment Label.
    mask : ndarray of shape (D, H, W)
        Boolean; for FRACTIONAL the fractions, 0 to 1.
    cielab : (int, int, int) or None
        Recommended Display CIELab Value, as stored: 0 to 65535 each.
    """

    number: int
    label: str
    mask: NDArray[Any]
    cielab: tuple[int, int, int] | None = None


def build_segmentation(
    series: ImageSeries,
    segments: Sequence[SegmentSpec],
    *,
    geometry: VolumeGeometry | None = None,
    kind: SegmentationKind = "BINARY",
    slices: Sequence[int] | None = None,
) -> Any:
    """Return a Segmentation (or Label Map Segmentation) that refers to `series`.

    Parameters
    ----------
    series : ImageSeries
        What it refers to.
    segments : sequence of SegmentSpec
        For LABELMAP a later segment wins where they overlap; its background is 0.
    geometry : VolumeGeometry, optional
        Grid of the masks; that of `series` by default.
    kind : {"BINARY", "FRACTIONAL", "LABELMAP"}
        FRACTIONAL is of type PROBABILITY with a maximum of 255.
    slices : sequence of int, optional
        The slices that get frames, in their order in the file; by default those where the segment (for LABELMAP: any
        segment) is not empty, ascending.
    """
    from pydicom.dataset import Dataset

    grid = geometry or series.geometry
    series_uid = derive_uid(series.series_instance_uid, "SEG")
    is_labelmap = kind == "LABELMAP"
    sop_class = LABELMAP_SEG_UID if is_labelmap else SEG_UID
    data = start(series, sop_class, derive_uid(series_uid, kind), "SEG", series_uid)
    data.SeriesNumber = 3
    data.InstanceNumber = 1
    data.ImageType = ["DERIVED", "PRIMARY"]
    data.ContentLabel = "SYNTHETIC"
    data.ContentDescription = ""
    data.ContentCreatorName = ""
    data.FrameOfReferenceUID = series.geometry.frame_of_reference_uid
    data.SegmentationType = kind
    data.SegmentsOverlap = "NO" if is_labelmap else "UNDEFINED"
    if kind == "FRACTIONAL":
        data.SegmentationFractionalType = "PROBABILITY"
        data.MaximumFractionalValue = MAXIMUM_FRACTIONAL_VALUE
    referenced_series = Dataset()
    referenced_series.SeriesInstanceUID = series.series_instance_uid
    referenced_series.ReferencedInstanceSequence = [reference(CT_STORAGE, uid) for uid in series.sop_instance_uids]
    data.ReferencedSeriesSequence = [referenced_series]
    data.SegmentSequence = [_segment_item(s) for s in segments]

    layers = _stored_layers(segments, kind, grid.shape)
    chosen = [
        (number, layer, d)
        for number, layer in layers
        for d in (slices if slices is not None else np.flatnonzero(layer.any(axis=(1, 2))))
    ]
    organization_uid = derive_uid(data.SOPInstanceUID, "dimensions")
    organization = Dataset()
    organization.DimensionOrganizationUID = organization_uid
    data.DimensionOrganizationSequence = [organization]
    pointers = [(0x00200032, 0x00209113)] if is_labelmap else [(0x0062000B, 0x0062000A), (0x00200032, 0x00209113)]
    data.DimensionIndexSequence = [_dimension(organization_uid, *pointer) for pointer in pointers]

    measures = Dataset()
    measures.PixelSpacing = decimals(grid.spacing_dhw_mm[1:])
    measures.SliceThickness = measures.SpacingBetweenSlices = decimal(grid.spacing_dhw_mm[0])
    orientation = Dataset()
    orientation.ImageOrientationPatient = orientation_of(grid)
    shared = Dataset()
    shared.PixelMeasuresSequence = [measures]
    shared.PlaneOrientationSequence = [orientation]
    data.SharedFunctionalGroupsSequence = [shared]
    data.PerFrameFunctionalGroupsSequence = [_frame_item(grid, number, int(d)) for number, _, d in chosen]

    frames = np.stack([layer[d] for _, layer, d in chosen]) if chosen else np.zeros((0, *grid.shape[1:]), np.uint8)
    bits = 1 if kind == "BINARY" else 8
    set_pixels(data, grid.shape[1:], bits=bits, is_signed=False)
    data.NumberOfFrames = len(frames)
    data.LossyImageCompression = "00"
    stored = np.packbits(frames.reshape(-1), bitorder="little").tobytes() if bits == 1 else frames.tobytes()
    data.PixelData = stored + b"\0" * (len(stored) % 2)
    data["PixelData"].VR = "OB"
    return data


def write_seg(
    path: Path,
    series: ImageSeries,
    segments: Sequence[SegmentSpec],
    *,
    geometry: VolumeGeometry | None = None,
    kind: SegmentationKind = "BINARY",
    slices: Sequence[int] | None = None,
) -> Path:
    """Write the segmentation of `build_segmentation` and return its path."""
    write_dataset(build_segmentation(series, segments, geometry=geometry, kind=kind, slices=slices), path)
    return path


def _stored_layers(
    segments: Sequence[SegmentSpec], kind: SegmentationKind, shape: tuple[int, int, int]
) -> list[tuple[int | None, NDArray[np.uint8]]]:
    """Return (segment number or None, stored values of shape (D, H, W)) of each run of frames."""
    if kind == "LABELMAP":
        labels = np.zeros(shape, np.uint8)
        for segment in segments:
            labels[segment.mask.astype(bool)] = segment.number
        return [(None, labels)]
    if kind == "FRACTIONAL":
        scale = MAXIMUM_FRACTIONAL_VALUE
        return [(s.number, np.rint(s.mask.astype(np.float64) * scale).astype(np.uint8)) for s in segments]
    return [(s.number, s.mask.astype(bool).astype(np.uint8)) for s in segments]


def _segment_item(segment: SegmentSpec) -> Any:
    from pydicom.dataset import Dataset

    item = Dataset()
    item.SegmentNumber = segment.number
    item.SegmentLabel = segment.label
    item.SegmentAlgorithmType = "MANUAL"
    item.SegmentedPropertyCategoryCodeSequence = [_code("123037004", "Anatomical Structure")]
    item.SegmentedPropertyTypeCodeSequence = [_code("85756007", "Tissue")]
    if segment.cielab is not None:
        item.RecommendedDisplayCIELabValue = list(segment.cielab)
    return item


def _code(value: str, meaning: str) -> Any:
    from pydicom.dataset import Dataset

    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "SCT", meaning
    return item


def _dimension(organization_uid: str, pointer: int, group_pointer: int) -> Any:
    from pydicom.dataset import Dataset

    item = Dataset()
    item.DimensionOrganizationUID = organization_uid
    item.DimensionIndexPointer, item.FunctionalGroupPointer = pointer, group_pointer
    return item


def _frame_item(grid: VolumeGeometry, segment_number: int | None, slice_index: int) -> Any:
    from pydicom.dataset import Dataset

    content, position, item = Dataset(), Dataset(), Dataset()
    content.DimensionIndexValues = ([] if segment_number is None else [segment_number]) + [slice_index + 1]
    position.ImagePositionPatient = decimals(grid.to_lps((slice_index, 0, 0)))
    item.FrameContentSequence = [content]
    item.PlanePositionSequence = [position]
    if segment_number is not None:
        identification = Dataset()
        identification.ReferencedSegmentNumber = segment_number
        item.SegmentIdentificationSequence = [identification]
    return item
