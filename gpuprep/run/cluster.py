"""Cases on the workers of a Dask cluster: many machines, one job.

The driver plans, keeps the ledger and finishes the data set, as always; workers do cases. What all have to share is a
file system: sources are read and outputs written under the same paths everywhere. What is done to each case lies in a
file beside the output while the job runs. So a worker that does not see the output refuses, and one that still has
cases of a driver that is gone finds no file and lets them be.
"""

from __future__ import annotations

import logging
import os
import pickle
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from gpuprep._version import __version__
from gpuprep.errors import BackendUnavailableError, JobError, OutputError
from gpuprep.extras import load_extra
from gpuprep.hostlib import usable_cores
from gpuprep.run.local import Crash, outcome_of
from gpuprep.writers.atomic import PART_SUFFIX, write_bytes

Task = TypeVar("Task")

#: Seconds to reach the scheduler, and for the first worker to join it.
CONNECT_S, FIRST_WORKER_S = 10.0, 60.0
#: Seconds between two looks at what workers still do for a driver that is gone.
_LOOK_S = 0.5


def measure_workers(scheduler: str) -> tuple[int, int]:
    """Return (threads, slots): cores that a case may use, and cases that a worker does at once.

    Cores of a machine are shared by all cases of its workers; that of the fewest counts, and of workers the largest.

    Raises
    ------
    ConfigError
        ``extra-missing``.
    BackendUnavailableError
        ``cluster-unreachable``, ``no-workers``; ``cluster-failed``: a worker has no gpuprep.
    """
    with _connected(scheduler) as client:
        try:
            client.wait_for_workers(1, timeout=FIRST_WORKER_S)
        except TimeoutError as error:
            raise BackendUnavailableError(
                f"no worker has joined the scheduler for {FIRST_WORKER_S:g} s",
                code="no-workers",
                subject=scheduler,
                hint=f"start some: dask worker {scheduler}",
            ) from error
        with _of_the_cluster(scheduler):
            cases: dict[str, int] = client.nthreads()
            cores: dict[str, int] = client.run(usable_cores)
    at_once = Counter[str]()
    for worker, slots in cases.items():
        at_once[_machine(worker)] += slots
    threads = min(cores.get(worker, 1) // at_once[_machine(worker)] for worker in cases)
    return max(1, threads), max(cases.values())


def _machine(worker: str) -> str:
    """Return the machine of an address such as ``tcp://10.0.0.1:40331``."""
    return worker.rpartition(":")[0]


def map_on_cluster(
    work: Callable[[Task], Any],
    tasks: Sequence[Task],
    *,
    scheduler: str,
    folder: Path,
    on_send: Callable[[Task], None],
) -> Generator[tuple[Task, Any | Crash], None, None]:
    """Run `work` over `tasks` on the workers of a cluster; yield (task, result or `Crash`) as they finish.

    When the generator is closed, what runs is waited for: a thread of a worker cannot be stopped, and would write on.
    For the same reason it first waits for what workers still do for an earlier job in `folder`.

    Parameters
    ----------
    work : callable
        Called in a worker with one task; importable and picklable there. What escapes it is treated as `map_isolated`
        does. A task is given up when it was in work each time that several workers ended, as many as the scheduler
        allows (``distributed.scheduler.allowed-failures``).
    tasks : sequence
        Each is pickled.
    scheduler : str
        Its address, as ``tcp://host:8786``.
    folder : Path
        Where the workers write; absolute, and the same path everywhere.
    on_send : callable
        Told each task before a worker gets it.

    Raises
    ------
    ConfigError
        ``extra-missing``.
    OutputError
        ``output-not-shared``: a worker does not see `folder`; and those of `write_bytes`.
    BackendUnavailableError
        ``cluster-unreachable``; ``other-version``: a worker has another gpuprep; ``cluster-failed``: the scheduler is
        gone, or a worker cannot make out a task.
    """
    waiting = deque(tasks)
    held: dict[Any, Task] = {}
    with _connected(scheduler) as client:
        from distributed import as_completed

        description = _describe(work, folder)
        finished = as_completed(loop=client.loop)
        try:
            _await_idle(client, scheduler, folder)
            while waiting or held:
                # no more than are done at once: all that wait on a worker when it dies would be blamed for it
                for _ in range(min(len(waiting), _count_slots(client, scheduler) - len(held))):
                    task = waiting.popleft()
                    on_send(task)
                    with _of_the_cluster(scheduler):
                        future = client.submit(do_task, str(description), __version__, task, pure=False)
                    held[future] = task
                    finished.add(future)
                future = next(finished)
                outcome = _result(future, scheduler)
                if isinstance(outcome, JobError):
                    raise outcome
                yield held.pop(future), outcome
        finally:
            description.unlink(missing_ok=True)  # what has not begun finds nothing to do
            with suppress(BackendUnavailableError):  # the scheduler is gone, and its workers go with it
                with _of_the_cluster(scheduler):
                    client.cancel(list(held))
                _await_idle(client, scheduler, folder)


def _count_slots(client: Any, scheduler: str) -> int:
    """Return how many tasks all workers do at once; one where none is left, for others may join."""
    with _of_the_cluster(scheduler):
        slots: dict[str, int] = client.nthreads()
    return max(1, sum(slots.values()))


def _result(future: Any, scheduler: str) -> Any:
    from distributed import KilledWorker

    with _of_the_cluster(scheduler):
        try:
            return future.result()
        except KilledWorker as error:
            return Crash(
                f"the workers that had it ended, the last at {error.last_worker.address}", code="worker-killed"
            )


@contextmanager
def _of_the_cluster(scheduler: str) -> Iterator[None]:
    """Make an error of what Dask raises: that the scheduler is gone, or whatever kept a worker from `do_task`."""
    try:
        yield
    except Exception as error:
        raise BackendUnavailableError(
            f"the cluster failed: {type(error).__name__}: {' '.join(str(error).split())}",
            code="cluster-failed",
            subject=scheduler,
            hint="look after dask scheduler and dask worker; all need the same gpuprep, Python and distributed",
        ) from error


@contextmanager
def _connected(scheduler: str) -> Iterator[Any]:
    """Give a client of a scheduler."""
    distributed = load_extra("distributed", "dask")
    # what it tells, with tracebacks, becomes an error here
    logging.getLogger("distributed.client").setLevel(logging.CRITICAL)
    try:
        client = distributed.Client(scheduler, timeout=CONNECT_S, set_as_default=False)
    except (OSError, ValueError) as error:
        raise BackendUnavailableError(
            f"the scheduler does not answer: {error}",
            code="cluster-unreachable",
            subject=scheduler,
            hint="start dask scheduler, and give the address that it prints, as tcp://host:8786",
        ) from error
    with client:
        yield client


def _describe(work: Callable[[Any], Any], folder: Path) -> Path:
    """Put what is done to each task into a file beside the output; return its path."""
    path = folder / f".{socket.gethostname()}.{os.getpid()}.{time.time_ns()}{PART_SUFFIX}"
    write_bytes(path, pickle.dumps(work))
    return path


def _await_idle(client: Any, scheduler: str, folder: Path) -> None:
    """Wait until no worker has a task for `folder` in work."""
    with _of_the_cluster(scheduler):
        while any(client.run(_count_tasks, str(folder)).values()):
            time.sleep(_LOOK_S)


# In a worker

_in_work = Counter[str]()
_counting = threading.Lock()


def _count_tasks(folder: str) -> int:
    return _in_work[folder]


def do_task(description: str, version: str, task: Any) -> Any:
    """Do one task in a worker; return its result, or the `Crash` or `JobError` it ended with."""
    if version != __version__:
        return BackendUnavailableError(
            f"the worker has gpuprep {__version__}, the job {version}",
            code="other-version",
            subject=socket.gethostname(),
            hint="install the same gpuprep everywhere",
        )
    folder = str(Path(description).parent)
    with _counting:
        _in_work[folder] += 1
    try:
        if not Path(description).exists():
            return OutputError(
                "the worker does not see the output folder of the job",
                code="output-not-shared",
                subject=f"{socket.gethostname()}:{folder}",
                hint="sources and output have to lie on a file system that all machines have under the same path",
            )
        return outcome_of(_load(description), task)
    finally:
        with _counting:
            _in_work[folder] -= 1


@lru_cache(maxsize=1)
def _load(description: str) -> Callable[[Any], Any]:
    """Return what is done to each task; it was written by the user who runs the job."""
    work: Callable[[Any], Any] = pickle.loads(Path(description).read_bytes())
    return work
