"""Resampling 512 × 512 × 200 at (0.8, 0.8, 2.5) mm to 1 mm: gpuprep against SimpleITK on the same cores.

``python benchmarks/bench_resample.py [--reps 5]`` runs both in turn and prints the median of wall and CPU time of each,
the median of the ratios of the rounds, and the largest difference between the results. SimpleITK stores integers
truncated toward zero, gpuprep rounds to nearest: one grey level is expected.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
import SimpleITK as sitk
from timing import describe_machine

from gpuprep.backends import select
from gpuprep.geometry import VolumeGeometry
from gpuprep.ops.resample import resample_labels, resample_volume
from gpuprep.volume import Volume

SHAPE = (200, 512, 512)
SPACING_DHW_MM = (2.5, 0.8, 0.8)
FILL = -1024


def by_simpleitk(array, target, interpolator, fill):
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(SPACING_DHW_MM[::-1])
    size, spacing = target.shape[::-1], target.spacing_dhw_mm[::-1].tolist()

    def run():
        return sitk.Resample(
            image, size, sitk.Transform(), interpolator, image.GetOrigin(), spacing, image.GetDirection(), fill
        )

    return run


def timed(call):
    """Seconds of wall and CPU time; the result is dropped, so that the next run finds its memory warm."""
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - wall, time.process_time() - cpu


def contest(name, ours, theirs, reps):
    different = np.abs(np.subtract(ours(), sitk.GetArrayFromImage(theirs()), dtype=np.int32)).max()
    taken, others = [], []
    for _ in range(reps):
        taken.append(timed(ours))
        others.append(timed(theirs))
    wall, cpu = (statistics.median(t[i] for t in taken) * 1e3 for i in (0, 1))
    their_wall, their_cpu = (statistics.median(t[i] for t in others) * 1e3 for i in (0, 1))
    ratio_wall, ratio_cpu = (statistics.median(b[i] / a[i] for a, b in zip(taken, others, strict=True)) for i in (0, 1))
    print(
        f"{name:8s}{wall:7.1f} ms wall {cpu:7.1f} ms CPU; SimpleITK {their_wall:7.0f} / {their_cpu:7.0f} ms:"
        f" {ratio_wall:5.1f} / {ratio_cpu:5.1f} times; largest difference {different}"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reps", type=int, default=5)
    reps = parser.parse_args().reps
    backend = select("cpu")
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(backend.workers)
    source = VolumeGeometry.from_axes(
        SHAPE, origin_lps_mm=(0, 0, 0), directions_dhw=np.eye(3)[::-1], spacing_dhw_mm=SPACING_DHW_MM
    )
    target = source.with_spacing((1, 1, 1))
    array = np.random.default_rng(0).integers(-1000, 2000, SHAPE, np.int16)
    labels = (array // 100 % 20).astype(np.uint8)
    volume = Volume(array, source)

    def image(interpolation):
        def run():
            options = {"interpolation": interpolation, "antialias": False, "fill": FILL, "backend": backend}
            return resample_volume(volume, target, **options).array

        return run

    print(describe_machine(), backend.device)
    contest("linear", image("linear"), by_simpleitk(array, target, sitk.sitkLinear, FILL), reps)
    contest(
        "labels",
        lambda: resample_labels(labels, source, target, backend=backend),
        by_simpleitk(labels, target, sitk.sitkNearestNeighbor, 0),
        reps,
    )
    for interpolation in ("cubic", "lanczos"):
        taken = [timed(image(interpolation)) for _ in range(reps)]
        wall, cpu = (statistics.median(t[i] for t in taken) * 1e3 for i in (0, 1))
        print(f"{interpolation:8s}{wall:7.1f} ms wall {cpu:7.1f} ms CPU")


if __name__ == "__main__":
    main()
