"""Resampling and windowing in one pass against the two passes."""

from __future__ import annotations

import fake_cuda
import numpy as np
import pytest

from gpuprep.backends.cpu import CpuBackend
from gpuprep.backends.cuda import CudaBackend
from gpuprep.backends.reference import ReferenceBackend
from gpuprep.dicom.synth import axial_geometry
from gpuprep.ops.intensity import Window, apply_window
from gpuprep.ops.resample import resample_and_window, resample_volume
from gpuprep.volume import Volume

SOURCE = axial_geometry((9, 12, 11), spacing_xyz_mm=(1.1, 0.9, 2.0), origin_lps_mm=(0, 0, 0))
#: Reaches beyond the source at one end of each axis.
TARGET = axial_geometry((13, 8, 15), spacing_xyz_mm=(0.9, 1.3, 1.7), origin_lps_mm=(-1, -2, -3))
FILL = 7
WINDOWS = {
    "clamp": Window(40.0, 400.0),
    "clamp at halves": Window(40.0, 401.0),
    "map": Window(40.0, 400.0, (0.0, 1.0)),
    "map to bytes": Window(40.0, 400.0, (0.0, 255.0), "uint8"),
}


def voxels(dtype):
    values = np.random.default_rng(3).integers(-2000, 2000, SOURCE.shape).astype(dtype)
    if dtype == "float32":
        values[2, 3, 4] = np.nan
    return values


@pytest.fixture(params=["row forms", "kernel text", "device"])
def backend(request, monkeypatch):
    if request.param == "device":
        fake_cuda.install(monkeypatch)
        return CudaBackend(1)
    return CpuBackend(2, row_forms=request.param == "row forms")


@pytest.mark.parametrize("name", WINDOWS)
@pytest.mark.parametrize("dtype", ["int16", "int32", "float32"])
@pytest.mark.parametrize(
    ("interpolation", "antialias"), [("linear", False), ("cubic", False), ("lanczos", True), ("nearest", False)]
)
def test_one_pass_stores_what_two_do(monkeypatch, backend, dtype, name, interpolation, antialias):
    window, how = WINDOWS[name], {"interpolation": interpolation, "antialias": antialias, "fill": FILL}
    cpu = CpuBackend(1)
    two = apply_window(resample_volume(Volume(voxels(dtype), SOURCE), TARGET, backend=cpu, **how), window, cpu)
    launched, launch = [], backend.launch
    monkeypatch.setattr(backend, "launch", lambda kernel, *args: launched.append(kernel) or launch(kernel, *args))
    with backend.activate():
        volume = Volume(backend.upload(voxels(dtype)), SOURCE)
        one = resample_and_window(volume, TARGET, window, backend=backend, **how)
        array = backend.download(one.array)
    assert (array.dtype, one.steps) == (two.array.dtype, two.steps)
    np.testing.assert_array_equal(array, two.array)
    takes_it = interpolation != "nearest" and (dtype == "float32" or name != "clamp at halves")
    in_one_pass = launched[-1].startswith(("linear_clamp", "linear_window", "resample_clamp", "resample_window"))
    assert in_one_pass == takes_it


@pytest.mark.parametrize("name", WINDOWS)
def test_the_reference_takes_two_passes(name):
    how = {"interpolation": "linear", "antialias": False, "fill": FILL, "backend": ReferenceBackend()}
    volume = Volume(voxels("int16"), SOURCE)
    two = apply_window(resample_volume(volume, TARGET, **how), WINDOWS[name], ReferenceBackend())
    one = resample_and_window(volume, TARGET, WINDOWS[name], **how)
    assert one.array.tobytes() == two.array.tobytes()
    assert one.steps == two.steps


def test_by_hand(backend):
    grid = axial_geometry((1, 1, 3), spacing_xyz_mm=(1, 1, 1), origin_lps_mm=(0, 0, 0))
    halves = axial_geometry((1, 1, 6), spacing_xyz_mm=(0.5, 1, 1), origin_lps_mm=(0, 0, 0))
    with backend.activate():
        values = np.array([[[0, 100, 301]]], np.int16)
        result = resample_and_window(
            Volume(backend.upload(values), grid),
            halves,
            Window(150.0, 200.0, (0.0, 1.0)),
            interpolation="linear",
            antialias=False,
            fill=50,
            backend=backend,
        )
        found = backend.download(result.array)
    # 0, 50, 100, 200 (200.5 to even), 301, and the fill value: the upper end is outside; the window is 50 to 250
    np.testing.assert_allclose(found, [[[0, 0, 0.25, 0.75, 1, 0]]], atol=1e-6)
