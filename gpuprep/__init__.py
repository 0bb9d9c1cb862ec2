"""gpuprep: clinical DICOM to training data, on the GPU or the CPU.

Importing this package loads nothing heavy; the modules behind it import NumPy, pydicom and CuPy when they need them.
"""

from gpuprep._version import __version__

__all__ = ["__version__"]
