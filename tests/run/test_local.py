import faulthandler
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from pool_work import name_thread, read_device

from gpuprep.errors import ConfigError, DeviceLostError
from gpuprep.run.local import Crash, map_isolated


def square(x):
    return x * x


def misbehave(x):
    match x:
        case "fault":
            faulthandler.disable()  # pytest's; its report would read like a fault of the tests
            signal.raise_signal(signal.SIGSEGV)
        case "exit":
            os._exit(3)
        case "job":
            raise ConfigError("all of it", code="wrong")
        case "device":
            raise DeviceLostError("the device failed", code="device-lost")
        case "memory":
            np.empty(1 << 60, np.uint8)
        case "raise":
            raise ValueError("told to")
    return x


def test_every_task_has_its_result():
    assert dict(map_isolated(square, list(range(20)), workers=3)) == {x: x * x for x in range(20)}


def call(task):
    return task()


def test_forked_workers_know_their_tasks():
    tasks = [lambda: 1, lambda: 2, lambda: 3]  # which cannot be sent
    assert dict(map_isolated(call, tasks, workers=2, start_by="fork")) == dict(zip(tasks, (1, 2, 3), strict=True))


def test_no_tasks_no_processes():
    assert list(map_isolated(square, [], workers=2)) == []


@pytest.mark.parametrize("workers", [1, 2])
def test_a_crash_costs_its_task_alone(workers):
    tasks = ["a", "fault", "b", "exit", "c", "raise", "d", "memory"]
    results = dict(map_isolated(misbehave, tasks, workers=workers))
    assert {t for t in tasks if results[t] == t} == {"a", "b", "c", "d"}
    assert results["fault"] == Crash("the worker process was ended by SIGSEGV", code="worker-killed")
    assert results["exit"].code == "worker-killed"
    assert results["raise"].reason == "ValueError: told to"
    assert results["raise"].code == "internal"
    assert "told to" in results["raise"].details
    assert results["memory"].code == "out-of-memory"


def answer_and_die(x):
    if x == "mortal":
        threading.Timer(0.05, os._exit, [1]).start()
    return x


def test_a_worker_that_dies_between_tasks_costs_one_of_them():
    results = {}
    for task, outcome in map_isolated(answer_and_die, ["a", "mortal", *"bcde"], workers=2):
        results[task] = outcome
        time.sleep(0.2)
    crashed = [task for task, outcome in results.items() if isinstance(outcome, Crash)]
    assert len(results) == 6
    assert len(crashed) <= 1
    assert "mortal" not in crashed


INTERRUPTED_AT_BIRTH = """
import os, signal
from gpuprep.run.local import map_isolated
os.register_at_fork(after_in_child=lambda: os.kill(os.getpid(), signal.SIGINT))
print(sorted(result for _, result in map_isolated(abs, [-1, 2], workers=2, start_by="fork")))
"""


def test_ctrl_c_does_not_reach_a_worker_that_has_just_been_started():
    done = subprocess.run([sys.executable, "-c", INTERRUPTED_AT_BIRTH], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("[1, 2]\n", "")


def test_closing_early_ends_the_workers():
    running = map_isolated(time.sleep, [0, 60, 60], workers=2)
    next(running)
    start = time.monotonic()
    running.close()
    assert time.monotonic() - start < 10


#: Two tasks of a minute, each of which says that it has begun.
DRIVER = """
import os, sys, time
from gpuprep.run.local import map_isolated

def work(task):
    os.write(1, f"{task}\\n".encode())  # of two threads that print, one may come into the line of the other
    time.sleep(60)

list(map_isolated(work, ["one", "two"], workers=2, slots=int(sys.argv[1]), start_by="fork"))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="forks")
@pytest.mark.parametrize("slots", [1, 2])
def test_workers_end_with_their_driver(slots):
    with subprocess.Popen([sys.executable, "-c", DRIVER, str(slots)], stdout=subprocess.PIPE, text=True) as driver:
        assert {driver.stdout.readline() for _ in range(2)} == {"one\n", "two\n"}
        driver.kill()
        start = time.monotonic()
        driver.stdout.read()  # until all that hold the other end are gone
        assert time.monotonic() - start < 20


@pytest.mark.parametrize("slots", [1, 3])
def test_a_job_error_ends_the_map(slots):
    with pytest.raises(ConfigError, match="all of it"):
        list(map_isolated(misbehave, ["a", "job", *"bcdefgh"], workers=1, slots=slots))


@pytest.mark.parametrize("start_by", ["fork", "spawn"])
def test_slots_are_threads_of_one_process(start_by):
    results = dict(map_isolated(name_thread, range(9), workers=1, slots=3, start_by=start_by))
    assert set(results) == set(range(9))
    assert len({thread for thread, _ in results.values()}) == 3
    assert len({process for _, process in results.values()}) == 1


def test_each_process_has_its_environment():
    found = map_isolated(
        read_device, range(6), workers=2, environments=[{"DEVICE": "3"}, {"DEVICE": "GPU-8a"}], start_by="spawn"
    )
    assert {device for _, device in found} == {"3", "GPU-8a"}
    assert "DEVICE" not in os.environ


def misbehave_slowly(x):
    time.sleep(0.05)
    return misbehave(x)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_crash_costs_its_task_alone_also_when_others_share_the_process(workers):
    tasks = ["a", "b", "fault", "c", "raise", "d", "exit", "e", "f", "device", "g"]
    outcomes = list(map_isolated(misbehave_slowly, tasks, workers=workers, slots=3))
    results = dict(outcomes)
    assert len(outcomes) == len(tasks)
    assert {t for t in tasks if results[t] == t} == set("abcdefg")
    assert results["fault"].reason == "the worker process was ended by SIGSEGV"
    assert (results["exit"].code, results["device"].code) == ("worker-killed", "device-lost")
    assert results["device"].reason == "the CUDA device failed, and with it the worker process"
    assert results["raise"].reason == "ValueError: told to"
