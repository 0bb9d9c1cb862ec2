"""ROI contours → mask against skimage.draw.polygon: 20 ROIs of 240 000 points into 512 × 512 × 200, on one thread.

``python benchmarks/bench_rasterize.py [--rounds 3]`` also counts the voxels that differ, and times 148 ROIs.
"""

from __future__ import annotations

import argparse
import sys

import numpy as np
from peers import scikit_image
from timing import OURS, Call, Report

from gpuprep.backends import select
from gpuprep.dicom.rtstruct import Contour, RoiContours
from gpuprep.geometry import VolumeGeometry
from gpuprep.masks import Roi, from_planes
from gpuprep.ops import rasterize as stage
from gpuprep.ops.rasterize import SliceGrid, rasterize

SHAPE = (200, 512, 512)
RASTER_AT_LEAST = 300.0
PALETTE = f"{OURS}, as a palette"


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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    report = Report("rasterize")
    geometry = VolumeGeometry.from_axes(
        SHAPE, origin_lps_mm=(-200, -180, -300), directions_dhw=np.eye(3)[::-1], spacing_dhw_mm=(2.5, 0.8, 0.8)
    )
    backend = select("cpu", workers=1)
    rois = make_rois(geometry, 20, 80, 150)
    rows = report.contest(
        "20 ROIs, 240 000 points",
        {
            OURS: Call(bitmask_filler(rois, geometry, backend)),
            PALETTE: Call(lambda: rasterize(rois, SliceGrid(geometry), overlap="xor", backend=backend)),
            "scikit-image": Call(lambda: scikit_image.fill_contours(rois, geometry)),
        },
        rounds,
    )
    report.demand("contours to bit planes, CPU ratio", rows["scikit-image"]["cpu_s_ratio"], at_least=RASTER_AT_LEAST)
    planes = rasterize(rois, SliceGrid(geometry), overlap="xor", backend=backend).mask.to_planes()[0]
    different = int((planes != scikit_image.fill_contours(rois, geometry)).sum())
    report.demand("voxels that differ", different, at_most=0)

    many = VolumeGeometry((300, 512, 512), geometry.index_to_lps)
    rois = make_rois(many, 148, 60, 100)
    mask = rasterize(rois, SliceGrid(many), overlap="xor", backend=backend).mask
    stacked = mask.to_planes()
    report.contest(
        "148 ROIs, 888 000 points, 79 M voxels",
        {
            OURS: Call(lambda: rasterize(rois, SliceGrid(many), overlap="xor", backend=backend)),
            "bit planes to palette in NumPy": Call(lambda: from_planes(stacked, mask.rois, many)),
        },
        rounds,
    )
    return report.close()


if __name__ == "__main__":
    sys.exit(main())
