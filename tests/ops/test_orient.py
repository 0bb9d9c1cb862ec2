"""Orientation: kernels = NumPy reference; nibabel and geometry as oracles."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from gpuprep.backends import select
from gpuprep.errors import ConfigError
from gpuprep.geometry import VolumeGeometry
from gpuprep.ops.orient import plan_orientation, reorient, reorient_array
from gpuprep.volume import Volume

CPU, REFERENCE = select("cpu"), select("reference")
CODES = [
    "".join(letters) for pairs in itertools.permutations(("RL", "AP", "IS")) for letters in itertools.product(*pairs)
]
SHAPE = (4, 37, 70)


def oblique_geometry():
    angle = np.deg2rad(20)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    return VolumeGeometry.from_axes(
        SHAPE, origin_lps_mm=(10, 20, -30), directions_dhw=np.eye(3)[[0, 2, 1]] @ turn, spacing_dhw_mm=(3, 0.5, 0.7)
    )


@pytest.mark.parametrize("code", CODES)
def test_every_code_is_reached_and_voxels_keep_their_place(code):
    geometry = oblique_geometry()
    volume = Volume(np.arange(np.prod(SHAPE), dtype=np.int32).reshape(SHAPE), geometry, "MR")
    done = reorient(volume, code, CPU)
    assert done.geometry.orientation() == code
    assert done.array.flags.c_contiguous
    for index in np.random.default_rng(1).integers(0, done.array.shape, (20, 3)):
        old = np.rint(geometry.to_index(done.geometry.to_lps(index))).astype(int)
        assert done.array[tuple(index)] == volume.array[tuple(old)]
    back = reorient(done, geometry.orientation(), CPU)
    np.testing.assert_array_equal(back.array, volume.array)
    np.testing.assert_allclose(back.geometry.index_to_lps, geometry.index_to_lps, atol=1e-9)


def test_equals_nibabel_closest_canonical():
    nibabel = pytest.importorskip("nibabel")
    geometry = oblique_geometry()
    array = np.random.default_rng(4).integers(0, 1000, SHAPE).astype(np.int16)
    to_ras = np.diag([-1.0, -1.0, 1.0, 1.0]) @ geometry.index_to_lps[:, [2, 1, 0, 3]]
    canonical = nibabel.as_closest_canonical(nibabel.Nifti1Image(array.transpose(2, 1, 0), to_ras))
    done = reorient(Volume(array, geometry), "RAS", CPU)
    np.testing.assert_array_equal(done.array.transpose(2, 1, 0), np.asarray(canonical.dataobj))
    found = np.diag([-1.0, -1.0, 1.0, 1.0]) @ done.geometry.index_to_lps[:, [2, 1, 0, 3]]
    np.testing.assert_allclose(found, canonical.affine, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint32, np.float32])
@pytest.mark.parametrize("axes", list(itertools.permutations(range(3))))
def test_kernel_equals_reference(dtype, axes):
    array = np.random.default_rng(4).integers(0, 200, SHAPE).astype(dtype)
    for flips in itertools.product((False, True), repeat=3):
        found = reorient_array(array, axes, flips, CPU)
        np.testing.assert_array_equal(found, reorient_array(array, axes, flips, REFERENCE))
        assert found.dtype == dtype


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
@pytest.mark.parametrize("axes", [(0, 2, 1), (1, 2, 0), (2, 0, 1), (2, 1, 0)])
def test_whole_squares_equal_the_reference_too(dtype, axes):
    for shape in ((64, 128, 64), (65, 64, 192)):  # multiples of a square's side, and a row of voxels more
        array = np.random.default_rng(5).integers(0, 200, shape).astype(dtype)
        for flips in itertools.product((False, True), repeat=3):
            found = reorient_array(array, axes, flips, CPU)
            np.testing.assert_array_equal(found, reorient_array(array, axes, flips, REFERENCE))


@pytest.mark.parametrize("code", ["", "RA", "RRS", "ras", "RASL", "RLA", "XYZ"])
def test_refuses_bad_codes(code):
    with pytest.raises(ConfigError) as error:
        plan_orientation(oblique_geometry(), code)
    assert error.value.code == "bad-orientation"
