from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from dicom_bytes import EXPLICIT, IMPLICIT, UNDEFINED, element, part10, sequence

from gpuprep.dicom import datasets
from gpuprep.dicom.header import LONGEST_VALUE, InstanceHeader, decode_text, read_headers, read_headers_pydicom

CT = "1.2.840.10008.5.1.4.1.1.2"
RTSTRUCT = "1.2.840.10008.5.1.4.1.1.481.3"
SEG = "1.2.840.10008.5.1.4.1.1.66.4"
US = struct.Struct("<H").pack

#: Sources of the host library that the fuzzer is linked with.
FUZZED = ("dicom_groups", "dicom_header", "dicom_rtstruct", "pool")

#: The repository's own bounds for a hostile file.
SECONDS_A_FILE, ADDRESS_SPACE_BYTES = 5.0, 1 << 30


def write(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    return str(path)


def read_both(path: str) -> InstanceHeader:
    """The native row, after making sure that pydicom gives the same."""
    [row], [oracle] = read_headers([path]), read_headers_pydicom([path])
    # As dictionaries: since Python 3.13 dataclasses that hold one and the same NaN are not equal.
    assert dataclasses.asdict(row) | {"reader": ""} == dataclasses.asdict(oracle) | {"reader": ""}
    return row


def ct_elements(*, implicit: bool = False) -> bytes:
    def e(tag: int, vr: str, value: bytes | str) -> bytes:
        return element(tag, vr, value, implicit=implicit)

    return b"".join(
        [
            e(0x00080008, "CS", "ORIGINAL\\PRIMARY\\AXIAL"),
            e(0x00080016, "UI", CT),
            e(0x00080018, "UI", "1.2.3.4"),
            e(0x00080060, "CS", "CT"),
            e(0x00100020, "LO", "id 7"),
            sequence(0x00101002, [e(0x00100020, "LO", "another")], implicit=implicit, undefined=True),
            e(0x00180050, "DS", " 2.5 "),
            e(0x00189087, "FD", struct.pack("<d", 1000.5)),
            e(0x0020000E, "UI", "1.2.3"),
            e(0x00200013, "IS", "+12 "),
            e(0x00200032, "DS", "-1.5\\2e1\\3"),
            e(0x00280010, "US", US(2)),
            e(0x00280011, "US", US(3)),
            e(0x00280103, "US", US(1)),
            e(0x00280120, "SS", struct.pack("<h", -2000)),
            e(0x00281050, "DS", "40\\400"),
            e(0x00281053, "DS", "one"),
        ]
    )


@pytest.mark.parametrize("implicit", [False, True])
def test_a_handmade_file_gives_the_row_that_was_written(tmp_path: Path, implicit: bool) -> None:
    head = part10(ct_elements(implicit=implicit), IMPLICIT if implicit else EXPLICIT)
    pixels = element(0x7FE00010, "OW", bytes(12), implicit=implicit)
    row = read_both(write(tmp_path / "no-extension", head + pixels))
    assert (row.reader, row.error_code) == ("native", "")
    assert row.transfer_syntax_uid == (IMPLICIT if implicit else EXPLICIT)
    assert row.image_type == "ORIGINAL\\PRIMARY\\AXIAL"
    assert (row.sop_class_uid, row.sop_instance_uid, row.series_instance_uid) == (CT, "1.2.3.4", "1.2.3")
    assert (row.modality, row.patient_id) == ("CT", "id 7")
    assert (row.slice_thickness_mm, row.diffusion_b_value, row.instance_number) == (2.5, 1000.5, 12)
    assert row.image_position_lps_mm == (-1.5, 20.0, 3.0)
    assert (row.rows, row.columns, row.pixel_representation, row.pixel_padding_value) == (2, 3, 1, -2000)
    assert row.window_center == (40.0, 400.0)
    assert row.rescale_intercept is None, "absent"
    assert math.isnan(row.rescale_slope), "garbled"
    assert row.study_date == ""
    assert (row.pixel_offset, row.pixel_length) == (len(head) + len(pixels) - 12, 12)
    assert (row.size, row.mtime_ns) == (len(head + pixels), Path(row.path).stat().st_mtime_ns)


@pytest.mark.parametrize(
    ("text", "number"),
    [("+.5 ", 0.5), ("1e-3", 0.001), ("  -2.\0", -2.0), ("", None), (" \0", None)]
    + [(text, math.nan) for text in ("1,5", "1\\1", "2\\", "nan", "inf", "1e999", "0x10", "1_0", "--1")],
)
def test_a_rescale_is_absent_or_a_number_or_garbled(tmp_path: Path, text: str, number: float | None) -> None:
    data_set = element(0x00080016, "UI", CT) + element(0x00281053, "DS", text)
    found = read_both(write(tmp_path / "file", part10(data_set))).rescale_slope
    assert found == number or (found is not None and number is not None and math.isnan(found) and math.isnan(number))


@pytest.mark.parametrize("implicit", [False, True])
def test_a_data_set_without_preamble_is_found(tmp_path: Path, implicit: bool) -> None:
    row = read_both(write(tmp_path / "bare", ct_elements(implicit=implicit)))
    assert (row.reader, row.error_code, row.sop_class_uid) == ("native", "", CT)
    assert row.transfer_syntax_uid == (IMPLICIT if implicit else EXPLICIT)


def test_encapsulated_pixels_have_no_place(tmp_path: Path) -> None:
    fragments = b"\xfe\xff\x00\xe0" + bytes(4)
    pixels = element(0x7FE00010, "OB", fragments, length=UNDEFINED)
    row = read_both(write(tmp_path / "jpeg", part10(ct_elements() + pixels, "1.2.840.10008.1.2.4.70")))
    assert (row.reader, row.pixel_offset, row.is_native) == ("native", -1, False)


def test_a_header_longer_than_one_read_is_followed(tmp_path: Path) -> None:
    big = element(0x00091010, "OB", bytes(300_000))
    row = read_both(
        write(tmp_path / "big", part10(element(0x00080016, "UI", CT) + big + element(0x00281050, "DS", "40\\400")))
    )
    assert (row.reader, row.error_code, row.window_center) == ("native", "", (40.0, 400.0))


def test_overlong_values_are_cut_or_garbled(tmp_path: Path) -> None:
    data_set = (
        element(0x00080016, "UI", CT)
        + element(0x0008103E, "UT", "x" * 9000)
        + element(0x00281050, "UT", "1\\" * 4000 + "1")
    )
    row = read_both(write(tmp_path / "long", part10(data_set)))
    assert (row.error_code, row.series_description, row.window_center) == ("", "x" * LONGEST_VALUE, ())


@pytest.mark.parametrize(
    ("vr", "value", "representation", "expected"),
    [("US", 63536, 1, -2000), ("SS", 63536, 0, 63536), ("US", 63536, 0, 63536), ("US", 7, 1, 7)],
)
def test_padding_takes_the_sign_of_the_pixels(
    tmp_path: Path, vr: str, value: int, representation: int, expected: int
) -> None:
    data_set = (
        element(0x00080016, "UI", CT)
        + element(0x00280103, "US", US(representation))
        + element(0x00280120, vr, US(value))
    )
    assert read_both(write(tmp_path / "file", part10(data_set))).pixel_padding_value == expected


@pytest.mark.parametrize(
    ("raw", "character_set", "expected"),
    [
        (b"Sch\xe4del", "ISO_IR 100", "Schädel"),
        ("Čelist".encode(), "ISO_IR 192", "Čelist"),
        (b"\x1b$B;3ED\x1b(B", "\\ISO 2022 IR 87", "山田"),
        (b"plain", "no such set", "plain"),
        (b"Sch\xe4del", "no such set", "Schädel"),
        (b"Sch\xe4del", "\xe4\xf6", "Schädel"),
        (b"Sch\xe4del", "", "Schädel"),
        (b"Sch\xe4del", "ISO_IR 100\\\\\\", "Schädel"),
        (b"Sch\xe4del", "ISO_IR 192", "Sch\ufffddel"),
        (b"\x1b\x1b$\xff", "ISO_IR 6", "\x1b\x1b$ÿ"),
    ],
)
def test_texts_are_decoded_by_character_set(tmp_path: Path, raw: bytes, character_set: str, expected: str) -> None:
    assert decode_text(raw.decode("latin-1"), character_set) == expected
    data_set = element(0x00080005, "CS", character_set) + element(0x00080016, "UI", CT) + element(0x0008103E, "LO", raw)
    assert read_both(write(tmp_path / "file", part10(data_set))).series_description == expected


def test_a_garbled_character_set_is_survived(tmp_path: Path) -> None:
    assert decode_text("Sch\xe4del", "ISO_IR\x00100") == "Schädel"
    data_set = element(0x00080005, "CS", "ISO_IR\x00100") + ct_elements()
    row = read_both(write(tmp_path / "file", part10(data_set)))
    assert (row.reader, row.error_code) == ("pydicom", "header-unreadable")


def rtstruct_references(*, undefined: bool, implicit: bool = False) -> bytes:
    def images(*uids: str) -> bytes:
        items = [element(0x00081155, "UI", uid, implicit=implicit) for uid in uids]
        return sequence(0x30060016, items, undefined=undefined, implicit=implicit)

    def seq(tag: int, *items: bytes) -> bytes:
        return sequence(tag, list(items), undefined=undefined, implicit=implicit)

    series = element(0x0020000E, "UI", "1.9", implicit=implicit) + images("1.9.1", "1.9.2")
    study = element(0x00081155, "UI", "not.an.image", implicit=implicit) + seq(0x30060014, series)
    frame = element(0x00200052, "UI", "1.8", implicit=implicit) + seq(0x30060012, study)
    contours = [images("1.9.2"), images("1.9.3")]
    return (
        element(0x00080016, "UI", RTSTRUCT, implicit=implicit)
        + seq(0x30060010, frame)
        + seq(0x30060020, element(0x30060024, "UI", "1.8", implicit=implicit))
        + seq(0x30060039, seq(0x30060040, *contours))
    )


@pytest.mark.parametrize("undefined", [False, True])
@pytest.mark.parametrize("implicit", [False, True])
def test_references_of_a_structure_set(tmp_path: Path, undefined: bool, implicit: bool) -> None:
    data_set = rtstruct_references(undefined=undefined, implicit=implicit)
    row = read_both(write(tmp_path / "rs", part10(data_set, IMPLICIT if implicit else EXPLICIT)))
    assert (row.reader, row.error_code) == ("native", "")
    assert row.referenced_frame_of_reference_uids == ("1.8",)
    assert row.referenced_series_uids == ("1.9",)
    assert row.referenced_sop_instance_uids == ("1.9.1", "1.9.2", "1.9.3")


@pytest.mark.parametrize("stated", ["CT", "RTSTRUCT", "SEG", None])
@pytest.mark.parametrize(
    ("sop_class", "modality"),
    [
        (RTSTRUCT, "RTSTRUCT"),
        (SEG, "SEG"),
        ("1.2.840.10008.5.1.4.1.1.66.7", "SEG"),
        ("1.2.840.10008.5.1.4.1.1.481.2", "RTDOSE"),
    ],
)
def test_what_was_made_of_an_image_has_the_modality_of_its_class(
    tmp_path: Path, sop_class: str, modality: str, stated: str | None
) -> None:
    elements = element(0x00080016, "UI", sop_class) + (element(0x00080060, "CS", stated) if stated else b"")
    assert read_both(write(tmp_path / "f", part10(elements))).modality == modality


def test_references_of_a_segmentation(tmp_path: Path) -> None:
    def source(uid: str) -> bytes:
        return sequence(0x00089124, [sequence(0x00082112, [element(0x00081155, "UI", uid)])])

    instances = sequence(0x0008114A, [element(0x00081155, "UI", "1.5.1"), element(0x00081155, "UI", "1.5.2")])
    data_set = (
        element(0x00080016, "UI", SEG)
        + sequence(0x00081115, [instances + element(0x0020000E, "UI", "1.5")])
        + sequence(0x52009230, [source("1.5.2"), source("1.5.3")], undefined=True)
        + element(0x7FE00010, "OB", bytes(2))
    )
    row = read_both(write(tmp_path / "seg", part10(data_set)))
    assert row.reader == "native"
    assert row.referenced_series_uids == ("1.5",)
    assert row.referenced_sop_instance_uids == ("1.5.1", "1.5.2", "1.5.3")


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "empty-file"),
        (b"just text, longer than a few bytes " * 9, "not-dicom"),
        (b"\x08\x00", "not-dicom"),
        (b"\x08\x00\x05\x00\x00\x00\x00\x00" + bytes(200), "not-dicom"),
        (part10(element(0x00080060, "CS", "CT")), "no-sop-class"),
        (part10(element(0x00041130, "CS", "ROOT"), media_class="1.2.840.10008.1.3.10"), "dicomdir"),
        (part10(b""), "header-truncated"),
        (part10(ct_elements()[:-3]), "header-truncated"),
        (part10(ct_elements() + element(0x00400275, "SQ", b"", length=UNDEFINED)), "header-truncated"),
    ],
)
def test_files_of_no_use_are_rows_with_a_code(tmp_path: Path, content: bytes, code: str) -> None:
    assert read_both(write(tmp_path / "file", content)).error_code == code


def test_what_cannot_be_opened_is_unreadable(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in [tmp_path, tmp_path / "missing", tmp_path / "pipe", Path(f"{tmp_path}/nul\0byte")]:
        assert read_both(str(path)).error_code == "unreadable"


def test_a_truncated_header_keeps_what_could_be_read(tmp_path: Path) -> None:
    row = read_both(write(tmp_path / "cut", part10(ct_elements()[:-3])))
    assert (row.error_code, row.series_instance_uid) == ("header-truncated", "1.2.3")


def test_cut_pixels_leave_the_header_whole(tmp_path: Path) -> None:
    content = part10(ct_elements() + element(0x7FE00010, "OW", bytes(100)))
    row = read_both(write(tmp_path / "cut", content[:-60]))
    assert (row.error_code, row.pixel_length) == ("", 100)
    assert row.pixel_offset + row.pixel_length > row.size


def deflated(data_set: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return part10(compressor.compress(data_set) + compressor.flush(), "1.2.840.10008.1.2.1.99")


def test_a_deflated_data_set_is_read_and_a_bomb_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = read_both(write(tmp_path / "good", deflated(ct_elements())))
    assert (good.reader, good.error_code, good.series_instance_uid) == ("pydicom", "", "1.2.3")
    monkeypatch.setattr(datasets, "_INFLATED_LIMIT", 1 << 20)
    bomb = deflated(ct_elements() + element(0x00420011, "OB", bytes(2 << 20)))
    [row] = read_headers([write(tmp_path / "bomb", bomb)])
    assert row.error_code == "header-unreadable"


@pytest.mark.parametrize("stated", [None, 0, 1 << 20])
def test_a_deflated_data_set_begins_after_group_2_whatever_its_length_says(tmp_path: Path, stated: int | None) -> None:
    content = bytearray(deflated(ct_elements()))
    content[132:144] = b"" if stated is None else element(0x00020000, "UL", struct.pack("<I", stated))
    row = read_both(write(tmp_path / "file", bytes(content)))
    assert (row.error_code, row.series_instance_uid) == ("", "1.2.3")


def test_a_length_that_looks_like_a_vr_is_a_length_in_implicit_vr(tmp_path: Path) -> None:
    length = int.from_bytes(b"LO", "little")
    private = element(0x00090010, "LO", "X", implicit=True)
    content = private + ct_elements(implicit=True) + element(0x7FE00010, "OW", bytes(length), implicit=True)
    [row] = read_headers([write(tmp_path / "file", part10(content, IMPLICIT))])
    assert (row.reader, row.error_code, row.pixel_length) == ("pydicom", "", length)


def test_deep_nesting_is_survived(tmp_path: Path) -> None:
    nested = b""
    for _ in range(20_000):
        nested = b"\x09\x00\x10\x10SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff" + nested
    [row] = read_headers([write(tmp_path / "deep", part10(element(0x00080016, "UI", CT) + nested))])
    assert (row.reader, row.error_code) == ("pydicom", "header-unreadable")


def test_rows_keep_the_order_of_the_paths_on_several_threads(tmp_path: Path) -> None:
    paths = []
    for i in range(300):
        data_set = element(0x00080016, "UI", CT) + element(0x00200013, "IS", str(i))
        paths.append(write(tmp_path / f"{i}", part10(data_set)))
    rows = read_headers(paths, workers=2)
    assert [row.instance_number for row in rows] == list(range(300))
    assert read_headers([]) == []


def test_both_readers_agree_on_every_real_file(data_dir: Path) -> None:
    paths = sorted(str(path) for path in data_dir.rglob("*") if path.is_file())
    rows, oracle = read_headers(paths), read_headers_pydicom(paths)
    for row, expected in zip(rows, oracle, strict=True):
        assert dataclasses.replace(row, reader="") == dataclasses.replace(expected, reader="")
    usable = [row for row in rows if not row.error_code]
    native = [row for row in usable if row.reader == "native"]
    assert len(usable) > 700
    assert len(native) >= 0.9 * len(usable)


@pytest.mark.filterwarnings("ignore::UserWarning")  # pydicom's, on oddities of the files
def test_pixels_lie_where_the_row_says(data_dir: Path) -> None:
    import pydicom

    paths = sorted(str(path) for path in (data_dir / "syntaxes").rglob("*.dcm"))
    native = [row for row in read_headers(paths) if row.is_native]
    assert native
    for row in native:
        with Path(row.path).open("rb") as stream:
            stream.seek(row.pixel_offset)
            pixels = stream.read(row.pixel_length)
        assert pixels == pydicom.dcmread(row.path, force=True).PixelData


MEASURE = """
import json, resource, sys, time
resource.setrlimit(resource.RLIMIT_AS, ({limit}, {limit}))
from gpuprep.dicom.header import read_headers
slowest = 0.0
for path in json.load(sys.stdin):
    start = time.process_time()
    read_headers([path])
    slowest = max(slowest, time.process_time() - start)
print(slowest)
"""


def test_malformed_files_stay_within_bounds(data_dir: Path) -> None:
    paths = sorted(str(path) for path in (data_dir / "malformed").rglob("*") if path.is_file())
    done = subprocess.run(
        [sys.executable, "-c", MEASURE.format(limit=ADDRESS_SPACE_BYTES)],
        input=json.dumps(paths),
        capture_output=True,
        text=True,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < SECONDS_A_FILE


def frame_groups(*, undefined: bool, implicit: bool = False) -> bytes:
    form = {"undefined": undefined, "implicit": implicit}
    groups = [
        sequence(0x00209113, [element(0x00200032, "DS", f"{n}\\0\\0", implicit=implicit)], **form)
        + sequence(0x0062000A, [element(0x0062000B, "US", bytes((n, 0)), implicit=implicit), b""], **form)
        for n in range(3)
    ]
    return sequence(0x52009229, groups[:1], **form) + sequence(0x52009230, groups, **form)


@pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler to build the fuzzer")
def test_mutated_files_do_not_break_the_native_readers(tmp_path: Path) -> None:
    """Thousands of seeded mutations under AddressSanitizer and UBSan, where the compiler has them."""
    root = Path(__file__).parents[2]
    host = root / "kernels" / "host"
    sources = [root / "tests/host/fuzz_dicom.cpp", *(host / f"{name}.cpp" for name in FUZZED)]
    command = ["c++", "-std=c++17", "-O0", "-g", "-pthread", "-I", str(host), *map(str, sources), "-o"]
    sanitize = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    program = tmp_path / "fuzz"
    if subprocess.run([*command, str(program), *sanitize], capture_output=True, check=False).returncode:
        subprocess.run([*command, str(program)], check=True)
    seeds = [
        part10(ct_elements() + element(0x7FE00010, "OW", bytes(12))),
        part10(ct_elements(implicit=True), IMPLICIT),
        part10(rtstruct_references(undefined=True)),
        part10(rtstruct_references(undefined=False, implicit=True), IMPLICIT),
        rtstruct_references(undefined=False),
        part10(frame_groups(undefined=True)),
        part10(frame_groups(undefined=False, implicit=True), IMPLICIT),
    ]
    paths = [write(tmp_path / f"seed{i}", seed) for i, seed in enumerate(seeds)]
    done = subprocess.run(
        [program, tmp_path / "mutant", "1000", *paths], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
