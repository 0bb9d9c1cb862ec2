"""A process pool on one machine: a case a task, and a crash costs one case.

The standard library's pools give up, or lose tasks, when a worker dies; here a codec's segmentation fault or the
kernel's out-of-memory killer must end one case with a row and leave the others alone. So each worker has a pipe of
its own, the driver knows which tasks it holds, and a dead worker is replaced. A worker that held several tasks in
threads leaves open which one killed it: they are run again, one at a time, and the one that kills again is it.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from queue import SimpleQueue
from typing import Any, Generic, Literal, TypeVar

from gpuprep.errors import DeviceLostError, JobError

Task = TypeVar("Task")
StartMethod = Literal["fork", "spawn"]

#: How workers start where nothing speaks against it: macOS has libraries that do not survive a fork.
START_METHOD: StartMethod = "fork" if sys.platform == "linux" else "spawn"
#: Seconds a worker gets to end by itself before it is killed.
_GRACE_S = 2.0
#: Exit status of a worker whose CUDA device failed.
_DEVICE_LOST_STATUS = 86
#: mallopt's parameters (malloc.h), and the most that M_TRIM_THRESHOLD takes.
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _NEVER = -1, -4, 2**31 - 1


@dataclass(frozen=True, slots=True)
class Crash:
    """Why a task has no result.

    Parameters
    ----------
    reason : str
        One line: the signal or exit status, or the exception.
    details : str
        The traceback, when there is one.
    code : {"worker-killed", "device-lost", "out-of-memory", "internal"}
        Whether the process was killed (a fault in native code, or by the kernel for want of memory), ended because its
        CUDA device had failed, got no memory, or raised what it should not.
    """

    reason: str
    details: str = ""
    code: Literal["worker-killed", "device-lost", "out-of-memory", "internal"] = "internal"


@dataclass(slots=True)
class _Worker(Generic[Task]):
    """A process, the tasks it holds by their place among all, and whether it may hold one only."""

    process: Any
    pipe: Connection
    environment: Mapping[str, str]
    tasks: dict[int, Task] = field(default_factory=dict)
    is_on_trial: bool = False


def map_isolated(
    work: Callable[[Task], Any],
    tasks: Sequence[Task],
    *,
    workers: int,
    slots: int = 1,
    environments: Sequence[Mapping[str, str]] = ({},),
    start_by: StartMethod = START_METHOD,
    on_send: Callable[[Task], None] | None = None,
) -> Generator[tuple[Task, Any | Crash], None, None]:
    """Run `work` over `tasks` in processes; yield (task, result or `Crash`) as they finish.

    Closing the generator (Ctrl-C, an error in the caller) ends the workers at once, and so does the driver's own end.

    Parameters
    ----------
    work : callable
        Called in a worker with one task; in as many threads at once as there are `slots`. A `JobError` ends the whole
        map; any other exception that escapes is a `Crash` with its traceback.
    tasks : sequence
    workers : int
        Processes at most; never more than tasks.
    slots : int
        Tasks that a process works on at once.
    environments : sequence of mappings
        Environment variables that worker 0, 1, … sets before it does anything; they take turns.
    start_by : {"fork", "spawn"}
        To fork is cheap, and safe as long as the driver has no threads and has not touched CUDA. What is forked knows
        `work` and tasks; what is spawned gets them pickled.
    on_send : callable, optional
        Told each task before a worker gets it.
    """
    context: Any = multiprocessing.get_context(start_by)
    known = tasks if start_by == "fork" else ()
    waiting = deque(enumerate(tasks))
    suspects: deque[tuple[int, Task]] = deque()
    pool: list[_Worker[Task]] = []

    def start(environment: Mapping[str, str]) -> None:
        ours, theirs = context.Pipe()
        inherited = [ours, *(w.pipe for w in pool)] if start_by == "fork" else []
        process = context.Process(target=_serve, args=(work, theirs, inherited, known, slots, environment), daemon=True)
        worker: _Worker[Task] = _Worker(process, ours, environment)
        with _interrupts_held():
            process.start()
            pool.append(worker)
        theirs.close()
        feed(worker)

    def feed(worker: _Worker[Task]) -> None:
        while len(worker.tasks) < slots and not worker.is_on_trial:
            if suspects and not worker.tasks:
                worker.is_on_trial = True
                send(worker, *suspects.popleft())
            elif waiting and not suspects:
                send(worker, *waiting.popleft())
            else:
                break
        if not worker.tasks:
            worker.pipe.close()
            pool.remove(worker)
            worker.process.join(_GRACE_S)

    def send(worker: _Worker[Task], number: int, task: Task) -> None:
        if on_send is not None:
            on_send(task)
        worker.tasks[number] = task
        with suppress(BrokenPipeError, ConnectionResetError):  # it has died: the next read from its pipe tells
            worker.pipe.send((number, None if known else task))

    try:
        for i in range(min(workers, -(-len(tasks) // slots))):
            start(environments[i % len(environments)])
        while pool:
            ready = wait([w.pipe for w in pool])
            for worker in [w for w in pool if w.pipe in ready]:
                try:
                    number, outcome = worker.pipe.recv()
                except (EOFError, ConnectionResetError):
                    worker.process.join(_GRACE_S)
                    pool.remove(worker)
                    if len(worker.tasks) == 1:
                        ((_, task),) = worker.tasks.items()
                        yield task, _death(worker.process.exitcode)
                    else:
                        suspects.extend(worker.tasks.items())
                    if waiting or suspects:
                        start(worker.environment)
                    continue
                if isinstance(outcome, JobError):
                    raise outcome
                task = worker.tasks.pop(number)
                worker.is_on_trial = False
                feed(worker)
                yield task, outcome
    finally:
        for worker in pool:
            worker.process.terminate()
        for worker in pool:
            worker.process.join(_GRACE_S)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join(_GRACE_S)
            worker.pipe.close()


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Have Ctrl-C wait until the block ends; a process that is started in it never gets it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(
    work: Callable[[Any], Any],
    pipe: Connection,
    inherited: Sequence[Connection],
    known: Sequence[Any],
    slots: int,
    environment: Mapping[str, str],
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for other in inherited:
        other.close()
    os.environ.update(environment)
    _keep_freed_memory()
    sending = threading.Lock()
    inbox: SimpleQueue[tuple[int, Any]] = SimpleQueue()

    def receive() -> None:
        try:
            while True:
                inbox.put(pipe.recv())
        except (EOFError, ConnectionResetError):
            os._exit(0)  # the driver has all results, or is gone: then what is in work belongs to the next run
        except Exception:  # a task that this process cannot make out
            traceback.print_exc()
            os._exit(1)

    def do(number: int, task: Any) -> None:
        outcome = outcome_of(work, known[number] if known else task)
        with sending:
            pipe.send((number, outcome))

    threading.Thread(target=receive, daemon=True).start()
    if slots == 1:
        while True:
            do(*inbox.get())
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(slots, thread_name_prefix="slot") as threads:
        while True:
            threads.submit(do, *inbox.get())


def outcome_of(work: Callable[[Any], Any], task: Any) -> Any:
    """Return what `work` makes of a task, or the `JobError` or `Crash` that it ends with, in a worker."""
    try:
        return work(task)
    except JobError as error:
        return error
    except DeviceLostError:  # nor would the device do the tasks beside this one, nor the next ones
        os._exit(_DEVICE_LOST_STATUS)
    except MemoryError as error:
        return Crash(f"there is too little memory: {error}", code="out-of-memory")
    except Exception as error:  # the boundary: whatever a case raises must become its row
        return Crash(f"{type(error).__name__}: {error}", traceback.format_exc())


def _keep_freed_memory() -> None:
    """Have glibc reuse the volumes of one task for the next: fresh pages cost more than the copy into them."""
    if sys.platform == "linux":
        library = ctypes.CDLL(None)
        if hasattr(library, "mallopt"):  # musl has none
            library.mallopt(_M_MMAP_MAX, 0)
            library.mallopt(_M_TRIM_THRESHOLD, _NEVER)


def _death(exitcode: int | None) -> Crash:
    if exitcode is not None and exitcode < 0:
        return Crash(f"the worker process was ended by {signal.Signals(-exitcode).name}", code="worker-killed")
    if exitcode == _DEVICE_LOST_STATUS:
        return Crash("the CUDA device failed, and with it the worker process", code="device-lost")
    return Crash(f"the worker process ended with status {exitcode}", code="worker-killed")
