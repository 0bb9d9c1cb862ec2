"""Kernel parameters: what a launch is given is held against what the kernel takes.

The host library knows the parameters of every kernel; both backends ask it, so that a wrong dtype is refused on a
machine without a GPU too, instead of being read as other bytes.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from gpuprep import hostlib
from gpuprep.errors import KernelError


@cache
def kernel_parameters(kernel: str) -> tuple[tuple[bool, np.dtype[Any] | None], ...]:
    """Return (is a pointer, dtype) of each parameter of a kernel; None as dtype for pointers to structs.

    Raises
    ------
    KernelError
        ``unknown-kernel`` or ``host-library-missing``.
    """
    found = re.findall(r"(P?)(\w)", _ask("gp_kernel_signature", kernel))
    return tuple((bool(pointer), None if code == "x" else np.dtype(code)) for pointer, code in found)


def kernel_names() -> list[str]:
    """Return the names of all kernels, sorted.

    Raises
    ------
    KernelError
        ``host-library-missing``.
    """
    library, _ = hostlib.load()
    library.gp_kernel_name.restype = ctypes.c_char_p
    library.gp_kernel_name.argtypes = [ctypes.c_uint]
    names: list[str] = []
    while (name := library.gp_kernel_name(len(names))) is not None:
        names.append(name.decode())
    return sorted(names)


def kernel_file(kernel: str) -> str:
    """Return the name of the ``.cu`` file that holds a kernel.

    Raises
    ------
    KernelError
        ``unknown-kernel`` or ``host-library-missing``.
    """
    return _ask("gp_kernel_file", kernel)


def _ask(function: str, kernel: str) -> str:
    """Return what a function of the host library says of a kernel."""
    ask = getattr(hostlib.load()[0], function)
    ask.restype, ask.argtypes = ctypes.c_char_p, [ctypes.c_char_p]
    said: bytes | None = ask(kernel.encode())
    if said is None:
        raise KernelError(f"there is no kernel named {kernel!r}", code="unknown-kernel")
    return said.decode()


def check_arguments(kernel: str, args: Sequence[Any], array_type: type) -> None:
    """Refuse arguments that are not what the kernel takes.

    Parameters
    ----------
    kernel : str
        Its name.
    args : sequence
        Arrays of `array_type`, C contiguous, for pointers; NumPy scalars of the exact type for the rest.
    array_type : type
        ``numpy.ndarray`` or ``cupy.ndarray``.

    Raises
    ------
    KernelError
        ``unknown-kernel``; ``bad-argument``: wrong number, type, dtype or memory layout.
    """
    parameters = kernel_parameters(kernel)
    if len(args) != len(parameters):
        raise KernelError(f"{kernel} takes {len(parameters)} arguments, got {len(args)}", code="bad-argument")
    for position, (arg, (is_pointer, dtype)) in enumerate(zip(args, parameters, strict=True)):
        wanted_type: Any = array_type if is_pointer else np.generic
        if not isinstance(arg, wanted_type):
            problem = type(arg).__name__
        elif dtype is not None and arg.dtype != dtype:
            problem = f"{arg.dtype}"
        elif is_pointer and not arg.flags.c_contiguous:
            problem = "an array that is not C contiguous"
        else:
            continue
        wanted = f"{'array' if is_pointer else 'scalar'} of {'records' if dtype is None else dtype}"
        raise KernelError(f"{kernel}, argument {position}: expected {wanted}, got {problem}", code="bad-argument")


def three(dims: Sequence[int]) -> tuple[int, int, int]:
    """Return grid or block dimensions filled up with ones.

    Raises
    ------
    KernelError
        ``bad-argument``: not one to three positive numbers below 2³¹.
    """
    if not 1 <= len(dims) <= 3 or not all(0 < d < 2**31 for d in dims):
        raise KernelError(f"grid or block dimensions {tuple(dims)}", code="bad-argument")
    x, y, z = (*(int(d) for d in dims), 1, 1)[:3]
    return x, y, z
