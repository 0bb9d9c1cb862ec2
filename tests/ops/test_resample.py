"""Resampling against SimpleITK, scipy and hand-made answers; kernels, row forms and reference against each other."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage

from gpuprep.backends.cpu import CpuBackend
from gpuprep.backends.reference import ReferenceBackend
from gpuprep.errors import ConfigError, GeometryError
from gpuprep.geometry import VolumeGeometry
from gpuprep.ops.axis_tables import axis_table
from gpuprep.ops.resample import (
    REFERENCE_TOLERANCE,
    regularize,
    resample_labels,
    resample_to_grid,
    resample_volume,
)
from gpuprep.volume import Volume

CPU = CpuBackend()
KERNEL_TEXT = CpuBackend(row_forms=False)
REFERENCE = ReferenceBackend()

#: Largest difference to SimpleITK and scipy, as a part of the intensity range.
ORACLE_TOLERANCE = 1e-3
#: A stored integer is at most this far from the oracle's real number: half a grey level and rounding in float32.
ROUNDING_TOLERANCE = 0.51
DTYPES = (np.uint8, np.int16, np.uint16, np.int32, np.float32)

AXIAL = [[0, 0, 1], [0, 1, 0], [1, 0, 0]]


def grid(shape, spacing=(1.0, 1.0, 1.0), origin=(0.0, 0.0, 0.0), directions=AXIAL, frame=""):
    return VolumeGeometry.from_axes(
        shape, origin_lps_mm=origin, directions_dhw=directions, spacing_dhw_mm=spacing, frame_of_reference_uid=frame
    )


def rotation(degrees_xyz):
    x, y, z = np.radians(degrees_xyz)
    about_x = [[1, 0, 0], [0, math.cos(x), -math.sin(x)], [0, math.sin(x), math.cos(x)]]
    about_y = [[math.cos(y), 0, math.sin(y)], [0, 1, 0], [-math.sin(y), 0, math.cos(y)]]
    about_z = [[math.cos(z), -math.sin(z), 0], [math.sin(z), math.cos(z), 0], [0, 0, 1]]
    return np.array(about_z) @ about_y @ about_x


def noise(shape, dtype, seed=0):
    rng = np.random.default_rng(seed)
    if np.dtype(dtype).kind == "f":
        return rng.normal(100, 500, shape).astype(dtype)
    limits = np.iinfo(dtype)
    return rng.integers(limits.min, limits.max, shape, dtype, endpoint=True)


def resampled(array, source, target, *, interpolation="linear", antialias=False, fill=0.0, backend=CPU):
    volume = Volume(array, source)
    return resample_volume(
        volume, target, interpolation=interpolation, antialias=antialias, fill=fill, backend=backend
    ).array


def itk(array, source, target, interpolator=sitk.sitkLinear, fill=0.0, pixel=sitk.sitkFloat32):
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(source.spacing_dhw_mm[::-1].tolist())
    image.SetOrigin(source.origin_lps_mm.tolist())
    image.SetDirection(source.directions_dhw[::-1].T.ravel().tolist())
    return sitk.GetArrayFromImage(
        sitk.Resample(
            image,
            target.shape[::-1],
            sitk.Transform(),
            interpolator,
            target.origin_lps_mm.tolist(),
            target.spacing_dhw_mm[::-1].tolist(),
            target.directions_dhw[::-1].T.ravel().tolist(),
            fill,
            pixel,
        )
    )


def assert_close(found, wanted, scale, dtype):
    """Equal within REFERENCE_TOLERANCE of `scale`; integers may also round the other way."""
    allowed = REFERENCE_TOLERANCE * scale
    if np.dtype(dtype).kind != "f":
        allowed = max(1, math.ceil(allowed))
    assert np.abs(found.astype(np.float64) - wanted.astype(np.float64)).max(initial=0) <= allowed


# name: source shape, source spacing, target shape, target spacing, target origin (x, y, z)
GRIDS = {
    "up": ((5, 17, 23), (3.0, 0.7, 0.7), (15, 12, 17), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0)),
    "down": ((21, 37, 41), (1.0, 0.5, 0.5), (7, 9, 11), (2.7, 1.9, 1.7), (0.3, 0.2, 0.1)),
    "crop and shift": ((9, 33, 70), (1.0, 1.0, 1.0), (5, 20, 67), (1.0, 1.0, 1.0), (1.25, 7.5, 2.0)),
    "beyond": ((6, 7, 8), (2.0, 1.0, 1.0), (9, 9, 90), (2.1, 1.3, 0.3), (-3.31, -2.41, -3.12)),
    "one voxel axes": ((1, 1, 1), (5.0, 1.0, 1.0), (5, 3, 3), (1.0, 0.25, 0.25), (-0.25, -0.25, -2.0)),
    "one row": ((3, 1, 300), (1.0, 1.0, 1.0), (3, 1, 131), (1.0, 1.0, 2.2), (0.4, 0.0, 0.0)),
}


@pytest.fixture(params=GRIDS)
def grids(request):
    source_shape, source_spacing, target_shape, target_spacing, origin = GRIDS[request.param]
    return grid(source_shape, source_spacing, (0.0, 0.0, 0.0)), grid(target_shape, target_spacing, origin)


# The oracles


def test_linear_equals_simpleitk(grids):
    source, target = grids
    array = noise(source.shape, np.int16).astype(np.float32)
    wanted = itk(array, source, target, fill=-7.0)
    for backend in (CPU, REFERENCE):
        found = resampled(array, source, target, fill=-7.0, backend=backend)
        assert np.abs(found - wanted).max() <= ORACLE_TOLERANCE * np.ptp(array)


def test_integers_are_simpleitk_rounded_to_nearest(grids):
    source, target = grids
    array = noise(source.shape, np.int16)
    wanted = itk(array, source, target, fill=-7.0, pixel=sitk.sitkFloat64)
    found = resampled(array, source, target, fill=-7.0).astype(np.float64)
    assert np.abs(found - wanted).max() <= ROUNDING_TOLERANCE


LABEL_PIXELS = {np.uint8: sitk.sitkUInt8, np.uint16: sitk.sitkUInt16, np.uint32: sitk.sitkUInt32}


@pytest.mark.parametrize("dtype", LABEL_PIXELS)
def test_labels_equal_simpleitk(grids, dtype):
    source, target = grids
    labels = noise(source.shape, dtype)
    wanted = itk(labels, source, target, sitk.sitkNearestNeighbor, pixel=LABEL_PIXELS[dtype])
    for backend in (CPU, KERNEL_TEXT, REFERENCE):
        np.testing.assert_array_equal(resample_labels(labels, source, target, backend=backend), wanted)


def test_nearest_equals_simpleitk(grids):
    source, target = grids
    labels = noise(source.shape, np.uint8)
    wanted = itk(labels, source, target, sitk.sitkNearestNeighbor, pixel=sitk.sitkUInt8)
    np.testing.assert_array_equal(resampled(labels, source, target, interpolation="nearest"), wanted)


@pytest.mark.parametrize("angles", [(0, 0, 30), (5, -8, 12), (90, 0, 0), (0, 0, 180)])
def test_any_orientation_equals_simpleitk(angles):
    turned = (rotation(angles) @ np.array(AXIAL, float).T).T
    source = grid((14, 19, 23), (2.0, 0.9, 1.1), (-10.0, 4.0, 30.0), AXIAL)
    middle = source.to_lps((np.array(source.shape) - 1) / 2)
    shape, spacing = (11, 25, 21), np.array([1.7, 1.3, 0.8])
    origin = middle - (np.array(shape) - 1) / 2 * spacing @ turned + 0.0123
    target = grid(shape, spacing, origin, turned)
    array = noise(source.shape, np.float32)
    wanted = itk(array, source, target, fill=3.0)
    labels = noise(source.shape, np.uint16)
    wanted_labels = itk(labels, source, target, sitk.sitkNearestNeighbor, pixel=sitk.sitkUInt16)
    for backend in (CPU, REFERENCE):
        volume = resample_to_grid(Volume(array, source), target, interpolation="linear", fill=3.0, backend=backend)
        assert np.abs(volume.array - wanted).max() <= ORACLE_TOLERANCE * np.ptp(array)
        np.testing.assert_array_equal(resample_labels(labels, source, target, backend=backend), wanted_labels)


def test_linear_equals_scipy():
    source, target = grid((9, 14, 15), (2.0, 0.8, 0.9)), grid((11, 9, 10), (1.4, 1.1, 1.2), (0.5, 0.6, 0.7))
    array = noise(source.shape, np.float32)
    index = source.to_index(target.to_lps(np.moveaxis(np.indices(target.shape), 0, -1)))
    wanted = ndimage.map_coordinates(array.astype(np.float64), np.moveaxis(index, -1, 0), order=1, mode="nearest")
    inside = ((index >= -0.5) & (index < np.array(source.shape) - 0.5)).all(axis=-1)
    found = resampled(array, source, target)
    assert inside.mean() > 0.5
    assert np.abs(found - wanted)[inside].max() <= ORACLE_TOLERANCE * np.ptp(array)


def test_keys_cubic_reproduces_a_parabola_and_its_known_weights():
    # Keys with a = -1/2 is exact for polynomials of degree 2; at 1/2 its weights are (-1, 9, 9, -1) / 16.
    table = axis_table(np.array([10.5, 10.25]), 30, "cubic")
    np.testing.assert_array_equal(table.index, [[9, 10, 11, 12]] * 2)
    np.testing.assert_allclose(table.weight[0], np.array([-1, 9, 9, -1]) / 16, atol=1e-15)
    np.testing.assert_allclose(table.weight[1], np.array([-9, 111, 29, -3]) / 128, atol=1e-15)
    source, target = grid((1, 1, 40)), grid((1, 1, 80), (1.0, 1.0, 0.37), (5.1, 0.0, 0.0))
    x = np.arange(40.0)
    parabola = (0.25 * x * x - 3 * x + 7).astype(np.float32)[None, None]
    at = 5.1 + 0.37 * np.arange(80)
    exact = 0.25 * at * at - 3 * at + 7
    np.testing.assert_allclose(resampled(parabola, source, target, interpolation="cubic")[0, 0], exact, rtol=1e-5)


def test_lanczos_weights_are_the_windowed_sinc():
    def lanczos(x):
        return math.sin(math.pi * x) * math.sin(math.pi * x / 3) * 3 / (math.pi * x) ** 2

    table = axis_table(np.array([20.3]), 40, "lanczos")
    raw = np.array([lanczos(i - 20.3) for i in range(18, 24)])
    np.testing.assert_array_equal(table.index[0], np.arange(18, 24))
    np.testing.assert_allclose(table.weight[0], raw / raw.sum(), atol=1e-14)


@pytest.mark.parametrize(
    ("interpolation", "resample"), [("linear", "BILINEAR"), ("cubic", "BICUBIC"), ("lanczos", "LANCZOS")]
)
def test_antialias_equals_pillow_away_from_the_edges(interpolation, resample):
    image_module = pytest.importorskip("PIL.Image")
    array = noise((1, 96, 120), np.float32)
    # Pillow maps edges to edges: 96 x 120 onto 32 x 50 has steps of 3 rows and 2.4 columns, first centres at 1 and 0.7.
    source, target = grid(array.shape), grid((1, 32, 50), (1.0, 3.0, 2.4), (0.7, 1.0, 0.0))
    found = resampled(array, source, target, interpolation=interpolation, antialias=True)[0]
    wanted = np.asarray(image_module.fromarray(array[0]).resize((50, 32), getattr(image_module.Resampling, resample)))
    inner = np.s_[4:-4, 4:-4]
    assert np.abs(found - wanted)[inner].max() <= ORACLE_TOLERANCE * np.ptp(array)


def test_antialias_averages_what_plain_linear_skips():
    source, target = grid((1, 1, 64)), grid((1, 1, 16), (1.0, 1.0, 4.0), (0.0, 0.0, 0.0))
    stripes = np.where(np.arange(64) % 4 == 0, 100.0, 0.0).astype(np.float32)[None, None]
    assert resampled(stripes, source, target)[0, 0, 8] == 100
    assert resampled(stripes, source, target, antialias=True)[0, 0, 8] == pytest.approx(25, abs=1e-4)


# Kernels, row forms and reference


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("interpolation", "antialias"),
    [*itertools.product(["linear", "cubic", "lanczos"], [False, True]), ("nearest", False)],
)
def test_kernel_row_form_and_reference_agree(grids, dtype, interpolation, antialias):
    source, target = grids
    array = noise(source.shape, dtype)
    options = {"interpolation": interpolation, "antialias": antialias, "fill": 5.0}
    rows = resampled(array, source, target, **options)
    text = resampled(array, source, target, **options, backend=KERNEL_TEXT)
    assert rows.dtype == dtype
    assert rows.tobytes() == text.tobytes()
    reference = resampled(array, source, target, **options, backend=REFERENCE)
    assert_close(rows, reference, np.abs(array.astype(np.float64)).max(), dtype)


@pytest.mark.parametrize("workers", [1, 3, 7])
def test_threads_do_not_change_the_result(workers):
    source, target = grid((40, 50, 60), (2.0, 1.0, 1.0)), grid((85, 41, 44), (0.9, 1.3, 1.4))
    array = noise(source.shape, np.int16)
    wanted = resampled(array, source, target, interpolation="cubic", backend=KERNEL_TEXT)
    found = resampled(array, source, target, interpolation="cubic", backend=CpuBackend(workers))
    assert found.tobytes() == wanted.tobytes()


def test_antiparallel_axes_and_wide_gathers():
    flipped = [[0, 0, -1], [0, 1, 0], [-1, 0, 0]]
    source, target = grid((12, 10, 400)), grid((9, 7, 90), (1.3, 1.2, 4.4), (397.0, 0.3, 10.7), flipped)
    array = noise(source.shape, np.int16)
    options = {"interpolation": "linear", "fill": -3.0}
    rows = resampled(array, source, target, **options)
    assert rows.tobytes() == resampled(array, source, target, **options, backend=KERNEL_TEXT).tobytes()
    wanted = itk(array, source, target, fill=-3.0, pixel=sitk.sitkFloat64)
    assert np.abs(rows - wanted).max() <= ROUNDING_TOLERANCE


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("interpolation", ["linear", "nearest"])
def test_affine_kernel_and_reference_agree(dtype, interpolation):
    source = grid((7, 9, 11), (1.5, 1.0, 0.8))
    target = grid(
        (8, 10, 12), (1.1, 0.9, 1.2), (-1.03, -0.51, -0.77), (rotation((3, 7, -4)) @ np.array(AXIAL, float).T).T
    )
    volume = Volume(noise(source.shape, dtype), source)
    found = resample_to_grid(volume, target, interpolation=interpolation, fill=9, backend=CPU).array
    wanted = resample_to_grid(volume, target, interpolation=interpolation, fill=9, backend=REFERENCE).array
    assert (wanted == 9).any() and (wanted != 9).mean() > 0.4
    assert_close(found, wanted, np.abs(volume.array.astype(np.float64)).max(), dtype)


# Values


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("interpolation", ["linear", "cubic", "lanczos", "nearest"])
def test_identity_and_crop_keep_every_byte(dtype, interpolation):
    source = grid((5, 13, 17), (2.5, 0.7, 0.7), (-312.3, 17.7, 401.9))
    array = noise(source.shape, dtype)
    if array.dtype.kind == "f":
        array[2, 3, 4:8] = np.nan, -0.0, np.inf, -np.inf
    for backend in (CPU, REFERENCE):
        options = {"interpolation": interpolation, "backend": backend}
        assert resampled(array, source, source, **options).tobytes() == array.tobytes()
        cropped = resampled(array, source, source.crop((1, 2, 3), (3, 9, 11)), **options)
        assert cropped.tobytes() == array[1:4, 2:11, 3:14].tobytes()


@pytest.mark.parametrize("backend", [CPU, KERNEL_TEXT, REFERENCE])
def test_int16_saturates(backend):
    step = np.repeat(np.array([-32768, 32767], np.int16), 10)[None, None]
    source, target = grid(step.shape), grid((1, 1, 70), (1.0, 1.0, 0.28))
    found = resampled(step, source, target, interpolation="lanczos", backend=backend)[0, 0]
    assert found.min() == -32768 and found.max() == 32767
    at = 0.28 * np.arange(70)
    assert (found[at < 6] < -30000).all() and (found[(at > 13) & (at < 19.5)] > 30000).all()


@pytest.mark.parametrize("backend", [CPU, KERNEL_TEXT, REFERENCE])
def test_nan_reaches_only_what_depends_on_it(backend):
    array = np.ones((5, 6, 40), np.float32)
    array[2, 3, 20] = np.nan
    source = grid(array.shape)
    found = resampled(array, source, grid((5, 6, 79), (1.0, 1.0, 0.5)), backend=backend)
    np.testing.assert_array_equal(np.argwhere(np.isnan(found)), [[2, 3, 39], [2, 3, 40], [2, 3, 41]])
    tilted = grid(array.shape, origin=(0.5, 0.0, 0.0), directions=rotation((0, 0, 2)) @ np.array(AXIAL, float))
    turned = resample_to_grid(Volume(array, source), tilted, interpolation="linear", fill=0.0, backend=backend)
    assert 0 < np.isnan(turned.array).sum() <= 8


def test_ties_go_to_the_larger_index():
    labels = np.arange(6, dtype=np.uint8)[None, None]
    target = grid((1, 1, 12), (1.0, 1.0, 0.5), (-0.5, 0.0, 0.0))
    for backend in (CPU, REFERENCE):
        found = resample_labels(labels, grid(labels.shape), target, backend=backend)
        np.testing.assert_array_equal(found[0, 0], [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5])


def test_half_a_voxel_beyond_the_centres_is_inside():
    array = np.full((1, 1, 4), 7, np.int16)
    target = grid((1, 1, 11), (1.0, 1.0, 0.5), (-1.0, 0.0, 0.0))
    found = resampled(array, grid(array.shape), target, fill=-1.0)[0, 0]
    np.testing.assert_array_equal(found, [-1, 7, 7, 7, 7, 7, 7, 7, 7, -1, -1])


def test_nothing_in_common_is_all_fill():
    far = grid((2, 2, 2), origin=(500.0, 0.0, 0.0))
    assert (resampled(np.ones((3, 3, 3), np.int16), grid((3, 3, 3)), far, fill=-9.0) == -9).all()


def test_the_step_maps_a_voxel_back():
    source = grid((6, 7, 8), (3.0, 0.7, 0.7), (5.0, 6.0, 7.0))
    target = source.with_spacing((1.0, 1.0, 1.0))
    volume = resample_volume(
        Volume(noise(source.shape, np.int16), source),
        target,
        interpolation="linear",
        antialias=False,
        fill=0,
        backend=CPU,
    )
    (step,) = volume.steps
    to_source = np.array(step.parameters["index_to_source"])
    np.testing.assert_allclose(to_source @ (3, 4, 5, 1), [1.0, 4 / 0.7, 5 / 0.7, 1.0], atol=1e-12)
    assert volume.geometry is target and step.name == "resample"


def test_indices_beyond_two_to_the_31():
    # 2.2e9 voxels of which only the pages that are touched exist
    source = grid((3, 27_000, 27_000))
    labels = np.empty(source.shape, np.uint8)
    labels[2, 26_990:, 26_990:] = np.arange(100, dtype=np.uint8).reshape(10, 10)
    corner = source.crop((2, 26_990, 26_990), (1, 10, 10))
    for backend in (CPU, KERNEL_TEXT):
        np.testing.assert_array_equal(
            resample_labels(labels, source, corner, backend=backend)[0], labels[2, 26_990:, 26_990:]
        )
        half = source.crop((2, 26_990, 26_990), (1, 10, 9))
        shifted = grid(half.shape, origin=half.to_lps((0, 0, 0.5)))
        found = resampled(labels, source, shifted, backend=backend)
        np.testing.assert_array_equal(found[0], np.rint(np.arange(100).reshape(10, 10)[:, :9] + 0.5))
        tilted = grid(
            (1, 1, 9), origin=half.to_lps((0, 0, 0)), directions=rotation((0, 0, 0.1)) @ np.array(AXIAL, float)
        )
        np.testing.assert_array_equal(resample_labels(labels, source, tilted, backend=backend)[0, 0], np.arange(9))


# Planes that lie where they please


def linear_field(points_lps_mm):
    return points_lps_mm @ np.array([0.31, -0.17, 0.23]) + 11.0


@pytest.mark.parametrize("backend", [CPU, REFERENCE])
@pytest.mark.parametrize("directions", [AXIAL, (rotation((10, 20, 30)) @ np.array(AXIAL, float)).tolist()])
def test_regularize_undoes_tilt_gaps_and_uneven_steps(backend, directions):
    geometry = grid((26, 24, 20), (2.0, 0.9, 1.1), (-40.0, 12.0, 100.0), directions)
    rng = np.random.default_rng(4)
    # first pixels in voxels of the grid: uneven slices with a gap, sheared by 15 degrees along the rows, any order
    slices = np.array([0.0, 1.1, 2.0, 3.0, 6.0, 7.2, 8.0, 9.0, 12.0, 14.0, 15.5, 17.0, 19.0, 21.0, 23.0, 25.0])
    shear = 2.0 * math.tan(math.radians(15)) / 0.9
    index = np.stack([slices, -slices * shear, -slices * 0.05], axis=1)[rng.permutation(len(slices))]
    rows, columns = np.meshgrid(np.arange(36.0), np.arange(22.0), indexing="ij")
    pixels = index[:, None, None] + np.stack([np.zeros_like(rows), rows, columns], axis=-1)
    planes = linear_field(geometry.to_lps(pixels)).astype(np.float32)
    found = regularize(planes, geometry.to_lps(index), geometry, interpolation="linear", fill=-1e6, backend=backend)
    wanted = linear_field(geometry.to_lps(np.moveaxis(np.indices(geometry.shape), 0, -1)))
    last_row = 35 - 25 * shear  # of the grid, that all planes reach
    assert 20 < last_row < 21
    assert np.abs(found - wanted)[:, :21].max() < 2e-4
    assert (found[25, 22:] == -1e6).all() and (found[0] > -1e5).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("interpolation", ["linear", "nearest"])
def test_regularize_kernel_and_reference_agree(dtype, interpolation):
    geometry = grid((9, 12, 14), (1.5, 1.0, 1.0))
    index = np.array([[0.2, 0.3, -0.4], [2.0, 1.7, 0.0], [1.1, -2.2, 3.0], [5.3, 0.0, 0.0], [7.1, 20.0, 0.0]])
    planes = noise((5, 11, 15), dtype)
    offsets = geometry.to_lps(index)
    found, wanted = (
        regularize(planes, offsets, geometry, interpolation=interpolation, fill=3, backend=backend)
        for backend in (CPU, REFERENCE)
    )
    assert (found[8] == 3).all()
    assert_close(found, wanted, np.abs(planes.astype(np.float64)).max(), dtype)


def test_regularize_of_regular_planes_is_the_identity():
    geometry = grid((6, 7, 8), (2.5, 0.7, 0.7), (-100.0, 50.0, 3.0), rotation((10, 20, 30)) @ np.array(AXIAL, float))
    planes = noise(geometry.shape, np.int16)
    offsets = geometry.to_lps([[d, 0, 0] for d in range(6)])
    order = [3, 1, 5, 0, 2, 4]
    for interpolation in ("linear", "nearest"):
        found = regularize(planes[order], offsets[order], geometry, interpolation=interpolation, fill=0, backend=CPU)
        np.testing.assert_array_equal(found, planes)


# Refusals


def refused(error, code):
    return pytest.raises(error, match=rf"\[{code}\]")


def test_turned_axes_are_refused():
    target = grid((3, 3, 3), directions=rotation((0, 0, 1)) @ np.array(AXIAL, float))
    with refused(GeometryError, "axes-not-parallel"):
        resampled(np.zeros((3, 3, 3), np.int16), grid((3, 3, 3)), target)


def test_another_frame_of_reference_is_refused():
    array, source, target = (
        np.zeros((2, 2, 2), np.uint8),
        grid((2, 2, 2), frame="1.2.3"),
        grid((2, 2, 2), frame="1.2.4"),
    )
    with refused(GeometryError, "frame-of-reference-mismatch"):
        resample_to_grid(Volume(array, source), target, interpolation="linear", fill=0, backend=CPU)
    with refused(GeometryError, "frame-of-reference-mismatch"):
        resample_labels(array, source, target, backend=CPU)
    resample_labels(array, source, grid((2, 2, 2)), backend=CPU)


def test_unknown_interpolations_are_refused():
    array, geometry = np.zeros((2, 2, 2), np.int16), grid((2, 2, 2))
    with refused(ConfigError, "unknown-interpolation"):
        resampled(array, geometry, geometry, interpolation="bspline")
    with refused(ConfigError, "unknown-interpolation"):
        resample_to_grid(Volume(array, geometry), geometry, interpolation="cubic", fill=0, backend=CPU)


def test_antialias_of_nearest_is_refused():
    geometry = grid((2, 2, 2))
    with refused(ConfigError, "antialias-nearest"):
        resampled(np.zeros((2, 2, 2), np.int16), geometry, geometry, interpolation="nearest", antialias=True)


@pytest.mark.parametrize("fill", [-32769.0, 0.5, 1e9, float("nan"), float("inf")])
def test_a_fill_value_that_does_not_fit_is_refused(fill):
    geometry = grid((2, 2, 2))
    with refused(ConfigError, "bad-fill"):
        resampled(np.zeros((2, 2, 2), np.int16), geometry, geometry, fill=fill)


def test_unsupported_dtypes_are_refused():
    geometry = grid((2, 2, 2))
    for dtype in (np.float64, np.dtype(">i2")):
        with refused(ConfigError, "unsupported-dtype"):
            resampled(np.zeros((2, 2, 2), dtype), geometry, geometry)
    with refused(ConfigError, "unsupported-dtype"):
        resample_labels(np.zeros((2, 2, 2), np.int16), geometry, geometry, backend=CPU)


def test_labels_on_another_grid_than_they_say_are_refused():
    with refused(GeometryError, "shape-mismatch"):
        resample_labels(np.zeros((2, 2, 3), np.uint8), grid((2, 2, 2)), grid((2, 2, 2)), backend=CPU)


def test_bad_planes_are_refused():
    planes, geometry = np.zeros((2, 2, 2), np.int16), grid((2, 2, 2))
    options = {"interpolation": "linear", "fill": 0, "backend": CPU}
    with refused(GeometryError, "shape-mismatch"):
        regularize(planes, np.zeros((3, 3)), geometry, **options)
    with refused(GeometryError, "duplicate-position"):
        regularize(planes, np.zeros((2, 3)), geometry, **options)
    sheared = geometry.index_to_lps.copy()
    sheared[0, 0] = 0.3
    with refused(GeometryError, "not-orthogonal"):
        regularize(planes, [[0, 0, 0], [0, 0, 1]], VolumeGeometry((2, 2, 2), sheared), **options)
