import io
import sys

import pytest

from gpuprep.report import progress


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
