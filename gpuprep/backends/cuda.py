"""Kernels on a CUDA device: NVRTC compiles ``kernels/*.cu`` through CuPy."""

from __future__ import annotations

import ctypes
import gc
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from gpuprep import hostlib
from gpuprep.backends.base import ASKED_FOR, Backend, BackendName, Dims
from gpuprep.backends.cpu import CpuBackend
from gpuprep.backends.signature import check_arguments, kernel_file, three
from gpuprep.backends.staging import (
    BUFFER_BYTES,
    OUT_OF_MEMORY,
    PAGEABLE_BYTES,
    PinnedArrays,
    PinnedRing,
    download_by,
    upload_by,
)
from gpuprep.errors import BackendUnavailableError, DeviceLostError, DeviceMemoryError, KernelError

#: How kernels are compiled. No contraction: both backends give the same bits.
NVRTC_OPTIONS = ("--std=c++17", "--fmad=false")
#: Elements a thread of a lane kernel handles. Source: ``LANES`` in kernels/gpuprep.cuh.
LANES = 8
#: Threads of a block that share a row. Source: ``ROW_THREADS`` there.
ROW_THREADS = 32
#: Share of the device's memory that CuPy's pool may take, where CUPY_GPU_MEMORY_LIMIT does not say otherwise.
POOL_SHARE = 0.8

_CUDA_ERROR_NO_DEVICE = 100  # CUresult, cuda.h
#: Errors after which "the process must be terminated and relaunched", as after those of ECC and NVLink (214, 220) and
#: asserts (710). Source: CUresult in cuda.h of CUDA 13; as of the runtime.
_DEVICE_LOST = frozenset({214, 220, 226, 700, 702, 710, 714, 715, 716, 717, 718, 719, 721, 810, 911})
_OLDEST_DRIVER = 12000  # what cuDriverGetVersion returns for CUDA 12.0, the oldest that CuPy 13 and 14 support
_PROBE = 'extern "C" __global__ void probe(int* answer) { *answer = 42; }'
_INSTALL_HINT = "pip install 'gpuprep[cuda13]' (driver 580 or newer) or 'gpuprep[cuda12]'"
_HEADERS_HINT = f"{_INSTALL_HINT}: they bring the headers of CUDA that CuPy needs; or use --backend cpu"


def load_driver() -> ctypes.CDLL:
    """Load the driver and look at its version, without initialising CUDA.

    Raises
    ------
    BackendUnavailableError
        ``no-driver`` or ``driver-too-old``.
    """
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        raise BackendUnavailableError(
            "no NVIDIA driver: libcuda.so.1 cannot be loaded", code="no-driver", hint="use --backend cpu"
        ) from None
    version = ctypes.c_int()
    driver.cuDriverGetVersion(ctypes.byref(version))
    if version.value < _OLDEST_DRIVER:
        raise BackendUnavailableError(
            f"the NVIDIA driver supports CUDA {_version(version.value)}, {_version(_OLDEST_DRIVER)} is needed",
            code="driver-too-old",
            hint="update the driver or use --backend cpu",
        )
    return driver


def check_driver() -> None:
    """Ask the driver itself whether there is a device; costs no import of CuPy.

    Raises
    ------
    BackendUnavailableError
        ``no-driver``, ``driver-too-old``, ``no-device`` or ``probe-failed``.
    """
    driver, devices = load_driver(), ctypes.c_int()
    status = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(devices))
    if status == _CUDA_ERROR_NO_DEVICE or (status == 0 and devices.value == 0):
        raise BackendUnavailableError(
            "the NVIDIA driver finds no device", code="no-device", hint="look at CUDA_VISIBLE_DEVICES and nvidia-smi"
        )
    if status != 0:
        raise BackendUnavailableError(f"the NVIDIA driver reports error {status} (CUresult)", code="probe-failed")


def _version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


def _import_cupy() -> ModuleType:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import cupy
    except ImportError as error:
        raise BackendUnavailableError(
            f"CuPy cannot be imported: {error}", code="cupy-missing", hint=_INSTALL_HINT
        ) from error
    module: ModuleType = cupy
    return module


def _import_ndimage() -> ModuleType:
    from cupyx.scipy import ndimage

    module: ModuleType = ndimage
    return module


def _probe(cupy: ModuleType) -> None:
    """Compile, launch and read back: the only proof that a device works.

    CuPy's own kernels are tried too: they need the headers of CUDA, and where these are missing some releases of CuPy
    print an exception, go on, and give what happened to be in memory.
    """
    built, found = cupy.cuda.runtime.runtimeGetVersion(), cupy.cuda.runtime.driverGetVersion()
    if found // 1000 < built // 1000:
        raise BackendUnavailableError(
            f"the NVIDIA driver supports CUDA {_version(found)}, this CuPy is made for CUDA {_version(built)}",
            code="driver-too-old",
            hint=_INSTALL_HINT,
        )
    try:
        answer = cupy.zeros(1, cupy.int32)
        cupy.RawKernel(_PROBE, "probe")((1,), (1,), (answer,))
        result = int((answer + 1).max())
    except Exception as error:  # CuPy has no common base for what NVRTC, the runtime and the driver raise
        does_not_compile = isinstance(error, cupy.cuda.compiler.CompileException)
        raise BackendUnavailableError(
            f"a test kernel failed: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}",
            code="probe-failed",
            hint=_HEADERS_HINT if does_not_compile else "look at nvidia-smi, or use --backend cpu",
        ) from error
    if result != 43:
        raise BackendUnavailableError(
            "a test kernel gave a wrong result", code="probe-failed", hint="use --backend cpu"
        )


def kernel_source(path: Path) -> str:
    """Return a kernel file with its headers pasted in; CuPy's cache key covers the text, not included files."""

    def paste(match: re.Match[str]) -> str:
        return kernel_source(path.with_name(match[1]))

    text = path.read_text(encoding="utf-8").replace("#pragma once", "")
    return re.sub(r'^#include "(.+)"$', paste, text, flags=re.MULTILINE)


class CudaBackend:
    """Runs kernels on the current CUDA device on CuPy arrays: one slot of the device.

    A slot has a stream that waits for no other, and pinned memory for each direction. Several slots in threads of one
    process share the device, so that one uploads or downloads while another one computes.

    Parameters
    ----------
    workers : int, optional
        Threads of `host`; all usable cores by default.
    slots : int
        How many slots share the device's memory.
    reason : str
        Why this backend was taken.

    Raises
    ------
    BackendUnavailableError
        ``no-driver``, ``driver-too-old``, ``no-device``, ``cupy-missing`` or ``probe-failed``.
    KernelError
        ``host-library-missing``.
    """

    name: BackendName = "cuda"
    has_kernels = True
    lanes = LANES
    row_threads = ROW_THREADS

    def __init__(self, workers: int | None = None, *, slots: int = 1, reason: str = ASKED_FOR) -> None:
        check_driver()
        cupy = _import_cupy()
        _probe(cupy)
        self.xp = cupy
        self.reason = reason
        self.device = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)["name"].decode()
        self.host: Backend = CpuBackend(workers, reason="what is on the host stays there")
        self._pool = cupy.get_default_memory_pool()
        if self._pool.get_limit() == 0:
            self._pool.set_limit(fraction=POOL_SHARE)
        self.memory_bytes: int | None = self._pool.get_limit() // slots
        self._stream = cupy.cuda.Stream(non_blocking=True)
        self._to_device, self._to_host = PinnedRing(cupy, BUFFER_BYTES), PinnedRing(cupy, BUFFER_BYTES)
        self._pinned = PinnedArrays(cupy)
        self._modules: dict[str, Any] = {}
        self._functions: dict[str, Any] = {}

    @property
    def ndimage(self) -> ModuleType | None:
        """``cupyx.scipy.ndimage``, imported when it is needed."""
        return _import_ndimage()

    @contextmanager
    def activate(self) -> Iterator[None]:
        """Make this slot's stream the one of this thread; see `Backend.activate`.

        Raises
        ------
        DeviceMemoryError
            ``device-memory``.
        DeviceLostError
            ``device-lost``.
        """
        try:
            with self._stream:
                yield
        except (
            self.xp.cuda.memory.OutOfMemoryError,
            self.xp.cuda.runtime.CUDARuntimeError,  # from page-locked memory
            self.xp.cuda.driver.CUDADriverError,  # from kernels
        ) as error:
            status = getattr(error, "status", OUT_OF_MEMORY)
            if status in _DEVICE_LOST:
                raise DeviceLostError(f"the device failed: {error}", code="device-lost") from error
            if status != OUT_OF_MEMORY:
                raise
            raise DeviceMemoryError(
                f"the device has too little memory: {error}", code="device-memory", hint="use --backend cpu"
            ) from error

    def free_memory(self) -> None:
        """Give the blocks of CuPy's pool that are not in use back to the device."""
        gc.collect()  # since Python 3.13 frames of an error that is gone may hold arrays until then
        self._pool.free_all_blocks()

    def launch(self, kernel: str, grid: Dims, block: Dims, args: Sequence[Any]) -> None:
        """Start a kernel on the current stream; see `Backend.launch`.

        Raises
        ------
        KernelError
            ``unknown-kernel``, ``bad-argument``; ``kernel-failed``: it does not compile or start.
        """
        check_arguments(kernel, args, self.xp.ndarray)
        try:
            self._function(kernel)(three(grid), three(block), tuple(args))
        except (self.xp.cuda.compiler.CompileException, self.xp.cuda.driver.CUDADriverError) as error:
            if getattr(error, "status", None) in {OUT_OF_MEMORY, *_DEVICE_LOST}:
                raise  # to `activate`
            raise KernelError(f"{kernel}: {error}", code="kernel-failed") from error

    def _function(self, kernel: str) -> Any:
        if kernel not in self._functions:
            file = kernel_file(kernel)
            if file not in self._modules:
                source = kernel_source(hostlib.KERNEL_DIR / file)
                self._modules[file] = self.xp.RawModule(code=source, options=NVRTC_OPTIONS)
            self._functions[kernel] = self._modules[file].get_function(kernel)
        return self._functions[kernel]

    def host_array(self, shape: Sequence[int], dtype: DTypeLike) -> NDArray[Any]:
        """Return an uninitialised NumPy array, pinned unless it is large; see `Backend.host_array`."""
        return self._pinned.make(shape, np.dtype(dtype))

    def upload(self, array: Any) -> Any:
        """Return a copy of a NumPy array on the device, from pinned memory, on the current stream."""
        array = np.ascontiguousarray(array)
        result = self.xp.empty(array.shape, array.dtype)
        stream = self.xp.cuda.get_current_stream()
        if array.nbytes <= PAGEABLE_BYTES:
            if array.size:
                result.set(array, stream)
        elif self._pinned.holds(array):
            self._pinned.upload(array, result, stream)
        else:
            upload_by(self._to_device, array, result, stream)
        return result

    def download(self, array: Any) -> Any:
        """Return a copy of an array of the device as a NumPy array, through or in pinned memory."""
        array = self.xp.ascontiguousarray(array)
        stream = self.xp.cuda.get_current_stream()
        if array.nbytes <= PAGEABLE_BYTES:
            return array.get(stream)
        result = self.host_array(array.shape, array.dtype)
        if self._pinned.holds(result):
            array.get(stream, out=result)
        else:
            download_by(self._to_host, array, result, stream)
        return result

    def synchronize(self) -> None:
        """Wait for all work on the current stream."""
        self.xp.cuda.get_current_stream().synchronize()
