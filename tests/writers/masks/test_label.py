"""Label images with a label table, and those of others."""

from __future__ import annotations

from xml.etree import ElementTree

import nibabel
import numpy as np
import pytest
import SimpleITK
from mask_sets import random_mask

from gpuprep.errors import HeaderError
from gpuprep.masks import Roi, let_last_win, to_label_image
from gpuprep.writers.masks import label


@pytest.fixture
def written(tmp_path):
    rois = [Roi(9, "liver & <spleen>", (255, 0, 51)), Roi(4, "läsion"), Roi(5, "empty")]
    mask, _ = let_last_win(random_mask(3, 2, density=0.3, rois=rois))
    path = tmp_path / "labels.nii.gz"
    label.write(mask, path)
    return mask, path


def test_other_programs_see_the_labels(written):
    mask, path = written
    image = nibabel.load(path)
    assert np.array_equal(np.asarray(image.dataobj).T, to_label_image(mask))
    assert image.header["scl_slope"] in (0, 1) or np.isnan(image.header["scl_slope"])
    assert np.array_equal(SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path))), to_label_image(mask))


def test_the_table_is_where_its_readers_look(written):
    """Path and attributes as TotalSegmentator's loader wants them: the first extension, Key and text of each Label."""
    mask, path = written
    first = nibabel.load(path).header.extensions[0]
    root = ElementTree.fromstring(first.content.rstrip(b"\0"))
    assert first.get_code() == 30 and root.tag == "CaretExtension"
    labels = root.findall("VolumeInformation/LabelTable/Label")
    assert {int(e.get("Key")): e.text for e in labels} == {n: r.name for n, r in enumerate(mask.rois, 1)}
    colours = [[float(entry.get(c)) for c in ("Red", "Green", "Blue", "Alpha")] for entry in labels]
    assert colours == [[1, 0, 0.2, 1], [1, 1, 1, 1], [1, 1, 1, 1]]


def test_names_that_xml_cannot_hold_are_plain_in_the_table_and_whole_in_our_description(tmp_path):
    rois = [Roi(1, "a\x01b\nc")]
    mask, _ = let_last_win(random_mask(1, 2, density=0.3, rois=rois))
    label.write(mask, tmp_path / "a.nii.gz")
    table = nibabel.load(tmp_path / "a.nii.gz").header.extensions[0].content.rstrip(b"\0")
    assert [entry.text for entry in ElementTree.fromstring(table).iter("Label")] == ["a b c"]
    assert label.read(tmp_path / "a.nii.gz").rois == mask.rois


def test_a_table_of_another_writer(tmp_path):
    array = np.zeros((4, 3, 2), np.uint8)
    array[0], array[1] = 7, 30
    image = nibabel.Nifti1Image(array, np.eye(4))
    table = "".join(f'<Label Key="{k}" Red="255" Green="0" Blue="-1" Alpha="1"><![CDATA[{n}]]></Label>'
                    for k, n in ((0, "none"), (7, "aorta"), (30, "liver")))  # fmt: skip
    xml = f"<CaretExtension><VolumeInformation><LabelTable>{table}</LabelTable></VolumeInformation></CaretExtension>"
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension(0, xml.encode()))
    nibabel.save(image, tmp_path / "a.nii.gz")
    mask = label.read(tmp_path / "a.nii.gz")
    assert mask.rois == (Roi(7, "aorta", (255, 0, 0)), Roi(30, "liver", (255, 0, 0)))
    assert np.array_equal(mask.binary(1).T, array == 30)


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float32",
                                   "float64"])  # fmt: skip
def test_labels_without_a_table(tmp_path, dtype):
    array = np.zeros((4, 3, 2), dtype)
    array[0], array[1] = 2, 5
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4), dtype=dtype), tmp_path / "a.nii")
    mask = label.read(tmp_path / "a.nii")
    assert [roi.name for roi in mask.rois] == ["label 2", "label 5"]
    assert mask.voxel_counts.tolist() == [6, 6]
    assert np.array_equal(mask.binary(1).T, array == 5)


@pytest.mark.parametrize(("dtype", "values"), [("uint8", [1, 2]), ("int16", [1, 2, 104])])
def test_labels_that_nibabel_stored_by_a_slope(tmp_path, dtype, values):
    """It does so with float64 that is to be saved as integers: the file holds 127 and 255 for 1 and 2."""
    array = np.zeros((4, 3, 2))
    array[: len(values)] = np.reshape(values, (-1, 1, 1))
    image = nibabel.Nifti1Image(array, np.eye(4))
    image.set_data_dtype(dtype)
    nibabel.save(image, tmp_path / "a.nii.gz")
    mask = label.read(tmp_path / "a.nii.gz")
    assert [roi.name for roi in mask.rois] == [f"label {v}" for v in values]
    assert np.array_equal(mask.binary(1).T, array == 2)


def test_labels_too_coarsely_stored_are_refused(tmp_path):
    image = nibabel.Nifti1Image(np.arange(100.0).reshape(4, 5, 5), np.eye(4))
    image.set_data_dtype(np.uint8)
    nibabel.save(image, tmp_path / "a.nii.gz")
    with pytest.raises(HeaderError) as caught:
        label.read(tmp_path / "a.nii.gz")
    assert caught.value.code == "mask-unreadable"


def test_recoloured_by_another_program_the_new_colour_counts(written):
    _, path = written
    image = nibabel.load(path)
    red, comment = image.header.extensions
    green = red.content.replace(b'Red="1.0" Green="0.0"', b'Red="0.0" Green="1.0"')
    image.header.extensions[:] = [nibabel.nifti1.Nifti1Extension(30, green), comment]
    nibabel.save(image, path)
    assert label.read(path).rois[0] == Roi(1, "liver & <spleen>", (0, 255, 51))


def test_a_header_that_was_moved_counts_more_than_our_description(written):
    mask, path = written
    image = nibabel.load(path)
    affine = image.affine.copy()
    affine[0, 3] += 10
    image.set_sform(affine)
    image.set_qform(affine)
    nibabel.save(image, path)
    moved = label.read(path)
    shift = moved.geometry.origin_lps_mm - mask.geometry.origin_lps_mm
    assert np.allclose(shift, (-10, 0, 0), atol=1e-3) and moved.rois[0] == mask.rois[0]


@pytest.mark.parametrize("value", [-1.0, 0.5, np.nan, np.inf, 1e10])
def test_values_that_are_no_labels_are_refused(tmp_path, value):
    array = np.full((2, 2, 2), value, np.float32)
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), tmp_path / "a.nii")
    with pytest.raises(HeaderError) as caught:
        label.read(tmp_path / "a.nii")
    assert caught.value.code == "mask-unreadable"
