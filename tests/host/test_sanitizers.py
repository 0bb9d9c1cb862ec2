"""The host library under AddressSanitizer and UndefinedBehaviorSanitizer, in a process of its own."""

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
#: Tests that launch kernels or call other functions of the library. Every kernel must be launched by one of them.
TESTS = [
    "tests/ops",
    "tests/backends/test_cpu.py",
    "tests/codecs/test_native.py",
    "tests/codecs/test_damage.py",
    "tests/test_masks.py",
    "tests/writers/test_study.py",
]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux" or shutil.which("g++") is None, reason="needs Linux and g++"),
    pytest.mark.skipif(shutil.which("cmake") is None, reason="needs CMake"),
]


def preloads():
    """Return the sanitizers' runtime libraries, which have to come before Python itself."""
    found = [
        subprocess.run(["g++", f"-print-file-name={name}"], capture_output=True, text=True, check=True).stdout.strip()
        for name in ("libasan.so", "libubsan.so")
    ]
    if not all(Path(path).is_absolute() for path in found):
        pytest.skip("g++ has no sanitizers")
    return ":".join(found)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sanitized")
    level = hostlib.usable_levels()[0]
    build = folder / "build"
    options = [f"-DGPUPREP_LEVELS={level}", "-DGPUPREP_SANITIZE=ON", "-DCMAKE_CXX_COMPILER=g++"]
    for command in (
        ["cmake", "-S", str(REPOSITORY / "kernels" / "host"), "-B", str(build), *options],
        ["cmake", "--build", str(build), "-j", str(min(2, hostlib.usable_cores()))],
        ["cmake", "--install", str(build), "--prefix", str(folder)],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    environment = os.environ | {
        "LD_PRELOAD": preloads(),
        "ASAN_OPTIONS": "detect_leaks=0",  # Python does not free everything at exit
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "GPUPREP_HOST_LEVEL": level,
    }

    def run_driver(*arguments):
        command = [sys.executable, str(DRIVER), str(folder / "gpuprep" / "_kernels"), *arguments]
        return subprocess.run(
            command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False, timeout=280
        )

    return run_driver


def test_kernels_are_clean_and_all_are_launched(run):
    done = run("-q", "-p", "no:cacheprovider", "-m", "not slow", *TESTS)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-8000:]
    assert done.stdout.splitlines()[-1].strip() == "never launched:"


def test_a_launch_past_the_end_is_reported(run):
    done = run()
    assert done.returncode != 0
    assert "AddressSanitizer: heap-buffer-overflow" in done.stderr
