"""seg.nrrd as SimpleITK, slicerio and pynrrd see it, and files of others."""

from __future__ import annotations

import json

import nrrd
import numpy as np
import pytest
import SimpleITK
import slicerio
from mask_sets import check_same, coded_roi, oblique_geometry, random_mask

from gpuprep.errors import HeaderError
from gpuprep.geometry import VolumeGeometry
from gpuprep.masks import Code, Roi, assign_layers, let_last_win
from gpuprep.writers.masks import segnrrd

#: Affines that went through float64 and text.
AFFINE_TOLERANCE_MM = 1e-9


@pytest.fixture
def written(tmp_path):
    mask = random_mask(12, density=0.2, rois=[coded_roi(n, f"roi {n}") for n in range(12)])
    path = tmp_path / "mask.seg.nrrd"
    segnrrd.write(mask, path)
    return mask, path


def test_simpleitk_sees_the_layers_where_they_are(written):
    mask, path = written
    image = SimpleITK.ReadImage(str(path))
    array = SimpleITK.GetArrayFromImage(image)
    places = assign_layers(mask, 255)
    for n, (layer, label) in enumerate(places):
        assert np.array_equal(array[..., layer] == label, mask.binary(n).astype(bool))
        assert image.GetMetaData(f"Segment{n}_Name") == mask.rois[n].name
        assert image.GetMetaData(f"Segment{n}_LabelValue") == str(label)
        assert image.GetMetaData(f"Segment{n}_Layer") == str(layer)
    for index in ((0, 0, 0), (2, 4, 6)):
        point = image.TransformIndexToPhysicalPoint([int(i) for i in index[::-1]])
        assert np.allclose(point, mask.geometry.to_lps(index), rtol=0, atol=AFFINE_TOLERANCE_MM)


def test_our_json_survives_itk(written):
    mask, path = written
    text = SimpleITK.ReadImage(str(path)).GetMetaData("gpuprep_mask")
    assert [roi["name"] for roi in json.loads(text)["rois"]] == [roi.name for roi in mask.rois]


def test_quotes_and_backslashes_survive_itk(tmp_path):
    mask = random_mask(1, rois=[Roi(1, 'a "b" \\n \\')])
    segnrrd.write(mask, tmp_path / "m.seg.nrrd")
    text = SimpleITK.ReadImage(str(tmp_path / "m.seg.nrrd")).GetMetaData("gpuprep_mask")
    assert json.loads(text)["rois"][0]["name"] == 'a "b" \\n \\'


def test_slicerio_reads_names_labels_and_codes(written):
    mask, path = written
    segmentation = slicerio.read_segmentation(str(path))
    places = assign_layers(mask, 255)
    for n, segment in enumerate(segmentation["segments"]):
        assert (segment["name"], segment["layer"], segment["labelValue"]) == (mask.rois[n].name, *places[n])
        assert np.allclose(segment["color"], np.array(mask.rois[n].rgb) / 255)
        terminology = segment["terminology"]
        assert terminology["category"] == ["SCT", "49755003", "Morphologically Abnormal Structure"]
        assert terminology["type"] == ["SCT", "86049000", "Neoplasm, Primary"]
        assert terminology["anatomicRegion"] == ["SCT", "39607008", "Lung"]
        voxels = np.moveaxis(segmentation["voxels"], (-3, -2, -1), (-1, -2, -3))
        assert np.array_equal(voxels[places[n][0]] == places[n][1], mask.binary(n).astype(bool))
    affine = segmentation["ijkToLPS"]
    assert np.allclose(affine[:, [2, 1, 0, 3]], mask.geometry.index_to_lps, rtol=0, atol=AFFINE_TOLERANCE_MM)


def test_every_segment_tells_the_whole_image_as_its_extent(written):
    """Slicer before 5.8 crops a layer to the extent of its first segment; the first one here is empty."""
    mask, path = written
    header = nrrd.read_header(str(path))
    assert not mask.voxel_counts[0]
    assert {header[f"Segment{n}_Extent"] for n in range(12)} == {"0 6 0 4 0 2"}
    assert "Segment12_ID" not in header
    assert len({header[f"Segment{n}_ID"] for n in range(12)}) == 12


def test_layers_are_the_fastest_axis(written):
    mask, path = written
    header = nrrd.read_header(str(path))
    layers = 1 + max(layer for layer, _ in assign_layers(mask, 255))
    assert layers > 1
    assert header["kinds"] == ["list", "domain", "domain", "domain"]
    assert header["sizes"].tolist() == [layers, 7, 5, 3]
    assert np.isnan(header["space directions"][0]).all()
    assert header["space"] == "left-posterior-superior"


def test_rois_that_share_no_voxel_make_a_plain_volume(tmp_path):
    mask, _ = let_last_win(random_mask(9))
    segnrrd.write(mask, tmp_path / "m.seg.nrrd")
    data, header = nrrd.read(str(tmp_path / "m.seg.nrrd"))
    assert data.shape == (7, 5, 3) and header["kinds"] == ["domain"] * 3


def test_delimiters_of_tags_are_not_written_within_them(tmp_path):
    roi = Roi(1, "a|b:c~d^e", type=Code("SCT", "1", "x|y:z~t^u"))
    segnrrd.write(random_mask(1, rois=[roi]), tmp_path / "m.seg.nrrd")
    header = nrrd.read_header(str(tmp_path / "m.seg.nrrd"))
    assert header["Segment0_Name"] == "a|b:c~d^e"
    assert "~SCT^1^x y z t u~" in header["Segment0_Tags"]


def test_more_exclusive_rois_than_a_byte_has_labels(tmp_path):
    geometry = oblique_geometry((4, 20, 20))
    mask, _ = let_last_win(random_mask(300, density=0.01, geometry=geometry))
    segnrrd.write(mask, tmp_path / "m.seg.nrrd")
    assert SimpleITK.ReadImage(str(tmp_path / "m.seg.nrrd")).GetNumberOfComponentsPerPixel() == 2
    check_same(mask, segnrrd.read(tmp_path / "m.seg.nrrd"))


@pytest.mark.parametrize("encoding", ["raw", "gzip"])
@pytest.mark.parametrize("dtype", ["<u1", "<i2", ">u2"])
def test_a_segmentation_of_another_writer_in_ras(tmp_path, encoding, dtype):
    mask, _ = let_last_win(random_mask(4))
    labels = sum((mask.binary(n) * (n + 3) for n in range(4)), np.zeros((3, 5, 7), np.uint8))
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ mask.geometry.index_to_lps
    header = {
        "space": "right-anterior-superior", "space directions": affine[:3, 2::-1].T, "space origin": affine[:3, 3],
        "encoding": encoding, "kinds": ["domain"] * 3, "endian": "big" if dtype[0] == ">" else "little",
    }  # fmt: skip
    for n in range(4):
        header |= {f"Segment{n}_ID": f"s{n}", f"Segment{n}_Name": f"S {n}", f"Segment{n}_LabelValue": str(n + 3),
                   f"Segment{n}_Layer": "0", f"Segment{n}_Color": "1 0.5 0"}  # fmt: skip
    nrrd.write(str(tmp_path / "m.seg.nrrd"), labels.T.astype(dtype), header)
    read = segnrrd.read(tmp_path / "m.seg.nrrd")
    assert [(r.name, r.rgb) for r in read.rois] == [(f"S {n}", (255, 128, 0)) for n in range(4)]
    assert np.array_equal(read.to_planes(), mask.to_planes())
    assert read.geometry.same_grid(mask.geometry)


def test_renamed_by_another_program_the_new_name_counts(written):
    mask, path = written
    path.write_bytes(path.read_bytes().replace(b"Segment1_Name:=roi 1", b"Segment1_Name:=tumour"))
    read = segnrrd.read(path)
    assert [roi.name for roi in read.rois][:3] == ["roi 0", "tumour", "roi 2"]
    assert read.rois[0].region == Code("SCT", "39607008", "Lung") and read.rois[0].rgb == (1, 128, 254)
    assert np.array_equal(read.table, mask.table)


def test_slicer_files_of_the_test_data(data_dir):
    folder = data_dir / "ct-seg" / "dcmqi_segmentations"
    for path in sorted(folder.glob("*.nrrd")):
        image = SimpleITK.ReadImage(str(path))
        mask = segnrrd.read(path)
        array = SimpleITK.GetArrayFromImage(image)
        for n, value in enumerate(v for v in np.unique(array) if v):
            assert np.array_equal(mask.binary(n), array == value)
        grid = VolumeGeometry.from_axes(
            array.shape, origin_lps_mm=image.GetOrigin(),
            directions_dhw=np.reshape(image.GetDirection(), (3, 3)).T[::-1], spacing_dhw_mm=image.GetSpacing()[::-1],
        )  # fmt: skip
        assert mask.geometry.same_grid(grid)


@pytest.mark.parametrize(
    ("old", "new"),
    [(b"encoding: gzip", b"encoding: bzip2"), (b"sizes: ", b"sizes: 2 "), (b"type: unsigned char", b"type: float"),
     (b"left-posterior-superior", b"scanner-xyz"), (b"encoding: gzip", b"encoding: gzip\ndata file: x.raw")],
)  # fmt: skip
def test_what_is_not_understood_is_refused(written, old, new):
    _, path = written
    path.write_bytes(path.read_bytes().replace(old, new, 1))
    with pytest.raises(HeaderError) as caught:
        segnrrd.read(path)
    assert caught.value.code == "mask-unreadable"
