"""Real studies through `gpuprep nnunet`, compared voxel by voxel with what other tools make of them."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from nnunet_files import AFFINE_TOLERANCE_MM, Dataset, affine, assert_same_grid, place_mask, read_dataset

from gpuprep.errors import ExitStatus

STS_PATIENTS = ["STS_002", "STS_025"]
#: Modality → its folder in the STS studies.
STS_FOLDERS = {"CT": "CT", "MR": "MR_T1", "PT": "PET"}
#: float32 keeps seven digits of stored value × slope.
FLOAT32_RELATIVE = 1e-6


def convert(gpuprep, tmp_path, rois: str, sources, *extra, modalities="CT,SEG", strategy="region_mask") -> Dataset:
    (tmp_path / "rois.yaml").write_text(rois)
    result = gpuprep(
        "nnunet", "-m", modalities, "-ryaml", tmp_path / "rois.yaml", "-ms", strategy, "--dataset-name", "Real",
        *extra, *sources, tmp_path / "out",
    )  # fmt: skip
    assert result.status == ExitStatus.DONE, result.stderr
    return read_dataset(tmp_path / "out")


def read_series(folder: Path) -> sitk.Image:
    return read_series_of(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder)))


def read_series_of(names) -> sitk.Image:
    """Grid of sorted slices by GDCM through SimpleITK, with stored value × slope + intercept by pydicom, in float64."""
    slices = [pydicom.dcmread(name) for name in names]
    image = sitk.GetImageFromArray(np.stack([modality_values(s) for s in slices]))
    image.CopyInformation(sitk.ReadImage(names))
    return image


def modality_values(slice_: pydicom.Dataset) -> np.ndarray:
    return slice_.pixel_array * float(slice_.get("RescaleSlope", 1)) + float(slice_.get("RescaleIntercept", 0))


def dcm2niix_entry(folder: Path) -> dict:
    """The only volume that dcm2niix made of a series."""
    (entry,) = json.loads((folder / "dcm2niix-reference.json").read_text())["images"].values()
    return entry


def digest_as_dcm2niix(image: sitk.Image, dtype: str) -> str:
    """SHA-256 of the voxels in the order dcm2niix writes them: rows from bottom to top, columns fastest."""
    rows = sitk.GetArrayViewFromImage(image)[:, ::-1].astype(dtype)
    return hashlib.sha256(rows.tobytes()).hexdigest()


def affine_as_dcm2niix(image: sitk.Image) -> np.ndarray:
    """RAS affine of the same voxels with the rows reversed."""
    flip = np.diag([1.0, -1.0, 1.0, 1.0])
    flip[1, 3] = image.GetSize()[1] - 1
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine(image) @ flip


@pytest.fixture(scope="module", params=list(STS_FOLDERS))
def sts(request, gpuprep, data_dir, tmp_path_factory):
    """The data set of both STS patients in one modality, and the name of that modality's folder."""
    sources = [data_dir / f"ct-rtstruct/ibsi_{p.lower()}/dicom" for p in STS_PATIENTS]
    folder = tmp_path_factory.mktemp(request.param)
    dataset = convert(gpuprep, folder, "GTV: gtv_mass.*", sources, modalities=f"{request.param},RTSTRUCT")
    return dataset, STS_FOLDERS[request.param]


@pytest.mark.parametrize("patient", STS_PATIENTS)
def test_contours_of_sts_equal_the_masks_of_three_tools(sts, data_dir, patient):
    dataset, folder = sts
    case = dataset.case_of(patient)
    for tool in ("exact-pixel-centre", "plastimatch", "dcmrtstruct2nii"):
        masks = data_dir / f"ct-rtstruct/ibsi_{patient.lower()}/reference-masks" / folder / tool
        reference = sitk.ReadImage(masks / f"GTV_Mass_{folder}.nii.gz")
        assert_same_grid(case.label, reference)
        assert np.array_equal(dataset.mask(case, "GTV"), sitk.GetArrayViewFromImage(reference) > 0)


@pytest.mark.parametrize("patient", STS_PATIENTS)
def test_images_of_sts_hold_the_dicom_values_at_the_dicom_coordinates(sts, data_dir, patient):
    dataset, folder = sts
    image = dataset.case_of(patient).image
    series = read_series(data_dir / f"ct-rtstruct/ibsi_{patient.lower()}/dicom" / patient / folder / "image")
    assert_same_grid(image, series)
    values, expected = sitk.GetArrayViewFromImage(image), sitk.GetArrayViewFromImage(series)
    if folder == "PET":
        assert values.dtype == np.float32
        assert np.allclose(values, expected, rtol=FLOAT32_RELATIVE, atol=0)
    else:
        assert values.dtype == np.int16
        assert np.array_equal(values, expected)
    corner = [n - 1 for n in image.GetSize()]
    assert image.TransformIndexToPhysicalPoint(corner) == pytest.approx(
        series.TransformIndexToPhysicalPoint(corner), abs=AFFINE_TOLERANCE_MM
    )


@pytest.mark.parametrize("patient", STS_PATIENTS)
def test_images_of_sts_equal_those_of_dcm2niix(sts, data_dir, patient):
    dataset, folder = sts
    image = dataset.case_of(patient).image
    entry = dcm2niix_entry(data_dir / f"ct-rtstruct/ibsi_{patient.lower()}/reference-dcm2niix" / folder)
    assert list(image.GetSize()) == entry["shape"]
    assert np.abs(affine_as_dcm2niix(image) - entry["affine"]).max() < AFFINE_TOLERANCE_MM
    if entry["dtype"] == "int16":
        assert digest_as_dcm2niix(image, "int16") == entry["sha256_raw_voxels_F_order"]
    values = sitk.GetArrayViewFromImage(image)[:, ::-1]
    assert values.max() == pytest.approx(entry["max"], rel=FLOAT32_RELATIVE)
    assert values.min() == pytest.approx(entry["min"], rel=FLOAT32_RELATIVE)
    for index, value in entry["samples"].items():
        x, y, z = json.loads(f"[{index.strip('()')}]")
        assert values[z, y, x] == pytest.approx(value, rel=FLOAT32_RELATIVE)


@pytest.fixture(scope="module")
def totalsegmentator(gpuprep, data_dir, tmp_path_factory):
    """20 slices with one missing and 104 ROIs, 70 of them without contours, put on 21 regular slices."""
    sources, names = totalsegmentator_sources(data_dir)
    assert len(names) == 104
    rois = "\n".join(f"{name}: {name}" for name in names)
    output = tmp_path_factory.mktemp("totalsegmentator")
    extra = ("--on-irregular", "resample", "--on-missing", "warn")
    return convert(gpuprep, output, rois, sources, *extra, modalities="CT,RTSTRUCT")


def totalsegmentator_sources(data_dir):
    """The sources of the study, and its ROI names."""
    folder = data_dir / "ct-rtstruct/totalsegmentator_aide"
    (rtstruct,) = (folder / "rtstruct").iterdir()
    names = [str(roi.ROIName) for roi in pydicom.dcmread(rtstruct).StructureSetROISequence]
    return [folder / "dcm", rtstruct], names


def test_104_rois_equal_their_masks_on_every_acquired_slice(totalsegmentator, data_dir):
    case = totalsegmentator.only_case
    assert len(totalsegmentator.labels) == 104
    folder = data_dir / "ct-rtstruct/totalsegmentator_aide"
    acquired = acquired_slices(case.image, folder / "dcm")
    references = {p.name.removesuffix(".nii.gz"): p for p in (folder / "reference-masks/exact-pixel-centre").iterdir()}
    assert len(references) == 34
    for label in totalsegmentator.labels:
        mask = totalsegmentator.mask(case, label)
        assert mask.any() == (label in references)
        assert any(f"{label!r} hold no voxel" in warning for warning in case.details["warnings"]) != mask.any()
        if label in references:
            assert np.array_equal(mask[acquired], read_mask(references[label])), label


def read_mask(path: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(path)) > 0


def test_labels_of_several_rois_overlap_without_loss(gpuprep, data_dir, tmp_path):
    sources, _ = totalsegmentator_sources(data_dir)
    rois = "Heart: heart_.*\nVentricles: heart_ventricle_.*\nThorax: [heart_.*, lung_.*, rib_.*, aorta]\nAorta: aorta"
    dataset = convert(gpuprep, tmp_path, rois, sources, "--on-irregular", "resample", modalities="CT,RTSTRUCT")
    case = dataset.only_case
    masks = data_dir / "ct-rtstruct/totalsegmentator_aide/reference-masks/exact-pixel-centre"
    acquired = acquired_slices(case.image, sources[0])
    for label, pattern in {"Heart": "heart_*", "Ventricles": "heart_ventricle_*", "Aorta": "aorta*"}.items():
        expected = np.any([read_mask(p) for p in masks.glob(f"{pattern}.nii.gz")], axis=0)
        assert np.array_equal(dataset.mask(case, label)[acquired], expected)
    for inner, outer in [("Ventricles", "Heart"), ("Heart", "Thorax"), ("Aorta", "Thorax")]:
        assert not (dataset.mask(case, inner) & ~dataset.mask(case, outer)).any()
        assert [inner, outer] in [
            sorted(names, key=[inner, outer].index)
            for *names, _ in case.details["overlaps"]
            if set(names) == {inner, outer}
        ]


def test_a_missing_slice_is_interpolated_and_the_others_stay(totalsegmentator, data_dir):
    image = totalsegmentator.only_case.image
    folder = data_dir / "ct-rtstruct/totalsegmentator_aide/dcm"
    values = sitk.GetArrayFromImage(image).astype(np.float64)
    acquired = acquired_slices(image, folder)
    slices = sorted((pydicom.dcmread(p) for p in folder.iterdir()), key=lambda s: float(s.ImagePositionPatient[2]))
    expected = np.stack([modality_values(s) for s in slices])
    assert values.shape == (21, 512, 512)
    assert np.array_equal(values[acquired], expected)
    (missing,) = np.flatnonzero(~acquired)
    assert np.abs(values[missing] - (values[missing - 1] + values[missing + 1]) / 2).max() <= 0.5


def acquired_slices(image: sitk.Image, folder: Path) -> np.ndarray:
    """Which slices of an axial volume lie where a file of the series does."""
    positions = sorted(
        float(pydicom.dcmread(p, stop_before_pixels=True).ImagePositionPatient[2]) for p in folder.iterdir()
    )
    planes = image.GetOrigin()[2] + image.GetSpacing()[2] * np.arange(image.GetSize()[2])
    return np.array([np.abs(np.array(positions) - z).min() < 0.01 for z in planes])


def segmentations_by_uid(dataset: Dataset) -> dict[str, tuple]:
    """SOP instance UID of the segmentation → its case: for runs with ``--multiple-segmentations all``."""
    cases = {}
    for case in dataset.cases.values():
        (segmentation,) = case.details["segmentations"]
        cases[segmentation["sop_instance_uid"]] = case
    return cases


def assert_mask(dataset, case, label, expected: sitk.Image) -> None:
    assert np.array_equal(dataset.mask(case, label), place_mask(expected, case.label))


def sop_uid(path: Path) -> str:
    return str(pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID)


@pytest.mark.parametrize(
    ("images", "segmentation", "reference"),
    [
        ("23x38x3/image", "23x38x3/seg/label.seg", "23x38x3"),
        ("24x38x3/image", "24x38x3/seg/label.seg", "24x38x3"),
        ("24x38x3/multiframe", "24x38x3/seg/label.seg", "24x38x3"),
        ("24x38x3/image", "sparse-labelmap-noppv.dcm", "sparse-labelmap-noppv"),
        ("24x38x3/image", "sparse-labelmap-ppv5.dcm", "sparse-labelmap-ppv5"),
    ],
)
def test_segmentations_equal_what_dcmqi_reads(gpuprep, data_dir, tmp_path, images, segmentation, reference):
    folder = data_dir / "ct-seg"
    sources = [folder / "dcmqi_segmentations" / images, folder / "dcmqi_segmentations" / segmentation]
    dataset = convert(gpuprep, tmp_path, "Liver: liver", sources)
    mask = sitk.ReadImage(folder / "reference-dcmqi" / reference / "seg-1.nii.gz")
    assert_mask(dataset, dataset.only_case, "Liver", mask == 1)  # of a label map dcmqi also writes the padding, as 5


def test_one_segmentation_in_nine_encodings_gives_one_mask(gpuprep, data_dir, tmp_path):
    folder = data_dir / "ct-seg"
    sources = [folder / "dcmqi_segmentations/ct-3slice", *sorted((folder / "pydicom_data_liver").iterdir())]
    dataset = convert(gpuprep, tmp_path, "Liver: liver", sources, "--multiple-segmentations", "all")
    cases = segmentations_by_uid(dataset)
    for path in sources[1:]:
        reference = "pydicom_liver_nonbyte_aligned" if "nonbyte" in path.name else "liver"
        mask = sitk.ReadImage(folder / "reference-dcmqi" / reference / "seg-1.nii.gz")
        assert_mask(dataset, cases[sop_uid(path)], "Liver", mask)
    reference = sitk.Flip(
        sitk.ReadImage(folder / "dcmqi_segmentations/reference-dcm2niix/ct-3slice/2_.nii.gz"), [False, True, False]
    )
    for case in dataset.cases.values():
        assert_same_grid(case.image, reference)
        assert np.array_equal(sitk.GetArrayFromImage(case.image), sitk.GetArrayFromImage(reference))


def test_five_overlapping_segments_stay_whole(gpuprep, data_dir, tmp_path):
    folder = data_dir / "ct-seg"
    names = ["GREEN", "ORANGE", "PURPLE", "LIGHT_BLUE", "DARK_BLUE"]
    sources = [folder / "dcmqi_segmentations/ct-3slice", folder / "dcmqi_segmentations/partial_overlaps.dcm"]
    dataset = convert(gpuprep, tmp_path, "\n".join(f"{n}: {n}" for n in names), sources)
    case = dataset.only_case
    assert case.details["overlaps"]
    for number, name in enumerate(names, 1):
        reference = sitk.ReadImage(folder / f"reference-dcmqi/partial_overlaps/seg-{number}.nii.gz")
        assert_mask(dataset, case, name, reference)


def test_segmentations_made_on_sts_equal_their_truth(gpuprep, data_dir, tmp_path):
    folder = data_dir / "ct-seg/generated_on_sts_002_CT"
    names = ["binary_all_frames", "binary_overlap", "binary_sparse_single", "labelmap", "labelmap_j2k", "labelmap_rle",
             "fractional_probability", "fractional_rle"]  # fmt: skip
    images = data_dir / "ct-rtstruct/ibsi_sts_002/dicom/STS_002/CT/image"
    sources = [images, *(folder / f"{name}.dcm" for name in names)]
    rois = "GTV: gtv_mass\nBox: {patterns: overlap_box, optional: true}"
    dataset = convert(gpuprep, tmp_path, rois, sources, "--multiple-segmentations", "all")
    cases = segmentations_by_uid(dataset)
    assert len(cases) == len(names)
    truth = sitk.ReadImage(folder / "truth/GTV_Mass.nii.gz")
    fractions = sitk.ReadImage(folder / "truth/fractional_255.nii.gz")
    for path in sources[1:]:
        case = cases[sop_uid(path)]
        assert_mask(dataset, case, "GTV", truth if "fractional" not in path.name else fractions > 127.5)
        box = sitk.ReadImage(folder / "truth/overlap_box.nii.gz") if path.stem == "binary_overlap" else truth * 0
        assert_mask(dataset, case, "Box", box)


def test_a_gap_too_large_to_fill_is_refused_by_size(gpuprep, data_dir, tmp_path):
    folder = data_dir / "ct-seg"
    (tmp_path / "rois.yaml").write_text("First: first segment")
    result = gpuprep(
        "nnunet", "-m", "CT,SEG", "-ryaml", tmp_path / "rois.yaml", "--on-irregular", "resample",
        folder / "highdicom_sources/77654033/CT2", folder / "highdicom/seg_image_ct_binary.dcm", tmp_path / "out",
    )  # fmt: skip
    assert result.status == ExitStatus.CASES_FAILED
    assert "[missing-slice]" in result.stderr
    assert "(165, 16, 16)" in result.stderr
    assert "use --on-irregular resample" not in result.stderr


def test_one_slice_with_its_segmentation(gpuprep, data_dir, tmp_path):
    folder = data_dir / "ct-seg"
    sources = [folder / "highdicom/ct_image.dcm", folder / "highdicom/seg_image_ct_binary_single_frame.dcm"]
    dataset = convert(gpuprep, tmp_path, "First: first segment", sources)
    mask = sitk.ReadImage(folder / "reference-dcmqi/seg_image_ct_binary_single_frame/seg-1.nii.gz")
    assert_mask(dataset, dataset.only_case, "First", mask)
    expected = modality_values(pydicom.dcmread(sources[0]))
    assert np.array_equal(sitk.GetArrayFromImage(dataset.only_case.image)[0], expected)


def test_a_coronal_multi_frame_image_with_its_segmentation(gpuprep, data_dir, tmp_path):
    folder = data_dir / "ct-seg/ibsi1_digital_phantom"
    dataset = convert(gpuprep, tmp_path, "ROI: roi", [folder / "dicom"], modalities="MR,SEG")
    case = dataset.only_case
    for image, name in [(case.image, "image/phantom"), (case.label, "mask/mask")]:
        reference = sitk.ReadImage(folder / f"nifti/{name}.nii.gz")  # the same voxels, said to be axial and of 2 mm
        assert np.array_equal(sitk.GetArrayFromImage(image), sitk.GetArrayFromImage(reference).transpose(1, 0, 2))


@pytest.fixture(scope="module")
def three_structure_sets(data_dir):
    """Two slices and three RTSTRUCT; two of them are different files with one SOP Instance UID."""
    return data_dir / "ct-rtstruct/rt_utils_mock/mock_data"


def test_several_structure_sets_are_refused_by_name(gpuprep, three_structure_sets, tmp_path):
    (tmp_path / "rois.yaml").write_text("ROI: roi.*")
    command = ("nnunet", "-m", "CT,RTSTRUCT", "-ryaml", tmp_path / "rois.yaml", three_structure_sets, tmp_path / "out")
    result = gpuprep(*command)
    assert result.status == ExitStatus.CASES_FAILED
    assert "[several-segmentations]" in result.stderr
    for path in three_structure_sets.glob("*rt.dcm"):
        assert path.name in result.stderr


def test_several_structure_sets_become_as_many_cases(gpuprep, three_structure_sets, tmp_path):
    sources = [three_structure_sets]
    extra = ("--multiple-segmentations", "all")
    dataset = convert(gpuprep, tmp_path, "ROI: roi.*", sources, *extra, modalities="CT,RTSTRUCT")
    assert len(dataset.cases) == 3
    series = read_series_of([three_structure_sets / "ct_1.dcm", three_structure_sets / "ct_2.dcm"])
    for case in dataset.cases.values():
        assert_same_grid(case.image, series)
        assert np.array_equal(sitk.GetArrayFromImage(case.image), sitk.GetArrayFromImage(series))


def test_the_latest_structure_set_is_one_case(gpuprep, three_structure_sets, tmp_path):
    extra = ("--multiple-segmentations", "latest")
    dataset = convert(gpuprep, tmp_path, "ROI: roi.*", [three_structure_sets], *extra, modalities="CT,RTSTRUCT")
    (used,) = dataset.only_case.details["segmentations"]
    structure_sets = [pydicom.dcmread(p) for p in three_structure_sets.glob("*rt.dcm")]
    latest = max(structure_sets, key=lambda s: (s.StructureSetDate, s.StructureSetTime))
    assert used["sop_instance_uid"] == latest.SOPInstanceUID


def test_segmentations_without_their_image_fail_by_code(gpuprep, data_dir, tmp_path):
    folder = data_dir / "ct-seg/generated_on_sts_002_CT"
    (tmp_path / "rois.yaml").write_text("GTV: gtv_mass")
    command = ("-ryaml", tmp_path / "rois.yaml", "--dataset-name", "Lone", folder, tmp_path / "out")
    result = gpuprep("nnunet", "-m", "CT,SEG", *command)
    assert result.status == ExitStatus.CASES_FAILED
    report = json.loads((tmp_path / "out/gpuprep/Dataset001_Lone/report.json").read_text())
    assert [row["code"] for row in report["cases"]] == ["dangling-reference"] * 8
    assert all(row["patient"] == "STS_002" and "/" not in row["case"] for row in report["cases"])
    result = gpuprep("nnunet", "-m", "CT,RTSTRUCT", *command)
    assert result.status == ExitStatus.NO_INPUT
