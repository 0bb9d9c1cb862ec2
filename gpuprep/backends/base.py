"""What an op may ask of the machine it runs on."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from types import ModuleType
from typing import Any, Literal, Protocol, cast

import numpy as np
from numpy.typing import DTypeLike, NDArray

BackendName = Literal["cpu", "cuda", "reference"]

Dims = Sequence[int]


class Backend(Protocol):
    """Where arrays live and kernels run. Passed explicitly; there is no current backend.

    ``reference`` has `has_kernels` false: ops then take their plain NumPy form. `reason` says why this backend was
    taken, `lanes` how many elements a thread of a lane kernel handles (``LANES`` in kernels/gpuprep.cuh),
    `row_threads` how many of a block share a row (``ROW_THREADS``).
    `host` works on NumPy arrays, for what is on the host and stays there: itself, but for ``cuda``. `memory_bytes` is
    how much of a device's memory one case may take; None where arrays lie in the memory of the host. `ndimage` has
    SciPy's functions of that name for arrays of a device; None on the host, which has functions of its own.
    """

    name: BackendName
    device: str
    reason: str
    xp: ModuleType
    has_kernels: bool
    lanes: int
    row_threads: int
    memory_bytes: int | None

    @property
    def ndimage(self) -> ModuleType | None:
        """``cupyx.scipy.ndimage``, or None."""

    @property
    def host(self) -> Backend:
        """The backend for NumPy arrays."""

    def activate(self) -> AbstractContextManager[None]:
        """Return a context in which this thread's work goes to this backend's own stream.

        Without it, work goes to the device's default stream.

        Raises
        ------
        DeviceMemoryError
            ``device-memory``: whatever in the context asked for more memory than the device has.
        DeviceLostError
            ``device-lost``: the device does no more work for this process.
        """

    def free_memory(self) -> None:
        """Give memory that is not in use back to the device."""

    def launch(self, kernel: str, grid: Dims, block: Dims, args: Sequence[Any]) -> None:
        """Run a kernel over ``grid × block`` threads.

        Parameters
        ----------
        kernel : str
            Name of an ``extern "C"`` kernel of ``kernels/*.cu``.
        grid, block : sequence of up to three int
            As in CUDA, x first.
        args : sequence
            Arrays of this backend (C contiguous) and NumPy scalars of the exact parameter types.

        Raises
        ------
        KernelError
            ``unknown-kernel`` or ``bad-argument``.
        """

    def host_array(self, shape: Sequence[int], dtype: DTypeLike) -> NDArray[Any]:
        """Return an uninitialised NumPy array for what will be uploaded: it crosses without being copied on the host.

        It may still be on its way when `upload` has returned: do not write to it any more.
        """

    def upload(self, array: Any) -> Any:
        """Return a NumPy array as an array of this backend; no copy on the CPU."""

    def download(self, array: Any) -> Any:
        """Return an array of this backend as a NumPy array; no copy on the CPU."""

    def synchronize(self) -> None:
        """Wait until all launched work is done."""


class OnHost:
    """What backends have in common whose arrays are NumPy's: there is nowhere to move them, and nothing to wait for."""

    xp: ModuleType = np
    row_threads = 1
    memory_bytes: int | None = None
    ndimage: ModuleType | None = None

    @property
    def host(self) -> Backend:
        """The backend itself."""
        return cast(Backend, self)

    def activate(self) -> AbstractContextManager[None]:
        """Return a context that does nothing: there are no streams."""
        return nullcontext()

    def free_memory(self) -> None:
        """Return at once: there is no pool."""

    def host_array(self, shape: Sequence[int], dtype: DTypeLike) -> NDArray[Any]:
        """Return an uninitialised array."""
        return np.empty(shape, dtype)

    def upload(self, array: Any) -> Any:
        """Return the array itself."""
        return array

    def download(self, array: Any) -> Any:
        """Return the array itself."""
        return array

    def synchronize(self) -> None:
        """Return at once: launches end before `launch` returns."""


#: Threads a block where nothing speaks for another number.
BLOCK_THREADS = 256
#: Most blocks that CUDA takes along y, and along z.
MAX_GRID_YZ = 65535

#: `Backend.reason` of a backend that was asked for by name.
ASKED_FOR = "asked for"


def lane_dims(n: int, backend: Backend) -> tuple[Dims, Dims]:
    """Return grid and block that cover `n` elements with ``LANES`` elements a thread."""
    return (max(1, -(-n // (backend.lanes * BLOCK_THREADS))),), (BLOCK_THREADS,)


#: How kernel names spell a dtype (the type names of kernels/gpuprep.cuh).
TYPE_SUFFIX = {
    "int8": "i8",
    "uint8": "u8",
    "int16": "i16",
    "uint16": "u16",
    "int32": "i32",
    "uint32": "u32",
    "float32": "f32",
}

#: Address alignment that lane kernels ask for, bytes (``map_lanes`` in kernels/gpuprep.cuh).
PACK_ALIGNMENT = 16


def ready(array: Any, backend: Backend) -> Any:
    """Return `array` as kernels take it: C contiguous and aligned; a copy only where it is not."""
    array = backend.xp.ascontiguousarray(array)
    address = array.ctypes.data if backend.name == "cpu" else array.data.ptr
    return array if address % PACK_ALIGNMENT == 0 else array.copy()
