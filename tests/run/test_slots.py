"""Where a job runs: processes, devices, slots."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import fake_cuda
import pytest

from gpuprep.backends import cuda
from gpuprep.config import Resources
from gpuprep.errors import BackendUnavailableError, ConfigError
from gpuprep.hostlib import usable_cores
from gpuprep.run import slots
from gpuprep.run.local import Crash
from gpuprep.run.slots import VISIBLE_DEVICES, BackendChoice, place, slot_backend


@pytest.fixture(autouse=True)
def see_all_devices(monkeypatch):
    monkeypatch.delenv(VISIBLE_DEVICES, raising=False)


def test_the_cpu_gets_a_process_a_case_and_shares_its_cores():
    placement = place(Resources("cpu"), tasks=1000)
    assert (placement.processes, placement.slots, placement.threads) == (usable_cores(), 1, 1)
    placement = place(Resources("cpu", workers=1), tasks=1000)
    assert (placement.processes, placement.threads) == (1, usable_cores())
    assert place(Resources("reference"), tasks=1).processes == 1


def test_cuda_gets_a_spawned_process_a_device_with_three_slots():
    placement = place(Resources("cuda", devices=(0, 2)), tasks=1000)
    assert (placement.processes, placement.slots, placement.start_by) == (2, 3, "spawn")
    assert placement.environments == ({VISIBLE_DEVICES: "0"}, {VISIBLE_DEVICES: "2"})


@pytest.mark.parametrize(("workers", "tasks", "processes", "each"), [(8, 99, 2, 4), (1, 99, 2, 1), (None, 1, 1, 1)])
def test_cases_at_once_on_two_devices(workers, tasks, processes, each):
    placement = place(Resources("cuda", devices=(0, 1), workers=workers), tasks)
    assert (placement.processes, placement.slots) == (processes, each)


def test_devices_count_among_those_that_are_visible(monkeypatch):
    monkeypatch.setenv(VISIBLE_DEVICES, "GPU-8a,5")
    assert place(Resources("cuda", devices=(1, 0)), 9).environments == (
        {VISIBLE_DEVICES: "5"},
        {VISIBLE_DEVICES: "GPU-8a"},
    )
    with pytest.raises(ConfigError) as error:
        place(Resources("cuda", devices=(0, 2)), 9)
    assert error.value.code == "no-such-device"


@pytest.mark.parametrize("devices", [(), (-1,), (0, 0)])
def test_refuses_devices_that_cannot_be(devices):
    with pytest.raises(ConfigError) as error:
        Resources("cuda", devices=devices)
    assert error.value.code == "bad-devices"


def test_auto_without_a_driver_takes_the_cpu_and_says_why(monkeypatch):
    def refuse():
        raise BackendUnavailableError("no NVIDIA driver", code="no-driver")

    monkeypatch.setattr(cuda, "load_driver", refuse)
    placement = place(Resources("auto"), 4)
    assert placement.choice.name == "cpu"
    assert placement.choice.reason == "auto: no NVIDIA driver [no-driver]"
    assert slot_backend(placement.choice).reason == placement.choice.reason


@pytest.mark.parametrize(
    ("outcome", "name", "reason"),
    [
        ("NVIDIA H100", "cuda", "auto: a CUDA device works"),
        (Crash("the worker process was ended by SIGSEGV", code="worker-killed"), "cpu", "SIGSEGV [probe-failed]"),
        (BackendUnavailableError("a test kernel failed", code="probe-failed"), "cpu", "failed [probe-failed]"),
    ],
)
def test_auto_tries_each_device_in_a_process_of_its_own(monkeypatch, outcome, name, reason):
    tried = []

    def answer(work, tasks, *, workers, environments, start_by):
        tried.extend((environment[VISIBLE_DEVICES], start_by) for environment in environments)
        if isinstance(outcome, Exception):
            raise outcome
        return [(0, outcome)]

    monkeypatch.setattr(cuda, "load_driver", lambda: None)
    monkeypatch.setattr(slots, "map_isolated", answer)
    placement = place(Resources("auto", devices=(0, 1)), 9)
    assert tried == [("0", "spawn"), ("1", "spawn")]
    assert placement.choice.name == name
    assert placement.choice.reason.endswith(reason)


def test_each_thread_keeps_a_backend_of_its_own(monkeypatch):
    device = fake_cuda.install(monkeypatch)
    choice = BackendChoice("cuda", threads=1, slots=2)
    found = []

    def work():
        found.append((slot_backend(choice), slot_backend(choice)))
        time.sleep(0.05)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (first, again), (second, _) = found
    assert first is again
    assert first is not second
    assert first.memory_bytes == int(0.8 * device.memory_bytes) // 2


def test_threads_find_all_of_pydicom_imported():
    sources = Path(slots.__file__).parents[1].rglob("*.py")
    named = {
        name for path in sources for name in re.findall(r"(?:from|import) (pydicom(?:\.\w+)*)\b", path.read_text())
    }
    assert {"pydicom", "pydicom.filereader", "pydicom.pixels.processing"} <= named
    script = (
        "import sys\n"
        "from gpuprep.run.slots import BackendChoice, slot_backend\n"
        "slot_backend(BackendChoice('reference', threads=1, slots=int(sys.argv[1])))\n"
        "print(*(name for name in sys.modules if name.startswith('pydicom')))"
    )
    for count, needed in ((1, set()), (2, named)):
        done = subprocess.run([sys.executable, "-c", script, str(count)], capture_output=True, text=True, check=True)
        imported = set(done.stdout.split())
        assert needed <= imported
        assert bool(needed) == bool(imported)


@pytest.mark.parametrize("devices", ["x", "0,0", "-1", ""])
def test_the_command_refuses_a_bad_list_of_devices(gpuprep, tmp_path, devices):
    (tmp_path / "in").mkdir()
    result = gpuprep("tiff", "--devices", devices, tmp_path / "in", tmp_path / "out")
    assert (result.status, "[bad-devices]" in result.stderr) == (2, True), result.stderr
    assert os.listdir(tmp_path) == ["in"]  # noqa: PTH208


def test_a_job_on_cuda_without_a_driver_is_refused_by_its_spawned_worker(gpuprep, tmp_path):
    if cuda_works():
        pytest.skip("there is a CUDA driver")
    assert gpuprep("synth", tmp_path / "in").status == 0
    result = gpuprep("nifti", "--backend", "cuda", "--devices", "0,1", tmp_path / "in", tmp_path / "out")
    assert result.status == 5
    assert "[no-driver]" in result.stderr


def cuda_works():
    try:
        cuda.load_driver()
    except BackendUnavailableError:
        return False
    return True
