"""Kernels against the copy rate: what is counted as moved, on the CPU and on a fake device."""

from __future__ import annotations

from itertools import pairwise

import fake_cuda
import pytest

from gpuprep.backends import select
from gpuprep.backends.signature import kernel_names
from gpuprep.run.roofline import REPETITIONS, WORKLOADS, CopyRates, measure_copies, measure_kernels

SHAPE = (6, 64, 70)
VOXELS = 6 * 64 * 70
#: 6 × 1.5 mm, 64 and 70 × 0.7 mm, in voxels of 1 mm.
RESAMPLED = 9 * 45 * 49
RATES = CopyRates(1e9)


def measure(backend):
    return {rate.work: rate for rate in measure_kernels(backend, RATES, SHAPE)}


def test_each_byte_counts_once():
    rates = measure(select("cpu"))
    assert list(rates) == [workload.name for workload in WORKLOADS]
    expected = {
        "modality values of uint16 words": (2 + 2) * VOXELS,
        "grey levels uint16 → uint8, by table": (2 + 1) * VOXELS,
        "window int16 → float32": (2 + 4) * VOXELS,
        "clamp int16": (2 + 2) * VOXELS,
        "resample int16 → 1 mm": 2 * VOXELS + 2 * RESAMPLED,
        "resample and window → 1 mm": 2 * VOXELS + 4 * RESAMPLED,
        "transpose int16": (2 + 2) * VOXELS,
        "pad int16": 2 * VOXELS + 2 * 14 * 96 * 102,
        "foreground box int16": 2 * VOXELS,
        "resize uint16 plane to a quarter": 2 * 512 * 455 + 2 * 128 * 113,
    }
    assert {work: rates[work].bytes for work in expected} == expected
    codes = rates["codes → codes"]
    itemsize = {"palette_relabel_u8": 1, "palette_relabel_u16": 2}[codes.kernels[0]]
    assert codes.bytes == pytest.approx(2 * itemsize * VOXELS, rel=0.1)  # and tables
    for rate in rates.values():
        assert rate.share == pytest.approx(rate.bytes / rate.seconds / 1e9)
        assert set(rate.kernels) <= set(kernel_names())
        assert rate.kernels
    assert rates["contours → planes: scan"].kernels == ("roi_scan",)
    assert rates["resample and window → 1 mm"].kernels[-1] == "linear_window_i16_f32"


def test_a_device_is_measured_alike(monkeypatch):
    device = fake_cuda.install(monkeypatch)
    monkeypatch.setattr(device.cupy.cuda, "Event", lambda **timing: fake_cuda.Event(device))
    monkeypatch.setattr(device.cupy.cuda, "get_elapsed_time", lambda begin, end: 2.0, raising=False)  # ms
    order = []
    fill, launch = fake_cuda.DeviceArray.fill, fake_cuda._Kernel.__call__
    monkeypatch.setattr(
        fake_cuda.DeviceArray, "fill", lambda self, value: (order.append(self.nbytes), fill(self, value))
    )
    monkeypatch.setattr(
        fake_cuda._Kernel, "__call__", lambda self, *given: (order.append(self.name), launch(self, *given))
    )
    backend = select("cuda")
    with backend.activate():
        there = measure(backend)
    for before, kernel in pairwise(order):  # the device is busy while the host starts a kernel
        assert isinstance(kernel, int) or before == 2 * VOXELS
    here = measure(select("cpu"))
    for work in (w.name for w in WORKLOADS if not w.kernel):
        assert (there[work].bytes, there[work].kernels) == (here[work].bytes, here[work].kernels)
    assert there["window int16 → float32"].seconds == 2e-3


def test_copies_of_the_host_have_no_transfers():
    rates = measure_copies(select("cpu"), 1 << 20)
    assert rates.memory > 0
    assert (rates.upload, rates.download) == (None, None)


def test_copies_of_a_device_are_timed_by_its_events(monkeypatch):
    size = 1 << 16
    device = fake_cuda.install(monkeypatch)
    cuda = device.cupy.cuda
    monkeypatch.setattr(cuda, "Event", lambda **timing: fake_cuda.Event(device))
    monkeypatch.setattr(cuda, "get_elapsed_time", lambda begin, end: 1.0, raising=False)  # ms
    copied = []
    monkeypatch.setattr(device.cupy, "copyto", lambda target, source: copied.append(source.nbytes), raising=False)
    backend = select("cuda")
    with backend.activate():
        rates = measure_copies(backend, size)
    assert (rates.memory, rates.upload, rates.download) == (2 * size / 1e-3, size / 1e-3, size / 1e-3)
    assert set(copied) == {size}
    assert len(device.uploads(size)) == len(device.downloads(size)) == REPETITIONS
