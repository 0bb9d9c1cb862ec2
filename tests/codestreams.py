"""An encoder for tests, for the one compression that imagecodecs does not write."""

from __future__ import annotations

from typing import Any

import numpy as np


def encode_rle(words: np.ndarray[Any, Any], samples: int = 1) -> bytes:
    """Encode little-endian words, samples last, without runs: PS3.5 annex G."""
    planes = words.reshape(-1, samples, 1).view(np.uint8)[..., ::-1]
    segments = []
    for sample, byte in np.ndindex(planes.shape[1:]):
        plane = planes[:, sample, byte]
        blocks = [plane[i : i + 128].tobytes() for i in range(0, plane.size, 128)]
        segments.append(b"".join(bytes([len(block) - 1]) + block for block in blocks))
    starts = np.zeros(16, "<u4")
    starts[0] = len(segments)
    starts[1 : len(segments) + 1] = 64 + np.cumsum([0, *map(len, segments[:-1])])
    return starts.tobytes() + b"".join(segments)
