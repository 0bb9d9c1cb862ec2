"""Crop regions: known answers, scipy's components as an oracle."""

import fake_cuda
import numpy as np
import pytest

from gpuprep.backends import select
from gpuprep.backends.cpu import CpuBackend
from gpuprep.backends.reference import ReferenceBackend
from gpuprep.errors import ConfigError
from gpuprep.ops.region import CropOptions, find_region, find_regions, largest_component

CPU = CpuBackend()
BOX, COMPONENTS = CropOptions(), CropOptions("components")


def image(shape, *parts, dtype=np.uint16):
    plane = np.zeros(shape, dtype)
    for value, (left, right), (top, bottom) in parts:
        plane[top : bottom + 1, left : right + 1] = value
    return plane[None]


SQUARE = image((4, 4), (1, (1, 2), (1, 2)))
MARKED = SQUARE.astype(np.uint8).copy()
MARKED[0, [0, 0, 3, 3], [0, 3, 0, 3]] = 255
KNOWN = [
    (SQUARE, BOX, (1, 1, 2, 2)),
    (np.zeros((1, 4, 4), np.uint16), BOX, (0, 0, 4, 4)),
    (np.ones((1, 4, 4), np.uint16), BOX, (0, 0, 4, 4)),
    (MARKED, CropOptions(max_is_background=True), (1, 1, 2, 2)),
    (MARKED, BOX, (0, 0, 4, 4)),
    (image((8, 8), (7, (0, 1), (0, 1)), (9, (4, 6), (3, 6)), dtype=np.uint8), COMPONENTS, (4, 3, 3, 4)),
    (image((1024, 1024), (1, (101, 900), (83, 910))), BOX, (101, 83, 800, 828)),
    (image((6, 6), (1, (2, 3), (1, 4))), CropOptions(border_fraction=0.2), (1, 0, 4, 5)),
    (image((1, 3), (1, (1, 1), (0, 0))), CropOptions(max_is_background=True, border_fraction=0.4), (0, 0, 3, 1)),
]


@pytest.mark.parametrize("backend", [CPU, ReferenceBackend()])
@pytest.mark.parametrize(("planes", "options", "expected"), KNOWN)
def test_known_regions(planes, options, expected, backend):
    assert find_region(planes, 0, options, backend=backend) == expected


@pytest.mark.parametrize("channel", [0, 1, 2])
def test_any_colour_is_picture(channel):
    planes = np.zeros((3, 5, 6), np.uint8)
    planes[channel, 2, 3] = 9
    assert find_region(planes, 0, BOX, samples=3, backend=CPU) == (3, 2, 1, 1)


@pytest.mark.parametrize("backend", [CPU, ReferenceBackend()])
def test_colours_at_full_strength_are_no_white(backend):
    planes = np.zeros((3, 9, 12), np.uint8)
    planes[:, 0, 0] = 255
    planes[0, 4, 5:7], planes[1, 6, 3] = 255, 255  # pure red and green
    options = CropOptions(max_is_background=True)
    assert find_region(planes, 0, options, samples=3, backend=backend) == (3, 4, 4, 3)


@pytest.mark.parametrize("backend", [CPU, ReferenceBackend()])
@pytest.mark.parametrize("dtype", [np.int16, np.float32])
@pytest.mark.parametrize("mode", ["box", "components"])
def test_values_may_descend_to_white(backend, dtype, mode):
    planes = np.full((1, 20, 30), 3000, dtype)  # black
    planes[0, 5:9, 10:17] = 1000
    planes[0, 0, 0] = -32768  # white, a mark
    options, marked = CropOptions(mode, max_is_background=True), CropOptions("box")
    assert find_region(planes, 3000, options, white=-32768, backend=backend) == (10, 5, 7, 4)
    assert find_region(planes, 3000, marked, white=-32768, backend=backend) == (0, 0, 17, 9)
    both = np.concatenate([planes, -1 - planes])
    ends = np.array([3000, -3001], dtype), np.array([-32768, 32767], dtype)
    assert find_regions(both, *ends, options, backend=backend) == [(10, 5, 7, 4)] * 2


def test_an_empty_frame_does_not_defeat_the_crop_unless_asked_for():
    planes = np.concatenate([SQUARE, np.zeros_like(SQUARE)])
    assert find_region(planes, 0, BOX, backend=CPU) == (1, 1, 2, 2)
    assert find_region(planes, 0, CropOptions(empty_frame_keeps_all=True), backend=CPU) == (0, 0, 4, 4)


def test_background_may_be_negative():
    planes = np.full((1, 5, 5), -1024, np.int16)
    planes[0, 1:3, 2] = -1000
    assert find_region(planes, -1024, BOX, backend=CPU) == (2, 1, 1, 2)


def test_components_equal_scipy():
    ndimage = pytest.importorskip("scipy.ndimage")
    rng = np.random.default_rng(8)
    for share in (0.05, 0.3, 0.55, 0.6, 0.9):
        for shape in ((1, 1), (1, 50), (37, 53), (200, 90)):
            foreground = rng.random(shape) < share
            labels, count = ndimage.label(foreground)
            found = largest_component(foreground, CPU)
            if count == 0:
                assert found is None
                continue
            sizes = np.bincount(labels.ravel())[1:]
            boxes = ndimage.find_objects(labels)
            rows, columns = boxes[int(np.flatnonzero(sizes == sizes.max())[-1])]
            assert found == (columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start)


def test_components_of_a_device_are_those_of_the_host(monkeypatch):
    device = fake_cuda.install(monkeypatch)
    backend = select("cuda")
    rng = np.random.default_rng(8)
    with backend.activate():
        for share in (0, 0.05, 0.3, 0.55, 0.9):
            for shape in ((1, 1), (1, 50), (37, 53), (90, 60)):
                foreground = rng.random(shape) < share
                expected = largest_component(foreground, CPU)
                assert largest_component(backend.upload(foreground), backend) == expected
        alike = np.eye(9, dtype=bool)  # nine of one pixel: the one that begins last
        assert largest_component(backend.upload(alike), backend) == largest_component(alike, CPU) == (8, 8, 1, 1)
    assert "plane_boxes_u8" in device.launched


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32])
@pytest.mark.parametrize("samples", [1, 3])
def test_regions_of_components_are_the_same_on_every_backend(monkeypatch, dtype, samples):
    fake_cuda.install(monkeypatch)
    rng = np.random.default_rng(3)
    blocks = rng.integers(0, 250, (2 * samples, 30, 35)) * (rng.random((2 * samples, 30, 35)) < 0.4 / samples)
    blocks *= 257 if dtype == np.uint16 else 1
    planes = np.kron(blocks, np.ones((1, 20, 20), int)).astype(dtype)
    expected = find_region(planes, 0, COMPONENTS, samples=samples, backend=ReferenceBackend())
    assert expected != (0, 0, 700, 600)
    assert find_region(planes, 0, COMPONENTS, samples=samples, backend=CPU) == expected
    backend = select("cuda")
    with backend.activate():
        assert find_region(backend.upload(planes), 0, COMPONENTS, samples=samples, backend=backend) == expected


@pytest.mark.parametrize("fraction", [-0.1, 0.5, np.nan])
def test_border_is_a_fraction(fraction):
    with pytest.raises(ConfigError) as caught:
        CropOptions(border_fraction=fraction)
    assert caught.value.code == "bad-border"
