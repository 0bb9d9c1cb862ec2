"""Which image series an RTSTRUCT or SEG outlines, and how that is known."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from gpuprep.dicom.findings import Finding
from gpuprep.dicom.header import RTSTRUCT_UID, InstanceHeader
from gpuprep.dicom.index import Series, SeriesKey, is_image, is_segmentation, list_some
from gpuprep.dicom.rtstruct import AREA_TYPES, read_structure_set
from gpuprep.dicom.stack import UNKNOWN_SPACING_MM, planes_of
from gpuprep.errors import GeometryError, HeaderError, LinkError
from gpuprep.geometry import Float, median

#: Hint where one series has several Patient IDs.
PATIENTS_APART = "convert the files of each patient from a folder of their own"

Evidence = Literal["series-uid", "sop-instance-uids", "frame-of-reference"]

#: At least this share of the referenced SOP instances must be there for them to tell the series.
SUFFICIENT_SHARE = 0.5
#: Contours and frames at most this far from the planes of a series, mm, were drawn on them; what was drawn on another
#: series of the same patient is further off. Coordinates are written with one decimal at least.
ON_PLANE_TOLERANCE_MM = 0.1


@dataclass(frozen=True, slots=True)
class Link:
    """A segmentation and its image.

    Parameters
    ----------
    segmentation : InstanceHeader
        The RTSTRUCT or SEG.
    image_series_uid, image_modality : str
        Series Instance UID and modality of the only image series that it can mean.
    evidence : {"series-uid", "sop-instance-uids", "frame-of-reference"}
        What told: it names the series; it names instances of the series; its contours or frames lie on the planes of
        the series, in the same frame of reference.
    detail : str
        The same in words, with counts.
    findings : tuple of Finding
        ``referenced-instances-missing``: not all instances that it names are there.
        ``frame-of-reference-mismatch``: it names another frame of reference than the image has, but the instances
        that it names are those of the image.
        ``patient-id-mismatch``: its Patient ID is not the image's.
    """

    segmentation: InstanceHeader
    image_series_uid: str
    image_modality: str
    evidence: Evidence
    detail: str
    findings: tuple[Finding, ...] = ()

    @property
    def image_key(self) -> SeriesKey:
        """`Series.key` of the image."""
        return self.image_series_uid, self.image_modality


@dataclass(frozen=True, slots=True)
class LinkResult:
    """Every RTSTRUCT and SEG instance, either linked or with an error whose `subject` is its path."""

    links: tuple[Link, ...]
    problems: tuple[LinkError, ...]


def link(series: Sequence[Series]) -> LinkResult:
    """Find the image series of each RTSTRUCT and SEG.

    The first evidence that applies decides: a referenced Series Instance UID that is there; the referenced SOP
    instances that are there (`SUFFICIENT_SHARE` of them at least); the same frame of reference, in the same study if
    possible, with all closed contours or frames within half a slice of the image's planes, those that were drawn on
    them (`ON_PLANE_TOLERANCE_MM`) before others. Series with pixels qualify, but no localizers, segmentations or doses.

    Parameters
    ----------
    series : sequence of Series
        All that are there.

    Returns
    -------
    LinkResult
        Links and errors in the order of `series`. The errors are

        ``dangling-reference``: nothing that it references is there.
        ``ambiguous-reference``: several series would do.
        ``unreferenced-segmentation``: it references nothing.
        ``frame-of-reference-mismatch``: the series that it names is in another frame of reference, and the instances
        that it names are not there.
        ``conflicting-patient-ids``: its image series mixes patients.
        ``segmentation-unreadable``: its planes were needed, and cannot be read.
    """
    segmentations = [i for s in series for i in s.instances if is_segmentation(i)]
    images = _Images(series, segmentations)
    links: list[Link] = []
    problems: list[LinkError] = []
    for segmentation in segmentations:
        try:
            links.append(_link_one(segmentation, images))
        except LinkError as error:
            problems.append(error)
    return LinkResult(tuple(links), tuple(problems))


class _Images:
    """The image series, by what segmentations reference."""

    def __init__(self, series: Sequence[Series], segmentations: Iterable[InstanceHeader]) -> None:
        self.by_series_uid: dict[str, list[Series]] = {}
        self.by_instance_uid: dict[str, list[Series]] = {}
        self.by_frame_uid: dict[str, list[Series]] = {}
        wanted = {uid for s in segmentations for uid in s.referenced_sop_instance_uids}
        for one in series:
            if not one.is_image:
                continue
            self.by_series_uid.setdefault(one.series_instance_uid, []).append(one)
            for frame in sorted(one.frame_of_reference_uids):
                self.by_frame_uid.setdefault(frame, []).append(one)
            for uid in {i.sop_instance_uid for i in one.instances if is_image(i)} & wanted:
                self.by_instance_uid.setdefault(uid, []).append(one)

    def named_by(self, segmentation: InstanceHeader) -> list[Series]:
        """Return the series whose UID a segmentation references."""
        return _merge(self.by_series_uid, segmentation.referenced_series_uids)

    def holding_instances_of(self, segmentation: InstanceHeader) -> list[Series]:
        """Return the series of the instances that a segmentation references."""
        return _merge(self.by_instance_uid, segmentation.referenced_sop_instance_uids)

    def count_instances(self, segmentation: InstanceHeader, image: Series | None = None) -> int:
        """Return how many of the referenced instances are there, or in `image`."""
        owners = (self.by_instance_uid.get(uid, ()) for uid in segmentation.referenced_sop_instance_uids)
        return sum(any(image is None or one is image for one in series) for series in owners)

    def in_frame(self, segmentation: InstanceHeader) -> list[Series]:
        """Return the series in a segmentation's frame of reference, those of its study only if there are any."""
        found = _merge(self.by_frame_uid, sorted(_frames_of_reference(segmentation)))
        return [s for s in found if s.study_instance_uid == segmentation.study_instance_uid] or found


def _merge(table: Mapping[str, Sequence[Series]], keys: Iterable[str]) -> list[Series]:
    """Return what a table has for all keys, each series once."""
    return list({id(one): one for key in keys for one in table.get(key, ())}.values())


def _frames_of_reference(segmentation: InstanceHeader) -> frozenset[str]:
    return frozenset((segmentation.frame_of_reference_uid, *segmentation.referenced_frame_of_reference_uids)) - {""}


def _link_one(segmentation: InstanceHeader, images: _Images) -> Link:
    stated = len(segmentation.referenced_sop_instance_uids)
    if not (segmentation.referenced_series_uids or stated or _frames_of_reference(segmentation)):
        raise LinkError(
            "it references neither a series, nor instances, nor a frame of reference",
            code="unreferenced-segmentation",
            subject=segmentation.path,
            hint="export it again, with its references",
        )
    evidence: Evidence
    holders = images.holding_instances_of(segmentation)
    if named := images.named_by(segmentation):
        evidence, detail = "series-uid", "it references the series"
        image = _the_only([s for s in named if s in holders] or [*named, *holders], segmentation)
    elif stated and images.count_instances(segmentation) >= SUFFICIENT_SHARE * stated:
        evidence, detail = "sop-instance-uids", "it references instances of the series"
        image = _the_only(holders, segmentation)
    else:
        evidence = "frame-of-reference"
        image, detail = _find_by_planes(segmentation, images.in_frame(segmentation))
    present = images.count_instances(segmentation, image)
    findings = [*_check_frame(segmentation, image, present), *_check_patient(segmentation, image)]
    if present < stated:
        message = f"{stated - present} of {stated} referenced instances are not in the series"
        findings.append(Finding("referenced-instances-missing", message))
    return Link(segmentation, image.series_instance_uid, image.modality, evidence, detail, tuple(findings))


def _the_only(candidates: Sequence[Series], segmentation: InstanceHeader) -> Series:
    if len(candidates) == 1:
        return candidates[0]
    raise LinkError(
        f"{len(candidates)} series would do: {list_some([s.series_instance_uid for s in candidates])}",
        code="ambiguous-reference",
        subject=segmentation.path,
        hint="index a folder that holds only the series that is meant, and the segmentation",
    )


def _check_frame(segmentation: InstanceHeader, image: Series, present: int) -> list[Finding]:
    stated, found = _frames_of_reference(segmentation), image.frame_of_reference_uids
    if not stated or not found or stated & found:
        return []
    message = (
        f"it names frame of reference {list_some(sorted(stated))}, series {image.series_instance_uid} is in another"
    )
    if present and present >= SUFFICIENT_SHARE * len(segmentation.referenced_sop_instance_uids):
        return [Finding("frame-of-reference-mismatch", message)]
    raise LinkError(
        f"{message}, and it references no instances that are there",
        code="frame-of-reference-mismatch",
        subject=segmentation.path,
        hint="its contours may lie elsewhere in the patient; look at them together before using them",
    )


def _check_patient(segmentation: InstanceHeader, image: Series) -> list[Finding]:
    if any(finding.code == "conflicting-patient-ids" for finding in image.findings):
        raise LinkError(
            f"its image series {image.series_instance_uid} mixes patients",
            code="conflicting-patient-ids",
            subject=segmentation.path,
            hint=PATIENTS_APART,
        )
    if segmentation.patient_id == image.patient_id:
        return []
    ids = list_some([segmentation.patient_id]), list_some([image.patient_id])
    message = f"its Patient ID is {ids[0]}, that of its image {ids[1]}"
    return [Finding("patient-id-mismatch", message)]


# --- Frame of reference and planes -----------------------------------------------------------------------------------


def _find_by_planes(segmentation: InstanceHeader, candidates: Sequence[Series]) -> tuple[Series, str]:
    outlines = _read_outlines(segmentation) if candidates else []
    fitting = []
    for image in candidates if outlines else ():
        frames = {"", *image.frame_of_reference_uids}
        of_image = [points for frame, points in outlines if frame in frames] or [points for _, points in outlines]
        misfit_mm = _measure_misfit(of_image, image)
        if misfit_mm is not None:
            fitting.append((image, misfit_mm, len(of_image)))
    if not fitting:
        raise LinkError(
            f"nothing that it references is there: {_describe_references(segmentation)}"
            + (f"; {len(candidates)} series share its frame of reference, but not its planes" if candidates else ""),
            code="dangling-reference",
            subject=segmentation.path,
            hint="index the folder of its image series too",
        )
    drawn_on = [one for one in fitting if one[1] <= ON_PLANE_TOLERANCE_MM] or fitting
    image = _the_only([image for image, *_ in drawn_on], segmentation)
    _, misfit_mm, count = drawn_on[0]
    return image, f"{count} contours or frames lie on its planes, at most {misfit_mm:.2f} mm off"


def _read_outlines(segmentation: InstanceHeader) -> list[tuple[str, Float]]:
    """Return the points (n, 3), LPS mm, of each contour or frame, and the frame of reference that a contour states.

    Each lies in a plane of the image, for points and paths, which need not, are left out.
    """
    try:
        if segmentation.sop_class_uid == RTSTRUCT_UID:
            return [
                (roi.frame_of_reference_uid, contour.points_lps_mm)
                for roi in read_structure_set(segmentation.path).rois
                for contour in roi.contours
                if contour.geometric_type in AREA_TYPES and len(contour.points_lps_mm)
            ]
        return [("", plane.corners_lps_mm) for plane in planes_of(segmentation)]
    except (HeaderError, GeometryError) as error:
        raise LinkError(
            f"nothing that it references is there, and its planes cannot be read: {error.message}",
            code="segmentation-unreadable",
            subject=segmentation.path,
        ) from error


def _measure_misfit(outlines: Sequence[Float], image: Series) -> float | None:
    """Return the distance, mm, of the outlines from the image's planes; None if they are no outlines on such planes.

    That is so where one is further from all planes than half a slice, or leaves its plane by more than that.
    """
    try:
        planes = [plane for instance in image.instances if is_image(instance) for plane in planes_of(instance)]
    except (HeaderError, GeometryError):
        return None
    normal = np.cross(planes[0].orientation[:3], planes[0].orientation[3:])
    places = np.unique(np.round([np.dot(normal, plane.position_lps_mm) for plane in planes], 3))
    if len(places) > 1:
        half_mm = median(np.diff(places)) / 2
    else:
        half_mm = (planes[0].slice_spacing_mm or UNKNOWN_SPACING_MM) / 2
    misfit_mm = 0.0
    for points in outlines:
        heights = points @ normal
        misfit_mm = max(misfit_mm, float(np.abs(places - heights.mean()).min()), float(np.ptp(heights)) / 2)
        if not misfit_mm <= half_mm:
            return None
    return misfit_mm


def _describe_references(segmentation: InstanceHeader) -> str:
    parts = (
        ("series", segmentation.referenced_series_uids),
        ("instances", segmentation.referenced_sop_instance_uids),
        ("frame of reference", sorted(_frames_of_reference(segmentation))),
    )
    return "; ".join(f"{what} {list_some(uids)}" for what, uids in parts if uids)
