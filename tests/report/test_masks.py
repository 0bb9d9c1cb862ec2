"""The table of a mask, written down by hand."""

import numpy as np

from gpuprep.geometry import VolumeGeometry
from gpuprep.masks import Roi, RoiMask
from gpuprep.report import masks

GRID = VolumeGeometry.from_axes(
    (2, 3, 4),
    origin_lps_mm=(10, 20, 30),
    directions_dhw=[[0, 0, 1], [0, 1, 0], [1, 0, 0]],
    spacing_dhw_mm=(5, 2, 1),
)
CODES = np.zeros((2, 3, 4), np.uint8)
CODES[0, 1, 2] = 1
CODES[1, 2, 2:] = 2
ROIS = (Roi(1, "dog", (255, 0, 16)), Roi(7, "cat"), Roi(3, "tree"))
MASK = RoiMask(CODES, np.array([[0], [1], [3]], np.uint32), ROIS, GRID)


def test_rois_with_volumes_and_boxes_and_what_overlaps():
    assert masks.format_mask(MASK).splitlines() == [  # a voxel is 10 mm³
        "grid 4 × 3 × 2, 1 × 2 × 5 mm, LPS, first voxel at (10.000, 20.000, 30.000) LPS mm",
        "frame of reference unknown",
        "ROIs: 3, sets of ROIs: 3",
        "",
        "ROI   number  voxels     ml  box x  box y  box z  colour   type, region",
        "dog        1       3  0.030    2-3    1-2    0-1  #ff0010",
        "cat        7       2  0.020    2-3    2-2    1-1",
        "tree       3       0  0.000",
        "",
        "overlaps: 1",
        "  'dog' and 'cat': 2 voxels",
    ]


def test_only_so_many_overlaps_are_listed(monkeypatch):
    everything = RoiMask(np.ones_like(CODES), np.array([[0], [7]], np.uint32), ROIS, GRID)
    monkeypatch.setattr(masks, "_LISTED_PAIRS", 1)
    assert masks.format_mask(everything).splitlines()[-3:] == [
        "overlaps: 3",
        "  'dog' and 'cat': 24 voxels",
        "  and 2 more",
    ]
    apart = RoiMask(CODES, np.array([[0], [1], [2]], np.uint32), ROIS, GRID)
    assert masks.format_mask(apart).splitlines()[-1] == "no overlaps"
