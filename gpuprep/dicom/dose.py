"""RT Dose: its grid, and what makes its stored values Gy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gpuprep.config import SPACING_TOLERANCE
from gpuprep.dicom.datasets import parse_file, pydicom_errors, quiet_pydicom, raw_text
from gpuprep.dicom.framespec import FrameSpec
from gpuprep.dicom.header import InstanceHeader, parse_float
from gpuprep.dicom.planes import Plane, plane_of_classic
from gpuprep.dicom.stack import UNKNOWN_SPACING_MM
from gpuprep.errors import GeometryError, HeaderError
from gpuprep.geometry import DIRECTION_TOLERANCE, Float, VolumeGeometry, median

#: A first offset this near to the z of the first plane is that z, mm; offsets and positions are decimal strings.
ABSOLUTE_OFFSET_TOLERANCE_MM = 0.01


@dataclass(frozen=True, slots=True)
class DoseGrid:
    """An RT Dose before its pixels are decoded.

    Parameters
    ----------
    header : InstanceHeader
        The file.
    geometry : VolumeGeometry
        Its grid, the slice axis along the right-handed normal, ascending.
    spec : FrameSpec
        Layout of its frames.
    frames : tuple of int
        0-based frame of each slice of `geometry`.
    gray_a_step : float
        Dose Grid Scaling (3004,000E).
    dose_type, summation_type : str
        (3004,0004), for example ``PHYSICAL``, and (3004,000A), for example ``PLAN``.
    """

    header: InstanceHeader
    geometry: VolumeGeometry
    spec: FrameSpec
    frames: tuple[int, ...]
    gray_a_step: float
    dose_type: str
    summation_type: str


@quiet_pydicom()
def read_dose_grid(header: InstanceHeader) -> DoseGrid:
    """Read the grid and the scaling of an RT Dose.

    Grid Frame Offset Vector (3004,000C) is understood in both its forms (PS3.3 C.8.8.3.2): distances from the first
    plane, or z coordinates of axial planes.

    Raises
    ------
    HeaderError
        ``dose-not-gray``: Dose Units are RELATIVE or absent. ``dose-scaling-missing``: no positive Dose Grid Scaling.
        ``attribute-missing``, ``attribute-invalid``, ``unreadable``.
    GeometryError
        ``geometry-missing``: no offsets, or no position, orientation or spacing. ``frame-count``: not one offset a
        frame. ``variable-spacing``: planes at uneven distances. ``duplicate-position``.
    """
    spec = FrameSpec.from_header(header)
    try:
        with Path(header.path).open("rb") as stream:
            data = parse_file(stream, header.size).dataset
        units, dose_type, summation_type, scaling = (
            raw_text(data.get_item(tag), "LO") for tag in (0x30040002, 0x30040004, 0x3004000A, 0x3004000E)
        )
        stated = data.get("GridFrameOffsetVector")
        offsets = (
            [] if stated is None else [float(v) for v in (stated if data["GridFrameOffsetVector"].VM > 1 else [stated])]
        )
    except pydicom_errors() as error:
        raise HeaderError(f"pydicom raised {type(error).__name__}", code="unreadable", subject=header.path) from error
    if units != "GY":
        raise HeaderError(
            f"Dose Units (3004,0002) are {units or 'missing'}, not GY",
            code="dose-not-gray",
            subject=header.path,
            hint="export the dose in Gy",
        )
    gray = parse_float(scaling)
    if gray is None or gray <= 0:
        raise HeaderError(
            "Dose Grid Scaling (3004,000E) is missing or not positive", code="dose-scaling-missing", subject=header.path
        )
    plane = plane_of_classic(header)
    offsets_mm = _offsets_along_normal(header, plane, offsets, spec.number_of_frames)
    order = np.argsort(offsets_mm, kind="stable")
    geometry = _build_geometry(header, plane, offsets_mm[order])
    return DoseGrid(header, geometry, spec, tuple(order.tolist()), gray, dose_type, summation_type)


def _offsets_along_normal(header: InstanceHeader, plane: Plane, stated: Sequence[float], frames: int) -> Float:
    """Return the distance of each frame from the first plane along the normal, mm, shape (frames,)."""
    if frames == 1 and len(stated) <= 1:
        return np.zeros(1)
    if not stated:
        raise GeometryError(
            "Grid Frame Offset Vector (3004,000C) is missing", code="geometry-missing", subject=header.path
        )
    if len(stated) != frames:
        raise GeometryError(f"{frames} frames, but {len(stated)} offsets", code="frame-count", subject=header.path)
    offsets_mm = np.array(stated, np.float64)
    normal = plane.axes_dhw[0]
    first_z = plane.position_lps_mm[2]
    is_absolute = offsets_mm[0] != 0 and abs(offsets_mm[0] - first_z) <= ABSOLUTE_OFFSET_TOLERANCE_MM
    if is_absolute and 1 - abs(normal[2]) < DIRECTION_TOLERANCE:
        relative_mm: Float = (offsets_mm - offsets_mm[0]) * np.sign(normal[2])
        return relative_mm
    if offsets_mm[0] != 0:
        raise GeometryError(
            f"the first offset is {offsets_mm[0]:g} mm, neither 0 nor the z of an axial first plane",
            code="geometry-missing",
            subject=header.path,
        )
    return offsets_mm


def _build_geometry(header: InstanceHeader, plane: Plane, offsets_mm: Float) -> VolumeGeometry:
    axes = plane.axes_dhw
    steps = np.diff(offsets_mm)
    spacing_mm = median(steps) if len(steps) else plane.slice_spacing_mm or UNKNOWN_SPACING_MM
    if len(steps) and steps.min() <= 0:
        raise GeometryError("two planes lie at the same position", code="duplicate-position", subject=header.path)
    if len(steps) and np.abs(steps - spacing_mm).max() > SPACING_TOLERANCE * spacing_mm:
        raise GeometryError(
            f"planes {steps.min():.3f} to {steps.max():.3f} mm apart", code="variable-spacing", subject=header.path
        )
    if len(steps):
        spacing_mm = float(offsets_mm[-1] - offsets_mm[0]) / len(steps)
    between_rows, between_columns = plane.pixel_spacing_mm
    return VolumeGeometry.from_axes(
        (len(offsets_mm), plane.rows, plane.columns),
        origin_lps_mm=np.array(plane.position_lps_mm) + offsets_mm[0] * axes[0],
        directions_dhw=axes,
        spacing_dhw_mm=(spacing_mm, between_rows, between_columns),
        frame_of_reference_uid=header.frame_of_reference_uid,
    )


def scale_to_gray(frames: Any, dose: DoseGrid) -> Any:
    """Return decoded frames (N, H, W), integers, as Gy on `dose.geometry`: float32 of shape (D, H, W)."""
    return (frames[list(dose.frames)].astype(np.float64) * dose.gray_a_step).astype(np.float32)


def describe_dose(dose: DoseGrid) -> dict[str, Any]:
    """Return what the record keeps of a dose."""
    return {
        "sop_instance_uid": dose.header.sop_instance_uid,
        "units": "GY",
        "dose_type": dose.dose_type,
        "summation_type": dose.summation_type,
        "dose_grid_scaling": dose.gray_a_step,
    }
