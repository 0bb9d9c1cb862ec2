"""Frames of a segmentation, decoded one at a time: all of them unpacked can be many times the size of the image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from gpuprep.codecs import native
from gpuprep.codecs.base import NATIVE_SYNTAXES, container_dtype, image_shape
from gpuprep.codecs.cpu import choose_decoder, decoders_for
from gpuprep.codecs.encapsulated import read_frames
from gpuprep.dicom.framespec import FrameSpec
from gpuprep.dicom.header import InstanceHeader, read_headers
from gpuprep.dicom.seg import Segmentation
from gpuprep.errors import DecodeError

Pixels = NDArray[np.unsignedinteger]


class SegmentationFrames(Sequence[Pixels]):
    """The frames of a segmentation; ``frames[i]`` decodes frame i.

    Parameters
    ----------
    header : InstanceHeader
        The file.
    spec : FrameSpec
        Layout of each frame.
    held : bytes or sequence of bytes
        Native frames as `gpuprep.codecs.native.open_pixels` returns them with `header`, or the codestream of each.
    """

    def __init__(self, header: InstanceHeader, spec: FrameSpec, held: bytes | Sequence[bytes] = b"") -> None:
        self._header = header
        self._spec = spec
        self._held = held

    def __len__(self) -> int:
        return self._spec.number_of_frames

    def __iter__(self) -> Iterator[Pixels]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: int) -> Pixels:  # type: ignore[override]  # no slices: a frame at a time is the point
        """Return frame `index` as uint8 or uint16 of shape (rows, columns).

        Raises
        ------
        DecodeError
            As `gpuprep.codecs.base.Decoder.decode_frame` and `gpuprep.codecs.native.read_frame`.
        """
        if not 0 <= index < len(self):
            raise IndexError(index)
        pixels: Pixels = np.empty(image_shape(self._spec), container_dtype(self._spec))
        if isinstance(self._held, bytes):
            native.read_frame(self._header, self._spec, index, pixels, held=self._held)
            return pixels
        try:
            choose_decoder(self._held[index], self._spec, pixels)
        except DecodeError as error:
            raise DecodeError(
                f"frame {index + 1}: {error.message}", code=error.code, subject=self._header.path, hint=error.hint
            ) from error
        return pixels


def decode_segmentation_frames(segmentation: Segmentation) -> SegmentationFrames:
    """Open the pixel data of a segmentation; each frame is decoded when it is asked for.

    Parameters
    ----------
    segmentation : Segmentation
        From `gpuprep.dicom.seg.read_segmentation`.

    Returns
    -------
    SegmentationFrames
        As many as ``segmentation.frames``; packed bits as 0 and 1, other values as stored.

    Raises
    ------
    DecodeError
        ``no-decoder``: for this transfer syntax. ``pixel-data-missing``; ``pixel-data-truncated``: it is shorter than
        the header promises. ``frame-size-mismatch``: it is longer. ``unreadable``.
    """
    spec = segmentation.spec
    (header,) = read_headers([str(segmentation.path)])
    if not spec.number_of_frames:
        return SegmentationFrames(header, spec)
    if spec.transfer_syntax_uid not in NATIVE_SYNTAXES:
        decoders_for(spec.transfer_syntax_uid, subject=header.path)
        return SegmentationFrames(header, spec, read_frames(header, spec))
    header, held = native.open_pixels(header, spec)
    last = native.frame_extent(header, spec, spec.number_of_frames - 1)
    length = last.offset + last.length - header.pixel_offset
    if header.pixel_length > length + length % 2:  # each frame padded to whole bytes, say, or other Rows than it has
        raise DecodeError(
            f"{header.pixel_length} bytes of pixel data, expected {length} for {spec.number_of_frames} frames",
            code="frame-size-mismatch",
            subject=header.path,
        )
    return SegmentationFrames(header, spec, held)
