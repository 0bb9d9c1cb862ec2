"""The segmentations of a case: read, choose, match to labels, draw."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from gpuprep.backends.base import Backend
from gpuprep.codecs.segframes import decode_segmentation_frames
from gpuprep.config import MultipleSegmentations, OnMissing, RoiOptions
from gpuprep.dicom.header import InstanceHeader
from gpuprep.dicom.index import list_some
from gpuprep.dicom.roi_names import RoiMatch, match_rois
from gpuprep.dicom.rtstruct import AREA_TYPES, StructureSet, read_structure_set
from gpuprep.dicom.seg import Segmentation, read_segmentation
from gpuprep.errors import LinkError, RoiError
from gpuprep.geometry import VolumeGeometry
from gpuprep.masks import Roi, RoiMask, join_masks, merge_to_labels
from gpuprep.ops.rasterize import SliceGrid, rasterize
from gpuprep.ops.segments import embed_segmentation
from gpuprep.writers.record import CaseRecord


@dataclass(frozen=True, slots=True)
class SourceSegmentation:
    """One RTSTRUCT or SEG instance that was read."""

    header: InstanceHeader
    content: StructureSet | Segmentation

    @property
    def rois(self) -> tuple[Roi, ...]:
        """Its ROIs or segments, in file order."""
        if isinstance(self.content, StructureSet):
            return tuple(r.roi for r in self.content.rois)
        return self.content.segments

    @property
    def are_drawn(self) -> tuple[bool, ...]:
        """Whether each of its ROIs has a closed contour or a frame; a label map may hold any."""
        if isinstance(self.content, StructureSet):
            return tuple(any(c.geometric_type in AREA_TYPES for c in roi.contours) for roi in self.content.rois)
        numbers = {frame.segment_number for frame in self.content.frames}
        return tuple(None in numbers or roi.number in numbers for roi in self.content.segments)

    @property
    def label(self) -> str:
        """How messages name it: its label when it has one, and its path, for two files may say one UID."""
        name = self.header.structure_set_label or self.header.series_description
        return f"{name!r} in {self.header.path}" if name else self.header.path

    @property
    def date(self) -> tuple[str, str, str]:
        """What orders versions in time: the structure set's date and time, else the content's or the series'."""
        header = self.header
        date = header.structure_set_date or header.content_date or header.series_date
        time = header.structure_set_time or header.content_time or header.series_time
        return date, time, header.sop_instance_uid


@dataclass(frozen=True, slots=True)
class SelectedRois:
    """The segmentations that make a case's mask, and which of their ROIs make which label.

    `match` counts ROIs through all `sources` in order.
    """

    sources: tuple[SourceSegmentation, ...]
    match: RoiMatch

    def draw(
        self,
        grid: SliceGrid,
        target: VolumeGeometry,
        options: RoiOptions,
        backend: Backend,
        record: CaseRecord,
    ) -> RoiMask:
        """Draw the matched ROIs on `target` and merge them to labels.

        Contours are rasterised, and segments placed, directly on the output grid; labels are never interpolated.

        Parameters
        ----------
        grid : SliceGrid
            The acquired planes, which contours belong to.
        target : VolumeGeometry
            Output grid, its axes parallel to those of `grid`.
        options : RoiOptions
        backend : Backend
            Where contours are drawn; segments are placed on its host.
        record : CaseRecord
            Gets ``voxels`` by label (equal names with their numbers), and ``warnings`` of what could not be drawn.

        Returns
        -------
        RoiMask
            Its ROIs are the labels, in the order of the options; and, where these ask for them, the ROIs of each label.

        Raises
        ------
        RoiError
            ``label-empty``: with `OnMissing.ERROR`, the ROIs of a label that is not optional hold no voxel.
        """
        wanted = {i for label in self.match.labels for i in label.rois}
        problems: list[str] = []
        masks: list[RoiMask] = []
        columns: dict[int, int] = {}
        first = 0
        for source in self.sources:
            used = [i for i in range(len(source.rois)) if first + i in wanted]
            columns |= {first + i: len(columns) + n for n, i in enumerate(used)}
            first += len(source.rois)
            if isinstance(source.content, StructureSet):
                structures = source.content.in_frame(target.frame_of_reference_uid)
                contoured = [structures.rois[i] for i in used]
                problems += [str(p) for p in (*structures.problems, *(p for r in contoured for p in r.problems))]
                drawn = rasterize(contoured, grid, overlap=options.contour_overlap, backend=backend, target=target)
                problems += [str(p) for p in drawn.problems]
                masks.append(drawn.mask)
            else:
                numbers = [source.rois[i].number for i in used]
                frame = target.frame_of_reference_uid  # linking has judged the segmentation's own
                mask, found = embed_segmentation(
                    replace(source.content, frame_of_reference_uid=frame),
                    decode_segmentation_frames(source.content),
                    grid,
                    backend=backend.host,
                    target=target,
                    fractional_threshold=options.fractional_threshold,
                    wanted=numbers,
                )
                problems += [str(p) for p in found]
                masks.append(merge_to_labels(mask, [(n,) for n in _positions(mask, numbers)]))
        members = [tuple(columns[i] for i in label.rois) for label in self.match.labels]
        rois = [roi for source in self.sources for roi in source.rois]
        names = [_describe_label(n, m.name, [rois[i] for i in m.rois]) for n, m in enumerate(self.match.labels, 1)]
        joined = join_masks(masks)
        labels = merge_to_labels(joined, members, names)
        voxels = labels.voxel_counts.tolist()
        seen = Counter(label.name for label in names)
        keys = (f"{label.name} (label {label.number})" if seen[label.name] > 1 else label.name for label in names)
        record["voxels"] = dict(zip(keys, voxels, strict=True))
        record["warnings"] += problems + _find_empty_labels(self.match, voxels, options)
        if options.with_members:
            single = [(label, roi) for label, of in zip(names, members, strict=True) for roi in of]
            own = [replace(joined.rois[roi], number=label.number) for label, roi in single]
            labels = merge_to_labels(joined, [*members, *((roi,) for _, roi in single)], [*names, *own])
        return labels


def select_segmentations(
    segmentations: Sequence[InstanceHeader],
    evidence: Sequence[str],
    options: RoiOptions,
    multiple: MultipleSegmentations,
    record: CaseRecord,
) -> SelectedRois:
    """Read the segmentations of an image, decide which one is meant, and match its ROIs to labels.

    Among several, only those whose ROIs match the labels count; if more than one does, `multiple` decides.

    Parameters
    ----------
    segmentations : sequence of InstanceHeader
        RTSTRUCT and SEG instances of one image.
    evidence : sequence of str
        How each was linked.
    options : RoiOptions
    multiple : MultipleSegmentations
    record : CaseRecord
        Gets ``segmentations`` (what was used, and how it was linked), ``labels`` (which ROI matched which pattern),
        ``unmatched_rois``, and ``warnings`` of missing labels.

    Raises
    ------
    LinkError
        ``several-segmentations``: more than one matches and `multiple` is ERROR.
    RoiError
        What `match_rois` raises, for the only segmentation or the first of several that all fail.
    """
    sources = [SourceSegmentation(header, _read(header)) for header in segmentations]
    if multiple is not MultipleSegmentations.MERGE and len(sources) > 1:
        sources = [_choose(sources, options, multiple)]
    names = [roi.name for source in sources for roi in source.rois]
    linked = dict(zip((s.path for s in segmentations), evidence, strict=True))
    record["segmentations"] = [
        {
            "modality": s.header.modality,
            "sop_instance_uid": s.header.sop_instance_uid,
            "label": s.header.structure_set_label,
            "linked_by": linked[s.header.path],
        }
        for s in sources
    ]
    record["all_rois"] = names
    are_drawn = [is_drawn for source in sources for is_drawn in source.are_drawn]
    match = match_rois(names, options, [i for i, is_drawn in enumerate(are_drawn) if not is_drawn])
    record["labels"] = [
        {"name": m.name, "rois": [names[i] for i in m.rois], "patterns": list(m.patterns)} for m in match.labels
    ]
    record["unmatched_rois"] = [names[i] for i in match.unmatched]
    if options.on_missing is OnMissing.WARN:
        record["warnings"] += [f"no ROI for the label {name!r}" for name in match.missing]
    return SelectedRois(tuple(sources), match)


def _read(header: InstanceHeader) -> StructureSet | Segmentation:
    return read_structure_set(header.path) if header.modality == "RTSTRUCT" else read_segmentation(header.path)


def _choose(
    sources: Sequence[SourceSegmentation], options: RoiOptions, multiple: MultipleSegmentations
) -> SourceSegmentation:
    matching, refused = [], []
    for source in sources:
        try:
            match_rois([roi.name for roi in source.rois], options)
        except RoiError as error:
            refused.append(error)
        else:
            matching.append(source)
    if not matching:
        raise refused[0]
    if len(matching) > 1 and multiple is MultipleSegmentations.ERROR:
        raise LinkError(
            f"{len(matching)} segmentations of this image match the labels: " + ", ".join(s.label for s in matching),
            code="several-segmentations",
            hint="choose with --multiple-segmentations latest, all or merge",
        )
    return max(matching, key=lambda s: s.date)


def _describe_label(number: int, name: str, rois: Sequence[Roi]) -> Roi:
    """Return a label: what is known of its only ROI, or the first colour of several."""
    if len(rois) == 1:
        return replace(rois[0], number=number, name=name)
    return Roi(number, name, next((roi.rgb for roi in rois if roi.rgb), None))


def _find_empty_labels(match: RoiMatch, voxels: Sequence[int], options: RoiOptions) -> list[str]:
    """Return a warning for each label that has ROIs but no voxel; raise where it may not be missing."""
    empty = [label.name for label, count in zip(match.labels, voxels, strict=True) if label.rois and not count]
    optional = {label.name for label in options.labels if label.optional}
    required = [name for name in empty if name not in optional]
    if options.on_missing is OnMissing.ERROR and required:
        raise RoiError(
            f"the ROIs of the label {list_some([repr(name) for name in required])} hold no voxel",
            code="label-empty",
            hint="look whether they were drawn, mark the label optional in the ROI map, or use --on-missing warn",
        )
    return [f"the ROIs of the label {name!r} hold no voxel" for name in empty]


def _positions(mask: RoiMask, numbers: Sequence[int]) -> list[int]:
    place = {roi.number: i for i, roi in enumerate(mask.rois)}
    return [place[n] for n in numbers]
