"""Mask files: one module a container, each with ``write(mask, path)`` and ``read(path)`` that gives the same mask back.

DICOM SEG is written here and read by `gpuprep.run.masks`, because its frames have to be placed on a grid.
"""

from __future__ import annotations

from pathlib import Path

from gpuprep.errors import ConfigError
from gpuprep.masks import RoiMask
from gpuprep.registry import Registry

#: Container → ``write(mask, path, **its own options)``.
MASK_WRITERS = Registry(
    "mask-container",
    {
        "seg.nrrd": "gpuprep.writers.masks.segnrrd:write",
        "dicomseg": "gpuprep.writers.masks.dicomseg:write",
        "zarr": "gpuprep.writers.masks.zarr:write",
        "label": "gpuprep.writers.masks.label:write",
        "separate": "gpuprep.writers.masks.separate:write",
        "hdf5": "gpuprep.writers.masks.hdf5:write",
        "npz": "gpuprep.writers.masks.npz:write",
    },
)

#: Container → ``read(path) -> RoiMask``.
MASK_READERS = Registry(
    "mask-container",
    {name: path.replace(":write", ":read") for name, path in MASK_WRITERS.entries.items() if name != "dicomseg"},
)

#: End of a file name → container; a name without a suffix is a folder of one file a ROI.
SUFFIXES = {
    ".seg.nrrd": "seg.nrrd",
    ".nrrd": "seg.nrrd",
    ".dcm": "dicomseg",
    ".zarr": "zarr",
    ".nii.gz": "label",
    ".nii": "label",
    ".h5": "hdf5",
    ".hdf5": "hdf5",
    ".npz": "npz",
}


def container_of(path: Path) -> str:
    """Return the container that a file name says.

    Raises
    ------
    ConfigError
        ``unknown-suffix``.
    """
    for suffix, name in SUFFIXES.items():
        if path.name.lower().endswith(suffix):
            return name
    if path.suffix == "" or path.is_dir():
        return "separate"
    raise ConfigError(
        f"no mask file ends in {path.suffix!r}",
        code="unknown-suffix",
        subject=str(path),
        hint=f"use one of {', '.join(SUFFIXES)}, or no suffix for a folder of one file a ROI",
    )


def read_mask(path: Path) -> RoiMask:
    """Read a mask file of any container but DICOM.

    Raises
    ------
    ConfigError
        ``unknown-suffix``, ``unknown-mask-container``, ``extra-missing``.
    HeaderError
        ``unreadable``, ``mask-unreadable``: the file is damaged or something else.
    RoiError
        ``label-unknown``: it holds labels that it does not explain.
    """
    mask: RoiMask = MASK_READERS.load(container_of(path))(path)
    return mask
