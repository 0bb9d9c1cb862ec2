"""Kernels on arrays of more than 2³¹ elements, without that much memory.

What is only read is mapped and never written: all its pages are the one zero page. What is written is one small file,
mapped over and over, but for its end.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys

import numpy as np
import pytest

from gpuprep.backends import select
from gpuprep.backends.base import lane_dims
from gpuprep.dicom.framespec import FrameSpec
from gpuprep.ops.crop import crop_or_pad_array, foreground_box
from gpuprep.ops.intensity import to_modality

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux mappings")

CPU = select("cpu")
BEYOND = 2**31
CHUNK = 1 << 24
_MAP_FIXED, _MAP_NORESERVE = 0x10, 0x4000  # Linux' sys/mman.h


def zeros(shape):
    """Return an array of uint8 zeros of which only written pages take memory."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
    return np.frombuffer(mmap.mmap(-1, int(np.prod(shape, dtype=np.int64)), flags=flags), np.uint8).reshape(shape)


@pytest.fixture
def aliased():
    """Return a writable uint8 array of `n` chunks; all but the last are the same memory."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    file = os.memfd_create("aliased")
    os.ftruncate(file, 2 * CHUNK)
    held = []

    def make(chunks):
        whole = zeros(chunks * CHUNK)
        held.append(whole)
        for i in range(chunks):
            offset = CHUNK if i == chunks - 1 else 0
            protection = mmap.PROT_READ | mmap.PROT_WRITE
            address = whole.ctypes.data + i * CHUNK
            got = libc.mmap(address, CHUNK, protection, mmap.MAP_SHARED | _MAP_FIXED, file, offset)
            assert got == address, os.strerror(ctypes.get_errno())
        return whole

    yield make
    os.close(file)


def test_lane_kernel(aliased):
    array = aliased(BEYOND * 2 // CHUNK + 1).view(np.int16)
    array[: CHUNK // 2] = 2000
    tail = np.arange(-4000, 4000, dtype=np.int16)
    array[BEYOND : BEYOND + tail.size] = tail
    n = BEYOND + 7001
    grid, block = lane_dims(n, CPU)
    CPU.launch("clamp_i16", grid, block, (array, array, np.int64(n), np.int16(-500), np.int16(500)))
    assert (array[BEYOND - 100 : BEYOND] == 500).all()
    tail[:7001] = np.clip(tail[:7001], -500, 500)
    np.testing.assert_array_equal(array[BEYOND : BEYOND + tail.size], tail)


def test_modality_values(aliased):
    words = aliased(BEYOND * 2 // CHUNK + 1).view(np.uint16)
    slices = words[: 2**13 * 262_145].reshape(2**13, 5, 52_429)  # the last slice begins before 2³¹ and ends beyond
    words[BEYOND:] = np.arange(words.size - BEYOND) % 4096
    stored = slices[-1].copy()
    intercepts = np.zeros(2**13)
    intercepts[-1] = -1024
    values = to_modality(slices, FrameSpec("", 5, 52_429, 16, 12, 11, False), np.ones(2**13), intercepts, backend=CPU)
    beyond = np.arange(slices.size - stored.size, slices.size).reshape(stored.shape) >= BEYOND
    np.testing.assert_array_equal(values[-1][beyond], stored[beyond].astype(np.int16) - 1024)


def test_box():
    array = zeros((3, 2**15, 2**15 + 1))
    array[2, 5, 7] = array[2, -1, -2] = 9
    assert foreground_box(array, 8, CPU) == ((2, 5, 7), (1, 2**15 - 5, 2**15 - 7))


def test_range():
    words = zeros((3, 2**15, 2**15 + 1))
    words[2, -1, -1] = 200
    found = np.tile(np.array([2**31 - 1, -(2**31)], np.int32), (3, 1))
    CPU.launch("range_u8", (1, 3), (4,), (words, np.int64(words[0].size), np.int32(0), np.int32(0), found))
    assert found.tolist() == [[0, 0], [0, 0], [0, 200]]


def test_crop():
    array = zeros((3, 50_000, 50_000))
    array[-1, -1, -3:] = (1, 2, 3)
    found = crop_or_pad_array(array, (2, 49_999, 49_996), (1, 1, 5), 8, CPU)
    assert found.ravel().tolist() == [0, 1, 2, 3, 8]


def test_transpose():
    array = zeros((2, 2**15, 2**16 + 1))
    array[1, -1, -1] = 9
    result = np.empty((1, 1, 1), np.uint8)
    steps = [np.int64(step) for step in (array.strides[0], 1, array.strides[1], 1, 1)]
    CPU.launch("orient_1", (1,), (1,), (array, result, *[np.int32(1)] * 3, np.int64(array.size - 1), *steps))
    assert result.item() == 9
