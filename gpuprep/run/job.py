"""A job: plans in, rows out, through the ledger."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from gpuprep.config import OnExisting, Resources, digest
from gpuprep.errors import CaseError, ConfigError, OutputError
from gpuprep.run.case import CaseOptions, process_case
from gpuprep.run.ledger import CaseRow, FileProblem, Ledger
from gpuprep.run.local import Crash, map_isolated
from gpuprep.run.plan import CasePlan, FailedPlan
from gpuprep.run.slots import BackendChoice, Placement, place, slot_backend
from gpuprep.writers.atomic import LEDGER, SIDECARS, of_the_job, remove, remove_parts, stored_size
from gpuprep.writers.base import CaseWriter, Output

#: By `Crash.code`.
_CRASH_HINTS = {
    "worker-killed": "a decoder crashed or memory ran out; try -j 1, or another decoder",
    "device-lost": "look at nvidia-smi and the kernel's log; run again, if need be with --backend cpu",
    "out-of-memory": "try -j 1, or a coarser --spacing",
    "internal": "this is a bug in gpuprep: please report it with the traceback from report.json",
}


def ignore(*_: object) -> None:
    """Do nothing, where nobody wants to be told."""


@dataclass(frozen=True, slots=True)
class Execution:
    """How a job runs, whatever it makes.

    Parameters
    ----------
    on_existing : OnExisting
        SKIP leaves finished cases alone; a changed input or option makes a case unfinished.
    resources : Resources
    on_start : callable
        Told how many cases there are to do, those that cannot even be planned included, and how many are done already.
    on_row : callable
        Told each new row.
    """

    on_existing: OnExisting
    resources: Resources
    on_start: Callable[[int, int], None] = ignore
    on_row: Callable[[CaseRow], None] = ignore


class Plan(Protocol):
    """What a job has to know of a plan; the work knows the rest."""

    @property
    def case(self) -> str:
        """Its name in the ledger."""

    @property
    def patient(self) -> str:
        """Whose it is."""

    @property
    def key(self) -> str:
        """Digest of the input files."""

    @property
    def subject(self) -> str:
        """Path or UID to name in messages."""


AnyPlan = TypeVar("AnyPlan", bound=Plan)
Task = TypeVar("Task")


@dataclass(frozen=True, slots=True)
class Batching(Generic[AnyPlan]):
    """How several plans are done at once.

    Parameters
    ----------
    group : callable
        Makes batches of plans.
    work : callable
        Makes the rows of a batch, in its order, in a worker; picklable.
    """

    group: Callable[[Sequence[AnyPlan]], Sequence[tuple[AnyPlan, ...]]]
    work: Callable[[tuple[AnyPlan, ...]], list[CaseRow]]


@dataclass(frozen=True, slots=True)
class CaseWork:
    """What a worker does with a plan; picklable."""

    options: CaseOptions
    writer: CaseWriter
    choice: BackendChoice

    def __call__(self, plan: CasePlan) -> CaseRow:
        """Run one case on the backend of this slot."""
        return process_case(plan, self.options, slot_backend(self.choice), self.writer, self.choice.threads)


@contextmanager
def open_job(
    name: str,
    root: Path,
    plans: Sequence[object],
    problems: Iterable[FileProblem],
    resources: Resources,
    *,
    ledger_path: Path | None = None,
) -> Iterator[tuple[Ledger, Placement]]:
    """Decide where a job runs, then open its ledger: of one that cannot run nothing is written.

    Parameters
    ----------
    name : str
        The command.
    root : Path
        The output folder.
    plans : sequence
        What there is to do at most.
    problems : iterable of FileProblem
        The input files that cannot be used.
    resources : Resources
    ledger_path : Path, optional
        By default that of a folder with one data set.

    Raises
    ------
    ConfigError
        ``relative-output``: workers of a cluster may have another working directory; and those of `place`.
    BackendUnavailableError
        Those of `place`.
    OutputError
        Those of `Ledger`.
    """
    if resources.scheduler and not root.is_absolute():
        raise ConfigError(
            "workers may have another working directory, and need the whole path of the output",
            code="relative-output",
            subject=str(root),
            hint=f"write it as {root.absolute()}, if all workers have it there",
        )
    placement = place(resources, len(plans))
    with Ledger(ledger_path or root / SIDECARS / LEDGER, name) as ledger:
        ledger.set_file_problems(problems)
        yield ledger, placement


def run_cases(
    plans: Sequence[CasePlan | FailedPlan],
    *,
    options: CaseOptions,
    writer: CaseWriter,
    root: Path,
    own_folders: Sequence[Path],
    ledger: Ledger,
    execution: Execution,
    placement: Placement,
) -> None:
    """Run the cases that are not done yet; their rows go to the ledger and to ``execution.on_row``.

    Parameters
    ----------
    plans : sequence
    options, writer : CaseOptions, CaseWriter
        What is done to each case, and where it goes.
    root : Path
        Folder that output paths are relative to.
    own_folders : sequence of Path
        Where nobody but the holder of the ledger writes; what a killed run left unfinished there is removed.
    ledger : Ledger
    execution : Execution
    placement : Placement
        Where they run, from `open_job`.

    Raises
    ------
    OutputError
        ``exists``: FAIL is asked for and a case has outputs; and those of `of_the_job` and `Ledger.put`.
    """
    run_plans(
        plans,
        work=CaseWork(options, writer, placement.choice),
        config=digest(options, writer.config),
        discard=writer.discard,
        root=root,
        own_folders=own_folders,
        ledger=ledger,
        execution=execution,
        placement=placement,
    )


def run_plans(
    plans: Sequence[AnyPlan | FailedPlan],
    *,
    work: Callable[[AnyPlan], CaseRow],
    config: str,
    discard: Callable[[str], None],
    root: Path,
    own_folders: Sequence[Path],
    ledger: Ledger,
    execution: Execution,
    placement: Placement,
    batching: Batching[AnyPlan] | None = None,
) -> None:
    """Run any work over plans that are not done yet, as `run_cases` does.

    Parameters
    ----------
    work : callable
        Makes the row of a plan, in a worker; picklable.
    config : str
        Digest of all that changes the outputs.
    discard : callable
        Removes what was written of a case.
    batching : Batching, optional
        Do the plans in batches instead, and by `work` those of a batch that crashes.
    """
    known = ledger.rows()
    todo: list[AnyPlan] = []

    def begin(plan: AnyPlan) -> None:
        ledger.put(interrupted(plan, known.get(plan.case)))

    unplanned: list[FailedPlan] = []
    done = 0
    for plan in plans:
        if isinstance(plan, FailedPlan):
            unplanned.append(plan)
            continue
        row = known.get(plan.case)
        if row is not None and row.status == "done" and execution.on_existing is OnExisting.FAIL:
            raise OutputError(
                f"the case {plan.case} is there already",
                code="exists",
                subject=str(root),
                hint="choose another output folder, or --on-existing skip or overwrite",
            )
        if execution.on_existing is OnExisting.SKIP and row is not None and is_complete(row, plan.key, config, root):
            done += 1
        else:
            todo.append(plan)
    execution.on_start(len(todo) + len(unplanned), done)
    for impossible in unplanned:
        row = CaseRow(impossible.case, key="", config=config, patient=impossible.patient, status="failed")
        row = row.failed(impossible.error)
        with of_the_job():
            discard(impossible.case)
        remove_replaced(known.get(impossible.case), row, root)
        ledger.put(row)
        execution.on_row(row)
    if placement.scheduler:
        from gpuprep.run.cluster import map_on_cluster

        outcomes = map_on_cluster(work, todo, scheduler=placement.scheduler, folder=own_folders[0], on_send=begin)
    elif batching is None:
        outcomes = _map(work, todo, placement, begin)
    else:
        outcomes = _map_batches(batching, work, todo, placement, begin)
    with ending_clean(outcomes, own_folders):
        for plan, outcome in outcomes:
            if isinstance(outcome, Crash):
                with of_the_job():
                    discard(plan.case)
                outcome = crashed(plan, config, outcome)
            remove_replaced(known.get(plan.case), outcome, root)
            ledger.put(outcome)
            execution.on_row(outcome)


def _map_batches(
    batching: Batching[AnyPlan],
    work: Callable[[AnyPlan], CaseRow],
    plans: Sequence[AnyPlan],
    placement: Placement,
    begin: Callable[[AnyPlan], None],
) -> Generator[tuple[AnyPlan, CaseRow | Crash], None, None]:
    def begin_all(batch: tuple[AnyPlan, ...]) -> None:
        for plan in batch:
            begin(plan)

    suspects: list[AnyPlan] = []
    with closing(_map(batching.work, batching.group(plans), placement, begin_all)) as outcomes:
        for batch, outcome in outcomes:
            if isinstance(outcome, Crash):
                suspects.extend(batch)  # alone, one of them will show that it was it
            else:
                yield from zip(batch, outcome, strict=True)
    yield from _map(work, suspects, placement, begin)


def _map(
    work: Callable[[Task], Any], plans: Sequence[Task], placement: Placement, begin: Callable[[Task], None]
) -> Generator[tuple[Task, Any | Crash], None, None]:
    return map_isolated(
        work,
        plans,
        workers=placement.processes,
        slots=placement.slots,
        environments=placement.environments,
        start_by=placement.start_by,
        on_send=begin,
    )


@contextmanager
def ending_clean(outcomes: Generator[Any, None, None], folders: Sequence[Path]) -> Iterator[None]:
    """Leave no unfinished file in `folders`: neither of an earlier run nor, however the block ends, of this one.

    The workers behind `outcomes` are ended first: what still runs goes on writing.
    """
    _clear(folders)
    try:
        with closing(outcomes):
            yield
    finally:
        _clear(folders)


def _clear(folders: Sequence[Path]) -> None:
    with of_the_job():
        for folder in folders:
            remove_parts(folder)


def is_complete(row: CaseRow, key: str, config: str, root: Path) -> bool:
    """Whether a row says done, for this input and configuration, and its files are there in full size."""
    return row.status == "done" and (row.key, row.config) == (key, config) and files_present(row.outputs, root)


def files_present(outputs: Sequence[Output], root: Path) -> bool:
    """Whether all files and folders are there with the size they had."""
    paths = [(root / o.path, o.size) for o in outputs]
    return all(path.exists() and stored_size(path) == size for path, size in paths)


def remove_replaced(old: CaseRow | None, new: CaseRow, root: Path) -> None:
    """Remove the files of a case's earlier run that its new run did not write again."""
    if old is None:
        return
    for path in {o.path for o in old.outputs} - {o.path for o in new.outputs}:
        with of_the_job():
            remove(root / path)


def interrupted(plan: Plan, old: CaseRow | None) -> CaseRow:
    """Return the row of a case that is in work: what a killed run leaves, and counts as done under no options.

    It keeps the outputs of the case's earlier run, for the next one to remove.
    """
    row = CaseRow(
        plan.case, key="", config="", patient=plan.patient, status="failed", outputs=old.outputs if old else ()
    )
    return row.failed(
        CaseError(
            "the run ended while the case was in work",
            code="interrupted",
            subject=plan.subject,
            hint="run the same command again",
        )
    )


def crashed(plan: Plan, config: str, crash: Crash) -> CaseRow:
    """Return the row of a case whose worker died, got no memory, or raised what no case may raise."""
    error = CaseError(
        crash.reason,
        code=crash.code,
        subject=plan.subject,
        hint=_CRASH_HINTS[crash.code],
    )
    details = {"traceback": crash.details} if crash.details else {}
    row = CaseRow(plan.case, plan.key, config, plan.patient, status="failed", details=details)
    return row.failed(error)
