"""HDF5 as `gpuprep medsegpy` writes it against h5py's own gzip 1: a CT-like volume, one chunk a slice, on one thread.

``python benchmarks/bench_hdf5.py [--rounds 5] [--slices 60]``
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from bench_decode import make_volume
from peers import h5py as peer
from timing import OURS, Call, Report

from gpuprep.writers.hdf5 import write_slices
from gpuprep.writers.nifti import IMAGE_LEVEL

LEAST_RATIO = 2.5
#: Equal size: no more than this beyond that of gzip 1, relative.
SIZE_TOLERANCE = 0.02


def write_by_gpuprep(file: h5py.File, volume: np.ndarray[Any, Any]) -> None:
    write_slices(file, "volume", lambda n: volume[n], len(volume), level=IMAGE_LEVEL, threads=1, attributes={})


def write_file(
    path: Path, write: Callable[[h5py.File, np.ndarray[Any, Any]], None], volume: np.ndarray[Any, Any]
) -> None:
    with h5py.File(path, "w") as file:
        write(file, volume)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--slices", type=int, default=60)
    options = parser.parse_args()
    report = Report("hdf5")
    volume = make_volume(options.slices)
    writers = {
        OURS: write_by_gpuprep,
        "h5py, slice by slice": peer.write_by_slice,
        "h5py, at once": peer.write_at_once,
    }
    with tempfile.TemporaryDirectory() as folder:
        paths = {name: Path(folder, f"{number}.h5") for number, name in enumerate(writers)}
        calls = {name: Call(partial(write_file, paths[name], write, volume)) for name, write in writers.items()}
        rows = report.contest("write", calls, options.rounds)
        for path in paths.values():
            with h5py.File(path) as file:
                assert np.array_equal(file["volume"][()], volume.transpose(1, 2, 0))
        sizes = {name: path.stat().st_size for name, path in paths.items()}
    least = min(row["cpu_s_ratio"] for name, row in rows.items() if name != OURS)
    report.demand("CPU ratio to the faster h5py", least, at_least=LEAST_RATIO)
    growth = sizes.pop(OURS) / min(sizes.values()) - 1
    report.demand("size beyond gzip 1", growth, at_most=SIZE_TOLERANCE)
    return report.close()


if __name__ == "__main__":
    sys.exit(main())
