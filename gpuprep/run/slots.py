"""Where the cases of a job run: how many processes, on which devices, how many cases each at once.

On the CPU a case has a process and its share of the cores. A CUDA device has one process, which must not be forked: it
is spawned, and sees its device alone. In it cases run in threads, the *slots*: each has a backend of its own, with its
own stream and pinned buffers, so that while one case computes, the next one uploads and the last one downloads, and
others read, decode, compress and write.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gpuprep import backends
from gpuprep.backends.base import ASKED_FOR, Backend
from gpuprep.config import Resources
from gpuprep.errors import BackendUnavailableError, ConfigError
from gpuprep.hostlib import usable_cores
from gpuprep.run.local import START_METHOD, Crash, StartMethod, map_isolated

#: Cases at once on a device, where nothing else is asked for: one goes up, one computes, one comes down.
SLOTS_PER_DEVICE = 3
#: What CUDA reads, before its first call, to know which devices there are.
VISIBLE_DEVICES = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True, slots=True)
class BackendChoice:
    """What each slot of a job runs on; picklable.

    Parameters
    ----------
    name : str
        As for `backends.select`; ``auto`` on a cluster alone, whose workers find out for themselves.
    threads : int
        For the host's part of a case.
    slots : int
        Slots that share a device.
    reason : str
        Why it was taken.
    """

    name: str
    threads: int
    slots: int = 1
    reason: str = ASKED_FOR


@dataclass(frozen=True, slots=True)
class Placement:
    """How a job is spread; see `map_isolated`, and `map_on_cluster` where there is a `scheduler`."""

    choice: BackendChoice
    processes: int
    environments: tuple[Mapping[str, str], ...] = ({},)
    start_by: StartMethod = START_METHOD
    scheduler: str = ""

    @property
    def threads(self) -> int:
        """Threads for the host's part of a case."""
        return self.choice.threads

    @property
    def slots(self) -> int:
        """Cases that a process works on at once."""
        return self.choice.slots


_of_this_thread = threading.local()
#: Held by the thread that gets its backend, and with it the modules that all threads need.
_starting = threading.Lock()


def slot_backend(choice: BackendChoice) -> Backend:
    """Return the backend of this thread, the same one at each call.

    Cases import pydicom when they need it. Where they run in threads it is imported here, by one of them: two that come
    upon its modules, which import each other, from different sides would get half of one.
    """
    known: dict[BackendChoice, Backend] = _of_this_thread.__dict__.setdefault("backends", {})
    if choice not in known:
        with _starting:
            if choice.slots > 1:
                import pydicom.pixels  # noqa: F401  (it imports all the others)
            known[choice] = backends.select(choice.name, choice.threads, slots=choice.slots, reason=choice.reason)
    return known[choice]


def share_cores(workers: int | None, tasks: int) -> tuple[int, int]:
    """Return (processes, threads each) for a number of tasks on the cores of this process."""
    cores = usable_cores()
    processes = max(1, min(workers or cores, tasks))
    return processes, max(1, cores // processes)


def place(resources: Resources, tasks: int) -> Placement:
    """Decide where a job runs. What is asked for by name is tried by the workers, which refuse it as `select` does.

    The process that asks never initialises CUDA, so that it may fork.

    Parameters
    ----------
    resources : Resources
    tasks : int
        Cases to do.

    Raises
    ------
    ConfigError
        ``no-such-device``: a device was asked for that ``CUDA_VISIBLE_DEVICES`` does not show; ``extra-missing``.
    BackendUnavailableError
        Those of `measure_workers`.
    """
    if resources.scheduler:
        from gpuprep.run.cluster import measure_workers

        threads, slots = measure_workers(resources.scheduler)
        return Placement(BackendChoice(resources.backend, threads, slots), processes=1, scheduler=resources.scheduler)
    environments = [{VISIBLE_DEVICES: device} for device in _name_devices(resources.devices)]
    name, reason = resources.backend, ASKED_FOR
    if name == "auto":
        name, reason = _choose(environments)
    if name != "cuda":
        processes, threads = share_cores(resources.workers, tasks)
        return Placement(BackendChoice(name, threads, reason=reason), processes)
    processes = max(1, min(len(environments), tasks))
    at_once = min(resources.workers or SLOTS_PER_DEVICE * processes, max(1, tasks))
    slots = max(1, -(-at_once // processes))
    threads = max(1, usable_cores() // (processes * slots))
    choice = BackendChoice(name, threads, slots, reason)
    return Placement(choice, processes, tuple(environments[:processes]), start_by="spawn")


def _name_devices(devices: Sequence[int]) -> list[str]:
    """Return what CUDA_VISIBLE_DEVICES has to be for each of `devices`, which count among those visible now."""
    visible = os.environ.get(VISIBLE_DEVICES)
    if visible is None:
        return [str(device) for device in devices]
    names = [name for name in visible.split(",") if name]
    missing = [device for device in devices if device >= len(names)]
    if missing and names:
        raise ConfigError(
            f"device {missing[0]} was asked for, {VISIBLE_DEVICES} shows {len(names)}",
            code="no-such-device",
            hint=f"--devices counts from 0 among those that {VISIBLE_DEVICES} shows",
        )
    return [names[device] for device in devices] if names else [visible] * len(devices)


def _choose(environments: Sequence[Mapping[str, str]]) -> tuple[str, str]:
    """Return ``cuda`` when a test kernel runs on every device, else ``cpu``; and why."""
    from gpuprep.backends.cuda import load_driver

    try:
        load_driver()  # where there is none, this saves the second that a process and CuPy take
        tests = map_isolated(
            _test_device,
            range(len(environments)),
            workers=len(environments),
            environments=environments,
            start_by="spawn",
        )
        for _, outcome in tests:
            if isinstance(outcome, Crash):
                return "cpu", f"auto: a process that tried CUDA ended: {outcome.reason} [probe-failed]"
    except BackendUnavailableError as error:
        return "cpu", f"auto: {error.message} [{error.code}]"
    return "cuda", "auto: a CUDA device works"


def _test_device(number: int) -> str:
    return backends.select("cuda").device
