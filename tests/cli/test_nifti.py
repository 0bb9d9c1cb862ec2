"""From studies to NIfTI files through the command line: PET, doses, masks, names and the index of files."""

import csv
import json
import zlib
from pathlib import Path

import conversions
import nibabel
import numpy as np
import pyarrow
import pydicom
import pydicom.misc
import pytest
import SimpleITK as sitk
from conversions import GTV_BOX, RAMP_HU, mask_of, two_rois, write_images, write_structures
from pyarrow import parquet

from gpuprep.dicom import synth
from gpuprep.errors import ExitStatus
from gpuprep.masks import Code
from gpuprep.writers.masks import read_mask

#: A polygon's voxel count differs from its volume by boundary voxels that fall on either side: relative tolerance.
VOLUME_TOLERANCE = 0.06
#: SUV of up to some 20 in float32, from decimal strings; g/ml.
SUV_TOLERANCE = 2e-6
#: Interpolated in float32 here, in float64 by SimpleITK; Gy, of doses up to 60.
DOSE_TOLERANCE_GY = 2e-5
PATIENT = "SYNTH-001"


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A CT with RTSTRUCT, SEG, PET and RTDOSE in one frame of reference."""
    folder = tmp_path_factory.mktemp("study")
    (patient,) = synth.write_study(folder, with_seg=True)
    rng = np.random.default_rng(0)
    grid = synth.axial_geometry((12, 20, 20), spacing_xyz_mm=(12, 12, 10))
    activity = rng.uniform(0, 2e4, grid.shape) * np.linspace(0.2, 1, 12)[:, None, None]
    synth.write_pet_series(folder / "PT", grid, activity)
    grid = synth.axial_geometry((10, 16, 18), spacing_xyz_mm=(6, 6.5, 7), origin_lps_mm=(-50, -60, -30.3))
    synth.write_rtdose(folder / "RD.dcm", patient.series, grid, rng.uniform(0, 60, grid.shape))
    return folder, patient


def convert(gpuprep, source, output, *extra, modalities="CT,PT,RTSTRUCT,SEG,RTDOSE"):
    template = "{PatientID}/{Modality}/{ImageID}.nii.gz"
    return gpuprep("nifti", "-m", modalities, "-f", template, *extra, source, output)


def load(path):
    """Return voxels (D, H, W) and affine."""
    image = nibabel.load(path)
    return np.asarray(image.dataobj).T, image.affine


def read_index(folder):
    with (folder / "index.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def failures(folder):
    cases = json.loads((folder / "gpuprep" / "report.json").read_text())["cases"]
    return sorted(case["code"] for case in cases if case["status"] == "failed")


def test_everything_of_a_study(gpuprep, study, tmp_path):
    source, patient = study
    result = convert(gpuprep, source, tmp_path)
    assert result.status == ExitStatus.DONE, result.stderr
    root = tmp_path / PATIENT
    rois = ["CTV_60", "GTVp", "Lung_L", "Lung_R", "Ring"]
    expected = ["CT/CT", "PT/PT", "RTDOSE/RTDOSE", *(f"{m}/{roi}" for m in ("RTSTRUCT", "SEG") for roi in rois)]
    assert sorted(str(p.relative_to(root))[:-7] for p in root.rglob("*.nii.gz")) == sorted(expected)
    assert "'Bolus' hold no voxel" in result.stderr

    ct, ct_affine = load(root / "CT" / "CT.nii.gz")
    truth = np.stack([pydicom.dcmread(p).pixel_array for p in patient.series.paths]) + synth.CT_INTERCEPT_HU
    np.testing.assert_array_equal(ct, truth)
    seg = pydicom.dcmread(patient.seg)
    frames = {s.SegmentNumber: np.zeros(ct.shape, np.uint8) for s in seg.SegmentSequence}
    for item, pixels in zip(seg.PerFrameFunctionalGroupsSequence, seg.pixel_array, strict=True):
        z = float(item.PlanePositionSequence[0].ImagePositionPatient[2])
        depth = round(patient.series.geometry.to_index((0, 0, z))[0])
        frames[item.SegmentIdentificationSequence[0].ReferencedSegmentNumber][depth] = pixels
    for segment in seg.SegmentSequence:
        if segment.SegmentLabel in rois:
            mask, affine = load(root / "SEG" / f"{segment.SegmentLabel}.nii.gz")
            np.testing.assert_array_equal(mask, frames[segment.SegmentNumber])
            np.testing.assert_array_equal(affine, ct_affine)
    voxel_mm3 = abs(np.linalg.det(ct_affine[:3, :3]))
    for roi, label in zip(rois, ("CTV", "GTV", "Lung_L", "Lung_R", "Ring"), strict=True):
        mask, _ = load(root / "RTSTRUCT" / f"{roi}.nii.gz")
        assert mask.sum() * voxel_mm3 == pytest.approx(patient.volumes_mm3[label], rel=VOLUME_TOLERANCE)


def test_pet_in_suv_by_weight(gpuprep, study, tmp_path):
    source, _ = study
    assert convert(gpuprep, source, tmp_path, modalities="PT").status == ExitStatus.DONE
    suv, _ = load(tmp_path / PATIENT / "PT" / "PT.nii.gz")
    slices = [pydicom.dcmread(p) for p in sorted((source / "PT").iterdir())]
    assert len({s.RescaleSlope for s in slices}) == len(slices)
    activity = np.stack([s.pixel_array * float(s.RescaleSlope) for s in slices])
    decayed_bq = 3.5e8 * 2 ** (-3600 / 6586.2)
    np.testing.assert_allclose(suv, activity * 70_000 / decayed_bq, atol=SUV_TOLERANCE)
    (entry,) = read_index(tmp_path)
    assert entry["units"] == "SUVbw"

    stored = convert(gpuprep, source, tmp_path / "stored", "--pet", "stored", modalities="PT")
    assert stored.status == ExitStatus.DONE
    values, _ = load(tmp_path / "stored" / PATIENT / "PT" / "PT.nii.gz")
    np.testing.assert_allclose(values, activity, rtol=1e-6)
    assert read_index(tmp_path / "stored")[0]["units"] == "BQML"


def test_files_that_are_others_than_those_of_the_index_are_refused(gpuprep, tmp_path):
    """The header in the index says where pixels are and what they mean."""
    index = tmp_path / "index.parquet"
    write_images(tmp_path / "in", "P", values_hu=RAMP_HU)
    write_images(tmp_path / "kept", "Q", values_hu=RAMP_HU)
    assert gpuprep("index", tmp_path / "in", tmp_path / "kept", "-o", index).status == ExitStatus.DONE
    write_images(tmp_path / "in", "P", values_hu=RAMP_HU + 1)
    assert convert(gpuprep, index, tmp_path / "out", modalities="CT").status == ExitStatus.CASES_FAILED
    assert failures(tmp_path / "out") == ["file-changed"]
    np.testing.assert_array_equal(load(tmp_path / "out" / "Q" / "CT" / "CT.nii.gz")[0], RAMP_HU)
    gpuprep("index", tmp_path / "in", tmp_path / "kept", "-o", index)
    assert convert(gpuprep, index, tmp_path / "out", modalities="CT").status == ExitStatus.DONE
    np.testing.assert_array_equal(load(tmp_path / "out" / "P" / "CT" / "CT.nii.gz")[0], RAMP_HU + 1)


@pytest.mark.parametrize("command", ["nifti", "nnunet"])
def test_a_ct_and_an_mr_of_one_series_uid_are_two_series(gpuprep, tmp_path, command):
    """The structure set names the UID of both, and the instances of the CT."""
    series = write_images(tmp_path / "in" / "CT", "P", values_hu=RAMP_HU)
    write_structures(tmp_path / "in" / "RS.dcm", series, two_rois())

    def make_mr(data):
        data.Modality, data.SeriesInstanceUID = "MR", series.series_instance_uid
        data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = synth.derive_uid("mr", data.SOPInstanceUID)

    write_images(tmp_path / "in" / "MR", "P", values_hu=RAMP_HU + 1, edit=make_mr)
    if command == "nifti":
        assert convert(gpuprep, tmp_path / "in", tmp_path, modalities="CT,MR,RTSTRUCT").status == ExitStatus.DONE
        rows = read_index(tmp_path)
        assert sorted(row["modality"] for row in rows) == ["CT", "MR", "RTSTRUCT", "RTSTRUCT"]
        assert {row["reference_series_uid"] for row in rows if row["modality"] == "RTSTRUCT"} == {
            series.series_instance_uid
        }
        np.testing.assert_array_equal(load(tmp_path / "P" / "CT" / "CT.nii.gz")[0], RAMP_HU)
        np.testing.assert_array_equal(load(tmp_path / "P" / "MR" / "MR.nii.gz")[0], RAMP_HU + 1)
    else:
        rois = conversions.write_map(tmp_path / "map.json", {"GTV": "gtv", "CTV": "ctv"})
        assert gpuprep("nnunet", "-m", "CT,RTSTRUCT", "-ryaml", rois, tmp_path / "in", tmp_path / "out").status == 0
        (image,) = (tmp_path / "out").rglob("*_0000.nii.gz")
        np.testing.assert_array_equal(load(image)[0], RAMP_HU)


def test_a_screenshot_in_a_pet_series_changes_nothing(gpuprep, tmp_path):
    grid = synth.axial_geometry((4, 6, 5), spacing_xyz_mm=(4, 4, 4))
    series = synth.write_pet_series(tmp_path / "in", grid, np.arange(120.0).reshape(grid.shape))
    assert convert(gpuprep, tmp_path / "in", tmp_path / "alone", modalities="PT").status == ExitStatus.DONE
    shot = pydicom.dcmread(series.paths[0])
    shot.SOPInstanceUID = shot.file_meta.MediaStorageSOPInstanceUID = synth.derive_uid("screenshot")
    for keyword in ("ImagePositionPatient", "Units", "PatientWeight", "RadiopharmaceuticalInformationSequence"):
        del shot[keyword]
    synth.write_dataset(shot, tmp_path / "in" / "A.dcm")
    assert convert(gpuprep, tmp_path / "in", tmp_path / "both", modalities="PT").status == ExitStatus.DONE
    suv, expected = (load(tmp_path / folder / PATIENT / "PT" / "PT.nii.gz")[0] for folder in ("both", "alone"))
    np.testing.assert_array_equal(suv, expected)


def test_pet_without_weight_is_refused_by_name(gpuprep, study, tmp_path):
    for path in (study[0] / "PT").iterdir():
        data = pydicom.dcmread(path)
        del data.PatientWeight
        synth.write_dataset(data, tmp_path / "in" / path.name)
    result = convert(gpuprep, tmp_path / "in", tmp_path / "out", modalities="PT")
    assert result.status == ExitStatus.CASES_FAILED
    assert "[suv-weight-missing]" in result.stderr
    assert "--pet stored" in result.stderr
    assert read_index(tmp_path / "out") == []


def test_dose_on_its_own_grid_and_on_the_image(gpuprep, study, tmp_path):
    source, _ = study
    assert convert(gpuprep, source, tmp_path / "own", modalities="RTDOSE").status == ExitStatus.DONE
    gray, _ = load(tmp_path / "own" / PATIENT / "RTDOSE" / "RTDOSE.nii.gz")
    data = pydicom.dcmread(source / "RD.dcm")
    np.testing.assert_array_equal(gray, (data.pixel_array * float(data.DoseGridScaling)).astype(np.float32))
    own = sitk.GetImageFromArray(data.pixel_array * float(data.DoseGridScaling))
    own.SetOrigin([float(v) for v in data.ImagePositionPatient])
    own.SetSpacing([float(data.PixelSpacing[1]), float(data.PixelSpacing[0]), 7.0])

    result = convert(gpuprep, source, tmp_path, "--dose-grid", "image", modalities="CT,RTDOSE")
    assert result.status == ExitStatus.DONE, result.stderr
    root = tmp_path / PATIENT
    on_image = sitk.Resample(own, sitk.ReadImage(root / "CT" / "CT.nii.gz"), sitk.Transform(), sitk.sitkLinear, 0.0)
    found, _ = load(root / "RTDOSE" / "RTDOSE.nii.gz")
    np.testing.assert_allclose(found, sitk.GetArrayFromImage(on_image), atol=DOSE_TOLERANCE_GY)
    assert 0 < np.count_nonzero(found) < found.size
    entries = {e["modality"]: e for e in read_index(tmp_path)}
    assert entries["RTDOSE"]["units"] == "GY"
    assert entries["RTDOSE"]["reference_series_uid"] == entries["CT"]["series_instance_uid"]


def test_all_of_a_study_on_one_grid(gpuprep, study, tmp_path):
    extra = ("--dose-grid", "image", "--crop", "foreground", "--spacing", "3,3,3", "--orientation", "RAS")
    assert convert(gpuprep, study[0], tmp_path, *extra).status == ExitStatus.DONE
    root = tmp_path / PATIENT
    ct = load(root / "CT" / "CT.nii.gz")
    for other in ("RTSTRUCT/GTVp", "SEG/GTVp", "RTDOSE/RTDOSE"):
        array, affine = load(root / f"{other}.nii.gz")
        assert array.shape == ct[0].shape
        np.testing.assert_allclose(affine, ct[1], atol=1e-4)


def test_cropped_to_its_rois_an_image_goes_with_each_segmentation(gpuprep, study, tmp_path):
    result = convert(gpuprep, study[0], tmp_path, "--crop", "roi:5", modalities="CT,RTSTRUCT,SEG")
    assert result.status == ExitStatus.DONE, result.stderr
    entries = read_index(tmp_path)
    for image in (e for e in entries if e["modality"] == "CT"):
        sizes = {e["size_x"] for e in entries if e["case"] == image["case"]}
        assert sizes == {image["size_x"]}
        assert int(image["size_x"]) < 64
    assert sum(e["modality"] == "CT" for e in entries) == 2


def test_label_images_refuse_overlap_and_the_rest_is_written(gpuprep, study, tmp_path):
    source, _ = study
    result = convert(gpuprep, source, tmp_path, "--masks", "label", modalities="CT,RTSTRUCT")
    assert result.status == ExitStatus.CASES_FAILED
    assert failures(tmp_path) == ["labels-overlap"]
    assert [p.name for p in tmp_path.rglob("*.nii.gz")] == ["CT.nii.gz"]

    rois = tmp_path / "rois.yaml"
    rois.write_text("Lungs: [lung.*]\nRing: [ring]\n")
    extra = ("--masks", "label", "-ryaml", rois, "--roi-strategy", "merge")
    result = convert(gpuprep, source, tmp_path, *extra, modalities="CT,RTSTRUCT")
    assert result.status == ExitStatus.DONE, result.stderr
    labels, _ = load(tmp_path / PATIENT / "RTSTRUCT" / "RTSTRUCT.nii.gz")
    entries = {e["roi"]: e for e in read_index(tmp_path)}
    for name, value in (("Lungs", 1), ("Ring", 2)):
        assert int(entries[name]["voxels"]) == (labels == value).sum() > 0


@pytest.mark.parametrize(
    ("container", "suffix"), [("seg.nrrd", ".seg.nrrd"), ("zarr", ".zarr"), ("hdf5", ".h5"), ("npz", ".npz")]
)
def test_one_container_holds_all_rois(gpuprep, study, tmp_path, container, suffix):
    result = convert(gpuprep, study[0], tmp_path, "--masks", container, modalities="CT,RTSTRUCT")
    assert result.status == ExitStatus.DONE, result.stderr
    mask = read_mask(tmp_path / PATIENT / "RTSTRUCT" / f"RTSTRUCT{suffix}")
    entries = {e["roi"]: int(e["voxels"]) for e in read_index(tmp_path) if e["roi"]}
    assert entries == dict(zip((roi.name for roi in mask.rois), mask.voxel_counts.tolist(), strict=True))
    assert entries["Bolus"] == 0 < entries["GTVp"] < entries["CTV_60"]
    assert not list(tmp_path.rglob(".*part*"))


def test_codes_of_segments_reach_the_containers(gpuprep, study, tmp_path):
    source, patient = study
    result = convert(gpuprep, source, tmp_path, "--masks", "seg.nrrd", modalities="CT,SEG")
    assert result.status == ExitStatus.DONE, result.stderr
    rois = read_mask(tmp_path / PATIENT / "SEG" / "SEG.seg.nrrd").rois
    segments = pydicom.dcmread(patient.seg).SegmentSequence
    assert len(rois) == len(segments)
    for roi, segment in zip(rois, segments, strict=True):
        (category,), (kind,) = segment.SegmentedPropertyCategoryCodeSequence, segment.SegmentedPropertyTypeCodeSequence
        assert (roi.name, roi.algorithm) == (segment.SegmentLabel, segment.SegmentAlgorithmType)
        assert roi.category == Code(category.CodingSchemeDesignator, category.CodeValue, category.CodeMeaning)
        assert roi.type == Code(kind.CodingSchemeDesignator, kind.CodeValue, kind.CodeMeaning)


def test_rois_of_one_name_are_counted_apart(gpuprep, tmp_path):
    series = conversions.write_images(tmp_path / "in", "P")
    boxes = (conversions.GTV_BOX, conversions.CTV_BOX)
    rois = [synth.RoiSpec(n, "GTV", conversions.contours_of(box)) for n, box in enumerate(boxes, 1)]
    conversions.write_structures(tmp_path / "in" / "rs.dcm", series, [*rois, synth.RoiSpec(3, "GTV", [])])
    result = convert(gpuprep, tmp_path / "in", tmp_path / "out", modalities="CT,RTSTRUCT")
    assert result.status == ExitStatus.DONE and "'GTV' hold no voxel" in result.stderr
    report = json.loads((tmp_path / "out" / "gpuprep" / "report.json").read_text())
    (voxels,) = (c["details"]["voxels"] for c in report["cases"] if "voxels" in c["details"])
    sizes = [int(conversions.mask_of(box).sum()) for box in boxes]
    assert voxels == {"GTV (label 1)": sizes[0], "GTV (label 2)": sizes[1], "GTV (label 3)": 0}
    assert sorted(int(e["voxels"]) for e in read_index(tmp_path / "out") if e["roi"]) == sorted(sizes)


def test_a_container_that_is_a_folder_resumes_and_is_replaced(gpuprep, study, tmp_path):
    convert(gpuprep, study[0], tmp_path, "--masks", "zarr", modalities="CT,RTSTRUCT")
    again = convert(gpuprep, study[0], tmp_path, "--masks", "zarr", modalities="CT,RTSTRUCT")
    assert "2 cases are done already" in again.stderr
    convert(gpuprep, study[0], tmp_path, modalities="CT,RTSTRUCT")
    assert not list(tmp_path.rglob("*.zarr"))


def test_dicom_segmentations_refer_to_their_image(gpuprep, study, tmp_path):
    source, patient = study
    result = convert(gpuprep, source, tmp_path, "--masks", "dicomseg", modalities="CT,RTSTRUCT")
    assert result.status == ExitStatus.DONE, result.stderr
    data = pydicom.dcmread(tmp_path / PATIENT / "RTSTRUCT" / "RTSTRUCT.dcm")
    assert data.ReferencedSeriesSequence[0].SeriesInstanceUID == patient.series.series_instance_uid
    assert "GTVp" in [s.SegmentLabel for s in data.SegmentSequence]


def test_a_dicom_segmentation_refers_to_no_localizer_of_its_series(gpuprep, tmp_path):
    series = conversions.write_images(tmp_path / "in", "P")
    conversions.write_structures(tmp_path / "in" / "rs.dcm", series, conversions.two_rois(conversions.GRID))
    localizer = pydicom.dcmread(tmp_path / "in" / "IM000.dcm")
    localizer.SOPInstanceUID = "1.2.3.4.5"
    localizer.ImageOrientationPatient = [1, 0, 0, 0, 0, -1]
    localizer.Rows, localizer.Columns = 30, 26
    localizer.PixelData = bytes(2 * 30 * 26)
    synth.write_dataset(localizer, tmp_path / "in" / "localizer.dcm")
    result = convert(gpuprep, tmp_path / "in", tmp_path / "out", "--masks", "dicomseg", modalities="CT,RTSTRUCT")
    assert result.status == ExitStatus.DONE, result.stderr
    (path,) = (tmp_path / "out").rglob("*.dcm")
    referenced = pydicom.dcmread(path).ReferencedSeriesSequence[0].ReferencedInstanceSequence
    uids = {pydicom.dcmread(p).SOPInstanceUID for p in (tmp_path / "in").glob("IM*.dcm")}
    assert {r.ReferencedSOPInstanceUID for r in referenced} == uids


@pytest.mark.parametrize(
    ("strategy", "files"),
    [("merge", ["Lungs"]), ("keep_first", ["Lungs"]), ("separate", ["Lungs__Lung_L", "Lungs__Lung_R"])],
)
def test_roi_strategies(gpuprep, study, tmp_path, strategy, files):
    rois = tmp_path / "rois.yaml"
    rois.write_text("Lungs: [lung.*]\nHeart: heart\n")
    extra = ("-ryaml", rois, "--roi-strategy", strategy)
    result = convert(gpuprep, study[0], tmp_path, *extra, modalities="CT,RTSTRUCT")
    assert result.status == ExitStatus.DONE, result.stderr
    assert "no ROI for the label 'Heart'" in result.stderr
    assert sorted(p.name[:-7] for p in (tmp_path / PATIENT / "RTSTRUCT").iterdir()) == files
    voxels = sum(int(e["voxels"]) for e in read_index(tmp_path) if e["roi"])
    counts = [load(p)[0].sum() for p in (tmp_path / PATIENT / "RTSTRUCT").iterdir()]
    assert voxels == sum(counts)


def test_masks_that_kept_the_modality_of_their_image_are_not_lost(gpuprep, study, tmp_path):
    (tmp_path / "in").mkdir()
    for path in filter(pydicom.misc.is_dicom, filter(Path.is_file, study[0].rglob("*"))):
        data = pydicom.dcmread(path)
        if data.Modality in ("CT", "RTSTRUCT", "SEG"):
            data.Modality = "CT"
            data.save_as(tmp_path / "in" / f"{data.SOPInstanceUID}.dcm")
    result = convert(gpuprep, tmp_path / "in", tmp_path / "out", modalities="CT,RTSTRUCT,SEG")
    assert result.status == ExitStatus.DONE, result.stderr
    found = {p.name for p in (tmp_path / "out" / PATIENT).iterdir()}
    assert found == {"CT", "RTSTRUCT", "SEG"}


@pytest.mark.parametrize("modality", ["RTSTRUCT", "SEG"])
def test_keep_first_passes_over_what_a_template_left_empty(gpuprep, tmp_path, modality):
    grid = synth.axial_geometry((4, 20, 20), spacing_xyz_mm=(1, 1, 2))
    series = synth.write_ct_series(tmp_path / "in", grid, np.zeros(grid.shape, np.int16))
    drawn = np.zeros(grid.shape, bool)
    drawn[1, 5:9, 5:9] = True
    if modality == "RTSTRUCT":
        square = grid.to_lps([(1, h, w) for h, w in ((4.5, 4.5), (4.5, 8.5), (8.5, 8.5), (8.5, 4.5))])
        marker = synth.RoiSpec(1, "GTV marker", [square[:1]], "POINT")
        rois = [marker, synth.RoiSpec(2, "GTV", ()), synth.RoiSpec(3, "GTV 1", [square])]
        data = synth.build_structure_set(series, rois)
    else:
        data = synth.build_segmentation(
            series, [synth.SegmentSpec(1, "GTV", ~drawn & drawn), synth.SegmentSpec(2, "GTV 1", drawn)]
        )
    synth.write_dataset(data, tmp_path / "in" / "mask")
    (tmp_path / "rois.yaml").write_text("GTV: gtv.*\n")
    extra = ("-ryaml", tmp_path / "rois.yaml", "--roi-strategy", "keep_first", "--on-missing", "error")
    result = convert(gpuprep, tmp_path / "in", tmp_path / "out", *extra, modalities=f"CT,{modality}")
    assert result.status == ExitStatus.DONE, result.stderr
    (path,) = (tmp_path / "out").rglob("GTV.nii.gz")
    assert load(path)[0].sum() == 16


def test_the_index_tells_what_the_files_hold(gpuprep, study, tmp_path):
    assert convert(gpuprep, study[0], tmp_path).status == ExitStatus.DONE
    entries = read_index(tmp_path)
    assert len(entries) == len({e["path"] for e in entries}) == len(list(tmp_path.rglob("*.nii.gz")))
    for entry in entries:
        image = nibabel.load(tmp_path / entry["path"])
        voxels = np.asarray(image.dataobj)
        assert voxels.shape == tuple(int(entry[f"size_{axis}"]) for axis in "xyz")
        np.testing.assert_allclose(image.header.get_zooms(), [float(entry[f"spacing_{a}_mm"]) for a in "xyz"])
        assert voxels.dtype.name == entry["dtype"]
        assert zlib.crc32(np.ascontiguousarray(voxels.T)) == int(entry["voxels_crc32"])
        if entry["roi"]:
            place = np.argwhere(voxels)
            assert [int(entry[f"box_first_{axis}"]) for axis in "xyz"] == place.min(axis=0).tolist()
            assert [int(entry[f"box_last_{axis}"]) for axis in "xyz"] == place.max(axis=0).tolist()
            assert int(entry["voxels"]) == len(place)
            volume_mm3 = len(place) * np.prod(image.header.get_zooms())
            assert float(entry["volume_mm3"]) == pytest.approx(volume_mm3, rel=1e-6)
        else:
            exact = voxels.astype(np.float64)
            found = [float(entry[name]) for name in ("minimum", "maximum", "mean", "std")]
            np.testing.assert_allclose(found, [exact.min(), exact.max(), exact.mean(), exact.std()], rtol=1e-9)
    assert convert(gpuprep, study[0], tmp_path, "--index-format", "parquet").status == ExitStatus.DONE
    assert sorted(p.name for p in tmp_path.glob("index.*")) == ["index.parquet"]
    table = parquet.read_table(tmp_path / "index.parquet")
    assert [{name: str("" if v is None else v) for name, v in row.items()} for row in table.to_pylist()] == entries
    assert {table.schema.field(name).type for name in ("bytes", "size_x")} == {pyarrow.int64()}


def test_rerun_resumes_and_other_options_replace(gpuprep, study, tmp_path):
    convert(gpuprep, study[0], tmp_path, modalities="CT,RTSTRUCT")
    index = (tmp_path / "index.csv").read_bytes()
    again = convert(gpuprep, study[0], tmp_path, modalities="CT,RTSTRUCT")
    assert "2 cases are done already" in again.stderr
    assert (tmp_path / "index.csv").read_bytes() == index
    rois = tmp_path / "rois.yaml"
    rois.write_text("Ring: ring\n")
    convert(gpuprep, study[0], tmp_path, "-ryaml", rois, modalities="CT,RTSTRUCT")
    assert [p.name for p in (tmp_path / PATIENT / "RTSTRUCT").iterdir()] == ["Ring__Ring.nii.gz"]


def test_new_sources_take_no_place_of_earlier_ones(gpuprep, study, tmp_path):
    source, patient = study
    gpuprep("nifti", "-m", "CT", "-f", "{PatientID}.nii", source, tmp_path / "out")
    before = (tmp_path / "out" / f"{PATIENT}.nii").read_bytes()
    synth.write_ct_series(tmp_path / "in", patient.series.geometry, np.zeros((24, 64, 64), np.int16), series="again")
    result = gpuprep("nifti", "-m", "CT", "-f", "{PatientID}.nii", tmp_path / "in", tmp_path / "out")
    assert result.status == ExitStatus.DONE, result.stderr
    assert (tmp_path / "out" / f"{PATIENT}.nii").read_bytes() == before
    assert len(list((tmp_path / "out").glob("*.nii"))) == len(read_index(tmp_path / "out")) == 2


def test_uncompressed_files_of_one_folder(gpuprep, study, tmp_path):
    result = gpuprep("nifti", "-m", "CT,PT", "-f", "{PatientID}.nii", study[0], tmp_path)
    assert result.status == ExitStatus.DONE, result.stderr
    names = sorted(p.name for p in tmp_path.glob("*.nii"))
    assert len(names) == 2
    assert all(name.startswith(f"{PATIENT}_") for name in names)


@pytest.mark.parametrize(
    ("extra", "code"),
    [
        (("-m", "CT,XYZ"), "bad-modalities"),
        (("-m", "RTSTRUCT"), "bad-modalities"),
        (("-m", "RTDOSE", "--dose-grid", "image"), "bad-modalities"),
        (("-m", "CT,RTDOSE", "--dose-grid", "image", "--crop", "roi"), "bad-crop"),
        (("-m", "CT,RTSTRUCT", "-f", "{PatientID}.nii.gz"), "bad-filename-format"),
        (("-f", "{ImageID}.png"), "bad-filename-format"),
        (("-f", "{PatientName}.nii.gz"), "unknown-field"),
        (("-m", "CT,RTSTRUCT", "--roi-strategy", "merge"), "roi-map-missing"),
    ],
)
def test_wrong_options_stop_before_work(gpuprep, study, tmp_path, extra, code):
    result = gpuprep("nifti", *extra, study[0], tmp_path)
    assert result.status == ExitStatus.CONFIG
    assert f"[{code}]" in result.stderr
    assert not list(tmp_path.rglob("*.nii*"))


def test_a_dose_beside_its_image_is_a_failed_case(gpuprep, study, tmp_path):
    _, patient = study
    for path in patient.series.paths:
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / path.name).write_bytes(path.read_bytes())
    grid = synth.axial_geometry((3, 4, 5), spacing_xyz_mm=(6, 6, 7), origin_lps_mm=(900, 0, 0))
    synth.write_rtdose(tmp_path / "in" / "RD.dcm", patient.series, grid, np.ones(grid.shape))
    result = convert(gpuprep, tmp_path / "in", tmp_path / "out", "--dose-grid", "image", modalities="CT,RTDOSE")
    assert result.status == ExitStatus.CASES_FAILED
    assert failures(tmp_path / "out") == ["channel-elsewhere"]


def test_a_dose_without_image_is_a_failed_case(gpuprep, study, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "RD.dcm").write_bytes((study[0] / "RD.dcm").read_bytes())
    result = convert(gpuprep, tmp_path / "in", tmp_path / "out", "--dose-grid", "image")
    assert result.status == ExitStatus.CASES_FAILED
    assert failures(tmp_path / "out") == ["channel-missing"]


def test_a_structure_set_without_rois_is_a_failed_case(gpuprep, study, tmp_path):
    _, patient = study
    for path in patient.series.paths:
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / path.name).write_bytes(path.read_bytes())
    synth.write_rtstruct(tmp_path / "in" / "RS.dcm", patient.series, [])
    result = convert(gpuprep, tmp_path / "in", tmp_path / "out", modalities="CT,RTSTRUCT")
    assert result.status == ExitStatus.CASES_FAILED
    assert failures(tmp_path / "out") == ["no-roi-matched"]
    assert [p.name for p in tmp_path.rglob("*.nii.gz")] == ["CT.nii.gz"]


def test_a_mask_needs_no_choice_among_echoes_on_one_grid(gpuprep, tmp_path):
    def move_echo(data):
        data.EchoTime, data.AcquisitionNumber = "20", 2
        data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = synth.derive_uid(data.SOPInstanceUID, "echo")

    series = write_images(
        tmp_path / "in", "echoes", name="a{}.dcm".format, edit=lambda data: setattr(data, "EchoTime", 5)
    )
    write_images(tmp_path / "in", "echoes", name="b{}.dcm".format, edit=move_echo)

    def refer_to_both(data):
        (study,) = data.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence
        images = study.RTReferencedSeriesSequence[0].ContourImageSequence
        for uid in series.sop_instance_uids:
            item = pydicom.Dataset()
            item.ReferencedSOPClassUID = images[0].ReferencedSOPClassUID
            item.ReferencedSOPInstanceUID = synth.derive_uid(uid, "echo")
            images.append(item)

    write_structures(tmp_path / "in" / "rs.dcm", series, two_rois(), edit=refer_to_both)
    result = convert(gpuprep, tmp_path / "in", tmp_path / "out", modalities="CT,RTSTRUCT")
    assert result.status == ExitStatus.DONE, result.stderr
    gtv, affine = load(tmp_path / "out" / "echoes" / "RTSTRUCT" / "gtv.nii.gz")
    np.testing.assert_array_equal(gtv, mask_of(GTV_BOX))
    images = sorted((tmp_path / "out" / "echoes" / "CT").iterdir())
    assert len(images) == 2
    for image in images:
        np.testing.assert_array_equal(load(image)[1], affine)

    crop = ("--crop", "foreground")  # that of each echo is its own
    assert (
        convert(gpuprep, tmp_path / "in", tmp_path / "cut", *crop, modalities="CT,RTSTRUCT").status != ExitStatus.DONE
    )
    assert "several-volumes" in failures(tmp_path / "cut")


def become_colours(data):
    data.PhotometricInterpretation, data.PixelRepresentation = "PALETTE COLOR", 0


def lose_rescale(data):
    del data.RescaleSlope, data.RescaleIntercept


def gain_lut(data):
    data.ModalityLUTSequence = [pydicom.Dataset()]


def lose_half_of_the_bits(data):
    data.BitsAllocated, data.BitsStored, data.HighBit = 8, 8, 7


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (become_colours, "palette:"),
        (lose_rescale, "rescale:"),
        (gain_lut, "modality-lut:"),
        (lose_half_of_the_bits, "pixel-data:"),
    ],
)
def test_values_in_doubt_are_warned_of(gpuprep, tmp_path, edit, said):
    write_images(tmp_path / "in", "one", edit=edit)
    result = convert(gpuprep, tmp_path / "in", tmp_path / "out", modalities="CT")
    assert result.status == ExitStatus.DONE
    (case,) = json.loads((tmp_path / "out" / "gpuprep" / "report.json").read_text())["cases"]
    assert [text.partition(" ")[0] for text in case["details"]["warnings"]] == [said]


def test_signed_and_unsigned_images_of_16_bits_are_one_volume(gpuprep, tmp_path):
    """Of GE's kind: 16 bits stored, signed with padding of -2000, and some slices unsigned."""

    def widen(data):
        data.BitsStored, data.HighBit = 16, 15
        is_signed = data.InstanceNumber % 2
        data.PixelRepresentation, data.RescaleIntercept = is_signed, 0 if is_signed else -2000
        values = np.full((data.Rows, data.Columns), -2000, np.int16) + np.arange(data.Columns, dtype=np.int16)
        data.PixelData = (values if is_signed else values + 2000).astype("<i2").tobytes()

    write_images(tmp_path / "in", "one", edit=widen)
    result = convert(gpuprep, tmp_path / "in", tmp_path / "out", modalities="CT")
    assert result.status == ExitStatus.DONE, result.stderr
    (path,) = (tmp_path / "out" / "one" / "CT").iterdir()
    voxels, _ = load(path)
    assert voxels.dtype == np.int16
    expected = np.broadcast_to(np.arange(voxels.shape[-1]) - 2000, voxels.shape)
    np.testing.assert_array_equal(np.sort(voxels, axis=-1), expected)


def become_enhanced(data):
    def group(*keywords):
        item = pydicom.Dataset()
        for keyword in keywords:
            setattr(item, keyword, data[keyword].value)
            delattr(data, keyword)
        return [item]

    shared, own = pydicom.Dataset(), pydicom.Dataset()
    shared.PlaneOrientationSequence = group("ImageOrientationPatient")
    shared.PixelMeasuresSequence = group("PixelSpacing", "SliceThickness")
    shared.PixelValueTransformationSequence = group("RescaleSlope", "RescaleIntercept")
    own.PlanePositionSequence = group("ImagePositionPatient")
    data.SharedFunctionalGroupsSequence, data.PerFrameFunctionalGroupsSequence = [shared], [own]
    data.NumberOfFrames, data.SOPClassUID = 1, "1.2.840.10008.5.1.4.1.1.2.1"


def test_enhanced_images_of_one_frame_are_what_classic_ones_are(gpuprep, tmp_path):
    write_images(tmp_path / "in" / "classic", "classic")
    write_images(tmp_path / "in" / "enhanced", "enhanced", edit=become_enhanced)
    result = convert(gpuprep, tmp_path / "in", tmp_path / "out", modalities="CT")
    assert result.status == ExitStatus.DONE
    cases = json.loads((tmp_path / "out" / "gpuprep" / "report.json").read_text())["cases"]
    assert [case["details"]["warnings"] for case in cases] == [[], []]
    (classic,), (enhanced,) = ((tmp_path / "out" / name / "CT").iterdir() for name in ("classic", "enhanced"))
    for a, b in zip(load(classic), load(enhanced), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", ["ibsi_sts_002", "ibsi_sts_025"])
def test_real_study_against_references(gpuprep, data_dir, tmp_path, name):
    folder = data_dir / "ct-rtstruct" / name
    patient = name.replace("ibsi_sts", "STS")
    result = convert(gpuprep, folder / "dicom", tmp_path, modalities="CT,MR,PT,RTSTRUCT")
    assert result.status == ExitStatus.DONE, result.stderr
    suv, affine = load(tmp_path / patient / "PT" / "PT.nii.gz")
    reference = sitk.ReadImage(folder / "nifti" / patient / "PET_image.nii.gz")
    expected = sitk.GetArrayFromImage(reference)
    np.testing.assert_allclose(suv, expected, atol=SUV_TOLERANCE)
    np.testing.assert_allclose(np.linalg.norm(affine[:3, :3], axis=0), reference.GetSpacing(), rtol=1e-5)
    for modality in ("CT", "MR_T1", "PET"):
        (path,) = (tmp_path / patient / "RTSTRUCT").glob(f"GTV_Mass_{modality}_????????.nii.gz")
        mask, _ = load(path)
        exact = folder / "reference-masks" / modality / "exact-pixel-centre" / f"GTV_Mass_{modality}.nii.gz"
        np.testing.assert_array_equal(mask, load(exact)[0])
