"""What a job leaves behind when it is interrupted, wherever its driver is, and what the next one makes of it."""

import time
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from gpuprep.config import OnExisting, Resources
from gpuprep.errors import ConfigError, OutputError, RoiError
from gpuprep.run.job import Execution, is_complete, run_plans
from gpuprep.run.ledger import CaseRow, Ledger
from gpuprep.run.plan import FailedPlan
from gpuprep.run.slots import BackendChoice, Placement
from gpuprep.writers.atomic import PART_SUFFIX
from gpuprep.writers.base import Output


@dataclass(frozen=True)
class Plan:
    case: str
    patient: str = "p"
    key: str = "k"
    subject: str = "s"


@dataclass(frozen=True)
class SlowWriter:
    """Every case but the first begins a file again and again, as long as its process lives."""

    folder: Path

    def __call__(self, plan):
        while True:
            (self.folder / f".{plan.case}{PART_SUFFIX}").touch()
            if plan.case == "first":
                return CaseRow(plan.case, plan.key, "c", plan.patient, status="done")
            time.sleep(0.001)


@pytest.mark.parametrize("error", [KeyboardInterrupt, OutputError("full", code="disk-full")])
def test_workers_end_before_their_unfinished_files_are_removed(tmp_path, error):
    """Ctrl-C, or a full disk, while the driver deals with a row and a worker goes on."""

    def fail(row):
        while not list(tmp_path.glob(".other*")):
            time.sleep(0.001)
        raise error

    ledger = Ledger(tmp_path / "ledger.sqlite", "job")
    with pytest.raises(KeyboardInterrupt if error is KeyboardInterrupt else OutputError) as caught:
        run_plans(
            [Plan("first"), Plan("other")],
            work=SlowWriter(tmp_path),
            config="c",
            discard=lambda case: None,
            root=tmp_path,
            own_folders=[tmp_path],
            ledger=ledger,
            execution=Execution(OnExisting.SKIP, Resources("cpu"), on_row=fail),
            placement=Placement(BackendChoice("cpu", 1), processes=2),
        )
    assert caught.traceback  # which keeps the frames of the job, and what they hold
    time.sleep(0.05)
    assert not list(tmp_path.glob(f"*{PART_SUFFIX}"))
    ledger.close()


@dataclass(frozen=True)
class Work:
    """Writes the configuration, always of one size, into a file of the case; may then end the whole job."""

    root: Path
    config: str
    ends_job: bool = False

    def __call__(self, plan):
        (self.root / plan.case).write_text(self.config)
        if self.ends_job:
            raise ConfigError("all of it", code="wrong")
        return CaseRow(plan.case, plan.key, self.config, plan.patient, "done", outputs=(Output(plan.case, 1, 0),))

    def discard(self, case):
        (self.root / case).unlink(missing_ok=True)


@pytest.fixture
def ledger(tmp_path):
    ledger = Ledger(tmp_path / "gpuprep" / "ledger.sqlite", "job")
    yield ledger
    ledger.close()


def run(ledger, work, *plans):
    """Run the plans; return those that were done anew."""
    rows = []
    run_plans(
        plans,
        work=work,
        config=work.config,
        discard=work.discard,
        root=work.root,
        own_folders=(work.root,),
        ledger=ledger,
        execution=Execution(OnExisting.SKIP, Resources(), on_row=rows.append),
        placement=Placement(BackendChoice("cpu", 1), 1),
    )
    return [row.case for row in rows]


def test_what_an_interrupted_run_with_other_options_began_is_done_again(tmp_path, ledger):
    plans = [Plan("a"), Plan("b")]
    first = Work(tmp_path, "1")
    assert run(ledger, first, *plans) == ["a", "b"]
    assert run(ledger, first, *plans) == []
    with pytest.raises(ConfigError):
        run(ledger, Work(tmp_path, "2", ends_job=True), *plans)
    assert (tmp_path / "a").read_text() == "2"
    row = ledger.rows()["a"]
    assert (row.status, row.code, row.outputs) == ("failed", "interrupted", (Output("a", 1, 0),))
    assert run(ledger, first, *plans) == ["a"]
    assert [(tmp_path / name).read_text() for name in "ab"] == ["1", "1"]


def test_a_case_that_cannot_be_planned_any_more_leaves_no_file(tmp_path, ledger):
    first = Work(tmp_path, "1")
    run(ledger, first, Plan("a"))
    elsewhere = replace(ledger.rows()["a"], outputs=(Output("a", 1, 0), Output("a.mask", 1, 0)))
    (tmp_path / "a.mask").write_text("1")
    ledger.put(elsewhere)
    run(ledger, first, FailedPlan("a", "p", RoiError("none", code="no-roi-matched")))
    assert [path.name for path in tmp_path.iterdir()] == ["gpuprep"]
    assert ledger.rows()["a"].outputs == ()


def test_a_case_is_complete_while_its_input_its_options_and_its_files_are_what_they_were(tmp_path):
    row = CaseRow("a", "k", "c", "p", "done", outputs=(Output("one", 3, 0), Output("two", 0, 0)))
    (tmp_path / "one").write_text("one")
    assert not is_complete(row, "k", "c", tmp_path)
    (tmp_path / "two").touch()
    assert is_complete(row, "k", "c", tmp_path)
    assert not is_complete(row, "k", "d", tmp_path)
    assert not is_complete(row, "l", "c", tmp_path)
    assert not is_complete(replace(row, status="failed"), "k", "c", tmp_path)
    (tmp_path / "one").write_text("on")
    assert not is_complete(row, "k", "c", tmp_path)
