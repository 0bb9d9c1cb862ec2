"""Grey levels: kernel = reference; pydicom's LUT functions and published values as oracles."""

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.pixels import apply_modality_lut, apply_voi_lut

from gpuprep.backends.cpu import CpuBackend
from gpuprep.backends.reference import ReferenceBackend
from gpuprep.dicom.display import Lut
from gpuprep.errors import DecodeError
from gpuprep.ops.grey import GreyRule, GreyWindow, look_up, to_grey, to_values

CPU, KERNEL_TEXT, REFERENCE = CpuBackend(2), CpuBackend(2, row_forms=False), ReferenceBackend()
STORED = [(np.uint8, 8), (np.int8, 8), (np.uint16, 12), (np.int16, 12), (np.uint16, 16), (np.int16, 16), (np.uint8, 1),
          (np.uint16, 8), (np.int16, 7)]  # fmt: skip
#: pydicom rounds where we truncate.
ORACLE_LEVELS = 1


def every_value(dtype, bits):
    least = -(1 << bits - 1) if np.dtype(dtype).kind == "i" else 0
    return np.arange(least, least + (1 << bits)).astype(dtype).reshape(1, 1, -1)


@pytest.mark.parametrize(("dtype", "bits"), STORED)
@pytest.mark.parametrize("make", [to_grey, to_values])
@pytest.mark.parametrize("slope", [1.0, 0.37])
@pytest.mark.parametrize("backend", [CPU, KERNEL_TEXT], ids=["rows", "kernels"])
def test_kernel_equals_reference(dtype, bits, make, slope, backend):
    rng = np.random.default_rng(6)
    stored = rng.choice(every_value(dtype, bits).ravel(), (3, 211, 331))  # more than a thread takes, slices in between
    rules = [
        GreyRule(slope, -3.0, voi=GreyWindow(20, 100)),
        GreyRule(slope, 5.0, is_inverted=True, padding=(0, 1)),
        GreyRule(slope, -3.0, voi=GreyWindow(20, 100)),
    ]
    found, plain = (make(stored.copy(), rules, bits, backend=each) for each in (backend, REFERENCE))
    assert found.planes.dtype == plain.planes.dtype
    assert (found.background, found.white, found.window) == (plain.background, plain.white, plain.window)
    np.testing.assert_array_equal(found.planes, plain.planes)


def lut_dataset(bits, **elements):
    ds = Dataset()
    ds.PixelRepresentation = int(elements.pop("signed", 0))
    ds.BitsStored, ds.BitsAllocated = bits, 16
    ds.PhotometricInterpretation = "MONOCHROME2"
    for name, value in elements.items():
        setattr(ds, name, value)
    return ds


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize(("centre", "width"), [(40, 400), (40.5, 401), (-600, 1601), (0, 1), (300, 3.5)])
def test_windows_equal_pydicom(function, centre, width):
    stored = every_value(np.uint16, 12)
    ds = lut_dataset(12, RescaleSlope=1, RescaleIntercept=-1024, WindowCenter=centre, WindowWidth=width)
    ds.VOILUTFunction = function
    values = apply_modality_lut(stored, ds)
    with np.errstate(over="ignore"):
        oracle = apply_voi_lut(values, ds)  # over the range of the modality values
    low, high = -1024.0, 3071.0
    oracle = (oracle - low) / (high - low) * 65535
    found = to_grey(stored, [GreyRule(1, -1024, voi=GreyWindow(centre, width, function))], 12, backend=CPU).planes
    assert np.abs(found.astype(float) - oracle).max() <= ORACLE_LEVELS


def test_voi_sequence_equals_pydicom():
    stored = every_value(np.uint16, 12)
    data = [int(v) for v in np.linspace(0, 1023, 200) ** 0.9]
    item = Dataset()
    item.LUTDescriptor, item.LUTData = [200, 100, 10], data
    oracle = apply_voi_lut(stored, lut_dataset(12, VOILUTSequence=[item]))
    found = to_grey(stored, [GreyRule(voi=Lut(100, tuple(data), 10))], 12, backend=CPU).planes
    assert np.abs(found - oracle / 1023 * 65535).max() <= ORACLE_LEVELS


def test_modality_sequence_equals_pydicom():
    stored = every_value(np.int16, 12)
    data = [int(v) for v in np.arange(4096)[::-1]]
    item = Dataset()
    item.LUTDescriptor, item.LUTData, item.ModalityLUTType = [4096, -2048, 16], data, "US"
    oracle = apply_modality_lut(stored, lut_dataset(12, ModalityLUTSequence=[item], signed=True))
    found = to_values(stored, [GreyRule(modality_lut=Lut(-2048, tuple(data), 12))], 12, backend=CPU).planes
    assert found.dtype == np.int16
    np.testing.assert_array_equal(found, oracle)


PUBLISHED = [
    (np.uint16, 12, -1024, 50, 300, {824: 0, 925: 219, 974: 10959, 1074: 32877, 1173: 54575, 1174: 54795, 1224: 65535}),
    (np.int16, 16, 0, 600, 1600, {-200: 0, -199: 40, 0: 8196, 600: 32787, 1399: 65535}),
    (np.uint8, 8, 0, 127, 254, {1: 1, 127: 128, 253: 255}),
    (np.uint16, 10, 0, 512, 1024, {1: 64, 512: 32799, 1022: 65470}),
]


@pytest.mark.parametrize("function", ["LINEAR", "LOWEST_IS_BLACK"])
@pytest.mark.parametrize(("dtype", "bits", "intercept", "centre", "width", "levels"), PUBLISHED)
def test_published_windows(dtype, bits, intercept, centre, width, levels, function):
    stored = np.array([[list(levels)]], dtype)
    rule = GreyRule(1, intercept, voi=GreyWindow(centre, width, function))
    assert to_grey(stored, [rule], bits, backend=CPU).planes.ravel().tolist() == list(levels.values())


def test_a_table_with_more_bits_than_it_says_is_cut_off():
    stored = np.array([[[0, 1, 2]]], np.uint8)
    grey = to_grey(stored, [GreyRule(voi=Lut(0, (100, 255, 1000), 8))], 8, backend=CPU)
    assert grey.planes.ravel().tolist() == [100, 255, 255]


@pytest.mark.parametrize(("slope", "intercept"), [(0.01, 0.0), (0.5, -3.5), (1.0, 0.5)])
def test_fractional_values_fill_the_range_evenly(slope, intercept):
    stored = np.array([[[0, 1, 2, 3, 4]]], np.uint16)
    grey = to_grey(stored, [GreyRule(slope, intercept)], 16, backend=CPU).planes.ravel().tolist()
    assert np.abs(np.array(grey) - np.linspace(0, 65535, 5)).max() <= 1
    assert grey[-1] == 65535


@pytest.mark.parametrize(("dtype", "slope"), [(np.uint16, 1.0), (np.uint16, 0.37), (np.float32, 1.0)])
@pytest.mark.parametrize("value", [0, 7])
def test_an_image_of_one_value_is_black(dtype, slope, value):
    grey = to_grey(np.full((2, 3, 3), value, dtype), [GreyRule(slope)] * 2, 16, backend=CPU)
    assert not grey.planes.any()


def test_published_window_of_width_one():
    stored = np.array([[[0, 1]]], np.uint16)
    compat, standard = (
        to_grey(stored, [GreyRule(voi=GreyWindow(0, 1, f))], 16, backend=CPU).planes.ravel().tolist()
        for f in ("LOWEST_IS_BLACK", "LINEAR")
    )
    assert compat == [0, 65535]
    assert standard == [65535, 65535]  # PS3.3 C.11.2.1.2.1: white above centre - 0.5


def test_one_range_for_all_frames_without_padding():
    stored = np.array([[[-2000, -100, 0]], [[100, 400, -2000]]], np.int16)
    rule = GreyRule(2.0, 0.0, padding=(-2000, -2000))
    grey = to_grey(stored, [rule, rule], 16, backend=CPU)
    assert grey.window == GreyWindow(300.0, 1001.0, "LOWEST_IS_BLACK")
    assert grey.planes.ravel().tolist() == [0, 0, 13139, 26246, 65535, 0]


def test_known_ends_are_not_looked_for():
    stored = np.array([[[10, 20]], [[20, 30]]], np.uint16)
    ends = np.array([[5, 20], [20, 40]])
    grey = to_grey(stored.copy(), [GreyRule(2.0)] * 2, 16, ends=ends, backend=CPU)
    assert grey.window == GreyWindow(45.0, 71.0, "LOWEST_IS_BLACK")
    values = to_values(stored, [GreyRule(2.0)] * 2, 12, ends=ends, backend=CPU)
    assert (values.background, values.white) == (10, 80)


def test_known_ends_may_be_padding():
    stored = np.array([[[0, 10, 4095]]], np.uint16)
    values = to_values(stored, [GreyRule(padding=(0, 0))], 12, ends=np.array([[0, 4095]]), backend=CPU)
    assert (values.background, values.white) == (10, 4095)


def test_monochrome1_is_inverted_and_padding_stays_black():
    stored = np.array([[[0, 10, 255]]], np.uint8)
    rule = GreyRule(is_inverted=True, padding=(0, 0))
    assert to_grey(stored, [rule], 8, backend=CPU).planes.ravel().tolist() == [0, 255, 0]


def test_modality_values_keep_their_sign_and_width():
    stored = np.array([[[0, 5, 4095]]], np.uint16)
    found = to_values(stored.copy(), [GreyRule(1, -1024, padding=(0, 0))], 12, backend=CPU)
    assert (found.planes.dtype, found.planes.ravel().tolist()) == (np.int16, [-1019, -1019, 3071])
    assert found.background == -1019
    wide = to_values(stored, [GreyRule(0.5)], 12, backend=CPU).planes
    assert (wide.dtype, wide.ravel().tolist()) == (np.float32, [0, 2.5, 2047.5])


def test_black_is_the_greatest_modality_value_of_monochrome1():
    stored = np.array([[[0, 5, 4095]]], np.uint16)
    found = to_values(stored, [GreyRule(1, -1024, is_inverted=True, padding=(0, 0))], 12, backend=CPU)
    assert found.planes.ravel().tolist() == [3071, -1019, 3071]  # padding is black
    assert (found.background, found.white) == (3071, -1019)


@pytest.mark.parametrize(("dtype", "middle"), [(np.float32, 32767), (np.uint32, 49151)])  # window 1 to 3, or 0.5 to 3
def test_wide_pixels_take_the_whole_range(dtype, middle):
    stored = np.array([[[1, 2, 3]]], dtype)
    grey = to_grey(stored, [GreyRule()], 32, backend=CPU).planes.ravel().tolist()
    assert grey == [0, middle, 65535]


@pytest.mark.parametrize("backend", [CPU, REFERENCE])
def test_infinite_pixels_lie_beyond_all_others(backend):
    stored = np.array([[[np.nan, np.inf, -np.inf, -1, 3]]], np.float32)
    rule = GreyRule(2.0, 1.0)
    assert to_grey(stored, [rule], 32, backend=backend).planes.ravel().tolist() == [16383, 65535, 0, 0, 65535]
    assert to_values(stored, [rule], 32, backend=backend).planes.ravel().tolist() == [1, np.inf, -np.inf, -1, 7]


def test_float_pixels_without_numbers_are_refused():
    with pytest.raises(DecodeError) as caught:
        to_grey(np.full((1, 2, 2), np.nan, np.float32), [GreyRule()], 32, backend=CPU)
    assert caught.value.code == "not-finite"


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("colour", [np.uint8, np.uint16])
def test_palette_lookup(dtype, colour):
    table = np.random.default_rng(0).integers(0, 255, 256).astype(colour)
    stored = np.random.default_rng(1).integers(0, 256, (2, 9, 31)).astype(dtype)
    np.testing.assert_array_equal(look_up(stored, table, backend=CPU), table[stored])
