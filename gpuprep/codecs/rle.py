"""RLE Lossless (PS3.5 annex G) for label maps: few, long runs."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Longest run that two bytes can say.
_LONGEST_RUN = 128
#: A header of the number of segments and up to 15 offsets.
_HEADER = struct.Struct("<16I")


def encode_rle(frame: NDArray[np.unsignedinteger]) -> bytes:
    """Return the RLE codestream of a frame (rows, columns), uint8 or uint16.

    Every run of equal bytes in a row becomes pairs (257 - length, byte), a lone byte the pair (0, byte); that is no
    larger than PackBits with literal runs where runs are long, as in label maps.
    """
    bytes_high_first = frame.astype(frame.dtype.newbyteorder(">")).view(np.uint8).reshape(*frame.shape, -1)
    segments = [_encode_plane(bytes_high_first[..., n]) for n in range(frame.itemsize)]
    offsets = np.cumsum([_HEADER.size, *map(len, segments)])[:-1].tolist()
    return _HEADER.pack(len(segments), *offsets, *[0] * (15 - len(offsets))) + b"".join(segments)


def _encode_plane(plane: NDArray[Any]) -> bytes:
    is_start = np.ones(plane.shape, np.bool_)
    is_start[:, 1:] = plane[:, 1:] != plane[:, :-1]
    starts = np.flatnonzero(is_start)
    lengths = np.diff(starts, append=plane.size)
    pieces = -(-lengths // _LONGEST_RUN)
    pairs = np.empty((int(pieces.sum()), 2), np.uint8)
    pairs[:, 0] = 257 - _LONGEST_RUN
    pairs[:, 1] = np.repeat(plane.reshape(-1)[starts], pieces)
    last = lengths - (pieces - 1) * _LONGEST_RUN
    pairs[np.cumsum(pieces) - 1, 0] = np.where(last == 1, 0, 257 - last)
    return pairs.tobytes()
