"""The native reader on files made by hand, and its refusals."""

from __future__ import annotations

import zlib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from dicom_bytes import UNDEFINED, element, part10
from pydicom.encaps import encapsulate

from gpuprep.codecs import native
from gpuprep.codecs.batch import Decoded, decode_instance
from gpuprep.codecs.native import Extent, read_extents
from gpuprep.dicom.datasets import DEFLATED_UID, EXPLICIT_BIG_UID, EXPLICIT_LITTLE_UID, IMPLICIT_LITTLE_UID
from gpuprep.dicom.framespec import FrameSpec
from gpuprep.dicom.header import InstanceHeader, read_headers
from gpuprep.dicom.synth import axial_geometry, build_ct_slice, plan_series, write_dataset
from gpuprep.errors import DecodeError

#: Words of a part that is read, in the tests of cleaning.
PART_WORDS = 50


def make_file(path: Path, pixels: bytes, *, before: int = 128) -> InstanceHeader:
    """Write a file whose pixel data begins after `before` bytes, and return what a header would say of it."""
    path.write_bytes(b"h" * before + pixels)
    return InstanceHeader(
        path=str(path),
        size=before + len(pixels),
        pixel_offset=before,
        pixel_length=len(pixels),
        transfer_syntax_uid=EXPLICIT_LITTLE_UID,
    )


def make_spec(bits: int, **changes: Any) -> FrameSpec:
    spec = FrameSpec(EXPLICIT_LITTLE_UID, 3, 5, bits, bits, bits - 1, is_signed=False)
    return replace(spec, **changes)


def decode_as(path: Path, transfer_syntax_uid: str, pixels: bytes, **elements: object) -> Decoded:
    """Decode a CT image of 16 bits and 4 × 5 pixels that is written with other elements."""
    series = plan_series(axial_geometry((1, 4, 5), spacing_xyz_mm=(1, 1, 1)))
    data = build_ct_slice(series, 0, np.zeros((4, 5)))
    data.file_meta.TransferSyntaxUID = transfer_syntax_uid
    data.PixelData = pixels
    for name, value in elements.items():
        setattr(data, name, value)
    write_dataset(data, path)
    (header,) = read_headers([str(path)])
    return decode_instance(header, FrameSpec.from_header(header))


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_reads_many_parts_of_many_files_into_place(workers: int, tmp_path: Path) -> None:
    contents = [np.random.default_rng(n).bytes(1000 + n) for n in range(40)]
    for n, content in enumerate(contents):
        (tmp_path / f"file ü {n}").write_bytes(content)
    order = np.random.default_rng(7).permutation(80)
    extents = [
        Extent(str(tmp_path / f"file ü {part // 2}"), 10 + 400 * (part % 2), 300, 300 * slot)
        for slot, part in enumerate(order)
    ]
    buffer = np.full(80 * 300 + 1, 77, np.uint8)
    read_extents(extents, buffer, workers=workers)
    expected = b"".join(contents[part // 2][10 + 400 * (part % 2) :][:300] for part in order)
    assert buffer.tobytes() == expected + b"M"


def stored_value(word: int, stored: int, high: int, *, is_signed: bool) -> int:
    """Return what the stored bits of a word mean (PS3.5 8.1.1)."""
    value = (word >> high - stored + 1) % (1 << stored)
    return value - (1 << stored) if is_signed and value >> stored - 1 else value


@pytest.mark.parametrize("is_signed", [False, True])
@pytest.mark.parametrize(
    ("allocated", "stored", "high"),
    [(8, 8, 7), (8, 6, 5), (16, 16, 15), (16, 12, 11), (16, 12, 14), (32, 20, 19), (64, 40, 39), (64, 64, 63)],
)
@pytest.mark.parametrize("is_dirty", [False, True])
def test_words_are_cleaned_and_their_ends_found(
    allocated: int, stored: int, high: int, is_signed: bool, is_dirty: bool, tmp_path: Path
) -> None:
    spec = make_spec(allocated, bits_stored=stored, high_bit=high, is_signed=is_signed)
    rng = np.random.default_rng(allocated + stored)
    words = [int.from_bytes(rng.bytes(allocated // 8), "little") for _ in range(2 * PART_WORDS)]
    meant = [stored_value(word, stored, high, is_signed=is_signed) for word in words]
    if not is_dirty:
        words = [value % (1 << allocated) << high - stored + 1 & (1 << allocated) - 1 for value in meant]
    content = b"".join(word.to_bytes(allocated // 8, "little") for word in words)
    (tmp_path / "words").write_bytes(content)
    half = len(content) // 2
    extents = [Extent(str(tmp_path / "words"), start, half, start) for start in (half, 0)]
    buffer = np.empty(len(words), f"{'i' if is_signed else 'u'}{allocated // 8}")
    ends = read_extents(extents, buffer, workers=1, clean_as=spec)
    assert buffer.tolist() == meant
    halves = meant[PART_WORDS:], meant[:PART_WORDS]
    assert (ends.tolist() if ends is not None else None) == (
        [[min(half), max(half)] for half in halves] if allocated <= 16 else None
    )


def test_bits_that_only_the_last_words_have_wrong_are_cleaned(tmp_path: Path) -> None:
    words = np.full(1_000_001, 7, "<u2")
    words[-1] = 0xF123
    words.tofile(tmp_path / "words")
    buffer = np.empty_like(words)
    extent = Extent(str(tmp_path / "words"), 0, words.nbytes, 0)
    ends = read_extents([extent], buffer, workers=1, clean_as=make_spec(16, bits_stored=12, high_bit=11))
    assert ends is not None
    assert ends.tolist() == [[7, 0x123]]
    assert (buffer[:-1] == 7).all()


def test_words_that_are_not_cleaned_have_no_ends(tmp_path: Path) -> None:
    (tmp_path / "words").write_bytes(b"abcd")
    extent = Extent(str(tmp_path / "words"), 0, 4, 0)
    assert read_extents([extent], np.empty(2, "u2"), workers=1) is None
    floats = make_spec(32, is_float=True)
    assert read_extents([extent], np.empty(1, "f4"), workers=1, clean_as=floats) is None


def test_refuses_a_file_that_ends_too_early(tmp_path: Path) -> None:
    header = make_file(tmp_path / "short", bytes(20))
    with pytest.raises(DecodeError) as caught:
        read_extents([Extent(header.path, 128, 20, 0), Extent(header.path, 140, 20, 0)], np.empty(40, "u1"), workers=1)
    assert caught.value.code == "pixel-data-truncated"
    assert caught.value.subject == header.path


def test_refuses_a_file_that_is_gone(tmp_path: Path) -> None:
    with pytest.raises(DecodeError) as caught:
        read_extents([Extent(str(tmp_path / "gone"), 0, 1, 0)], np.empty(1, "u1"), workers=1)
    assert caught.value.code == "unreadable"
    assert "No such file" in caught.value.message


def test_refuses_to_write_beyond_the_buffer(tmp_path: Path) -> None:
    header = make_file(tmp_path / "file", bytes(64))
    for length, destination in ((9, 0), (4, 5), (1, -1), (-1, 0), (1, 2**63 - 1)):
        with pytest.raises(ValueError, match="does not fit into 8 bytes"):
            read_extents([Extent(header.path, 0, length, destination)], np.empty(8, "u1"), workers=1)
    with pytest.raises(ValueError, match="not contiguous"):
        read_extents([], np.empty((8, 2), "u1")[:, 0], workers=1)


def test_too_little_memory_for_reading_is_a_memory_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "_library", lambda: SimpleNamespace(gp_read_frames=lambda *arguments: -1))
    with pytest.raises(MemoryError):
        read_extents([Extent(str(tmp_path), 0, 1, 0)], np.empty(8, "u1"), workers=1)

    def fail(*arguments: object) -> None:
        raise MemoryError

    monkeypatch.setattr(native, "parse_file", fail)
    with pytest.raises(MemoryError):
        decode_as(tmp_path / "file", DEFLATED_UID, bytes(40))


@pytest.mark.parametrize("bits", [8, 16, 32, 64])
@pytest.mark.parametrize("is_signed", [False, True])
def test_integers_of_any_width(bits: int, is_signed: bool, tmp_path: Path) -> None:
    pixels = np.random.default_rng(bits).integers(0, 256, (2, 3, 5 * bits // 8), np.uint8)
    pixels = pixels.view(f"<{'i' if is_signed else 'u'}{bits // 8}")
    header = make_file(tmp_path / "file", pixels.tobytes())
    decoded = decode_instance(header, make_spec(bits, is_signed=is_signed, number_of_frames=2)).array
    assert decoded.dtype == pixels.dtype
    np.testing.assert_array_equal(decoded, pixels)


@pytest.mark.parametrize("bits", [8, 16, 32, 64])
@pytest.mark.parametrize("is_signed", [False, True])
@pytest.mark.parametrize("high_bit_below_top", [0, 2])
def test_other_bits_are_cleaned_while_reading(
    bits: int, is_signed: bool, high_bit_below_top: int, tmp_path: Path
) -> None:
    """Stored bits in the middle of noise, in frames that are read in several pieces."""
    raw = np.random.default_rng(bits).integers(0, 256, (2, 301, 401, bits // 8), np.uint8)
    stored = bits - 3
    header = make_file(tmp_path / "file", raw.tobytes())
    spec = make_spec(bits, rows=301, columns=401, number_of_frames=2, is_signed=is_signed, bits_stored=stored)
    spec = replace(spec, high_bit=bits - 1 - high_bit_below_top)
    decoded = decode_instance(header, spec).array
    words = [int.from_bytes(word, "little") >> (spec.high_bit + 1 - stored) for word in raw.reshape(-1, bits // 8)]
    values = [word & ((1 << stored) - 1) for word in words]
    if is_signed:
        values = [value - (1 << stored) if value >> (stored - 1) else value for value in values]
    assert decoded.ravel().tolist() == values


@pytest.mark.parametrize("syntax", [IMPLICIT_LITTLE_UID, EXPLICIT_LITTLE_UID, DEFLATED_UID, EXPLICIT_BIG_UID])
def test_stored_bits_lie_where_high_bit_says_in_every_native_syntax(syntax: str, tmp_path: Path) -> None:
    values = np.random.default_rng(4).integers(-2048, 2048, (1, 4, 5))
    words = (values << 4 | 5).astype(">i2" if syntax == EXPLICIT_BIG_UID else "<i2")
    decoded = decode_as(tmp_path / "file", syntax, words.tobytes(), BitsStored=12, HighBit=15)
    np.testing.assert_array_equal(decoded.array, values)
    assert (decoded.decoder, decoded.bits_are_clean) == ("native", True)


def test_packed_bits_whose_frames_begin_within_a_byte(tmp_path: Path) -> None:
    pixels = np.random.default_rng(1).integers(0, 2, (5, 3, 5), np.uint8)
    header = make_file(tmp_path / "file", np.packbits(pixels, bitorder="little").tobytes())
    np.testing.assert_array_equal(decode_instance(header, make_spec(1, number_of_frames=5)).array, pixels)


@pytest.mark.parametrize("planar_configuration", [0, 1])
def test_colour_by_pixel_and_by_plane(planar_configuration: int, tmp_path: Path) -> None:
    pixels = np.random.default_rng(2).integers(0, 256, (2, 3, 5, 3), np.uint8)
    stored = pixels if planar_configuration == 0 else np.moveaxis(pixels, -1, 1)
    header = make_file(tmp_path / "file", stored.tobytes())
    spec = make_spec(8, samples_per_pixel=3, photometric_interpretation="RGB", number_of_frames=2)
    decoded = decode_instance(header, replace(spec, planar_configuration=planar_configuration)).array
    np.testing.assert_array_equal(decoded, pixels)


def test_ybr_full_becomes_rgb_as_bt_601_says(tmp_path: Path) -> None:
    # Luma, blue and red difference of the primaries, ITU-T T.871 section 7
    ybr = {
        (76, 85, 255): (254, 0, 0),
        (150, 44, 21): (0, 255, 1),
        (29, 255, 107): (0, 0, 254),
        (90, 128, 128): (90,) * 3,
    }
    header = make_file(tmp_path / "file", bytes(value for colour in ybr for value in colour))
    spec = make_spec(8, rows=1, columns=4, samples_per_pixel=3, photometric_interpretation="YBR_FULL")
    assert decode_instance(header, spec).array[0, 0].tolist() == [list(rgb) for rgb in ybr.values()]


def test_ybr_full_422_shares_its_colour_between_two_pixels(tmp_path: Path) -> None:
    header = make_file(tmp_path / "file", bytes([10, 20, 128, 128, 30, 40, 128, 128]))
    spec = make_spec(8, rows=1, columns=4, samples_per_pixel=3, photometric_interpretation="YBR_FULL_422")
    assert decode_instance(header, spec).array[0, 0].tolist() == [[10] * 3, [20] * 3, [30] * 3, [40] * 3]
    full = make_file(tmp_path / "full", bytes(12))
    with pytest.raises(DecodeError) as caught:
        decode_instance(full, spec)
    assert caught.value.code == "frame-size-mismatch"


def test_refuses_ybr_of_16_bits(tmp_path: Path) -> None:
    header = make_file(tmp_path / "file", bytes(90))
    with pytest.raises(DecodeError) as caught:
        decode_instance(header, make_spec(16, samples_per_pixel=3, photometric_interpretation="YBR_FULL"))
    assert caught.value.code == "unsupported-pixels"
    assert caught.value.subject == header.path


def test_refuses_ybr_422_of_rows_that_do_not_come_in_pairs(tmp_path: Path) -> None:
    header = make_file(tmp_path / "file", bytes(30))
    with pytest.raises(DecodeError) as caught:
        decode_instance(header, make_spec(8, samples_per_pixel=3, photometric_interpretation="YBR_FULL_422"))
    assert caught.value.code == "unsupported-pixels"


def test_refuses_encapsulated_pixels_of_a_native_syntax(tmp_path: Path) -> None:
    data = element(0x00280010, "US", b"\3\0") + element(0x7FE00010, "OB", encapsulate([bytes(30)]), length=UNDEFINED)
    (tmp_path / "file").write_bytes(part10(data))
    (header,) = read_headers([str(tmp_path / "file")])
    with pytest.raises(DecodeError) as caught:
        decode_instance(header, make_spec(16))
    assert caught.value.code == "pixel-data-missing"


@pytest.mark.parametrize("frames", [1, 2000])
def test_deflated_frames_may_take_less_than_a_byte(frames: int, tmp_path: Path) -> None:
    decoded = decode_as(tmp_path / "file", DEFLATED_UID, bytes(40 * frames), NumberOfFrames=frames)
    np.testing.assert_array_equal(decoded.array, np.zeros((frames, 4, 5)))


@pytest.mark.parametrize("syntax", [DEFLATED_UID, EXPLICIT_BIG_UID])
def test_refuses_more_frames_than_any_file_of_this_size_holds(syntax: str, tmp_path: Path) -> None:
    with pytest.raises(DecodeError) as caught:
        decode_as(tmp_path / "file", syntax, bytes(40), NumberOfFrames=1_000_000)
    assert caught.value.code == "pixel-data-truncated"
    assert caught.value.message.startswith("1000000 frames in a file of ")


def test_a_deflated_file_that_ends_too_early_is_refused(tmp_path: Path) -> None:
    deflated = zlib.compress(element(0x00280010, "US", b"\3\0") + element(0x7FE00010, "OW", bytes(30)), wbits=-15)
    path = tmp_path / "deflated"
    path.write_bytes(part10(deflated, DEFLATED_UID)[:-2])
    header = InstanceHeader(path=str(path), size=path.stat().st_size, transfer_syntax_uid=DEFLATED_UID)
    with pytest.raises(DecodeError) as caught:
        decode_instance(header, make_spec(16, transfer_syntax_uid=DEFLATED_UID))
    assert caught.value.code == "pixel-data-truncated"


@pytest.mark.parametrize("frames", [2, 1_000_000])
def test_refuses_fewer_bytes_than_frames_before_taking_memory(frames: int, tmp_path: Path) -> None:
    header = make_file(tmp_path / "file", bytes(59))
    with pytest.raises(DecodeError) as caught:
        decode_instance(header, make_spec(16, number_of_frames=frames))
    assert caught.value.code == "pixel-data-truncated"
