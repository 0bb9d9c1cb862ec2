"""HDF5 as `gpuprep medsegpy` writes it against h5py's own gzip 1: CPU seconds and size of the same data set.

``python benchmarks/bench_hdf5.py [--rounds 5] [--slices 60]`` writes a CT-like volume, one chunk a slice, in turn with
each, and prints medians. The exit status is 1 when the ratio of times is below what is demanded, or the file is larger.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
from bench_decode import make_volume
from timing import describe_machine

from gpuprep.writers.hdf5 import write_slices
from gpuprep.writers.nifti import IMAGE_LEVEL

LEAST_RATIO = 2.5
#: Equal size: no more than this beyond that of gzip 1, relative.
SIZE_TOLERANCE = 0.02


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--slices", type=int, default=60)
    arguments = parser.parse_args()
    volume = make_volume(arguments.slices)
    depth, height, width = volume.shape

    def by_gpuprep(file: h5py.File) -> None:
        write_slices(file, "volume", lambda n: volume[n], depth, level=IMAGE_LEVEL, threads=1, attributes={})

    def by_h5py(file: h5py.File) -> None:
        file.create_dataset(
            "volume", data=volume.transpose(1, 2, 0), chunks=(height, width, 1), compression="gzip", compression_opts=1
        )

    def by_h5py_slices(file: h5py.File) -> None:
        dataset = file.create_dataset(
            "volume", (height, width, depth), volume.dtype, chunks=(height, width, 1), compression="gzip",
            compression_opts=1,
        )  # fmt: skip
        for n in range(depth):
            dataset[:, :, n] = volume[n]

    writers: dict[str, Callable[[h5py.File], None]] = {
        "gpuprep": by_gpuprep, "h5py, slice by slice": by_h5py_slices, "h5py, at once": by_h5py,
    }  # fmt: skip
    seconds: dict[str, list[float]] = {name: [] for name in writers}
    sizes: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(arguments.rounds):
            for name, write in writers.items():
                path = Path(folder) / "volume.h5"
                start = time.process_time()
                with h5py.File(path, "w") as file:
                    write(file)
                seconds[name].append(time.process_time() - start)
                sizes[name] = path.stat().st_size
                with h5py.File(path) as file:
                    assert np.array_equal(file["volume"][()], volume.transpose(1, 2, 0))
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    best = min(medians[name] for name in writers if name != "gpuprep")
    ratio, growth = best / medians["gpuprep"], sizes["gpuprep"] / min(sizes.values()) - 1
    print(json.dumps({"machine": describe_machine(), "cpu_seconds": medians, "bytes": sizes, "ratio": ratio}, indent=1))
    return int(ratio < LEAST_RATIO or growth > SIZE_TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
