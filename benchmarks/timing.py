"""Timing whole commands in turn: wall time, CPU time and memory of the process tree, and the machine."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

#: Seconds between two looks at the memory of a process tree.
SAMPLE_S = 0.02


@dataclass(frozen=True)
class Run:
    """One run of one command: seconds of wall time, CPU seconds and peak resident MB of its process tree."""

    wall_s: float
    cpu_s: float
    peak_mb: float


@dataclass(frozen=True)
class Contestant:
    """A command, and what must happen before each run of it (removing its last output)."""

    name: str
    command: Sequence[str]
    prepare: Callable[[], None]


def run_in_turn(contestants: Sequence[Contestant], rounds: int) -> dict[str, list[Run]]:
    """Run every contestant once a round, the order rotated by one each round; a command that fails stops it all."""
    runs: dict[str, list[Run]] = {c.name: [] for c in contestants}
    for round_number in range(rounds):
        shift = round_number % len(contestants)
        for contestant in [*contestants[shift:], *contestants[:shift]]:
            contestant.prepare()
            runs[contestant.name].append(measure(contestant.command))
    return runs


def measure(command: Sequence[str]) -> Run:
    """Run a command to its end and return what it took."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    peak = [0.0]
    sampler = threading.Thread(target=_sample, args=(process.pid, peak), daemon=True)
    sampler.start()
    assert process.stderr is not None
    message = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    wall = time.perf_counter() - start
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{message.decode(errors='replace')[-2000:]}")
    return Run(wall, usage.ru_utime + usage.ru_stime, max(peak[0], usage.ru_maxrss / 1024))


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


def compare(runs: dict[str, list[Run]], ours: str) -> list[dict[str, object]]:
    """Return a row a contestant: medians, and medians over rounds of its ratio to `ours`."""
    rows = []
    for name, taken in runs.items():
        row: dict[str, object] = {"name": name, "runs": [asdict(r) for r in taken]}
        for quantity in ("wall_s", "cpu_s", "peak_mb"):
            values = [getattr(r, quantity) for r in taken]
            base = [getattr(r, quantity) for r in runs[ours]]
            row[quantity] = round(statistics.median(values), 4)
            row[f"{quantity}_ratio"] = round(statistics.median(v / b for v, b in zip(values, base, strict=True)), 2)
        rows.append(row)
    return rows


def print_table(title: str, rows: Sequence[dict[str, object]]) -> None:
    """Print medians and ratios."""
    print(f"\n{title}\n{'':34s}{'wall s':>10s}{'CPU s':>10s}{'peak MB':>10s}{'x wall':>9s}{'x CPU':>9s}{'x MB':>9s}")
    for row in rows:
        print(
            f"  {row['name']:32s}{row['wall_s']:10.3f}{row['cpu_s']:10.3f}{row['peak_mb']:10.0f}"
            f"{row['wall_s_ratio']:9.2f}{row['cpu_s_ratio']:9.2f}{row['peak_mb_ratio']:9.2f}"
        )


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
