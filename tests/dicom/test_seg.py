import tracemalloc
import warnings

import highdicom
import numpy as np
import pydicom
import pytest

from gpuprep.codecs.segframes import decode_segmentation_frames
from gpuprep.dicom import datasets, synth
from gpuprep.dicom.datasets import DEFLATED_UID, EXPLICIT_BIG_UID, EXPLICIT_LITTLE_UID, IMPLICIT_LITTLE_UID
from gpuprep.dicom.display import read_display
from gpuprep.dicom.header import read_headers
from gpuprep.dicom.seg import cielab_to_rgb, read_segmentation, read_source_frames
from gpuprep.dicom.stack import planes_of
from gpuprep.errors import DecodeError, HeaderError
from gpuprep.masks import Code, Roi

GRID = synth.axial_geometry((4, 5, 7), spacing_xyz_mm=(1.5, 2.0, 3.0))


@pytest.fixture
def masks():
    return np.random.default_rng(2).random((2, *GRID.shape)) > 0.6


def build(masks, kind="BINARY", **options):
    segments = [
        synth.SegmentSpec(n, f"s{n}", m, cielab=(41661, 41167, 40792)) for n, m in zip((3, 8), masks, strict=True)
    ]
    return synth.build_segmentation(synth.plan_series(GRID), segments, kind=kind, **options)


def save(data, path):
    synth.write_dataset(data, path / "seg.dcm")
    return path / "seg.dcm"


@pytest.mark.parametrize("kind", ["BINARY", "FRACTIONAL", "LABELMAP"])
def test_header_says_what_was_written(tmp_path, masks, kind):
    series = synth.plan_series(GRID)
    path = save(build(masks, kind, slices=(3, 1)), tmp_path)
    found = read_segmentation(path)
    assert found.kind == kind
    assert [(r.number, r.name) for r in found.segments] == [(3, "s3"), (8, "s8")]
    assert (found.rows, found.columns) == (5, 7)
    assert found.frame_of_reference_uid == series.geometry.frame_of_reference_uid
    assert found.referenced_series_uids == (series.series_instance_uid,)
    assert found.referenced_sop_instance_uids == series.sop_instance_uids
    assert found.slice_spacing_mm == 3.0
    assert found.maximum_fractional_value == (255 if kind == "FRACTIONAL" else 1)
    assert found.fractional_type == ("PROBABILITY" if kind == "FRACTIONAL" else "")
    numbers = [None, None] if kind == "LABELMAP" else [3, 3, 8, 8]
    assert [f.segment_number for f in found.frames] == numbers
    for n, frame in enumerate(found.frames):
        assert frame.index == n
        assert frame.position_lps_mm == pytest.approx(GRID.to_lps(((3, 1)[n % 2], 0, 0)))
        assert frame.orientation == (1, 0, 0, 0, 1, 0)
        assert frame.pixel_spacing_mm == (2.0, 1.5)


def test_what_a_segment_is_stands_in_its_codes(tmp_path, masks):
    def coded(value, **modifiers):
        item = pydicom.Dataset()
        item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "SCT", f"meaning of {value}"
        for keyword, values in modifiers.items():
            setattr(item, keyword, [coded(v) for v in values])
        return item

    data = build(masks)
    segment = data.SegmentSequence[0]
    segment.SegmentAlgorithmType, segment.TrackingUID = "SEMIAUTOMATIC", "1.2.3.4"
    segment.SegmentedPropertyCategoryCodeSequence = [coded("1")]
    segment.SegmentedPropertyTypeCodeSequence = [coded("2", SegmentedPropertyTypeModifierCodeSequence=["3", "4"])]
    segment.AnatomicRegionSequence = [coded("5", AnatomicRegionModifierSequence=["6"])]
    data.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SliceThickness = 2.75
    found = read_segmentation(save(data, tmp_path))
    category, type_, *type_modifiers, region, region_modifier = (Code("SCT", n, f"meaning of {n}") for n in "123456")
    assert found.segments[0] == Roi(
        3,
        "s3",
        found.segments[0].rgb,
        category=category,
        type=type_,
        type_modifiers=tuple(type_modifiers),
        region=region,
        region_modifiers=(region_modifier,),
        algorithm="SEMIAUTOMATIC",
        tracking_uid="1.2.3.4",
    )
    assert found.slice_thickness_mm == 2.75


def test_direction_cosines_of_three_decimals_are_made_unit_vectors(tmp_path, masks):
    data = build(masks)
    cosines = [0.577, 0.577, 0.577, -0.707, 0.707, 0.0]
    data.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0].ImageOrientationPatient = cosines
    along = np.full(3, 3**-0.5)
    expected = [*along, *np.array([-1, 1, 0]) / 2**0.5]
    for frame in read_segmentation(save(data, tmp_path)).frames:
        np.testing.assert_allclose(frame.orientation, expected, atol=1e-12)


def test_plane_groups_may_be_of_the_frames_(tmp_path, masks):
    data = build(masks, slices=(0, 1, 2))
    expected = read_segmentation(save(data, tmp_path)).frames
    shared = data.SharedFunctionalGroupsSequence[0]
    for item in data.PerFrameFunctionalGroupsSequence:
        item.PixelMeasuresSequence = shared.PixelMeasuresSequence
        item.PlaneOrientationSequence = shared.PlaneOrientationSequence
    del data.SharedFunctionalGroupsSequence
    found = read_segmentation(save(data, tmp_path))
    assert found.frames == expected
    assert found.slice_spacing_mm is None


def test_background_and_padding_of_a_label_map_are_no_segments(data_dir):
    for name, background in (("ppv5", {0, 5}), ("noppv", {0})):
        found = read_segmentation(data_dir / f"ct-seg/dcmqi_segmentations/sparse-labelmap-{name}.dcm")
        assert [(r.number, r.name) for r in found.segments] == [(1, "Liver")]
        assert found.background_values == background


@pytest.mark.parametrize(
    "stored",
    [
        (41661, 41167, 40792),
        (43803, 26565, 37722),
        (0, 32768, 32768),
        (65535, 32896, 32896),
        (30000, 50000, 9000),
        (2621, 32896, 32896),
    ],
)
def test_colour_equals_highdicom(stored):
    lab = np.array(stored) / 65535 * (100, 255, 255) - (0, 128, 128)
    assert cielab_to_rgb(stored) == pytest.approx(highdicom.color.CIELabColor(*lab).to_rgb(clip=True), abs=1)


def in_colour(data, bits):
    """Make a label map one in colour: 3 is orange, 8 is blue; only the palette says so (PS3.3 C.8.20.4)."""
    for segment in data.SegmentSequence:
        del segment.RecommendedDisplayCIELabValue
    data.PhotometricInterpretation = "PALETTE COLOR"
    for channel, orange, blue in (("Red", 255, 10), ("Green", 128, 20), ("Blue", 0, 250)):
        entries = np.zeros(10, np.uint8 if bits == 8 else "<u2")
        entries[[3, 8]] = np.array([orange, blue]) * (1 if bits == 8 else 257)
        setattr(data, f"{channel}PaletteColorLookupTableDescriptor", [10, 0, bits])
        setattr(data, f"{channel}PaletteColorLookupTableData", entries.tobytes())
    return data


@pytest.mark.parametrize("bits", [8, 16])
def test_colours_of_a_label_map_in_colour_are_those_of_its_palette(tmp_path, masks, bits):
    path = save(in_colour(build(masks, "LABELMAP"), bits), tmp_path)
    assert [segment.rgb for segment in read_segmentation(path).segments] == [(255, 128, 0), (10, 20, 250)]
    shown = highdicom.imread(path).get_frame(1, apply_palette_color_lut=True)
    stored = pydicom.dcmread(path).pixel_array[0]
    assert (shown[stored == 3] == np.array((255, 128, 0)) * (257 if bits == 16 else 1)).all()


def test_a_damaged_colour_is_no_colour(tmp_path, masks):
    data = build(masks)
    data.SegmentSequence[0].RecommendedDisplayCIELabValue = [1, 2]
    assert [segment.rgb is None for segment in read_segmentation(save(data, tmp_path)).segments] == [True, False]
    data = in_colour(build(masks, "LABELMAP"), 16)
    del data.GreenPaletteColorLookupTableData
    assert [segment.rgb for segment in read_segmentation(save(data, tmp_path)).segments] == [None, None]


def test_colour_is_what_dcmqi_says(data_dir):
    found = read_segmentation(data_dir / "ct-seg/dcmqi_segmentations/liver.dcm")
    assert found.segments[0].rgb == (221, 130, 101)


@pytest.mark.parametrize(
    ("keyword", "value", "code"),
    [
        ("SegmentationType", None, "attribute-missing"),
        ("SegmentSequence", None, "attribute-missing"),
        ("Rows", None, "attribute-missing"),
        ("NumberOfFrames", None, "attribute-missing"),
        ("PerFrameFunctionalGroupsSequence", None, "attribute-missing"),
        ("MaximumFractionalValue", None, "attribute-missing"),
        ("SegmentationType", "FANCY", "attribute-invalid"),
        ("BitsAllocated", 32, "attribute-invalid"),
        ("SamplesPerPixel", 3, "attribute-invalid"),
        ("Columns", 0, "attribute-invalid"),
        ("NumberOfFrames", 5, "attribute-invalid"),
        ("MaximumFractionalValue", 0, "attribute-invalid"),
        ("SOPClassUID", synth.CT_STORAGE, "not-seg"),
    ],
)
def test_unusable_header_is_refused(tmp_path, masks, keyword, value, code):
    data = build(masks, "FRACTIONAL")
    if value is None:
        del data[keyword]
    else:
        setattr(data, keyword, value)
    refuse(save(data, tmp_path), code)


@pytest.mark.parametrize(
    ("group", "keyword", "value", "code"),
    [
        ("PlaneOrientationSequence", "ImageOrientationPatient", None, "attribute-missing"),
        ("PlaneOrientationSequence", "ImageOrientationPatient", [1, 0, 0, 1, 0, 0], "attribute-invalid"),
        ("PixelMeasuresSequence", "PixelSpacing", [1, 0], "attribute-invalid"),
        ("PixelMeasuresSequence", "PixelSpacing", [1, 1, 1], "attribute-invalid"),
        ("PixelMeasuresSequence", None, None, "attribute-missing"),
    ],
)
def test_unusable_functional_group_is_refused(tmp_path, masks, group, keyword, value, code):
    data = build(masks)
    shared = data.SharedFunctionalGroupsSequence[0]
    if keyword is None:
        del shared[group]
    elif value is None:
        del shared[group][0][keyword]
    else:
        setattr(shared[group][0], keyword, value)
    refuse(save(data, tmp_path), code)


def refuse(path, code):
    with pytest.raises(HeaderError) as caught:
        read_segmentation(path)
    assert caught.value.code == code
    assert caught.value.subject == str(path)


def test_repeated_segment_number_is_refused(tmp_path, masks):
    data = build(masks)
    data.SegmentSequence[1].SegmentNumber = 3
    refuse(save(data, tmp_path), "attribute-invalid")


def test_garbled_number_is_refused(tmp_path, masks):
    path = save(build(masks), tmp_path)
    path.write_bytes(path.read_bytes().replace(b"2.0\\1.5 ", b"2.0\\abc "))
    refuse(path, "attribute-invalid")


def test_what_is_no_segmentation_file_is_refused(tmp_path):
    refuse(tmp_path, "unreadable")
    refuse(tmp_path / "absent.dcm", "unreadable")
    (tmp_path / "junk").write_bytes(b"junk" * 100)
    refuse(tmp_path / "junk", "not-dicom")


def test_whole_slide_segmentations_are_refused_with_a_reason(data_dir):
    for name in ("seg_image_sm_control", "seg_image_sm_dots_tiled_full"):
        with pytest.raises(HeaderError) as caught:
            read_segmentation(data_dir / f"ct-seg/highdicom/{name}.dcm")
        assert caught.value.code == "attribute-missing"
        assert "whole-slide" in caught.value.hint


def test_a_file_cut_anywhere_is_refused_with_a_code(tmp_path, masks):
    whole = save(build(masks), tmp_path).read_bytes()
    for length in range(0, len(whole), 97):
        path = tmp_path / "cut.dcm"
        path.write_bytes(whole[:length])
        try:
            frames = list(decode_segmentation_frames(read_segmentation(path)))
        except (HeaderError, DecodeError) as error:
            assert error.code in {
                "not-dicom", "header-unreadable", "not-seg", "attribute-missing", "attribute-invalid",
                "pixel-data-missing", "pixel-data-truncated",
            }  # fmt: skip
        else:
            pytest.fail(f"{len(frames)} frames of a file cut at {length} of {len(whole)} bytes")


@pytest.mark.parametrize("syntax", [IMPLICIT_LITTLE_UID, EXPLICIT_LITTLE_UID, DEFLATED_UID, EXPLICIT_BIG_UID])
@pytest.mark.parametrize("kind", ["BINARY", "FRACTIONAL", "LABELMAP"])
def test_native_syntaxes_give_the_same_frames(tmp_path, masks, syntax, kind):
    data = build(masks, kind)
    data.file_meta.TransferSyntaxUID = syntax
    found = decode_segmentation_frames(read_segmentation(save(data, tmp_path)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert np.array_equal(np.stack(list(found)), pydicom.dcmread(tmp_path / "seg.dcm").pixel_array)
    for absent in (-1, len(found)):
        with pytest.raises(IndexError):
            found[absent]


@pytest.mark.parametrize("read", [planes_of, read_display, lambda header: read_source_frames(header.path)])
def test_deflated_pixels_stay_deflated_until_they_are_asked_for(tmp_path, masks, read):
    data = build(masks)
    data.file_meta.TransferSyntaxUID = DEFLATED_UID
    data.PixelData = bytes(32 << 20)
    (header,) = read_headers([str(save(data, tmp_path))])
    tracemalloc.start()
    try:
        read(header)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 8 << 20


def test_deflated_frames_may_be_larger_than_any_header(tmp_path, monkeypatch):
    grid = synth.axial_geometry((4, 200, 500), spacing_xyz_mm=(1, 1, 1))
    masks = np.random.default_rng(3).random((2, *grid.shape)) > 0.6
    segments = [synth.SegmentSpec(n, f"s{n}", mask) for n, mask in enumerate(masks, 1)]
    data = synth.build_segmentation(synth.plan_series(grid), segments)
    data.file_meta.TransferSyntaxUID = DEFLATED_UID
    monkeypatch.setattr(datasets, "_INFLATED_LIMIT", 40_000)
    found = decode_segmentation_frames(read_segmentation(save(data, tmp_path)))
    assert np.array_equal(np.stack(list(found)).reshape(masks.shape), masks)
    data.add_new(0x00420011, "OB", bytes(600_000))
    refuse(save(data, tmp_path), "header-unreadable")


def test_damaged_deflated_frames_are_refused(tmp_path, masks):
    data = build(masks)
    data.file_meta.TransferSyntaxUID = DEFLATED_UID
    stored = data.PixelData
    for pixels, code in (
        (stored[:-4], "pixel-data-truncated"),
        (stored + bytes(4), "frame-size-mismatch"),
        (None, "pixel-data-missing"),
    ):
        data.PixelData = pixels
        if pixels is None:
            del data.PixelData
        with pytest.raises(DecodeError) as caught:
            decode_segmentation_frames(read_segmentation(save(data, tmp_path)))
        assert caught.value.code == code


@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
@pytest.mark.parametrize("keeps_meta", [True, False])
@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2", "1.2.840.10008.1.2.1"])
def test_a_data_set_without_preamble_or_file_meta_is_read(tmp_path, masks, kind, keeps_meta, syntax):
    data = build(masks, kind)
    data.file_meta.TransferSyntaxUID = syntax
    path = save(data, tmp_path)
    whole = read_segmentation(path)
    expected = list(decode_segmentation_frames(whole))
    content = path.read_bytes()
    meta_end = 144 + int.from_bytes(content[140:144], "little")
    path.write_bytes(content[132 if keeps_meta else meta_end :])
    bare = read_segmentation(path)
    assert bare == whole
    assert np.array_equal(list(decode_segmentation_frames(bare)), expected)


@pytest.mark.parametrize(("bits", "vr"), [(1, "OB"), (1, "OW"), (8, "OB"), (8, "OW"), (16, "OW")])
def test_big_endian_words_are_swapped(tmp_path, masks, bits, vr):
    data = build(masks, "BINARY" if bits == 1 else "LABELMAP", slices=(0, 2, 3))
    stored = np.frombuffer(data.PixelData, np.uint8)
    expected = np.unpackbits(stored, bitorder="little")[: 6 * 35] if bits == 1 else stored[: 3 * 35]
    if bits == 16:
        expected = expected.astype(np.uint16) + 256
        stored = expected.astype(">u2").view(np.uint8)
        data.BitsAllocated = data.BitsStored = 16
        data.HighBit = 15
    elif vr == "OW":
        stored = stored.reshape(-1, 2)[:, ::-1]
    data.PixelData = stored.tobytes()
    data["PixelData"].VR = vr
    data.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.2"
    found = decode_segmentation_frames(read_segmentation(save(data, tmp_path)))
    assert np.array_equal(np.stack(list(found)).reshape(-1), expected)


def test_sixteen_bit_label_map_in_rle(tmp_path, masks):
    data = build(masks, "LABELMAP")
    expected = np.frombuffer(data.PixelData, np.uint8)[: 4 * 35].reshape(4, 5, 7).astype(np.uint16) * 300
    data.BitsAllocated = data.BitsStored = 16
    data.HighBit = 15
    data.PixelData = expected.astype("<u2").tobytes()
    data["PixelData"].VR = "OW"
    data.compress(pydicom.uid.RLELossless, generate_instance_uid=False)
    found = decode_segmentation_frames(read_segmentation(save(data, tmp_path)))
    assert np.array_equal(np.stack(list(found)), expected)


def test_unknown_syntax_is_refused(tmp_path, masks):
    data = build(masks)
    path = save(data, tmp_path)
    path.write_bytes(path.read_bytes().replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.9\0", 1))
    with pytest.raises(DecodeError) as caught:
        decode_segmentation_frames(read_segmentation(path))
    assert (caught.value.code, caught.value.subject) == ("no-decoder", str(path))
    assert "explicit VR little endian" in caught.value.hint


def test_missing_and_short_pixel_data_are_refused(tmp_path, masks):
    data = build(masks)
    data.PixelData = data.PixelData[:-4]
    with pytest.raises(DecodeError) as caught:
        decode_segmentation_frames(read_segmentation(save(data, tmp_path)))
    assert caught.value.code == "pixel-data-truncated"
    del data.PixelData
    with pytest.raises(DecodeError) as caught:
        decode_segmentation_frames(read_segmentation(save(data, tmp_path)))
    assert caught.value.code == "pixel-data-missing"


@pytest.mark.parametrize(("kind", "change"), [("BINARY", "Rows"), ("LABELMAP", "Rows"), ("BINARY", "padding")])
def test_more_pixel_data_than_the_frames_have_is_refused(tmp_path, masks, kind, change):
    data = build(masks, kind)
    if change == "Rows":
        data.Rows = 4
    else:  # each frame begins on a byte
        bits = np.unpackbits(np.frombuffer(data.PixelData, np.uint8), bitorder="little")[: 8 * 35].reshape(8, 35)
        data.PixelData = np.packbits(bits, axis=1, bitorder="little").tobytes()
    with pytest.raises(DecodeError) as caught:
        decode_segmentation_frames(read_segmentation(save(data, tmp_path)))
    assert caught.value.code == "frame-size-mismatch"


def save_frames(source, path, change):
    """Copy a compressed segmentation with its frames changed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = pydicom.dcmread(source)
    frames = list(pydicom.encaps.generate_frames(data.PixelData, number_of_frames=3))
    data.PixelData = pydicom.encaps.encapsulate(change(frames))
    syntax = data.file_meta.TransferSyntaxUID
    data.file_meta.TransferSyntaxUID = pydicom.uid.JPEG2000Lossless  # pydicom does not write deflated frames
    data.save_as(path)
    path.write_bytes(
        path.read_bytes().replace(pydicom.uid.JPEG2000Lossless.encode(), syntax.encode().ljust(22, b"\0"), 1)
    )
    return path


@pytest.mark.parametrize("name", ["liver_deflate", "liver_rle", "liver_j2k"])
def test_corrupt_frames_are_refused(data_dir, tmp_path, name):
    source = data_dir / f"ct-seg/pydicom_data_liver/{name}.dcm"
    path = save_frames(source, tmp_path / "seg.dcm", lambda f: [f[0], f[1][:100] + b"\xff" * 60, f[2]])
    found = decode_segmentation_frames(read_segmentation(path))
    assert found[0].any() and found[2].any()
    with pytest.raises(DecodeError) as caught:
        found[1]
    assert caught.value.code == "corrupt-frame"


@pytest.mark.parametrize("name", ["liver_deflate", "liver_rle", "liver_j2k"])
def test_missing_frames_are_refused(data_dir, tmp_path, name):
    path = save_frames(data_dir / f"ct-seg/pydicom_data_liver/{name}.dcm", tmp_path / "seg.dcm", lambda f: f[:2])
    with pytest.raises(DecodeError) as caught:
        decode_segmentation_frames(read_segmentation(path))
    assert caught.value.code == "pixel-data-truncated"
