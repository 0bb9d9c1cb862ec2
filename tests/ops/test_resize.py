"""Two-dimensional resizing: kernel = row form = reference; Pillow's float filters and published values as oracles."""

from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from gpuprep.backends.cpu import CpuBackend
from gpuprep.backends.reference import ReferenceBackend
from gpuprep.errors import ConfigError
from gpuprep.ops.resize import FILTERS, REFERENCE_TOLERANCE, filter_taps, nearest_pixels, resize_boxes, resize_planes

CPU, KERNEL_TEXT, REFERENCE = CpuBackend(), CpuBackend(row_forms=False), ReferenceBackend()
#: Grey levels that rounding in float32 may cost.
ROUNDING_LEVELS = 1
SIZES = [((1, 1), (3, 2)), ((37, 61), (11, 13)), ((20, 33), (45, 70)), ((300, 200), (7, 5)), ((9, 70), (9, 35))]
PILLOW = {
    "triangle": Image.Resampling.BILINEAR,
    "catmull-rom": Image.Resampling.BICUBIC,
    "lanczos3": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
}


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32])
@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize(("source", "target"), SIZES)
def test_backends_agree(dtype, name, source, target):
    planes = np.random.default_rng(3).integers(0, 250, (3, *source)).astype(dtype)
    if dtype == np.int16:
        planes = (planes * 200 - 25000).astype(np.int16)
    fast = resize_planes(planes, *target, filter_name=name, backend=CPU)
    assert fast.dtype == dtype
    np.testing.assert_array_equal(fast, resize_planes(planes, *target, filter_name=name, backend=KERNEL_TEXT))
    plain = resize_planes(planes, *target, filter_name=name, backend=REFERENCE)
    allowed = REFERENCE_TOLERANCE * np.abs(planes).max() + (dtype != np.float32)
    assert np.abs(fast.astype(float) - plain).max() <= allowed


@pytest.mark.parametrize(("source", "output"), [(298, 12), (149, 6), (35, 10), (399, 58), (7, 14)])
def test_a_pixel_belongs_to_the_box_that_its_centre_lies_in(source, output):
    taps = filter_taps(source, output, "box")
    half = max(Fraction(source, output), Fraction(1)) / 2
    for o, (first, weights) in enumerate(zip(taps.first.tolist(), taps.weights, strict=True)):
        centre = Fraction((2 * o + 1) * source, 2 * output)
        inside = [i for i in range(source) if -half < i + Fraction(1, 2) - centre <= half]
        assert [first + int(i) for i in np.flatnonzero(weights)] == inside


def test_the_nearest_pixel_is_found_exactly():
    for source, output in ((698, 337), (694, 13), (65535, 384), (3, 65535)):
        exact = [int(Fraction((2 * o + 1) * source, 2 * output)) for o in range(output)]
        assert nearest_pixels(source, output).tolist() == exact


BOXES = [(0, 0, 50, 40), (3, 5, 20, 30), (49, 0, 1, 40), (10, 20, 12, 9), (7, 7, 12, 9)]
TARGETS = [(20, 16), (9, 13), (3, 16), (12, 9), (20, 15)]


@pytest.mark.parametrize("backend", [CPU, KERNEL_TEXT, REFERENCE], ids=["rows", "kernels", "reference"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32])
@pytest.mark.parametrize("name", FILTERS)
def test_boxes_of_planes_are_resized_each_in_its_own_way(backend, dtype, name):
    planes = np.random.default_rng(6).integers(0, 250, (5, 40, 50)).astype(dtype)
    fill = np.arange(5).astype(dtype)
    found = resize_boxes(planes, BOXES, TARGETS, (16, 20), fill, filter_name=name, backend=backend)
    assert found.shape == (5, 16, 20)
    assert found.dtype == dtype
    for plane, result, box, (width, height), value in zip(planes, found, BOXES, TARGETS, fill, strict=True):
        left, top, box_width, box_height = box
        expected = np.full((16, 20), value)
        if (box_width, box_height) == (width, height):
            expected[:height, :width] = plane[top : top + height, left : left + width]
        else:
            one = resize_planes(plane[None], height, width, filter_name=name, backend=backend, box=box)
            expected[:height, :width] = one[0]
        np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("name", PILLOW)
@pytest.mark.parametrize("target", [(64, 48), (401, 77), (700, 900)])
def test_values_are_those_of_pillow(name, target):
    plane = np.random.default_rng(4).integers(10000, 50000, (409, 523)).astype(np.uint16)
    found = resize_planes(plane[None], *target, filter_name=name, backend=CPU)[0]
    oracle = np.asarray(Image.fromarray(plane.astype(np.float32)).resize(target[::-1], PILLOW[name]))
    assert np.abs(found - np.clip(oracle, 0, 65535)).max() <= ROUNDING_LEVELS


RAMP = np.arange(0, 1600, 100).reshape(1, 4, 4)
VECTORS = [
    (RAMP, 2, 2, "nearest", [500, 700, 1300, 1500]),
    (RAMP, 2, 2, "triangle", [357, 514, 986, 1143]),
    (RAMP, 2, 2, "catmull-rom", [293, 476, 1024, 1207]),
    (RAMP, 2, 2, "gaussian", [390, 534, 966, 1110]),
    (RAMP, 2, 2, "lanczos3", [269, 461, 1039, 1231]),
    ([[[0, 1000]]], 1, 4, "nearest", [0, 0, 1000, 1000]),
    ([[[0, 1000]]], 1, 4, "triangle", [0, 250, 750, 1000]),
    ([[[0, 1000]]], 1, 4, "catmull-rom", [0, 207, 793, 1088]),
    ([[[0, 1000]]], 1, 4, "gaussian", [47, 269, 731, 953]),
    ([[[0, 1000]]], 1, 4, "lanczos3", [0, 233, 767, 1175]),
    ([[[0, 0, 0, 1000, 1000, 1000]]], 1, 4, "triangle", [0, 111, 889, 1000]),
    ([[[0, 0, 0, 1000, 1000, 1000]]], 1, 4, "lanczos3", [0, 38, 962, 1013]),
]


@pytest.mark.parametrize(("plane", "height", "width", "name", "expected"), VECTORS)
def test_published_values(plane, height, width, name, expected):
    found = resize_planes(np.array(plane, np.uint16), height, width, filter_name=name, backend=CPU)
    assert np.abs(found.ravel().astype(int) - expected).max() <= ROUNDING_LEVELS


@pytest.mark.parametrize(("name", "expected"), [("triangle", [0, 128, 255]), ("gaussian", [6, 128, 249])])
def test_published_values_of_8_bits(name, expected):
    edge = np.array([[[0] * 4 + [255] * 4]], np.uint8)
    found = resize_planes(edge, 1, 3, filter_name=name, backend=CPU)
    assert np.abs(found.ravel().astype(int) - expected).max() <= ROUNDING_LEVELS


@pytest.mark.parametrize("backend", [CPU, KERNEL_TEXT, REFERENCE])
@pytest.mark.parametrize("name", FILTERS)
def test_nothing_beside_the_box_has_influence(name, backend):
    planes = np.random.default_rng(5).integers(0, 60000, (2, 50, 80)).astype(np.uint16)
    box = (7, 3, 61, 40)
    part = np.ascontiguousarray(planes[:, 3:43, 7:68])
    np.testing.assert_array_equal(
        resize_planes(planes, 20, 33, filter_name=name, backend=backend, box=box),
        resize_planes(part, 20, 33, filter_name=name, backend=backend),
    )


@pytest.mark.parametrize(
    ("size", "name", "box", "dtype", "code"),
    [
        ((4, 4), "sinc", None, np.uint8, "unknown-filter"),
        ((0, 4), "box", None, np.uint8, "bad-size"),
        ((4, 4), "box", (0, 0, 9, 8), np.uint8, "bad-size"),
        ((4, 4), "box", (-1, 0, 4, 4), np.uint8, "bad-size"),
        ((4, 4), "box", None, np.int32, "unsupported-dtype"),
    ],
)
def test_refusals(size, name, box, dtype, code):
    with pytest.raises(ConfigError) as caught:
        resize_planes(np.zeros((1, 8, 8), dtype), *size, filter_name=name, backend=CPU, box=box)
    assert caught.value.code == code
