"""No kernel of the main path has so much to do that an H100 could not run it at the rate of its memory; no GPU needed.

The work of their PTX is counted, and the time that each part of the chip needs for it at least is compared with that of
the memory. It is a bound: how fast a kernel is, only a device tells.
"""

from __future__ import annotations

import numpy as np
import ptx
import pytest

from gpuprep.run.roofline import WORKLOADS

#: An H100 SXM: multiprocessors, each with four schedulers and a cache that gives a line of 128 bytes a cycle. Source:
#: NVIDIA H100 Tensor Core GPU Architecture (whitepaper).
MULTIPROCESSORS, CLOCK_HZ, INSTRUCTIONS_A_CYCLE, LINES_A_CYCLE = 132, 1.755e9, 4, 1
#: What a copy within its memory was seen to move, read and written.
COPY_BYTES_PER_S = 3.0e12
SECTOR_BYTES = 32
#: Least share of the rate of a copy that kernels are to reach. Two do less: roi_measure has a contour a thread, and
#: takes little time; neighbouring outputs of resize_* read at a stride.
AIM, LESS = 0.70, {"roi_measure": 0.60, "resize_u16": 0.30}
#: Launches on less are not looked at.
FEWEST_SECTORS = 1000
SHAPE = (34, 48, 512)

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ptx_backend")]  # all need what it needs


def possible_share(work):
    """Return the share of a copy's rate that a launch could have, were nothing but the busiest resource in its way."""
    memory = work.sectors * SECTOR_BYTES / COPY_BYTES_PER_S
    cycles = max(work.instructions / INSTRUCTIONS_A_CYCLE, work.lines / LINES_A_CYCLE)
    return memory / max(memory, cycles / MULTIPROCESSORS / CLOCK_HZ)


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.name)
def test_memory_is_what_takes_time(ptx_backend, workload):
    _, run = workload.prepare(ptx_backend, SHAPE)
    ptx_backend.launches.clear()
    run(ptx_backend)
    launches = [(kernel, work) for kernel, work in ptx_backend.launches if work.sectors >= FEWEST_SECTORS]
    assert launches
    slow = {kernel: work for kernel, work in launches if possible_share(work) < LESS.get(kernel, AIM)}
    assert slow == {}


def on_a_line(count):
    array = np.zeros(count + 32, np.int32)
    first = -array.ctypes.data // array.itemsize % 32
    return array[first : first + count]


def work_of(nvrtc, folder, body, threads, *arrays):
    text = f'extern "C" __global__ void f(const int* n, int* p) {{ const int i = threadIdx.x; {body} }}'
    return ptx.launch(ptx.build(ptx.compile_to_ptx(nvrtc, text), folder / "f.so"), "f", (1,), (threads,), arrays)


@pytest.mark.parametrize(
    ("body", "lines", "sectors"),
    [
        ("p[i] = n[i];", 2 + 2, 8 + 8),
        ("p[i] = n[i + 1];", 4 + 2, 9 + 8),
        ("p[i] = n[32 * i];", 64 + 2, 64 + 8),
        ("p[i] = n[0];", 2 + 2, 1 + 8),
        ("if (i % 2) p[i] = n[i];", 2 + 2, 8 + 8),
        ("if (i < 8) p[i] = n[i];", 1 + 1, 1 + 1),
        ("((int4*)p)[i] = ((int4*)n)[i];", 8 + 8, 32 + 32),
    ],
)
def test_lines_and_sectors_of_two_warps(nvrtc, tmp_path, body, lines, sectors):
    work = work_of(nvrtc, tmp_path, body, 64, on_a_line(64 * 32), on_a_line(256))
    assert (work.lines, work.sectors) == (lines, sectors)


def test_a_warp_issues_what_its_busiest_thread_does(nvrtc, tmp_path):
    body = "int sum = 0; for (int k = n[i]; k > 0; --k) sum += *(volatile int*)p; if (sum) atomicOr(p, sum);"
    one, all_ = np.zeros(32, np.int32), np.full(32, 100, np.int32)
    one[5] = 100
    few, many = (work_of(nvrtc, tmp_path, body, 32, n, on_a_line(1)) for n in (one, all_))
    assert few.instructions == many.instructions >= 200
    assert work_of(nvrtc, tmp_path, body, 32, one * 0, on_a_line(1)).instructions < 20
