"""Each decoder on the codestreams of real files, and the choice among decoders."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from codestreams import encode_rle
from contracts import DecoderContract, ReferenceImage, decode
from manifest import read_manifest

from gpuprep import codecs
from gpuprep.codecs import DECODERS, cpu
from gpuprep.codecs.base import JPEG_BASELINE, Decoder, Image, container_dtype, image_shape
from gpuprep.codecs.encapsulated import read_frames
from gpuprep.dicom.framespec import FrameSpec
from gpuprep.dicom.header import InstanceHeader, read_headers
from gpuprep.errors import ConfigError, DecodeError
from gpuprep.registry import Registry

JPEG_LOSSLESS = "1.2.840.10008.1.2.4.70"
RLE_LOSSLESS = "1.2.840.10008.1.2.5"
JPEG_2000_LOSSLESS = "1.2.840.10008.1.2.4.90"
MPEG2 = "1.2.840.10008.1.2.4.100"

#: A compressed file → the file whose pixels in manifest.csv it must give: an uncompressed twin where there is one.
#: Lossless, lossy, near-lossless; 1, 8, 12, 15 and 16 bits; signed; RGB, YBR, palette; three interleavings of JPEG-LS.
REFERENCES = {
    **{f"syntaxes/dcm_qa_ts/In/{n}.dcm": "syntaxes/dcm_qa_ts/In/1.dcm" for n in range(4, 10)},
    "syntaxes/pydicom_data_syntaxes/693_J2KR.dcm": "syntaxes/pydicom_data_syntaxes/693_UNCR.dcm",
    **{
        f"ct-seg/pydicom_data_liver/liver{size}_{how}.dcm": f"ct-seg/pydicom_data_liver/liver{size}.dcm"
        for size in ("", "_nonbyte_aligned")
        for how in ("rle", "deflate", "j2k")
    },
    "colour/pydicom_data_colour/US1_J2KR.dcm": "colour/pydicom_data_colour/US1_UNCR.dcm",
    "colour/pydicom_data_colour/OBXXXX1A_rle.dcm": "colour/pydicom_data_colour/OBXXXX1A.dcm",
    "syntaxes/pylibjpeg_data/RLELossless/SC_rgb_rle_32bit.dcm": "colour/pydicom_data_colour/SC_rgb_32bit.dcm",
    **{
        path: path
        for path in (
            "syntaxes/pydicom_data_syntaxes/JLSL_16_15_1_1F.dcm",
            "syntaxes/pydicom_data_syntaxes/JLSL_RGB_ILV0.dcm",
            "syntaxes/pydicom_data_syntaxes/JLSL_RGB_ILV1.dcm",
            "syntaxes/pydicom_data_syntaxes/JLSL_RGB_ILV2.dcm",
            "syntaxes/pydicom_data_syntaxes/JLSN_RGB_ILV0.dcm",
            "syntaxes/pydicom_data_syntaxes/HTJ2KLossless_08_RGB.dcm",
            "syntaxes/pydicom_data_syntaxes/HTJ2K_08_RGB.dcm",
            "syntaxes/pylibjpeg_data/JPEGBaseline/SC_rgb_dcmtk_+eb+cy+s2.dcm",
            "syntaxes/pylibjpeg_data/JPEGBaseline/SC_rgb_jpeg_lossy_gdcm.dcm",
            "syntaxes/pylibjpeg_data/JPEGExtended/JPEGExtended_3s_1f_u_08_08.dcm",
            "syntaxes/pylibjpeg_data/JPEGLossless/JPEGLossless_1s_1f_u_16_12.dcm",
            "syntaxes/pylibjpeg_data/JPEGLosslessSV1/SC_rgb_jpeg_gdcm.dcm",
        )
    },
}


def read_spec(path: Path) -> tuple[InstanceHeader, FrameSpec]:
    (header,) = read_headers([str(path)])
    return header, FrameSpec.from_header(header)


@pytest.fixture(scope="module")
def references(data_dir: Path) -> list[ReferenceImage]:
    rows = {row.path: row for row in read_manifest(data_dir)}
    images = []
    for path, twin in REFERENCES.items():
        header, spec = read_spec(data_dir / path)
        codestreams = tuple(read_frames(header, spec))
        images.append(ReferenceImage(path, codestreams, spec, rows[twin].dtype, rows[twin].sha256))
    return images


@pytest.mark.parametrize("name", list(DECODERS))
class TestDecoder(DecoderContract):
    @pytest.fixture
    def decoder(self, name: str) -> Decoder:
        decoder: Decoder = DECODERS.load(name)
        if not decoder.syntaxes():
            pytest.skip(f"the library of {name} is not installed")
        return decoder

    @pytest.fixture
    def images(self, decoder: Decoder, references: list[ReferenceImage]) -> list[ReferenceImage]:
        images = [image for image in references if image.spec.transfer_syntax_uid in decoder.syntaxes()]
        assert images
        return images


def make_spec(transfer_syntax_uid: str, **changes: Any) -> FrameSpec:
    spec = FrameSpec(transfer_syntax_uid, 16, 24, bits_allocated=16, bits_stored=12, high_bit=11, is_signed=False)
    return replace(spec, **changes)


def decode_one(decoder: Decoder, data: bytes, spec: FrameSpec) -> Image:
    return decode(decoder, [data], spec)[0]


def make_pixels(low: int, high: int, dtype: str) -> Image:
    pixels = np.random.default_rng(0).integers(low, high, (16, 24), endpoint=True)
    pixels[0, :2] = low, high
    return pixels.astype(dtype)


@pytest.mark.parametrize("is_signed", [False, True])
def test_bits_above_the_stored_ones_are_cleared_or_carry_the_sign(is_signed: bool) -> None:
    words = make_pixels(0, 0xFFFF, "u2")
    expected = (words & 0x0FFF).astype(int)
    if is_signed:
        expected[expected >= 0x800] -= 0x1000
    decoded = decode_one(cpu.RLE, encode_rle(words), make_spec(RLE_LOSSLESS, is_signed=is_signed))
    np.testing.assert_array_equal(decoded, expected)


def test_stored_bits_that_begin_above_bit_0_are_moved_down() -> None:
    words = make_pixels(0, 0xFFFF, "u2")
    decoded = decode_one(cpu.RLE, encode_rle(words), make_spec(RLE_LOSSLESS, high_bit=13))
    np.testing.assert_array_equal(decoded, words >> 2 & 0x0FFF)


@pytest.mark.parametrize(("low", "high", "says_signed"), [(-2048, 2047, False), (0, 4095, True)])
def test_the_header_decides_on_the_sign_of_a_jpeg_2000_frame(low: int, high: int, says_signed: bool) -> None:
    pixels = make_pixels(low, high, "i2" if low < 0 else "u2")
    data = imagecodecs.jpeg2k_encode(pixels, codecformat="j2k", reversible=True, bitspersample=12)
    decoded = decode_one(cpu.JPEG2K, data, make_spec(JPEG_2000_LOSSLESS, is_signed=says_signed))
    expected = pixels.astype(int) & 0xFFF
    expected = np.where(says_signed & (expected > 2047), expected - 4096, expected)
    np.testing.assert_array_equal(decoded, expected)


@pytest.mark.parametrize("is_signed", [False, True])
def test_samples_of_8_bits_may_fill_words_of_16(is_signed: bool) -> None:
    pixels = make_pixels(-128, 127, "i1") if is_signed else make_pixels(0, 255, "u1")
    spec = make_spec(JPEG_2000_LOSSLESS, bits_stored=8, high_bit=7, is_signed=is_signed)
    decoded = decode_one(cpu.JPEG2K, imagecodecs.jpeg2k_encode(pixels, codecformat="j2k", reversible=True), spec)
    assert decoded.dtype == (np.int16 if is_signed else np.uint16)
    np.testing.assert_array_equal(decoded, pixels)


def test_packbits_runs_and_no_operations() -> None:
    segment = (
        b"\x80"
        + bytes([257 - 100, 5])
        + b"\x80"
        + bytes([2, 1, 2, 3])
        + bytes([257 - 128, 9, 257 - 128, 8, 257 - 25, 7])
    )
    header = np.array([1, 64, *[0] * 14], "<u4").tobytes()
    decoded = decode_one(
        cpu.RLE, header + segment, make_spec(RLE_LOSSLESS, bits_allocated=8, bits_stored=8, high_bit=7)
    )
    assert decoded.reshape(-1).tolist() == [5] * 100 + [1, 2, 3] + [9] * 128 + [8] * 128 + [7] * 25


@pytest.mark.parametrize(
    ("position", "value"), [(0, 3), (0, 0), (4, 12), (4, 4000), (8, 0xFFFFFFFF), (8, 20)], ids=lambda value: str(value)
)
def test_refuses_an_rle_header_that_points_elsewhere(position: int, value: int) -> None:
    data = bytearray(encode_rle(make_pixels(0, 0xFFFF, "u2")))
    data[position : position + 4] = value.to_bytes(4, "little")
    with pytest.raises(DecodeError) as caught:
        decode_one(cpu.RLE, bytes(data), make_spec(RLE_LOSSLESS))
    assert caught.value.code == "corrupt-frame"


def test_a_codestream_that_announces_a_huge_image_costs_no_memory() -> None:
    data = bytearray(imagecodecs.jpegls_encode(make_pixels(0, 4095, "u2")))
    start = data.index(b"\xff\xf7")
    data[start + 5 : start + 9] = b"\xff\xff\xff\xff"
    with pytest.raises(DecodeError) as caught:
        decode_one(cpu.JPEGLS, bytes(data), make_spec("1.2.840.10008.1.2.4.80"))
    assert caught.value.code == "frame-size-mismatch"
    assert "65535 × 65535" in caught.value.message


def test_the_next_decoder_is_tried_when_the_first_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = make_pixels(0, 4095, "u2")
    data = imagecodecs.ljpeg_encode(pixels, bitspersample=12)
    spec = make_spec(JPEG_LOSSLESS)
    out = np.empty(image_shape(spec), container_dtype(spec))
    assert cpu.choose_decoder(data, spec, out) is cpu.JPEG8
    np.testing.assert_array_equal(out, pixels)

    def fail(*_: Any, **__: Any) -> None:
        raise imagecodecs.Jpeg8Error("", -1, "broken for this test")

    monkeypatch.setattr(imagecodecs, "jpeg8_decode", fail)
    out[...] = 0
    assert cpu.choose_decoder(data, spec, out) is cpu.GDCM
    np.testing.assert_array_equal(out, pixels)


@pytest.mark.parametrize(("place", "byte"), [(5, 1), (8, 0), (10, 0xFF)])
def test_no_decoder_makes_pixels_of_a_lossless_frame_whose_table_is_damaged(place: int, byte: int) -> None:
    data = bytearray(imagecodecs.jpeg8_encode(make_pixels(0, 4095, "u2"), lossless=True, bitspersample=12))
    data[data.index(b"\xff\xc4") + place] = byte
    spec = make_spec(JPEG_LOSSLESS)
    with pytest.raises(DecodeError) as caught:
        cpu.choose_decoder(bytes(data), spec, np.empty(image_shape(spec), container_dtype(spec)))
    assert caught.value.code == "corrupt-frame"


@pytest.mark.parametrize("decoder", [cpu.JPEG2K, cpu.GDCM])
def test_jp2_boxes_around_a_codestream_do_not_matter(decoder: Decoder) -> None:
    pixels = make_pixels(0, 4095, "u2")
    data = imagecodecs.jpeg2k_encode(pixels, level=0, codecformat="j2k", reversible=True)
    boxes = b"\0\0\0\x0cjP  \r\n\x87\n" + b"\0\0\0\x08none" + b"\0\0\0\0jp2c"
    np.testing.assert_array_equal(decode_one(decoder, boxes + data, make_spec(JPEG_2000_LOSSLESS)), pixels)


def test_says_what_all_decoders_said() -> None:
    spec = make_spec(JPEG_LOSSLESS)
    with pytest.raises(DecodeError) as caught:
        cpu.choose_decoder(b"nonsense", spec, np.empty(image_shape(spec), container_dtype(spec)))
    assert caught.value.code == "corrupt-frame"
    assert "imagecodecs-jpeg8: " in caught.value.message
    assert "pydicom-gdcm: " in caught.value.message


@pytest.mark.parametrize(("uid", "hint"), [(MPEG2, "gdcmconv"), ("1.2.3", "gdcmconv"), (JPEG_LOSSLESS, "imagecodecs")])
def test_refuses_a_syntax_without_decoder(uid: str, hint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "DECODERS", Registry("decoder", {}))
    with pytest.raises(DecodeError) as caught:
        cpu.choose_decoder(b"", make_spec(uid), np.empty((16, 24), np.uint16))
    assert caught.value.code == "no-decoder"
    assert hint in caught.value.hint


@pytest.mark.parametrize(("transform", "says"), [(0, "YBR_FULL_422"), (1, "RGB")])
def test_an_adobe_segment_knows_better_than_the_header_what_the_samples_are(transform: int, says: str) -> None:
    colour = (200, 40, 90)
    pixels = np.full((16, 24, 3), colour, np.uint8)
    as_is = {"colorspace": imagecodecs.JPEG8.CS.YCbCr, "outcolorspace": imagecodecs.JPEG8.CS.YCbCr}
    data = imagecodecs.jpeg8_encode(pixels, 100, **(as_is if transform == 0 else {}))
    length = int.from_bytes(data[4:6], "big")  # of JFIF's segment, which gives way
    adobe = b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0" + bytes([transform])
    spec = FrameSpec(JPEG_BASELINE, 16, 24, 8, 8, 7, False, samples_per_pixel=3, photometric_interpretation=says)
    decoded = decode_one(cpu.JPEG8, data[:2] + adobe + data[4 + length :], spec)
    assert np.abs(decoded.astype(int) - colour).max() <= 2


def test_refuses_limited_range_ybr() -> None:
    spec = make_spec(RLE_LOSSLESS, samples_per_pixel=3, photometric_interpretation="YBR_PARTIAL_422")
    with pytest.raises(DecodeError) as caught:
        cpu.RLE.decode_frame(b"", spec, np.empty((16, 24, 3), np.uint16))
    assert caught.value.code == "unsupported-pixels"


def test_names_its_decoders() -> None:
    described = codecs.describe_decoders()
    assert described["RLE Lossless"] == "host-rle"
    assert described["Deflated Image Frame Compression"] == "deflate"
    assert described["JPEG 2000 Image Compression"].split(", ")[0] == "imagecodecs-jpeg2k"
    with pytest.raises(ConfigError) as caught:
        DECODERS.load("nonesuch")
    assert caught.value.code == "unknown-decoder"
