"""A backend that measures what another one does: transfers and kernels, one at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from numpy.typing import DTypeLike, NDArray

from gpuprep.backends.base import Backend, BackendName, Dims

UPLOAD, DOWNLOAD = "upload", "download"


@dataclass(slots=True)
class Tally:
    """Calls of one kind, the seconds they took, and bytes: those of a transfer, or of the arrays given to a kernel.

    `longest_s` is what the longest call took.
    """

    calls: int = 0
    seconds: float = 0.0
    bytes: int = 0
    longest_s: float = 0.0

    def add(self, seconds: float, nbytes: int) -> None:
        """Count a call."""
        self.calls += 1
        self.seconds += seconds
        self.bytes += nbytes
        self.longest_s = max(self.longest_s, seconds)


class MeteredBackend:
    """Does what another backend does, and waits for each call to end, so that its time is its own.

    Kernels of a device are timed by CUDA events, everything else by the clock of the host.

    Parameters
    ----------
    backend : Backend
        Does the work.
    before_launch : callable
        Called before each kernel is timed.

    Attributes
    ----------
    kernels : dict of str to Tally
        By kernel.
    transfers : dict of str to Tally
        ``"upload"`` and ``"download"``; without bytes where the backend copies none.
    """

    def __init__(self, backend: Backend, before_launch: Callable[[], object] = lambda: None) -> None:
        self._backend = backend
        self._before_launch = before_launch
        self.name: BackendName = backend.name
        self.device: str = backend.device
        self.reason: str = backend.reason
        self.xp: ModuleType = backend.xp
        self.has_kernels: bool = backend.has_kernels
        self.lanes: int = backend.lanes
        self.row_threads: int = backend.row_threads
        self.memory_bytes: int | None = backend.memory_bytes
        self.kernels: dict[str, Tally] = {}
        self.transfers = {UPLOAD: Tally(), DOWNLOAD: Tally()}

    @property
    def ndimage(self) -> ModuleType | None:
        """That of the backend."""
        return self._backend.ndimage

    @property
    def host(self) -> Backend:
        """The backend for NumPy arrays: metered too where it is the same one."""
        return self if self._backend.host is self._backend else self._backend.host

    def activate(self) -> AbstractContextManager[None]:
        """Return the context of the backend; see `Backend.activate`."""
        return self._backend.activate()

    def free_memory(self) -> None:
        """Give memory that is not in use back to the device."""
        self._backend.free_memory()

    def launch(self, kernel: str, grid: Dims, block: Dims, args: Sequence[Any]) -> None:
        """Run a kernel and wait for it; see `Backend.launch`."""
        tally = self.kernels.setdefault(kernel, Tally())  # now, so that one that fails is known
        self._before_launch()
        seconds = time_call(self._backend, lambda: self._backend.launch(kernel, grid, block, args))
        tally.add(seconds, sum(arg.nbytes for arg in args if getattr(arg, "shape", ())))

    def host_array(self, shape: Sequence[int], dtype: DTypeLike) -> NDArray[Any]:
        """Return an uninitialised NumPy array; see `Backend.host_array`."""
        return self._backend.host_array(shape, dtype)

    def upload(self, array: Any) -> Any:
        """Return a NumPy array as an array of the backend; see `Backend.upload`."""
        return self._transfer(UPLOAD, self._backend.upload, array)

    def download(self, array: Any) -> Any:
        """Return an array of the backend as a NumPy array; see `Backend.download`."""
        return self._transfer(DOWNLOAD, self._backend.download, array)

    def synchronize(self) -> None:
        """Wait until all launched work is done."""
        self._backend.synchronize()

    def _transfer(self, direction: str, call: Callable[[Any], Any], array: Any) -> Any:
        self._backend.synchronize()
        start = time.perf_counter()
        result = call(array)
        self._backend.synchronize()
        self.transfers[direction].add(time.perf_counter() - start, 0 if result is array else array.nbytes)
        return result


def time_call(backend: Backend, call: Callable[[], object]) -> float:
    """Return the seconds that `call` takes: by CUDA events on the current stream of a device, else by the clock.

    A device that has nothing else to do waits for the host between the events too.
    """
    if backend.name == "cuda":
        begin, end = backend.xp.cuda.Event(), backend.xp.cuda.Event()
        begin.record()
        call()
        end.record()
        end.synchronize()
        return float(backend.xp.cuda.get_elapsed_time(begin, end)) / 1e3
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
