"""A job that is interrupted, and what the next one makes of what it left."""

from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from gpuprep.config import OnExisting, Resources
from gpuprep.errors import ConfigError, RoiError
from gpuprep.run.job import Execution, run_plans
from gpuprep.run.ledger import CaseRow, Ledger
from gpuprep.run.plan import FailedPlan
from gpuprep.run.slots import BackendChoice, Placement
from gpuprep.writers.base import Output


@dataclass(frozen=True)
class Plan:
    case: str
    patient: str = "p"
    key: str = "k"
    subject: str = "1.2.3"


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
