"""Masks of real studies through every container."""

from __future__ import annotations

from pathlib import Path

import conversions
import nibabel
import numpy as np
import pydicom
import pytest
from mask_sets import check_same, random_mask

from gpuprep.backends import select
from gpuprep.config import Stacking
from gpuprep.dicom import synth
from gpuprep.dicom.header import read_headers
from gpuprep.errors import ConfigError, HeaderError, InputNotFoundError, LinkError, RoiError
from gpuprep.masks import let_last_win
from gpuprep.run.masks import find_images, open_mask
from gpuprep.writers.masks import MASK_WRITERS, segnrrd

SUFFIX = {"seg.nrrd": ".seg.nrrd", "dicomseg": ".dcm", "zarr": ".zarr", "label": ".nii.gz", "separate": "",
          "hdf5": ".h5", "npz": ".npz"}  # fmt: skip
SLICES = "dcmqi_segmentations/ct-3slice"
#: SEGs whose frames are not said to lie anywhere in a patient: on microscopic slides and on a projection.
SEGS_WITHOUT_PLACE = [f"highdicom/seg_image_{name}.dcm" for name in (
    "cr_binary", "sm_control", "sm_control_labelmap", "sm_control_labelmap_palette_color", "sm_dots",
    "sm_dots_tiled_full", "sm_numbers")]  # fmt: skip
#: Folder of the images of each other SEG of the test data, None where there are none.
SEG_IMAGES = {
    "dcmqi_segmentations/liver.dcm": SLICES,
    "dcmqi_segmentations/partial_overlaps.dcm": SLICES,
    "dcmqi_segmentations/sparse-labelmap-noppv.dcm": None,
    "dcmqi_segmentations/sparse-labelmap-ppv5.dcm": None,
    "dcmqi_segmentations/23x38x3/seg/label.seg": "dcmqi_segmentations/23x38x3/image",
    "dcmqi_segmentations/24x38x3/seg/label.seg": "dcmqi_segmentations/24x38x3/image",
    "highdicom/seg_image_ct_binary_single_frame.dcm": None,
    "highdicom/seg_image_ct_binary.dcm": None,
    "highdicom/seg_image_ct_binary_overlap.dcm": None,
    "highdicom/seg_image_ct_binary_fractional.dcm": None,
    "highdicom/seg_image_ct_true_fractional.dcm": None,
    "ibsi1_digital_phantom/dicom/mask/mask.dcm": "ibsi1_digital_phantom/dicom/image",
    **dict.fromkeys((f"generated_on_sts_002_CT/{name}.dcm" for name in (
        "binary_all_frames", "binary_overlap", "binary_sparse_single", "fractional_probability", "fractional_rle",
        "labelmap", "labelmap_j2k", "labelmap_rle")), "STS"),
    **dict.fromkeys((f"pydicom_data_liver/liver{name}.dcm" for name in (
        "", "_deflate", "_expb", "_j2k", "_rle", "_nonbyte_aligned", "_nonbyte_aligned_deflate",
        "_nonbyte_aligned_j2k", "_nonbyte_aligned_rle")), SLICES),
}  # fmt: skip
STS = "ct-rtstruct/ibsi_sts_002/dicom/STS_002/CT/image"


def open_it(path, image=None, *, on_irregular="error"):
    return open_mask(path, image=image, stacking=Stacking(on_irregular), backend=select("cpu"))


def check_through_every_container(opened, folder):
    for container, suffix in SUFFIX.items():
        if container == "dicomseg" and not opened.images:
            continue
        mask = let_last_win(opened.mask)[0] if container == "label" else opened.mask
        options = {"sources": opened.images} if container == "dicomseg" else {}
        path = folder / f"mask{suffix}"
        MASK_WRITERS.load(container)(mask, path, **options)
        again = open_it(path)
        assert again.problems == ()
        check_same(mask, again.mask)


def test_the_104_roi_study_through_every_container(data_dir, tmp_path):
    folder = data_dir / "ct-rtstruct" / "totalsegmentator_aide"
    opened = open_it(next((folder / "rtstruct").iterdir()), folder / "dcm", on_irregular="resample")
    assert len(opened.mask.rois) == 104 and len(opened.images) == 20
    assert np.count_nonzero(opened.mask.voxel_counts) == 34
    check_through_every_container(opened, tmp_path)


@pytest.mark.filterwarnings("ignore::UserWarning")  # pydicom's, on oddities of the files
def test_no_seg_of_the_test_data_is_left_out(data_dir):
    folder = data_dir / "ct-seg"
    headers = read_headers([str(p) for p in sorted(folder.rglob("*")) if p.is_file()])
    found = {str(Path(h.path).relative_to(folder)) for h in headers if h.modality == "SEG"}
    assert found == {*SEG_IMAGES, *SEGS_WITHOUT_PLACE}


@pytest.mark.parametrize("name", SEG_IMAGES)
def test_every_seg_through_every_container(name, data_dir, tmp_path):
    images = SEG_IMAGES[name]
    image = data_dir / STS if images == "STS" else images and data_dir / "ct-seg" / images
    opened = open_it(data_dir / "ct-seg" / name, image)
    assert opened.mask.voxel_counts.any()
    check_through_every_container(opened, tmp_path)


@pytest.mark.parametrize(("name", "truth", "threshold"), [
    ("labelmap", "labelmap", None), ("labelmap_rle", "labelmap", None), ("labelmap_j2k", "labelmap", None),
    ("fractional_probability", "fractional_255", 127.5), ("fractional_rle", "fractional_255", 127.5),
    ("binary_sparse_single", "GTV_Mass", 0), ("binary_all_frames", "GTV_Mass", 0),
])  # fmt: skip
def test_truth_arrays(name, truth, threshold, data_dir, tmp_path):
    folder = data_dir / "ct-seg" / "generated_on_sts_002_CT"
    opened = open_it(folder / f"{name}.dcm", data_dir / STS)
    segnrrd.write(opened.mask, tmp_path / "m.seg.nrrd")
    mask = segnrrd.read(tmp_path / "m.seg.nrrd")
    expected = np.asarray(nibabel.load(folder / "truth" / f"{truth}.nii.gz").dataobj).T
    for n, roi in enumerate(opened.mask.rois):
        is_in = expected == roi.number if threshold is None else expected > threshold
        assert np.array_equal(mask.binary(n).astype(bool), is_in)


def test_a_seg_without_its_images_lies_on_a_grid_of_its_own(data_dir):
    folder = data_dir / "ct-seg" / "dcmqi_segmentations"
    alone, placed = open_it(folder / "liver.dcm").mask, open_it(folder / "liver.dcm", folder / "ct-3slice").mask
    assert alone.voxel_counts.tolist() == placed.voxel_counts.tolist()
    first = [mask.geometry.to_lps(mask.bounding_boxes()[0, 0]) for mask in (alone, placed)]
    assert np.allclose(*first, atol=1e-3)


def test_frames_of_a_tilted_gantry_need_their_images(data_dir, tmp_path):
    folder = data_dir / "ct-seg" / "dcmqi_segmentations"
    data = pydicom.dcmread(folder / "liver.dcm")
    for n, item in enumerate(data.PerFrameFunctionalGroupsSequence):
        x, y, z = item.PlanePositionSequence[0].ImagePositionPatient
        item.PlanePositionSequence[0].ImagePositionPatient = [x, y + n, z]
    data.save_as(tmp_path / "m.dcm")
    with pytest.raises(RoiError) as caught:
        open_it(tmp_path / "m.dcm")
    assert caught.value.code == "irregular-frames" and "--image" in caught.value.hint
    assert open_it(tmp_path / "m.dcm", folder / "ct-3slice").mask.voxel_counts.all()


def test_a_structure_set_needs_its_images(data_dir):
    folder = data_dir / "ct-rtstruct" / "totalsegmentator_aide" / "rtstruct"
    with pytest.raises(ConfigError) as caught:
        open_it(next(folder.iterdir()))
    assert caught.value.code == "image-needed"


@pytest.mark.parametrize("image", [None, "ct-seg/dcmqi_segmentations/ct-3slice"])
@pytest.mark.parametrize(("damage", "code"), [("zeros", "not-dicom"), ("cut", "not-dicom"), ("a CT", "not-seg")])
def test_what_is_no_segmentation_is_refused(damage, code, image, data_dir, tmp_path):
    folder = data_dir / "ct-seg" / "dcmqi_segmentations"
    whole = (folder / "liver.dcm").read_bytes()
    ct = next((folder / "ct-3slice").iterdir()).read_bytes()
    (tmp_path / "m.dcm").write_bytes({"zeros": bytes(300), "cut": whole[:100], "a CT": ct}[damage])
    with pytest.raises(HeaderError) as caught:
        open_it(tmp_path / "m.dcm", image and data_dir / image)
    assert caught.value.code == code


def test_dicom_without_preamble_is_known_by_content_whatever_its_name(data_dir, tmp_path):
    seg = data_dir / "ct-seg/dcmqi_segmentations/liver.dcm"
    rtstruct = next((data_dir / "ct-rtstruct/totalsegmentator_aide/rtstruct").iterdir())
    for source in (seg, rtstruct):
        (tmp_path / source.stem).write_bytes(source.read_bytes()[132:])
    assert open_it(tmp_path / seg.stem).mask.voxel_counts.sum() == open_it(seg).mask.voxel_counts.sum()
    with pytest.raises(ConfigError) as caught:
        open_it(tmp_path / rtstruct.stem)
    assert caught.value.code == "image-needed"


def test_a_file_of_something_else_is_refused_by_what_it_is_not(tmp_path):
    (tmp_path / "notes").write_text("nothing of the kind")
    with pytest.raises(HeaderError, match="neither DICOM nor a folder") as caught:
        open_it(tmp_path / "notes")
    assert caught.value.code == "mask-unreadable"


def test_a_damaged_description_is_refused(data_dir, tmp_path):
    images = find_images(data_dir / "ct-seg/dcmqi_segmentations/ct-3slice", Stacking())
    opened = open_it(data_dir / "ct-seg/dcmqi_segmentations/liver.dcm", Path(images[0].path).parent)
    MASK_WRITERS.load("dicomseg")(opened.mask, tmp_path / "m.dcm", sources=images)
    data = pydicom.dcmread(tmp_path / "m.dcm")
    block = data.private_block(0x0063, "gpuprep")
    block[0x01].value = block[0x01].value[:50]
    data.save_as(tmp_path / "m.dcm")
    with pytest.raises(HeaderError) as caught:
        open_it(tmp_path / "m.dcm")
    assert caught.value.code == "mask-unreadable"


def test_images_of_another_study_are_refused(data_dir):
    with pytest.raises(LinkError) as caught:
        open_it(data_dir / "ct-seg/dcmqi_segmentations/liver.dcm", data_dir / STS)
    assert caught.value.code == "dangling-reference"


@pytest.mark.parametrize("name", SEGS_WITHOUT_PLACE)
def test_segments_without_a_place_in_the_patient_are_refused(name, data_dir):
    with pytest.raises(HeaderError) as caught:
        open_it(data_dir / "ct-seg" / name)
    assert caught.value.code == "attribute-missing"


def test_a_path_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InputNotFoundError) as caught:
        open_it(tmp_path / "none.seg.nrrd")
    assert caught.value.code == "path-missing"


def test_a_structure_set_that_shares_the_series_uid_of_its_images_is_drawn_on_them(tmp_path):
    series = conversions.write_images(tmp_path / "in", "P")

    def share(data):
        data.SeriesInstanceUID = series.series_instance_uid

    path = conversions.write_structures(tmp_path / "in" / "RS.dcm", series, conversions.two_rois(), edit=share)
    mask = open_it(path, tmp_path / "in").mask
    np.testing.assert_array_equal(mask.binary(0), conversions.mask_of(conversions.GTV_BOX))


def test_a_localizer_is_none_of_the_images(tmp_path):
    series = conversions.write_images(tmp_path, "P")
    localizer = pydicom.dcmread(tmp_path / "IM000.dcm")
    localizer.SOPInstanceUID, localizer.ImageOrientationPatient = "1.2.3.4.5", [1, 0, 0, 0, 0, -1]
    synth.write_dataset(localizer, tmp_path / "localizer.dcm")
    found = {Path(header.path).name for header in find_images(tmp_path, Stacking())}
    assert found == {f"IM{n:03d}.dcm" for n in range(series.geometry.shape[0])}


@pytest.mark.parametrize(
    "changes",
    [
        {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]},
        {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7", "ImagePositionPatient": None},
    ],
    ids=["localizer", "screenshot"],
)
def test_series_that_are_no_image_do_not_count_among_the_images(changes, tmp_path):
    series = conversions.write_images(tmp_path / "ct", "P")
    for number in range(2):
        data = pydicom.dcmread(tmp_path / "ct" / f"IM{number:03d}.dcm")
        data.SeriesInstanceUID, data.SOPInstanceUID = "1.2.3", f"1.2.3.{number}"
        for keyword, value in changes.items():
            setattr(data, keyword, value)
        synth.write_dataset(data, tmp_path / "other" / f"{number}.dcm")
    assert len(find_images(tmp_path, Stacking())) == series.geometry.shape[0]


def test_images_for_a_mask_file_are_one_series(data_dir, tmp_path):
    segnrrd.write(random_mask(1), tmp_path / "m.seg.nrrd")
    assert len(open_it(tmp_path / "m.seg.nrrd", data_dir / "ct-seg/dcmqi_segmentations/ct-3slice").images) == 3
    with pytest.raises(LinkError) as caught:
        find_images(data_dir / "ct-seg/highdicom_sources", Stacking())
    assert caught.value.code == "ambiguous-reference" and caught.value.hint


def test_a_series_of_localizers_is_none_of_the_images(tmp_path):
    series = conversions.write_images(tmp_path, "P")
    scout = pydicom.dcmread(next(tmp_path.iterdir()))
    scout.SeriesInstanceUID, scout.SOPInstanceUID = "1.2.3", "1.2.3.4"
    scout.file_meta.MediaStorageSOPInstanceUID = scout.SOPInstanceUID
    scout.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    scout.save_as(tmp_path / "scout")
    found = find_images(tmp_path, Stacking())
    assert {image.sop_instance_uid for image in found} == set(series.sop_instance_uids)
