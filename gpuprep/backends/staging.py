"""Pinned host memory between NumPy arrays and a device: it is used again only after its event.

Copies between pageable memory and a device are slow and stop the host; copies from and to pinned memory run beside it.
So arrays that are made for a device, and those it gives back, are pinned as a whole. Any other crosses in pieces: while
one piece is on its way, the host copies the next one into, or the last one out of, another buffer of a ring.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Bytes of a pinned buffer: long enough for the full rate of a copy, short enough to overlap within a volume.
BUFFER_BYTES = 16 << 20
#: Buffers of a ring: one is copied by the host, the other by the device.
BUFFERS = 2
#: Arrays up to this size cross at once, from pageable memory; the driver takes such a copy before it returns.
#: Source: CUDA Runtime API, API synchronization behavior.
PAGEABLE_BYTES = 64 << 10
#: Larger arrays are not pinned: it is memory that nobody else can have. CuPy rounds sizes up to powers of two.
PINNED_BYTES = 256 << 20
#: What CUDA says when memory is short: cudaErrorMemoryAllocation, driver_types.h, and CUDA_ERROR_OUT_OF_MEMORY, cuda.h.
OUT_OF_MEMORY = 2


class PinnedArrays:
    """Arrays that lie in pinned memory, of one slot. CuPy keeps the memory of those that are gone for the next ones.

    Parameters
    ----------
    xp : module
        CuPy.
    """

    def __init__(self, xp: Any) -> None:
        self._xp = xp
        self._under_way: deque[tuple[Any, NDArray[Any]]] = deque()

    def make(self, shape: Sequence[int], dtype: np.dtype[Any]) -> NDArray[Any]:
        """Return an array: pinned, unless it is small or large, or no more memory can be pinned."""
        self._forget()
        count = prod(shape)
        if PAGEABLE_BYTES < count * dtype.itemsize <= PINNED_BYTES:
            try:
                memory = self._xp.cuda.alloc_pinned_memory(count * dtype.itemsize)
                return np.frombuffer(memory, dtype, count).reshape(shape)
            except self._xp.cuda.runtime.CUDARuntimeError as error:
                if error.status != OUT_OF_MEMORY:
                    raise
        return np.empty(shape, dtype)

    def holds(self, array: NDArray[Any]) -> bool:
        """Whether an array lies in pinned memory."""
        return bool(self._xp.cuda.pinned_memory.is_memory_pinned(array.ctypes.data))

    def upload(self, array: NDArray[Any], target: Any, stream: Any) -> None:
        """Start a copy to an array of the device, and hold the array until it is done."""
        target.set(array, stream)
        event = self._xp.cuda.Event(disable_timing=True)
        event.record(stream)
        self._under_way.append((event, array))

    def _forget(self) -> None:
        while self._under_way and self._under_way[0][0].done:
            self._under_way.popleft()


@dataclass(slots=True, eq=False)
class PinnedBuffer:
    """Pinned bytes, and the event that says when the device has finished with them."""

    host: NDArray[np.uint8]
    event: Any


class PinnedRing:
    """Pinned buffers that take turns; those of one direction of one slot. Memory is taken on first use.

    Parameters
    ----------
    xp : module
        CuPy.
    nbytes : int
        Size of a buffer.
    """

    def __init__(self, xp: Any, nbytes: int) -> None:
        self._xp = xp
        self.nbytes = nbytes
        self._buffers: deque[PinnedBuffer] = deque()

    def take(self) -> PinnedBuffer:
        """Return the buffer that was taken longest ago, once its event has happened."""
        if len(self._buffers) < BUFFERS:
            memory = self._xp.cuda.alloc_pinned_memory(self.nbytes)
            host = np.frombuffer(memory, np.uint8, self.nbytes)
            self._buffers.append(PinnedBuffer(host, self._xp.cuda.Event(disable_timing=True)))
            return self._buffers[-1]
        self._buffers.rotate(-1)
        buffer = self._buffers[-1]
        buffer.event.synchronize()
        return buffer

    def pieces(self, nbytes: int) -> Iterator[slice]:
        """Yield the byte ranges in which `nbytes` cross."""
        for start in range(0, nbytes, self.nbytes):
            yield slice(start, min(start + self.nbytes, nbytes))


def upload_by(ring: PinnedRing, array: NDArray[Any], target: Any, stream: Any) -> None:
    """Copy a C-contiguous NumPy array to an array of the device of the same size, on a stream.

    Returns when the host has read `array`; the last pieces may still be on their way.
    """
    source, target = array.reshape(-1).view(np.uint8), target.reshape(-1).view(np.uint8)
    for piece in ring.pieces(array.nbytes):
        buffer = ring.take()
        part = buffer.host[: piece.stop - piece.start]
        part[...] = source[piece]
        target[piece].set(part, stream)
        buffer.event.record(stream)


def download_by(ring: PinnedRing, array: Any, target: NDArray[Any], stream: Any) -> None:
    """Copy a C-contiguous array of the device to a NumPy array of the same size, after the work of a stream."""
    source, flat = array.reshape(-1).view(np.uint8), target.reshape(-1).view(np.uint8)
    under_way: deque[tuple[PinnedBuffer, slice]] = deque()

    def land() -> None:
        buffer, piece = under_way.popleft()
        buffer.event.synchronize()
        flat[piece] = buffer.host[: piece.stop - piece.start]

    for piece in ring.pieces(target.nbytes):
        if len(under_way) == BUFFERS:
            land()
        buffer = ring.take()
        source[piece].get(stream, out=buffer.host[: piece.stop - piece.start], blocking=False)
        buffer.event.record(stream)
        under_way.append((buffer, piece))
    while under_way:
        land()
