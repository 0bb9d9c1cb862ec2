"""RLE codestreams, decoded by pydicom."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.pixels.decoders.rle import _rle_decode_frame

from gpuprep.codecs.rle import encode_rle


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@settings(max_examples=40, deadline=None, database=None)
@given(seed=st.integers(0, 2**32 - 1), columns=st.sampled_from([1, 2, 11, 127, 128, 129, 257, 512]),
       change=st.sampled_from([0.0, 0.01, 0.5, 1.0]))  # fmt: skip
def test_pydicom_decodes_what_went_in(dtype, seed, columns, change):
    rng = np.random.default_rng(seed)
    starts = np.cumsum(rng.random((3, columns)) < change, axis=1)
    frame = rng.integers(0, np.iinfo(dtype).max, columns + 1, dtype, endpoint=True)[starts]
    decoded = _rle_decode_frame(encode_rle(frame), *frame.shape, 1, 8 * frame.itemsize)
    assert np.array_equal(np.frombuffer(decoded, dtype).reshape(frame.shape), frame)


def test_runs_are_as_long_as_two_bytes_can_say():
    frame = np.zeros((3, 512), np.uint8)
    frame[1, 100:] = 7
    assert len(encode_rle(frame)) == 64 + 2 * (4 + (1 + 4) + 4)  # header; 512 = 4 × 128, 412 = 3 × 128 + 28
