"""Headers of a series → sorted frames on a voxel grid, or a `GeometryError` that says what is wrong.

Frames are ordered by Image Position (Patient) along the normal, never by number, Slice Location or file name. The slice
axis runs along the right-handed normal, row cosine × column cosine, ascending: towards the head for plain axial images.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from gpuprep.config import SPACING_TOLERANCE
from gpuprep.dicom.findings import Finding
from gpuprep.dicom.framespec import FrameSpec
from gpuprep.dicom.header import InstanceHeader, divide_copies
from gpuprep.dicom.mosaic import is_mosaic, planes_of_mosaic
from gpuprep.dicom.multiframe import planes_of_multiframe
from gpuprep.dicom.planes import Plane, plane_of_classic
from gpuprep.dicom.spacing import (
    SAME_POSITION_TOLERANCE_MM,
    Placed,
    find_problems,
    measure_deviations,
    median_step,
)
from gpuprep.dicom.splitting import split
from gpuprep.errors import GeometryError, HeaderError
from gpuprep.geometry import DIRECTION_TOLERANCE, VolumeGeometry

#: Pixel spacings that differ by at most this share are the same.
PIXEL_SPACING_TOLERANCE = 1e-4
#: Stray frames are set aside when the volume has at least this many times as many frames as all of them together.
CLEAR_MAJORITY = 2
#: So many groups of stray frames are described, the largest; a radial series has as many as images.
LISTED_STRAYS = 3
#: Findings of frames that a volume lacks although they are in its series: they may be why it is irregular.
LEFT_OUT = (
    "incomplete-volume", "mixed-orientation", "mixed-size", "mixed-layout", "geometry-missing", "not-an-image",
)  # fmt: skip
#: A grid with more than this many times the voxels of its frames is refused: its gaps are no gaps of one volume.
MOST_GRID_GROWTH = 16
#: What to do about slices that miss none, by code.
_IRREGULAR_HINTS = {
    "gantry-tilt": "--on-irregular resample puts the slices upright",
    "variable-spacing": "--on-irregular resample evens the steps out; --spacing-tolerance allows for rounded positions",
}
#: Distance given to a single slice whose file knows no thickness.
UNKNOWN_SPACING_MM = 1.0


@dataclass(frozen=True, slots=True)
class Frame:
    """One image plane of a stack.

    Parameters
    ----------
    instance : InstanceHeader
        The file it is in.
    index : int
        0-based frame number in that file; for a Siemens mosaic the tile number.
    position_mm : float
        Position of its first pixel along the stack's normal, LPS mm.
    slope, intercept : float
        Its rescale slope and intercept, 1 and 0 when absent.
    """

    instance: InstanceHeader
    index: int
    position_mm: float
    slope: float = 1.0
    intercept: float = 0.0


@dataclass(frozen=True, slots=True)
class Stack:
    """The frames of one volume, sorted, and their grid.

    Parameters
    ----------
    frames : tuple of Frame
        One a slice, in the order of `geometry`'s slice axis.
    geometry : VolumeGeometry
        Regular grid of the decoded frames; for an irregular series (`is_irregular`) the regular grid it implies,
        onto which the decoded frames have still to be resampled.
    spec : FrameSpec
        Layout of the first frame; of the whole mosaic for a mosaic. Other instances have the same size, samples and
        bits allocated but may differ in transfer syntax, bits stored and sign: `FrameSpec.from_header` tells.
    plane_offsets_lps_mm : tuple of (x, y, z)
        Position of the first pixel of each frame, LPS mm, as the headers say it.
    is_irregular : bool
        Whether slices are missing, unevenly spaced or sheared (gantry tilt), so that frames do not lie on `geometry`.
    tiles_a_row : int
        Tiles in a row of the Siemens mosaics that it is cut from; 0 when its frames are no tiles.
    label : str
        What tells this volume from its siblings of the same series (``"echo 2"``, ``"time 3"``); usually empty.
    findings : tuple of Finding
        What was noticed and accepted: ``spacing-jitter``, ``slice-drift`` (how far slices lie from the grid),
        ``gantry-tilt``, ``missing-slice``, ``variable-spacing`` (why it is irregular), ``assumed-spacing`` (a single
        slice of unknown thickness), ``repeated-positions``, ``overlapping-volumes`` (what tells the volumes of the
        series apart), ``incomplete-volume`` (its siblings have more places), ``stray-frames`` (it is one),
        ``duplicate-instance``, ``mixed-orientation``, ``mixed-size``, ``mixed-layout``, ``geometry-missing``,
        ``not-an-image`` (what was left out of the series).
    """

    frames: tuple[Frame, ...]
    geometry: VolumeGeometry
    spec: FrameSpec
    plane_offsets_lps_mm: tuple[tuple[float, float, float], ...]
    is_irregular: bool = False
    tiles_a_row: int = 0
    label: str = ""
    findings: tuple[Finding, ...] = ()

    @property
    def frames_shape(self) -> tuple[int, int, int]:
        """Shape (frames, rows, columns) of the decoded frames: that of `geometry` unless the stack is irregular."""
        tiles = self.tiles_a_row or 1
        return len(self.frames), self.spec.rows // tiles, self.spec.columns // tiles

    @property
    def instances(self) -> tuple[InstanceHeader, ...]:
        """The file of each frame."""
        return tuple(frame.instance for frame in self.frames)

    @property
    def is_stray(self) -> bool:
        """Whether its frames are unlike most of their series, a localizer's among axial slices."""
        return any(finding.code == "stray-frames" for finding in self.findings)


@dataclass(frozen=True, slots=True)
class BrokenVolume:
    """Images of one volume that make no grid.

    Parameters
    ----------
    label : str
        As of a `Stack`.
    instances : tuple of InstanceHeader
        The file of each frame.
    error : GeometryError
        Why: ``gantry-tilt``, ``missing-slice``, ``variable-spacing`` or ``rescale-missing``.
    """

    label: str
    instances: tuple[InstanceHeader, ...]
    error: GeometryError


def build_stacks(
    instances: Sequence[InstanceHeader],
    *,
    spacing_tolerance: float = SPACING_TOLERANCE,
    on_irregular: Literal["error", "resample"] = "error",
) -> tuple[Stack, ...]:
    """Sort the images of one series into volumes, all of them good: as `build_volumes`, raising the first error."""
    volumes = build_volumes(instances, spacing_tolerance=spacing_tolerance, on_irregular=on_irregular)
    stacks = []
    for volume in volumes:
        if isinstance(volume, BrokenVolume):
            raise volume.error
        stacks.append(volume)
    return tuple(stacks)


def build_volumes(
    instances: Sequence[InstanceHeader],
    *,
    spacing_tolerance: float = SPACING_TOLERANCE,
    on_irregular: Literal["error", "resample"] = "error",
) -> tuple[Stack | BrokenVolume, ...]:
    """Sort the images of one series into volumes; one that makes no grid does not cost the others.

    A series with one image at each place is one stack. Where places repeat, the series is split by what tells the
    images apart, in this order: `CATEGORIES` (image type, echo, stack, b-value, temporal position, acquisition, …),
    then the order in time or of Instance Numbers at each place, if each place has equally many (`ORDERS`) and no echo,
    b-value or the like (`KINDS`) would come to lie in another volume from place to place; then by time where a volume
    has one, the last of which may have been interrupted. Volumes that reach into each other, each evenly spaced and
    all images together not, are told apart by `OVERLAPPING`.

    Images of another orientation or size among a clear majority (a localizer in an axial series) become stacks of
    their own after the volume's; both carry a finding. Further copies of the same SOP instance are left out.

    Parameters
    ----------
    instances : sequence of InstanceHeader
        Of one series, in any order.
    spacing_tolerance : float
        Share of the median step by which a step may differ from it; what was accepted is a ``spacing-jitter`` finding.
    on_irregular : {"error", "resample"}
        What becomes of missing slices, variable spacing and gantry tilt. ``resample``: the stack has the regular
        grid they imply and `is_irregular` set. That grid reaches from the first to the last frame in the number of
        steps nearest to the median step, has its slice axis along the normal, and its rows and columns are as many
        more as a tilt needs to lose no pixel.

    Returns
    -------
    tuple of Stack or BrokenVolume
        At least one; the volumes of the majority first, in the order of what tells them apart.

    Raises
    ------
    GeometryError
        ``not-an-image``, ``geometry-missing``, ``mixed-orientation``, ``mixed-size``, ``mixed-layout``,
        ``duplicate-position``, ``frame-count``, ``mosaic-header``, ``mosaic-unsupported``, ``attribute-invalid``.
    HeaderError
        ``attribute-missing``, ``attribute-invalid``, ``unreadable``, or the code with which indexing failed.
    """
    distinct, findings = _leave_out_copies(instances)
    planes, unplaced = _place_all(distinct)
    groups = _group_alike(planes)
    volume, *strays = sorted(groups, key=len, reverse=True)
    findings += _judge_strays(volume, strays, unplaced)

    def build(group: Sequence[Plane], findings: Iterable[Finding]) -> tuple[Stack | BrokenVolume, ...]:
        return _stack_group(group, spacing_tolerance, on_irregular == "resample", tuple(findings))

    volumes = build(volume, findings)
    for number, stray in enumerate(strays, 1):
        remark = Finding("stray-frames", f"{len(stray)} frames unlike the other {len(volume)} of their series")
        try:
            others = build(stray, [remark])
        except GeometryError:
            continue  # the volume's findings name these frames already
        good = (other for other in others if isinstance(other, Stack))
        volumes += tuple(replace(stack, label=f"stray {number} {stack.label}".rstrip()) for stack in good)
    return volumes


def _leave_out_copies(instances: Sequence[InstanceHeader]) -> tuple[list[InstanceHeader], list[Finding]]:
    """Keep, by path, what `divide_copies` calls instances."""
    for instance in instances:
        if instance.error_code:
            raise HeaderError(instance.error_detail, code=instance.error_code, subject=instance.path)
    distinct, copies = divide_copies(sorted(instances, key=lambda i: i.path))
    message = f"{len(copies)} further copies of the same SOP instances left out"
    return distinct, [Finding("duplicate-instance", message)] if copies else []


def _place_all(instances: Iterable[InstanceHeader]) -> tuple[list[Plane], list[GeometryError]]:
    """Return the planes of all instances, and why some have none; raise that if none has any."""
    planes: list[Plane] = []
    unplaced: list[GeometryError] = []
    for instance in instances:
        try:
            FrameSpec.from_header(instance)
            planes += planes_of(instance)
        except GeometryError as error:
            if error.code not in ("not-an-image", "geometry-missing"):
                raise
            unplaced.append(error)
    if planes:
        return planes, unplaced
    if unplaced:
        raise unplaced[0]
    raise GeometryError("a series without images", code="not-an-image")


def planes_of(instance: InstanceHeader) -> tuple[Plane, ...]:
    """Return the planes of an instance, in the order of its frames or tiles; opens the file if it holds several.

    Raises
    ------
    GeometryError
        As `planes.place`, `planes_of_multiframe` and `planes_of_mosaic`.
    HeaderError
        ``unreadable``: pydicom cannot read the file.
    """
    if is_mosaic(instance):
        return planes_of_mosaic(instance)
    frames = instance.number_of_frames
    if (frames or 1) > 1 or (frames == 1 and not instance.image_position_lps_mm):
        return planes_of_multiframe(instance)
    return (plane_of_classic(instance),)


def _group_alike(planes: Sequence[Plane]) -> list[list[Plane]]:
    """Group planes of the same orientation, size, pixel spacing and layout, within the tolerances."""
    groups: list[list[Plane]] = []
    for plane in planes:
        for group in groups:
            if _difference(group[0], plane) is None:
                group.append(plane)
                break
        else:
            groups.append([plane])
    return groups


def _difference(a: Plane, b: Plane) -> Finding | None:
    """Return the most important thing that keeps two planes out of one stack."""
    if a.orientation != b.orientation and (
        max(abs(p - q) for p, q in zip(a.orientation, b.orientation, strict=True)) > DIRECTION_TOLERANCE
    ):
        cosines = " and ".join(str([round(c, 4) for c in plane.orientation]) for plane in (a, b))
        return Finding("mixed-orientation", f"direction cosines {cosines}")
    if (a.rows, a.columns) != (b.rows, b.columns) or any(
        abs(p - q) > PIXEL_SPACING_TOLERANCE * p for p, q in zip(a.pixel_spacing_mm, b.pixel_spacing_mm, strict=True)
    ):
        sizes = " and ".join(f"{p.rows} × {p.columns} pixels of {list(p.pixel_spacing_mm)} mm" for p in (a, b))
        return Finding("mixed-size", sizes)
    if _layout(a) != _layout(b):
        return Finding("mixed-layout", f"{_layout(a)} and {_layout(b)}")
    return None


def _layout(plane: Plane) -> str:
    instance = plane.instance
    tiles = f", mosaic of {plane.tiles_a_row} tiles a row" if plane.tiles_a_row else ""
    return (
        f"{instance.samples_per_pixel} × {instance.bits_allocated} bits, {instance.photometric_interpretation}{tiles}"
    )


def _judge_strays(
    volume: Sequence[Plane], strays: Sequence[Sequence[Plane]], unplaced: Sequence[GeometryError]
) -> list[Finding]:
    """Return a finding for each group of stray frames, or raise if the volume is no clear majority."""
    findings = [
        Finding(unlike.code, f"{len(stray)} of {len(volume) + len(stray)} frames set aside: {unlike.message}")
        for stray in strays[:LISTED_STRAYS]
        if (unlike := _difference(volume[0], stray[0]))
    ]
    if more := strays[LISTED_STRAYS:]:
        message = f"{sum(map(len, more))} frames of {len(more)} more kinds set aside"
        findings.append(Finding(findings[0].code, message))
    for code in dict.fromkeys(e.code for e in unplaced):
        first, *others = [e for e in unplaced if e.code == code]
        message = f"{1 + len(others)} image{'s' * bool(others)} set aside: {first.subject}: {first.message}"
        findings.append(Finding(code, message))
    if len(volume) >= CLEAR_MAJORITY * (sum(map(len, strays)) + len(unplaced)):
        return findings
    if not strays:
        raise unplaced[0]
    raise GeometryError(
        f"no group of frames is a clear majority: {'; '.join(f.message for f in findings)}",
        code=findings[0].code,
        subject=volume[0].instance.series_instance_uid,
        hint="run on the files of one group alone",
    )


def _stack_group(
    planes: Sequence[Plane], tolerance: float, may_resample: bool, findings: tuple[Finding, ...]
) -> tuple[Stack | BrokenVolume, ...]:
    """Split planes of one orientation and size into volumes, and stack each."""
    normal = planes[0].axes_dhw[0]
    along_mm = np.array([p.position_lps_mm for p in planes]) @ normal
    order = np.argsort(along_mm, kind="stable")
    site = np.empty(len(planes), np.int64)
    site[order] = np.concatenate([[0], np.cumsum(np.diff(along_mm[order]) > SAME_POSITION_TOLERANCE_MM)])
    sites = int(site.max()) + 1
    volumes: list[Stack | BrokenVolume] = []
    placed = [Placed(planes[n], int(site[n]), float(along_mm[n])) for n in order]
    for label, volume, remarks in split(placed, tolerance):
        found = [*findings, *remarks]
        if len(volume) < sites and all(r.code != "overlapping-volumes" for r in remarks):
            message = f"{len(volume)} of the {sites} positions that the other volumes of the series have"
            found.append(Finding("incomplete-volume", message))
        try:
            volumes.append(_stack_volume(volume, label, tolerance, may_resample, found))
        except GeometryError as error:
            volumes.append(BrokenVolume(label, tuple(p.plane.instance for p in volume), error))
    return tuple(volumes)


def _stack_volume(
    placed: list[Placed], label: str, tolerance: float, may_resample: bool, findings: list[Finding]
) -> Stack:
    """Find the grid of planes at distinct places, in order along the normal."""
    planes = [p.plane for p in placed]
    first = planes[0]
    _check_rescale(planes)
    axes = first.axes_dhw
    positions = np.array([p.position_lps_mm for p in planes])
    offsets_mm = (positions - positions[0]) @ axes.T
    steps_mm = np.diff(offsets_mm[:, 0])
    drift_pixels = offsets_mm[:, 1:] / first.pixel_spacing_mm
    problems = find_problems(placed, steps_mm, drift_pixels, tolerance)
    if problems and not may_resample:
        raise _irregular(first, label, problems + [f for f in findings if f.code in LEFT_OUT])

    shape, spacing_mm, origin = (len(planes), first.rows, first.columns), first.slice_spacing_mm, positions[0]
    if len(planes) > 1:
        if problems:
            before, after = np.floor(drift_pixels.min(axis=0).round(3)), np.ceil(drift_pixels.max(axis=0).round(3))
            rows, columns = (int(n) for n in after - before)
            depth = round(float(offsets_mm[-1, 0]) / median_step(steps_mm)) + 1
            shape = (depth, first.rows + rows, first.columns + columns)
            origin = origin + before * first.pixel_spacing_mm @ axes[1:]
            if math.prod(shape) > MOST_GRID_GROWTH * len(planes) * first.rows * first.columns:
                raise _irregular(
                    first,
                    label,
                    problems,
                    also=f"; the grid they imply has {shape} voxels, too many for {len(planes)} slices",
                    hint="find the missing files, or convert the slices on either side of the gap by themselves",
                )
        spacing_mm = float(offsets_mm[-1, 0]) / (shape[0] - 1)
        findings = findings + (problems or measure_deviations(offsets_mm, spacing_mm))
    elif spacing_mm is None:
        spacing_mm = UNKNOWN_SPACING_MM
        findings = [*findings, Finding("assumed-spacing", f"a single slice of unknown thickness: {spacing_mm} mm")]
    return Stack(
        frames=tuple(
            Frame(p.plane.instance, p.plane.index, p.along_mm, p.plane.slope, p.plane.intercept) for p in placed
        ),
        geometry=VolumeGeometry.from_axes(
            shape,
            origin_lps_mm=origin,
            directions_dhw=axes,
            spacing_dhw_mm=(spacing_mm, *first.pixel_spacing_mm),
            frame_of_reference_uid=first.instance.frame_of_reference_uid,
        ),
        spec=FrameSpec.from_header(first.instance),
        plane_offsets_lps_mm=tuple(p.position_lps_mm for p in planes),
        is_irregular=bool(problems),
        tiles_a_row=first.tiles_a_row,
        label=label,
        findings=tuple(findings),
    )


def _check_rescale(planes: Sequence[Plane]) -> None:
    """Refuse images that lack a rescale without which they are unlike the others."""
    is_scaled, is_shifted = any(p.slope != 1 for p in planes), any(p.intercept != 0 for p in planes)
    lacking = [p for p in planes if (is_scaled and not p.has_slope) or (is_shifted and not p.has_intercept)]
    if lacking:
        raise GeometryError(
            f"{len(lacking)} of {len(planes)} images lack the rescale that others have, first {lacking[0].name}",
            code="rescale-missing",
            subject=lacking[0].instance.path,
            hint="their values cannot be compared; export the series again",
        )


def _irregular(
    plane: Plane,
    label: str,
    problems: Sequence[Finding],
    also: str = "",
    hint: str = "",
) -> GeometryError:
    where = f"volume {label}: " if label else ""
    return GeometryError(
        where + "; ".join(p.message for p in problems) + also,
        code=problems[0].code,
        subject=plane.instance.series_instance_uid,
        hint=hint or _IRREGULAR_HINTS.get(problems[0].code, "find the missing files, or use --on-irregular resample"),
    )
