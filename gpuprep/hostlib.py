"""The host library: kernels compiled for the CPU, and small parsers, behind a plain C interface.

One library is built for each x86-64 level (v2, v3, v4), or one ``native`` elsewhere; the best that this processor
runs is loaded on first use. `GPUPREP_HOST_LEVEL` asks for another one, for tests.
"""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from gpuprep.errors import KernelError

#: What each level needs of /proc/cpuinfo, best first. Source: x86-64 psABI, micro-architecture levels.
X86_LEVELS = {
    "v4": {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"},
    "v3": {"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe"},
    "v2": {"cx16", "lahf_lm", "popcnt", "sse4_1", "sse4_2", "ssse3"},
}


def find_kernels(beside: Path, places: Iterable[str]) -> Path:
    """Return the folder of the kernels: in the package's tree where they were built there, else where it was installed.

    Parameters
    ----------
    beside : Path
        A module of the package.
    places : iterable of str
        Its ``__path__``: of an editable install both the tree and the folder that holds what was built.
    """
    own = beside.with_name("_kernels")
    return next((folder for folder in (own, *(Path(p, own.name) for p in places)) if folder.is_dir()), own)


KERNEL_DIR = find_kernels(Path(__file__), sys.modules[__package__].__path__)


def usable_levels() -> list[str]:
    """Return the library levels that this processor runs, best first."""
    if platform.machine() not in {"x86_64", "AMD64"} or not Path("/proc/cpuinfo").exists():
        return ["native"]
    text = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    flags = set(next((line for line in text.splitlines() if line.startswith("flags")), "").split())
    levels = [
        level for i, level in enumerate(X86_LEVELS) if all(needs <= flags for needs in list(X86_LEVELS.values())[i:])
    ]
    return [*levels, "native"]


@lru_cache(maxsize=1)
def load() -> tuple[ctypes.CDLL, str]:
    """Load the host library; return it with its level.

    Raises
    ------
    KernelError
        ``host-library-missing``: no library was built for this processor.
    """
    asked = os.environ.get("GPUPREP_HOST_LEVEL")
    for level in [asked] if asked else usable_levels():
        path = KERNEL_DIR / f"libgpuprep_host_{level}.so"
        if path.exists():
            return ctypes.CDLL(str(path)), level
    raise KernelError(
        f"no host library for this processor in {KERNEL_DIR}",
        code="host-library-missing",
        hint="reinstall gpuprep with a C++ compiler at hand, or run `make native` in a checkout",
    )


def usable_cores() -> int:
    """Return how many cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
