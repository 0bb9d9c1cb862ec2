"""Stored words to modality values, and windows: kernels = NumPy reference = hand-computed answers and SimpleITK."""

from __future__ import annotations

import numpy as np
import pytest

from gpuprep.backends import select
from gpuprep.dicom.framespec import FrameSpec
from gpuprep.errors import ConfigError, DecodeError
from gpuprep.geometry import VolumeGeometry
from gpuprep.ops.intensity import Window, apply_window, apply_window_array, to_modality
from gpuprep.volume import Volume

CPU, REFERENCE = select("cpu"), select("reference")
#: The kernel computes rescaled windows in float32; of the output range.
WINDOW_TOLERANCE = 4 * np.finfo(np.float32).eps

#: Sizes with and without full lanes and slices that packs of 64 straddle.
SHAPES = [(1, 1, 1), (3, 5, 7), (2, 8, 8), (5, 9, 31), (2, 64, 65)]


def spec(bits_stored, *, signed, allocated=16, high_bit=None):
    return FrameSpec("", 0, 0, allocated, bits_stored, bits_stored - 1 if high_bit is None else high_bit, signed)


def words(shape, dtype, seed=0):
    info = np.iinfo(dtype)
    found = np.random.default_rng(seed).integers(info.min, info.max, shape, dtype, endpoint=True)
    found.flat[0], found.flat[-1] = info.min, info.max
    return found


def uniform(n, slope=1.0, intercept=0.0):
    return np.full(n, slope), np.full(n, intercept)


def test_takes_the_stored_bits_out_of_dirty_words_by_hand():
    # 12 bits up to bit 13: 0b01_1000_0000_0001_11 is 0x800 + 1 stored, i.e. -2047 when signed
    stored = np.array([[[0xE007, 0x1FFC, 0x0003]]], np.uint16)
    expected = {True: [-2047, 2047, 0], False: [2049, 2047, 0]}
    for signed, values in expected.items():
        for backend in (CPU, REFERENCE):
            found = to_modality(
                stored.copy(), spec(12, signed=signed, high_bit=13), *uniform(1, 1.0, 0.0), backend=backend
            )
            assert found.dtype == np.int16
            assert found.ravel().tolist() == values


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("dtype", "layout"),
    [
        (np.uint16, spec(12, signed=False)),
        (np.uint16, spec(12, signed=True)),
        (np.uint16, spec(10, signed=True, high_bit=15)),
        (np.uint16, spec(16, signed=False)),
        (np.int16, spec(16, signed=True)),
        (np.int16, spec(1, signed=False)),
        (np.uint8, spec(8, signed=False, allocated=8)),
        (np.int8, spec(7, signed=True, allocated=8)),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else f"{value.bits_stored}{'su'[not value.is_signed]}",
)
@pytest.mark.parametrize("factors", [(1.0, -1024.0), (3.0, 70000.0), (0.0123, -7.25), (2.0, 0.5), (-1.0, 2.0**40)])
def test_kernel_equals_reference(shape, dtype, layout, factors):
    rng = np.random.default_rng(7)
    slopes, intercepts = uniform(shape[0], *factors)
    slopes = slopes * rng.integers(1, 4, shape[0])
    stored = words(shape, dtype)
    expected = to_modality(stored.copy(), layout, slopes, intercepts, backend=REFERENCE)
    found = to_modality(stored, layout, slopes, intercepts, backend=CPU)
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("backend", [CPU, REFERENCE])
def test_slices_have_slopes_of_their_own(backend):
    stored = np.array([[[7]], [[7]], [[-7]]], np.int16)
    found = to_modality(stored, spec(16, signed=True), np.array([1.0, 2, 1]), np.zeros(3), backend=backend)
    assert found.ravel().tolist() == [7, 14, -7]


@pytest.mark.parametrize(
    ("values", "factors", "dtype"),
    [
        ([0, 4095], (1, -1024), np.int16),
        ([0, 65535], (1, -32768), np.int16),
        ([0, 65535], (1, -32767), np.int32),
        ([0, 65535], (1, -32769), np.int32),
        ([0, 65535], (1, 0), np.int32),
        ([0, 32767], (1, 0), np.int16),
        ([0, 40000], (60000, 0), np.float32),
        ([0, 10], (0.5, 0), np.float32),
        ([0, 10], (1, 2.0**31), np.float32),
    ],
)
def test_the_type_is_the_smallest_that_is_exact(values, factors, dtype):
    for backend in (CPU, REFERENCE):
        found = to_modality(
            np.array(values, np.uint16).reshape(1, 1, -1),
            spec(16, signed=False),
            *uniform(1, *factors),
            backend=backend,
        )
        assert found.dtype == dtype
        np.testing.assert_allclose(found.ravel(), np.array(values) * factors[0] + factors[1], rtol=1e-7)


def test_memory_is_reused_when_words_are_as_wide():
    stored = words((2, 3, 4), np.uint16)
    found = to_modality(stored, spec(12, signed=False), *uniform(2), backend=CPU)
    assert np.shares_memory(found, stored)
    clean = words((2, 3, 4), np.int16)
    assert np.shares_memory(to_modality(clean, spec(16, signed=True), *uniform(2), backend=CPU), clean)


def test_equals_pydicom_on_real_data(data_dir):
    import pydicom
    from pydicom.pixels.processing import apply_rescale

    checked = 0
    for path in {path.parent: path for path in sorted(data_dir.rglob("*.dcm"))}.values():  # one a folder
        header = pydicom.dcmread(path, stop_before_pixels=True, force=True)
        if header.get("Modality") != "CT" or "RescaleSlope" not in header or header.get("NumberOfFrames", 1) != 1:
            continue
        if header.file_meta.TransferSyntaxUID.is_compressed or header.BitsAllocated != 16:
            continue
        data = pydicom.dcmread(path)
        raw = np.frombuffer(data.PixelData, np.uint16)[: data.Rows * data.Columns].reshape(1, data.Rows, data.Columns)
        layout = spec(data.BitsStored, signed=bool(data.PixelRepresentation), high_bit=data.HighBit)
        factors = uniform(1, float(data.RescaleSlope), float(data.RescaleIntercept))
        found = to_modality(raw.copy(), layout, *factors, backend=CPU)
        oracle = apply_rescale(data.pixel_array, data)  # float64
        np.testing.assert_array_equal(found[0], oracle.astype(np.float32) if found.dtype == np.float32 else oracle)
        checked += 1
        if checked == 10:
            return
    if not checked:
        pytest.skip("no native CT in the test data")


@pytest.mark.parametrize(
    ("stored", "layout", "factors", "code"),
    [
        (np.zeros((1, 2, 2), np.uint32), spec(12, signed=False), uniform(1), "unsupported-pixels"),
        (np.zeros((1, 2, 2), np.float32), spec(12, signed=False), uniform(1), "unsupported-pixels"),
        (np.zeros((2, 2), np.uint16), spec(12, signed=False), uniform(1), "unsupported-pixels"),
        (np.zeros((1, 2, 2), np.uint8), spec(12, signed=False), uniform(1), "bad-bit-layout"),
        (np.zeros((1, 2, 2), np.uint16), spec(12, signed=False, high_bit=10), uniform(1), "bad-bit-layout"),
        (np.zeros((1, 2, 2), np.uint16), spec(0, signed=False), uniform(1), "bad-bit-layout"),
        (np.zeros((1, 2, 2), np.uint16), spec(12, signed=False), uniform(2), "bad-rescale"),
        (np.zeros((1, 2, 2), np.uint16), spec(12, signed=False), uniform(1, np.nan), "bad-rescale"),
        (np.zeros((1, 2, 2), np.uint16), spec(12, signed=False), uniform(1, 0.0), "bad-rescale"),
    ],
)
def test_refuses_what_it_cannot_decode(stored, layout, factors, code):
    with pytest.raises(DecodeError) as error:
        to_modality(stored, layout, *factors, backend=CPU)
    assert error.value.code == code


def image(shape, dtype):
    rng = np.random.default_rng(3)
    if dtype == np.float32:
        found = rng.normal(0, 500, shape).astype(dtype)
        found.flat[::11] = np.nan
        found.flat[1::13] = np.inf
        found.flat[2::13] = -np.inf
    else:
        found = rng.integers(-2000, 2000, shape).astype(dtype)
        found.flat[0], found.flat[-1] = np.iinfo(dtype).min, np.iinfo(dtype).max
    return found


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.float32])
@pytest.mark.parametrize("window", [Window(40, 400), Window(40.5, 400), Window(1e6, 10), Window(0, 1e9)])
def test_clamp_equals_reference(shape, dtype, window):
    array = image(shape, dtype)
    before = array.copy()
    found = apply_window_array(array, window, CPU)
    expected = apply_window_array(array, window, REFERENCE)
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(array, before)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.float32])
@pytest.mark.parametrize(
    "window",
    [Window(40, 400, (0, 1)), Window(-600.25, 1500.5, (-1, 1)), Window(0, 1e-3, (5, 6)), Window(1e4, 1, (0, 1))],
)
def test_rescaled_window_equals_reference(shape, dtype, window):
    array = image(shape, dtype)
    found = apply_window_array(array, window, CPU)
    expected = apply_window_array(array, window, REFERENCE)
    assert found.dtype == expected.dtype == np.float32
    np.testing.assert_array_equal(np.isnan(found), np.isnan(array))
    largest = max(map(abs, window.rescale))
    np.testing.assert_allclose(found, expected, rtol=0, atol=WINDOW_TOLERANCE * largest)
    numbers = found[~np.isnan(found)]
    assert ((numbers >= window.rescale[0]) & (numbers <= window.rescale[1])).all()


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.float32])
def test_uint8_window_equals_reference(dtype):
    array = image((5, 9, 31), dtype)
    window = Window(40, 400, (0, 255), "uint8")
    found = apply_window_array(array, window, CPU).astype(int)
    expected = apply_window_array(array, window, REFERENCE).astype(int)
    exact = (np.nan_to_num(array.astype(np.float64), nan=-1e9).clip(-160, 240) + 160) * 255 / 400
    on_edge = np.abs(exact % 1 - 0.5) < 1e-4  # float32 and float64 may round a tie apart
    np.testing.assert_array_equal(found[~on_edge], expected[~on_edge])
    assert np.abs(found - expected).max() <= 1


def test_window_equals_simpleitk():
    sitk = pytest.importorskip("SimpleITK")
    array = image((4, 9, 31), np.int16)
    window = Window(40, 400, (0, 1))
    real = sitk.GetImageFromArray(array.astype(np.float32))
    oracle = sitk.IntensityWindowing(real, window.low, window.high, 0.0, 1.0)
    found = apply_window_array(array, window, CPU)
    np.testing.assert_allclose(found, sitk.GetArrayFromImage(oracle), rtol=0, atol=WINDOW_TOLERANCE)
    clamped = sitk.Clamp(sitk.GetImageFromArray(array), lowerBound=window.low, upperBound=window.high)
    np.testing.assert_array_equal(apply_window_array(array, Window(40, 400), CPU), sitk.GetArrayFromImage(clamped))


def test_window_records_a_step():
    volume = Volume(image((3, 5, 7), np.int16), VolumeGeometry((3, 5, 7), np.eye(4)), "CT")
    done = apply_window(volume, Window(40, 400), CPU)
    assert done.array.min() == -160
    assert done.array.max() == 240
    assert done.geometry is volume.geometry
    assert [(step.name, step.parameters["low"]) for step in done.steps] == [("window", -160.0)]


def test_arrays_that_kernels_cannot_take_are_copied():
    memory = np.arange(1001, dtype=np.int16)
    for array in (memory[1:], memory[::2], memory[::-1]):
        found = apply_window_array(array, Window(500, 100), CPU)
        np.testing.assert_array_equal(found, np.clip(array, 450, 550))


@pytest.mark.parametrize(
    "arguments",
    [(40, 0), (40, -1), (np.nan, 1), (0, np.inf), (0, 1, (1, 0)), (0, 1, (0, 256), "uint8"), (0, 1, None, "uint8")],
)
def test_refuses_bad_windows(arguments):
    with pytest.raises(ConfigError) as error:
        Window(*arguments)
    assert error.value.code == "bad-window"
