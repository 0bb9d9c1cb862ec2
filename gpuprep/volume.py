"""Voxels with their geometry and their history."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from gpuprep.errors import GeometryError
from gpuprep.geometry import VolumeGeometry


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that was done to a volume, for the record: ``Step("resample", {"spacing": [1, 1, 1]})``.

    `parameters` is JSON-ready. Steps carry what is needed to map a voxel of the output back to the patient.
    """

    name: str
    parameters: dict[str, Any]


@dataclass(frozen=True, slots=True, eq=False)
class Volume:
    """An image volume.

    Parameters
    ----------
    array : ndarray of shape (D, H, W)
        NumPy or CuPy, C order; modality units (HU for CT) in int16, int32 or float32, or what a window made of them.
    geometry : VolumeGeometry
        Grid of `array`.
    modality : str
        DICOM Modality, for example ``"CT"``.
    steps : tuple of Step
        What was done since decoding, in order.

    Raises
    ------
    GeometryError
        ``shape-mismatch``: `array` and `geometry` differ in shape.
    """

    array: Any
    geometry: VolumeGeometry
    modality: str = ""
    steps: tuple[Step, ...] = ()

    def __post_init__(self) -> None:
        if tuple(self.array.shape) != self.geometry.shape:
            raise GeometryError(
                f"array of shape {tuple(self.array.shape)} on a grid of shape {self.geometry.shape}",
                code="shape-mismatch",
            )

    def changed(self, array: Any, geometry: VolumeGeometry, step: Step) -> Volume:
        """Return the volume that `step` made of this one."""
        return replace(self, array=array, geometry=geometry, steps=(*self.steps, step))
