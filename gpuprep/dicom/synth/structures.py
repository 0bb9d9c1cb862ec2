"""Synthetic structure sets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from gpuprep.dicom.header import RTSTRUCT_UID
from gpuprep.dicom.synth.elements import (
    CT_STORAGE,
    DATE,
    TIME,
    ImageSeries,
    derive_uid,
    reference,
    start,
    write_dataset,
)


@dataclass(frozen=True, slots=True)
class RoiSpec:
    """A ROI to be written into a structure set.

    Parameters
    ----------
    number : int
        ROI Number.
    name : str
        ROI Name.
    contours : sequence of arrays of shape (N, 3), or None
        Vertices (x, y, z) LPS mm, one array a contour; written with 6 decimals. Empty: the ROI has an item in the ROI
        Contour Sequence, without contours. None: it has no item there.
    geometric_type : str
        Contour Geometric Type of all its contours.
    rgb : (int, int, int)
        ROI Display Color.
    """

    number: int
    name: str
    contours: Sequence[ArrayLike] | None = ()
    geometric_type: str = "CLOSED_PLANAR"
    rgb: tuple[int, int, int] = (255, 0, 0)


def build_structure_set(
    series: ImageSeries, rois: Sequence[RoiSpec], *, contour_order: Sequence[int] | None = None
) -> Any:
    """Return an RT Structure Set over `series`.

    Parameters
    ----------
    series : ImageSeries
        What it refers to.
    rois : sequence of RoiSpec
        In the order of the Structure Set ROI Sequence.
    contour_order : sequence of int, optional
        Indices into `rois` in the order of the ROI Contour Sequence; that of `rois` by default.
    """
    from pydicom.dataset import Dataset

    series_uid = derive_uid(series.series_instance_uid, "RTSTRUCT")
    data = start(series, RTSTRUCT_UID, derive_uid(series_uid, "instance"), "RTSTRUCT", series_uid)
    data.SeriesNumber = 2
    data.StructureSetLabel = "synthetic"
    data.StructureSetDate, data.StructureSetTime = DATE, TIME
    frame_uid = series.geometry.frame_of_reference_uid

    referenced_series = Dataset()
    referenced_series.SeriesInstanceUID = series.series_instance_uid
    referenced_series.ContourImageSequence = [reference(CT_STORAGE, uid) for uid in series.sop_instance_uids]
    referenced_study = reference("1.2.840.10008.3.1.2.3.1", series.study_instance_uid)
    referenced_study.RTReferencedSeriesSequence = [referenced_series]
    referenced_frame = Dataset()
    referenced_frame.FrameOfReferenceUID = frame_uid
    referenced_frame.RTReferencedStudySequence = [referenced_study]
    data.ReferencedFrameOfReferenceSequence = [referenced_frame]

    data.StructureSetROISequence, data.RTROIObservationsSequence = [], []
    for observation_number, roi in enumerate(rois, start=1):
        item = Dataset()
        item.ROINumber = roi.number
        item.ReferencedFrameOfReferenceUID = frame_uid
        item.ROIName = roi.name
        item.ROIGenerationAlgorithm = ""
        data.StructureSetROISequence.append(item)
        observation = Dataset()
        observation.ObservationNumber = observation_number
        observation.ReferencedROINumber = roi.number
        observation.RTROIInterpretedType = ""
        observation.ROIInterpreter = ""
        data.RTROIObservationsSequence.append(observation)

    ordered = rois if contour_order is None else [rois[i] for i in contour_order]
    data.ROIContourSequence = [_roi_contours(series, roi, roi.contours) for roi in ordered if roi.contours is not None]
    return data


def write_rtstruct(
    path: Path, series: ImageSeries, rois: Sequence[RoiSpec], *, contour_order: Sequence[int] | None = None
) -> Path:
    """Write the structure set of `build_structure_set` and return its path."""
    write_dataset(build_structure_set(series, rois, contour_order=contour_order), path)
    return path


def _roi_contours(series: ImageSeries, roi: RoiSpec, contours: Sequence[ArrayLike]) -> Any:
    from pydicom.dataset import Dataset

    item = Dataset()
    item.ROIDisplayColor = list(roi.rgb)
    item.ContourSequence = []
    for points in contours:
        vertices = np.asarray(points, np.float64).reshape(-1, 3)
        contour = Dataset()
        if len(vertices):
            nearest = int(np.clip(np.rint(series.geometry.to_index(vertices[0])[0]), 0, series.geometry.shape[0] - 1))
            contour.ContourImageSequence = [reference(CT_STORAGE, series.sop_instance_uids[nearest])]
        contour.ContourGeometricType = roi.geometric_type
        contour.NumberOfContourPoints = len(vertices)
        contour.ContourData = [f"{v:.6f}" for v in vertices.reshape(-1)]
        item.ContourSequence.append(contour)
    item.ReferencedROINumber = roi.number
    return item
