import gzip
import struct
import zlib

import nibabel
import numpy as np
import pytest
import SimpleITK

from gpuprep.errors import WriteError
from gpuprep.geometry import VolumeGeometry
from gpuprep.writers.nifti import Extension, read_filled_slices, read_nifti, write_nifti

#: Rounding of float32 header fields for coordinates of a few hundred mm.
HEADER_TOLERANCE_MM = 1e-4


def rotation(seed: int, *, mirrored: bool) -> np.ndarray:
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    if (np.linalg.det(q) < 0) != mirrored:
        q[0] *= -1
    return q


def oblique(seed: int, *, mirrored: bool = False) -> VolumeGeometry:
    return VolumeGeometry.from_axes(
        (3, 5, 7),
        origin_lps_mm=(-120.5, 33.25, 801.0),
        directions_dhw=rotation(seed, mirrored=mirrored),
        spacing_dhw_mm=(2.5, 0.7, 0.9),
    )


AXIAL = VolumeGeometry.from_axes(
    (3, 5, 7),
    origin_lps_mm=(-10, -20, -30),
    directions_dhw=[[0, 0, 1], [0, 1, 0], [1, 0, 0]],
    spacing_dhw_mm=(3, 1.5, 0.5),
)
GRIDS = [AXIAL, *(oblique(s, mirrored=m) for s in range(4) for m in (False, True))]
CORNERS = np.array([[0, 0, 0], [2, 0, 0], [0, 4, 0], [0, 0, 6], [2, 4, 6], [1, 2, 3]])


def written(path, array, geometry, level=1, threads=1):
    return write_nifti(path, array, geometry, level=level, threads=threads, root=path.parent)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "float32"])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_nibabel_and_simpleitk_read_the_same_voxels(tmp_path, dtype, suffix):
    array = (np.arange(105).reshape(3, 5, 7) - (50 if dtype != "uint8" and dtype != "uint16" else 0)).astype(dtype)
    path = tmp_path / f"a{suffix}"
    written(path, array, AXIAL)
    image = nibabel.load(path)
    assert image.get_data_dtype() == dtype
    assert np.array_equal(np.asanyarray(image.dataobj).transpose(2, 1, 0), array)
    assert np.array_equal(SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path))), array)


@pytest.mark.parametrize("geometry", GRIDS)
def test_both_affines_lead_to_the_patient(tmp_path, geometry):
    path = tmp_path / "a.nii.gz"
    written(path, np.zeros(geometry.shape, np.uint8), geometry)
    header = nibabel.load(path).header
    lps = geometry.to_lps(CORNERS)
    for affine, code in (header.get_sform(coded=True), header.get_qform(coded=True)):
        assert code == 1
        ras = CORNERS[:, ::-1] @ affine[:3, :3].T + affine[:3, 3]
        assert np.allclose(ras * [-1, -1, 1], lps, atol=HEADER_TOLERANCE_MM)
    itk = SimpleITK.ReadImage(str(path))
    points = [itk.TransformIndexToPhysicalPoint([int(v) for v in c[::-1]]) for c in CORNERS]
    assert np.allclose(points, lps, atol=HEADER_TOLERANCE_MM)


def test_header_noise_of_decimal_strings_is_made_orthonormal(tmp_path):
    affine = oblique(1).index_to_lps.copy()
    affine[:3, :3] = affine[:3, :3].round(6)
    noisy = VolumeGeometry((3, 5, 7), affine)
    path = tmp_path / "a.nii"
    written(path, np.zeros((3, 5, 7), np.uint8), noisy)
    sform = nibabel.load(path).header.get_sform()[:3, :3]
    directions = sform / np.linalg.norm(sform, axis=0)
    assert np.abs(directions.T @ directions - np.eye(3)).max() < 1e-6


def test_threads_do_not_change_the_bytes_and_the_crc_is_that_of_the_content(tmp_path):
    array = np.random.default_rng(0).integers(-1000, 1000, (40, 200, 300)).astype(np.int16)
    geometry = VolumeGeometry(array.shape, np.eye(4))
    one = written(tmp_path / "one.nii.gz", array, geometry, 3, 1)
    written(tmp_path / "two.nii.gz", array, geometry, 3, 2)
    content = (tmp_path / "one.nii.gz").read_bytes()
    assert content == (tmp_path / "two.nii.gz").read_bytes()
    assert one.size == len(content)
    assert one.crc32 == zlib.crc32(gzip.decompress(content))


def test_a_sheared_grid_is_refused_and_leaves_no_file(tmp_path):
    affine = np.eye(4)
    affine[1, 0] = 0.3
    with pytest.raises(WriteError) as caught:
        written(tmp_path / "a.nii.gz", np.zeros((2, 2, 2), np.uint8), VolumeGeometry((2, 2, 2), affine))
    assert caught.value.code == "not-orthogonal"
    assert list(tmp_path.iterdir()) == []


def test_an_axis_beyond_int16_is_refused(tmp_path):
    with pytest.raises(WriteError) as caught:
        written(tmp_path / "a.nii", np.zeros((1, 1, 40000), np.uint8), VolumeGeometry((1, 1, 40000), np.eye(4)))
    assert caught.value.code == "too-large"


def test_a_folder_that_cannot_be_made_is_a_write_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError) as caught:
        written(tmp_path / "file" / "a.nii", np.zeros((1, 1, 1), np.uint8), VolumeGeometry((1, 1, 1), np.eye(4)))
    assert caught.value.code == "not-writable"


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("form", ["both", "sform", "qform"])
@pytest.mark.parametrize("order", "<>")
def test_reads_what_nibabel_writes(tmp_path, grid, form, order):
    array = np.arange(105, dtype=np.int16).reshape(3, 5, 7)
    affine = np.diag([-1.0, -1, 1, 1]) @ grid.index_to_lps[:, [2, 1, 0, 3]]
    header = nibabel.Nifti1Header(endianness=order)
    header.set_data_dtype(np.int16)
    image = nibabel.Nifti1Image(array.T, None, header)
    image.set_sform(affine if form != "qform" else None, int(form != "qform"))
    image.set_qform(affine if form != "sform" else None, int(form != "sform"))
    for name in ("a.nii", "a.nii.gz"):
        nibabel.save(image, tmp_path / name)
        file = read_nifti(tmp_path / name)
        assert np.array_equal(file.array, array)
        assert np.abs(file.geometry.to_lps(CORNERS) - grid.to_lps(CORNERS)).max() < HEADER_TOLERANCE_MM
        assert file.extensions == ()


@pytest.mark.parametrize(("units", "mm"), [("meter", 1000), ("micron", 0.001), ("mm", 1), ("unknown", 1)])
def test_a_grid_in_other_units_is_in_millimetres(tmp_path, units, mm):
    image = nibabel.Nifti1Image(np.zeros((7, 5, 3), np.uint8), np.diag([2.0, 3.0, 4.0, 1.0]))
    image.header.set_xyzt_units(units, "sec")
    nibabel.save(image, tmp_path / "a.nii")
    ours, itk = read_nifti(tmp_path / "a.nii").geometry, SimpleITK.ReadImage(str(tmp_path / "a.nii"))
    assert np.allclose(ours.spacing_dhw_mm, np.array([4, 3, 2]) * mm)
    assert np.allclose(ours.spacing_dhw_mm[::-1], itk.GetSpacing())


@pytest.mark.parametrize("filled", [[], [0], [2, 4], [5], [0, 5]])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_slices_that_hold_something(tmp_path, filled, suffix):
    array = np.zeros((6, 5, 7), np.int16)
    array[filled, 3, 2] = -7
    geometry = VolumeGeometry(array.shape, np.eye(4))
    written(tmp_path / f"a{suffix}", array, geometry)
    grid, first, found = read_filled_slices(tmp_path / f"a{suffix}")
    assert grid.same_grid(geometry)
    assert (first, len(found)) == ((filled[0], filled[-1] - filled[0] + 1) if filled else (0, 0))
    assert np.array_equal(found, array[first : first + len(found)])


@pytest.mark.parametrize("read", [lambda path: read_nifti(path).array, lambda path: read_filled_slices(path)[2]])
def test_slope_and_intercept_count(tmp_path, read):
    header = nibabel.Nifti1Header()
    header.set_data_dtype(np.int16)
    header.set_slope_inter(0.5, 3)
    values = np.arange(105).reshape(3, 5, 7) * 0.5 + 3
    nibabel.save(nibabel.Nifti1Image(values.T, np.eye(4), header), tmp_path / "a.nii.gz")
    stored = gzip.decompress((tmp_path / "a.nii.gz").read_bytes())
    assert np.frombuffer(stored[112:120], "<f4").tolist() != [1, 0]
    assert np.allclose(read(tmp_path / "a.nii.gz"), values, atol=1e-3)


@pytest.mark.parametrize("scaling", [(0.0, 5.0), (np.nan, np.nan)])
def test_a_slope_that_scales_nothing_leaves_values_as_they_are(tmp_path, scaling):
    values = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    nibabel.save(nibabel.Nifti1Image(values.T, np.eye(4)), tmp_path / "a.nii")
    content = bytearray((tmp_path / "a.nii").read_bytes())
    struct.pack_into("<2f", content, 112, *scaling)
    (tmp_path / "a.nii").write_bytes(content)
    assert np.array_equal(np.asanyarray(nibabel.load(tmp_path / "a.nii").dataobj).T, values)
    found = read_nifti(tmp_path / "a.nii").array
    assert found.dtype == np.int16 and np.array_equal(found, values)


def test_extensions_are_read_by_nibabel_and_by_us(tmp_path):
    extensions = (Extension(6, b"a comment"), Extension(30, b"<xml>" * 7))
    path = tmp_path / "a.nii.gz"
    array = np.arange(105, dtype=np.uint8).reshape(3, 5, 7)
    write_nifti(path, array, AXIAL, level=1, threads=1, root=tmp_path, extensions=extensions)
    image = nibabel.load(path)
    assert [(e.get_code(), e.content.rstrip(b"\0")) for e in image.header.extensions] == [
        (e.code, e.content) for e in extensions
    ]
    assert np.array_equal(np.asarray(image.dataobj).T, array)
    assert np.array_equal(SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path))), array)
    assert read_nifti(path).extensions == extensions


@pytest.mark.parametrize("damage", ["text", "short", "4-D", "complex", "nowhere"])
def test_files_that_are_no_volume_are_refused(tmp_path, damage):
    path = tmp_path / "a.nii"
    array = np.zeros((2, 3, 4, 2) if damage == "4-D" else (2, 3, 4), np.complex64 if damage == "complex" else np.uint8)
    image = nibabel.Nifti1Image(array, np.eye(4))
    if damage == "nowhere":
        image.set_sform(None, 0)
        image.set_qform(None, 0)
    nibabel.save(image, path)
    if damage == "text":
        path.write_text("text " * 100)
    if damage == "short":
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError):
        read_nifti(path)
