"""What a file says of how it is shown: tables in every form that PS3.3 C.11 allows, and where a spacing may stand."""

from dataclasses import fields

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels import apply_modality_lut, apply_voi_lut
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from tiff_images import SECONDARY_CAPTURE, write_image

from gpuprep.dicom import display
from gpuprep.dicom.display import read_display
from gpuprep.dicom.header import read_headers, read_headers_pydicom
from gpuprep.errors import HeaderError

ALL_12_BITS = {0: np.arange(4096, dtype=np.uint16), 1: np.arange(-2048, 2048, dtype=np.int16)}


def item(**elements):
    ds = Dataset()
    for name, value in elements.items():
        setattr(ds, name, value)
    return ds


def table(first, entries, *, bits=12, data=None, vr="US"):
    ds = Dataset()
    ds.add_new("LUTDescriptor", vr, [len(entries) & 0xFFFF, first, bits])
    ds.add_new("LUTData", "US" if data is None else "OW", [int(v) for v in entries] if data is None else data)
    return ds


def part(**elements):
    """An item with elements whose VR depends on others that may be missing."""
    ds = Dataset()
    for name, value in elements.items():
        ds.add_new(name, "US" if name == "LUTDescriptor" else "OW", value)
    return ds


def display_of(path):
    (header,) = read_headers([str(path)])
    return read_display(header)


def voi_lut_of(path):
    return display_of(path).frames[0].voi_lut


@pytest.fixture(params=[0, 1], ids=["unsigned", "signed"])
def pixels(request):
    return ALL_12_BITS[request.param].reshape(1, 64, 64)


def test_voi_luts_are_those_of_pydicom(tmp_path, pixels):
    first = int(pixels.min()) + 300
    entries = np.linspace(0, 4095, 700).astype(int)
    lut = table(first, entries, vr="SS" if first < 0 else "US")
    path = write_image(tmp_path / "a", pixels, VOILUTSequence=[lut], WindowCenter=1, WindowWidth=2)
    found = voi_lut_of(path).apply(pixels.astype(float))
    np.testing.assert_array_equal(found, apply_voi_lut(pixels, pydicom.dcmread(path)))


def frame_voi(**elements):
    return item(FrameVOILUTSequence=[item(**elements)])


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_frames_have_voi_luts_of_their_own(tmp_path, syntax):
    """Functional group macro Frame VOI LUT With LUT, as tomosynthesis has it."""
    words = np.array([9, 8, 7, 6], "<u2").tobytes()
    groups = [
        frame_voi(VOILUTSequence=[table(3, [1, 2])]),
        frame_voi(WindowCenter=5, WindowWidth=10, VOILUTFunction="SIGMOID"),
        frame_voi(VOILUTSequence=[table(4, range(4), data=words)]),
        Dataset(),
    ]
    path = write_image(
        tmp_path / "a", np.zeros((4, 3, 3), np.uint16), PerFrameFunctionalGroupsSequence=groups,
        SharedFunctionalGroupsSequence=[frame_voi(VOILUTSequence=[table(1, [7])])], VOILUTSequence=[table(0, [0])],
    )  # fmt: skip
    ds = pydicom.dcmread(path)
    ds.file_meta.TransferSyntaxUID = syntax
    ds.save_as(path, implicit_vr=syntax.is_implicit_VR, little_endian=True)
    frames = display_of(path).frames
    luts = [frame.voi_lut and (frame.voi_lut.first, frame.voi_lut.data) for frame in frames]
    assert luts == [(3, (1, 2)), None, (4, (9, 8, 7, 6)), (1, (7,))]
    assert (frames[1].window_centre, frames[1].window_width) == (5, 10)
    assert [frame.voi_function for frame in frames] == ["LINEAR", "SIGMOID", "LINEAR", "LINEAR"]


def test_modality_luts_are_those_of_pydicom(tmp_path, pixels):
    first = int(pixels.min())
    entries = np.arange(4096)[::-1]
    lut = table(first, entries, bits=16, vr="SS" if first < 0 else "US")
    lut.ModalityLUTType = "US"
    path = write_image(tmp_path / "a", pixels, ModalityLUTSequence=[lut])
    found = display_of(path).modality_lut.apply(pixels.astype(float))
    np.testing.assert_array_equal(found, apply_modality_lut(pixels, pydicom.dcmread(path)))


def test_a_voi_lut_after_a_rescale_to_negative_values_begins_below_zero(tmp_path):
    lut = table(0xFC18, [0, 1, 2], vr="US")  # -1000 as 16 bits
    path = write_image(tmp_path / "a", ALL_12_BITS[0].reshape(1, 64, 64), VOILUTSequence=[lut], RescaleIntercept=-1024)
    assert voi_lut_of(path).first == -1000
    path = write_image(tmp_path / "b", ALL_12_BITS[0].reshape(1, 64, 64), VOILUTSequence=[lut])
    assert voi_lut_of(path).first == 0xFC18
    path = write_image(
        tmp_path / "c", ALL_12_BITS[0].reshape(1, 64, 64), VOILUTSequence=[table(20000, [0, 1])], RescaleIntercept=-1024
    )
    assert voi_lut_of(path).first == 20000
    shared = item(PixelValueTransformationSequence=[item(RescaleSlope=1, RescaleIntercept=-1024)])
    path = write_image(
        tmp_path / "e", np.zeros((1, 3, 3), np.uint16), VOILUTSequence=[lut], SharedFunctionalGroupsSequence=[shared]
    )
    assert voi_lut_of(path).first == -1000
    lut = table(-1000, [0, 1, 2], vr="SS")  # 64 536 of unsigned values
    assert (
        voi_lut_of(write_image(tmp_path / "d", ALL_12_BITS[0].reshape(1, 64, 64), VOILUTSequence=[lut])).first == 64536
    )


@pytest.mark.parametrize(("width", "expected"), [(0, (None, None)), (-2, (None, None)), (0.5, (7, 0.5))])
def test_a_window_has_a_width(tmp_path, width, expected):
    path = write_image(tmp_path / "a", np.zeros((1, 3, 3), np.uint16), WindowCenter=7, WindowWidth=width)
    (frame,) = display_of(path).frames
    assert (frame.window_centre, frame.window_width) == expected


def test_a_rescale_of_a_frame_comes_before_that_of_the_file(tmp_path):
    own = item(PixelValueTransformationSequence=[item(RescaleSlope=2, RescaleIntercept=-5)])
    path = write_image(
        tmp_path / "a", np.zeros((2, 3, 3), np.uint16), PerFrameFunctionalGroupsSequence=[own, Dataset()],
        RescaleSlope=3, RescaleIntercept=7,
    )  # fmt: skip
    assert [(frame.slope, frame.intercept) for frame in display_of(path).frames] == [(2, -5), (3, 7)]


@pytest.mark.parametrize(("value", "limit"), [(-2000, -1500), (-1500, -2000)])
def test_padding_is_a_range_in_either_order(tmp_path, value, limit):
    path = write_image(tmp_path / "a", ALL_12_BITS[1].reshape(1, 64, 64), PixelPaddingValue=value)
    assert display_of(path).padding == (value, value)
    path = write_image(
        tmp_path / "b", ALL_12_BITS[1].reshape(1, 64, 64), PixelPaddingValue=value, PixelPaddingRangeLimit=limit
    )
    assert display_of(path).padding == (-2000, -1500)


@pytest.mark.parametrize(
    ("places", "order"), [((30, 4, 12), ((1, 2, 0), "stack-position")), ((1, None, 2), ((0, 1, 2), "stored"))]
)
def test_frames_follow_their_places_in_the_stack(tmp_path, places, order):
    groups = [item(FrameContentSequence=[item(**({"InStackPositionNumber": n} if n else {}))]) for n in places]
    path = write_image(tmp_path / "a", np.zeros((3, 3, 3), np.uint16), PerFrameFunctionalGroupsSequence=groups)
    found = display_of(path)
    assert (found.order, found.ordered_by) == order


@pytest.mark.parametrize(
    ("code", "orientation", "turned"),
    [("R-10242", ["P", "L"], True), ("399162004", ["P", "L"], True), ("R-10226", ["P", "HL"], True),
     ("399368009", ["P", "HL"], True), ("399368009", ["P", "L"], False), ("R-10224", ["P", "L"], False)],
)  # fmt: skip
def test_view_and_side_of_tomosynthesis_may_be_coded(tmp_path, code, orientation, turned):
    shared = item(FrameAnatomySequence=[item(FrameLaterality="L")])
    for sop_class, is_turned in ((display.BREAST_TOMOSYNTHESIS_UID, turned), (SECONDARY_CAPTURE, False)):
        path = write_image(
            tmp_path / "a", np.zeros((2, 3, 3), np.uint16), sop_class=sop_class, ViewPosition="CC",
            ViewCodeSequence=[item(CodeValue=code)], ImageLaterality="R", PatientOrientation=orientation,
            SharedFunctionalGroupsSequence=[shared],
        )  # fmt: skip
        assert display_of(path).is_turned is is_turned


@pytest.mark.parametrize("data", [bytes([0, 10, 20, 30]), bytes([0, 0, 10, 0, 20, 0, 30, 0])], ids=["bytes", "words"])
def test_entries_of_8_bits_may_be_bytes_or_words(tmp_path, data):
    lut = table(5, range(4), bits=8, data=data)
    found = voi_lut_of(write_image(tmp_path / "a", ALL_12_BITS[0].reshape(1, 64, 64), VOILUTSequence=[lut]))
    assert (found.first, found.data, found.bits) == (5, (0, 10, 20, 30), 8)
    assert found.apply(np.array([-9.0, 5, 6.9, 7, 99])).tolist() == [0, 0, 10, 20, 30]  # clamped, the lower of two


def test_tables_of_big_endian_files(tmp_path):
    ds = Dataset()
    ds.update(pydicom.dcmread(write_image(tmp_path / "a", ALL_12_BITS[0].reshape(1, 64, 64))))
    ds.file_meta = FileMetaDataset()
    ds.VOILUTSequence = [table(7, range(3), bits=16, data=b"\x01\x02\x03\x04\x05\x06")]
    ds.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    ds["PixelData"].VR = "OW"
    ds.save_as(tmp_path / "b", enforce_file_format=True)
    assert voi_lut_of(tmp_path / "b").data == (0x0102, 0x0304, 0x0506)


def test_a_table_of_65536_entries_says_0(tmp_path):
    entries = np.arange(65536)[::-1]
    lut = table(0, entries, bits=16, data=entries.astype("<u2").tobytes())
    found = voi_lut_of(write_image(tmp_path / "a", ALL_12_BITS[0].reshape(1, 64, 64), VOILUTSequence=[lut]))
    assert (len(found.data), found.data[-1]) == (65536, 0)


def test_templates_of_tables_say_nothing(tmp_path):
    empty = part(LUTDescriptor=None, LUTData=None)
    path = write_image(
        tmp_path / "a", ALL_12_BITS[1].reshape(1, 64, 64), VOILUTSequence=[empty], ModalityLUTSequence=[Dataset()]
    )
    found = display_of(path)
    assert (found.frames[0].voi_lut, found.modality_lut) == (None, None)


@pytest.mark.parametrize(
    "lut",
    [
        part(LUTDescriptor=[4, 0, 16]),
        part(LUTData=bytes(8)),
        table(0, range(4), bits=0),
        table(0, range(4), bits=17),
        table(0, range(9), data=bytes(4)),
    ],
)
@pytest.mark.parametrize("sequence", ["VOILUTSequence", "ModalityLUTSequence"])
def test_half_a_table_is_refused(tmp_path, lut, sequence):
    with pytest.raises(HeaderError) as caught:
        display_of(write_image(tmp_path / "a", ALL_12_BITS[0].reshape(1, 64, 64), **{sequence: [lut]}))
    assert caught.value.code == "attribute-invalid"


@pytest.mark.parametrize(
    ("elements", "expected"),
    [
        ({"PixelSpacing": [0.2, 0.1], "ImagerPixelSpacing": [0.4, 0.3]}, (0.2, 0.1)),
        ({"ImagerPixelSpacing": [0.4, 0.3]}, (0.4, 0.3)),
        ({"PixelSpacing": [0, 0.1]}, None),
        ({"PixelSpacing": [0, 0], "ImagerPixelSpacing": [0.4, 0.3]}, (0.4, 0.3)),
        ({}, None),
    ],
)
def test_spacing(tmp_path, elements, expected):
    path = write_image(tmp_path / "a", ALL_12_BITS[0].reshape(1, 64, 64), **elements)
    assert display_of(path).pixel_spacing_yx_mm == expected


def test_spacing_of_functional_groups(tmp_path):
    measures = item(PixelMeasuresSequence=[item(PixelSpacing=[0.5, 0.6], SliceThickness=3)])
    path = write_image(tmp_path / "a", np.zeros((2, 4, 4), np.uint16), SharedFunctionalGroupsSequence=[measures])
    found = display_of(path)
    assert (found.pixel_spacing_yx_mm, found.slice_spacing_mm, found.ordered_by) == ((0.5, 0.6), 3, "stored")
    measures.PixelMeasuresSequence[0].SpacingBetweenSlices = -4
    path = write_image(tmp_path / "b", np.zeros((2, 4, 4), np.uint16), SharedFunctionalGroupsSequence=[measures])
    assert display_of(path).slice_spacing_mm == 4
    measures.PixelMeasuresSequence[0].SpacingBetweenSlices = measures.PixelMeasuresSequence[0].SliceThickness = 0
    path = write_image(tmp_path / "c", np.zeros((2, 4, 4), np.uint16), SharedFunctionalGroupsSequence=[measures])
    assert display_of(path).slice_spacing_mm is None


@pytest.mark.parametrize(
    "name",
    ["ModalityLUTSequence", "VOILUTSequence", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"],
)
def test_both_readers_tell_which_sequences_are_there(tmp_path, name):
    columns = ("has_modality_lut", "has_voi_lut", "has_shared_groups", "has_frame_groups")
    path = write_image(
        tmp_path / "a", ALL_12_BITS[0].reshape(1, 64, 64), VOILUTFunction="SIGMOID", **{name: [Dataset()]}
    )
    for read in (read_headers, read_headers_pydicom):
        (header,) = read([str(path)])
        assert [pydicom.datadict.keyword_for_tag(f.metadata["tag"]) for f in fields(header)
                if f.name in columns and getattr(header, f.name)] == [name]  # fmt: skip
        assert header.voi_lut_function == read_display(header).frames[0].voi_function == "SIGMOID"


def test_a_row_that_says_all_gives_what_the_file_gives(data_dir, monkeypatch):
    files = sorted(
        p for theme in ("xray-mammo", "colour", "syntaxes") for p in (data_dir / theme).rglob("*") if p.is_file()
    )
    rows = [row for row in read_headers([str(p) for p in files]) if row.rows and not row.error_code]
    plain = [row for row in rows if display._is_plain(row)]
    assert len(plain) > 20
    assert len(plain) < len(rows)
    by_row = [read_display(row) for row in plain]
    monkeypatch.setattr(display, "_is_plain", lambda header: False)
    for found, row in zip(by_row, plain, strict=True):
        by_file = read_display(row)
        assert all(getattr(found, f.name) == getattr(by_file, f.name) for f in fields(found)), row.path
