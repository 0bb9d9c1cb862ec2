"""What a JPEG, JPEG-LS or JPEG 2000 codestream says of itself, read before a decoder is trusted with it."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from gpuprep.dicom.framespec import FrameSpec
from gpuprep.errors import DecodeError

_START_OF_IMAGE = b"\xff\xd8"
_END_OF_IMAGE = b"\xff\xd9"
_START_OF_SCAN = 0xDA
#: SOF0 to SOF15 without DHT, JPG and DAC (ITU-T T.81 table B.1), and SOF55 of JPEG-LS (ITU-T T.87 C.1.1).
_START_OF_FRAME = frozenset({*range(0xC0, 0xD0), 0xF7}) - {0xC4, 0xC8, 0xCC}
#: SOC followed by SIZ (ITU-T T.800 A.4.1, A.5.1).
_J2K_START = b"\xff\x4f\xff\x51"
#: Where SIZ keeps the depth of the first component after SOC, and the bit of it that says signed (T.800 A.5.1).
_DEPTH_POSITION, _SIGN_BIT = 42, 0x80
#: Bytes of 0 or 255 after an end marker: fragments have an even length, and some writers pad to words.
_MOST_PADDING = 8
_RGB_IDS = (b"RGB", b"rgb")
#: Application segments, how they begin, and where Adobe's says which transform made the samples (ITU-T T.872 6.5.3).
_APP0, _APP14 = 0xE0, 0xEE
_JFIF, _ADOBE, _TRANSFORM_POSITION = b"JFIF", b"Adobe", 11
_NO_TRANSFORM, _YBR_TRANSFORM = 0, 1


@dataclass(frozen=True, slots=True)
class Codestream:
    """Header of a codestream.

    Parameters
    ----------
    rows, columns, samples : int
        Size of the image.
    precision : int
        Bits a sample.
    is_signed : bool
        Whether samples are signed; only JPEG 2000 knows.
    says_rgb, says_ybr : bool
        Whether component names or an Adobe segment say RGB, or a JFIF or Adobe segment YBR.
    is_complete : bool
        Whether the end marker is there (JPEG and JPEG-LS).
    starts_at : int
        Byte at which the codestream begins; after 0 it is in a JP2 box.
    """

    rows: int
    columns: int
    samples: int
    precision: int
    is_signed: bool = False
    says_rgb: bool = False
    says_ybr: bool = False
    is_complete: bool = True
    starts_at: int = 0


def read_jpeg(data: bytes) -> Codestream:
    """Read the header of a JPEG or JPEG-LS codestream.

    Raises
    ------
    DecodeError
        ``corrupt-frame``.
    """
    if data[:2] != _START_OF_IMAGE:
        raise DecodeError("a frame that does not begin with a JPEG start marker", code="corrupt-frame")
    position, frame, has_jfif, has_scan, transform = 2, b"", False, False, -1
    while not has_scan and position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        length = int.from_bytes(data[position + 2 : position + 4], "big")
        segment = data[position + 4 : position + 2 + length]
        if marker in _START_OF_FRAME:
            frame = segment
        elif marker == _APP0:
            has_jfif |= segment.startswith(_JFIF)
        elif marker == _APP14 and segment.startswith(_ADOBE) and len(segment) > _TRANSFORM_POSITION:
            transform = segment[_TRANSFORM_POSITION]
        has_scan = marker == _START_OF_SCAN
        position += 2 + length
    if not has_scan or len(frame) < 6 or len(frame) < 6 + 3 * frame[5]:
        raise DecodeError("a JPEG frame without a whole image header", code="corrupt-frame")
    precision, rows, columns, samples = struct.unpack_from(">BHHB", frame)
    return Codestream(
        rows=rows,
        columns=columns,
        samples=samples,
        precision=precision,
        says_rgb=frame[6 : 6 + 3 * samples : 3] in _RGB_IDS or transform == _NO_TRANSFORM,
        says_ybr=has_jfif or transform == _YBR_TRANSFORM,
        is_complete=data.find(_END_OF_IMAGE, position) >= 0,
    )


def read_jpeg2000(data: bytes) -> Codestream:
    """Read the header of a JPEG 2000 or HTJ2K codestream, bare or in a JP2 box.

    Raises
    ------
    DecodeError
        ``corrupt-frame``.
    """
    start = data.find(_J2K_START)
    if start < 0 or len(data) <= start + _DEPTH_POSITION:
        raise DecodeError("a frame without a JPEG 2000 image header", code="corrupt-frame")
    right, bottom, left, top = struct.unpack_from(">4I", data, start + 8)
    (samples, depth) = struct.unpack_from(">HB", data, start + _DEPTH_POSITION - 2)
    return Codestream(
        rows=bottom - top,
        columns=right - left,
        samples=samples,
        precision=(depth & 0x7F) + 1,
        is_signed=bool(depth & _SIGN_BIT),
        starts_at=start,
    )


def has_end(data: bytes) -> bool:
    """Whether a JPEG or JPEG 2000 codestream ends with its end marker, but for padding."""
    return data[-_MOST_PADDING - 2 :].rstrip(b"\0\xff").endswith(_END_OF_IMAGE)


def clear_sign(data: bytes) -> bytes:
    """Return a bare JPEG 2000 codestream of one signed component as an unsigned one.

    Its decoder then adds half the range to each sample (the DC level shift, ITU-T T.800 G.1) that it leaves out for
    signed ones: 2^(precision - 1).
    """
    changed = bytearray(data)
    changed[_DEPTH_POSITION] &= ~_SIGN_BIT
    return bytes(changed)


def check_codestream(stream: Codestream, spec: FrameSpec) -> None:
    """Refuse a codestream that is cut off or is not the image that the header announces, before memory is taken for it.

    JPEG decoders fill what is missing with grey and do not complain.

    Raises
    ------
    DecodeError
        ``corrupt-frame``, ``frame-size-mismatch``.
    """
    if not stream.is_complete:
        raise DecodeError("a JPEG frame without its end", code="corrupt-frame")
    found = (stream.rows, stream.columns, stream.samples)
    expected = (spec.rows, spec.columns, spec.samples_per_pixel)
    if found != expected or stream.precision > max(8, spec.bits_allocated):
        raise DecodeError(
            f"a frame of {' × '.join(map(str, found))} samples of {stream.precision} bits, "
            f"expected {' × '.join(map(str, expected))} of at most {spec.bits_allocated}",
            code="frame-size-mismatch",
        )
