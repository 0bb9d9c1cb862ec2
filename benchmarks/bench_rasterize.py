"""ROI contours → mask: gpuprep against skimage.draw.polygon, 240 000 points into 512 × 512 × 200.

``python benchmarks/bench_rasterize.py [--reps 5]`` prints process CPU time of each (one thread), the median of the
ratios of interleaved runs, and how many voxels differ.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np

from gpuprep.backends import select
from gpuprep.dicom.rtstruct import Contour, RoiContours
from gpuprep.geometry import VolumeGeometry
from gpuprep.masks import Roi, from_planes
from gpuprep.ops import rasterize as stage
from gpuprep.ops.rasterize import SliceGrid, rasterize

SHAPE = (200, 512, 512)


def make_rois(geometry, count, slices, vertices, seed=0):
    """Wavy discs of 20 to 60 pixels radius, over `slices` consecutive slices each."""
    rng = np.random.default_rng(seed)
    rois = []
    for number in range(1, count + 1):
        first = rng.integers(0, geometry.shape[0] - slices + 1)
        centre, radius = rng.uniform(100, 400, 2), rng.uniform(20, 60)
        contours = []
        for d in range(first, first + slices):
            angle = np.sort(rng.uniform(0, 2 * np.pi, vertices))
            r = radius * (1 + 0.05 * np.sin(5 * angle + d))
            index = [np.full(vertices, d), centre[0] + r * np.sin(angle), centre[1] + r * np.cos(angle)]
            contours.append(Contour("CLOSED_PLANAR", geometry.to_lps(np.column_stack(index))))
        rois.append(RoiContours(Roi(number, f"roi {number}"), tuple(contours)))
    return rois


def by_scikit_image(rois, geometry):
    """One uint32 bit mask, contour by contour."""
    from skimage.draw import polygon

    volume = np.zeros(geometry.shape, np.uint32)
    for bit, item in enumerate(rois):
        for contour in item.contours:
            index = geometry.to_index(contour.points_lps_mm)
            y, x = polygon(index[:, 1], index[:, 2], volume.shape[1:])
            volume[round(index[0, 0]), y, x] ^= np.uint32(1 << bit)
    return volume


def bitmask_filler(rois, geometry, backend):
    """A function that draws all contours into bit planes, slab by slab, in memory that was written before."""
    planes = stage._PlaneMap.between(SliceGrid(geometry), geometry)
    contours, _ = stage._place_contours(rois, planes, "xor", backend)
    slabs = list(stage._cut_slabs(contours, geometry, stage.SLAB_BYTES[backend.name]))
    buffer = np.zeros(max(int(np.prod(slab.shape)) for slab in slabs), np.uint32)

    def fill():
        records, vertices = stage._project_contours(contours, backend)
        for slab in slabs:
            words = buffer[: int(np.prod(slab.shape))].reshape(slab.shape)
            stage._fill_planes(words, slab, records[slab.first : slab.end], vertices, backend)

    return fill


def timed(call):
    start = time.process_time()
    result = call()
    return time.process_time() - start, result


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reps", type=int, default=3)
    reps = parser.parse_args().reps
    geometry = VolumeGeometry.from_axes(
        SHAPE, origin_lps_mm=(-200, -180, -300), directions_dhw=np.eye(3)[::-1], spacing_dhw_mm=(2.5, 0.8, 0.8)
    )
    backend = select("cpu", workers=1)
    rois = make_rois(geometry, 20, 80, 150)
    fill = bitmask_filler(rois, geometry, backend)
    raster, ours, theirs = [], [], []
    for _ in range(reps):
        raster.append(min(timed(fill)[0] for _ in range(5)))
        seconds, result = timed(lambda: rasterize(rois, SliceGrid(geometry), overlap="xor", backend=backend))
        ours.append(seconds)
        seconds, volume = timed(lambda: by_scikit_image(rois, geometry))
        theirs.append(seconds)
    different = int((result.mask.to_planes()[0] != volume).sum())
    print(f"20 ROIs, 240 000 points, scikit-image: {1e3 * statistics.median(theirs):.0f} ms")
    for what, seconds in (("contours to bit planes", raster), ("contours to a palette", ours)):
        ratio = statistics.median(b / a for a, b in zip(seconds, theirs, strict=True))
        print(f"{what}: {1e3 * statistics.median(seconds):.1f} ms, {ratio:.0f} times as fast")
    print(f"{different} voxels differ")

    many = VolumeGeometry((300, 512, 512), geometry.index_to_lps)
    rois = make_rois(many, 148, 60, 100)
    seconds, result = min(
        (timed(lambda: rasterize(rois, SliceGrid(many), overlap="xor", backend=backend)) for _ in range(reps)),
        key=lambda pair: pair[0],
    )
    print(f"148 ROIs, 888 000 points, 79 M voxels: {1e3 * seconds:.0f} ms, {len(result.mask.table)} combinations")
    planes = result.mask.to_planes()
    seconds, _ = timed(lambda: from_planes(planes, result.mask.rois, many))
    print(f"148 ROIs, bit planes to palette (NumPy): {1e3 * seconds:.0f} ms")


if __name__ == "__main__":
    main()
