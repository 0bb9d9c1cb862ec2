"""Every kernel file compiles for every GPU generation without spilling registers; no GPU needed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gpuprep.backends.base import PACK_ALIGNMENT
from gpuprep.backends.cuda import LANES, NVRTC_OPTIONS, ROW_THREADS, kernel_source

KERNELS = Path(__file__).resolve().parents[2] / "kernels"
ARCHITECTURES = (75, 80, 86, 89, 90, 100, 120)
#: Registers a thread may use: 64 let a block of 1024 threads run on every generation (65536 a multiprocessor).
MOST_REGISTERS = 64
#: Bytes of machine code: loops unrolled without end are a minute's wait before the first case, and leave the caches.
MOST_CODE = 1 << 20


def compiled(nvrtc, source, architecture):
    program = nvrtc.createProgram(source, "kernel.cu", (), ())
    # -ftz=true is what CuPy adds on its own
    options = (*NVRTC_OPTIONS, "-ftz=true", f"--gpu-architecture=sm_{architecture}", "--ptxas-options=-v")
    try:
        nvrtc.compileProgram(program, options)
        return nvrtc.getCUBIN(program), nvrtc.getProgramLog(program)
    except nvrtc.NVRTCError:
        raise AssertionError(nvrtc.getProgramLog(program)) from None
    finally:
        nvrtc.destroyProgram(program)


def usage(log):
    found, name = {}, None
    for line in log.splitlines():
        if match := re.search(r"Compiling entry function '(\w+)'", line):
            name = match[1]
            found[name] = {}
        elif match := re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", line):
            found[name]["spills"] = int(match[1]) + int(match[2])
        elif match := re.search(r"Used (\d+) registers", line):
            found[name]["registers"] = int(match[1])
    return found


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("path", sorted(KERNELS.glob("*.cu")), ids=lambda path: path.stem)
def test_compiles(nvrtc, path, architecture):
    if architecture not in nvrtc.getSupportedArchs():
        pytest.skip(f"this NVRTC does not know sm_{architecture}")
    cubin, log = compiled(nvrtc, kernel_source(path), architecture)
    kernels = usage(log)
    assert cubin[:4] == b"\x7fELF"
    assert len(cubin) <= MOST_CODE
    assert kernels
    for name, used in kernels.items():
        assert used["spills"] == 0, name
        assert used["registers"] <= MOST_REGISTERS, (name, used)


def test_an_error_in_a_kernel_is_seen(nvrtc):
    with pytest.raises(AssertionError, match="undefined"):
        compiled(nvrtc, 'extern "C" __global__ void f(int* p) { *p = q; }', 80)


def test_numbers_and_alignment_are_those_that_python_counts_with(nvrtc):
    claims = f"static_assert(LANES == {LANES}); static_assert(ROW_THREADS == {ROW_THREADS});"
    claims += f"static_assert(alignof(Pack<f32>) == {PACK_ALIGNMENT});"
    compiled(nvrtc, kernel_source(KERNELS / "gpuprep.cuh") + claims, 80)
    with pytest.raises(AssertionError, match="static"):
        compiled(nvrtc, kernel_source(KERNELS / "gpuprep.cuh") + claims.replace("==", "!="), 80)
