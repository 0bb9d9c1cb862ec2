import nibabel
import numpy as np
import pytest
import SimpleITK
from nibabel.orientations import aff2axcodes

from gpuprep.errors import GeometryError
from gpuprep.geometry import VolumeGeometry, median

#: float64 arithmetic on coordinates of some hundred mm.
EXACT_MM = 1e-9


def rotated(seed: int) -> VolumeGeometry:
    """Return a grid turned at random; slices of odd seeds follow each other in the other sense."""
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    q[0] *= (-1) ** seed * np.linalg.det(q)
    return VolumeGeometry.from_axes((4, 6, 8), origin_lps_mm=(1, -2, 3), directions_dhw=q, spacing_dhw_mm=(3, 0.5, 2))


def as_sitk(geometry: VolumeGeometry) -> SimpleITK.Image:
    image = SimpleITK.Image([int(n) for n in geometry.shape[::-1]], SimpleITK.sitkUInt8)
    image.SetOrigin(geometry.origin_lps_mm.tolist())
    image.SetSpacing(geometry.spacing_dhw_mm[::-1].tolist())
    image.SetDirection(geometry.directions_dhw[::-1].T.ravel().tolist())
    return image


@pytest.mark.parametrize("seed", range(5))
def test_points_go_where_itk_sends_them_and_back(seed):
    geometry, image = rotated(seed), as_sitk(rotated(seed))
    index = np.array([[0, 0, 0], [3, 5, 7], [1, 2, 3]])
    points = [image.TransformIndexToPhysicalPoint([int(v) for v in i[::-1]]) for i in index]
    assert np.allclose(geometry.to_lps(index), points, atol=EXACT_MM)
    assert np.allclose(geometry.to_index(points), index, atol=EXACT_MM)


@pytest.mark.parametrize("seed", range(5))
def test_orientation_is_nibabels(seed):
    geometry = rotated(seed)
    ras = np.diag([-1, -1, 1, 1]) @ geometry.index_to_lps[:, [2, 1, 0, 3]]
    assert geometry.orientation() == "".join(aff2axcodes(ras))


@pytest.mark.parametrize("code", ["RAS", "LPS", "SAR", "PIL"])
def test_reorienting_is_nibabels(code):
    geometry = rotated(3)
    array = np.arange(4 * 6 * 8).reshape(4, 6, 8)
    ras = np.diag([-1, -1, 1, 1]) @ geometry.index_to_lps[:, [2, 1, 0, 3]]
    image = nibabel.Nifti1Image(array.transpose(2, 1, 0).astype(np.int16), ras)
    change = nibabel.orientations.ornt_transform(nibabel.io_orientation(ras), nibabel.orientations.axcodes2ornt(code))
    expected = image.as_reoriented(change)

    from gpuprep.ops.orient import plan_orientation

    axes, flips = plan_orientation(geometry, code)
    result = geometry.reoriented(axes, flips)
    voxels = np.flip(array.transpose(axes), [a for a in range(3) if flips[a]])
    assert result.orientation() == code
    assert np.array_equal(voxels.transpose(2, 1, 0), np.asanyarray(expected.dataobj))
    back = np.diag([-1, -1, 1, 1]) @ result.index_to_lps[:, [2, 1, 0, 3]]
    assert np.allclose(back, expected.affine, atol=EXACT_MM)


def test_cropping_moves_the_origin_to_the_first_voxel_of_the_box():
    geometry = rotated(0)
    box = geometry.crop((1, 2, 3), (2, 2, 2))
    assert np.allclose(box.origin_lps_mm, geometry.to_lps((1, 2, 3)), atol=EXACT_MM)
    assert box.shape == (2, 2, 2)


def test_new_spacing_keeps_the_first_voxel_and_the_extent():
    geometry = rotated(0).with_spacing((1.0, 0.0, 4.0))
    assert geometry.shape == (11, 6, 4)
    assert np.allclose(geometry.spacing_dhw_mm, (1.0, 0.5, 4.0))
    assert np.allclose(geometry.origin_lps_mm, rotated(0).origin_lps_mm)


@pytest.mark.parametrize(
    ("count", "old_mm", "new_mm", "expected"),
    [
        (200, 2.5, 1, 499),  # ITK's 500th centre is 499 mm up, the volume ends at 498.75
        (200, 2.5, 5, 100),
        (8, 1, 3, 3),
        (7, 1, 3, 2),
        (4, 2, 1, 7),  # the eighth centre would lie on the face
        (7, 1, 30, 1),
    ],
)
def test_no_voxel_of_a_new_spacing_lies_outside(count, old_mm, new_mm, expected):
    grid = VolumeGeometry((count, 8, 8), np.diag([old_mm, 1.0, 1.0, 1.0]))
    assert grid.with_spacing((new_mm, 0, 0)).shape == (expected, 8, 8)


def test_grids_differ_by_shape_or_by_a_corner():
    geometry = rotated(0)
    assert geometry.same_grid(rotated(0))
    assert not geometry.same_grid(geometry.crop((0, 0, 0), (4, 6, 7)))
    assert not geometry.same_grid(geometry.crop((0, 0, 1), geometry.shape))


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize(("excess_mm", "is_same"), [(0.00049, True), (0.00051, False)])
def test_grids_differ_where_their_last_voxels_are_more_than_the_tolerance_apart(axis, excess_mm, is_same):
    wider = np.eye(4)
    wider[axis, axis] += excess_mm  # twice to the third voxel
    assert VolumeGeometry((3, 3, 3), np.eye(4)).same_grid(VolumeGeometry((3, 3, 3), wider)) is is_same


@pytest.mark.parametrize("seed", range(5))
def test_volume_of_a_voxel_and_normal_whatever_the_handedness(seed):
    assert rotated(seed).voxel_mm3 == pytest.approx(3 * 0.5 * 2)
    assert rotated(seed).normal == pytest.approx(rotated(seed).directions_dhw[0])


@pytest.mark.parametrize(
    ("values", "expected"), [([7], 7), ([9, 1, 4], 4), ([10, 1, 4, 2], 3), ([6, 5, 4, 3, 2, 1], 3.5)]
)
def test_median(values, expected):
    assert median(np.array(values, np.float64)) == expected


@pytest.mark.parametrize(
    ("shape", "affine"),
    [
        ((0, 1, 1), np.eye(4)),
        ((1, 1, 1), np.zeros((4, 4))),
        ((1, 1, 1), np.array([[1, 0, 0, np.nan], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])),
        ((1, 1, 1), np.eye(3)),
    ],
)
def test_a_degenerate_grid_is_refused(shape, affine):
    with pytest.raises(GeometryError) as caught:
        VolumeGeometry(shape, affine)
    assert caught.value.code == "degenerate-grid"


@pytest.mark.parametrize(("offset", "share"), [(0, 1), (5, 0.5), (9, 0.1), (10, 0), (-5, 0.5), (1000, 0)])
def test_share_of_a_grid_within_another(offset, share):
    affine = np.eye(4)[[2, 1, 0, 3]]
    moved = affine.copy()
    moved[0, 3] = offset
    other = VolumeGeometry((4, 4, 10), affine)
    assert VolumeGeometry((4, 4, 10), moved).share_within(other) == pytest.approx(share)


@pytest.mark.parametrize("seed", range(6))
def test_the_straight_grid_covers_an_oblique_one_without_slack(seed):
    oblique = rotated(seed)
    straight = oblique.axis_aligned()
    assert sorted(np.abs(straight.directions_dhw).ravel()) == [0] * 6 + [1] * 3
    assert np.allclose(straight.spacing_dhw_mm, oblique.spacing_dhw_mm)
    assert np.diag(straight.directions_dhw @ oblique.directions_dhw.T).min() > 0
    corners = np.array([[d, h, w] for d in (0, 1) for h in (0, 1) for w in (0, 1)]) * (np.array(oblique.shape) - 1)
    index = straight.to_index(oblique.to_lps(corners))
    assert np.allclose(index.min(axis=0), 0)
    last = index.max(axis=0)
    assert (last <= np.array(straight.shape) - 1 + 1e-6).all() and (last > np.array(straight.shape) - 2).all()
    assert straight.axis_aligned() is straight
