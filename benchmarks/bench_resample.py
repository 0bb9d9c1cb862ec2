"""Resampling 512 × 512 × 200 at (0.8, 0.8, 2.5) mm to 1 mm against SimpleITK on the same cores.

``python benchmarks/bench_resample.py [--rounds 5]`` also gives the largest difference between the results. SimpleITK
stores integers truncated toward zero, gpuprep rounds to nearest: one grey level is expected.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

import numpy as np
from peers import simpleitk
from timing import OURS, Call, Report

from gpuprep.backends import select
from gpuprep.geometry import VolumeGeometry
from gpuprep.ops.resample import resample_labels, resample_volume
from gpuprep.volume import Volume

SHAPE = (200, 512, 512)
SPACING_DHW_MM = (2.5, 0.8, 0.8)
FILL = -1024
LINEAR_AT_LEAST, LABELS_AT_LEAST = 15.0, 20.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    report = Report("resample")
    backend = select("cpu")
    simpleitk.set_threads(backend.workers)
    report.figure("threads of both", backend.workers)
    source = VolumeGeometry.from_axes(
        SHAPE, origin_lps_mm=(0, 0, 0), directions_dhw=np.eye(3)[::-1], spacing_dhw_mm=SPACING_DHW_MM
    )
    target = source.with_spacing((1, 1, 1))
    array = np.random.default_rng(0).integers(-1000, 2000, SHAPE, np.int16)
    labels = (array // 100 % 20).astype(np.uint8)
    volume = Volume(array, source)

    def image(interpolation: str) -> Callable[[], np.ndarray]:
        options = {"interpolation": interpolation, "antialias": False, "fill": FILL, "backend": backend}
        return lambda: resample_volume(volume, target, **options).array

    for title, ours, theirs, least in (
        ("linear", image("linear"), simpleitk.resampler(array, source, target, "linear", FILL), LINEAR_AT_LEAST),
        (
            "labels, nearest",
            lambda: resample_labels(labels, source, target, backend=backend),
            simpleitk.resampler(labels, source, target, "nearest", 0),
            LABELS_AT_LEAST,
        ),
    ):
        rows = report.contest(title, {OURS: Call(ours), "SimpleITK": Call(theirs)}, rounds)
        difference = np.abs(np.subtract(ours(), simpleitk.to_array(theirs()), dtype=np.int32)).max()
        report.figure(f"{title}, largest difference", int(difference))
        report.demand(f"{title}, wall ratio", rows["SimpleITK"]["wall_s_ratio"], at_least=least)
    for interpolation in ("cubic", "lanczos"):
        report.contest(interpolation, {OURS: Call(image(interpolation))}, rounds)
    return report.close()


if __name__ == "__main__":
    sys.exit(main())
