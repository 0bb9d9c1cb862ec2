"""How every job ends: reports, a summary, an exit status."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from gpuprep.errors import ExitStatus
from gpuprep.report.summary import format_summary, write_reports
from gpuprep.run.ledger import CaseRow, FileProblem


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
