"""Contestants in turn, whole commands or calls in Python: medians of ratios in one run, and the machine.

Every script makes one `Report`, which prints what it is told and writes it to ``benchmarks/results/``.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import platform
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import date
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
OURS = "gpuprep"
#: Seconds between two looks at the memory of a process tree.
SAMPLE_S = 0.02


@dataclass(frozen=True)
class Run:
    """One run: seconds of wall time, CPU seconds of all threads and children, and a command's peak resident MB."""

    wall_s: float
    cpu_s: float
    peak_mb: float | None = None


@dataclass(frozen=True)
class Command:
    """A command, and what must happen before each run of it (removing its last output)."""

    command: Sequence[str]
    prepare: Callable[[], None] = lambda: None

    def __call__(self) -> Run:
        """Run it to its end; one that fails stops the benchmark."""
        self.prepare()
        start = time.perf_counter()
        process = subprocess.Popen(self.command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        peak = [0.0]
        sampler = threading.Thread(target=_sample, args=(process.pid, peak), daemon=True)
        sampler.start()
        assert process.stderr is not None
        with process.stderr:
            message = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        wall = time.perf_counter() - start
        if process.returncode:
            raise SystemExit(f"{' '.join(self.command)} failed:\n{message.decode(errors='replace')[-2000:]}")
        return Run(wall, usage.ru_utime + usage.ru_stime, max(peak[0], usage.ru_maxrss / 1024))


@dataclass(frozen=True)
class Call:
    """Work in Python; what it returns is dropped, so that the next run finds its memory warm."""

    work: Callable[[], object]

    def __call__(self) -> Run:
        """Do it once."""
        wall, cpu = time.perf_counter(), time.process_time()
        self.work()
        return Run(time.perf_counter() - wall, time.process_time() - cpu)


class Contestant:
    """A call in a process of its own, forked from this one, so that nobody else's use of the heap is timed with it."""

    def __init__(self, name: str, call: Call) -> None:
        context = multiprocessing.get_context("fork")
        self._name = name
        self._runs, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(call, theirs), daemon=True)
        self._process.start()
        theirs.close()

    def __call__(self) -> Run:
        """Have it done once; a call that fails stops the benchmark."""
        try:
            self._runs.send(None)
            run = self._runs.recv()
        except (EOFError, BrokenPipeError):
            raise SystemExit(f"{self._name} failed") from None
        assert isinstance(run, Run)
        return run

    def leave(self) -> None:
        """End its process."""
        self._process.kill()
        self._process.join()


def _serve(call: Call, turns: Connection[Run, None]) -> None:
    while True:
        turns.recv()
        turns.send(call())


@contextmanager
def _entered(contestants: Mapping[str, Command | Call]) -> Iterator[dict[str, Callable[[], Run]]]:
    """Give each call its process, unless it is alone."""
    if len(contestants) == 1:
        yield dict(contestants)
        return
    calls = {name: Contestant(name, c) for name, c in contestants.items() if isinstance(c, Call)}
    try:
        yield {**contestants, **calls}
    finally:
        for call in calls.values():
            call.leave()


class Report:
    """What one script measured, printed as it comes and saved as ``results/NAME-DATE.json``.

    Parameters
    ----------
    name : str
        Of the script, without ``bench_``.
    renewing : bool
        Keep what today's file holds, but for what is measured again.
    """

    def __init__(self, name: str, *, renewing: bool = False) -> None:
        today = date.today().isoformat()
        self.path = RESULTS / f"{name}-{today}.json"
        self.missed: list[str] = []
        self.result: dict[str, Any] = {
            "date": today, "machine": describe_machine(), "contests": {}, "figures": {}, "demands": {},
        }  # fmt: skip
        print(json.dumps(self.result["machine"]))
        if renewing and self.path.exists():
            self.result |= json.loads(self.path.read_text())

    def contest(
        self,
        title: str,
        contestants: Mapping[str, Command | Call],
        rounds: int,
        *,
        ours: str = OURS,
        scale: int = 1,
        warm_up: bool = True,
    ) -> dict[str, dict[str, float]]:
        """Run every contestant once a round, the order rotated by one each round; of several each has its own process.

        Parameters
        ----------
        title : str
        contestants : mapping of names to Command or Call
        rounds : int
        ours : str
            Whom the ratios are taken to.
        scale : int
            Units of work a run does; times are of one.
        warm_up : bool
            Whether calls go through a round more, which does not count.

        Returns
        -------
        dict
            Contestant → medians, and medians over rounds of its ratio to `ours`, by quantity of `Run`.
        """
        names = list(contestants)
        runs: dict[str, list[Run]] = {name: [] for name in names}
        warming = warm_up and all(isinstance(c, Call) for c in contestants.values())
        with _entered(contestants) as entered:
            for turn in range(-warming, rounds):
                shift = turn % len(names)
                for name in names[shift:] + names[:shift]:
                    run = entered[name]()
                    if turn >= 0:
                        runs[name].append(run)
        rows = {name: _summarize(taken, runs[ours], scale) for name, taken in runs.items()}
        _print_table(f"{title} ({rounds} rounds)", rows)
        self.result["contests"][title] = {
            "ours": ours, "rows": rows, "runs": {name: [asdict(r) for r in taken] for name, taken in runs.items()},
        }  # fmt: skip
        self.save()
        return rows

    def figure(self, name: str, value: float | str) -> None:
        """Record a figure that is no time."""
        self.result["figures"][name] = value
        print(f"  {name}: {value}")
        self.save()

    def demand(
        self, what: str, measured: float, *, at_least: float | None = None, at_most: float | None = None
    ) -> None:
        """Hold a figure against what is demanded of it."""
        is_met = (at_least is None or measured >= at_least) and (at_most is None or measured <= at_most)
        limit = f">= {at_least:g}" if at_least is not None else f"<= {at_most:g}"
        self.result["demands"][what] = {"measured": measured, "demanded": limit, "is_met": is_met}
        print(f"  {what}: {measured:.4g}, demanded {limit}: {'met' if is_met else 'MISSED'}")
        if not is_met:
            self.missed.append(what)
        self.save()

    def save(self) -> None:
        """Write what there is so far."""
        RESULTS.mkdir(exist_ok=True)
        self.path.write_text(json.dumps(self.result, indent=1) + "\n")

    def close(self) -> int:
        """Say where it is, and return the exit status: 1 when a demand was missed."""
        print(f"\n{self.path}")
        return int(bool(self.missed))


def _summarize(taken: Sequence[Run], ours: Sequence[Run], scale: int) -> dict[str, float]:
    row: dict[str, float] = {}
    for quantity in ("wall_s", "cpu_s", "peak_mb"):
        values, base = ([getattr(r, quantity) for r in runs] for runs in (taken, ours))
        if None in values + base:
            continue
        per = 1 if quantity == "peak_mb" else scale
        row[quantity] = statistics.median(values) / per
        row[f"{quantity}_ratio"] = statistics.median(v / b for v, b in zip(values, base, strict=True) if b)
    return row


def _print_table(title: str, rows: Mapping[str, Mapping[str, float]]) -> None:
    print(f"\n{title}\n{'':34s}{'wall ms':>12s}{'CPU ms':>12s}{'peak MB':>9s}{'x wall':>9s}{'x CPU':>9s}{'x MB':>9s}")
    for name, row in rows.items():
        memory = f"{row['peak_mb']:9.0f}" if "peak_mb" in row else f"{'':9s}"
        times = f"{1e3 * row['wall_s']:12.3f}{1e3 * row['cpu_s']:12.3f}"
        ratios = "".join(f"{row[q]:9.2f}" for q in ("wall_s_ratio", "cpu_s_ratio", "peak_mb_ratio") if q in row)
        print(f"  {name:32s}{times}{memory}{ratios}")


def _sample(root: int, peak: list[float]) -> None:
    while (total := sum(_resident_mb(pid) for pid in _tree(root))) > 0:
        peak[0] = max(peak[0], total)
        time.sleep(SAMPLE_S)


def _tree(pid: int) -> list[int]:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return [pid]
    return [pid, *(p for child in children for p in _tree(int(child)))]


def _resident_mb(pid: int) -> float:
    """Proportional set size, so that pages that forked processes share count once."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def describe_machine() -> dict[str, object]:
    """Return processor, cores, memory, system and Python, for the record of a result."""
    cpu = next(
        (line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        platform.processor(),
    )
    memory = next((line.split()[1] for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), "0")
    return {
        "processor": cpu,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(int(memory) / 1e6, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "load_before": os.getloadavg()[0],
    }


def _lines(path: str) -> list[str]:
    file = Path(path)
    return file.read_text().splitlines() if file.exists() else []
