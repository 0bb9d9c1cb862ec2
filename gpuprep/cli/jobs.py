"""How every job runs: sources found, cases watched; and ends: reports, a summary, an exit status."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import click

from gpuprep.cli.options import RunOptions
from gpuprep.config import OnExisting, Resources
from gpuprep.errors import ExitStatus
from gpuprep.hostlib import usable_cores
from gpuprep.report.progress import Progress, count_files
from gpuprep.report.summary import format_summary, write_reports
from gpuprep.run.job import Execution
from gpuprep.run.ledger import CaseRow, FileProblem
from gpuprep.run.sources import Sources, open_sources


@contextmanager
def open_run(paths: Sequence[Path], output: Path, run: RunOptions) -> Iterator[tuple[Sources, Execution]]:
    """Read the headers of all sources, then give these and how the job runs; errors as `open_sources`."""
    workers = run.resources.workers or usable_cores()
    with count_files() as on_progress:
        sources = open_sources(
            paths, index_path=run.index_path, workers=workers, output=output, on_progress=on_progress
        )
    with watched(run.on_existing, run.resources) as execution:
        yield sources, execution


@contextmanager
def watched(on_existing: OnExisting, resources: Resources) -> Iterator[Execution]:
    """Give how a job runs, and show its progress."""
    with Progress() as progress:
        yield Execution(on_existing, resources, progress.start, progress.add)


def finish(
    made: Path, folder: Path, rows: Sequence[CaseRow], problems: Sequence[FileProblem], unlabelled: int = 0
) -> ExitStatus:
    """Write the reports into `folder`, print what was made, and on stderr a summary; return the exit status."""
    report, _ = write_reports(folder, rows, problems)
    click.echo(str(made))
    click.echo(format_summary(rows, problems, unlabelled), err=True)
    click.echo(f"report: {report}", err=True)
    codes = {row.code for row in rows if row.status == "failed"}
    if "internal" in codes:
        return ExitStatus.INTERNAL
    if codes:
        return ExitStatus.CASES_FAILED
    return ExitStatus.DONE if rows else ExitStatus.NO_INPUT
