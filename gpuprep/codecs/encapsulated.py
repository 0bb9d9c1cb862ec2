"""Encapsulated pixel data: the codestream of each frame (PS3.5 A.4)."""

from __future__ import annotations

import struct
import warnings

from gpuprep.dicom.header import InstanceHeader
from gpuprep.dicom.stack import FrameSpec
from gpuprep.errors import DecodeError

#: Each fragment has an item tag and a length.
_ITEM_HEADER_BYTES = 8


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
    import pydicom
    from pydicom.encaps import generate_frames

    def error(message: str, code: str) -> DecodeError:
        return DecodeError(message, code=code, subject=header.path)

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # irregular headers; what matters is checked below
            dataset = pydicom.dcmread(
                header.path,
                force=True,
                specific_tags=["PixelData", "ExtendedOffsetTable", "ExtendedOffsetTableLengths"],
            )
            data = dataset.get("PixelData")
            if not data:
                raise error("there is no pixel data", "pixel-data-missing")
            offsets = dataset.get("ExtendedOffsetTable"), dataset.get("ExtendedOffsetTableLengths")
            frames = list(
                generate_frames(
                    data,
                    number_of_frames=spec.number_of_frames,
                    extended_offsets=(offsets[0], offsets[1]) if all(offsets) else None,
                )
            )
    except OSError as cause:
        raise error(f"cannot be read: {cause}", "unreadable") from cause
    except (ValueError, TypeError, AttributeError, NotImplementedError, EOFError, struct.error) as cause:
        raise error(f"the fragments of the pixel data are garbled: {cause}", "pixel-data-truncated") from cause
    if len(frames) < spec.number_of_frames:
        raise error(f"{len(frames)} frames, expected {spec.number_of_frames}", "pixel-data-truncated")
    return frames[: spec.number_of_frames]
