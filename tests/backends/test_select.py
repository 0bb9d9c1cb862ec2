"""Which backend is taken, and why not CUDA."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys

import fake_cuda
import numpy as np
import pytest

from gpuprep.backends import select
from gpuprep.errors import BackendUnavailableError, ConfigError, KernelError

#: A driver library of a few lines: what it reports is chosen by macros.
STUB_DRIVER = """
int cuInit(unsigned flags) { return INIT_STATUS; }
int cuDriverGetVersion(int* version) { *version = VERSION; return 0; }
int cuDeviceGetCount(int* count) { *count = DEVICES; return 0; }
"""

ASK = """
import sys
from gpuprep.backends import select
from gpuprep.errors import BackendUnavailableError
try:
    select("cuda")
except BackendUnavailableError as error:
    print(error.code)
print(select("auto").name, "cupy" in sys.modules)
print(select("auto").reason)
"""


def ask(library_path, *python_options):
    environment = os.environ | {"LD_LIBRARY_PATH": str(library_path)}
    command = [sys.executable, *python_options, "-c", ASK]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def has_driver():
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


@pytest.fixture
def stub_driver(tmp_path):
    compiler = shutil.which("gcc") or shutil.which("cc")
    if sys.platform != "linux" or compiler is None:
        pytest.skip("the stub driver needs Linux and a C compiler")

    def build(**macros):
        source = tmp_path / "stub.c"
        source.write_text(STUB_DRIVER)
        options = [f"-D{name}={value}" for name, value in macros.items()]
        subprocess.run(
            [compiler, "-shared", "-fPIC", *options, str(source), "-o", str(tmp_path / "libcuda.so.1")], check=True
        )
        return tmp_path

    return build


@pytest.mark.skipif(has_driver(), reason="there is a CUDA driver")
def test_without_a_driver_auto_takes_the_cpu_and_never_imports_cupy(tmp_path):
    code, choice, reason = ask(tmp_path)
    assert (code, choice) == ("no-driver", "cpu False")
    assert "no-driver" in reason


@pytest.mark.parametrize(
    ("macros", "code"),
    [
        ({"INIT_STATUS": 100, "VERSION": 13000, "DEVICES": 0}, "no-device"),
        ({"INIT_STATUS": 0, "VERSION": 12000, "DEVICES": 0}, "no-device"),
        ({"INIT_STATUS": 0, "VERSION": 11040, "DEVICES": 1}, "driver-too-old"),
        ({"INIT_STATUS": 999, "VERSION": 13000, "DEVICES": 0}, "probe-failed"),
    ],
)
def test_a_driver_that_cannot_work_is_named(stub_driver, macros, code):
    found, choice, reason = ask(stub_driver(**macros))
    assert (found, choice) == (code, "cpu False")
    assert code in reason


def test_a_device_without_cupy_is_named(stub_driver):
    folder = stub_driver(INIT_STATUS=0, VERSION=13000, DEVICES=1)
    script = (
        "import sys; sys.modules['cupy'] = None\n"
        "from gpuprep.backends import select\n"
        "from gpuprep.errors import BackendUnavailableError\n"
        "try:\n    select('cuda')\nexcept BackendUnavailableError as error:\n    print(error.code)"
    )
    environment = os.environ | {"LD_LIBRARY_PATH": str(folder)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "cupy-missing"


def test_a_stub_that_passes_the_first_checks_fails_the_probe(stub_driver):
    pytest.importorskip("cupy", reason="needs CuPy")
    found, choice, _ = ask(stub_driver(INIT_STATUS=0, VERSION=13000, DEVICES=1))
    assert found in {"probe-failed", "driver-too-old"}
    assert choice == "cpu True"


def raise_for_headers(array, other):
    raise fake_cuda.CompileError('carray.cuh(57): catastrophic error: cannot open source file "cuda_fp16.h"\n1 error')


def raise_for_a_bad_address(array):
    raise fake_cuda.CudaRuntimeError(700)


@pytest.mark.parametrize(
    ("method", "behaviour", "message", "hint"),
    [
        (
            "__add__",
            raise_for_headers,
            "CompileError: carray.cuh(57): catastrophic error: cannot open",
            "headers of CUDA",
        ),
        ("max", lambda array: 0x5A5A5A5A, "a test kernel gave a wrong result", "--backend cpu"),
        ("max", raise_for_a_bad_address, "CudaRuntimeError: CUDA error 700", "nvidia-smi"),
    ],
)
def test_a_cupy_whose_own_kernels_do_not_work_is_not_used(monkeypatch, method, behaviour, message, hint):
    fake_cuda.install(monkeypatch)
    select("cuda")
    monkeypatch.setattr(fake_cuda.DeviceArray, method, behaviour)
    with pytest.raises(BackendUnavailableError) as error:
        select("cuda")
    assert error.value.code == "probe-failed"
    assert message in error.value.message
    assert hint in error.value.hint
    assert select("auto").name == "cpu"


@pytest.mark.parametrize(("driver", "cupy", "works"), [(13000, 13020, True), (12090, 13000, False)])
def test_a_driver_of_an_older_generation_than_cupy_is_refused(monkeypatch, driver, cupy, works):
    runtime = fake_cuda.install(monkeypatch).cupy.cuda.runtime
    runtime.driverGetVersion, runtime.runtimeGetVersion = lambda: driver, lambda: cupy
    if works:
        assert select("cuda").name == "cuda"
        return
    with pytest.raises(
        BackendUnavailableError, match=r"supports CUDA 12\.9, this CuPy is made for CUDA 13\.0"
    ) as error:
        select("cuda")
    assert error.value.code == "driver-too-old"


def test_named_backends():
    assert select("cpu", workers=3).workers == 3
    assert select("cpu").reason == "asked for"
    assert select("reference").has_kernels is False


def test_refuses_unknown_names():
    with pytest.raises(ConfigError) as error:
        select("gpu")
    assert error.value.code == "unknown-backend"


def test_the_reference_runs_no_kernels():
    backend = select("reference")
    with pytest.raises(KernelError) as error:
        backend.launch("clamp_i16", (1,), (1,), (np.zeros(1),))
    assert error.value.code == "no-kernels"
