"""One image plane: where a frame lies in the patient, and what tells it from its siblings.

Classic instances give one plane each, straight from the index. Enhanced multi-frame instances and Siemens mosaics give
many, and are opened again for that (`gpuprep.dicom.multiframe`, `gpuprep.dicom.mosaic`).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gpuprep.dicom.header import InstanceHeader
from gpuprep.errors import GeometryError
from gpuprep.geometry import Float

Vector = tuple[float, float, float]

#: Largest error of length or angle with which two direction cosines still are a pair of unit vectors; files written
#: with three decimals have about 1e-3.
COSINE_TOLERANCE = 1e-2


@dataclass(frozen=True, slots=True)
class Plane:
    """One frame, placed.

    Parameters
    ----------
    instance : InstanceHeader
        The file it is in.
    index : int
        0-based frame or tile number in that file.
    position_lps_mm : (x, y, z)
        Centre of its first pixel.
    orientation : 6 floats
        Direction cosines along a row, then along a column (PS3.3 C.7.6.2.1.1).
    pixel_spacing_mm : (float, float)
        Distance between rows, then between columns.
    rows, columns : int
        Size of the plane; of one tile for a mosaic.
    slice_spacing_mm : float or None
        Spacing Between Slices, else Slice Thickness: what a single slice is thick.
    slope, intercept : float
        Rescale, 1 and 0 when absent.
    has_slope, has_intercept : bool
        Whether they are there.
    traits : mapping of str to value
        What may tell planes at the same place apart, by the names in `gpuprep.dicom.splitting`. Absent values are None.
    tiles_a_row : int
        Tiles in a row of the mosaic it is cut from; 0 when it is a frame of its own.
    """

    instance: InstanceHeader
    index: int
    position_lps_mm: Vector
    orientation: tuple[float, ...]
    pixel_spacing_mm: tuple[float, float]
    rows: int
    columns: int
    slice_spacing_mm: float | None
    slope: float = 1.0
    intercept: float = 0.0
    has_slope: bool = False
    has_intercept: bool = False
    traits: Mapping[str, Any] = field(default_factory=dict)
    tiles_a_row: int = 0

    @property
    def name(self) -> str:
        """What messages call it: its Instance Number, and in a multi-frame file its frame."""
        number = self.instance.instance_number
        name = "unnumbered instance" if number is None else f"instance {number}"
        return f"{name} frame {self.index + 1}" if self.index else name

    @property
    def axes_dhw(self) -> Float:
        """Directions of the slice, row and column axes: see `axes_of`."""
        return axes_of(self.orientation)

    @property
    def corners_lps_mm(self) -> Float:
        """Centres of its four outermost pixels, shape (4, 3), LPS mm."""
        between_rows, between_columns = self.pixel_spacing_mm
        along_row = np.array(self.orientation[:3]) * between_columns * (self.columns - 1)
        along_column = np.array(self.orientation[3:]) * between_rows * (self.rows - 1)
        first = np.array(self.position_lps_mm)
        return np.array([first, first + along_row, first + along_column, first + along_row + along_column])


def place(
    instance: InstanceHeader,
    index: int,
    *,
    position: Sequence[float],
    orientation: Sequence[float],
    pixel_spacing: Sequence[float],
    slice_spacing_mm: float | None,
    rescale: tuple[float | None, float | None],
    traits: Mapping[str, Hashable],
) -> Plane:
    """Check the geometry of one frame and return its plane.

    Raises
    ------
    GeometryError
        ``geometry-missing``: position, orientation or pixel spacing is absent or garbled. ``attribute-invalid``: one
        of them, or the rescale, is not a usable number.
    """
    found = {
        "ImagePositionPatient": (position, 3),
        "ImageOrientationPatient": (orientation, 6),
        "PixelSpacing": (pixel_spacing, 2),
    }
    missing = [name for name, (values, _) in found.items() if not values]
    if missing:
        raise GeometryError(
            f"frame {index + 1} has no {', '.join(missing)}, or a garbled one",
            code="geometry-missing",
            subject=instance.path,
            hint="only images placed in the patient make a volume; projection X-ray goes to TIFF",
        )
    for name, (values, count) in found.items():
        if len(values) != count or not all(map(math.isfinite, values)):
            raise _invalid(instance, index, name, values)
    if min(pixel_spacing) <= 0:
        raise _invalid(instance, index, "PixelSpacing", pixel_spacing)
    if not are_orthonormal(orientation):
        raise _invalid(instance, index, "ImageOrientationPatient", orientation)
    slope, intercept = (1.0 if rescale[0] is None else rescale[0]), (0.0 if rescale[1] is None else rescale[1])
    if not (math.isfinite(slope) and math.isfinite(intercept)):
        raise _invalid(instance, index, "RescaleSlope and RescaleIntercept", (slope, intercept))
    x, y, z = position
    between_rows, between_columns = pixel_spacing
    return Plane(
        instance=instance,
        index=index,
        position_lps_mm=(x, y, z),
        orientation=tuple(orientation),
        pixel_spacing_mm=(between_rows, between_columns),
        rows=instance.rows or 0,
        columns=instance.columns or 0,
        slice_spacing_mm=slice_spacing_mm,
        slope=slope,
        intercept=intercept,
        has_slope=rescale[0] is not None,
        has_intercept=rescale[1] is not None,
        traits=traits,
    )


def plane_of_classic(instance: InstanceHeader) -> Plane:
    """Return the plane of a single-frame instance, from its index row alone.

    Raises
    ------
    GeometryError
        As `place`.
    """
    return place(
        instance,
        0,
        position=instance.image_position_lps_mm,
        orientation=instance.image_orientation,
        pixel_spacing=instance.pixel_spacing_mm,
        slice_spacing_mm=usable_spacing(instance.spacing_between_slices_mm, instance.slice_thickness_mm),
        rescale=(instance.rescale_slope, instance.rescale_intercept),
        traits=traits_of(instance),
    )


def traits_of(instance: InstanceHeader) -> dict[str, Hashable]:
    """Return what the index knows that may tell images at the same place apart."""
    return {
        "series": instance.series_number,
        "type": instance.image_type,
        "echo": instance.echo_numbers,
        "echo time": instance.echo_time_ms,
        "b-value": instance.diffusion_b_value,
        "time": instance.temporal_position,
        "acquisition": instance.acquisition_number,
        "trigger time": instance.trigger_time_ms,
        "acquisition time": instance.acquisition_datetime
        or _join(instance.acquisition_date, instance.acquisition_time),
        "content time": _join(instance.content_date, instance.content_time),
        "instance": instance.instance_number,
    }


def are_orthonormal(orientation: Sequence[float]) -> bool:
    """Whether direction cosines of rows and columns are a pair of unit vectors, within `COSINE_TOLERANCE`."""
    a, b, c, d, e, f = orientation
    errors = (math.hypot(a, b, c) - 1, math.hypot(d, e, f) - 1, a * d + b * e + c * f)
    return max(map(abs, errors)) <= COSINE_TOLERANCE


def axes_of(orientation: Sequence[float]) -> Float:
    """Return orthonormal directions of the slice, row and column axes, one a row; the row cosine is taken as exact."""
    right, down = np.array(orientation[:3]), np.array(orientation[3:])
    right /= np.linalg.norm(right)
    down -= (down @ right) * right
    down /= np.linalg.norm(down)
    return np.array([np.cross(right, down), down, right])


def usable_spacing(*candidates_mm: float | None) -> float | None:
    """Return the size of the first candidate that is a distance; vendors also write 0 and negative spacings."""
    return next((abs(c) for c in candidates_mm if c is not None and math.isfinite(c) and c != 0), None)


def _join(date: str, time: str) -> str | None:
    return f"{date}{time}" if time else None


def _invalid(instance: InstanceHeader, index: int, name: str, values: Sequence[float]) -> GeometryError:
    return GeometryError(
        f"frame {index + 1}: {name} is {list(values)}", code="attribute-invalid", subject=instance.path
    )
