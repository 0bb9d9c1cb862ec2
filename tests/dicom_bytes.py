"""DICOM written byte by byte, for tests that must not lean on a DICOM library (PS3.5 section 7, PS3.10 section 7.1)."""

from __future__ import annotations

import struct

EXPLICIT, IMPLICIT = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2"
LONG_VRS = {"OB", "OD", "OF", "OL", "OW", "SQ", "UC", "UN", "UR", "UT"}
UNDEFINED = 0xFFFFFFFF


def element(tag: int, vr: str, value: bytes | str, *, implicit: bool = False, length: int | None = None) -> bytes:
    """One data element; `length` overrides the true one."""
    data = value.encode("latin-1") if isinstance(value, str) else value
    if len(data) % 2:
        data += b"\0" if vr in ("UI", "OB") else b" "
    stated = len(data) if length is None else length
    head = struct.pack("<HH", tag >> 16, tag & 0xFFFF)
    if implicit:
        return head + struct.pack("<I", stated) + data
    if vr in LONG_VRS:
        return head + vr.encode() + struct.pack("<HI", 0, stated) + data
    return head + vr.encode() + struct.pack("<H", stated) + data


def item(content: bytes, *, undefined: bool = False) -> bytes:
    """One item of a sequence."""
    if undefined:
        return b"\xfe\xff\x00\xe0" + struct.pack("<I", UNDEFINED) + content + b"\xfe\xff\x0d\xe0" + bytes(4)
    return b"\xfe\xff\x00\xe0" + struct.pack("<I", len(content)) + content


def sequence(tag: int, items: list[bytes], *, implicit: bool = False, undefined: bool = False) -> bytes:
    """One sequence; `undefined` for its length and those of its items."""
    content = b"".join(item(one, undefined=undefined) for one in items)
    if undefined:
        content += b"\xfe\xff\xdd\xe0" + bytes(4)
    return element(tag, "SQ", content, implicit=implicit, length=UNDEFINED if undefined else None)


def part10(data_set: bytes, transfer_syntax: str = EXPLICIT, media_class: str = "1.2.840.10008.5.1.4.1.1.2") -> bytes:
    """A file: preamble, file meta, data set."""
    meta = element(0x00020002, "UI", media_class) + element(0x00020010, "UI", transfer_syntax)
    return bytes(128) + b"DICM" + element(0x00020000, "UL", struct.pack("<I", len(meta))) + meta + data_set
