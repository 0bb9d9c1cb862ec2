"""Pixel data that is not encapsulated: many files read into one buffer, and samples laid out as an image."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuprep import hostlib
from gpuprep.codecs.base import Image, clean_bits, container_dtype, image_shape, unstored_bits
from gpuprep.codecs.colour import check_photometric, convert_to_rgb, expand_422, is_ybr
from gpuprep.dicom.datasets import (
    DEFLATED_UID,
    DOUBLE_FLOAT_PIXEL_DATA,
    EXPLICIT_BIG_UID,
    FLOAT_PIXEL_DATA,
    PIXEL_DATA,
    UNDEFINED_LENGTH,
    Inflating,
    parse_file,
    pydicom_errors,
    quiet_pydicom,
    read_pixel_head,
)
from gpuprep.dicom.framespec import FrameSpec
from gpuprep.dicom.header import InstanceHeader
from gpuprep.errors import COPY_AGAIN, DecodeError

NAME = "native"

#: Statuses of gp_read_frames other than 0 and errno values. Source: kernels/host/read_frames.cpp.
_SHORT_READ = -1
_OUT_OF_BUFFER = -2

#: Times that deflate can shrink data, at most. Source: zlib's technical details, "Maximum Compression Factor".
_MOST_DEFLATION = 1032


@dataclass(frozen=True, slots=True)
class Extent:
    """Bytes of a file, and where in the destination buffer they go."""

    path: str
    offset: int
    length: int
    destination: int


def read_extents(
    extents: Sequence[Extent], buffer: Image, *, workers: int, clean_as: FrameSpec | None = None
) -> NDArray[np.int64] | None:
    """Read parts of files into place, in threads of the host library.

    Parameters
    ----------
    extents : sequence of Extent
        What to read. Consecutive extents of one file share its opening.
    buffer : ndarray, C-contiguous
        Destination; offsets count its bytes.
    workers : int
        Most threads.
    clean_as : FrameSpec, optional
        Have the words of `buffer` that are read cleaned, as `clean_bits` does, while they are in the cache.

    Returns
    -------
    array of shape (n, 2), int64, or None
        Least and greatest cleaned word of each extent; None of words that are not cleaned, floats, or wider than 16
        bits.

    Raises
    ------
    DecodeError
        ``pixel-data-truncated``: a file ends before. ``unreadable``: the operating system refuses.
    """
    if not buffer.flags.c_contiguous:
        raise ValueError("the destination is not contiguous")
    starts: dict[str, int] = {}
    paths = bytearray()
    for extent in extents:
        if extent.path not in starts:
            starts[extent.path] = len(paths)
            paths += os.fsencode(extent.path) + b"\0"
    requests = np.array([(starts[e.path], e.offset, e.length, e.destination) for e in extents], np.int64)
    status = np.empty(len(extents), np.int32)
    ends = np.empty((len(extents), 2), np.int64)
    size = left = right = 0
    if clean_as is not None and buffer.dtype.kind in "iu":
        size = -buffer.dtype.itemsize if buffer.dtype.kind == "i" else buffer.dtype.itemsize
        left, right = unstored_bits(clean_as)
    failed = _library().gp_read_frames(
        bytes(paths),
        requests.ctypes.data,
        len(extents),
        buffer.ctypes.data,
        buffer.nbytes,
        size,
        left,
        right,
        workers,
        status.ctypes.data,
        ends.ctypes.data,
    )
    if failed:
        raise MemoryError(f"no memory to read {len(extents)} parts of files")
    for position in map(int, np.flatnonzero(status)):
        extent, code = extents[position], int(status[position])
        if code == _OUT_OF_BUFFER:
            raise ValueError(f"{extent} does not fit into {buffer.nbytes} bytes")
        if code == _SHORT_READ:
            raise DecodeError(
                f"the file ends before byte {extent.offset + extent.length}, where a frame should end",
                code="pixel-data-truncated",
                subject=extent.path,
                hint=COPY_AGAIN,
            )
        raise DecodeError(f"cannot be read: {os.strerror(code)}", code="unreadable", subject=extent.path)
    return ends if 0 < abs(size) <= 2 else None


@cache
def _library() -> Any:
    library, _ = hostlib.load()
    library.gp_read_frames.restype = ctypes.c_int
    library.gp_read_frames.argtypes = [
        ctypes.c_char_p,
        ctypes.c_void_p,
        ctypes.c_int64,
        ctypes.c_void_p,
        ctypes.c_int64,
        ctypes.c_int32,
        ctypes.c_int32,
        ctypes.c_int32,
        ctypes.c_uint,
        ctypes.c_void_p,
        ctypes.c_void_p,
    ]
    return library


def is_plain(spec: FrameSpec) -> bool:
    """Whether a native frame lies in the file just as it lies in an array."""
    return spec.bits_allocated > 1 and spec.samples_per_pixel == 1


def frame_bits(spec: FrameSpec) -> int:
    """Return how many bits a native frame takes; frames of packed bits may begin within a byte."""
    samples = 2 if spec.photometric_interpretation == "YBR_FULL_422" else spec.samples_per_pixel
    return spec.rows * spec.columns * samples * spec.bits_allocated


def frame_extent(header: InstanceHeader, spec: FrameSpec, index: int, *, destination: int = 0) -> Extent:
    """Return where frame `index` of an instance lies in its file, in whole bytes.

    Raises
    ------
    DecodeError
        ``pixel-data-truncated``: the pixel data is too short for this frame. ``frame-size-mismatch``: it is called
        YBR_FULL_422 but holds all samples.
    """
    bits = frame_bits(spec)
    begin, end = index * bits // 8, -(-(index + 1) * bits // 8)
    if end > header.pixel_length:
        raise _truncated(header, f"{header.pixel_length} bytes of pixel data, but frame {index + 1} ends at byte {end}")
    if spec.photometric_interpretation == "YBR_FULL_422" and 2 * header.pixel_length >= 3 * spec.number_of_frames * (
        bits // 8
    ):
        raise DecodeError(
            f"{header.pixel_length} bytes of pixel data are too many for YBR_FULL_422",
            code="frame-size-mismatch",
            subject=header.path,
        )
    return Extent(header.path, header.pixel_offset + begin, end - begin, destination)


def check_size(header: InstanceHeader, spec: FrameSpec) -> None:
    """Refuse more native frames than the file has room for.

    Raises
    ------
    DecodeError
        As `frame_extent`.
    """
    if header.is_native:
        frame_extent(header, spec, spec.number_of_frames - 1)
        return
    most = header.size * (_MOST_DEFLATION if spec.transfer_syntax_uid == DEFLATED_UID else 1)
    if -(-spec.number_of_frames * frame_bits(spec) // 8) > most:
        raise _truncated(header, f"{spec.number_of_frames} frames in a file of {header.size} bytes")


def open_pixels(header: InstanceHeader, spec: FrameSpec) -> tuple[InstanceHeader, bytes]:
    """Read the native frames that do not lie in their file as they are: deflated, big-endian and float ones.

    Returns
    -------
    header : InstanceHeader
        With the place of the pixel data in the file, or in `held`.
    held : bytes
        All frames, little endian, for `read_frame`; empty when they are read from the file.

    Raises
    ------
    DecodeError
        ``unreadable``: the file cannot be read. ``pixel-data-missing``: it has none, or is encapsulated.
        ``pixel-data-truncated``: it is damaged.
    """
    if header.is_native:
        return header, b""
    samples = container_dtype(spec).itemsize
    kind = {4: FLOAT_PIXEL_DATA, 8: DOUBLE_FLOAT_PIXEL_DATA}[samples] if spec.is_float else PIXEL_DATA
    try:
        with Path(header.path).open("rb") as file, quiet_pydicom():
            parsed = parse_file(file, header.size)
            tag, vr, stated = read_pixel_head(parsed)
            if tag != kind or stated == UNDEFINED_LENGTH:
                raise DecodeError("there is no native pixel data", code="pixel-data-missing", subject=header.path)
            width = 2 if vr == "OW" and samples == 1 else samples  # bytes that big endian turns round
            needed = -(-spec.number_of_frames * frame_bits(spec) // (8 * width)) * width
            if isinstance(parsed.source, Inflating):
                parsed.source.limit += needed
            held = parsed.source.read(min(stated, needed))
    except OSError as error:
        raise DecodeError(f"cannot be read: {error}", code="unreadable", subject=header.path) from error
    except MemoryError:
        raise
    except pydicom_errors() as error:
        raise _truncated(header, f"damaged pixel data: {error}") from error
    if len(held) < min(stated, needed):
        raise _truncated(header, "the file ends within its pixel data")
    if spec.transfer_syntax_uid == EXPLICIT_BIG_UID:
        held = np.frombuffer(held, f"u{width}", len(held) // width).byteswap().tobytes()
    return replace(header, pixel_offset=0, pixel_length=stated), held


def _truncated(header: InstanceHeader, message: str) -> DecodeError:
    return DecodeError(message, code="pixel-data-truncated", subject=header.path, hint=COPY_AGAIN)


def read_frame(header: InstanceHeader, spec: FrameSpec, index: int, out: Image, *, held: bytes = b"") -> None:
    """Read one native frame of any layout into `out`, of shape `image_shape` and type `container_dtype`.

    Parameters
    ----------
    header, held
        As `open_pixels` returns them.
    spec : FrameSpec
        Layout of the frames.
    index : int
        0-based number of the frame.
    out : ndarray
        Receives stored values; see `unpack_frame`.

    Raises
    ------
    DecodeError
        As `frame_extent`, `read_extents` and `unpack_frame`.
    """
    extent = frame_extent(header, spec, index)
    if held:
        raw = np.frombuffer(held, np.uint8, extent.length, extent.offset)
    else:
        raw = np.empty(extent.length, np.uint8)
        read_extents([extent], raw, workers=1)
    unpack_frame(raw, spec, out, skip_bits=index * frame_bits(spec) % 8)


def unpack_frame(raw: Image, spec: FrameSpec, out: Image, *, skip_bits: int = 0) -> None:
    """Lay the bytes of one native frame out as an image.

    Parameters
    ----------
    raw : ndarray of uint8
        Bytes of the frame, little endian.
    spec : FrameSpec
        Their layout.
    out : ndarray of shape `image_shape`, dtype `container_dtype`
        Receives stored values with clean bits; YBR_FULL and YBR_FULL_422 become RGB.
    skip_bits : int
        Bits of the first byte that belong to the frame before.

    Raises
    ------
    DecodeError
        ``unsupported-pixels``.
    """
    check_photometric(spec)
    pixels = spec.rows * spec.columns
    if spec.bits_allocated == 1:
        bits = np.unpackbits(raw, bitorder="little", count=skip_bits + pixels)
        out[...] = bits[skip_bits:].reshape(spec.rows, spec.columns)
        return
    words = raw.view(container_dtype(spec))
    if spec.photometric_interpretation == "YBR_FULL_422":
        words = expand_422(words, spec.columns)
    elif spec.samples_per_pixel > 1 and spec.planar_configuration == 1:
        words = np.moveaxis(words.reshape(spec.samples_per_pixel, spec.rows, spec.columns), 0, -1)
    out[...] = words.reshape(image_shape(spec))
    clean_bits(out, spec)
    if is_ybr(spec.photometric_interpretation):
        convert_to_rgb(out)
