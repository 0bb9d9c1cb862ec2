import io
import sys

import pytest

from gpuprep.errors import GeometryError
from gpuprep.report import progress
from gpuprep.run.ledger import CaseRow

DONE = CaseRow("a", "k", "c", "p", "done", seconds=0.5)
WARNED = [CaseRow("b", "k", "c", "p", "done", seconds=2, details={"warnings": ["x"] * n}) for n in (1, 2)]
FAILED = CaseRow("c", "k", "c", "p", "failed").failed(GeometryError("a gap", code="missing-slice"))


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def shown(monkeypatch):
    """What goes to stderr, made a terminal or not."""

    def replace(stream):
        monkeypatch.setattr(sys, "stderr", stream)
        return stream

    return replace


def test_a_terminal_shows_the_count_in_one_line_that_is_gone_at_the_end(shown):
    stream = shown(Terminal())
    with progress.count_files() as show:
        show(1000)
        show(2000)
    assert stream.getvalue() == "\r1000 files\r2000 files\r\x1b[K"


def test_a_log_gets_a_line_now_and_then(shown, monkeypatch):
    seconds = iter([0.0, 1.0, 11.0, 11.0, 12.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(seconds))
    stream = shown(io.StringIO())
    with progress.count_files() as show:
        for files in (1000, 2000, 3000):
            show(files)
    assert stream.getvalue() == "2000 files\n"


@pytest.mark.parametrize(
    ("skipped", "first"), [(0, []), (1, ["1 case is done already"]), (2, ["2 cases are done already"])]
)
def test_in_a_log_each_case_is_a_line(shown, skipped, first):
    stream = shown(io.StringIO())
    with progress.Progress() as shows:
        shows.start(4, skipped)
        for row in (DONE, *WARNED, FAILED):
            shows.add(row)
    assert stream.getvalue().splitlines() == [
        *first,
        "[1/4] a done in 0.50 s",
        "[2/4] b done in 2.00 s, 1 warning: see the report",
        "[3/4] b done in 2.00 s, 2 warnings: see the report",
        "[4/4] c failed: a gap [missing-slice]",
    ]


def test_on_a_terminal_a_bar_counts_and_failures_are_lines(shown):
    stream = shown(Terminal())
    with progress.Progress() as shows:
        shows.start(2, 0)
        shows.add(FAILED)
        shows.add(DONE)
    text = stream.getvalue()
    assert "c failed: a gap [missing-slice]\n" in text and "a done" not in text
    assert "2/2 [" in text and "MB/s, 1 failed]" in text.split("\r")[-1]
