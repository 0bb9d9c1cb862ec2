"""Files that appear complete or not at all."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gpuprep.errors import WriteError

#: Files with this suffix are unfinished; a run removes those it finds.
PART_SUFFIX = ".gpuprep-part"

_CODES = {
    errno.ENOSPC: "disk-full",
    errno.EDQUOT: "disk-full",
    errno.EACCES: "not-writable",
    errno.EROFS: "not-writable",
}


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; on success it becomes `path` by rename, on failure it is removed.

    Raises
    ------
    WriteError
        ``disk-full``, ``not-writable`` or ``write-failed``: the system refused.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}{PART_SUFFIX}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield part
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        code = _CODES.get(error.errno or 0, "write-failed")
        raise WriteError(f"cannot write: {error.strerror or error}", code=code, subject=str(path)) from error


def write_text(path: Path, text: str) -> None:
    """Write a text file (UTF-8) through `replacing`."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")


def remove_parts(folder: Path) -> int:
    """Remove what a killed run left unfinished below `folder`; return how many files that was."""
    parts = [p for p in folder.rglob(f".*{PART_SUFFIX}") if p.is_file()]
    for part in parts:
        part.unlink(missing_ok=True)
    return len(parts)
