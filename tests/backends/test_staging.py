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


def fill(array):
    array[...] = np.random.default_rng(4).integers(0, 250, array.shape)
    return array.copy()


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32"])
def test_arrays_made_for_a_device_cross_whole_and_come_back_whole(device, backend, dtype):
    with backend.activate():
        array = backend.host_array((7, 300, 400), dtype)
        sent = fill(array)
        there = backend.upload(array)
        del array  # its memory waits for the copy
        assert there.device.stream.pending
        back = backend.download(there)
    assert (back.dtype, back.shape) == (sent.dtype, sent.shape)
    assert np.array_equal(back, sent)
    assert device.crossings[-2:] == [("up", sent.nbytes), ("down", sent.nbytes)]
    assert device.pinned_address(back) is not None


def test_memory_of_arrays_goes_back_when_their_copies_are_done(device, backend):
    with backend.activate():
        for _ in range(5):
            backend.upload(backend.host_array((100_000,), np.uint8))
            backend.synchronize()
            assert len(device.pinned) == 1


def test_memory_that_goes_back_too_early_is_caught(monkeypatch, backend):
    monkeypatch.setattr(staging.PinnedArrays, "upload", lambda self, array, target, stream: target.set(array, stream))
    with backend.activate():
        backend.upload(backend.host_array((100_000,), np.uint8))
        with pytest.raises(AssertionError, match="given back before its copy is done"):
            backend.synchronize()


@pytest.mark.parametrize("why", ["small", "large", "no more to be pinned"])
def test_other_arrays_are_not_pinned_and_cross_through_the_ring(monkeypatch, device, backend, why):
    size = staging.PAGEABLE_BYTES if why == "small" else 200_001
    with backend.activate():
        with monkeypatch.context() as patch:
            patch.setattr(staging, "PINNED_BYTES", 0)
            backend.download(backend.upload(np.zeros(200_000, np.uint8)))  # the rings have their buffers
        if why == "large":
            monkeypatch.setattr(staging, "PINNED_BYTES", 150_000)
        device.has_pinned_memory = why != "no more to be pinned"
        array = backend.host_array((size,), np.uint8)
        assert device.pinned_address(array) is None
        sent = fill(array)
        back = backend.download(backend.upload(array))
    assert np.array_equal(back, sent)
    assert max(device.uploads()) <= max(fake_cuda.BUFFER_BYTES, staging.PAGEABLE_BYTES)


def test_other_errors_of_pinned_memory_are_errors(monkeypatch, device, backend):
    def fail(nbytes):
        raise fake_cuda.CudaRuntimeError(700)

    monkeypatch.setattr(device.cupy.cuda, "alloc_pinned_memory", fail)
    with pytest.raises(fake_cuda.CudaRuntimeError):
        backend.host_array((100_000,), np.uint8)


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
