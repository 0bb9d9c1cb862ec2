"""Rasterised contours: against other tools' masks of real studies, scikit-image, analytic shapes and the reference."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuprep.backends import select
from gpuprep.backends.cpu import CpuBackend
from gpuprep.dicom.rtstruct import Contour, RoiContours, read_structure_set
from gpuprep.errors import GeometryError
from gpuprep.geometry import VolumeGeometry
from gpuprep.masks import Roi, from_planes
from gpuprep.ops import rasterize as module
from gpuprep.ops.rasterize import SliceGrid, rasterize

CPU, REFERENCE = select("cpu", workers=2), select("reference")
#: Runs the kernels' own text where the host has a row form.
KERNEL_TEXT = CpuBackend(row_forms=False)
AXIAL = np.array([[0.0, 0, 1], [0, 1, 0], [1, 0, 0]])
SHAPE = (5, 40, 50)


def grid_of(shape=SHAPE, *, spacing=(2.5, 0.8, 0.7), directions=AXIAL, origin=(-31.3, 12.7, 101.0)):
    return VolumeGeometry.from_axes(shape, origin_lps_mm=origin, directions_dhw=directions, spacing_dhw_mm=spacing)


def contour(geometry, d, yx, kind="CLOSED_PLANAR"):
    """A contour from (row, column) index coordinates in slice d."""
    yx = np.asarray(yx, float)
    return Contour(kind, geometry.to_lps(np.column_stack([np.full(len(yx), d), yx])))


def roi(number, *contours):
    return RoiContours(Roi(number, f"roi {number}"), tuple(contours))


def box(y0, x0, y1, x1):
    return [(y0, x0), (y0, x1), (y1, x1), (y1, x0)]


def circle(y, x, radius, vertices=180, phase=0.1):
    angle = phase + 2 * np.pi * np.arange(vertices) / vertices
    return np.column_stack([y + radius * np.sin(angle), x + radius * np.cos(angle)])


def draw(rois, geometry, backend=CPU, overlap="xor", **more):
    grid = geometry if isinstance(geometry, SliceGrid) else SliceGrid(geometry)
    return rasterize(rois, grid, overlap=overlap, backend=backend, **more)


def drawn(rois, geometry, **more):
    """The only ROI's mask, after both backends agreed and found no problem."""
    result, plain = draw(rois, geometry, **more), draw(rois, geometry, REFERENCE, **more)
    check_equal(result.mask, plain.mask)
    check_equal(draw(rois, geometry, KERNEL_TEXT, **more).mask, plain.mask)
    assert result.problems == plain.problems == ()
    return result.mask.binary(0)


def check_equal(mask, other):
    assert mask.codes.dtype == other.codes.dtype
    assert np.array_equal(mask.codes, other.codes)
    assert np.array_equal(mask.table, other.table)


def codes_of(result):
    return [p.code for p in result.problems]


# Real studies, masks of other tools


def acquired_planes(folder):
    """Grid and plane positions of a series, sorted by position along the normal, by pydicom alone."""
    import pydicom

    headers = [pydicom.dcmread(path, stop_before_pixels=True) for path in folder.glob("*.dcm")]
    right, down = np.array(headers[0].ImageOrientationPatient, float).reshape(2, 3)
    offsets = np.array([h.ImagePositionPatient for h in headers], float)
    offsets = offsets[np.argsort(offsets @ np.cross(right, down))]
    normal = np.cross(right, down)
    row_mm, column_mm = map(float, headers[0].PixelSpacing)
    geometry = VolumeGeometry.from_axes(
        (len(headers), headers[0].Rows, headers[0].Columns),
        origin_lps_mm=offsets[0],
        directions_dhw=[normal, down, right],
        spacing_dhw_mm=((offsets[-1] - offsets[0]) @ normal / (len(offsets) - 1), row_mm, column_mm),
    )
    return geometry, offsets


def read_reference(path):
    sitk = pytest.importorskip("SimpleITK")
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path))).astype(bool)


@pytest.mark.parametrize("overlap", ["xor", "union"])
@pytest.mark.parametrize("backend", [CPU, REFERENCE], ids=lambda b: b.name)
@pytest.mark.parametrize("study", ["002", "025"])
@pytest.mark.parametrize("modality", ["CT", "MR_T1", "PET"])
def test_equals_every_tool_on_soft_tissue_sarcomas(data_dir, study, modality, backend, overlap):
    folder = data_dir / "ct-rtstruct" / f"ibsi_sts_{study}"
    series = folder / "dicom" / f"STS_{study}" / modality
    geometry, _ = acquired_planes(series / "image")
    structures = read_structure_set(str(next((series / "mask").glob("*.dcm"))))
    result = draw(structures.rois, geometry, backend, overlap)
    assert result.problems == ()
    for i, item in enumerate(structures.rois):
        for tool in ("exact-pixel-centre", "plastimatch", "dcmrtstruct2nii"):
            reference = read_reference(folder / "reference-masks" / modality / tool / f"{item.roi.name}.nii.gz")
            assert np.array_equal(result.mask.binary(i), reference), (item.roi.name, tool)


@pytest.fixture(scope="module")
def chest(data_dir):
    """Folder, planes, structures: 104 ROIs drawn every 0.842 mm on slices every 0.8 mm but for a gap of 1.6 mm."""
    folder = data_dir / "ct-rtstruct" / "totalsegmentator_aide"
    geometry, offsets = acquired_planes(folder / "dcm")
    structures = read_structure_set(str(next((folder / "rtstruct").iterdir())))
    return folder / "reference-masks", geometry, offsets, structures


def on_planes(geometry, offsets):
    """A grid whose slices are nearest to the planes one by one: each plane's mask can be had by itself."""
    return [
        VolumeGeometry.from_axes(
            (1, *geometry.shape[1:]),
            origin_lps_mm=offset,
            directions_dhw=geometry.directions_dhw,
            spacing_dhw_mm=geometry.spacing_dhw_mm,
        )
        for offset in offsets
    ]


def test_equals_exact_masks_of_104_rois_over_a_missing_slice(chest):
    folder, geometry, offsets, structures = chest
    grid = SliceGrid(geometry, offsets)
    results = [draw(structures.rois, grid, target=plane) for plane in on_planes(geometry, offsets)]
    assert [len(r.mask.rois) for r in results] == [104] * 20
    agreement = json.loads((folder / "agreement.json").read_text())
    off = {p.roi.name: len(p.contours) for p in results[0].problems}
    assert off == agreement["errors"]["contours_off_any_slice"]
    assert set(codes_of(results[0])) == {"contour-off-slices"}
    compared = 0
    for i, item in enumerate(structures.rois):
        found = np.concatenate([r.mask.binary(i) for r in results])
        path = folder / "exact-pixel-centre" / f"{item.roi.name}.nii.gz"
        if path.exists():
            assert np.array_equal(found, read_reference(path)), item.roi.name
            compared += 1
        else:
            assert not item.contours and not found.any()
    assert compared == 34


@pytest.mark.parametrize("overlap", ["xor", "union"])
def test_104_rois_equal_the_reference_backend(chest, overlap):
    _, geometry, offsets, structures = chest
    target = geometry.crop((8, 100, 60), (2, 310, 390))
    grid = SliceGrid(geometry, offsets)
    check_equal(*(draw(structures.rois, grid, b, overlap, target=target).mask for b in (CPU, REFERENCE)))


# Other oracles


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_equals_scikit_image_on_generic_vertices(seed):
    polygon = pytest.importorskip("skimage.draw").polygon
    rng = np.random.default_rng(seed)
    yx = rng.uniform((-10, -10), (50, 60), (rng.integers(3, 60), 2))  # crosses itself, leaves the image
    expected = np.zeros(SHAPE[1:], bool)
    expected[polygon(*np.round(yx * 65536).T / 65536, SHAPE[1:])] = True
    geometry = grid_of()
    found = drawn([roi(1, contour(geometry, 2, yx))], geometry)
    assert np.array_equal(found[2], expected)
    assert not np.delete(found, 2, axis=0).any()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), overlap=st.sampled_from(["xor", "union"]))
def test_backends_agree_on_anything(seed, overlap):
    rng = np.random.default_rng(seed)
    geometry = grid_of((4, int(rng.integers(1, 70)), int(rng.integers(1, 150))))
    scale = rng.choice([4, 1])  # vertices on pixel centres and quarters of them: ties everywhere
    rois = [
        roi(r, *(
            contour(geometry, rng.integers(0, 4), rng.integers(-20, 160, (rng.integers(3, 9), 2)) / scale)
            for _ in range(rng.integers(0, 5))
        ))
        for r in range(rng.integers(1, 70))
    ]  # fmt: skip
    result, plain = (draw(rois, geometry, b, overlap) for b in (CPU, REFERENCE))
    check_equal(result.mask, plain.mask)
    expected = np.zeros((len(rois), *geometry.shape), bool)
    for r, item in enumerate(rois):
        for one in item.contours:
            alone = draw([roi(1, one)], geometry).mask.binary(0).astype(bool)
            expected[r] = expected[r] ^ alone if overlap == "xor" else expected[r] | alone
    assert np.array_equal(np.stack([result.mask.binary(r) for r in range(len(rois))]), expected)


def test_squares_are_exact():
    geometry = grid_of()
    between = drawn([roi(1, contour(geometry, 1, box(9.5, 19.5, 20.5, 30.5)))], geometry)
    assert between.sum() == 11 * 11
    assert between[1, 10:21, 20:31].all()
    on_centres = drawn([roi(1, contour(geometry, 1, box(10, 20, 20, 30)))], geometry)
    assert on_centres.sum() == 10 * 10  # one of two opposite edges belongs to the square


@pytest.mark.parametrize("radius", [2, 3, 5, 10, 20, 40])
def test_circles_have_no_area_bias(radius):
    geometry = grid_of((1, 100, 100), spacing=(1, 1, 1))
    phases = 50 + (np.arange(14) + 0.5) / 14
    rois = [roi(1, contour(geometry, 0, circle(y, x, radius))) for y in phases for x in phases]
    areas = [draw([item], geometry).mask.voxel_counts[0] for item in rois]
    assert abs(np.mean(areas) / (np.pi * radius**2) - 1) < 0.015


def test_a_ring_keeps_its_hole_and_a_union_fills_it():
    geometry = grid_of((1, 60, 60))
    outer, inner = circle(30, 30, 12.2), circle(30, 30, 6.2)
    y, x = np.mgrid[:60, :60]
    distance = np.hypot(y - 30, x - 30)
    rings = roi(1, contour(geometry, 0, outer), contour(geometry, 0, inner))
    assert np.array_equal(drawn([rings], geometry)[0], (distance < 12.2) & (distance > 6.2))
    assert np.array_equal(drawn([rings], geometry, overlap="union")[0], distance < 12.2)
    kind = "CLOSEDPLANAR_XOR"
    xored = roi(1, contour(geometry, 0, outer, kind), contour(geometry, 0, inner, kind))
    assert np.array_equal(drawn([xored], geometry, overlap="union")[0], (distance < 12.2) & (distance > 6.2))


def test_a_keyhole_keeps_its_hole():
    geometry = grid_of((1, 60, 60))
    outer, inner = circle(30, 30, 12.2, phase=0), circle(30, 30, 6.2, phase=0)
    keyhole = np.concatenate([outer, outer[:1], inner[:1], inner[::-1]])
    two = drawn([roi(1, contour(geometry, 0, outer), contour(geometry, 0, inner))], geometry)
    assert np.array_equal(drawn([roi(1, contour(geometry, 0, keyhole))], geometry), two)


def test_rois_that_share_a_border_have_neither_gap_nor_overlap():
    geometry = grid_of((1, 80, 80))
    rng = np.random.default_rng(3)
    for border in (rng.uniform(10, 70, (30, 2)), rng.integers(10, 70, (30, 2)).astype(float)):
        border = border[np.argsort(border[:, 0])]
        left = np.concatenate([[[5, 5]], border, [[75, 5]]])
        right = np.concatenate([[[5, 75]], border, [[75, 75]]])
        top, bottom = [[5, 5], border[0], [5, 75]], [[75, 5], border[-1], [75, 75]]
        shapes = [left, right, top, bottom]
        mask = draw([roi(i, contour(geometry, 0, s)) for i, s in enumerate(shapes)], geometry).mask
        assert mask.overlaps() == []
        whole = drawn([roi(1, contour(geometry, 0, box(5, 5, 75, 75)))], geometry)
        assert np.array_equal(mask.codes > 0, whole)


def test_the_order_of_vertices_does_not_matter():
    geometry = grid_of()
    yx = np.random.default_rng(4).uniform((0, 0), (40, 50), (25, 2))
    expected = drawn([roi(1, contour(geometry, 2, yx))], geometry)
    for same in (yx[::-1], np.roll(yx, 7, axis=0), np.concatenate([yx, yx[:1]]), np.repeat(yx, 2, axis=0)):
        assert np.array_equal(drawn([roi(1, contour(geometry, 2, same))], geometry), expected)


# Geometry


def rotation(rng):
    q, r = np.linalg.qr(rng.normal(size=(3, 3)))
    q *= np.sign(np.diag(r))
    return q if np.linalg.det(q) > 0 else -q


@pytest.mark.parametrize(
    "directions",
    [
        AXIAL,
        AXIAL * [[-1], [1], [1]],  # slices sorted downwards
        np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]]),  # sagittal
        np.array([[0.0, 1, 0], [0, 0, -1], [1, 0, 0]]),  # coronal
        *(rotation(np.random.default_rng(seed)) for seed in range(3)),
    ],
)
def test_any_orientation(directions):
    yx = circle(20.2, 25.3, 11.7, 37)
    plain = grid_of()
    expected = drawn([roi(1, contour(plain, 1, yx), contour(plain, 4, yx + 3.3))], plain)
    turned = grid_of(directions=directions)
    assert np.array_equal(drawn([roi(1, contour(turned, 1, yx), contour(turned, 4, yx + 3.3))], turned), expected)


def test_contours_between_slices_go_to_the_nearest():
    geometry = grid_of()
    square = box(9.5, 9.5, 20.5, 20.5)
    for d, plane in ((1.2, 1), (1.49, 1), (1.51, 2), (-0.49, 0), (4.49, 4)):
        found = drawn([roi(1, contour(geometry, d, square))], geometry)
        assert np.flatnonzero(found.any(axis=(1, 2))).tolist() == [plane]


@pytest.mark.parametrize("backend", [CPU, REFERENCE], ids=lambda b: b.name)
@pytest.mark.parametrize("times", [2, 3])
def test_a_contour_that_is_there_again_is_drawn_once(times, backend):
    geometry = grid_of()
    ring = [contour(geometry, 2, circle(20, 25, 12)), contour(geometry, 2, circle(20, 25, 6))]
    result = draw([roi(1, *ring * times), roi(2, ring[0])], geometry, backend)
    expected = draw([roi(1, *ring), roi(2, ring[0])], geometry, backend)
    assert expected.problems == ()
    check_equal(result.mask, expected.mask)
    assert [(p.code, p.contours) for p in result.problems] == [("contour-repeated", tuple(range(2, 2 * times)))]


@pytest.mark.parametrize(
    "again",
    [
        lambda vertices: np.roll(vertices, 7, axis=0),
        lambda vertices: vertices[::-1],
        lambda vertices: np.concatenate([vertices, vertices[:1]]),
        lambda vertices: np.concatenate([vertices[5:], vertices[:6]])[::-1],
    ],
)
def test_a_polygon_that_is_there_again_in_other_words_is_drawn_once(again):
    geometry = grid_of()
    vertices = circle(20, 25, 12, vertices=24)
    result = draw([roi(1, contour(geometry, 2, vertices), contour(geometry, 2, again(vertices)))], geometry)
    check_equal(result.mask, draw([roi(1, contour(geometry, 2, vertices))], geometry).mask)
    assert [(p.code, p.contours) for p in result.problems] == [("contour-repeated", (1,))]


def test_contours_of_equal_extent_are_not_repeated():
    geometry = grid_of()
    diamond = [(10, 20), (20, 30), (30, 20), (20, 10)]
    found = drawn([roi(1, contour(geometry, 2, box(10, 10, 30, 30)), contour(geometry, 2, diamond))], geometry)
    assert found[2, 12, 12] and not found[2, 20, 20]


@pytest.mark.parametrize("backend", [CPU, REFERENCE], ids=lambda b: b.name)
@pytest.mark.parametrize("overlap", ["xor", "union"])
@pytest.mark.parametrize(
    ("heights", "nearest"),
    [
        ((1.6, 2, 2.4), [1]),
        ((1.8, 2.3), [0]),
        ((2.25, 1.75), [1]),  # equally near: the lower one
        ((2, 2.08), [0, 1]),  # 0.2 mm apart: one plane
        ((2.4, 2.42, 2.2, 3.1), [2, 3]),
    ],
)
def test_contours_finer_than_the_slices_do_not_cancel(heights, nearest, overlap, backend):
    geometry = grid_of()
    contours = [contour(geometry, d, circle(20, 25, 5 + i)) for i, d in enumerate(heights)]
    result = draw([roi(1), roi(2, *contours)], geometry, backend, overlap)
    expected = draw([roi(1), roi(2, *(contours[i] for i in nearest))], geometry, backend, overlap)
    assert expected.problems == () and expected.mask.voxel_counts[1] > 0
    check_equal(result.mask, expected.mask)
    left_out = sorted(set(range(len(heights))) - set(nearest))
    assert codes_of(result) == ["contour-superseded"] * bool(left_out)
    assert [i for p in result.problems for i in p.contours] == left_out


@pytest.mark.parametrize(("d", "mm"), [(-0.6, "1.500"), (4.8, "2.000"), (40, "90.000")])
def test_contours_off_all_slices_are_reported(d, mm):
    geometry = grid_of()
    result = draw([roi(7, contour(geometry, d, box(5, 5, 9, 9)))], geometry)
    assert codes_of(result) == ["contour-off-slices"]
    assert f"ROI 7 'roi 7': contour 1 is {mm} mm away" in str(result.problems[0])


def test_a_contour_of_a_missing_slice_does_not_spoil_its_neighbour():
    geometry = grid_of((6, 40, 50))
    offsets = np.delete(geometry.to_lps([[d, 0, 0] for d in range(6)]), 2, axis=0)
    contours = [contour(geometry, d, circle(20, 25, 10 + d)) for d in range(6)]
    result = draw([roi(1, *contours)], SliceGrid(geometry, offsets))
    assert codes_of(result) == ["contour-off-slices"] and result.problems[0].contours == (2,)
    whole = drawn([roi(1, *contours)], geometry)
    found = result.mask.binary(0)
    assert np.array_equal(np.delete(found, 2, axis=0), np.delete(whole, 2, axis=0))
    assert np.array_equal(found[2], whole[1])


def test_gantry_tilt_moves_planes_not_contours():
    upright = grid_of()
    _, down, _ = upright.directions_dhw
    offsets = upright.to_lps([[d, 0, 0] for d in range(5)]) + np.outer(np.arange(5) * 1.3, down)
    item = roi(1, *(contour(upright, d, circle(20, 25, 10)) for d in range(5)))
    assert np.array_equal(drawn([item], SliceGrid(upright, offsets)), drawn([item], upright))
    sheared = upright.index_to_lps.copy()
    sheared[:3, 0] += 1.3 * down
    found = drawn([item], VolumeGeometry(SHAPE, sheared))
    for d in range(5):
        expected = drawn([roi(1, contour(upright, d, circle(20 - 1.3 * d / 0.8, 25, 10)))], upright)[d]
        assert np.array_equal(found[d], expected)


def test_contours_are_drawn_on_the_output_grid():
    geometry = grid_of((6, 40, 50), spacing=(3.0, 1.0, 1.0))
    radii = [8, 9, 10, 11, 12, 13]
    item = roi(1, *(contour(geometry, d, circle(20, 25, r)) for d, r in enumerate(radii)))
    target = geometry.with_spacing((1.0, 0.25, 0.25))
    target = target.crop((0, 0, 0), (18, *target.shape[1:]))
    found = drawn([item], geometry, target=target)
    lps = target.to_lps(np.moveaxis(np.indices(target.shape), 0, -1))
    d, y, x = np.moveaxis(geometry.to_index(lps), -1, 0)
    nearest = np.clip(np.ceil(d - 0.5), 0, 5).astype(int)
    fine = np.hypot(y - 20, x - 25) < np.array(radii)[nearest]
    assert (found != fine)[: 3 * 5 + 2].mean() < 1e-3  # a polygon is not quite a circle
    assert found[16].any() and not found[17].any()  # slice 17 is 2 mm beyond the last plane, over half of 3 mm
    coarse = geometry.crop((1, 7, 9), (4, 30, 31)).with_spacing((6.0, 1.5, 1.5))
    assert np.flatnonzero(drawn([item], geometry, target=coarse).any(axis=(1, 2))).tolist() == [0, 1]


def test_a_flipped_output_is_the_flipped_mask():
    geometry = grid_of()
    item = roi(1, *(contour(geometry, d, circle(15, 20, 5 + 2 * d)) for d in range(4)))
    target = geometry.reoriented((0, 1, 2), (True, False, True))
    assert np.array_equal(drawn([item], geometry, target=target), drawn([item], geometry)[::-1, :, ::-1])


def test_a_crop_cuts_and_reports_nothing():
    geometry = grid_of()
    item = roi(1, *(contour(geometry, d, circle(15, 20, 12)) for d in range(5)))
    whole = drawn([item], geometry)
    for start, shape in (((1, 10, 12), (3, 9, 20)), ((2, 30, 40), (1, 10, 10)), ((0, -4, -5), (5, 50, 60))):
        found = drawn([item], geometry, target=geometry.crop(start, shape))
        padded = np.pad(whole, 10)[tuple(slice(s + 10, s + 10 + n) for s, n in zip(start, shape, strict=True))]
        assert np.array_equal(found, padded)


def test_slabs_do_not_show(monkeypatch):
    geometry = grid_of((9, 40, 50))
    rng = np.random.default_rng(5)
    rois = [
        roi(r, *(contour(geometry, d, circle(*rng.uniform(10, 30, 2), 9)) for d in range(9))) for r in range(40)
    ]  # fmt: skip
    whole = draw(rois, geometry).mask
    monkeypatch.setitem(module.SLAB_BYTES, "cpu", 1)
    check_equal(draw(rois, geometry).mask, whole)


def test_more_combinations_in_a_slab_than_a_byte_tells_apart():
    geometry = grid_of((1, 200, 200))
    bars = [box(10 * i - 3.3, -1, 10 * i + 3.3, 201) for i in range(1, 19)]
    rois = [roi(i, contour(geometry, 0, b)) for i, b in enumerate(bars)]
    rois += [roi(20 + i, contour(geometry, 0, np.array(b)[:, ::-1])) for i, b in enumerate(bars)]
    result, plain = (draw(rois, geometry, b).mask for b in (CPU, REFERENCE))
    assert len(result.table) > 256
    check_equal(result, plain)


@pytest.mark.parametrize("count", [1, 31, 32, 33, 64, 65, 148, 300])
def test_any_number_of_rois(count):
    geometry = grid_of((2, 64, 64))
    rng = np.random.default_rng(count)
    rois = [
        roi(i, *(contour(geometry, d, circle(*rng.uniform(0, 64, 2), rng.uniform(1, 9), 20)) for d in range(2)))
        for i in range(count)
    ]
    mask = draw(rois, geometry).mask
    check_equal(mask, from_planes(mask.to_planes(), mask.rois, geometry))
    for i in {0, count // 2, count - 1}:
        assert np.array_equal(mask.binary(i), drawn([rois[i]], geometry))


def test_no_rois_and_empty_rois_keep_their_place():
    geometry = grid_of()
    assert not draw([], geometry).mask.codes.any()
    mask = draw([roi(1), roi(2, contour(geometry, 0, box(5, 5, 9, 9))), roi(3)], geometry).mask
    assert mask.voxel_counts.tolist() == [0, 16, 0]
    assert [r.number for r in mask.rois] == [1, 2, 3]


# Refusals


def bad_contours(geometry):
    square = np.array(box(5, 5, 9, 9), float)
    slanted = contour(geometry, 1, square)
    slanted.points_lps_mm[0, 2] += 0.6
    broken = contour(geometry, 1, square)
    broken.points_lps_mm[2, 1] = np.nan
    endless = contour(geometry, 1, square)
    endless.points_lps_mm[2] = 1e308
    return {
        "point-contour": [contour(geometry, 1, square[:1], "POINT")],
        "open-contour": [contour(geometry, 1, square, kind) for kind in ("OPEN_PLANAR", "OPEN_NONPLANAR")],
        "contour-type-unknown": [contour(geometry, 1, square, "CLOSED"), contour(geometry, 1, square, "")],
        "degenerate-contour": [contour(geometry, 1, square[:n]) for n in range(3)],
        "contour-not-planar": [slanted],
        "contour-not-finite": [broken],
        "contour-off-slices": [contour(geometry, -3, square)],
        "contour-out-of-range": [contour(geometry, 1, box(5, 5, 9, 17000))],
        "contour-not-planar ": [endless],
    }


@pytest.mark.parametrize("backend", [CPU, REFERENCE], ids=lambda b: b.name)
@pytest.mark.parametrize("code", bad_contours(grid_of()))
def test_a_bad_contour_costs_only_itself(code, backend):
    geometry = grid_of()
    good = [contour(geometry, d, circle(20, 25, 9)) for d in (1, 2)]
    bad = bad_contours(geometry)[code]
    result = draw([roi(3, good[0], *bad, good[1]), roi(4, good[0])], geometry, backend)
    assert codes_of(result) == [code.strip()]
    (problem,) = result.problems
    assert problem.contours == tuple(range(1, 1 + len(bad)))
    assert str(problem).startswith("ROI 3 'roi 3': contour 2 ")
    expected = draw([roi(3, *good), roi(4, good[0])], geometry, backend)
    assert expected.problems == ()
    check_equal(result.mask, expected.mask)


def test_all_bad_contours_at_once():
    geometry = grid_of()
    bad = bad_contours(geometry)
    result = draw([roi(1, *itertools.chain(*bad.values()))], geometry)
    assert set(codes_of(result)) == {code.strip() for code in bad}
    assert not result.mask.codes.any() and len(result.mask.rois) == 1


def test_vertices_far_outside_are_exact_up_to_the_limit():
    geometry = grid_of()
    far = [(-16000, -16000), (16000, 25.25), (-16000, 16000)]
    found = drawn([roi(1, contour(geometry, 0, far))], geometry)
    y, x = np.mgrid[:40, :50]
    right_of = (x + 16000) * 32000 > (y + 16000) * 16025.25
    left_of = (16000 - x) * 32000 > (y + 16000) * (16000 - 25.25)
    assert np.array_equal(found[0], right_of & left_of)


def test_planes_that_do_not_ascend_are_refused():
    geometry = grid_of()
    offsets = geometry.to_lps([[d, 0, 0] for d in (0, 1, 1, 3, 4)])
    with pytest.raises(GeometryError) as caught:
        SliceGrid(geometry, offsets)
    assert caught.value.code == "planes-not-sorted"


@pytest.mark.parametrize("degrees", [90, 1])
def test_an_output_with_other_slice_planes_is_refused(degrees):
    geometry, angle = grid_of(), math.radians(degrees)
    turn = np.eye(4)
    turn[1:3, 1:3] = [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
    with pytest.raises(GeometryError) as caught:
        draw([], geometry, target=replace(geometry, index_to_lps=turn @ geometry.index_to_lps))
    assert caught.value.code == "target-not-parallel"


def test_a_sheared_output_finer_than_the_planes_is_refused():
    geometry = grid_of()
    sheared = geometry.index_to_lps.copy()
    sheared[:3, 0] = sheared[:3, 0] / 2 + (0, 0.5, 0)
    with pytest.raises(GeometryError) as caught:
        draw([], geometry, target=VolumeGeometry(SHAPE, sheared))
    assert caught.value.code == "target-sheared"
