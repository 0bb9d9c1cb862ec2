"""Random masks to write, and what it means that two are the same."""

from __future__ import annotations

import numpy as np

from gpuprep.geometry import VolumeGeometry
from gpuprep.masks import Code, Roi, from_planes

COUNTS = (1, 31, 32, 33, 64, 65, 148, 300)
SHAPE = (3, 5, 7)

#: Names that break formats which do not quote: separators, quotes, control characters, paths, other scripts.
AWKWARD_NAMES = (
    "a|b:c~d^e", "a\nb\tc", 'say "hi" \\ \\n', "../../etc/passwd", "", " edge ", "GTV", "GTV", "gtv", "con",
    "läsion µ 肝臓", "x" * 200, "<tag> & ;", "50%\x85\u2028next", "\ud800", "[1]*?",
)  # fmt: skip


def oblique_geometry(shape=SHAPE):
    """A rotated grid with spacings and an origin that have no short decimal form."""
    turn, tilt = 0.3, 0.2
    across = np.array([np.cos(turn), np.sin(turn), 0])
    down = np.array([-np.sin(turn) * np.cos(tilt), np.cos(turn) * np.cos(tilt), np.sin(tilt)])
    return VolumeGeometry.from_axes(
        shape, origin_lps_mm=(-100 / 3, 20.123456789, 1e-7), directions_dhw=(np.cross(across, down), down, across),
        spacing_dhw_mm=(2.5, 10 / 13, 10 / 13), frame_of_reference_uid="1.2.3.4",
    )  # fmt: skip


def random_mask(count, seed=0, *, density=0.1, geometry=None, rois=None):
    """ROIs that overlap at random; every fifth has no voxel."""
    geometry = geometry or oblique_geometry()
    volumes = np.random.default_rng(seed).random((count, *geometry.shape)) < density
    volumes[::5] &= count == 1
    planes = np.zeros((max(1, -(-count // 32)), *geometry.shape), np.uint32)
    for i, volume in enumerate(volumes):
        planes[i // 32] |= volume.astype(np.uint32) << np.uint32(i % 32)
    return from_planes(planes, rois or tuple(Roi(i + 5, f"roi {i}", (i % 256, 7, 200)) for i in range(count)), geometry)


def coded_roi(number=3, name="GTV"):
    return Roi(
        number, name, (1, 128, 254), category=Code("SCT", "49755003", "Morphologically Abnormal Structure"),
        type=Code("SCT", "86049000", "Neoplasm, Primary"), type_modifiers=(Code("SCT", "7771000", "Left"),),
        region=Code("SCT", "39607008", "Lung"), region_modifiers=(Code("SCT", "7771000", "Left"),),
        algorithm="SEMIAUTOMATIC", tracking_uid="1.2.840.99",
    )  # fmt: skip


def check_same(ours, theirs):
    """Same planes, palette, grid to the last bit, and ROIs."""
    assert theirs.codes.dtype == ours.codes.dtype and np.array_equal(theirs.codes, ours.codes)
    assert np.array_equal(theirs.table, ours.table)
    assert np.array_equal(theirs.geometry.index_to_lps, ours.geometry.index_to_lps)
    assert theirs.geometry.frame_of_reference_uid == ours.geometry.frame_of_reference_uid
    assert tuple(theirs.rois) == tuple(ours.rois)
