"""What NVRTC makes of the kernels gives the bits of the host build; no GPU needed."""

from __future__ import annotations

import runpy
from contextlib import nullcontext
from pathlib import Path

import fake_cuda
import numpy as np
import ptx
import pytest

from gpuprep.backends import select
from gpuprep.backends.signature import kernel_names

TRIALS = Path(__file__).resolve().parents[2] / "benchmarks" / "kernel_trials.py"
#: Less and more than a block covers, and no multiple of what a thread takes at once; more slices than a thread makes.
SHAPES = [(2, 9, 70), (2, 5, 2117), (17, 5, 9)]

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ptx_backend")]  # all need what it needs


@pytest.fixture(scope="module")
def trials():
    return runpy.run_path(str(TRIALS))


@pytest.mark.parametrize("shape", SHAPES)
def test_every_kernel_gives_the_bits_of_the_host_build(ptx_backend, trials, shape):
    cpu = select("cpu")
    outcomes = [
        trials["compare"](trial, ptx_backend, cpu, shape, (7, number))
        for number, trial in enumerate(trials["list_trials"]())
    ]
    assert [outcome for outcome in outcomes if outcome.difference] == []
    assert sorted({kernel for outcome in outcomes for kernel in outcome.kernels}) == kernel_names()


def clamp(backend, array, count):
    backend.launch("clamp_i16", (1,), (128,), (array, array, np.int64(count), np.int16(0), np.int16(1)))


def test_an_access_beyond_an_array_is_told(ptx_backend):
    array = np.full(1024, 5, np.int16)
    clamp(ptx_backend, array, 1000)
    assert (array[:1000] == 1).all()
    assert (array[1000:] == 5).all()
    with pytest.raises(
        AssertionError, match=r"clamp_i16: an access of 2 bytes .* outside of all arrays: thread \(125, "
    ):
        clamp(ptx_backend, array[:1000], 1001)


def test_an_access_that_is_not_aligned_is_told(ptx_backend):
    with pytest.raises(AssertionError, match=r"an access of 16 bytes at .* is misaligned"):
        clamp(ptx_backend, np.zeros(1025, np.int16)[1:], 1024)


RACES = {
    "stores": ("p[i / 2] = i;", True),
    "a store and a load": ("p[i] = p[i ^ 1];", True),
    "a load and a later store": ("q[i] = p[i ? i - 1 : 0]; p[i] = 1;", True),
    "a store and an atomic": ("if (i) atomicAdd(p, 1); else *p = 1;", True),
    "a load and an atomic": ("q[i] = *p; atomicAdd(p, 1);", True),
    "atomics": ("atomicAdd(p, 1); atomicMax(p, i);", False),
    "volatile loads and atomics": ("if (*(volatile int*)p == 0) atomicOr(p, 1);", False),
    "loads": ("q[i] = *p;", False),
    "a byte each": ("((char*)p)[i] = ((char*)p)[i] + 1;", False),
}


@pytest.mark.parametrize(("body", "races"), RACES.values(), ids=RACES)
def test_threads_that_race_are_told(nvrtc, tmp_path, body, races):
    text = f'extern "C" __global__ void f(int* p, int* q) {{ const int i = threadIdx.x; {body} }}'
    library = ptx.build(ptx.compile_to_ptx(nvrtc, text), tmp_path / "f.so")
    arrays = np.zeros(8, np.int32), np.zeros(8, np.int32)
    told = pytest.raises(AssertionError, match=r"f: an access of 4 bytes at .* is a race with another thread")
    with told if races else nullcontext():
        ptx.launch(library, "f", (1,), (8,), arrays)


ANSWERS = """
extern "C" __global__ void answers(const float* x, const double* y, const int* n, float* f, int* i, long long* w) {
    f[0] = x[0] * 0.5f;
    f[1] = x[1] + 0.0f;
    f[2] = fminf(x[2], 1.0f);
    f[3] = fmaxf(-0.0f, x[3]);
    f[4] = fmaf(x[4], x[4], -1.00048828125f);
    f[5] = x[4] * x[4] - 1.00048828125f;
    f[6] = x[5] - x[5];
    i[0] = __float2int_rn(x[2]);
    i[1] = __float2int_rn(3e9f * x[6]);
    i[2] = __float2int_rn(-3e9f * x[6]);
    i[3] = __float2int_rn(2.5f * x[6]);
    i[4] = __float2int_rn(3.5f * x[6]);
    i[5] = (int)y[0];
    i[6] = n[0] / n[1];
    i[7] = n[0] % n[1];
    i[8] = n[0] >> n[2];
    i[9] = __byte_perm(n[3], n[4], n[5]);
    w[0] = (long long)n[6] * n[6];
    w[1] = (long long)(y[1] * 1e30);
}
"""


def test_instructions_do_what_the_isa_says(nvrtc, tmp_path):
    library = ptx.build(ptx.compile_to_ptx(nvrtc, ANSWERS), tmp_path / "answers.so")
    smallest = np.finfo(np.float32).smallest_normal
    x = np.array([smallest, smallest / 2, np.nan, 0, 1 + 2.0**-12, np.inf, 1], np.float32)
    y = np.array([np.nan, 1])
    n = np.array([-7, 2, 1, 0x33221100, 0x77665544, 0x7604, 100_000], np.int32)
    f, i, w = np.full(7, -1, np.float32), np.full(10, -1, np.int32), np.full(2, -1, np.int64)
    ptx.launch(library, "answers", (1,), (1,), (x, y, n, f, i, w))
    assert f[:6].view(np.uint32).tolist() == np.array([0, 0, 1, 0, 2.0**-24, 0], np.float32).view(np.uint32).tolist()
    assert f[6:].view(np.uint32).tolist() == [fake_cuda.CUDA_NAN]
    assert i.tolist() == [0, 2**31 - 1, -(2**31), 2, 4, -(2**31), -3, -1, -4, 0x77660044]
    assert w.tolist() == [10**10, 2**63 - 1]


def test_a_thread_has_memory_of_its_own(nvrtc, tmp_path):
    text = """
    extern "C" __global__ void f(const int* order, int* p) {
        int own[8];
        for (int i = 0; i < 8; ++i) own[order[i]] = 10 * threadIdx.x + i;
        p[threadIdx.x] = own[order[threadIdx.x + 8]];
    }"""
    library = ptx.build(ptx.compile_to_ptx(nvrtc, text), tmp_path / "f.so")
    order, found = np.array([3, 1, 0, 2, 7, 6, 5, 4, 0, 7, 3], np.int32), np.zeros(3, np.int32)
    ptx.launch(library, "f", (1,), (3,), (order, found))
    assert found.tolist() == [2, 14, 20]


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("*p = __expf(*p);", "ex2_approx"),
        ("__syncthreads(); *p = 1;", "bar_sync"),
        ("__shared__ float s[9]; s[(int)*p] = 1; *p = s[3];", "shared"),
    ],
)
def test_an_instruction_that_is_not_known_is_refused(nvrtc, tmp_path, body, told):
    text = ptx.compile_to_ptx(nvrtc, f'extern "C" __global__ void f(float* p) {{ {body} }}')
    with pytest.raises(ValueError, match=told):
        ptx.build(text, tmp_path / "f.so")
