"""seg.nrrd as SimpleITK, slicerio and pynrrd see it, and files of others."""

from __future__ import annotations

import json

import nrrd
import numpy as np
import pytest
import SimpleITK
import slicerio
from mask_sets import check_same, coded_roi, oblique_geometry, random_mask

from gpuprep.errors import HeaderError, RoiError
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
    path = tmp_path / "m.seg.nrrd"
    nrrd.write(str(path), labels.T.astype(dtype), header)
    path.write_bytes(path.read_bytes().replace(b"endian: big", b"endian: Big"))  # teem takes either
    read = segnrrd.read(path)
    assert [(r.name, r.rgb) for r in read.rois] == [(f"S {n}", (255, 128, 0)) for n in range(4)]
    assert np.array_equal(read.to_planes(), mask.to_planes())
    assert read.geometry.same_grid(mask.geometry)


def test_changed_by_another_program_the_new_words_count(written):
    mask, path = written
    content = path.read_bytes().replace(b"Segment1_Name:=roi 1", b"Segment1_Name:=tumour")
    old, new = (" ".join(map(repr, rgb)).encode() for rgb in ((1 / 255, 128 / 255, 254 / 255), (1.0, 0.0, 0.0)))
    content = content.replace(b"Segment2_Color:=" + old, b"Segment2_Color:=" + new)
    content = content.replace(b"~SCT^39607008^Lung~", b"~SCT^80891009^Heart~", 1)
    path.write_bytes(content)
    read = segnrrd.read(path)
    assert [roi.name for roi in read.rois][:3] == ["roi 0", "tumour", "roi 2"]
    assert read.rois[0].region == Code("SCT", "80891009", "Heart") and read.rois[0].rgb == (1, 128, 254)
    assert read.rois[2].rgb == (255, 0, 0) and read.rois[2].region == Code("SCT", "39607008", "Lung")
    assert read.rois[3:] == mask.rois[3:]
    assert np.array_equal(read.table, mask.table)


def layered(folder, layers, **pairs):
    """Write layers (L, D, H, W) of a hand-made segmentation; keys of `pairs` are without ``Segment``."""
    directions = np.eye(3) if len(layers) == 1 else np.vstack([np.full(3, np.nan), np.eye(3)])
    header = {"space": "left-posterior-superior", "space directions": directions, "space origin": np.zeros(3)}
    data = np.asarray(layers)
    data = data[0].T if len(layers) == 1 else data.transpose(0, 3, 2, 1)
    nrrd.write(str(folder / "m.seg.nrrd"), data, header | {f"Segment{key}": value for key, value in pairs.items()})
    return folder / "m.seg.nrrd"


def test_a_layer_a_segment_where_the_header_tells_none(tmp_path):
    """Slicer's files before shared label maps: value 1 in as many layers as there are segments."""
    layers = np.random.default_rng(0).integers(0, 2, (3, 4, 5, 6)).astype(np.uint8)
    read = segnrrd.read(layered(tmp_path, layers, **{"0_ID": "a", "1_ID": "b", "2_ID": "c"}))
    assert [roi.name for roi in read.rois] == ["a", "b", "c"]
    for n, layer in enumerate(layers):
        assert np.array_equal(read.binary(n), layer)


def test_labels_of_a_plain_volume_where_the_header_tells_no_layers(tmp_path):
    labels = np.random.default_rng(0).integers(0, 3, (1, 4, 5, 6)).astype(np.uint8)
    pairs = {"0_ID": "a", "0_LabelValue": "2", "1_ID": "b", "1_LabelValue": "1"}
    read = segnrrd.read(layered(tmp_path, labels, **pairs))
    assert np.array_equal(read.binary(0), labels[0] == 2) and np.array_equal(read.binary(1), labels[0] == 1)


def test_two_segments_of_one_label_hold_the_same_voxels(tmp_path):
    labels = np.random.default_rng(0).integers(0, 2, (1, 4, 5, 6)).astype(np.uint8)
    read = segnrrd.read(layered(tmp_path, labels, **{"0_ID": "a", "1_ID": "b", "1_Layer": "0"}))
    assert np.array_equal(read.binary(0), labels[0]) and np.array_equal(read.binary(1), labels[0])


def test_a_layer_without_segments_is_empty_or_refused(tmp_path):
    layers = np.zeros((2, 4, 5, 6), np.uint8)
    layers[0, 1] = 1
    path = layered(tmp_path, layers, **{"0_ID": "a", "0_Layer": "0"})
    assert segnrrd.read(path).voxel_counts.tolist() == [30]
    layers[1, 2] = 1
    layered(tmp_path, layers, **{"0_ID": "a", "0_Layer": "0"})
    with pytest.raises(RoiError) as caught:
        segnrrd.read(path)
    assert caught.value.code == "label-unknown" and caught.value.subject == str(path)


@pytest.mark.parametrize("layer", [-1, 2])
def test_a_segment_in_a_layer_that_is_not_there_is_refused(tmp_path, layer):
    path = layered(tmp_path, np.ones((2, 4, 5, 6), np.uint8), **{"0_ID": "a", "0_Layer": str(layer)})
    with pytest.raises(HeaderError, match=f"'a' is in layer {layer} of 2"):
        segnrrd.read(path)


@pytest.mark.parametrize("label", ["0", "-1"])
def test_a_segment_of_the_background_is_refused(tmp_path, label):
    path = layered(tmp_path, np.ones((1, 4, 5, 6), np.uint8), **{"0_ID": "a", "0_LabelValue": label})
    with pytest.raises(HeaderError, match=f"has the label {label}"):
        segnrrd.read(path)


def test_labels_below_zero_are_refused(tmp_path):
    path = layered(tmp_path, np.full((1, 4, 5, 6), -1, np.int16), **{"0_ID": "a"})
    with pytest.raises(HeaderError, match="labels below 0"):
        segnrrd.read(path)


def test_a_plain_label_image(tmp_path):
    labels = np.random.default_rng(0).integers(0, 3, (1, 4, 5, 6)).astype(np.int16) * 7
    read = segnrrd.read(layered(tmp_path, labels))
    assert [roi.name for roi in read.rois] == ["label 7", "label 14"]
    assert np.array_equal(read.binary(1), labels[0] == 14)


def test_slicerios_own_files(tmp_path):
    layers = np.zeros((2, 6, 5, 4), np.uint8)
    layers[0, 1:3], layers[0, 4], layers[1, 2:5] = 1, 5, 3
    segmentation = {
        "voxels": layers, "ijkToLPS": np.array([[-2.0, 0, 0, 7], [0, 0, 3, 8], [0, 1.5, 0, 9], [0, 0, 0, 1]]),
        "encoding": "gzip", "containedRepresentationNames": ["Binary labelmap"],
        "segments": [{"id": name, "name": f"{name} 1", "color": [1.0, 0.0, 0.2], "layer": layer, "labelValue": value}
                     for name, layer, value in (("a", 0, 1), ("b", 0, 5), ("c", 1, 3))],
    }  # fmt: skip
    path = tmp_path / "m.seg.nrrd"
    slicerio.write_segmentation(str(path), segmentation)
    read = segnrrd.read(path)
    assert [(roi.name, roi.rgb) for roi in read.rois] == [(f"{name} 1", (255, 0, 51)) for name in "abc"]
    for n, (layer, value) in enumerate(((0, 1), (0, 5), (1, 3))):
        assert np.array_equal(read.binary(n).T, layers[layer] == value)
    assert np.allclose(read.geometry.index_to_lps[:, [2, 1, 0, 3]], segmentation["ijkToLPS"])


def test_slicer_files_of_the_test_data(data_dir):
    paths = sorted((data_dir / "ct-seg" / "dcmqi_segmentations").glob("*.nrrd"))
    assert paths
    for path in paths:
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
     (b"left-posterior-superior", b"scanner-xyz"), (b"encoding: gzip", b"encoding: gzip\ndata file: x.raw"),
     (b"encoding: gzip", b"encoding: gzip\nbyte skip: 4"), (b"encoding: gzip", b"encoding: gzip\nline skip: 1"),
     (b"space: left-posterior-superior\n", b""), (b"space origin:", b"origin:")],
)  # fmt: skip
def test_what_is_not_understood_is_refused(written, old, new):
    _, path = written
    path.write_bytes(path.read_bytes().replace(old, new, 1))
    with pytest.raises(HeaderError) as caught:
        segnrrd.read(path)
    assert caught.value.code == "mask-unreadable"
