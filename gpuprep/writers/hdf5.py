"""HDF5 data sets in chunks of one slice, under the ordinary gzip filter, compressed by isal.

HDF5's gzip filter is a zlib stream a chunk. Chunks are compressed here, by threads and several times faster than by
HDF5 itself, and handed over as they are; every HDF5 reads them without a plug-in.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuprep.extras import load_extra


@contextmanager
def open_hdf5(path: Path, mode: str, *, extra: str) -> Iterator[Any]:
    """Open an ``h5py.File``, for which `extra` is needed.

    Where the system refuses to write, which may show as late as on closing, an `OSError` says why.
    """
    try:
        with load_extra("h5py", extra).File(path, mode) as file:
            yield file
    except (OSError, RuntimeError) as error:
        found = re.search(r"errno = (\d+)", str(error))
        if found is None:
            raise
        raise OSError(int(found[1]), os.strerror(int(found[1]))) from error


def write_slices(
    file: Any,
    name: str,
    slice_at: Callable[[int], NDArray[Any]],
    count: int,
    *,
    level: int,
    threads: int,
    attributes: Mapping[str, Any],
) -> None:
    """Write a data set of shape (H, W, `count`, …), one chunk a slice; a slice of zeros takes no space.

    Parameters
    ----------
    file : h5py.File
        Open for writing.
    name : str
        Of the data set.
    slice_at : callable
        Returns slice n, an array of shape (H, W, …), all of one shape and dtype; called from threads.
    count : int
        Slices, at least 1.
    level : int
        isal compression level, 0 to 3.
    threads : int
        Compression threads, at least 1; they do not change the bytes.
    attributes : mapping
        Of the data set.
    """
    from isal import isal_zlib

    first = slice_at(0)
    height, width, *rest = first.shape
    dataset = file.create_dataset(
        name,
        shape=(height, width, count, *rest),
        dtype=first.dtype,
        chunks=(height, width, 1, *rest),
        compression="gzip",
        compression_opts=1,
    )
    dataset.attrs.update(attributes)

    def compress(number: int) -> bytes | None:
        content = np.ascontiguousarray(slice_at(number))
        return isal_zlib.compress(content.data.cast("B"), level) if content.any() else None

    with ThreadPoolExecutor(threads) as pool:
        for number, chunk in enumerate(pool.map(compress, range(count))):
            if chunk is not None:  # else the fill value, 0, is what HDF5 returns
                dataset.id.write_direct_chunk((0, 0, number, *(0 for _ in rest)), chunk)
