"""The check of a GPU machine, as far as it can be made without a GPU: the host build against the plain reference."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import fake_cuda
import numpy as np
import pytest

from gpuprep.backends import select
from gpuprep.backends.metered import MeteredBackend
from gpuprep.backends.signature import kernel_names
from gpuprep.dicom.synth import write_study
from gpuprep.errors import BackendUnavailableError, ExitStatus

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
SCRIPT = BENCHMARKS / "gpu_check.py"
#: What a GPU machine need not have.
OPTIONAL = ("click", "imagecodecs", "isal", "pyarrow", "pydicom", "scipy", "tifffile", "tqdm", "yaml")
WITHOUT = f"""
import runpy, sys
sys.modules.update(dict.fromkeys({OPTIONAL}))
sys.argv.pop(0)
runpy.run_path(sys.argv[0], run_name="__main__")
"""
SHAPES = ((2, 9, 70),)
#: DALI decodes them on a device alone.
LEFT_TO_CPU_DECODERS = {f"JPEG lossless, {bits} bits" for bits in (8, 12, 16)}


@pytest.fixture(scope="module")
def trials():
    return runpy.run_path(str(BENCHMARKS / "kernel_trials.py"))


def run_script(*arguments, before=()):
    command = [sys.executable, *before, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def read_checks(path):
    return {check["name"]: check for check in json.loads(path.read_text())["checks"]}


def test_the_host_build_passes_all_that_needs_no_gpu(tmp_path):
    done = run_script("--device", "host", "--small", "--output", tmp_path / "result.json")
    assert done.returncode == 0, done.stdout + done.stderr
    checks = read_checks(tmp_path / "result.json")
    skipped = {name for name, check in checks.items() if check["status"] == "skipped"}
    if find_spec("nvidia.dali") is None:
        assert "decoders" in skipped
    else:
        scales = {row["encoding"]: row["scale"] for row in checks["decoders"]["found"]}
        assert {name for name, scale in scales.items() if scale == "wrong"} == LEFT_TO_CPU_DECODERS
        assert set(scales.values()) == {"exact", "wrong"}
    assert skipped - {"decoders"} == {"memcheck", "racecheck"}
    assert checks["kernels"]["found"]["kernels"] == kernel_names()
    assert checks["pipeline"]["found"]["cases"] == 3 * 3 + 2  # an image and two segmentations; cropped to these, two
    (converted,) = checks["end to end"]["found"]["backends"]
    assert converted["job"]["cases"] == 3
    rates = checks["rates"]["found"]["kernels"]
    assert all(rate["seconds"] > 0 and rate["bytes"] > 0 and rate["kernels"] for rate in rates)


def test_missing_packages_are_reasons_not_failures(tmp_path):
    done = run_script("--device", "host", "--small", "--output", tmp_path / "result.json", before=("-c", WITHOUT))
    assert done.returncode == 0, done.stdout + done.stderr
    checks = read_checks(tmp_path / "result.json")
    assert checks["kernels"]["status"] == checks["rates"]["status"] == "passed"
    assert {checks[name]["status"] for name in ("pipeline", "decoders", "end to end")} == {"skipped"}
    assert "synthetic ones cannot be written" in checks["pipeline"]["reason"]
    assert "isal" in checks["end to end"]["reason"]


def test_studies_that_are_given_need_no_pydicom(tmp_path):
    write_study(tmp_path / "in", slices=8, size=32)
    done = run_script(
        "--device", "host", "--small", "--studies", tmp_path / "in", "--output", tmp_path / "result.json",
        before=("-c", WITHOUT),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    pipeline = read_checks(tmp_path / "result.json")["pipeline"]
    assert (pipeline["status"], pipeline["found"]["cases"]) == ("passed", 3 * 2 + 1)


def test_without_a_device_it_says_why_and_leaves_no_result(tmp_path):
    try:
        select("cuda")
    except BackendUnavailableError as error:
        reason = error.code
    else:
        pytest.skip("there is a device")
    done = run_script("--small", "--output", tmp_path / "result.json")
    assert done.returncode == ExitStatus.NO_BACKEND
    assert f"[{reason}]" in done.stdout
    assert not list(tmp_path.iterdir())


def test_trials_launch_every_kernel(trials):
    outcomes = list(trials["compare"](select("cpu"), select("reference"), SHAPES, 7))
    assert [outcome for outcome in outcomes if outcome.difference] == []
    assert sorted({kernel for outcome in outcomes for kernel in outcome.kernels}) == kernel_names()


@pytest.fixture
def fake_gpu(monkeypatch):
    """A fake device with what the script asks of CuPy beyond what the backend does."""
    device = fake_cuda.install(monkeypatch)
    monkeypatch.setattr(sys, "path", [*sys.path])  # the script adds its folder
    cuda = device.cupy.cuda
    properties = {"name": b"no device", "major": 9, "minor": 0, "totalGlobalMem": 8e10, "multiProcessorCount": 132,
                  "l2CacheSize": 5e7}  # fmt: skip
    monkeypatch.setattr(cuda.runtime, "getDeviceProperties", lambda number: properties)
    for place, name, value in (
        (cuda, "Event", lambda **timing: fake_cuda.Event(device)),
        (cuda, "get_elapsed_time", lambda begin, end: 1.0),  # ms
        (cuda, "nvrtc", SimpleNamespace(getVersion=lambda: (13, 0))),
        (cuda, "set_allocator", lambda allocator: None),
        (device.cupy, "copyto", lambda target, source: None),
        (device.cupy, "__version__", "0"),
    ):
        monkeypatch.setattr(place, name, value, raising=False)
    return device


def test_trials_take_the_branches_of_a_device(trials, fake_gpu):
    outcomes = list(trials["compare"](select("cuda"), select("cpu"), SHAPES, 7))
    assert [outcome for outcome in outcomes if outcome.difference] == []
    assert sorted(fake_gpu.launched) == kernel_names()


class WrongBackend(MeteredBackend):
    """Changes one bit of what one kernel writes."""

    def launch(self, kernel, grid, block, args):
        super().launch(kernel, grid, block, args)
        if kernel == "clamp_i16":
            args[1].reshape(-1)[-1] ^= 1


def test_one_wrong_bit_is_found_and_named(trials):
    cpu = select("cpu")
    wrong = [o for o in trials["compare"](WrongBackend(cpu), cpu, SHAPES, 7) if o.difference]
    assert [(o.trial, o.kernels) for o in wrong] == [("clamp int16", ("clamp_i16",))]
    assert wrong[0].difference == "1 of 1260 values differ, first at (1, 8, 69)"


class FailingBackend(MeteredBackend):
    """Cannot launch one kernel."""

    def launch(self, kernel, grid, block, args):
        if kernel == "pad_2":
            raise RuntimeError("too many resources requested")
        super().launch(kernel, grid, block, args)


def test_one_kernel_that_fails_does_not_end_the_others(trials):
    cpu = select("cpu")
    failed = [o for o in trials["compare"](FailingBackend(cpu), cpu, SHAPES, 7) if o.difference]
    assert [(o.trial, o.difference) for o in failed] == [("crop uint16", "RuntimeError: too many resources requested")]


@pytest.mark.parametrize(
    ("found", "expected", "tolerance", "says"),
    [
        ([1.0, np.nan], [1.0, np.nan], 0.0, ""),
        ([0.0], [-0.0], 0.0, "the sign of zero"),
        ([1.0, np.uint32(0x7FFFFFFF).view(np.float32)], [1.0, np.nan], 0.0, ""),
        ([2.0, np.nan], [1.0, np.nan], 0.0, "1 of 2 values differ, first at (0,)"),
        ([np.nan], [1.0], 0.0, "1 of 1 values differ"),
        ([100.0001], [100.0], 2e-6, ""),
        ([100.1], [100.0], 2e-6, "1 of 1 values differ"),
        ([np.inf], [np.nan], 2e-6, "1 of 1 values differ"),
    ],
)
def test_differences_of_floats(trials, found, expected, tolerance, says):
    said = trials["describe_difference"](np.float32(found), np.float32(expected), tolerance)
    assert says in said
    assert bool(says) == bool(said)


def test_differences_of_integers_and_types(trials):
    differ = trials["describe_difference"]
    assert differ(np.int16([5]), np.int16([6]), 2e-6) == ""
    assert differ(np.int16([5]), np.int16([7]), 2e-6) != ""
    assert differ(np.int16([5]), np.int16([6]), 0.0) != ""
    assert differ(np.int16([5]), np.int32([5]), 0.0) == "int16[1] instead of int32[1]"


def test_all_checks_run_on_a_device(fake_gpu, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", "")  # no compute-sanitizer
    script = runpy.run_path(str(SCRIPT))
    assert script["main"](["--small", "--seed", "5", "--output", str(tmp_path / "result.json")]) == 0, (
        capsys.readouterr()
    )
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["device"] == "no device"
    checks = read_checks(tmp_path / "result.json")
    assert {name for name, check in checks.items() if check["status"] != "passed"} <= {
        "memcheck",
        "racecheck",
        "decoders",
    }
    assert checks["probe"]["found"]["compute_capability"] == "9.0"
    assert checks["memcheck"]["reason"] == "compute-sanitizer is not on PATH"
    assert checks["rates"]["found"]["copy_bytes_per_s"]["upload"] == 2**20 / 1e-3


def test_the_sanitizers_run_launches_every_kernel(fake_gpu):
    runpy.run_path(str(SCRIPT))["launch_only"](5)
    assert sorted(fake_gpu.launched) == kernel_names()


@pytest.mark.parametrize(
    ("status", "output", "outcome"),
    [
        (0, "========= ERROR SUMMARY: 0 errors", "passed"),
        (9, "========= Invalid __global__ write of size 2 bytes", "failed"),
        (1, "========= Error: Device not supported. Please refer to the documentation", "skipped"),
    ],
)
def test_what_compute_sanitizer_says(fake_gpu, tmp_path, monkeypatch, status, output, outcome):
    tool = tmp_path / "compute-sanitizer"
    tool.write_text(f"#!/bin/sh\necho '{output}'\nexit {status}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    script = runpy.run_path(str(SCRIPT))
    run = script["Run"](SimpleNamespace(device="cuda", small=True, seed=5), subject=object(), oracle=object())
    check = script["check_sanitizer"]("memcheck")
    if outcome == "passed":
        assert check(run) == {"summary": ["ERROR SUMMARY: 0 errors"]}
        return
    with pytest.raises(AssertionError if outcome == "failed" else script["Skip"], match=r"Invalid|does not support"):
        check(run)
