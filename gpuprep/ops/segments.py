"""Segments of a DICOM segmentation → ROIs on a voxel grid, by where their frames lie in the patient."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gpuprep.backends.base import Backend
from gpuprep.codes import PLANE_BITS
from gpuprep.dicom.seg import BACKGROUND, Segmentation, SegmentFrame
from gpuprep.errors import RoiError
from gpuprep.geometry import Float, VolumeGeometry, median
from gpuprep.masks import RoiMask, from_slices, recode
from gpuprep.ops.rasterize import SliceGrid
from gpuprep.ops.resample import resample_labels

#: Frames and slices closer than this lie in the same plane; as a fraction of the slice distance.
SAME_PLANE_TOLERANCE_SLICES = 0.05
#: A frame counts as parallel to the slices when no corner of it leaves its row, column or slice by more than this.
PARALLEL_TOLERANCE_VOXELS = 0.1
#: Added before rounding down, so that a voxel centre halfway between two goes up whatever the last bits say.
TIE_TOLERANCE_VOXELS = 1e-6

_Indices = slice | NDArray[np.intp]


def embed_segmentation(
    segmentation: Segmentation,
    frames: Sequence[NDArray[np.unsignedinteger]],
    grid: SliceGrid,
    *,
    backend: Backend,
    target: VolumeGeometry | None = None,
    fractional_threshold: float = 0.5,
    wanted: Collection[int] | None = None,
) -> tuple[RoiMask, tuple[RoiError, ...]]:
    """Place the segments on a grid: by position and orientation of each frame, never by its number.

    Each target slice shows the nearest plane, each of its voxels the nearest pixel; where the frames lie on the grid
    that is an exact copy, whatever their order, however rows and columns are cropped, flipped or swapped.

    The planes are those of the image when frames fall on them one to one, to within half a slice of either: a plane
    without a frame of a segment is then empty of it. Otherwise (the segmentation has slices of another distance) they
    are the frames' own, each as thick as Spacing Between Slices or the smallest step found, whichever is less. Frames
    that are not parallel to the slices are first put on a grid of their own, then sampled by nearest neighbour.

    Parameters
    ----------
    segmentation : Segmentation
        The header.
    frames : sequence of arrays of shape (rows, columns)
        Stored values of its frames, in the order of the file.
    grid : SliceGrid
        The acquired planes of the image.
    backend : Backend
        Where frames that are not parallel to the slices are sampled.
    target : VolumeGeometry, optional
        Grid of the result, its slices parallel to those of `grid`; ``grid.geometry`` by default.
    fractional_threshold : float
        A voxel of a FRACTIONAL segment is inside when its value is greater than this fraction of the maximum, 0 to 1.
    wanted : collection of int, optional
        Numbers of the segments that are placed; frames of others are not decoded, and their planes count as before.

    Returns
    -------
    mask : RoiMask
        All segments in file order, the empty and the unwanted ones included, with all their overlaps.
    problems : tuple of RoiError
        Not raised. ``unknown-segment``: pixels of a segment that the file does not describe; ``frame-off-slices``: a
        segment's frames that are farther than half a slice from every slice, and are left out.

    Raises
    ------
    RoiError
        ``frame-of-reference-mismatch``: the segmentation and the grid belong to different ones;
        ``irregular-frames``: frames that are not parallel to the slices do not make a regular grid either.
    """
    target = target or grid.geometry
    ours, theirs = target.frame_of_reference_uid, segmentation.frame_of_reference_uid
    if ours and theirs and ours != theirs:
        raise RoiError(
            f"frame of reference {theirs} of the segmentation is not the image's {ours}",
            code="frame-of-reference-mismatch",
            subject=segmentation.sop_instance_uid,
            hint="register the segmentation to the image first",
        )
    known = {roi.number for roi in segmentation.segments}
    unwanted = frozenset() if wanted is None else frozenset(known.difference(wanted))
    source = _Source(segmentation, frames, fractional_threshold, unwanted)
    if _is_parallel(segmentation, target):
        mask = _place(source, target, grid)
    else:
        own = own_grid(segmentation, float(target.spacing_dhw_mm.min()))
        mask = _sample(_place(source, own, SliceGrid(own)), target, backend)
    return mask, source.problems()


def _origins(geometry: VolumeGeometry) -> Float:
    """Return the first voxel centre of each slice, shape (D, 3), LPS mm."""
    return geometry.to_lps([(d, 0, 0) for d in range(geometry.shape[0])])


@dataclass
class _Source:
    """Frames as sets of pixels, with what was wrong with them."""

    segmentation: Segmentation
    frames: Sequence[NDArray[np.unsignedinteger]]
    fractional_threshold: float
    unwanted: frozenset[int]
    unknown: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    off_slices: dict[int | None, list[float]] = field(default_factory=lambda: defaultdict(list))

    def __post_init__(self) -> None:
        self.roi_of_number = {roi.number: n for n, roi in enumerate(self.segmentation.segments)}

    def wanted_of(self, frames: Iterable[SegmentFrame]) -> Iterator[SegmentFrame]:
        """Yield the frames that may show a segment that is wanted."""
        return (frame for frame in frames if frame.segment_number not in self.unwanted)

    def foreground(self, frame: SegmentFrame) -> NDArray[np.unsignedinteger]:
        """Return the pixels of a frame; 0 where there is no segment."""
        pixels = self.frames[frame.index]
        kind = self.segmentation.kind
        if kind == "FRACTIONAL":
            limit = self.fractional_threshold * self.segmentation.maximum_fractional_value
            return (pixels > limit).view(np.uint8)
        if kind == "LABELMAP":
            for value in self.segmentation.background_values - {BACKGROUND}:
                pixels = np.where(pixels == value, pixels.dtype.type(BACKGROUND), pixels)
        return pixels

    def rois(self, frame: SegmentFrame, pixels: NDArray[np.unsignedinteger]) -> Iterator[tuple[int, NDArray[np.intp]]]:
        """Yield (ROI index, flat indices of its pixels) from what `foreground` returned, or a part of it."""
        flat = pixels.reshape(-1)
        where = np.flatnonzero(flat != BACKGROUND)
        if frame.segment_number is not None:
            found = [(frame.segment_number, where)] if len(where) else []
        else:
            values = flat[where]
            found = [(v, where[values == v]) for v in np.flatnonzero(np.bincount(values)).tolist()]
        for number, pixels_of_it in found:
            if number in self.unwanted:
                continue
            if number in self.roi_of_number:
                yield self.roi_of_number[number], pixels_of_it
            else:
                self.unknown[number] += len(pixels_of_it)

    def note_off_slices(self, frame: SegmentFrame, distance_mm: float) -> None:
        """Remember a frame that no slice shows; an empty one is no loss."""
        if self.foreground(frame).any():
            self.off_slices[frame.segment_number].append(distance_mm)

    def problems(self) -> tuple[RoiError, ...]:
        """Return what was noted, one entry a segment."""
        uid = self.segmentation.sop_instance_uid
        unknown = [
            RoiError(
                f"{count} pixels of segment {number}, which the Segment Sequence lacks, are left out",
                code="unknown-segment",
                subject=uid,
            )
            for number, count in sorted(self.unknown.items())
        ]
        off = [
            RoiError(
                f"{len(distances)} frames{'' if number is None else f' of segment {number}'} are left out: up to "
                f"{max(distances):.2f} mm away from the nearest slice, more than half the slice distance",
                code="frame-off-slices",
                subject=uid,
            )
            for number, distances in sorted(self.off_slices.items(), key=lambda item: item[0] or 0)
        ]
        return (*unknown, *off)


@dataclass(slots=True)
class _Plane:
    """A plane at `offset_mm` along the normal, and the frames in it: none where all segments are empty."""

    offset_mm: float
    frames: list[SegmentFrame]
    reach_mm: float


def _place(source: _Source, target: VolumeGeometry, grid: SliceGrid) -> RoiMask:
    """Put frames that are parallel to the target's slices on them."""
    segmentation = source.segmentation
    normal = target.normal
    acquired = grid.plane_offsets_lps_mm
    image_mm = np.sort((_origins(grid.geometry) if acquired is None else np.asarray(acquired)) @ normal)
    slice_mm = median(np.diff(image_mm)) if len(image_mm) > 1 else float(grid.geometry.spacing_dhw_mm[0])
    planes = _find_planes(segmentation, normal, image_mm, slice_mm)
    offsets_mm = np.array([p.offset_mm for p in planes])

    shown: set[int] = set()

    def draw() -> Iterator[NDArray[np.uint32]]:
        words = np.zeros((max(1, -(-len(segmentation.segments) // PLANE_BITS)), *target.shape[1:]), np.uint32)
        for origin in _origins(target):
            words[:] = 0
            distance_mm = origin @ normal + TIE_TOLERANCE_VOXELS * slice_mm - offsets_mm
            nearest = int(np.abs(distance_mm).argmin())
            reach_mm = planes[nearest].reach_mm
            if -reach_mm <= distance_mm[nearest] < reach_mm:
                shown.add(nearest)
                overlaps: dict[object, _Overlap] = {}
                for frame in source.wanted_of(planes[nearest].frames):
                    place = frame.position_lps_mm, frame.orientation, frame.pixel_spacing_mm
                    if place not in overlaps:
                        overlaps[place] = _find_overlap(segmentation, frame, origin, target)
                    pixels = overlaps[place].copy_from(source.foreground(frame), target.shape[1:])
                    for roi, where in source.rois(frame, pixels):
                        words[roi // PLANE_BITS].reshape(-1)[where] |= np.uint32(1 << roi % PLANE_BITS)
            yield words

    mask = from_slices(draw(), segmentation.segments, target)
    for n, plane in enumerate(planes):
        nearest_mm = float(np.abs(image_mm - plane.offset_mm).min())
        if n not in shown and nearest_mm > slice_mm * (0.5 + SAME_PLANE_TOLERANCE_SLICES):
            for frame in source.wanted_of(plane.frames):
                source.note_off_slices(frame, nearest_mm)
    return mask


def _find_planes(segmentation: Segmentation, normal: Float, image_mm: Float, slice_mm: float) -> list[_Plane]:
    """Return the planes that a slice may show: those of the image if the frames fit them, else the frames' own."""
    same_mm = SAME_PLANE_TOLERANCE_SLICES * slice_mm
    own: list[_Plane] = []
    for offset_mm, frame in sorted(
        ((float(np.dot(f.position_lps_mm, normal)), f) for f in segmentation.frames), key=lambda pair: pair[0]
    ):
        if not own or offset_mm - own[-1].offset_mm > same_mm:
            own.append(_Plane(offset_mm, [], 0.0))
        own[-1].frames.append(frame)

    declared_mm = segmentation.slice_spacing_mm
    step_mm = min([*np.diff([p.offset_mm for p in own]), declared_mm or np.inf])
    planes = [_Plane(float(t), [], slice_mm / 2) for t in image_mm]
    fits = declared_mm is None or declared_mm <= float(np.max(np.diff(image_mm), initial=slice_mm)) + same_mm
    for plane in own:
        nearest = planes[int(np.abs(image_mm - plane.offset_mm).argmin())]
        distance_mm = abs(nearest.offset_mm - plane.offset_mm)
        if distance_mm > slice_mm / 2 + same_mm:
            planes.append(_Plane(plane.offset_mm, plane.frames, slice_mm / 2))
        elif nearest.frames or distance_mm > step_mm / 2:
            fits = False
        else:
            nearest.frames = plane.frames
    if fits or not own:
        planes.sort(key=lambda p: p.offset_mm)
        gaps_mm = np.diff([p.offset_mm for p in planes])
        for plane, before, after in zip(planes, [slice_mm, *gaps_mm], [*gaps_mm, slice_mm], strict=True):
            plane.reach_mm = max(before, after) / 2
        return planes
    for plane in own:
        plane.reach_mm = step_mm / 2
    return own


@dataclass(frozen=True, slots=True)
class _Overlap:
    """Which voxels of a slice show which pixels of a parallel frame: their rows and columns."""

    is_transposed: bool
    where: tuple[_Indices, _Indices]
    which: tuple[_Indices, _Indices]

    def copy_from(self, pixels: NDArray[np.unsignedinteger], shape: tuple[int, ...]) -> NDArray[np.unsignedinteger]:
        """Return the pixels of the frame on the voxels of the slice, of shape (H, W)."""
        placed = np.zeros(shape, pixels.dtype)
        placed[self.where[0], self.where[1]] = (pixels.T if self.is_transposed else pixels)[self.which[0]][
            :, self.which[1]
        ]
        return placed


def _find_overlap(
    segmentation: Segmentation, frame: SegmentFrame, origin_lps_mm: Float, target: VolumeGeometry
) -> _Overlap:
    """Find what of a parallel frame the slice that begins at `origin_lps_mm` shows, to the nearest pixel."""
    axes, spacing_mm = target.directions_dhw, target.spacing_dhw_mm
    frame_axes = [np.array(frame.orientation[3:]), np.array(frame.orientation[:3])]
    frame_spacing_mm = list(frame.pixel_spacing_mm)
    frame_shape = [segmentation.rows, segmentation.columns]
    # whether its columns run along the slice's rows
    is_transposed = bool(abs(frame_axes[0] @ axes[2]) > abs(frame_axes[0] @ axes[1]))
    if is_transposed:
        for pair in (frame_axes, frame_spacing_mm, frame_shape):
            pair.reverse()
    shift_mm = origin_lps_mm - np.array(frame.position_lps_mm)
    where: list[_Indices] = []
    which: list[_Indices] = []
    for n in (0, 1):
        first = shift_mm @ frame_axes[n] / frame_spacing_mm[n]
        step = spacing_mm[n + 1] * (axes[n + 1] @ frame_axes[n]) / frame_spacing_mm[n]
        index = _round(first + step * np.arange(target.shape[n + 1]))
        inside = np.flatnonzero((index >= 0) & (index < frame_shape[n]))
        where.append(_as_slice(inside))
        which.append(_as_slice(index[inside]))
    return _Overlap(is_transposed, (where[0], where[1]), (which[0], which[1]))


def _as_slice(index: NDArray[np.intp]) -> _Indices:
    """Return indices that ascend or descend by one as a slice, which copies faster than a list of them."""
    if not len(index):
        return slice(0, 0)
    for step in (1, -1):
        if (np.diff(index) == step).all():
            last = int(index[-1]) + step
            return slice(int(index[0]), last if last >= 0 else None, step)
    return index


def _is_parallel(segmentation: Segmentation, target: VolumeGeometry) -> bool:
    """Whether rows and columns of all frames run along rows and columns of the target's slices, in either order."""
    to_index = target.lps_to_index[:3, :3]
    for orientation, (row_mm, column_mm) in {(f.orientation, f.pixel_spacing_mm) for f in segmentation.frames}:
        down = np.array(orientation[3:]) * row_mm * segmentation.rows
        along = np.array(orientation[:3]) * column_mm * segmentation.columns
        (down_d, down_h, down_w), (along_d, along_h, along_w) = np.abs(np.stack((down, along)) @ to_index.T)
        skew = min(max(down_w, along_h), max(down_h, along_w))
        if max(down_d, along_d, skew) > PARALLEL_TOLERANCE_VOXELS:
            return False
    return True


def own_grid(segmentation: Segmentation, default_spacing_mm: float | None = None) -> VolumeGeometry:
    """Return the regular grid that the frames lie on.

    Parameters
    ----------
    segmentation : Segmentation
        The header.
    default_spacing_mm : float, optional
        For a lone plane; its Slice Thickness, else the distance of its rows or columns, the lesser, when not given.

    Raises
    ------
    RoiError
        ``irregular-frames``: there is no such grid.
    """

    def refuse(why: str) -> RoiError:
        return RoiError(
            f"the frames have to lie on a grid of their own, and {why}",
            code="irregular-frames",
            subject=segmentation.sop_instance_uid,
        )

    if not segmentation.frames:
        raise refuse("there are none")
    if len({(f.orientation, f.pixel_spacing_mm) for f in segmentation.frames}) > 1:
        raise refuse("differ in orientation or pixel spacing")
    first = segmentation.frames[0]
    default_spacing_mm = default_spacing_mm or segmentation.slice_thickness_mm or min(first.pixel_spacing_mm)
    along, down = np.array(first.orientation[:3]), np.array(first.orientation[3:])
    normal = np.cross(along, down)
    positions = np.array([f.position_lps_mm for f in segmentation.frames])
    offsets_mm = (positions - positions[0]) @ normal
    positions_in_plane = positions - np.outer(offsets_mm, normal)
    if np.abs(positions_in_plane - positions[0]).max() > PARALLEL_TOLERANCE_VOXELS * min(first.pixel_spacing_mm):
        raise refuse("are shifted against each other")

    declared_mm = segmentation.slice_spacing_mm or np.inf
    steps_mm = np.diff(np.sort(offsets_mm))
    same_mm = SAME_PLANE_TOLERANCE_SLICES * min(declared_mm, default_spacing_mm, *first.pixel_spacing_mm)
    step_mm = min([*steps_mm[steps_mm > same_mm], declared_mm])
    if not np.isfinite(step_mm):
        step_mm = default_spacing_mm
    lowest = int(offsets_mm.argmin())
    extent_mm = float(np.ptp(offsets_mm))
    slices = round(extent_mm / step_mm) + 1
    if slices > 1:
        step_mm = extent_mm / (slices - 1)
    numbers = (offsets_mm - offsets_mm[lowest]) / step_mm
    if np.abs(numbers - np.rint(numbers)).max() > SAME_PLANE_TOLERANCE_SLICES:
        raise refuse("are not evenly spaced")
    return VolumeGeometry.from_axes(
        (slices, segmentation.rows, segmentation.columns),
        origin_lps_mm=positions[lowest],
        directions_dhw=(normal, down, along),
        spacing_dhw_mm=(step_mm, *first.pixel_spacing_mm),
        frame_of_reference_uid=segmentation.frame_of_reference_uid,
    )


def _sample(mask: RoiMask, target: VolumeGeometry, backend: Backend) -> RoiMask:
    """Return a mask on another grid, by nearest neighbour; nothing outside its own grid."""
    on_target = resample_labels(backend.upload(mask.codes), mask.geometry, target, backend=backend)
    return recode(RoiMask(backend.download(on_target), mask.table, mask.rois, target), mask.table, mask.rois)


def _round(index: Float) -> NDArray[np.intp]:
    """Round to the nearest voxel, up when halfway."""
    return np.floor(index + (0.5 + TIE_TOLERANCE_VOXELS)).astype(np.intp)
