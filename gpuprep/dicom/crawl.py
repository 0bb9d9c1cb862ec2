"""Folders → files. What a file is shows its content, not its name: every regular file is a candidate."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from gpuprep.errors import InputNotFoundError

#: Files between two calls of `on_progress`.
PROGRESS_STEP = 1000


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A regular file, maybe DICOM: absolute path, size in bytes, modified in ns since 1970, inode number."""

    path: str
    size: int
    mtime_ns: int
    inode: int


@dataclass(frozen=True, slots=True)
class CrawlProblem:
    """A path that the crawl could not enter or follow.

    `code`: ``unreadable-folder``, ``broken-symlink``, or ``unreadable`` (a file whose status the system does not tell).
    """

    path: str
    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class _Place:
    """A source or a link: status of what it leads to, and (device, inode) of the folder which that is in."""

    path: str
    status: os.stat_result
    home: tuple[int, int]


def crawl(
    sources: Sequence[Path], on_progress: Callable[[int], None] | None = None
) -> Iterator[FoundFile | CrawlProblem]:
    """Find all regular files in folders and below.

    Files come folder by folder, by name; what symbolic links lead to comes last, so that a file or folder that is also
    reached without a link has its own path, and is found once. Loops end for the same reason. Sockets, pipes and
    devices are left out. Only folders and links are remembered, not files: a million files need no more memory than one
    folder's names.

    Parameters
    ----------
    sources : sequence of Path
        Folders, or files. Nothing in them is written.
    on_progress : callable, optional
        Called with the number of files found, every `PROGRESS_STEP` files and at the end.

    Yields
    ------
    FoundFile or CrawlProblem
        Lazily.

    Raises
    ------
    InputNotFoundError
        ``path-missing``: a source does not exist; raised before anything is read.
    """
    places = [_stat_source(source) for source in sources]
    return _count_files(_walk(places), on_progress) if on_progress else _walk(places)


def _stat_source(source: Path) -> _Place:
    try:
        return _follow(source.absolute())
    except OSError as error:
        raise InputNotFoundError(
            f"cannot be read: {error.strerror}",
            code="path-missing",
            subject=str(source),
            hint="check the path; it may be a folder or a file",
        ) from error


def _follow(path: Path) -> _Place:
    return _Place(str(path), path.stat(), _inode(path.resolve().parent.stat()))


def _inode(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _walk(sources: Sequence[_Place]) -> Iterator[FoundFile | CrawlProblem]:
    listed: set[tuple[int, int]] = set()
    links: list[str] = []
    for source in sources:
        if stat.S_ISDIR(source.status.st_mode):
            yield from _walk_folder(source.path, listed, links)
    loose: set[tuple[int, int]] = set()
    for source in sources:
        yield from _visit_file(source, listed, loose)
    for link in links:  # which grows where a link leads to a folder with links
        try:
            place = _follow(Path(link))
        except OSError as error:
            yield CrawlProblem(link, "broken-symlink", str(error.strerror))
            continue
        if stat.S_ISDIR(place.status.st_mode):
            yield from _walk_folder(place.path, listed, links)
        else:
            yield from _visit_file(place, listed, loose)


def _walk_folder(top: str, listed: set[tuple[int, int]], links: list[str]) -> Iterator[FoundFile | CrawlProblem]:
    pending = [top]
    while pending:
        folder = pending.pop()
        try:
            inode = _inode(Path(folder).stat())
            if inode in listed:
                continue
            with os.scandir(folder) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except OSError as error:
            yield CrawlProblem(folder, "unreadable-folder", str(error.strerror))
            continue
        listed.add(inode)
        folders = []
        for entry in entries:
            try:
                if entry.is_symlink():
                    links.append(entry.path)
                elif entry.is_dir():
                    folders.append(entry.path)
                elif entry.is_file():
                    status = entry.stat()
                    yield FoundFile(entry.path, status.st_size, status.st_mtime_ns, status.st_ino)
            except OSError as error:
                yield CrawlProblem(entry.path, "unreadable", str(error.strerror))
        pending.extend(reversed(folders))


def _visit_file(
    place: _Place, listed: set[tuple[int, int]], loose: set[tuple[int, int]]
) -> Iterator[FoundFile | CrawlProblem]:
    """Yield the file at the end of a link, or named as a source, unless its own folder has given it already."""
    inode = _inode(place.status)
    if stat.S_ISREG(place.status.st_mode) and inode not in loose and place.home not in listed:
        loose.add(inode)
        yield FoundFile(place.path, place.status.st_size, place.status.st_mtime_ns, place.status.st_ino)


def _count_files(
    found: Iterator[FoundFile | CrawlProblem], on_progress: Callable[[int], None]
) -> Iterator[FoundFile | CrawlProblem]:
    count = 0
    for item in found:
        if isinstance(item, FoundFile):
            count += 1
            if count % PROGRESS_STEP == 0:
                on_progress(count)
        yield item
    on_progress(count)
