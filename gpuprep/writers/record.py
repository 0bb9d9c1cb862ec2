"""What the record of a case says: `CaseRow.details`, JSON-ready, as far as the case got."""

from __future__ import annotations

from typing import Any, TypedDict


class GridRecord(TypedDict):
    """How an output voxel (slice, row, column) maps to the patient."""

    shape_dhw: list[int]
    index_dhw_to_lps_mm: list[list[float]]
    frame_of_reference_uid: str


class SegmentationRecord(TypedDict):
    """A segmentation that was used, and by what evidence it was linked to its image."""

    modality: str
    sop_instance_uid: str
    label: str
    linked_by: str


class LabelRecord(TypedDict):
    """A label, the names of the ROIs that make it, and the pattern that each of them matched."""

    name: str
    rois: list[str]
    patterns: list[str]


class CaseRecord(TypedDict, total=False):
    """What is noted of a case on its way; later steps add to what earlier ones wrote.

    ``warnings`` are of what the output lacks or may have wrong, ``findings`` (``code: message``) of what was noticed in
    series and links, and accepted. ``series`` are the Series Instance UIDs of the channels, ``volume`` tells which of
    several in the first one. ``voxels``, ``lost_voxels`` (to later labels) and ``objects`` are counts by label,
    ``channel_coverage`` shares of the output grid by modality. ``overlaps`` are [label, label, common voxels],
    ``combinations`` [labels, voxels] of each set of labels that covers a voxel, ``colours`` label → RGB or None.
    ``steps`` are those of each volume, in order; ``grid`` is the last one's.
    """

    warnings: list[str]
    findings: list[str]
    backend_reason: str
    loader: str
    study_instance_uid: str
    series: list[str]
    volume: str
    segmentations: list[SegmentationRecord]
    all_rois: list[str]
    labels: list[LabelRecord]
    unmatched_rois: list[str]
    voxels: dict[str, int]
    lost_voxels: dict[str, int]
    objects: dict[str, int]
    overlaps: list[list[Any]]
    combinations: list[list[Any]]
    colours: dict[str, tuple[int, int, int] | None]
    channel_coverage: dict[str, float]
    dose: dict[str, Any]
    steps: list[list[dict[str, Any]]]
    grid: GridRecord
