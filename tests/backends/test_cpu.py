"""The executor and the checks of a launch."""

from __future__ import annotations

import os
import threading

import numpy as np
import pytest

from gpuprep.backends.base import lane_dims
from gpuprep.backends.cpu import CpuBackend
from gpuprep.errors import KernelError

LOW, HIGH = np.int16(-500), np.int16(500)


@pytest.fixture(scope="module")
def backend():
    return CpuBackend(workers=4)


def clamp(backend, source):
    result = np.empty_like(source)
    grid, block = lane_dims(source.size, backend)
    backend.launch("clamp_i16", grid, block, (source, result, np.int64(source.size), LOW, HIGH))
    return result


@pytest.fixture
def source():
    return np.random.default_rng(1).integers(-1000, 1000, 1_000_003).astype(np.int16)


def test_result_does_not_depend_on_workers(source):
    expected = np.clip(source, LOW, HIGH)
    for workers in (1, 2, 7):
        np.testing.assert_array_equal(clamp(CpuBackend(workers), source), expected)


def test_threads_share_the_pool(backend, source):
    results, expected = [], np.clip(source, LOW, HIGH)

    def work():
        results.extend(np.array_equal(clamp(backend, source), expected) for _ in range(10))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 40
    if os.path.isdir("/proc/self/task"):  # noqa: PTH112
        before = len(os.listdir("/proc/self/task"))  # noqa: PTH208
        clamp(backend, source)
        assert len(os.listdir("/proc/self/task")) <= before  # noqa: PTH208


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_has_threads_of_its_own(backend, source):
    clamp(backend, source)
    child = os.fork()
    if child == 0:
        same = np.array_equal(clamp(backend, source), np.clip(source, LOW, HIGH))
        os._exit(0 if same else 1)
    assert os.waitpid(child, 0)[1] == 0


ARRAY = np.zeros(64, np.int16)


@pytest.mark.parametrize(
    "args",
    [
        (ARRAY, ARRAY, np.int64(64), LOW),
        (ARRAY, ARRAY, np.int64(64), LOW, HIGH, HIGH),
        (ARRAY, ARRAY, np.int32(64), LOW, HIGH),
        (ARRAY, ARRAY, 64, LOW, HIGH),
        (ARRAY, ARRAY.astype(np.uint16), np.int64(64), LOW, HIGH),
        (ARRAY, np.zeros((8, 16), np.int16)[:, ::2], np.int64(64), LOW, HIGH),
        (ARRAY, np.zeros(129, np.uint8)[1:].view(np.int16), np.int64(64), LOW, HIGH),
        (ARRAY, None, np.int64(64), LOW, HIGH),
    ],
    ids=["too few", "too many", "scalar type", "no NumPy scalar", "dtype", "strided", "unaligned", "no array"],
)
def test_refuses_wrong_arguments(backend, args):
    with pytest.raises(KernelError) as error:
        backend.launch("clamp_i16", (1,), (1,), args)
    assert error.value.code == "bad-argument"


@pytest.mark.parametrize(
    ("grid", "block"),
    [
        ((0,), (1,)),
        ((1,), (2048,)),
        ((1, 65536), (1,)),
        ((1,), (1, 1, 65)),
        ((1, 1, 1, 1), (1,)),
        ((), (1,)),
        ((-1,), (1,)),
    ],
)
def test_refuses_what_cuda_refuses(backend, grid, block):
    with pytest.raises(KernelError) as error:
        backend.launch("clamp_i16", grid, block, (ARRAY, ARRAY, np.int64(64), LOW, HIGH))
    assert error.value.code == "bad-argument"


def test_refuses_an_unknown_kernel(backend):
    with pytest.raises(KernelError) as error:
        backend.launch("clamp_i17", (1,), (1,), ())
    assert error.value.code == "unknown-kernel"
