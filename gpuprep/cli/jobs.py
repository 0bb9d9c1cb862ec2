"""How every job runs: sources found, cases watched; and ends: reports, a summary, an exit status."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import click

from gpuprep.config import OnExisting, Resources
from gpuprep.errors import ExitStatus
from gpuprep.hostlib import usable_cores
from gpuprep.report.progress import Progress, count_files
from gpuprep.report.summary import format_summary, write_reports
from gpuprep.run.job import Execution
from gpuprep.run.ledger import CaseRow, FileProblem
from gpuprep.run.sources import Sources, open_sources


def find_sources(paths: Sequence[Path], output: Path, index_path: Path | None, resources: Resources) -> Sources:
    """Read the headers of all sources and link them; errors as `open_sources`."""
    workers = resources.workers or usable_cores()
    with count_files() as on_progress:
        return open_sources(paths, index_path=index_path, workers=workers, output=output, on_progress=on_progress)


@contextmanager
def watched(on_existing: str, resources: Resources) -> Iterator[Execution]:
    """Give how a job runs, and show its progress."""
    with Progress() as progress:
        yield Execution(OnExisting(on_existing), resources, progress.start, progress.add)


def finish(folder: Path, rows: Sequence[CaseRow], problems: Sequence[FileProblem], unlabelled: int = 0) -> ExitStatus:
    """Write the reports into `folder`, print the summary on stderr, and return the exit status."""
    report, _ = write_reports(folder, rows, problems)
    click.echo(format_summary(rows, problems, unlabelled), err=True)
    click.echo(f"report: {report}", err=True)
    codes = {row.code for row in rows if row.status == "failed"}
    if "internal" in codes:
        return ExitStatus.INTERNAL
    if codes:
        return ExitStatus.CASES_FAILED
    return ExitStatus.DONE if rows else ExitStatus.NO_INPUT
