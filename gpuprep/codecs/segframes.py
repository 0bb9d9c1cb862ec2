"""Frames of a segmentation, decoded when asked for.

What sets them apart from other frames is one bit a pixel: native frames then follow each other without a gap and need
not begin at a byte, while each compressed frame begins at one.
"""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuprep.dicom.seg import Segmentation
from gpuprep.dicom.stack import FrameSpec
from gpuprep.errors import DecodeError

Pixels = NDArray[np.unsignedinteger]

DEFLATED_IMAGE_FRAME = "1.2.840.10008.1.2.8.1"
RLE_LOSSLESS = "1.2.840.10008.1.2.5"
BIG_ENDIAN = "1.2.840.10008.1.2.2"
NATIVE = frozenset({"1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99", BIG_ENDIAN})
#: Transfer syntax → function of imagecodecs.
IMAGECODECS = {
    "1.2.840.10008.1.2.4.57": "ljpeg_decode",
    "1.2.840.10008.1.2.4.70": "ljpeg_decode",
    "1.2.840.10008.1.2.4.80": "jpegls_decode",
    "1.2.840.10008.1.2.4.90": "jpeg2k_decode",
    "1.2.840.10008.1.2.4.201": "htj2k_decode",
    "1.2.840.10008.1.2.4.202": "htj2k_decode",
}


class SegmentationFrames(Sequence[Pixels]):
    """The frames of a segmentation; ``frames[i]`` decodes frame i.

    Parameters
    ----------
    stored : bytes or sequence of bytes
        Native pixel data, little endian; or the bytes of each frame when `spec` names a compressed transfer syntax.
    spec : FrameSpec
        Layout of each frame.
    subject : str
        The file, for messages.
    """

    def __init__(self, stored: bytes | Sequence[bytes], spec: FrameSpec, subject: str) -> None:
        self._stored = stored
        self._spec = spec
        self._subject = subject

    def __len__(self) -> int:
        return self._spec.number_of_frames

    def __iter__(self) -> Iterator[Pixels]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: int) -> Pixels:  # type: ignore[override]  # no slices: a frame at a time is the point
        """Return frame `index` as uint8 or uint16 of shape (rows, columns).

        Raises
        ------
        DecodeError
            ``corrupt-frame``: the bytes are not what the header promises.
        """
        if not 0 <= index < len(self):
            raise IndexError(index)
        spec = self._spec
        if isinstance(self._stored, bytes):
            first_bit = index * spec.rows * spec.columns * spec.bits_allocated
            return _unpack(self._stored, spec, first_bit)
        try:
            decoded = _decompress(self._stored[index], spec)
            pixels = _unpack(decoded, spec, 0) if isinstance(decoded, bytes) else decoded
        except (ValueError, RuntimeError, zlib.error) as error:
            raise DecodeError(f"frame {index}: {error}", code="corrupt-frame", subject=self._subject) from error
        if pixels.shape != (spec.rows, spec.columns):
            raise DecodeError(
                f"frame {index} has shape {pixels.shape}, not {(spec.rows, spec.columns)}",
                code="corrupt-frame",
                subject=self._subject,
            )
        return pixels


def decode_segmentation_frames(segmentation: Segmentation) -> SegmentationFrames:
    """Read the pixel data of a segmentation; each frame is decoded when it is asked for.

    Parameters
    ----------
    segmentation : Segmentation
        From `gpuprep.dicom.seg.read_segmentation`.

    Returns
    -------
    SegmentationFrames
        As many as ``segmentation.frames``; bits are 0 or 1, other values as stored.

    Raises
    ------
    DecodeError
        ``unsupported-syntax``; ``pixel-data-missing``; ``pixel-data-short``: native data, or compressed frames, are
        fewer than the header promises.
    """
    spec = segmentation.spec
    subject = str(segmentation.path)
    syntax = spec.transfer_syntax_uid
    if syntax not in NATIVE | {DEFLATED_IMAGE_FRAME, RLE_LOSSLESS} | IMAGECODECS.keys():
        raise DecodeError(f"transfer syntax {syntax}", code="unsupported-syntax", subject=subject)
    if not spec.number_of_frames:
        return SegmentationFrames(b"", spec, subject)
    data = _read_pixel_dataset(segmentation)
    stored: bytes | Sequence[bytes]
    if syntax in NATIVE:
        pixel_data: bytes = data.PixelData
        if syntax == BIG_ENDIAN and data["PixelData"].VR == "OW":
            pixel_data = np.frombuffer(pixel_data, ">u2").astype("<u2").tobytes()
        stored = pixel_data
        found, needed = len(stored), -(-spec.number_of_frames * spec.rows * spec.columns * spec.bits_allocated // 8)
        unit = "bytes"
    else:
        stored = _split_frames(data, segmentation)
        found, needed, unit = len(stored), spec.number_of_frames, "frames"
    if found < needed:
        raise DecodeError(f"{found} of {needed} {unit}", code="pixel-data-short", subject=subject)
    return SegmentationFrames(stored, spec, subject)


def _read_pixel_dataset(segmentation: Segmentation) -> Any:
    import pydicom

    wanted = ["PixelData", "ExtendedOffsetTable", "ExtendedOffsetTableLengths"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # values that break their VR are of no concern here
        data = pydicom.dcmread(segmentation.path, specific_tags=wanted)
        if not data.get("PixelData"):
            raise DecodeError("no pixel data", code="pixel-data-missing", subject=str(segmentation.path))
        return data


def _split_frames(data: Any, segmentation: Segmentation) -> list[bytes]:
    from pydicom.encaps import generate_frames

    table = (data.ExtendedOffsetTable, data.ExtendedOffsetTableLengths) if "ExtendedOffsetTable" in data else None
    count = segmentation.spec.number_of_frames
    try:
        return list(generate_frames(data.PixelData, number_of_frames=count, extended_offsets=table))
    except (AttributeError, EOFError, IndexError, ValueError, struct.error) as error:
        raise DecodeError(str(error), code="pixel-data-short", subject=str(segmentation.path)) from error


def _unpack(stored: bytes, spec: FrameSpec, first_bit: int) -> Pixels:
    """Return the frame that begins at bit `first_bit` of native little-endian bytes."""
    count = spec.rows * spec.columns
    first_byte, skipped_bits = divmod(first_bit, 8)
    if spec.bits_allocated == 1:
        packed = np.frombuffer(stored, np.uint8, -(-(skipped_bits + count) // 8), first_byte)
        pixels = np.unpackbits(packed, count=skipped_bits + count, bitorder="little")[skipped_bits:]
    else:
        pixels = np.frombuffer(stored, f"<u{spec.bits_allocated // 8}", count, first_byte)
    return pixels.reshape(spec.rows, spec.columns)


def _decompress(data: bytes, spec: FrameSpec) -> bytes | Pixels:
    """Return a compressed frame as native bytes or, where the codec knows of pixels, as pixels."""
    syntax = spec.transfer_syntax_uid
    if syntax == DEFLATED_IMAGE_FRAME:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(data)
    import imagecodecs

    if syntax == RLE_LOSSLESS:
        return bytes(imagecodecs.dicomrle_decode(data, "<u2" if spec.bits_allocated == 16 else "<u1"))
    pixels: Pixels = getattr(imagecodecs, IMAGECODECS[syntax])(data)
    return pixels
