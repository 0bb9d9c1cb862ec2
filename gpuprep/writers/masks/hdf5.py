"""The palette in HDF5: chunked, gzip-compressed ``codes``, ``table``, both with checksums, and the description."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gpuprep.extras import load_extra
from gpuprep.masks import RoiMask
from gpuprep.writers.atomic import replacing
from gpuprep.writers.hdf5 import open_hdf5
from gpuprep.writers.masks.description import KEY, describe, reading, restore
from gpuprep.writers.masks.zarr import chunk_shape

#: gzip level; every HDF5 library reads gzip, and codes compress as well at 4 as at 9.
_LEVEL = 4


def write(mask: RoiMask, path: Path) -> None:
    """Write a mask.

    Raises
    ------
    ConfigError
        ``extra-missing``.
    WriteError
        As `replacing`.
    """
    with replacing(path) as part, open_hdf5(part, "w", extra="masks") as file:
        file.create_dataset(
            "codes", data=mask.codes, chunks=chunk_shape(mask.codes.shape), compression="gzip",
            compression_opts=_LEVEL, shuffle=mask.codes.itemsize > 1, fletcher32=True,
        )  # fmt: skip
        file.create_dataset("table", data=mask.table, chunks=mask.table.shape, fletcher32=True)
        file[KEY] = describe(mask)  # a dataset: an attribute holds 64 KB at most


def read(path: Path) -> RoiMask:
    """Read a mask.

    Raises
    ------
    ConfigError
        ``extra-missing``.
    HeaderError
        As `reading`.
    """
    h5py = load_extra("h5py", "masks")
    with reading(path), h5py.File(path, "r") as file:
        return restore(np.asarray(file["codes"]), np.asarray(file["table"]), file[KEY][()].decode())
