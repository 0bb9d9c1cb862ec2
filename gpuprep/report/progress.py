"""What a person sees while work goes on: a bar or a count on a terminal, plain lines elsewhere. Always on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

import click

from gpuprep.report.summary import describe_failure
from gpuprep.run.ledger import CaseRow

#: Seconds between two lines of a count that does not go to a terminal.
_SECONDS_A_LINE = 10.0


@contextmanager
def count_files() -> Iterator[Callable[[int], None]]:
    """Give what shows a growing number of files: on a terminal in one line, which is gone at the end."""
    is_terminal = sys.stderr.isatty()
    shown = time.monotonic()

    def show(files: int) -> None:
        nonlocal shown
        if is_terminal:
            click.echo(f"\r{files} files", nl=False, err=True)
        elif time.monotonic() - shown >= _SECONDS_A_LINE:
            click.echo(f"{files} files", err=True)
            shown = time.monotonic()

    try:
        yield show
    finally:
        if is_terminal:
            click.echo("\r\x1b[K", nl=False, err=True)


class Progress:
    """Counts cases, bytes and failures.

    On a terminal a bar shows cases/s, MB/s of input, the time left and failures; elsewhere each case is one line.
    """

    def __init__(self) -> None:
        self._bar: Any = None
        self._total = self._finished = self._failed = self._bytes = 0
        self._start = time.monotonic()

    def start(self, total: int, skipped: int) -> None:
        """Begin with the number of cases to do, and of those that are done already."""
        self._total = total
        self._start = time.monotonic()
        if skipped:
            click.echo(f"{skipped} {'case is' if skipped == 1 else 'cases are'} done already", err=True)
        if sys.stderr.isatty() and total:
            from tqdm import tqdm

            self._bar = tqdm(total=total, unit="case", dynamic_ncols=True)

    def add(self, row: CaseRow) -> None:
        """Count a finished case."""
        self._finished += 1
        self._failed += row.status == "failed"
        self._bytes += row.input_bytes
        rate = self._bytes / 1e6 / max(time.monotonic() - self._start, 1e-9)
        if self._bar is not None:
            self._bar.set_postfix_str(f"{rate:.0f} MB/s, {self._failed} failed", refresh=False)
            self._bar.update()
            if row.status == "failed":
                self._bar.write(_line(row), file=sys.stderr)
        else:
            click.echo(f"[{self._finished}/{self._total}] {_line(row)}", err=True)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.close()


def _line(row: CaseRow) -> str:
    if row.status == "done":
        warnings = len(row.details.get("warnings", ()))
        return f"{row.case} done in {row.seconds:.2f} s" + (
            f", {warnings} warning{'s' * (warnings > 1)}: see the report" if warnings else ""
        )
    return f"{row.case} failed: {describe_failure(row)} [{row.code}]"
