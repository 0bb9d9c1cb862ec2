"""Reading masks wherever they are: mask files, DICOM SEG, and RTSTRUCT with its images."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from gpuprep.backends.base import Backend
from gpuprep.codecs.segframes import decode_segmentation_frames
from gpuprep.config import Stacking
from gpuprep.dicom.datasets import PREFIX_END, begins_like_dicom
from gpuprep.dicom.header import InstanceHeader, read_headers
from gpuprep.dicom.index import Series
from gpuprep.dicom.rtstruct import read_structure_set
from gpuprep.dicom.seg import Segmentation, read_segmentation
from gpuprep.dicom.stack import Stack
from gpuprep.errors import ConfigError, InputNotFoundError, LinkError, RoiError
from gpuprep.geometry import VolumeGeometry
from gpuprep.masks import Roi, RoiMask
from gpuprep.ops.rasterize import SliceGrid, rasterize
from gpuprep.ops.segments import embed_segmentation, own_grid
from gpuprep.run.plan import CasePlan, Channel
from gpuprep.run.sources import open_sources
from gpuprep.run.volumes import choose_images, choose_stack
from gpuprep.writers.masks import read_mask, supervisely
from gpuprep.writers.masks.description import parse_geometry, parse_rois, reading
from gpuprep.writers.masks.dicomseg import segment_of
from gpuprep.writers.supervisely import Plane


@dataclass(frozen=True, slots=True)
class MaskProblem:
    """What of a mask could not be read, and of which ROI; None where that is of any."""

    message: str
    roi: Roi | None = None


@dataclass(frozen=True, slots=True, eq=False)
class OpenedMask:
    """A mask, what of it could not be read, what it has no room for, and its images where they were given."""

    mask: RoiMask
    problems: tuple[MaskProblem, ...] = ()
    notes: tuple[str, ...] = ()
    images: tuple[InstanceHeader, ...] = ()


def open_mask(
    path: Path, *, image: Path | None, stacking: Stacking, backend: Backend, plane: Plane | None = None
) -> OpenedMask:
    """Read a mask of any kind.

    Parameters
    ----------
    path : Path
        A mask file of `gpuprep.writers.masks`, a case of Supervisely's import, a DICOM SEG or an RTSTRUCT.
    image : Path, optional
        Folder of the images of a SEG or RTSTRUCT: the mask is put on their grid. A SEG without images lies on the grid
        that its description or its own frames tell.
    stacking : Stacking
        How the images are made a volume.
    backend : Backend
        Where contours are drawn.
    plane : str, optional
        Of a case of Supervisely's import.

    Raises
    ------
    InputNotFoundError
        ``path-missing``, ``no-dicom-found``.
    ConfigError
        ``image-needed``: an RTSTRUCT without `image`; ``plane-missing``: `plane` of something without planes; and what
        `read_mask` and `gpuprep.writers.masks.supervisely.read` raise.
    CaseError
        What readers of SEG and RTSTRUCT, of image stacks and of mask files raise.
    """
    try:
        path.stat()
    except OSError as error:
        raise InputNotFoundError(
            f"cannot be read: {error.strerror}", code="path-missing", subject=str(path), hint="check the path"
        ) from error
    if supervisely.is_case(path):
        scores = supervisely.find_scores(path)
        notes = (f"a mask has no room for scores: {len(scores)} score tables are left out",) if scores else ()
        images = find_images(image, stacking) if image else ()
        return OpenedMask(supervisely.read(path, plane), notes=notes, images=images)
    if plane is not None:
        raise ConfigError("only a case of Supervisely's import has planes", code="plane-missing", subject=str(path))
    if not _is_dicom(path):
        return OpenedMask(read_mask(path), images=find_images(image, stacking) if image else ())
    (header,) = read_headers([str(path)])
    if header.modality != "RTSTRUCT":
        segmentation = read_segmentation(path)
        stack = _stack_of(header, image, stacking) if image else None
        mask, problems = _read_seg(segmentation, stack, backend)
        return OpenedMask(mask, problems, images=tuple(dict.fromkeys(stack.instances)) if stack else ())
    if image is None:
        raise ConfigError(
            "contours have to be drawn on images", code="image-needed", subject=str(path), hint="add --image FOLDER"
        )
    structures = read_structure_set(str(path))
    stack = _stack_of(header, image, stacking)
    structures = structures.in_frame(stack.geometry.frame_of_reference_uid)
    drawn = rasterize(structures.rois, SliceGrid.of_stack(stack), overlap="xor", backend=backend)
    found = [MaskProblem(str(p)) for p in structures.problems]
    found += [MaskProblem(str(p), item.roi) for item in structures.rois for p in item.problems]
    found += [MaskProblem(str(p), p.roi) for p in drawn.problems]
    return OpenedMask(drawn.mask, tuple(found), images=tuple(dict.fromkeys(stack.instances)))


def find_images(folder: Path, stacking: Stacking) -> tuple[InstanceHeader, ...]:
    """Return the instances of the only image series in a folder, without a localizer among them.

    Raises
    ------
    InputNotFoundError
        ``no-dicom-found``.
    LinkError
        ``ambiguous-reference``: there are several.
    """
    sources = open_sources([folder], index_path=None, workers=1)
    series = [s for s in sources.series if s.is_image]
    if len(series) != 1:
        raise LinkError(
            f"{len(series)} image series, not one",
            code="ambiguous-reference",
            subject=str(folder),
            hint="give a folder that holds only the series that the mask was made on",
        )
    return choose_images(_plan(series[0]), stacking)


def _is_dicom(path: Path) -> bool:
    """Tell by content, or by name for a file that is damaged."""
    if path.is_dir():
        return False
    if path.suffix.lower() == ".dcm":
        return True
    with path.open("rb") as file:
        return begins_like_dicom(file.read(PREFIX_END), path.stat().st_size)


def _stack_of(header: InstanceHeader, image: Path, stacking: Stacking) -> Stack:
    """Return the stack of the images that a SEG or RTSTRUCT belongs to."""
    sources = open_sources([image, Path(header.path)], index_path=None, workers=1)
    uid = header.sop_instance_uid
    links = [link for link in sources.links.links if link.segmentation.sop_instance_uid == uid]
    if not links:
        paths = {i.path for s in sources.series for i in s.instances if i.sop_instance_uid == uid}
        known = (problem for problem in sources.links.problems if problem.subject in paths)
        unlinked = LinkError("nothing links it to images", code="dangling-reference", subject=header.path)
        error = next(known, unlinked)
        if error.code == unlinked.code:
            error.hint = "name the folder of its images with --image"
        raise error
    (series,) = (s for s in sources.series if s.key == links[0].image_key)
    plan = _plan(series, header)
    return choose_stack(plan.channels[0], plan, stacking, needs_image=False)


def _plan(series: Series, *segmentations: InstanceHeader) -> CasePlan:
    channel = Channel(series.modality, series.series_instance_uid, tuple(series.instances))
    return CasePlan("", "", (channel,), segmentations, (), (), "")


def _own_grid(segmentation: Segmentation) -> VolumeGeometry:
    try:
        return own_grid(segmentation)
    except RoiError as error:
        error.hint = "add --image FOLDER: frames lie on the slices of their images, however those lie"
        raise


def _read_seg(
    segmentation: Segmentation, stack: Stack | None, backend: Backend
) -> tuple[RoiMask, tuple[MaskProblem, ...]]:
    stated: VolumeGeometry | None = None
    described: tuple[Roi, ...] = ()
    if segmentation.description:
        with reading(segmentation.path):
            stated, described = parse_geometry(segmentation.description), parse_rois(segmentation.description)
    if stack is not None:
        grid = SliceGrid.of_stack(stack)
        frame = stack.geometry.frame_of_reference_uid  # linking has judged the segmentation's own
        segmentation = replace(segmentation, frame_of_reference_uid=frame)
    else:
        grid = SliceGrid(stated or _own_grid(segmentation))
    mask, problems = embed_segmentation(segmentation, decode_segmentation_frames(segmentation), grid, backend=backend)
    rois = list(mask.rois)
    for n, (roi, segment) in enumerate(zip(described, mask.rois, strict=False)):
        if segment_of(n + 1, roi) == segment:  # else another program has changed it
            rois[n] = roi
    return replace(mask, rois=tuple(rois)), tuple(MaskProblem(str(p)) for p in problems)
