"""gpuprep: clinical DICOM to training data, on the GPU or the CPU.

Importing this package loads nothing heavy; the modules behind it import NumPy, pydicom and CuPy when they need them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from gpuprep._version import __version__

if TYPE_CHECKING:
    from gpuprep.config import (
        Crop,
        LabelPatterns,
        MultipleSegmentations,
        OnMissing,
        RoiOptions,
        RoiStrategy,
        Stacking,
        Transforms,
    )
    from gpuprep.coordinates import CoordinateMap
    from gpuprep.dicom.roi_names import load_roi_patterns
    from gpuprep.errors import CaseError, GpuprepError, JobError
    from gpuprep.run.cases import find_cases

__all__ = [
    "CaseError",
    "CoordinateMap",
    "Crop",
    "GpuprepError",
    "JobError",
    "LabelPatterns",
    "MultipleSegmentations",
    "OnMissing",
    "RoiOptions",
    "RoiStrategy",
    "Stacking",
    "Transforms",
    "__version__",
    "find_cases",
    "load_roi_patterns",
]

#: Public name → module that has it, imported on first use.
_LAZY = {
    "CaseError": "gpuprep.errors",
    "CoordinateMap": "gpuprep.coordinates",
    "Crop": "gpuprep.config",
    "GpuprepError": "gpuprep.errors",
    "JobError": "gpuprep.errors",
    "LabelPatterns": "gpuprep.config",
    "MultipleSegmentations": "gpuprep.config",
    "OnMissing": "gpuprep.config",
    "RoiOptions": "gpuprep.config",
    "RoiStrategy": "gpuprep.config",
    "Stacking": "gpuprep.config",
    "Transforms": "gpuprep.config",
    "find_cases": "gpuprep.run.cases",
    "load_roi_patterns": "gpuprep.dicom.roi_names",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'gpuprep' has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)
