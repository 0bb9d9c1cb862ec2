"""What several tests of backends need."""

from __future__ import annotations

import shutil
import sys

import ptx
import pytest


@pytest.fixture(scope="session")
def nvrtc():
    """NVRTC as CuPy has it; no GPU is needed to compile."""
    cupy = pytest.importorskip("cupy", reason="NVRTC is reached through CuPy", exc_type=ImportError)
    try:
        cupy.cuda.nvrtc.getVersion()
    except (RuntimeError, OSError) as error:
        pytest.skip(f"no NVRTC: {error}")
    return cupy.cuda.nvrtc


@pytest.fixture(scope="session")
def ptx_backend(nvrtc, tmp_path_factory):
    """Runs what NVRTC makes of the kernels."""
    if sys.platform != "linux" or shutil.which("g++") is None:
        pytest.skip("needs Linux and g++")
    return ptx.PtxBackend(nvrtc, tmp_path_factory.mktemp("ptx"))
