"""What kernels do on a GPU alone, on the host: fewer elements a thread, other columns, accesses of 16 bytes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gpuprep import hostlib

REPOSITORY = Path(__file__).resolve().parents[2]
DRIVER = Path(__file__).with_name("sanitized.py")
TRIALS = ["tests/benchmarks/test_gpu_check.py", "-k", "trials_launch_every_kernel or branches_of_a_device"]
MISALIGNED = """
import sys
from pathlib import Path
import numpy as np
from gpuprep import hostlib
from gpuprep.backends.cpu import CpuBackend
hostlib.KERNEL_DIR = Path(sys.argv[1])
array = np.zeros(1025, np.int16)[int(sys.argv[2]):][:1024]
backend = CpuBackend(1)
assert backend.lanes == 8
backend.launch("clamp_i16", (1,), (128,), (array, array, np.int64(1024), np.int16(0), np.int16(1)))
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux" or shutil.which("g++") is None, reason="needs Linux and g++"),
    pytest.mark.skipif(shutil.which("cmake") is None, reason="needs CMake"),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("device form")
    level = hostlib.usable_levels()[0]
    options = [f"-DGPUPREP_LEVELS={level}", "-DGPUPREP_DEVICE_FORM=ON", "-DCMAKE_CXX_COMPILER=g++"]
    for command in (
        ["cmake", "-S", str(REPOSITORY / "kernels" / "host"), "-B", str(folder / "build"), *options],
        ["cmake", "--build", str(folder / "build"), "-j", str(min(2, hostlib.usable_cores()))],
        ["cmake", "--install", str(folder / "build"), "--prefix", str(folder)],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    def run_python(*arguments, then=()):
        command = [sys.executable, *map(str, arguments), str(folder / "gpuprep" / "_kernels"), *then]
        environment = os.environ | {"GPUPREP_HOST_LEVEL": level}
        return subprocess.run(
            command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False, timeout=120
        )

    return run_python


def test_trials_agree_with_the_reference(run):
    done = run(DRIVER, then=["-q", "-p", "no:cacheprovider", *TRIALS])
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-8000:]
    assert "2 passed" in done.stdout
    assert done.stdout.splitlines()[-1].strip() == "never launched:"


def test_accesses_beyond_the_alignment_that_is_promised_are_reported(run):
    assert run("-c", MISALIGNED, then=["0"]).returncode == 0
    done = run("-c", MISALIGNED, then=["1"])
    assert done.returncode != 0
    assert "misaligned address" in done.stderr
