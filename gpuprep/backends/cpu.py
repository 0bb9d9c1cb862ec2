"""Kernels on the CPU: the host library runs the very text that a GPU runs."""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Sequence
from typing import Any

import numpy as np

from gpuprep import hostlib
from gpuprep.backends.base import ASKED_FOR, BackendName, Dims, OnHost
from gpuprep.backends.signature import check_arguments, three
from gpuprep.errors import KernelError

#: What gp_launch returns other than 0. Source: ``enum Status`` in kernels/host/module.cpp.
_FAILURES = {
    1: ("unknown-kernel", "there is no such kernel"),
    2: ("bad-argument", "grid or block beyond CUDA's limits"),
    3: ("bad-argument", "the row form takes other parameters than the kernel"),
    4: ("kernel-failed", "a C++ exception ended the launch"),
}


class CpuBackend(OnHost):
    """Runs kernels in the host library on NumPy arrays.

    Parameters
    ----------
    workers : int, optional
        Threads a launch may use, this one included; by default all cores this process may run on.
    row_forms : bool
        Whether kernels that have a faster host-only form run as that. Results are the same; tests compare them.
    reason : str
        Why this backend was taken.

    Raises
    ------
    KernelError
        ``host-library-missing``.
    """

    name: BackendName = "cpu"
    has_kernels = True

    def __init__(self, workers: int | None = None, *, row_forms: bool = True, reason: str = ASKED_FOR) -> None:
        library, level = hostlib.load()
        self._launch = library.gp_launch
        self._launch.restype = ctypes.c_int
        self._launch.argtypes = [ctypes.c_char_p, *[ctypes.c_void_p] * 3, ctypes.c_uint, ctypes.c_int]
        self._row_forms = row_forms
        self.lanes: int = library.gp_lanes()
        self.reason = reason
        self.workers = workers or hostlib.usable_cores()
        self.device = f"{platform.machine()} {level}, {self.workers} threads"

    def launch(self, kernel: str, grid: Dims, block: Dims, args: Sequence[Any]) -> None:
        """Run a kernel and wait for it; see `Backend.launch`.

        Raises
        ------
        KernelError
            ``unknown-kernel``, ``bad-argument``; ``kernel-failed``: out of memory in a row form.
        """
        check_arguments(kernel, args, np.ndarray)
        held: list[Any] = []
        for position, arg in enumerate(args):
            if not isinstance(arg, np.ndarray):
                held.append(ctypes.create_string_buffer(arg.tobytes(), arg.nbytes))
            elif arg.flags.aligned:
                held.append(ctypes.c_void_p(arg.ctypes.data))
            else:
                raise KernelError(f"{kernel}, argument {position}: array is not aligned", code="bad-argument")
        addresses = (ctypes.c_void_p * len(held))(*map(ctypes.addressof, held))
        dims = [(ctypes.c_uint * 3)(*three(d)) for d in (grid, block)]
        status = self._launch(kernel.encode(), *dims, addresses, self.workers, self._row_forms)
        if status != 0:
            code, why = _FAILURES[status]
            raise KernelError(f"{kernel} over {tuple(grid)} × {tuple(block)}: {why}", code=code)
