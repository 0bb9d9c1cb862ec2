"""Files that appear complete or not at all."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from gpuprep.errors import OutputError, WriteError

#: Files with this suffix are unfinished; a run removes those it finds.
PART_SUFFIX = ".gpuprep-part"
#: The folder in an output folder that holds what is about the data, and in it, or in a folder for each data set, the
#: table of cases.
SIDECARS, LEDGER = "gpuprep", "ledger.sqlite"

_CODES = {
    errno.ENOSPC: "disk-full",
    errno.EDQUOT: "disk-full",
    errno.EACCES: "not-writable",
    errno.EROFS: "not-writable",
    errno.EEXIST: "not-writable",
    errno.ENOTDIR: "not-writable",
}

_HINT = "make room or choose another output, and run again: what is finished is kept"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; on success it becomes `path` by rename, on failure it is removed.

    A folder made there takes the place of a folder: the old one is moved aside, and removed when the new one has its
    name.

    Raises
    ------
    WriteError
        ``disk-full``, ``not-writable`` or ``write-failed``: the system refused.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}{PART_SUFFIX}")
    old = path.with_name(f".{path.name}.{os.getpid()}-old{PART_SUFFIX}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield part
            if part.is_dir() and path.is_dir():
                path.replace(old)
            part.replace(path)
        finally:
            if old.is_dir() and not path.exists():  # the system refused the second name
                old.replace(path)
            for left in (part, old):
                remove(left)
    except OSError as error:
        raise WriteError(_message(error), code=_code(error), subject=str(path), hint=_HINT) from error


def write_text(path: Path, text: str) -> None:
    """Write a text file of the whole job (UTF-8) through `replacing`; errors as `write_bytes`.

    Bytes of file names that are no UTF-8 are written out, as JSON writes them.
    """
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


@contextmanager
def writing_text(path: Path) -> Iterator[TextIO]:
    """Give a stream that becomes a text file of the whole job; as `write_text`, for what is long."""
    with (
        of_the_job(),
        replacing(path) as part,
        part.open("w", encoding="utf-8", errors="backslashreplace", newline="") as stream,
    ):
        yield stream


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file of the whole job through `replacing`.

    Raises
    ------
    OutputError
        The codes of `replacing`.
    """
    with of_the_job(), replacing(path) as part:
        part.write_bytes(content)


@contextmanager
def of_the_job() -> Iterator[None]:
    """Make an error of what fails within one of the whole job, as for what it cannot go on without.

    Raises
    ------
    OutputError
        The codes of `replacing`.
    """
    try:
        yield
    except WriteError as error:
        raise OutputError(error.message, code=error.code, subject=error.subject, hint=error.hint) from error
    except OutputError:
        raise
    except OSError as error:
        subject = os.fspath(error.filename) if error.filename else ""
        raise OutputError(_message(error), code=_code(error), subject=subject, hint=_HINT) from error


def remove_file(path: Path) -> None:
    """Remove a file of a case, if it is there.

    Raises
    ------
    WriteError
        The codes of `replacing`.
    """
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise WriteError(_message(error), code=_code(error), subject=str(path), hint=_HINT) from error


def make_folder(path: Path) -> None:
    """Make a folder of the job, and those above it, where there is none.

    Raises
    ------
    OutputError
        The codes of `replacing`.
    """
    with of_the_job():
        path.mkdir(parents=True, exist_ok=True)


def _cause(error: OSError) -> OSError:
    """Return what the system said, where pydicom has put a traceback around it."""
    while error.errno is None and isinstance(error.__cause__, OSError):
        error = error.__cause__
    return error


def _message(error: OSError) -> str:
    error = _cause(error)
    if error.errno in (errno.EEXIST, errno.ENOTDIR):  # what Path.mkdir meets on its way
        return "cannot write: a file is where a folder should be"
    return f"cannot write: {os.strerror(error.errno) if error.errno else error}"


def _code(error: OSError) -> str:
    return _CODES.get(_cause(error).errno or 0, "write-failed")


def remove_parts(folder: Path) -> int:
    """Remove what a killed run left unfinished below `folder`; return how many files and folders that was.

    Folders below it that are the output of a job of their own are left alone: that may be running.
    """
    parts: list[Path] = []
    for place, folders, files in os.walk(folder):
        here = Path(place)
        if here != folder and SIDECARS in folders and has_ledger(here):
            folders.clear()
            continue
        parts += [here / name for name in (*folders, *files) if name.startswith(".") and name.endswith(PART_SUFFIX)]
    for part in parts:
        remove(part)
    return len(parts)


def has_ledger(folder: Path) -> bool:
    """Whether a folder is the output of a job: `SIDECARS` in it has the ledger of all of it, or of its data sets."""
    sidecars = folder / SIDECARS
    return (sidecars / LEDGER).exists() or next(sidecars.glob(f"*/{LEDGER}"), None) is not None


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def stored_size(path: Path) -> int:
    """Return the bytes of a file, or of all files in a folder."""
    if path.is_dir():
        return sum(p.stat().st_size for p in path.rglob("*") if p.is_file())
    return path.stat().st_size
