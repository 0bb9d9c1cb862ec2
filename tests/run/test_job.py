"""What a job leaves behind when it is interrupted, wherever its driver happens to be."""

import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from gpuprep.config import OnExisting, Resources
from gpuprep.errors import OutputError
from gpuprep.run.job import Execution, run_plans
from gpuprep.run.ledger import CaseRow, Ledger
from gpuprep.run.slots import BackendChoice, Placement
from gpuprep.writers.atomic import PART_SUFFIX


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
