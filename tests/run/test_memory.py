"""A device that has too little memory: less of a case goes there, and the voxels stay the same."""

from __future__ import annotations

import fake_cuda
import numpy as np
import pytest
from cases import assert_equal, make_options, plan_case, run_case, write_sources

from gpuprep.backends import select
from gpuprep.backends.cpu import CpuBackend
from gpuprep.config import Crop
from gpuprep.dicom.synth import axial_geometry
from gpuprep.errors import DeviceLostError, DeviceMemoryError, KernelError
from gpuprep.ops.resample import resample_in_slabs, resample_volume
from gpuprep.run import case
from gpuprep.run.memory import SLABS_TRIED, check_room, estimate_bytes
from gpuprep.volume import Volume

FINE = {"spacing_xyz_mm": (2.0, 2.0, 2.0)}
TURNED = FINE | {"orientation": "SPL", "window_level": 40.0, "window_width": 400.0, "crop": Crop("roi", 5.0)}


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    return write_sources(tmp_path_factory.mktemp("studies"))


@pytest.fixture
def device(monkeypatch):
    return fake_cuda.install(monkeypatch)


def only_warning(row):
    (warning,) = [w for w in row.details["warnings"] if "memory" in w]
    return warning


@pytest.mark.parametrize("slabs", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize("start_mm", [-50.0, -10.0, 3.0, 90.0])
@pytest.mark.parametrize(
    ("interpolation", "antialias"), [("linear", False), ("nearest", False), ("cubic", False), ("lanczos", True)]
)
def test_slabs_make_the_whole_bit_for_bit(slabs, start_mm, interpolation, antialias):
    source = axial_geometry((20, 9, 8), spacing_xyz_mm=(1.0, 1.1, 2.5), origin_lps_mm=(0, 0, 0))
    target = axial_geometry((11, 7, 9), spacing_xyz_mm=(1.3, 0.9, 4.1), origin_lps_mm=(1, 1, start_mm))
    flipped = target.reoriented((0, 1, 2), (True, False, True))
    backend = CpuBackend(1)
    values = np.random.default_rng(1).integers(-1000, 3000, source.shape).astype(np.int16)
    for array in (values, values.astype(np.float32)):
        for grid in (target, flipped):
            how = {"interpolation": interpolation, "antialias": antialias, "fill": -7, "backend": backend}
            whole = resample_volume(Volume(array, source), grid, **how)
            cut = resample_in_slabs(Volume(array, source), grid, slabs=slabs, **how)
            assert cut.array.tobytes() == whole.array.tobytes()
            assert cut.steps == whole.steps


def test_a_slab_takes_the_slices_it_needs_and_no_more(device):
    source = axial_geometry((40, 64, 64), spacing_xyz_mm=(1, 1, 1))
    target = source.with_spacing((0.5, 1.0, 1.0))
    volume = Volume(np.zeros(source.shape, np.int16), source)
    backend = select("cuda")
    with backend.activate():
        resample_in_slabs(volume, target, interpolation="linear", antialias=False, fill=0, slabs=4, backend=backend)
    page = 64 * 64 * 2
    assert sum(device.uploads(10_000)) <= (40 + 4 * 2) * page + 10_000
    assert device.peak_bytes < (12 + 20) * page + 20_000


@pytest.mark.parametrize("transforms", [FINE, TURNED], ids=["fine", "turned"])
@pytest.mark.parametrize(("share", "slabs"), [(1.0, 1), (0.5, 2), (0.1, None), (0.001, 0)])
def test_what_will_not_fit_is_cut_before_it_is_uploaded(monkeypatch, sources, transforms, share, slabs):
    plan = plan_case(sources)
    expected_row, expected = run_case(plan, make_options(**transforms), select("cpu", 1))
    whole = estimate_bytes((24, 64, 64), (60, 128, 128), 1, value_bytes=2, output_bytes=2, has_mask=True)
    device = fake_cuda.install(monkeypatch, memory_bytes=int(whole * share / 0.8) + 1)
    row, found = run_case(plan, make_options(**transforms), select("cuda"))
    assert_equal(found, expected)
    assert device.peak_bytes <= whole * share
    warned = [w for w in row.details["warnings"] if w not in expected_row.details["warnings"]]
    if slabs == 1:
        assert not warned
        assert device.peak_bytes > whole / 10  # the estimate is an upper bound, and not an absurd one
    else:
        assert warned == [only_warning(row)]
        assert ("the CPU did it" if slabs == 0 else f"in {slabs or ''}") in warned[0]
    assert row.backend.startswith("cpu" if slabs == 0 else "cuda")


def test_whichever_allocation_fails_the_case_is_done(sources, device):
    plan, transforms = plan_case(sources), make_options(**TURNED)
    _, expected = run_case(plan, transforms, select("cpu", 1))
    backend = select("cuda")
    before = device.allocations
    run_case(plan, transforms, backend)
    count = device.allocations - before
    assert count > 30
    for failing in range(1, count + 1, 3):
        start = device.allocations
        device.fails = lambda number, nbytes, at=start + failing: number == at
        row, found = run_case(plan, transforms, backend)
        assert_equal(found, expected)
        assert "in 2 slabs (the device has too little memory" in only_warning(row)
    assert device.live_bytes == 0


def test_memory_is_free_before_the_next_try(sources, device):
    device.fails = lambda number, nbytes: nbytes > 300_000
    row, _ = run_case(plan_case(sources), make_options(**FINE), select("cuda"))
    freed = device.live_bytes_when_freed
    assert freed
    assert set(freed) == {0}
    assert f"in {SLABS_TRIED[len(freed)]} slabs" in only_warning(row)


def test_a_device_without_any_memory_leaves_the_case_to_the_cpu(sources, device):
    _, expected = run_case(plan_case(sources), make_options(**FINE), select("cpu", 1))
    backend = select("cuda")
    device.fails = lambda number, nbytes: True
    row, found = run_case(plan_case(sources), make_options(**FINE), backend)
    assert_equal(found, expected)
    assert "the CPU did it" in only_warning(row)
    assert row.backend.startswith("cpu")
    assert not device.launched - {"probe"}


@pytest.mark.parametrize("what", ["page-locked memory", "room for a kernel"])
def test_what_cuda_itself_has_no_memory_for_is_a_shortage_too(sources, device, what):
    _, expected = run_case(plan_case(sources), make_options(**FINE), select("cpu", 1))
    backend = select("cuda")
    if what == "page-locked memory":
        device.has_pinned_memory = False
    else:
        device.fails_to_start = lambda kernel: fake_cuda.OUT_OF_MEMORY
    row, found = run_case(plan_case(sources), make_options(**FINE), backend)
    assert_equal(found, expected)
    assert "(the device has too little memory: CUDA error 2)" in only_warning(row)


def test_other_errors_of_cuda_are_no_shortage(sources, device):
    backend = select("cuda")
    device.fails_to_start = lambda kernel: 701  # CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES
    with pytest.raises(KernelError) as error:
        run_case(plan_case(sources), make_options(**FINE), backend)
    assert error.value.code == "kernel-failed"
    with pytest.raises(fake_cuda.CudaRuntimeError), backend.activate():
        raise fake_cuda.CudaRuntimeError(1)  # cudaErrorInvalidValue


def test_a_device_that_fails_is_no_fault_of_the_case(sources, device):
    backend = select("cuda")
    device.fails_to_start = lambda kernel: 719  # CUDA_ERROR_LAUNCH_FAILED
    with pytest.raises(DeviceLostError) as error:
        run_case(plan_case(sources), make_options(**FINE), backend)
    assert error.value.code == "device-lost"
    for status in (214, 226, 700, 810):  # cudaErrorECCUncorrectable, -Contained, -IllegalAddress, -MpsClientTerminated
        with pytest.raises(DeviceLostError), backend.activate():
            raise fake_cuda.CudaRuntimeError(status)


def test_an_oblique_grid_has_no_slabs_and_is_left_to_the_host(monkeypatch, sources, device):
    plan, transforms = plan_case(sources, "TILTED"), make_options(**FINE, is_axis_aligned=True)
    _, expected = run_case(plan, transforms, select("cpu", 1))
    monkeypatch.setattr(case, "SLABS_TRIED", (2, 0))
    _, found = run_case(plan, transforms, select("cuda"))
    assert_equal(found, expected)
    assert not any(name.startswith("affine") for name in device.launched)


def test_refuses_more_than_there_is():
    with pytest.raises(DeviceMemoryError) as error:
        check_room(2 * 10**9, 10**9)
    assert error.value.code == "device-memory"
    assert "2.00 GB of the device may be needed, a case has 1.00 GB" in error.value.message


def test_the_estimate_of_a_ct_resampled_to_1_mm():
    shapes = (300, 512, 512), (450, 358, 358)
    ct = {"value_bytes": 2, "output_bytes": 4, "has_mask": False}
    assert estimate_bytes(*shapes, 1, **ct) == 2 * 300 * 512 * 512 + (2 + 4) * 450 * 358 * 358
    pet = {"value_bytes": 4, "output_bytes": 4, "has_mask": True}
    masks = 4 * 450 * 358 * 358 + 450 * 358 * 358
    assert estimate_bytes(*shapes, 1, **pet) == (2 + 4) * 300 * 512 * 512 + (4 + 4) * 450 * 358 * 358 + masks
    assert estimate_bytes(*shapes, 3, **ct) == 2 * (100 + 8) * 512 * 512 + 2 * 150 * 358 * 358
    assert estimate_bytes(*shapes, 0, **ct) == 0
