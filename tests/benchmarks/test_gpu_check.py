"""The check of a GPU machine, as far as it can be made without a GPU: the host build against the plain reference."""

from __future__ import annotations

import gzip
import json
import os
import runpy
import shutil
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import fake_cuda
import numpy as np
import pytest

from gpuprep import hostlib
from gpuprep.backends import select
from gpuprep.backends.metered import MeteredBackend
from gpuprep.backends.signature import kernel_names
from gpuprep.dicom.synth import write_study
from gpuprep.errors import BackendUnavailableError, ExitStatus
from gpuprep.run import roofline, slots
from gpuprep.run.slots import Placement

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # as the script does

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
SHAPE = (2, 9, 70)

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


def compare_all(trials, subject, oracle):
    listed = enumerate(trials["list_trials"]())
    return [trials["compare"](trial, subject, oracle, SHAPE, (7, number)) for number, trial in listed]


def test_trials_launch_every_kernel(trials):
    outcomes = compare_all(trials, select("cpu"), select("reference"))
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
    outcomes = compare_all(trials, select("cuda"), select("cpu"))
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
    (wrong,) = (o for o in compare_all(trials, WrongBackend(cpu), cpu) if o.difference)
    assert (wrong.trial, wrong.kernels) == ("clamp int16", ("clamp_i16",))
    what, values = wrong.difference.split(": ", 2)[1:]
    assert what == "1 of 1260 values differ"
    found, _, _, expected, *_ = values.split()
    assert int(found) ^ int(expected) == 1
    assert values.endswith(" at (1, 8, 69)")


class FailingBackend(MeteredBackend):
    """Cannot launch one kernel."""

    def launch(self, kernel, grid, block, args):
        if kernel == "pad_2":
            raise RuntimeError("too many resources requested")
        super().launch(kernel, grid, block, args)


def test_one_kernel_that_fails_does_not_end_the_others(trials):
    cpu = select("cpu")
    (failed,) = (o for o in compare_all(trials, FailingBackend(cpu), cpu) if o.difference)
    assert (failed.trial, failed.kernels) == ("crop uint16", ("pad_2",))
    assert failed.difference.endswith("RuntimeError: too many resources requested\n")


@pytest.mark.parametrize(
    ("found", "expected", "tolerance", "says"),
    [
        ([1.0, np.nan], [1.0, np.nan], 0.0, ""),
        ([0.0], [-0.0], 0.0, "1 of 1 values differ: 0.0 instead of -0.0 (0x0, 0x80000000) at (0,)"),
        ([1.0, np.uint32(0x7FFFFFFF).view(np.float32)], [1.0, np.nan], 0.0, ""),
        ([2.0, np.nan], [1.0, np.nan], 0.0, "1 of 2 values differ: 2.0 instead of 1.0"),
        ([np.nan], [1.0], 0.0, "1 of 1 values differ"),
        ([100.0001], [100.0], 2e-6, ""),
        ([100.1], [100.0], 2e-6, "1 of 1 values differ"),
        ([np.inf, 1.0], [np.inf, 1.0], 2e-6, ""),
        (range(9), [9] * 9, 0.0, "at (4,)"),
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


@pytest.fixture
def script(fake_gpu):
    """The script's names, as it runs here; processes it forks have the fake device too."""
    return runpy.run_path(str(SCRIPT))


def make_run(script, folder, device="cuda", seconds=100.0, **options):
    options = SimpleNamespace(device=device, small=True, seed=5, studies=None, **options)
    return script["Run"](options, folder, time.perf_counter() + seconds)


def test_all_checks_run_on_a_device(script, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", "")  # no compute-sanitizer
    monkeypatch.setattr(slots, "Placement", lambda *given, start_by="fork": Placement(*given))  # to have the device too
    for name, size in {"cuda": 1 << 20, "cpu": 1 << 16}.items():
        monkeypatch.setitem(roofline.COPY_BYTES, name, size)
    assert script["main"](["--small", "--seed", "5", "--output", str(tmp_path / "result.json")]) == 0, (
        capsys.readouterr()
    )
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["device"] == "no device"
    checks = read_checks(tmp_path / "result.json")
    assert {name for name, check in checks.items() if check["status"] != "passed"} == {
        "memcheck",
        "racecheck",
        "decoders",
    }
    assert checks["probe"]["found"]["compute_capability"] == "9.0"
    assert checks["kernels"]["found"]["kernels"] == kernel_names()
    assert checks["memcheck"]["reason"] == "compute-sanitizer is neither on PATH nor in /usr/local/cuda/bin"
    assert checks["rates"]["found"]["copy_bytes_per_s"]["upload"] == 2**20 / 1e-3
    assert [one["backend"] for one in checks["end to end"]["found"]["backends"]] == ["cpu", "cuda"]


def test_a_device_that_fails_or_hangs_costs_a_trial(script, fake_gpu, tmp_path):
    def start(kernel):
        if kernel == "pad_2":
            return 700  # CUDA_ERROR_ILLEGAL_ADDRESS
        if kernel == "move_4":
            time.sleep(60)
        return 0

    fake_gpu.fails_to_start = start
    script["make_trial"].__globals__["TRIAL_S"] = 6.0
    with pytest.raises(script["Failure"], match=r"^2 of \d+ trials differ, 0 were left out") as caught:
        script["check_kernels"](make_run(script, tmp_path))
    found = caught.value.found
    assert found["never_launched"] == ["move_4", "pad_2"]
    told = {one["trial"]: one["difference"] for one in found["different"]}
    assert list(told) == ["move planes uint32", "crop uint16"]
    assert "Timeout (0:00:06)!" in told["move planes uint32"]
    assert "in start" in told["move planes uint32"]
    assert "the CUDA device failed" in told["crop uint16"]
    assert "CUDA error 700" in told["crop uint16"]
    assert "last of the kernels launched: pad_2" in told["crop uint16"]


def test_checks_that_end_their_process_or_hang_cost_themselves(script, tmp_path, monkeypatch):
    names = script["main"].__globals__
    output = tmp_path / "result.json"
    step = names["Step"]
    checks = {
        "probe": step(lambda run: {"device": "x"}, 30),
        "dies": step(lambda run: os._exit(3), 30),
        "hangs": step(lambda run: time.sleep(60), 3),
        "wrong": step(lambda run: 1 // 0, 30),
        "too late": step(lambda run: None, 0),
        "last": step(lambda run: [check["name"] for check in json.loads(output.read_text())["checks"]], 30),
    }
    for name, value in {"CHECKS": checks, "LEAST_S": 0.5, "GRACE_S": 0.5}.items():
        monkeypatch.setitem(names, name, value)
    assert script["main"](["--only", "wrong", "--output", str(output)]) == 1
    assert list(read_checks(output)) == ["probe", "wrong"]
    assert script["main"](["--output", str(output)]) == 1
    made = read_checks(output)
    assert {name: check["status"] for name, check in made.items()} == {
        "probe": "passed", "dies": "failed", "hangs": "failed", "wrong": "failed", "too late": "skipped",
        "last": "passed",
    }  # fmt: skip
    assert made["dies"]["reason"] == "its process ended, status 3"
    assert made["hangs"]["reason"] == "took too long, status -9"
    assert any("test_gpu_check.py" in line for line in made["hangs"]["found"])
    assert made["wrong"]["found"][-1].startswith("ZeroDivisionError")
    assert made["last"]["found"] == ["probe", "dies", "hangs", "wrong", "too late"]


def test_transfers_that_change_a_byte_are_found(script, fake_gpu, tmp_path, monkeypatch):
    run = make_run(script, tmp_path)
    assert len(script["check_transfers"](run)["sizes"]) == 4
    subject, _ = run.select()

    def upload(array, _whole=subject.upload):
        there = _whole(array)
        if len(array) > 1 << 17:
            there[len(array) - 3 : len(array) - 2] = 256 - 1 - int(array[-3])
        return there

    monkeypatch.setattr(subject, "upload", upload)
    with pytest.raises(script["Failure"], match="1 of 50331647 bytes of pageable memory, from 50331644 to 50331644"):
        script["check_transfers"](run)


def test_files_of_two_jobs_are_compared_by_what_they_hold(script, tmp_path):
    compare = script["compare_files"]
    folders = [tmp_path / name for name in "ab"]
    for folder, level in zip(folders, (1, 9), strict=True):
        folder.mkdir()
        (folder / "i.nii.gz").write_bytes(gzip.compress(bytes(range(256)) * 50, level))
        (folder / "m.seg.nrrd").write_bytes(b"NRRD\nx: y\n\n" + gzip.compress(b"abc" * 50, level))
        (folder / "ledger.sqlite").write_bytes(bytes([level]))
    assert list(compare(*folders)) == []
    (folders[1] / "i.nii.gz").write_bytes(gzip.compress(b"other"))
    (folders[0] / "m.seg.nrrd").unlink()
    assert list(compare(*folders)) == ["i.nii.gz differs", "m.seg.nrrd was written by one job alone"]
    assert list(compare(tmp_path / "x", tmp_path / "y")) == ["there are no files to compare"]


def test_kernels_of_another_version_are_not_checked(script, tmp_path, monkeypatch):
    installed = tmp_path / "_kernels"
    shutil.copytree(hostlib.KERNEL_DIR, installed)
    monkeypatch.setattr(hostlib, "KERNEL_DIR", installed)
    assert script["_is_built"]()
    (installed / "pad.cu").write_text("")
    with pytest.raises(RuntimeError, match="others than here"):
        script["_is_built"]()
    monkeypatch.setitem(script["_is_built"].__globals__, "REPOSITORY", tmp_path)
    shutil.copytree(SCRIPT.parents[1] / "kernels", tmp_path / "kernels")
    assert not script["_is_built"]()


def test_the_sanitizers_run_launches_every_kernel(script, fake_gpu, capsys):
    assert script["launch_only"](5) == 0
    assert sorted(fake_gpu.launched) == kernel_names()
    assert "launched crop uint16" in capsys.readouterr().out.splitlines()
    fake_gpu.fails_to_start = lambda kernel: kernel == "pad_2"  # CUDA_ERROR_INVALID_VALUE
    assert script["launch_only"](5) == 1


def sanitizer(folder, monkeypatch, body):
    tool = folder / "compute-sanitizer"
    tool.write_text(f"#!/bin/sh\n{body}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")


@pytest.mark.parametrize(
    ("status", "output", "outcome"),
    [
        (0, "========= ERROR SUMMARY: 0 errors", "passed"),
        (9, "========= Invalid __global__ write of size 2 bytes", "Failure"),
        (1, "RuntimeError: no", "Failure"),
        (1, "========= Error: Device not supported. Please refer to the documentation", "Skip"),
    ],
)
def test_what_compute_sanitizer_says(script, tmp_path, monkeypatch, status, output, outcome):
    sanitizer(tmp_path, monkeypatch, f"echo 'launched x'\necho '{output}'\nexit {status}")
    run = make_run(script, tmp_path)
    check = script["check_sanitizer"]("memcheck")
    if outcome == "passed":
        assert check(run) == {"summary": ["ERROR SUMMARY: 0 errors"], "launched": 1}
        return
    with pytest.raises(script[outcome]) as caught:
        check(run)
    if outcome == "Failure":
        assert caught.value.found["first"] == ["launched x", output]
        assert ("found something" in str(caught.value)) == (status == 9)


def test_a_sanitizer_that_takes_too_long_is_ended_with_what_it_began(script, tmp_path, monkeypatch):
    sanitizer(tmp_path, monkeypatch, "echo launched x\nsleep 60 &\necho $! > pid\nsleep 60")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(script["Failure"], match="took longer than 3 s") as caught:
        script["check_sanitizer"]("racecheck")(make_run(script, tmp_path, seconds=3))
    assert caught.value.found == ["launched x"]
    state = Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}/stat")

    def runs():
        try:
            return ") Z " not in state.read_text()
        except (FileNotFoundError, ProcessLookupError):
            return False

    end = time.monotonic() + 20
    while runs():
        assert time.monotonic() < end
        time.sleep(0.05)
