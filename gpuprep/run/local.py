"""A process pool on one machine: a case a task, and a crash costs one case.

The standard library's pools give up, or lose tasks, when a worker dies; here a codec's segmentation fault or the
kernel's out-of-memory killer must end one case with a row and leave the others alone. So each worker has a pipe of
its own, the driver knows which task it holds, and a dead worker is replaced.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import signal
import sys
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, Generic, TypeVar

from gpuprep.errors import JobError

Task = TypeVar("Task")

#: Seconds a worker gets to end by itself before it is killed.
_GRACE_S = 2.0
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
    by_signal : bool
        Whether the process was killed (a fault in native code, or out of memory) rather than raising.
    """

    reason: str
    details: str = ""
    by_signal: bool = False


@dataclass(slots=True)
class _Worker(Generic[Task]):
    process: Any
    pipe: Connection
    task: Task | None = None


def map_isolated(
    work: Callable[[Task], Any], tasks: Sequence[Task], *, workers: int
) -> Iterator[tuple[Task, Any | Crash]]:
    """Run `work` over `tasks` in processes; yield (task, result or `Crash`) as they finish.

    Processes are forked on Linux, where that is cheap and safe as long as the driver has not touched CUDA, and
    spawned elsewhere; `work` and tasks must then be picklable. Closing the generator (Ctrl-C, an error in the
    caller) ends the workers at once.

    Parameters
    ----------
    work : callable
        Called in a worker with one task. A `JobError` ends the whole map; any other exception that escapes is a
        `Crash` with its traceback.
    tasks : sequence
    workers : int
        Processes at most; never more than tasks.
    """
    context: Any = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    waiting = deque(tasks)
    pool: list[_Worker[Task]] = []

    def start() -> None:
        ours, theirs = context.Pipe()
        inherited = [ours, *(w.pipe for w in pool)] if context.get_start_method() == "fork" else []
        process = context.Process(target=_serve, args=(work, theirs, inherited), daemon=True)
        process.start()
        theirs.close()
        worker: _Worker[Task] = _Worker(process, ours)
        pool.append(worker)
        feed(worker)

    def feed(worker: _Worker[Task]) -> None:
        worker.task = waiting.popleft() if waiting else None
        if worker.task is None:
            worker.pipe.close()
            pool.remove(worker)
            worker.process.join(_GRACE_S)
        else:
            with suppress(BrokenPipeError):  # it died while idle: the next read from its pipe tells
                worker.pipe.send(worker.task)

    try:
        for _ in range(min(workers, len(tasks))):
            start()
        while pool:
            ready = wait([w.pipe for w in pool])
            for worker in [w for w in pool if w.pipe in ready]:
                task = worker.task
                assert task is not None
                try:
                    outcome = worker.pipe.recv()
                except (EOFError, ConnectionResetError):
                    worker.process.join(_GRACE_S)
                    pool.remove(worker)
                    yield task, _death(worker.process.exitcode)
                    if waiting:
                        start()
                    continue
                if isinstance(outcome, JobError):
                    raise outcome
                feed(worker)
                yield task, outcome
    finally:
        for worker in pool:
            worker.process.terminate()
        for worker in pool:
            worker.process.join(_GRACE_S)
            if worker.process.is_alive():
                worker.process.kill()
            worker.pipe.close()


def _serve(work: Callable[[Any], Any], pipe: Connection, inherited: Sequence[Connection]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for other in inherited:
        other.close()
    _keep_freed_memory()
    while True:
        try:
            task = pipe.recv()
        except EOFError:
            return
        try:
            outcome = work(task)
        except JobError as error:
            outcome = error
        except Exception as error:  # the boundary: whatever a case raises must become its row
            outcome = Crash(f"{type(error).__name__}: {error}", traceback.format_exc())
        pipe.send(outcome)


def _keep_freed_memory() -> None:
    """Have glibc reuse the volumes of one task for the next: fresh pages cost more than the copy into them."""
    if sys.platform == "linux":
        library = ctypes.CDLL(None)
        if hasattr(library, "mallopt"):  # musl has none
            library.mallopt(_M_MMAP_MAX, 0)
            library.mallopt(_M_TRIM_THRESHOLD, _NEVER)


def _death(exitcode: int | None) -> Crash:
    if exitcode is not None and exitcode < 0:
        return Crash(f"the worker process was ended by {signal.Signals(-exitcode).name}", by_signal=True)
    return Crash(f"the worker process ended with status {exitcode}", by_signal=True)
