"""Run tests against the host library in a folder, and print the kernels that no test launched.

Usage: sanitized.py LIBRARY_FOLDER [PYTEST_ARGUMENT...]; without arguments for pytest, launches past an array's end.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from gpuprep import hostlib
from gpuprep.backends.cpu import CpuBackend
from gpuprep.backends.signature import kernel_names

hostlib.KERNEL_DIR = Path(sys.argv[1])
launched = set()
launch = CpuBackend.launch


def launch_and_remember(self, kernel, *arguments):
    launched.add(kernel)
    return launch(self, kernel, *arguments)


if sys.argv[2:]:
    CpuBackend.launch = launch_and_remember
    status = pytest.main(sys.argv[2:])
    print("never launched:", *sorted(set(kernel_names()) - launched))
    sys.exit(status)

array = np.zeros(4096, np.int16)
too_many = np.int64(array.size + 1)
CpuBackend(1).launch("clamp_i16", (1,), (1024,), (array, array, too_many, np.int16(0), np.int16(1)))
