"""gpuprep: clinical DICOM to training data, on the GPU or the CPU.

Importing this package loads nothing heavy; the modules behind it import NumPy, pydicom and CuPy when they need them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from gpuprep._version import __version__

if TYPE_CHECKING:
    from gpuprep.coordinates import CoordinateMap

__all__ = ["CoordinateMap", "__version__"]

#: Public name → module that has it, imported on first use.
_LAZY = {"CoordinateMap": "gpuprep.coordinates"}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'gpuprep' has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)
