"""Whole files and stacks of the real data against the pixels that other programs decoded."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import count, cycle
from pathlib import Path
from typing import Any

import gdcm
import imagecodecs
import numpy as np
import pydicom
import pytest
from codestreams import encode_rle
from manifest import read_manifest, sha256
from pydicom.encaps import encapsulate, encapsulate_extended

from gpuprep.codecs.base import Image, clean_bits
from gpuprep.codecs.batch import Decoded, decode_instance, decode_stack, fold_offset, narrow_words
from gpuprep.codecs.encapsulated import read_frames
from gpuprep.dicom.framespec import FrameSpec
from gpuprep.dicom.header import InstanceHeader, read_headers
from gpuprep.dicom.stack import Frame, Stack, build_stacks
from gpuprep.dicom.synth import CT_INTERCEPT_HU, axial_geometry, build_ct_slice, plan_series, write_dataset
from gpuprep.errors import CaseError, DecodeError

MPEG2 = "1.2.840.10008.1.2.4.100"
JPEG_LS = "1.2.840.10008.1.2.4.80"
JPEG_EXTENDED = "1.2.840.10008.1.2.4.51"
JPEG_LOSSLESS = "1.2.840.10008.1.2.4.70"
RLE = "1.2.840.10008.1.2.5"

#: Transfer syntax → files in manifest.csv whose pixels are known. All of them are decoded here.
FILES = {
    "1.2.840.10008.1.2": 270,
    "1.2.840.10008.1.2.1": 304,
    "1.2.840.10008.1.2.1.99": 1,
    "1.2.840.10008.1.2.2": 7,
    "1.2.840.10008.1.2.4.201": 1,
    "1.2.840.10008.1.2.4.203": 1,
    "1.2.840.10008.1.2.4.50": 14,
    JPEG_EXTENDED: 4,
    "1.2.840.10008.1.2.4.57": 3,
    JPEG_LOSSLESS: 14,
    JPEG_LS: 22,
    "1.2.840.10008.1.2.4.81": 4,
    "1.2.840.10008.1.2.4.90": 24,
    "1.2.840.10008.1.2.4.91": 12,
    RLE: 24,
}
#: Where the manifest holds more frames than the header announces: the pixel data is longer than it should be.
EXCESS_FRAMES = {
    "malformed/fuzz_cat01_09/cat04_pixel_data/TC0287_buf_2x.dcm",
    "malformed/fuzz_cat01_09/cat04_pixel_data/TC0307_bits_ba_one.dcm",
}
#: Refused, though pydicom gives pixels: High Bit is beyond the bits allocated.
INVALID = {"malformed/fuzz_cat01_09/cat04_pixel_data/TC0303_bits_highbit_gt_ba.dcm": "attribute-invalid"}
#: 12-bit lossy JPEG: decoders may differ by a grey level. The manifest holds those of another one; GDCM's equal ours.
AS_GDCM = {
    "syntaxes/dicomparser_encapsulated/encapsulated/multi-frame/CT0012.fragmented_no_bot_jpeg_baseline.51.dcm",
    "syntaxes/pylibjpeg_data/JPEGExtended/JPEGExtended_1s_1f_u_16_12.dcm",
    "xray-mammo/pylibjpeg_data_cr/JPEGExtended/RG2_JPLY_fixed.dcm",
}
#: Twins in which the compressed file is one that pydicom cannot decode.
LIVER = "ct-seg/pydicom_data_liver/liver"
#: Files that cannot be decoded → error code.
REFUSED = {
    "malformed/fuzz_cat01_09/cat02_vr_mismatch/TC0243_pixeldata_OB_as_OW.dcm": "pixel-data-truncated",
    "malformed/fuzz_cat01_09/cat04_pixel_data/TC0291_buf_zero.dcm": "pixel-data-truncated",
    "malformed/fuzz_cat01_09/cat04_pixel_data/TC0295_rows_zero.dcm": "attribute-invalid",
    "malformed/fuzz_cat01_09/cat04_pixel_data/TC0299_bits_bsstored_gt_ba.dcm": "attribute-invalid",
    "malformed/fuzz_cat01_09/cat04_pixel_data/TC0331_pi_invalid.dcm": "attribute-invalid",
    "malformed/fuzz_cat01_09/cat04_pixel_data/TC0339_mf_nf_million.dcm": "pixel-data-truncated",
    "malformed/pydicom_bad/MR_truncated.dcm": "pixel-data-truncated",
}


def read_header(path: str | Path) -> InstanceHeader:
    (header,) = read_headers([str(path)])
    return header


def decode_file(path: str | Path) -> Image:
    header = read_header(path)
    return decode_instance(header, FrameSpec.from_header(header), workers=2).array


def read_by_gdcm(path: Path) -> Image:
    reader = gdcm.ImageReader()
    reader.SetFileName(str(path))
    assert reader.Read()
    return np.frombuffer(reader.GetImage().GetBuffer().encode("utf-8", "surrogateescape"), np.uint16)


def test_no_file_of_the_manifest_is_left_out(data_dir: Path) -> None:
    rows = read_manifest(data_dir)
    assert {uid: sum(row.transfer_syntax_uid == uid for row in rows) for uid in FILES} == FILES
    assert len(rows) == sum(FILES.values())
    assert {row.path for row in rows} >= EXCESS_FRAMES | INVALID.keys() | AS_GDCM


@pytest.mark.parametrize("transfer_syntax_uid", list(FILES))
def test_pixels_are_those_of_the_manifest(transfer_syntax_uid: str, data_dir: Path, tmp_path: Path) -> None:
    wrong = []
    for row in read_manifest(data_dir):
        if row.transfer_syntax_uid != transfer_syntax_uid or row.path in INVALID | dict.fromkeys(AS_GDCM):
            continue
        pixels = decode_file(row.open(data_dir, tmp_path))
        if row.path in EXCESS_FRAMES:
            pixels = np.concatenate([pixels] * (row.shape[0] // len(pixels)))  # all of them are black
            assert row.maximum == 0
        if not row.matches(pixels):
            wrong.append(row.path)
    assert wrong == []


@pytest.mark.parametrize("path", sorted(AS_GDCM))
def test_12_bit_jpeg_is_as_gdcm_decodes_it(path: str, data_dir: Path) -> None:
    pixels = decode_file(data_dir / path)
    np.testing.assert_array_equal(pixels.reshape(-1), read_by_gdcm(data_dir / path))
    (row,) = (row for row in read_manifest(data_dir) if row.path == path)
    assert (pixels.min(), pixels.max()) == (row.minimum, row.maximum)


def test_what_pydicom_cannot_decode_is_as_gdcm_and_dcmtk_decode_it(data_dir: Path) -> None:
    fallbacks = json.loads((data_dir / "decode-fallbacks.json").read_text(encoding="utf-8"))
    compared = 0
    for path, answers in fallbacks.items():
        for answer in answers.values():
            if answer != "failed":
                assert sha256(decode_file(data_dir / path).astype(answer["dtype"])) == answer["sha256"], path
                compared += 1
    assert compared == 6


@pytest.mark.parametrize(
    "name", ["_rle", "_deflate", "_expb", "_j2k", "_nonbyte_aligned_rle", "_nonbyte_aligned_deflate"]
)
def test_packed_bits_in_every_encoding(name: str, data_dir: Path) -> None:
    plain = name.rpartition("_")[0]
    np.testing.assert_array_equal(
        decode_file(data_dir / f"{LIVER}{name}.dcm"), decode_file(data_dir / f"{LIVER}{plain}.dcm")
    )


def test_pixel_data_without_its_end_is_decoded_when_all_frames_are_there(data_dir: Path) -> None:
    short = data_dir / "malformed" / "pydicom_data_bad" / "emri_small_jpeg_2k_lossless_too_short.dcm"
    whole = data_dir / "enhanced" / "pydicom_data_enhanced" / "emri_small.dcm"
    np.testing.assert_array_equal(decode_file(short), pydicom.dcmread(whole).pixel_array)


@pytest.mark.parametrize(("path", "code"), (REFUSED | INVALID).items())
def test_refuses_broken_files(path: str, code: str, data_dir: Path) -> None:
    with pytest.raises(CaseError) as caught:
        decode_file(data_dir / path)
    assert caught.value.code == code
    assert Path(caught.value.subject) == data_dir / path


# --- Stacks --------------------------------------------------------------------------------------------------------


def only_stack(paths: Sequence[str | Path]) -> Stack:
    (stack,) = build_stacks(read_headers([str(path) for path in paths]))
    return stack


def hash_as_nifti(decoded: Decoded) -> str:
    """Return the SHA-256 of the voxels as dcm2niix stores them: x fastest, rows from the bottom, int16."""
    return sha256(decoded.array[:, ::-1].astype(np.int16))


@pytest.mark.parametrize("name", ["12bitUnsigned", "12bitUnsigned_0x0F0F", "12bitSigned_0x0F0F"])
def test_dirty_high_bits_of_a_mosaic_are_as_dcm2niix_reads_them(name: str, data_dir: Path) -> None:
    case = data_dir / "dcm2niix-reference" / "12bit"
    references = json.loads((case / "reference-dcm2niix" / "dcm2niix-reference.json").read_text(encoding="utf-8"))
    number = {"12bitUnsigned": 2, "12bitUnsigned_0x0F0F": 3, "12bitSigned_0x0F0F": 4}[name]
    reference = references["images"][f"{number}_FMRI_AX_ASC.nii.gz"]
    decoded = decode_stack(only_stack([case / "In" / f"{name}.dcm"]), workers=2)
    assert decoded.bits_are_clean
    assert decoded.array.shape == tuple(reversed(reference["shape"]))
    assert (decoded.array.min(), decoded.array.max()) == (reference["min"], reference["max"])
    assert hash_as_nifti(decoded) == reference["sha256_raw_voxels_F_order"]


@pytest.mark.parametrize(
    ("number", "decoder"),
    [
        (1, "native"),
        (2, "native"),
        (3, "native"),
        (4, "host-rle"),
        (5, "imagecodecs-jpeg8"),
        (6, "imagecodecs-jpeg8"),
        (7, "imagecodecs-jpegls"),
        (8, "imagecodecs-jpegls"),
        (9, "imagecodecs-jpeg2k"),
    ],
)
def test_a_mosaic_is_the_same_in_every_syntax(number: int, decoder: str, data_dir: Path) -> None:
    folder = data_dir / "syntaxes" / "dcm_qa_ts" / "In"
    tiles = decode_stack(only_stack([folder / f"{number}.dcm"]), workers=2)
    assert tiles.decoder == decoder
    mosaic = pydicom.dcmread(folder / "1.dcm").pixel_array
    expected = [mosaic[64 * (n // 6) :, 64 * (n % 6) :][:64, :64] for n in range(35)]
    np.testing.assert_array_equal(tiles.array, expected)


def write_slices(folder: Path, *, syntaxes: Sequence[str | None] = (None,)) -> tuple[list[Path], Image]:
    """Write six slices, file names against their order, in the syntaxes by turns; return files and stored values."""
    series = plan_series(axial_geometry((6, 20, 30), spacing_xyz_mm=(1, 1, 2)))
    stored = np.random.default_rng(3).integers(0, 4095, (6, 20, 30)).astype(np.int16)
    paths = []
    for index, (pixels, syntax) in enumerate(zip(stored, cycle(syntaxes), strict=False)):
        dataset = build_ct_slice(series, index, pixels + CT_INTERCEPT_HU)
        if syntax is not None:
            set_codestreams(dataset, syntax, encapsulate([encode(pixels.view(np.uint16), syntax)]))
        paths.append(folder / f"{6 - index:03d}.dcm")
        write_dataset(dataset, paths[-1])
    return paths, stored


def encode(pixels: Image, syntax: str) -> bytes:
    if syntax == JPEG_LS:
        data = imagecodecs.jpegls_encode(pixels)
    elif syntax == JPEG_LOSSLESS:
        data = imagecodecs.jpeg8_encode(pixels, lossless=True, bitspersample=16)
    else:
        data = encode_rle(pixels)
    return bytes(data)


def set_codestreams(dataset: Any, syntax: str, pixel_data: bytes) -> None:
    dataset.PixelData = pixel_data
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = syntax


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    ("syntaxes", "decoder"),
    [
        ([None], "native"),
        ([JPEG_LS], "imagecodecs-jpegls"),
        ([JPEG_LOSSLESS], "imagecodecs-jpeg8"),
        ([None, RLE, JPEG_LS], "host-rle, imagecodecs-jpegls, native"),
    ],
)
def test_a_stack_has_its_frames_in_order(
    syntaxes: list[str | None], decoder: str, workers: int, tmp_path: Path
) -> None:
    paths, stored = write_slices(tmp_path, syntaxes=syntaxes)
    decoded = decode_stack(only_stack(paths[::-1]), workers=workers)
    np.testing.assert_array_equal(decoded.array, stored)
    assert decoded.array.dtype == np.int16
    assert decoded.decoder == decoder
    assert decoded.bits_are_clean


@pytest.mark.parametrize(
    "name", ["emri_small", "emri_small_big_endian", "emri_small_RLE", "emri_small_jpeg_2k_lossless"]
)
def test_frames_of_one_file_are_picked_by_number(name: str, data_dir: Path) -> None:
    folder = data_dir / "enhanced" / "pydicom_data_enhanced"
    header = read_header(folder / f"{name}.dcm")
    picked = [7, 0, 3]
    stack = Stack(
        frames=tuple(Frame(header, index, float(slot)) for slot, index in enumerate(picked)),
        geometry=axial_geometry((3, 64, 64), spacing_xyz_mm=(1, 1, 1)),
        spec=FrameSpec.from_header(header),
        plane_offsets_lps_mm=((0, 0, 0), (0, 0, 1), (0, 0, 2)),
    )
    expected = pydicom.dcmread(folder / "emri_small.dcm").pixel_array[picked]
    np.testing.assert_array_equal(decode_stack(stack, workers=2).array, expected)


def test_native_words_keep_their_dirty_bits_and_say_so(tmp_path: Path) -> None:
    paths, stored = write_slices(tmp_path)
    for path in paths:
        dataset = pydicom.dcmread(path)
        dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 12, 11, 0
        dataset.PixelData = (dataset.pixel_array.astype(np.uint16) | 0x5000).tobytes()
        dataset.save_as(path)
    decoded = decode_stack(only_stack(paths), workers=2)
    assert not decoded.bits_are_clean
    np.testing.assert_array_equal(decoded.array, stored.astype(np.uint16) | 0x5000)
    clean_bits(decoded.array, decoded.spec)
    np.testing.assert_array_equal(decoded.array, stored)


@pytest.mark.parametrize("unlike", [(1, 4), (0, 2)])
def test_slices_of_unlike_signs_share_a_type_that_holds_both(unlike: tuple[int, int], tmp_path: Path) -> None:
    paths, stored = write_slices(tmp_path)
    for number in unlike:
        dataset = pydicom.dcmread(paths[number])
        dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 12, 11, 0
        dataset.PixelData = (stored[number].astype(np.uint16) | 0xF000).tobytes()
        dataset.save_as(paths[number])
    decoded = decode_stack(only_stack(paths), workers=2)
    np.testing.assert_array_equal(decoded.array, stored)
    assert (decoded.array.dtype, decoded.spec.is_signed, decoded.spec.bits_stored) == (np.int16, True, 16)
    assert decoded.bits_are_clean


def test_refuses_slices_whose_values_no_type_holds() -> None:
    instances = [
        InstanceHeader(
            path=f"{sign}", rows=4, columns=4, samples_per_pixel=1, photometric_interpretation="MONOCHROME2",
            bits_allocated=64, bits_stored=64, high_bit=63, pixel_representation=sign,
        )
        for sign in (0, 1)
    ]  # fmt: skip
    stack = Stack(
        frames=tuple(Frame(instance, 0, float(slot)) for slot, instance in enumerate(instances)),
        geometry=axial_geometry((2, 4, 4), spacing_xyz_mm=(1, 1, 1)),
        spec=FrameSpec.from_header(instances[0]),
        plane_offsets_lps_mm=((0, 0, 0), (0, 0, 1)),
    )
    with pytest.raises(DecodeError) as caught:
        decode_stack(stack, workers=1)
    assert caught.value.code == "unsupported-pixels"


@pytest.mark.parametrize(
    ("stored_bits", "high_bit", "lay"),
    [
        (13, 12, lambda words: words & 0x1FFF),  # negative values without their sign in the upper bits
        (13, 12, lambda words: words & 0x1FFF | 0xA000),
        (13, 15, lambda words: words << 3 | 5),
    ],
)
def test_slices_of_unlike_stored_bits_are_cleaned_each_in_its_way(
    stored_bits: int, high_bit: int, lay: Callable[[Image], Image], tmp_path: Path
) -> None:
    paths, stored = write_slices(tmp_path)
    for number in (1, 4):
        stored[number] -= 2000
        dataset = pydicom.dcmread(paths[number])
        dataset.BitsStored, dataset.HighBit = stored_bits, high_bit
        dataset.PixelData = lay(stored[number].view(np.uint16)).astype(np.uint16).tobytes()
        dataset.save_as(paths[number])
    decoded = decode_stack(only_stack(paths), workers=2)
    np.testing.assert_array_equal(decoded.array, stored)
    assert decoded.bits_are_clean


def test_a_damaged_later_frame_is_named(tmp_path: Path) -> None:
    paths, stored = write_slices(tmp_path, syntaxes=[JPEG_LS])
    dataset = pydicom.dcmread(paths[4])
    set_codestreams(dataset, JPEG_LS, encapsulate([encode(stored[4].view(np.uint16), JPEG_LS)[:-400]]))
    dataset.save_as(paths[4])
    with pytest.raises(DecodeError) as caught:
        decode_stack(only_stack(paths), workers=2)
    assert (caught.value.code, caught.value.subject) == ("corrupt-frame", str(paths[4]))
    assert caught.value.message.startswith("frame 1: ")


def test_decoders_are_not_mixed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths, _ = write_slices(tmp_path, syntaxes=[JPEG_LOSSLESS])
    decode_jpeg8, calls = imagecodecs.jpeg8_decode, count()

    def fail_later(*args: Any, **options: Any) -> Any:
        if next(calls) > 2:
            raise imagecodecs.Jpeg8Error("", -1, "broken for this test")
        return decode_jpeg8(*args, **options)

    monkeypatch.setattr(imagecodecs, "jpeg8_decode", fail_later)
    with pytest.raises(DecodeError) as caught:
        decode_stack(only_stack(paths), workers=2)
    assert caught.value.code == "corrupt-frame"


def test_refuses_a_stack_with_a_truncated_file(tmp_path: Path) -> None:
    paths, _ = write_slices(tmp_path)
    paths[3].write_bytes(paths[3].read_bytes()[:-100])
    with pytest.raises(DecodeError) as caught:
        decode_stack(only_stack(paths), workers=2)
    assert (caught.value.code, caught.value.subject) == ("pixel-data-truncated", str(paths[3]))


def test_refuses_a_stack_of_video(tmp_path: Path) -> None:
    paths, _ = write_slices(tmp_path)
    headers = [
        replace(header, transfer_syntax_uid=MPEG2, pixel_offset=-1, pixel_length=-1)
        for header in read_headers([str(path) for path in paths])
    ]
    (stack,) = build_stacks(headers)
    with pytest.raises(DecodeError) as caught:
        decode_stack(stack, workers=2)
    assert (caught.value.code, caught.value.subject) == ("no-decoder", str(paths[0]))
    assert "MPEG2" in caught.value.message


# --- Words ---------------------------------------------------------------------------------------------------------


def words_of(values: Sequence[int], dtype: str, *, offset: int = 0, clean: bool = True) -> Decoded:
    array = (np.array(values, np.int64) + offset).astype(dtype).reshape(2, 1, -1)
    bits = 8 * array.itemsize
    spec = FrameSpec("", 1, array.shape[2], bits, bits, bits - 1, is_signed=array.dtype.kind == "i")
    return Decoded(array, spec, "test", clean, offset)


@pytest.mark.parametrize(
    ("slopes", "intercepts", "folded"),
    [
        ((2, 3), (-1000, 5), (-66536, -98299)),  # intercept - slope × 32768
        ((2, 0.5), (-1000, 5), None),
        ((2, 3), (-1000, 0.5), None),
    ],
)
def test_an_offset_goes_into_whole_intercepts_else_out_of_the_words(
    slopes: tuple[float, ...], intercepts: tuple[float, ...], folded: tuple[float, ...] | None
) -> None:
    values = [-32768, -1, 0, 32767]
    decoded = words_of(values, "u2", offset=32768)
    stored = decoded.array.copy()
    found, found_intercepts = fold_offset(decoded, np.array(slopes, float), np.array(intercepts, float))
    assert (found.offset, found.spec.is_signed) == (0, folded is None)
    assert found_intercepts.tolist() == list(folded or intercepts)
    np.testing.assert_array_equal(found.array, stored if folded else np.reshape(values, stored.shape))


@pytest.mark.parametrize(
    ("values", "dtype", "expected"),
    [
        ((-32768, 32767), "i4", "i2"),
        ((0, 65535), "i4", "u2"),
        ((0, 65535), "u4", "u2"),
        ((-1, 32768), "i4", "i4"),
        ((-32769, 0), "i4", "i4"),
        ((0, 65536), "u4", "u4"),
        ((0, 1), "u1", "u1"),
        ((0, 1), "f4", "f4"),
    ],
)
def test_words_are_as_narrow_as_their_values(values: tuple[int, ...], dtype: str, expected: str) -> None:
    found = narrow_words(words_of(values, dtype))
    assert found.array.dtype == expected
    assert found.array.ravel().tolist() == list(values)
    bits = 8 * np.dtype(expected).itemsize
    layout = (found.spec.bits_allocated, found.spec.bits_stored, found.spec.high_bit, found.spec.is_signed)
    assert layout == (bits, bits, bits - 1, expected[0] == "i")
    assert narrow_words(words_of(values, dtype, clean=False)).array.dtype == dtype


# --- Encapsulation -------------------------------------------------------------------------------------------------


def write_frames(path: Path, *, offset_table: str, fragments: int, syntax: str = JPEG_LS) -> Image:
    """Write a file of four encapsulated frames and return their pixels."""
    pixels = np.random.default_rng(5).integers(0, 4095, (4, 20, 30)).astype(np.uint16)
    codestreams = [encode(frame, syntax) for frame in pixels]
    dataset = build_ct_slice(plan_series(axial_geometry((1, 20, 30), spacing_xyz_mm=(1, 1, 1))), 0, np.zeros((20, 30)))
    dataset.NumberOfFrames, dataset.PixelRepresentation = 4, 0
    if offset_table == "extended":
        data, dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths = encapsulate_extended(codestreams)
    else:
        data = encapsulate(codestreams, fragments_per_frame=fragments, has_bot=offset_table == "basic")
    set_codestreams(dataset, syntax, data)
    write_dataset(dataset, path)
    return pixels


@pytest.mark.parametrize(
    ("offset_table", "fragments", "syntax"),
    [
        ("basic", 1, RLE),
        ("basic", 3, RLE),
        ("empty", 1, RLE),
        ("basic", 3, JPEG_LS),
        ("empty", 3, JPEG_LS),
        ("extended", 1, JPEG_LS),
    ],
)
def test_frames_are_found_in_their_fragments(offset_table: str, fragments: int, syntax: str, tmp_path: Path) -> None:
    pixels = write_frames(tmp_path / "file", offset_table=offset_table, fragments=fragments, syntax=syntax)
    np.testing.assert_array_equal(decode_file(tmp_path / "file"), pixels)


@pytest.mark.parametrize(("is_there", "code"), [(True, "pixel-data-missing"), (False, "unreadable")])
def test_refuses_a_file_without_frames(is_there: bool, code: str, tmp_path: Path) -> None:
    write_frames(tmp_path / "file", offset_table="basic", fragments=1)
    header = read_header(tmp_path / "file")
    dataset = pydicom.dcmread(tmp_path / "file")
    del dataset.PixelData
    (tmp_path / "file").unlink()
    if is_there:
        dataset.save_as(tmp_path / "file")
    with pytest.raises(DecodeError) as caught:
        read_frames(header, FrameSpec.from_header(header))
    assert (caught.value.code, caught.value.subject) == (code, str(tmp_path / "file"))


@pytest.mark.parametrize("frames", [5, 1_000_000])
def test_refuses_fewer_codestreams_than_frames(frames: int, tmp_path: Path) -> None:
    write_frames(tmp_path / "file", offset_table="basic", fragments=1)
    header = replace(read_header(tmp_path / "file"), number_of_frames=frames)
    with pytest.raises(DecodeError) as caught:
        decode_instance(header, FrameSpec.from_header(header))
    assert (caught.value.code, caught.value.subject) == ("pixel-data-truncated", str(tmp_path / "file"))


@pytest.mark.parametrize("bytes_kept", [-1000, 30, 8, 3])
def test_refuses_a_file_that_ends_within_its_fragments(bytes_kept: int, tmp_path: Path) -> None:
    write_frames(tmp_path / "file", offset_table="basic", fragments=1)
    data = (tmp_path / "file").read_bytes()
    last_item = data.rindex(b"\xfe\xff\x00\xe0")
    (tmp_path / "file").write_bytes(data[: last_item + bytes_kept])
    with pytest.raises(DecodeError) as caught:
        decode_file(tmp_path / "file")
    assert caught.value.code in {"pixel-data-truncated", "pixel-data-missing", "corrupt-frame"}
    assert caught.value.subject == str(tmp_path / "file")
