"""Bounding boxes, cropping and padding: kernels = NumPy reference; scipy as an oracle of its own."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from gpuprep.backends import select
from gpuprep.errors import ConfigError
from gpuprep.geometry import VolumeGeometry
from gpuprep.ops.crop import (
    crop_or_pad,
    crop_or_pad_array,
    foreground_box,
    foreground_boxes,
    move_planes,
    with_margin,
)
from gpuprep.volume import Volume

CPU, REFERENCE = select("cpu"), select("reference")
DTYPES = [np.uint8, np.uint16, np.uint32, np.int16, np.int32, np.float32]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 7), (2, 3, 64), (4, 5, 65), (3, 4, 200)])
def test_box_equals_scipy_and_reference(dtype, shape):
    ndimage = pytest.importorskip("scipy.ndimage")
    rng = np.random.default_rng(5)
    for _ in range(20):
        array = np.zeros(shape, dtype)
        for _ in range(rng.integers(0, 4)):
            array[tuple(rng.integers(0, shape))] = 100
        found = foreground_box(array, 50, CPU)
        assert found == foreground_box(array, 50, REFERENCE)
        slices = ndimage.find_objects((array > 50).astype(int))
        oracle = (tuple(s.start for s in slices[0]), tuple(s.stop - s.start for s in slices[0])) if slices else None
        assert found == oracle


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("threshold", [-np.inf, -1e30, -40000.5, -1.0, -0.5, 0.0, 0.5, 254.9, 255.0, 1e30, np.inf])
def test_thresholds_compare_as_real_numbers(dtype, threshold):
    array = np.zeros((3, 4, 70), dtype)
    array[1, 2, 69] = 255
    array[2, 0, 3] = 1
    if dtype == np.float32:
        array[0, 0, 0] = np.nan
    assert foreground_box(array, threshold, CPU) == foreground_box(array, threshold, REFERENCE)


@pytest.mark.parametrize("threshold", [0.1, 0.3, 1e300, -1e300])
def test_thresholds_between_two_floats(threshold):
    array = np.array([[[0.1, 0.3, np.inf]]], np.float32)  # 0.1 is stored as more than that
    wanted = np.flatnonzero(array.astype(np.float64) > threshold)[0]
    assert foreground_box(array, threshold, CPU) == ((0, 0, wanted), (1, 1, 3 - wanted))
    assert foreground_box(array, threshold, REFERENCE) == ((0, 0, wanted), (1, 1, 3 - wanted))


def test_threshold_must_be_a_number():
    with pytest.raises(ConfigError) as error:
        foreground_box(np.zeros((1, 1, 1), np.int16), np.nan, CPU)
    assert error.value.code == "bad-threshold"


def test_margin_is_in_mm_and_stops_at_the_border():
    geometry = VolumeGeometry((10, 100, 100), np.diag([5.0, 1.0, 0.8, 1.0]))
    assert with_margin(((1, 50, 97), (2, 10, 2)), geometry, 10) == ((0, 40, 84), (5, 30, 16))
    assert with_margin(((1, 50, 97), (2, 10, 2)), geometry, 0) == ((1, 50, 97), (2, 10, 2))
    assert with_margin(((1, 50, 97), (2, 10, 2)), geometry, 1e30) == ((0, 0, 0), (10, 100, 100))


BOXES = [
    ((0, 0, 0), (3, 5, 131)),
    ((1, 2, 3), (2, 2, 100)),
    ((-2, -1, -3), (7, 8, 140)),
    ((2, 4, 130), (1, 1, 1)),
    ((-1, 3, 60), (2, 9, 129)),
    ((3, 0, 0), (2, 5, 131)),
    ((0, 0, 500), (3, 5, 70)),
    ((0, 0, -500), (3, 5, 600)),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("box", BOXES)
def test_crop_equals_reference(dtype, box):
    array = np.random.default_rng(2).integers(1, 200, (3, 5, 131)).astype(dtype)
    found = crop_or_pad_array(array, *box, 7, CPU)
    expected = crop_or_pad_array(array, *box, 7, REFERENCE)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, expected)


def test_fill_keeps_its_bits():
    array = np.ones((1, 1, 1), np.float32)
    for fill in (-1024.5, np.nan):
        found = crop_or_pad_array(array, (0, 0, -1), (1, 1, 2), fill, CPU)
        np.testing.assert_array_equal(found, np.array([[[fill, 1]]], np.float32))
    assert crop_or_pad_array(np.ones((1, 1, 1), np.int16), (0, 0, 1), (1, 1, 1), -1024, CPU).item() == -1024


def test_voxels_keep_their_place_in_the_patient():
    geometry = VolumeGeometry.from_axes(
        (4, 5, 6), origin_lps_mm=(3, -7, 11), directions_dhw=np.eye(3)[::-1], spacing_dhw_mm=(2.5, 0.7, 0.8)
    )
    volume = Volume(np.arange(120, dtype=np.int16).reshape(4, 5, 6), geometry)
    done = crop_or_pad(volume, (1, -2, 3), (2, 6, 5), -1, CPU)
    for index in itertools.product(*map(range, done.array.shape)):
        old = np.rint(geometry.to_index(done.geometry.to_lps(index))).astype(int)
        inside = all(0 <= i < n for i, n in zip(old, volume.array.shape, strict=True))
        assert done.array[index] == (volume.array[tuple(old)] if inside else -1)
    assert done.steps[0].parameters == {"start_dhw": [1, -2, 3], "shape": [2, 6, 5], "fill": -1}


@pytest.mark.parametrize(
    ("start", "shape", "fill", "code"),
    [
        ((0, 0, 0), (0, 1, 1), 0, "bad-box"),
        ((0, 0, 2**31), (1, 1, 1), 0, "bad-box"),
        ((0, 0, 2**31 - 1), (1, 1, 1), 0, "bad-box"),
        ((0, 0, 0), (1, 1, 1), 0.5, "bad-fill"),
        ((0, 0, 0), (1, 1, 1), 70000, "bad-fill"),
        ((0, 0, 0), (1, 1, 1), np.nan, "bad-fill"),
    ],
)
def test_refuses_bad_boxes(start, shape, fill, code):
    with pytest.raises(ConfigError) as error:
        crop_or_pad_array(np.zeros((2, 2, 2), np.int16), start, shape, fill, CPU)
    assert error.value.code == code


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32])
@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (4, 65), (9, 200)])
def test_boxes_of_planes_are_those_of_each(dtype, shape):
    rng = np.random.default_rng(8)
    planes = np.zeros((7, *shape), dtype)
    for plane in planes[1:]:
        for _ in range(3):
            plane[tuple(rng.integers(0, shape))] = rng.integers(1, 120)
    thresholds = (np.arange(7) * 12).astype(dtype)
    expected = [foreground_box(plane[None], t, REFERENCE) for plane, t in zip(planes, thresholds, strict=True)]
    assert expected[0] is None
    for backend in (CPU, REFERENCE):
        assert foreground_boxes(planes, thresholds, backend) == expected


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32])
def test_planes_are_moved_each_by_its_own_number_of_pixels(dtype):
    planes = np.random.default_rng(9).integers(1, 100, (4, 11, 70)).astype(dtype)
    down, right = np.array([0, 3, -2, 20], np.int32), np.array([0, 65, -1, 0], np.int32)
    fill = np.array([1, 2, 3, 4]).astype(dtype)
    expected = np.stack([np.full((11, 70), value) for value in fill])
    expected[0] = planes[0]
    expected[1, 3:, 65:] = planes[1, :-3, :5]
    expected[2, :-2, :-1] = planes[2, 2:, 1:]
    for backend in (CPU, REFERENCE):
        moved = move_planes(planes, down, right, fill, backend)
        assert moved.dtype == dtype
        np.testing.assert_array_equal(moved, expected)
