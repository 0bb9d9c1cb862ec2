"""Pinned buffers: whole arrays cross, and no buffer is used before the device has finished with it."""

from __future__ import annotations

import fake_cuda
import numpy as np
import pytest

from gpuprep.backends import select, staging
from gpuprep.backends.staging import PAGEABLE_BYTES, PinnedRing


@pytest.fixture
def device(monkeypatch):
    return fake_cuda.install(monkeypatch)


@pytest.fixture
def backend(device):
    return select("cuda")


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32", "float64"])
@pytest.mark.parametrize("size", [0, 1, PAGEABLE_BYTES - 1, fake_cuda.BUFFER_BYTES * 3, fake_cuda.BUFFER_BYTES * 3 + 1])
def test_arrays_come_back_as_they_went(backend, size, dtype):
    array = np.random.default_rng(size).integers(0, 255, size).astype(dtype)
    with backend.activate():
        there = backend.upload(array)
        sent = array.copy()
        array[...] = 0  # the host may go on with it
        back = backend.download(there)
    assert back.dtype == sent.dtype
    assert np.array_equal(back, sent)


def test_strided_arrays_cross_too(backend):
    array = np.arange(200_000, dtype=np.int32).reshape(20, 100, 100)[::2, :, ::-1]
    with backend.activate():
        there = backend.upload(array)
        assert np.array_equal(backend.download(there), array)
        assert np.array_equal(backend.download(there[:, ::3]), array[:, ::3])


def test_uploads_do_not_wait_for_the_last_pieces(device, backend):
    array = np.arange(300_000, dtype=np.int16)
    with backend.activate():
        backend.upload(array)
        assert len(device.stream.pending) == 2 * staging.BUFFERS  # copies and events
        assert len(device.busy) == staging.BUFFERS
        backend.synchronize()
    assert not device.busy


def test_a_ring_that_does_not_wait_is_caught(monkeypatch, device, backend):
    def take_at_once(self):
        if len(self._buffers) == staging.BUFFERS:
            self._buffers.rotate(-1)
            return self._buffers[-1]
        return take(self)

    take = PinnedRing.take
    monkeypatch.setattr(PinnedRing, "take", take_at_once)
    with backend.activate(), pytest.raises(AssertionError, match="used before its event"):
        backend.upload(np.arange(300_000, dtype=np.int16))


def test_pinned_memory_is_taken_when_it_is_needed_and_kept(device, backend):
    assert not device.pinned
    with backend.activate():
        for _ in range(5):
            backend.upload(np.zeros(300_000, np.int16))
    assert list(device.pinned.values()) == [fake_cuda.BUFFER_BYTES] * staging.BUFFERS


def test_an_array_of_one_stream_is_not_used_on_another_before_it_is_ready(device, backend):
    with backend.activate():
        there = backend.upload(np.zeros(300_000, np.int16))
        with device.cupy.cuda.Stream(non_blocking=True), pytest.raises(AssertionError, match="another one works on it"):
            there.max()
