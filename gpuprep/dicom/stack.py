"""Headers of a series → sorted frames on a voxel grid, or a `GeometryError` that says what is wrong.

(skeleton: the dataclasses below are the interface; build_stacks follows)
"""

from __future__ import annotations

from dataclasses import dataclass

from gpuprep.dicom.header import InstanceHeader
from gpuprep.geometry import VolumeGeometry


@dataclass(frozen=True, slots=True)
class FrameSpec:
    """Layout of the frames of one instance or of a whole stack (PS3.3 C.7.6.3, Image Pixel Module)."""

    transfer_syntax_uid: str
    rows: int
    columns: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    is_signed: bool
    samples_per_pixel: int = 1
    photometric_interpretation: str = "MONOCHROME2"
    planar_configuration: int = 0
    number_of_frames: int = 1


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
class Finding:
    """Something noteworthy that is no error: ``Finding("spacing-jitter", "…", {"max_mm": 0.01})``."""

    code: str
    message: str


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
        Layout of each frame; of the whole mosaic for a mosaic.
    plane_offsets_lps_mm : tuple of (x, y, z)
        Position of the first pixel of each frame, LPS mm, as the headers say it.
    is_irregular : bool
        Whether slices are missing, unevenly spaced or sheared (gantry tilt), so that frames do not lie on `geometry`.
    mosaic_columns : int
        Tiles a row of a Siemens mosaic; 0 when it is none.
    label : str
        What tells this volume from its siblings of the same series (``"echo 2"``, ``"time 3"``); usually empty.
    findings : tuple of Finding
        What was noticed and accepted.
    """

    frames: tuple[Frame, ...]
    geometry: VolumeGeometry
    spec: FrameSpec
    plane_offsets_lps_mm: tuple[tuple[float, float, float], ...]
    is_irregular: bool = False
    mosaic_columns: int = 0
    label: str = ""
    findings: tuple[Finding, ...] = ()
