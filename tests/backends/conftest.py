"""What several tests of backends need."""

from __future__ import annotations

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
