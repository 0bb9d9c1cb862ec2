"""What `gpuprep nnunet` does to voxels and grids, against SimpleITK, nibabel and a phantom known at every point."""

import json

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from conversions import Converted, read_nifti, write_map
from nnunet_files import AFFINE_TOLERANCE_MM, affine, read_dataset

from gpuprep.dicom.synth import RoiSpec, axial_geometry, ellipse_lps_mm, write_ct_series, write_rtstruct
from gpuprep.errors import ExitStatus
from gpuprep.geometry import VolumeGeometry

GRID = axial_geometry((20, 44, 36), spacing_xyz_mm=(1.2, 1.0, 2.5), origin_lps_mm=(-31.7, 12.3, -107.1))
#: Air around a body: columns, rows and slices of the body, first and one past the last.
BODY = (slice(3, 17), slice(6, 40), slice(5, 30))
AIR_HU = -1000
#: Ellipse of the ROI in each of its slices: centre, radii and slices.
CENTRE_LPS_MM, RADII_MM, ROI_SLICES = GRID.to_lps((9, 22, 18)), (7.5, 9.5), range(6, 13)
#: A voxel count differs from a volume by boundary voxels that fall on either side.
VOLUME_TOLERANCE = 0.06
#: Linear interpolation against SimpleITK, as part of the intensity range, beside rounding to integers.
RANGE_TOLERANCE = 1e-3
#: Backends may differ by one where a value lies half way between two integers.
BACKEND_TOLERANCE = 1


def phantom_hu(points_lps_mm):
    """A smooth function of the place, 35 to 425 HU: no voxel of it is air."""
    x, y, z = np.moveaxis(np.asarray(points_lps_mm), -1, 0)
    return 230 + 90 * np.cos(x / 9) + 60 * np.sin(y / 11) + 45 * np.cos(z / 13)


def points_of(shape, index_to_lps):
    """World coordinates (…, 3) of all voxels (D, H, W)."""
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    return index @ index_to_lps[:3, :3].T + index_to_lps[:3, 3]


def is_in_roi(points_lps_mm):
    offset = (points_lps_mm - CENTRE_LPS_MM)[..., :2] / RADII_MM
    planes = np.rint(GRID.to_index(points_lps_mm)[..., 0])
    return ((offset**2).sum(axis=-1) < 1) & (planes >= ROI_SLICES.start) & (planes < ROI_SLICES.stop)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A CT whose body is the phantom, in air, with an elliptic cylinder as ROI."""
    folder = tmp_path_factory.mktemp("transforms")
    values = np.full(GRID.shape, AIR_HU)
    values[BODY] = np.rint(phantom_hu(points_of(GRID.shape, GRID.index_to_lps)))[BODY]
    series = write_ct_series(folder / "dicom" / "CT", GRID, values)
    contours = [ellipse_lps_mm(GRID, d, CENTRE_LPS_MM, RADII_MM) for d in ROI_SLICES]
    write_rtstruct(folder / "dicom" / "RS.dcm", series, [RoiSpec(1, "Target", contours)])
    write_map(folder / "rois.yaml", {"Target": "target"})
    return folder


@pytest.fixture(scope="module")
def convert(gpuprep, study):
    def run(output, *options, modalities="CT,RTSTRUCT", source=study / "dicom", status=ExitStatus.DONE):
        result = gpuprep(
            "nnunet", "-m", modalities, "-ryaml", study / "rois.yaml", "--dataset-name", "T", *options, source, output
        )
        assert result.status == status, result.stderr
        return Converted(output, result) if status in (ExitStatus.DONE, ExitStatus.CASES_FAILED) else result

    return run


@pytest.fixture(scope="module")
def kept(convert, tmp_path_factory):
    """The study without any transform."""
    return convert(tmp_path_factory.mktemp("kept"))


PATIENT = "SYNTH-001"


def roi_volume_mm3(mask, index_to_lps):
    return mask.sum() * abs(np.linalg.det(index_to_lps[:3, :3]))


# --- Spacing ---------------------------------------------------------------------------------------------------------

SPACINGS = [("0.8,0.8,1.5", (0.8, 0.8, 1.5)), ("2,1.7,4", (2.0, 1.7, 4.0)), ("0,0,1", (1.2, 1.0, 1.0))]


@pytest.mark.parametrize(("text", "spacing"), SPACINGS)
@pytest.mark.parametrize(("interpolation", "itk"), [("linear", sitk.sitkLinear), ("nearest", sitk.sitkNearestNeighbor)])
def test_spacing_equals_simpleitk(convert, kept, tmp_path, text, spacing, interpolation, itk):
    convert(tmp_path, "--spacing", text, "--interpolation", interpolation)
    image = read_dataset(tmp_path).only_case.image
    source = read_dataset(kept.root).only_case.image
    assert image.GetSpacing() == pytest.approx(spacing, abs=1e-5)
    assert image.GetOrigin() == pytest.approx(source.GetOrigin(), abs=AFFINE_TOLERANCE_MM)
    expected = sitk.Resample(sitk.Cast(source, sitk.sitkFloat64), image, sitk.Transform(), itk, AIR_HU)
    values = sitk.GetArrayFromImage(source)
    difference = np.abs(sitk.GetArrayFromImage(image) - sitk.GetArrayFromImage(expected))
    if interpolation == "linear":
        assert difference.max() <= 0.5 + RANGE_TOLERANCE * np.ptp(values)
    else:
        assert (difference > 0).mean() < 1e-3  # a tie may fall on either side


@pytest.mark.parametrize(("text", "spacing"), SPACINGS)
def test_masks_are_drawn_on_the_output_grid(convert, tmp_path, text, spacing):
    converted = convert(tmp_path, "--spacing", text)
    mask = converted.mask(PATIENT, "Target")
    index_to_lps = converted.labels(PATIENT)[1]
    exact = np.pi * np.prod(RADII_MM) * len(ROI_SLICES) * GRID.spacing_dhw_mm[0]
    # Along the slices a mask is as thick as whole voxels make it.
    thick = np.unique(np.argwhere(mask)[:, 0]).size * spacing[2] / (len(ROI_SLICES) * GRID.spacing_dhw_mm[0])
    assert roi_volume_mm3(mask, index_to_lps) == pytest.approx(exact * thick, rel=VOLUME_TOLERANCE)
    inside = is_in_roi(points_of(mask.shape, index_to_lps))
    assert (mask != inside).mean() < 1e-3  # the contour is a polygon


@pytest.mark.parametrize(
    ("interpolation", "tolerance_hu"), [("nearest", 20), ("linear", 3.5), ("cubic", 1.5), ("lanczos", 1.5)]
)
def test_every_interpolation_takes_the_phantom_at_the_place_of_the_voxel(
    convert, tmp_path, interpolation, tolerance_hu
):
    converted = convert(tmp_path, "--spacing", "0.7,0.9,1.9", "--interpolation", interpolation)
    values, index_to_lps = converted.image(PATIENT)
    points = points_of(values.shape, index_to_lps)
    index = GRID.to_index(points)
    first, last = (np.array([b.start for b in BODY]) + 3, np.array([b.stop for b in BODY]) - 4)
    inner = ((index >= first) & (index <= last)).all(axis=-1)
    assert inner.sum() > 5000
    assert np.abs(values - phantom_hu(points))[inner].max() < tolerance_hu


def test_antialias_averages_what_a_voxel_covers(convert, kept, tmp_path):
    converted = convert(tmp_path, "--spacing", "2.4,0,0", "--antialias")
    fine = kept.image(PATIENT)[0].astype(np.float64)
    values = converted.image(PATIENT)[0]
    # A triangle twice as wide, centred on every other voxel.
    expected = 0.25 * fine[..., 1:-2:2] + 0.5 * fine[..., 2:-1:2] + 0.25 * fine[..., 3::2]
    assert np.abs(values[..., 1:] - expected).max() <= 0.5


def test_nearest_cannot_antialias(convert, tmp_path):
    result = convert(tmp_path, "--interpolation", "nearest", "--antialias", status=ExitStatus.CONFIG)
    assert "[antialias-nearest]" in result.stderr


# --- Intensity -------------------------------------------------------------------------------------------------------


def test_a_window_clamps_and_keeps_the_values(convert, kept, tmp_path):
    converted = convert(tmp_path, "--window-level", "200", "--window-width", "150")
    before, after = kept.image(PATIENT)[0], converted.image(PATIENT)[0]
    assert after.dtype == np.int16
    assert np.array_equal(after, np.clip(before, 125, 275))
    assert (after.min(), after.max()) == (125, 275)
    assert converted.dataset["channel_names"] == {"0": "CT"}
    assert np.array_equal(converted.labels(PATIENT)[0], kept.labels(PATIENT)[0])


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-1.0, 1.0)])
def test_a_window_can_be_mapped_to_a_range(convert, kept, tmp_path, low, high):
    converted = convert(
        tmp_path, "--window-level", "200", "--window-width", "150", "--rescale-intensity", f"{low},{high}"
    )
    before, after = kept.image(PATIENT)[0].astype(np.float64), converted.image(PATIENT)[0]
    assert after.dtype == np.float32
    assert (after.min(), after.max()) == (low, high)
    assert np.allclose(after, low + (np.clip(before, 125, 275) - 125) / 150 * (high - low), atol=1e-6)
    assert converted.dataset["channel_names"] == {"0": "noNorm"}
    assert np.array_equal(converted.labels(PATIENT)[0], kept.labels(PATIENT)[0])


# --- Crop ------------------------------------------------------------------------------------------------------------


def margin_voxels(margin_mm):
    return np.ceil(np.round(margin_mm / GRID.spacing_dhw_mm, 9)).astype(int)


def grown(box, margin_mm):
    """A box of slices with a margin, as far as the volume reaches."""
    return tuple(
        slice(max(0, b.start - m), min(n, b.stop + m))
        for b, m, n in zip(box, margin_voxels(margin_mm), GRID.shape, strict=True)
    )


#: Voxel centres within the radii of the centre, which is one: 7.5 mm / 1.2 mm and 9.5 mm / 1 mm on either side.
ROI_BOX = (slice(6, 13), slice(22 - 9, 22 + 10), slice(18 - 6, 18 + 7))


@pytest.mark.parametrize(
    ("crop", "box"),
    [
        ("foreground", BODY),
        ("foreground:5", grown(BODY, 5)),
        ("foreground:500", tuple(slice(0, n) for n in GRID.shape)),
        ("roi", ROI_BOX),
        ("roi:10", grown(ROI_BOX, 10)),
    ],
)
def test_a_crop_cuts_and_leaves_every_voxel_where_it_is(convert, kept, tmp_path, crop, box):
    converted = convert(tmp_path, "--crop", crop)
    for read in (Converted.image, Converted.labels):
        (before, whole), (after, cut) = read(kept, PATIENT), read(converted, PATIENT)
        assert np.array_equal(after, before[box])
        start = [b.start for b in box]
        assert np.allclose(cut @ [0, 0, 0, 1], whole @ [*start, 1], atol=AFFINE_TOLERANCE_MM)
        assert np.array_equal(cut[:3, :3], whole[:3, :3])


def test_nothing_to_crop_to_fails_the_case(convert, study, tmp_path):
    for path in (study / "dicom").rglob("*.dcm"):
        data = pydicom.dcmread(path)
        if data.Modality == "CT":
            data.PixelData = bytes(len(data.PixelData))  # -1024 HU
        (tmp_path / "air" / path.name).parent.mkdir(exist_ok=True)
        data.save_as(tmp_path / "air" / path.name)
    converted = convert(
        tmp_path / "out", "--crop", "foreground", source=tmp_path / "air", status=ExitStatus.CASES_FAILED
    )
    assert converted.row(PATIENT)["code"] == "nothing-to-crop-to"


# --- Orientation -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", ["RAS", "LPS", "LAS", "PIR", "SRA"])
def test_orientation_equals_nibabel(convert, kept, tmp_path, orientation):
    converted = convert(tmp_path, "--orientation", orientation)
    assert kept.row(PATIENT)["case"] == converted.row(PATIENT)["case"]
    for path in kept.raw.rglob("*.nii.gz"):
        before, after = nibabel.load(path), nibabel.load(converted.raw / path.relative_to(kept.raw))
        assert nibabel.aff2axcodes(after.affine) == tuple(orientation)
        turn = nibabel.orientations.ornt_transform(
            nibabel.io_orientation(before.affine), nibabel.orientations.axcodes2ornt(orientation)
        )
        expected = before.as_reoriented(turn)
        assert np.array_equal(np.asanyarray(after.dataobj), np.asanyarray(expected.dataobj))
        assert np.allclose(after.affine, expected.affine, atol=AFFINE_TOLERANCE_MM)


# --- All at once -----------------------------------------------------------------------------------------------------

ALL = ("--spacing", "0.9,1.1,2", "--crop", "roi:6", "--window-level", "230", "--window-width", "500",
       "--orientation", "RAS")  # fmt: skip


@pytest.fixture(scope="module")
def transformed(convert, tmp_path_factory):
    return convert(tmp_path_factory.mktemp("all"), *ALL)


def test_combined_transforms_keep_image_and_mask_at_their_place(transformed):
    values, index_to_lps = transformed.image(PATIENT)
    points = points_of(values.shape, index_to_lps)
    assert np.abs(values - phantom_hu(points)).max() < 4
    mask = transformed.mask(PATIENT, "Target")
    assert np.array_equal(transformed.labels(PATIENT)[1], index_to_lps)
    assert (mask != is_in_roi(points)).mean() < 2e-3
    assert mask.any()


def test_the_report_leads_from_an_output_voxel_to_the_patient(transformed):
    details = transformed.row(PATIENT)["details"]
    values, index_to_lps = transformed.image(PATIENT)
    assert details["grid"]["shape_dhw"] == list(values.shape)
    assert np.allclose(details["grid"]["index_dhw_to_lps_mm"], index_to_lps, atol=AFFINE_TOLERANCE_MM)
    (steps,) = details["steps"]
    assert [s["step"] for s in steps] == ["decode", "resample", "window", "orient"]
    # Back through the steps to the voxel of the series, (slice, row, column), and from there to the patient.
    voxel = np.array([3, 5, 2, 1.0])
    resample, orient = steps[1], steps[3]
    flipped = [n - 1 - i if flip else i for i, n, flip in zip(voxel, values.shape, orient["flips"], strict=False)]
    index = np.empty(4)
    index[orient["axes"]], index[3] = flipped, 1
    source = np.array(resample["index_to_source"]) @ index
    assert np.allclose(GRID.to_lps(source[:3]), (index_to_lps @ voxel)[:3], atol=AFFINE_TOLERANCE_MM)


@pytest.mark.parametrize(
    "options",
    [(), ALL, ("--spacing", "0.8,0.8,1.5", "--interpolation", "cubic"),
     ("--spacing", "2,2,4", "--interpolation", "lanczos", "--antialias", "--crop", "foreground:3"),
     ("--window-level", "230", "--window-width", "100", "--rescale-intensity", "0,1")],
)  # fmt: skip
def test_the_reference_backend_gives_the_same_files(convert, tmp_path, options):
    fast = convert(tmp_path / "cpu", "--backend", "cpu", *options)
    plain = convert(tmp_path / "reference", "--backend", "reference", *options)
    paths = sorted(p.relative_to(fast.raw) for p in fast.raw.rglob("*.nii.gz"))
    assert paths == sorted(p.relative_to(plain.raw) for p in plain.raw.rglob("*.nii.gz"))
    for path in paths:
        (one, grid), (other, other_grid) = read_nifti(fast.raw / path), read_nifti(plain.raw / path)
        assert np.array_equal(grid, other_grid)
        assert one.dtype == other.dtype
        if path.parts[0] == "labelsTr":
            assert np.array_equal(one, other)
        else:
            tolerance = BACKEND_TOLERANCE if one.dtype.kind == "i" else 1e-6
            assert np.abs(one.astype(np.float64) - other).max() <= tolerance


# --- Several channels ------------------------------------------------------------------------------------------------


def turned_grid(angle_degrees, origin_lps_mm, shape=(16, 30, 28), spacing_dhw_mm=(3.1, 1.4, 1.6)):
    """An oblique grid: turned about x, then about z."""
    c, s = np.cos(np.radians(angle_degrees)), np.sin(np.radians(angle_degrees))
    turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    return VolumeGeometry.from_axes(
        shape, origin_lps_mm=origin_lps_mm, directions_dhw=(turn @ np.eye(3)[::-1].T).T, spacing_dhw_mm=spacing_dhw_mm
    )


def write_mr(folder, grid, *, series="MR", frame=""):
    """An MR series of the phantom in the study and frame of reference of the CT, or another frame."""
    values = np.rint(phantom_hu(points_of(grid.shape, grid.index_to_lps)))
    grid = VolumeGeometry(grid.shape, grid.index_to_lps, frame)
    written = write_ct_series(folder / series, grid, values, series=series)
    for path in written.paths:
        data = pydicom.dcmread(path)
        data.Modality = "MR"
        data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = pydicom.uid.MRImageStorage
        data.save_as(path)
    return written


@pytest.fixture
def with_mr(study, tmp_path):
    """The study, its CT linked, and room for MR series beside it."""
    folder = tmp_path / "both"
    folder.mkdir()
    (folder / "CT").symlink_to(study / "dicom")
    return folder


OBLIQUE = turned_grid(17, (-30.0, 15.0, -110.0))


def test_an_oblique_mr_is_resampled_onto_the_ct(convert, with_mr, tmp_path):
    write_mr(with_mr, OBLIQUE)
    converted = convert(tmp_path / "out", "--spacing", "1.5,1.5,0", modalities="CT,MR,RTSTRUCT", source=with_mr)
    assert converted.dataset["channel_names"] == {"0": "CT", "1": "MR"}
    ct, mr = read_dataset(tmp_path / "out").only_case.images
    names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(with_mr / "MR"))
    source = sitk.Cast(sitk.ReadImage(names), sitk.sitkFloat64)
    values = sitk.GetArrayFromImage(source)
    expected = sitk.GetArrayFromImage(sitk.Resample(source, ct, sitk.Transform(), sitk.sitkLinear, values.min()))
    assert np.abs(sitk.GetArrayFromImage(mr) - expected).max() <= 0.5 + RANGE_TOLERANCE * np.ptp(values)
    points = points_of(expected.shape, affine(mr)[:, [2, 1, 0, 3]])
    inside = ((OBLIQUE.to_index(points) >= 0) & (OBLIQUE.to_index(points) <= np.array(OBLIQUE.shape) - 1)).all(axis=-1)
    assert 0.2 < inside.mean() < 0.9
    assert np.abs(sitk.GetArrayFromImage(mr) - phantom_hu(points))[inside].max() < 10
    share = converted.row(PATIENT)["details"]["channel_coverage"]["MR"]
    assert share == pytest.approx(inside.mean(), abs=0.1)
    assert any("MR" in warning for warning in converted.row(PATIENT)["details"]["warnings"])


def test_a_window_of_ct_leaves_mr_alone(convert, with_mr, tmp_path):
    write_mr(with_mr, OBLIQUE)
    common = {"modalities": "CT,MR,RTSTRUCT", "source": with_mr}
    plain = convert(tmp_path / "plain", **common)
    window = ("--window-level", "230", "--window-width", "100", "--rescale-intensity", "0,1")
    windowed = convert(tmp_path / "windowed", *window, **common)
    assert windowed.dataset["channel_names"] == {"0": "noNorm", "1": "MR"}
    assert np.array_equal(windowed.image(PATIENT, 1)[0], plain.image(PATIENT, 1)[0])
    assert windowed.image(PATIENT, 0)[0].max() == 1


@pytest.mark.parametrize(
    ("series", "options", "code"),
    [
        ([{"grid": OBLIQUE, "frame": "2.25.99"}], (), "channel-missing"),
        ([{"grid": OBLIQUE}, {"grid": OBLIQUE, "series": "MR2"}], (), "channel-ambiguous"),
        ([{"grid": turned_grid(17, (300.0, 0, 0))}], (), "channel-elsewhere"),
        ([{"grid": OBLIQUE}], ("--interpolation", "cubic"), "axes-not-parallel"),
    ],
)
def test_a_channel_that_does_not_fit_fails_the_case(convert, with_mr, tmp_path, series, options, code):
    for one in series:
        write_mr(with_mr, **one)
    converted = convert(
        tmp_path / "out", *options, modalities="CT,MR,RTSTRUCT", source=with_mr, status=ExitStatus.CASES_FAILED
    )
    assert converted.row(PATIENT)["code"] == code
    assert converted.row(PATIENT)["hint"]
    assert not list(converted.raw.rglob("*.nii.gz"))
    assert json.loads((converted.raw / "dataset.json").read_text())["numTraining"] == 0
