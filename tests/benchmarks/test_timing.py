import json
import os
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

#: Python from 3.12 warns of forks beside threads, which other tests of this process may have started.
forks = pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")


def append(path, text):
    with path.open("a") as file:
        file.write(text)


@pytest.fixture
def timing(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import timing

    monkeypatch.setattr(timing, "RESULTS", tmp_path)
    return timing


def test_ratios_are_medians_over_rounds(timing):
    ours = iter([timing.Run(1, 2, 10), timing.Run(2, 2, 10), timing.Run(4, 2, 10)])
    theirs = iter([timing.Run(8, 8, 50), timing.Run(6, 6, 20), timing.Run(8, 2, 30)])
    report = timing.Report("trial")
    rows = report.contest("walk", {"gpuprep": lambda: next(ours), "peer": lambda: next(theirs)}, 3)
    assert rows["peer"] == {
        "wall_s": 8, "wall_s_ratio": 3, "cpu_s": 6, "cpu_s_ratio": 3, "peak_mb": 30, "peak_mb_ratio": 3,
    }  # fmt: skip
    saved = json.loads(report.path.read_text())
    assert saved["contests"]["walk"]["runs"]["peer"][0] == {"wall_s": 8, "cpu_s": 8, "peak_mb": 50}
    assert saved["machine"]["cores"] >= 1


@forks
def test_the_order_rotates_and_the_first_round_of_calls_does_not_count(timing, tmp_path):
    order = tmp_path / "order"
    calls = {name: timing.Call(lambda n=name: append(order, n)) for name in "abc"}
    rows = timing.Report("trial").contest("turns", calls, 2, ours="a", scale=10)
    assert order.read_text() == "cababcbca"
    assert set(rows) == set("abc")


@forks
def test_contestants_that_are_calls_have_processes_of_their_own(timing, tmp_path):
    folder = tmp_path / "processes"
    folder.mkdir()
    calls = {name: timing.Call(lambda n=name: append(folder / n, f"{os.getpid()} ")) for name in "ab"}
    timing.Report("trial").contest("turns", calls, 2, ours="a")
    a, b = ((folder / name).read_text().split() for name in "ab")
    assert len(a) == len(b) == 3
    assert len({*a, *b, str(os.getpid())}) == 3


@forks
def test_a_call_that_fails_stops_the_benchmark(timing):
    calls = {"well": timing.Call(lambda: None), "ill": timing.Call(lambda: 1 / 0)}
    with pytest.raises(SystemExit, match="ill failed"):
        timing.Report("trial").contest("turns", calls, 2, ours="well")


def test_a_missed_demand_is_the_exit_status(timing):
    report = timing.Report("trial")
    report.demand("times as fast", 3.2, at_least=3)
    assert report.close() == 0
    report.demand("MB", 1.2, at_most=1)
    assert report.close() == 1
    assert json.loads(report.path.read_text())["demands"]["MB"] == {
        "measured": 1.2, "demanded": "<= 1", "is_met": False,
    }  # fmt: skip


def test_memory_and_time_of_a_command_are_those_of_its_tree(timing):
    child = "bytes(range(256)) * 400_000; import time; time.sleep(0.2)"
    run = timing.Command(["sh", "-c", f'python3 -c "a = {child}"; true'])()
    assert run.peak_mb > 100
    assert run.wall_s > 0.2


def test_a_command_that_fails_stops_the_benchmark(timing):
    with pytest.raises(SystemExit, match="no such thing"):
        timing.Command(["sh", "-c", "echo no such thing >&2; exit 3"])()


def test_renewing_keeps_what_else_was_measured_today(timing):
    timing.Report("trial").figure("old", 1)
    renewed = timing.Report("trial", renewing=True)
    renewed.figure("new", 2)
    assert json.loads(renewed.path.read_text())["figures"] == {"old": 1, "new": 2}
    timing.Report("trial").figure("only", 3)
    assert json.loads(renewed.path.read_text())["figures"] == {"only": 3}
