"""Kernels on a CUDA device: NVRTC compiles ``kernels/*.cu`` through CuPy."""

from __future__ import annotations

import ctypes
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from gpuprep import hostlib
from gpuprep.backends.base import ASKED_FOR, BackendName, Dims
from gpuprep.backends.signature import check_arguments, kernel_file, three
from gpuprep.errors import BackendUnavailableError, DeviceMemoryError, KernelError

#: How kernels are compiled. No contraction: both backends give the same bits.
NVRTC_OPTIONS = ("--std=c++17", "--fmad=false")
#: Elements a thread of a lane kernel handles. Source: ``LANES`` in kernels/gpuprep.cuh.
LANES = 8

_CUDA_ERROR_NO_DEVICE = 100  # CUresult, cuda.h
_OLDEST_DRIVER = 12000  # what cuDriverGetVersion returns for CUDA 12.0, the oldest that CuPy 13 and 14 support
_PROBE = 'extern "C" __global__ void probe(int* answer) { *answer = 42; }'
_INSTALL_HINT = "pip install 'gpuprep[cuda13]' (driver 580 or newer) or 'gpuprep[cuda12]'"


def check_driver() -> None:
    """Ask the driver itself whether there is a device; costs no import of CuPy.

    Raises
    ------
    BackendUnavailableError
        ``no-driver``, ``driver-too-old``, ``no-device`` or ``probe-failed``.
    """
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        raise BackendUnavailableError(
            "no NVIDIA driver: libcuda.so.1 cannot be loaded", code="no-driver", hint="use --backend cpu"
        ) from None
    version, devices = ctypes.c_int(), ctypes.c_int()
    driver.cuDriverGetVersion(ctypes.byref(version))
    if version.value < _OLDEST_DRIVER:
        raise BackendUnavailableError(
            f"the NVIDIA driver supports CUDA {_version(version.value)}, {_version(_OLDEST_DRIVER)} is needed",
            code="driver-too-old",
            hint="update the driver or use --backend cpu",
        )
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


def _probe(cupy: ModuleType) -> None:
    """Compile, launch and read back: the only proof that a device works."""
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
        result = int(answer[0])
    except Exception as error:  # CuPy has no common base for what NVRTC, the runtime and the driver raise
        raise BackendUnavailableError(
            f"a test kernel failed: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}",
            code="probe-failed",
        ) from error
    if result != 42:
        raise BackendUnavailableError("a test kernel gave a wrong result", code="probe-failed")


def kernel_source(path: Path) -> str:
    """Return a kernel file with its headers pasted in; CuPy's cache key covers the text, not included files."""

    def paste(match: re.Match[str]) -> str:
        return kernel_source(path.with_name(match[1]))

    text = path.read_text(encoding="utf-8").replace("#pragma once", "")
    return re.sub(r'^#include "(.+)"$', paste, text, flags=re.MULTILINE)


class CudaBackend:
    """Runs kernels on the current CUDA device on CuPy arrays.

    Parameters
    ----------
    reason : str
        Why this backend was taken.

    Raises
    ------
    BackendUnavailableError
        ``no-driver``, ``driver-too-old``, ``no-device``, ``cupy-missing`` or ``probe-failed``.
    """

    name: BackendName = "cuda"
    has_kernels = True
    lanes = LANES

    def __init__(self, *, reason: str = ASKED_FOR) -> None:
        check_driver()
        cupy = _import_cupy()
        _probe(cupy)
        self.xp = cupy
        self.reason = reason
        self.device = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)["name"].decode()
        self._modules: dict[str, Any] = {}

    def launch(self, kernel: str, grid: Dims, block: Dims, args: Sequence[Any]) -> None:
        """Start a kernel on the current stream; see `Backend.launch`.

        Raises
        ------
        KernelError
            ``unknown-kernel``, ``bad-argument``; ``kernel-failed``: it does not compile or start.
        """
        check_arguments(kernel, args, self.xp.ndarray)
        file = kernel_file(kernel)
        try:
            if file not in self._modules:
                source = kernel_source(hostlib.KERNEL_DIR / file)
                self._modules[file] = self.xp.RawModule(code=source, options=NVRTC_OPTIONS)
            self._modules[file].get_function(kernel)(three(grid), three(block), tuple(args))
        except (self.xp.cuda.compiler.CompileException, self.xp.cuda.driver.CUDADriverError) as error:
            raise KernelError(f"{kernel}: {error}", code="kernel-failed") from error

    def upload(self, array: Any) -> Any:
        """Return a copy of a NumPy array on the device.

        Raises
        ------
        DeviceMemoryError
            ``device-memory``.
        """
        try:
            return self.xp.asarray(array)
        except self.xp.cuda.memory.OutOfMemoryError as error:
            raise DeviceMemoryError(
                f"no room on the device for {array.nbytes} bytes", code="device-memory", hint="use --backend cpu"
            ) from error

    def download(self, array: Any) -> Any:
        """Return a copy of an array of the device as a NumPy array."""
        return self.xp.asnumpy(array)

    def synchronize(self) -> None:
        """Wait for all work on the current stream."""
        self.xp.cuda.get_current_stream().synchronize()
