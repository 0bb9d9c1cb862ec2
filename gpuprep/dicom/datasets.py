"""DICOM files through pydicom, within bounds of memory, for what the native readers decline.

Values are handed over as *raw texts*: as they stand in the file, multiple ones joined by a backslash, padding stripped,
binary numbers in decimal, one character a byte.
"""

from __future__ import annotations

import io
import re
import struct
import sys
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, BinaryIO, Literal

IMPLICIT_LITTLE_UID = "1.2.840.10008.1.2"
EXPLICIT_LITTLE_UID = "1.2.840.10008.1.2.1"
EXPLICIT_BIG_UID = "1.2.840.10008.1.2.2"
DEFLATED_UID = "1.2.840.10008.1.2.1.99"

#: Bytes of a value that a row keeps at most; numbers that need more are garbled.
LONGEST_VALUE = 4096

#: What the readers deliver of a value: one byte more shows that it is too long.
LONGEST_DELIVERED = LONGEST_VALUE + 1

#: Bytes of a preamble and DICM, by which a file is known.
PREFIX_END = 132
#: What comes before the pixel data of a deflated data set may become this large; the largest seen are tens of MiB.
_INFLATED_LIMIT = 256 << 20
#: Bytes that are inflated at a time, and that they are inflated from, at most.
_INFLATED_STEP = 1 << 16
#: Larger values are left in the file until they are asked for.
_DEFERRED_VALUE = 1 << 20
UNDEFINED_LENGTH = 0xFFFFFFFF
#: Elements of Pixel Data, by kind. Source: PS3.6.
FLOAT_PIXEL_DATA, DOUBLE_FLOAT_PIXEL_DATA, PIXEL_DATA = 0x7FE00008, 0x7FE00009, 0x7FE00010
_BINARY_FORMATS = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "FL": "f", "FD": "d"}
_TEXT_VRS = frozenset(re.findall("..", "AEASCSDADSDTISLOLTPNSHSTTMUCUIURUT"))


@cache
def pydicom_errors() -> tuple[type[Exception], ...]:
    """Return what pydicom raises on malformed headers, found by reading and by fuzzing it: mostly built-in errors."""
    from pydicom.errors import BytesLengthException, InvalidDicomError

    return (
        ArithmeticError,
        AssertionError,
        AttributeError,
        BytesLengthException,
        EOFError,
        InvalidDicomError,
        LookupError,
        MemoryError,
        NotImplementedError,
        OSError,
        RecursionError,
        TypeError,
        ValueError,
        struct.error,
        zlib.error,
    )


@contextmanager
def quiet_pydicom() -> Iterator[None]:
    """Keep pydicom's warnings of irregular values off the terminal: what matters is checked, and said in rows."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@dataclass(frozen=True, slots=True)
class ParsedFile:
    """File meta and data set of a file, up to its pixel data.

    Parameters
    ----------
    meta, dataset : pydicom Dataset
        Their elements are raw.
    source : binary stream
        What the data set was read from, positioned at the element of its pixel data or at the end.
    size : int
        Bytes in `source`, as far as it is known: of one that is still deflated the largest number.
    has_preamble : bool
        Whether the file begins as PS3.10 says.
    """

    meta: Any
    dataset: Any
    source: BinaryIO
    size: int
    has_preamble: bool


def begins_like_dicom(start: bytes, size: int) -> bool:
    """Tell from its first 132 bytes whether a file of `size` bytes may be DICOM, with or without preamble."""
    from pydicom.valuerep import STANDARD_VR

    if start[128:132] == b"DICM":
        return True
    if len(start) < 8:
        return False
    little = int.from_bytes(start[:2], "little") in (2, 8)
    if start[4:6].decode("latin-1") in STANDARD_VR:
        return little or int.from_bytes(start[:2], "big") in (2, 8)
    return little and int.from_bytes(start[4:8], "little") <= size


class Inflating(io.BytesIO):
    """A deflated data set, inflated as far as it is read.

    Attributes
    ----------
    limit : int
        What is read must end before so many bytes.
    is_whole : bool
        Whether all of it is inflated.
    """

    def __init__(self, deflated: bytes) -> None:
        super().__init__()
        self.limit = _INFLATED_LIMIT
        self.is_whole = False
        self._inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        self._deflated = io.BytesIO(deflated)

    def read(self, size: int | None = -1, /) -> bytes:
        """Return the next bytes; raises ValueError for more than the limit, or zlib.error."""
        place = self.tell()
        end = sys.maxsize if size is None or size < 0 else place + size
        while (inflated := self.getbuffer().nbytes) < end and not self.is_whole:
            if inflated > self.limit:
                raise ValueError(f"inflates to more than {self.limit} bytes")
            deflated = self._inflater.unconsumed_tail or self._deflated.read(_INFLATED_STEP)
            piece = self._inflater.decompress(deflated, _INFLATED_STEP)
            self.is_whole = self._inflater.eof or not (deflated or piece)
            self.seek(0, io.SEEK_END)
            self.write(piece)
        self.seek(place)
        return super().read(size)


def parse_file(stream: BinaryIO, size: int, tags: list[Any] | None = None) -> ParsedFile:
    """Parse an open file of `size` bytes, or of its data set only what has `tags`; raises any of `pydicom_errors`."""
    from pydicom.filereader import dcmread, read_dataset

    stream.seek(0)
    has_preamble = stream.read(PREFIX_END)[128:] == b"DICM"
    if has_preamble:  # the file meta ends with group 2, for its length (0002,0000) is often wrong
        meta = read_dataset(stream, False, True, stop_when=lambda tag, *_: tag >> 16 != 2)
        if str(meta.get("TransferSyntaxUID", "")) == DEFLATED_UID:
            source = Inflating(stream.read())
            pixels = (FLOAT_PIXEL_DATA, DOUBLE_FLOAT_PIXEL_DATA, PIXEL_DATA)
            dataset = read_dataset(source, False, True, stop_when=lambda tag, *_: tag in pixels, specific_tags=tags)
            inflated = source.getbuffer().nbytes if source.is_whole else sys.maxsize
            return ParsedFile(meta, dataset, source, inflated, has_preamble)
    stream.seek(0)
    deferred = None if tags else _DEFERRED_VALUE
    dataset = dcmread(stream, stop_before_pixels=True, force=True, defer_size=deferred, specific_tags=tags)
    return ParsedFile(dataset.file_meta, dataset, stream, size, has_preamble)


def read_pixel_head(parsed: ParsedFile) -> tuple[int, str, int]:
    """Return tag, VR (of two other characters where it is implicit) and length of the pixel data; move to its value."""
    from pydicom.valuerep import EXPLICIT_VR_LENGTH_32, STANDARD_VR

    is_implicit, is_little = parsed.dataset.original_encoding
    order: Literal["little", "big"] = "little" if is_little else "big"
    position = parsed.source.tell()
    head = parsed.source.read(12)
    vr = head[4:6].decode("latin-1")
    begin, end = (8, 12) if vr in EXPLICIT_VR_LENGTH_32 else (6, 8) if vr in STANDARD_VR and not is_implicit else (4, 8)
    parsed.source.seek(position + end)
    tag = int.from_bytes(head[:2], order) << 16 | int.from_bytes(head[2:4], order)
    return tag, vr, int.from_bytes(head[begin:end], order)


def find_truncation(parsed: ParsedFile) -> str:
    """Return in words how a file ends before its last element does, or an empty text; the elements must be raw yet."""
    tags = list(parsed.dataset.keys())
    if not tags and not parsed.source.read(1):
        return "the file ends where the data set should begin"
    last: Any = parsed.dataset.get_item(tags[-1]) if tags else None
    place, length = getattr(last, "value_tell", 0), getattr(last, "length", 0)
    if length != UNDEFINED_LENGTH and place + length > parsed.size:
        return f"element {last.tag} ends {place + length - parsed.size} bytes after the file"
    return ""


def describe_failure(error: Exception, stream: BinaryIO) -> tuple[str, str]:
    """Return code and message of what pydicom raised while it read the file `stream`."""
    if isinstance(error, OSError | EOFError) and stream.read(1) == b"":
        return "header-truncated", "the file ends within a sequence"
    return "header-unreadable", f"pydicom raised {type(error).__name__}"


def raw_text(element: Any, implicit_vr: str) -> str:
    """Return the value of a pydicom element as the native reader delivers it; nothing when it has no such value."""
    value = getattr(element, "value", None)
    if isinstance(value, str):  # pydicom has already converted it
        return value
    if element is not None and element.VR == "CS" and not isinstance(value, bytes | None):
        return "\\".join(value)
    if not isinstance(value, bytes):
        return ""
    value = value[:LONGEST_DELIVERED]
    vr = implicit_vr if element.VR in (None, "UN") else element.VR
    if vr in _BINARY_FORMATS:
        order, letter = "<" if element.is_little_endian else ">", _BINARY_FORMATS[vr]
        count = len(value) // struct.calcsize(letter)
        numbers = struct.unpack_from(f"{order}{count}{letter}", value)
        return "\\".join(map(str, numbers))
    return value.strip(b" \0").decode("latin-1") if vr in _TEXT_VRS else ""
