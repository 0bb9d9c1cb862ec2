"""One row an instance: what the index keeps of a DICOM header.

Two readers fill the same row: the host library's, which walks the common case at memory speed, and pydicom's, for
everything else. Both deliver *raw texts*: the value of each element as it stands in the file (multiple values joined by
a backslash, padding stripped, binary numbers in decimal, one character a byte). They are interpreted here alone.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cache, lru_cache
from math import isfinite, nan
from pathlib import Path
from typing import Any, BinaryIO, Literal

from gpuprep import hostlib
from gpuprep.dicom.datasets import (
    EXPLICIT_BIG_UID,
    EXPLICIT_LITTLE_UID,
    IMPLICIT_LITTLE_UID,
    LONGEST_DELIVERED,
    LONGEST_VALUE,
    PIXEL_DATA,
    PREFIX_END,
    UNDEFINED_LENGTH,
    ParsedFile,
    begins_like_dicom,
    describe_failure,
    find_truncation,
    parse_file,
    pydicom_errors,
    quiet_pydicom,
    raw_text,
    read_pixel_head,
)
from gpuprep.errors import HeaderError

Kind = Literal["text", "uid", "uids", "int", "float", "factor", "floats", "presence"]

DICOMDIR_UID = "1.2.840.10008.1.3.10"
RTDOSE_UID = "1.2.840.10008.5.1.4.1.1.481.2"
RTSTRUCT_UID = "1.2.840.10008.5.1.4.1.1.481.3"
SEG_UID = "1.2.840.10008.5.1.4.1.1.66.4"
LABELMAP_SEG_UID = "1.2.840.10008.5.1.4.1.1.66.7"
#: SOP class → the only Modality that it may have (PS3.3 C.8.8.1, C.8.20.1).
MODALITIES = {RTDOSE_UID: "RTDOSE", RTSTRUCT_UID: "RTSTRUCT", SEG_UID: "SEG", LABELMAP_SEG_UID: "SEG"}


def _column(tag: int | None, kind: Kind, vr: str = "") -> Any:
    """Declare a column. `vr` is that of its element in implicit VR when it holds no characters; SQ with a presence."""
    default = {
        "text": "", "uid": "", "uids": (), "int": None, "float": None, "factor": None, "floats": (), "presence": False,
    }[kind]  # fmt: skip
    return field(default=default, metadata={"tag": tag, "kind": kind, "vr": vr or "LO"})


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceHeader:
    """What the index knows of one file.

    A file that is no use has an `error_code`, and as many columns as could be read. Numbers that are absent or garbled
    are None; a rescale that is there and garbled is NaN, for without one pixels have another meaning. `reader` says
    which of the two readers filled the row.

    `pixel_offset` and `pixel_length` are where native little-endian Pixel Data lies in the file, as the header states
    it (the file may end before); -1 and -1 when it is encapsulated, big endian, deflated or absent.
    `transfer_syntax_uid` of a data set without file meta is the one it was read with. `modality` of the `MODALITIES` is
    what their SOP class says: programs that make them of an image tend to leave the image's. `referenced_*` are what an
    RTSTRUCT or SEG points to, from the elements in `REFERENCES`, without repeats, in order of appearance.

    Error codes: ``unreadable`` (the operating system refuses, or it is no regular file), ``empty-file``, ``not-dicom``,
    ``dicomdir``, ``no-sop-class``, ``header-truncated`` (the file ends within its header), ``header-unreadable``.
    """

    path: str
    size: int = 0
    mtime_ns: int = 0
    error_code: str = ""
    error_detail: str = ""
    reader: str = ""
    pixel_offset: int = -1
    pixel_length: int = -1
    transfer_syntax_uid: str = _column(0x00020010, "uid")
    specific_character_set: str = _column(0x00080005, "text")
    image_type: str = _column(0x00080008, "text")
    sop_class_uid: str = _column(0x00080016, "uid")
    sop_instance_uid: str = _column(0x00080018, "uid")
    study_date: str = _column(0x00080020, "text")
    series_date: str = _column(0x00080021, "text")
    acquisition_date: str = _column(0x00080022, "text")
    content_date: str = _column(0x00080023, "text")
    acquisition_datetime: str = _column(0x0008002A, "text")
    study_time: str = _column(0x00080030, "text")
    series_time: str = _column(0x00080031, "text")
    acquisition_time: str = _column(0x00080032, "text")
    content_time: str = _column(0x00080033, "text")
    modality: str = _column(0x00080060, "text")
    manufacturer: str = _column(0x00080070, "text")
    series_description: str = _column(0x0008103E, "text")
    patient_id: str = _column(0x00100020, "text")
    slice_thickness_mm: float | None = _column(0x00180050, "float")
    echo_time_ms: float | None = _column(0x00180081, "float")
    echo_numbers: str = _column(0x00180086, "text")
    spacing_between_slices_mm: float | None = _column(0x00180088, "float")
    trigger_time_ms: float | None = _column(0x00181060, "float")
    gantry_tilt_deg: float | None = _column(0x00181120, "float")
    imager_pixel_spacing_mm: tuple[float, ...] = _column(0x00181164, "floats")
    diffusion_b_value: float | None = _column(0x00189087, "float", "FD")
    study_instance_uid: str = _column(0x0020000D, "uid")
    series_instance_uid: str = _column(0x0020000E, "uid")
    series_number: int | None = _column(0x00200011, "int")
    acquisition_number: int | None = _column(0x00200012, "int")
    instance_number: int | None = _column(0x00200013, "int")
    image_position_lps_mm: tuple[float, ...] = _column(0x00200032, "floats")
    image_orientation: tuple[float, ...] = _column(0x00200037, "floats")
    frame_of_reference_uid: str = _column(0x00200052, "uid")
    temporal_position: int | None = _column(0x00200100, "int")
    samples_per_pixel: int | None = _column(0x00280002, "int", "US")
    photometric_interpretation: str = _column(0x00280004, "text")
    planar_configuration: int | None = _column(0x00280006, "int", "US")
    number_of_frames: int | None = _column(0x00280008, "int")
    rows: int | None = _column(0x00280010, "int", "US")
    columns: int | None = _column(0x00280011, "int", "US")
    pixel_spacing_mm: tuple[float, ...] = _column(0x00280030, "floats")
    corrected_image: str = _column(0x00280051, "text")
    bits_allocated: int | None = _column(0x00280100, "int", "US")
    bits_stored: int | None = _column(0x00280101, "int", "US")
    high_bit: int | None = _column(0x00280102, "int", "US")
    pixel_representation: int | None = _column(0x00280103, "int", "US")
    pixel_padding_value: int | None = _column(0x00280120, "int", "US")
    pixel_padding_range_limit: int | None = _column(0x00280121, "int", "US")
    window_center: tuple[float, ...] = _column(0x00281050, "floats")
    window_width: tuple[float, ...] = _column(0x00281051, "floats")
    rescale_intercept: float | None = _column(0x00281052, "factor")
    rescale_slope: float | None = _column(0x00281053, "factor")
    voi_lut_function: str = _column(0x00281056, "text")
    has_modality_lut: bool = _column(0x00283000, "presence", "SQ")
    has_voi_lut: bool = _column(0x00283010, "presence", "SQ")
    has_shared_groups: bool = _column(0x52009229, "presence", "SQ")
    has_frame_groups: bool = _column(0x52009230, "presence", "SQ")
    units: str = _column(0x00541001, "text")
    structure_set_label: str = _column(0x30060002, "text")
    structure_set_date: str = _column(0x30060008, "text")
    structure_set_time: str = _column(0x30060009, "text")
    referenced_frame_of_reference_uids: tuple[str, ...] = _column(None, "uids")
    referenced_series_uids: tuple[str, ...] = _column(None, "uids")
    referenced_sop_instance_uids: tuple[str, ...] = _column(None, "uids")

    @property
    def is_native(self) -> bool:
        """Whether the pixel data is native (uncompressed) and its place in the file is known."""
        return self.pixel_offset >= 0


#: The columns that come from DICOM elements, in the order in which both readers deliver their raw texts.
ELEMENT_COLUMNS = tuple(f for f in fields(InstanceHeader) if "kind" in f.metadata)
#: Their tags; None for the three collected reference columns, which are last.
ELEMENT_TAGS = tuple(f.metadata["tag"] for f in ELEMENT_COLUMNS)

_COLUMN_INDEX = {f.name: i for i, f in enumerate(ELEMENT_COLUMNS)}
_FRAMES, _SERIES, _INSTANCES = (
    _COLUMN_INDEX[f"referenced_{what}_uids"] for what in ("frame_of_reference", "series", "sop_instance")
)
_ENTER = -1
_SEG_REFERENCES = (
    (0, 0x00081115, _ENTER),  # Referenced Series Sequence
    (0x00081115, 0x0020000E, _SERIES),  # Series Instance UID
    (0x00081115, 0x0008114A, _ENTER),  # Referenced Instance Sequence
    (0x0008114A, 0x00081155, _INSTANCES),  # Referenced SOP Instance UID
    (0, 0x00082112, _ENTER),  # Source Image Sequence
    (0, 0x52009229, _ENTER),  # Shared Functional Groups Sequence
    (0, 0x52009230, _ENTER),  # Per-Frame Functional Groups Sequence
    (0x52009229, 0x00089124, _ENTER),  # Derivation Image Sequence
    (0x52009230, 0x00089124, _ENTER),
    (0x00089124, 0x00082112, _ENTER),
    (0x00082112, 0x00081155, _INSTANCES),
)
#: SOP class → where its references are: (sequence or 0 for the top level, tag, column that it fills or -1 to enter it).
#: Source: PS3.3 A.19.3 and C.8.8.5 (RTSTRUCT), A.51 and C.8.20 (SEG).
REFERENCES = {
    RTSTRUCT_UID: (
        (0, 0x30060010, _ENTER),  # Referenced Frame of Reference Sequence
        (0x30060010, 0x00200052, _FRAMES),  # Frame of Reference UID
        (0x30060010, 0x30060012, _ENTER),  # RT Referenced Study Sequence
        (0x30060012, 0x30060014, _ENTER),  # RT Referenced Series Sequence
        (0x30060014, 0x0020000E, _SERIES),  # Series Instance UID
        (0x30060014, 0x30060016, _ENTER),  # Contour Image Sequence
        (0x30060016, 0x00081155, _INSTANCES),  # Referenced SOP Instance UID
        (0, 0x30060020, _ENTER),  # Structure Set ROI Sequence
        (0x30060020, 0x30060024, _FRAMES),  # Referenced Frame of Reference UID
        (0, 0x30060039, _ENTER),  # ROI Contour Sequence
        (0x30060039, 0x30060040, _ENTER),  # Contour Sequence
        (0x30060040, 0x30060016, _ENTER),
    ),
    SEG_UID: _SEG_REFERENCES,
    LABELMAP_SEG_UID: _SEG_REFERENCES,
}


def divide_copies(rows: Iterable[InstanceHeader]) -> tuple[list[InstanceHeader], list[InstanceHeader]]:
    """Divide files into instances and further copies of them, each in the order given.

    A copy has the SOP Instance UID of an earlier file and the same header, in whatever transfer syntax. Files that only
    claim to be the same instance are all instances.
    """
    instances: list[InstanceHeader] = []
    copies: list[InstanceHeader] = []
    kept: dict[str, list[InstanceHeader]] = {}
    for row in rows:
        same_uid = kept.setdefault(row.sop_instance_uid, []) if row.sop_instance_uid else []
        if same_uid and _strip_encoding(row) in map(_strip_encoding, same_uid):
            copies.append(row)
        else:
            same_uid.append(row)
            instances.append(row)
    return instances, copies


def _strip_encoding(row: InstanceHeader) -> InstanceHeader:
    """Return what is left of a row without file and encoding. Where there are no pixels, the size tells edits."""
    return replace(
        row,
        path="",
        size=0 if row.rows else row.size,
        mtime_ns=0,
        reader="",
        pixel_offset=-1,
        pixel_length=-1,
        transfer_syntax_uid="",
        photometric_interpretation="",
        planar_configuration=None,
    )


def read_headers(paths: Sequence[str], *, workers: int = 1) -> list[InstanceHeader]:
    """Read the headers of files: natively what is ordinary, by pydicom what is not.

    Parameters
    ----------
    paths : sequence of str
        The files. Any file will do; one that is no use gives a row with an `error_code`, never an exception.
    workers : int
        Threads of the native reader.

    Returns
    -------
    list of InstanceHeader
        One a path, in their order.
    """
    values = _new_value_caches()
    return [
        _read_natively(path, record, values) or _read_by_pydicom(path, values)
        for path, record in zip(paths, _scan(paths, workers), strict=True)
    ]


def read_headers_pydicom(paths: Sequence[str]) -> list[InstanceHeader]:
    """Read the headers of files by pydicom alone: the same rows as `read_headers`, slowly."""
    values = _new_value_caches()
    return [_read_by_pydicom(path, values) for path in paths]


def check_unchanged(headers: Iterable[InstanceHeader]) -> None:
    """Refuse files that are others than those whose headers were read, by size and time of modification.

    One that cannot be looked at is left to who reads it.

    Raises
    ------
    HeaderError
        ``file-changed``.
    """
    for header in headers:
        try:
            status = Path(header.path).stat()
        except OSError:
            continue
        if (status.st_size, status.st_mtime_ns) != (header.size, header.mtime_ns):
            raise HeaderError(
                "the file has changed since its header was read",
                code="file-changed",
                subject=header.path,
                hint="when nothing writes there any more, run again; an index is brought up to date by gpuprep index",
            )


# --- Texts to rows -------------------------------------------------------------------------------------------------

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_PADDING = " \0\t\r\n"
_INT_LIMIT = 1 << 63
#: The text of a sequence that is there.
_PRESENT = "1"


def parse_float(text: str) -> float | None:
    """Return the number that a decimal string (VR DS) states, or None when it is empty, garbled or not finite."""
    text = text.strip(_PADDING)
    number = float(text) if len(text) <= LONGEST_VALUE and _NUMBER.fullmatch(text) else None
    return number if number is not None and isfinite(number) else None


def _parse_factor(text: str) -> float | None:
    """Return the number of a decimal string, None when it is empty, NaN when it is garbled."""
    number = parse_float(text)
    return nan if number is None and text.strip(_PADDING) else number


def parse_int(text: str) -> int | None:
    """Return the number that an integer string (VR IS) states, or None; ``5.0`` counts as an integer."""
    number = parse_float(text)
    return int(number) if number is not None and number == int(number) and abs(number) < _INT_LIMIT else None


def _parse_floats(text: str) -> tuple[float, ...]:
    """Return the numbers between the backslashes, or none when one of them is garbled or the text was cut."""
    if len(text) > LONGEST_VALUE:
        return ()
    numbers = tuple(number for part in text.split("\\") if (number := parse_float(part)) is not None)
    return numbers if len(numbers) == text.count("\\") + 1 else ()


def _parse_text(text: str) -> str:
    return text[:LONGEST_VALUE].strip(_PADDING)


def _parse_uids(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(uid for part in text.split("\\") if (uid := part.strip(_PADDING))))


_PARSERS: dict[Kind, Callable[[str], Any]] = {
    "text": _parse_text,
    "uid": _parse_text,
    "uids": _parse_uids,
    "int": parse_int,
    "float": parse_float,
    "factor": _parse_factor,
    "floats": _parse_floats,
    "presence": bool,
}


class _ValueCache(dict[str, Any]):
    """Text → value, parsed once: the files of a series share most of their texts."""

    def __init__(self, parse: Callable[[str], Any]) -> None:
        super().__init__()
        self._parse = parse

    def __missing__(self, text: str) -> Any:
        value = self[text] = self._parse(text)
        return value


def _new_value_caches() -> tuple[_ValueCache, ...]:
    """Return the cache of each column; columns of a kind share one."""
    by_kind = {kind: _ValueCache(parse) for kind, parse in _PARSERS.items()}
    return tuple(by_kind[f.metadata["kind"]] for f in ELEMENT_COLUMNS)


@lru_cache(maxsize=1024)
def decode_text(text: str, character_set: str) -> str:
    """Decode a raw text by Specific Character Set (0008,0005).

    Parameters
    ----------
    text : str
        One character a byte, as the readers deliver it.
    character_set : str
        Value of (0008,0005), its parts joined by backslashes; an absent or unknown one counts as Latin 1.

    Returns
    -------
    str
        The text; bytes that are not in the character set become U+FFFD.
    """
    if text.isascii() and "\x1b" not in text:
        return text
    from pydicom.charset import convert_encodings, decode_bytes
    from pydicom.valuerep import TEXT_VR_DELIMS

    try:
        with quiet_pydicom():
            encodings = convert_encodings([part.strip() for part in character_set.split("\\")])
            return str(decode_bytes(text.encode("latin-1"), encodings, TEXT_VR_DELIMS))
    except (LookupError, ValueError):  # a garbled character set
        return text


_TEXT_COLUMNS = tuple(i for i, f in enumerate(ELEMENT_COLUMNS) if f.metadata["kind"] == "text")
_CHARACTER_SET = _COLUMN_INDEX["specific_character_set"]
_SOP_CLASS = _COLUMN_INDEX["sop_class_uid"]
_MODALITY = _COLUMN_INDEX["modality"]
_REPRESENTATION = _COLUMN_INDEX["pixel_representation"]
_PIXEL_PADDING = (_COLUMN_INDEX["pixel_padding_value"], _COLUMN_INDEX["pixel_padding_range_limit"])

# A frozen dataclass of sixty fields spends most of its time in __init__; its slots can be filled directly.
_set_slots = tuple(getattr(InstanceHeader, f.name).__set__ for f in fields(InstanceHeader))


def _build_row(
    path: str,
    reader: str,
    texts: Sequence[str],
    values: tuple[_ValueCache, ...],
    *,
    size: int,
    mtime_ns: int,
    pixel_offset: int,
    pixel_length: int,
    media_class: str,
    has_preamble: bool,
    fault: tuple[str, str] = ("", ""),
    is_plain: bool = False,
) -> InstanceHeader:
    """Interpret raw texts, one a column of ELEMENT_COLUMNS. `is_plain`: all texts are known to be ASCII."""
    columns = [known[text] for known, text in zip(values, texts, strict=True)]
    if not is_plain:
        for i in _TEXT_COLUMNS:
            columns[i] = decode_text(columns[i], columns[_CHARACTER_SET])
    for i in _PIXEL_PADDING:
        if columns[i] is not None:
            columns[i] = _as_pixel(columns[i], columns[_REPRESENTATION])
    columns[_MODALITY] = MODALITIES.get(columns[_SOP_CLASS], columns[_MODALITY])
    if not fault[0] and not columns[_SOP_CLASS]:
        fault = _judge_without_class(media_class, has_preamble)
    row = InstanceHeader.__new__(InstanceHeader)
    head = (path, size, mtime_ns, *fault, reader, pixel_offset, pixel_length)
    for set_slot, value in zip(_set_slots, (*head, *columns), strict=True):
        set_slot(row, value)
    return row


def _as_pixel(value: int, representation: int | None) -> int:
    """Give a 16 bit padding value the sign of the pixels: its VR, US or SS, is often wrong or not in the file."""
    if not -(1 << 15) <= value < 1 << 16:
        return value
    value &= 0xFFFF
    return value - (1 << 16) if representation == 1 and value >= 1 << 15 else value


def _judge_without_class(media_class: str, has_preamble: bool) -> tuple[str, str]:
    if media_class.strip(_PADDING) == DICOMDIR_UID:
        return "dicomdir", "a DICOMDIR: an index of other files"
    if has_preamble:
        return "no-sop-class", "SOP Class UID (0008,0016) is missing"
    return "not-dicom", "no DICM prefix, and no SOP Class UID (0008,0016)"


def _build_failure(path: str, code: str, detail: str, size: int = 0, mtime_ns: int = 0) -> InstanceHeader:
    return InstanceHeader(path=path, size=size, mtime_ns=mtime_ns, error_code=code, error_detail=detail)


def _build_unreadable(path: str, number: int | None) -> InstanceHeader:
    return _build_failure(path, "unreadable", os.strerror(number or errno.EIO))


#: The failures that both readers see in the same way.
_FAILURES = {
    "irregular": ("unreadable", "not a regular file"),
    "empty-file": ("empty-file", "the file is empty"),
    "not-dicom": ("not-dicom", "no DICM prefix, and it does not begin like a data set"),
}


# --- The native reader ---------------------------------------------------------------------------------------------

_RECORD_HEAD = 8  # outcome, detail, size, mtime_ns, pixel offset, pixel length, media class, has preamble


def _scan(paths: Sequence[str], workers: int) -> Iterator[str]:
    """Yield the record of each file, one character a byte."""
    library, _ = hostlib.load()
    names = b"".join(os.fsencode(path if "\0" not in path else "") + b"\0" for path in paths)
    references = _references_table()
    out, out_size = ctypes.c_void_p(), ctypes.c_int64()
    failed = library.gp_scan_headers(
        names,
        ctypes.c_int64(len(paths)),
        (ctypes.c_uint32 * len(ELEMENT_TAGS))(*(tag or 0 for tag in ELEMENT_TAGS)),
        "".join(f.metadata["vr"] for f in ELEMENT_COLUMNS).encode(),
        ctypes.c_int64(len(ELEMENT_COLUMNS)),
        ctypes.c_uint32(LONGEST_DELIVERED),
        b"".join(uid.encode() + b"\0" for uid in REFERENCES),
        ctypes.c_int64(len(REFERENCES)),
        (ctypes.c_int64 * len(references))(*references),
        ctypes.c_int64(len(references) // 4),
        ctypes.c_uint(workers),
        ctypes.byref(out),
        ctypes.byref(out_size),
    )
    if failed:
        raise MemoryError(f"no memory to read {len(paths)} headers")
    try:
        records = ctypes.string_at(out, out_size.value)
    finally:
        library.gp_release(out)
    return iter(records.decode("latin-1").split("\x1e")[:-1])


@cache
def _references_table() -> tuple[int, ...]:
    """Return REFERENCES as rows of four numbers, the first one the index of the SOP class."""
    rows = ((i, *row) for i, table in enumerate(REFERENCES.values()) for row in table)
    return tuple(number for row in rows for number in row)


def _read_natively(path: str, record: str, values: tuple[_ValueCache, ...]) -> InstanceHeader | None:
    """Return the row of a native record, or None when pydicom has to read the file."""
    texts = record.split("\x1f")
    outcome, detail = texts[:2]
    if outcome == "declined":
        return None
    if outcome == "unreadable":
        return _build_unreadable(path, int(detail))
    size, mtime_ns = int(texts[2]), int(texts[3])
    if outcome != "ok":
        return _build_failure(path, *_FAILURES[outcome], size, mtime_ns)
    return _build_row(
        path,
        "native",
        texts[_RECORD_HEAD:],
        values,
        size=size,
        mtime_ns=mtime_ns,
        pixel_offset=int(texts[4]),
        pixel_length=int(texts[5]),
        media_class=texts[6],
        has_preamble=texts[7] == "1",
        is_plain=record.isascii() and "\x1b" not in record,
    )


# --- The reader for everything else ----------------------------------------------------------------------------------


def _read_by_pydicom(path: str, values: tuple[_ValueCache, ...]) -> InstanceHeader:
    if "\0" in path:
        return _build_unreadable(path, errno.ENOENT)
    try:
        status = Path(path).stat()
        if not stat.S_ISREG(status.st_mode):
            return _build_failure(path, *_FAILURES["irregular"], status.st_size, status.st_mtime_ns)
        with Path(path).open("rb") as stream:
            return _read_open_file(stream, path, status, values)
    except OSError as error:
        return _build_unreadable(path, error.errno)


def _read_open_file(
    stream: BinaryIO, path: str, status: os.stat_result, values: tuple[_ValueCache, ...]
) -> InstanceHeader:
    size, mtime_ns = status.st_size, status.st_mtime_ns
    if size == 0:
        return _build_failure(path, *_FAILURES["empty-file"], size, mtime_ns)
    start = stream.read(PREFIX_END)
    if not begins_like_dicom(start, size):
        return _build_failure(path, *_FAILURES["not-dicom"], size, mtime_ns)
    texts, media_class, pixel_place, fault = [""] * len(ELEMENT_COLUMNS), "", (-1, -1), ("", "")
    try:
        with quiet_pydicom():
            parsed = parse_file(stream, size)
            texts = _collect_texts(parsed)
            media_class = raw_text(parsed.meta.get_item(0x00020002), "UI")
            cut = find_truncation(parsed)
            fault = ("header-truncated", cut) if cut else ("", "")
            pixel_place = _find_native_pixels(parsed, texts[0]) if parsed.source is stream else (-1, -1)
    except pydicom_errors() as error:
        fault = describe_failure(error, stream)
    return _build_row(
        path,
        "pydicom",
        texts,
        values,
        size=size,
        mtime_ns=mtime_ns,
        pixel_offset=pixel_place[0],
        pixel_length=pixel_place[1],
        media_class=media_class,
        has_preamble=start[128:] == b"DICM",
        fault=fault,
    )


def _collect_texts(parsed: ParsedFile) -> list[str]:
    meta, dataset = parsed.meta, parsed.dataset
    texts = [
        _collect_text(meta if tag and tag >> 16 == 2 else dataset, tag, f.metadata["vr"])
        for tag, f in zip(ELEMENT_TAGS, ELEMENT_COLUMNS, strict=True)
    ]
    if not texts[0]:  # no transfer syntax: the one that pydicom guessed
        is_implicit, is_little = dataset.original_encoding
        texts[0] = IMPLICIT_LITTLE_UID if is_implicit else EXPLICIT_LITTLE_UID if is_little else EXPLICIT_BIG_UID
    found: dict[int, list[str]] = {_FRAMES: [], _SERIES: [], _INSTANCES: []}
    _collect_references(dataset, 0, REFERENCES.get(texts[_SOP_CLASS], ()), found)
    for column, uids in found.items():
        texts[column] = "\\".join(uids)
    return texts


def _collect_text(dataset: Any, tag: int | None, vr: str) -> str:
    if tag is None:
        return ""
    if vr == "SQ":
        return _PRESENT if tag in dataset else ""
    return raw_text(dataset.get_item(tag), vr)


def _collect_references(
    dataset: Any, sequence: int, table: Sequence[tuple[int, int, int]], found: dict[int, list[str]]
) -> None:
    for tag in list(dataset.keys()):
        for owner, wanted, column in table:
            if (owner, wanted) != (sequence, tag):
                continue
            if column != _ENTER:
                found[column].append(raw_text(dataset.get_item(tag), "UI"))
            elif dataset[tag].VR == "SQ":
                for item in dataset[tag].value:
                    _collect_references(item, tag, table, found)


def _find_native_pixels(parsed: ParsedFile, transfer_syntax: str) -> tuple[int, int]:
    """Return offset and length of native little-endian Pixel Data, or -1 and -1."""
    if transfer_syntax not in (IMPLICIT_LITTLE_UID, EXPLICIT_LITTLE_UID):
        return -1, -1
    tag, _, length = read_pixel_head(parsed)
    return (parsed.source.tell(), length) if tag == PIXEL_DATA and length != UNDEFINED_LENGTH else (-1, -1)
