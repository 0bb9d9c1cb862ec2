"""Encapsulated pixel data: the codestream of each frame (PS3.5 A.4)."""

from __future__ import annotations

import ctypes
import io
import struct
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from gpuprep import hostlib
from gpuprep.dicom.datasets import quiet_pydicom
from gpuprep.dicom.framespec import FrameSpec
from gpuprep.dicom.header import InstanceHeader
from gpuprep.errors import COPY_AGAIN, DecodeError

#: Each fragment has an item tag and a length.
_ITEM_HEADER_BYTES = 8

#: A stream at the first item of the pixel data, or None; values of the extended offset table and of its lengths.
_Found = tuple[io.BytesIO | None, tuple[bytes, bytes] | None]


def check_size(header: InstanceHeader, spec: FrameSpec) -> None:
    """Refuse more frames than the file has room for.

    Raises
    ------
    DecodeError
        ``pixel-data-truncated``.
    """
    if spec.number_of_frames * _ITEM_HEADER_BYTES > header.size:
        raise DecodeError(
            f"{spec.number_of_frames} frames in a file of {header.size} bytes",
            code="pixel-data-truncated",
            subject=header.path,
            hint=COPY_AGAIN,
        )


def read_frames(header: InstanceHeader, spec: FrameSpec) -> list[bytes]:
    """Read the codestreams of all frames of an instance.

    Offset tables, basic and extended, are used where they are; without, fragments are joined by their number or, in
    JPEG and JPEG 2000, by end markers.

    Returns
    -------
    list of bytes
        `number_of_frames` codestreams.

    Raises
    ------
    DecodeError
        ``unreadable``: the file cannot be read. ``pixel-data-missing``: it has no pixel data, or not encapsulated.
        ``pixel-data-truncated``: there are fewer frames than the header says.
    """
    from pydicom.encaps import generate_frames

    try:
        with quiet_pydicom():
            data = Path(header.path).read_bytes()
            value, offsets = _find_by_host(data) or _find_by_pydicom(data)
            if value is None:
                raise DecodeError("there is no encapsulated pixel data", code="pixel-data-missing", subject=header.path)
            frames = list(generate_frames(value, number_of_frames=spec.number_of_frames, extended_offsets=offsets))
    except OSError as error:
        raise DecodeError(f"cannot be read: {error}", code="unreadable", subject=header.path) from error
    except (ValueError, TypeError, AttributeError, NotImplementedError, EOFError, OverflowError, struct.error) as error:
        raise DecodeError(
            f"the fragments of the pixel data are garbled: {error}",
            code="pixel-data-truncated",
            subject=header.path,
            hint=COPY_AGAIN,
        ) from error
    if len(frames) < spec.number_of_frames:
        raise DecodeError(
            f"{len(frames)} frames, expected {spec.number_of_frames}",
            code="pixel-data-truncated",
            subject=header.path,
            hint=COPY_AGAIN,
        )
    return frames[: spec.number_of_frames]


def _find_by_host(data: bytes) -> _Found | None:
    """Find the pixel data by the host library's walker, or return None for a file that it leaves to pydicom."""
    places = np.empty((3, 2), np.int64)
    if _find_function()(data, len(data), places.ctypes.data):
        return None
    (start, _), *tables = places.tolist()
    if start < 0:
        return None, None
    value = io.BytesIO(data)
    value.seek(start)
    offsets, lengths = (data[place : place + length] if place >= 0 else b"" for place, length in tables)
    return value, (offsets, lengths) if offsets and lengths else None


@cache
def _find_function() -> Any:
    function = hostlib.load()[0].gp_find_encapsulated
    function.restype = ctypes.c_int
    function.argtypes = [ctypes.c_char_p, ctypes.c_int64, ctypes.c_void_p]
    return function


def _find_by_pydicom(data: bytes) -> _Found:
    import pydicom

    names = ("PixelData", "ExtendedOffsetTable", "ExtendedOffsetTableLengths")
    dataset = pydicom.dcmread(io.BytesIO(data), force=True, specific_tags=list(names))
    value, offsets, lengths = (dataset.get(name) for name in names)
    return io.BytesIO(value) if value else None, (offsets, lengths) if offsets and lengths else None
