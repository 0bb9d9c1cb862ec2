"""Source folders or an index → series, links, and what could not be used."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from gpuprep.dicom.index import (
    Index,
    Series,
    build_index,
    is_screenshot,
    is_segmentation,
    read_index,
    write_index,
)
from gpuprep.dicom.link import LinkResult, link
from gpuprep.errors import ConfigError, InputNotFoundError
from gpuprep.run.ledger import FileProblem
from gpuprep.run.plan import IMAGE_MODALITIES, SEGMENTATION_MODALITIES
from gpuprep.writers.atomic import of_the_job, replacing

#: End of the name of an index.
INDEX_SUFFIX = ".parquet"


@dataclass(frozen=True, slots=True)
class Sources:
    """What the sources hold.

    Series that no job takes are in `series` and in `problems`: those without Modality (``modality-missing``),
    screenshots in the modality of images (``screenshot``), and what has the modality of a segmentation and the SOP
    class of something else, such as Surface Segmentation (``sop-class-unsupported``).
    """

    series: tuple[Series, ...]
    links: LinkResult
    problems: tuple[FileProblem, ...]


def open_sources(
    paths: Sequence[Path],
    *,
    index_path: Path | None,
    workers: int,
    output: Path | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> Sources:
    """Crawl folders, with the help of an earlier index if one is given, and link what they hold.

    Parameters
    ----------
    paths : sequence of Path
        Folders and files, or one index written by `write_index`, which is then taken as it is.
    index_path : Path, optional
        Index to start from and to bring up to date: only new and changed files are read.
    workers : int
        Threads for reading headers.
    output : Path, optional
        Where the job writes; what lies there is no input, also when that is inside a source.
    on_progress : callable, optional
        Told the number of files read so far.

    Raises
    ------
    InputNotFoundError
        ``path-missing``; ``no-dicom-found``: no file below the sources is DICOM.
    ConfigError
        ``output-is-source``; those of `load_index`.
    """
    if output is not None:
        refuse_as_output(paths, output)
    index = load_index(paths, index_path=index_path, workers=workers, on_progress=on_progress)
    if output is not None:
        index = leave_out(index, paths, output)
    series = index.series()
    if not series:
        files = len(index.instances)
        raise InputNotFoundError(
            f"none of {files} files is DICOM with a series" if files else "there are no files",
            code="no-dicom-found",
            subject=", ".join(map(str, paths)),
            hint="gpuprep show with these sources tells why" if files else "check the paths",
        )
    problems = [FileProblem(p.path, p.error_code, p.error_detail) for p in index.problems]
    for one in series:
        path, count = one.instances[0].path, len(one.instances)
        if not one.modality:
            problems.append(FileProblem(path, "modality-missing", f"{count} instances of its series lack Modality"))
        elif one.modality in IMAGE_MODALITIES.values() and all(map(is_screenshot, one.instances)):
            detail = f"{count} secondary captures without a place in the patient"
            problems.append(FileProblem(path, "screenshot", detail))
        elif one.modality in SEGMENTATION_MODALITIES:
            problems += [
                FileProblem(i.path, "sop-class-unsupported", f"{i.modality} of SOP class {i.sop_class_uid}")
                for i in one.instances
                if not is_segmentation(i)
            ]
    return Sources(tuple(series), link(series), tuple(problems))


def refuse_as_output(paths: Iterable[Path], output: Path) -> None:
    """Refuse to write into a source, by whatever name.

    Raises
    ------
    ConfigError
        ``output-is-source``.
    """
    if any(_are_same(path, output) for path in paths):
        raise ConfigError(
            "the output is a source, and sources are not written to",
            code="output-is-source",
            subject=str(output),
            hint="choose another one; a folder inside the source is left out when it is read",
        )


def _are_same(path: Path, other: Path) -> bool:
    try:
        return path.samefile(other)
    except (OSError, ValueError):  # who reads or writes there tells why
        return False


def leave_out(index: Index, paths: Sequence[Path], output: Path) -> Index:
    """Return the index of `paths` without what lies in the output folder.

    Raises
    ------
    OutputError
        ``not-writable``: the system does not even say whether that is there.
    """
    own = output.resolve()
    sources = [path.resolve() for path in paths]
    with of_the_job():
        is_there = own.is_dir()
    if not is_there or not any(own.is_relative_to(s) or s.suffix == INDEX_SUFFIX for s in sources):
        return index
    folders = {row.path.rpartition(os.sep)[0] for row in index.instances}
    left_out = {folder for folder in folders if Path(folder).resolve().is_relative_to(own)}
    return Index(tuple(row for row in index.instances if row.path.rpartition(os.sep)[0] not in left_out))


def load_index(
    paths: Sequence[Path], *, index_path: Path | None, workers: int, on_progress: Callable[[int], None] | None = None
) -> Index:
    """Read the index that `paths` names, or build one and keep it at `index_path`.

    Raises
    ------
    InputNotFoundError
        Those of `build_index` and `read_index`.
    OutputError
        Those of `replacing`: the index cannot be written.
    ConfigError
        ``two-indices``: `paths` is an index, and `index_path` is given too; ``bad-index-name``: a new one would not be
        known for an index; and those of `read_index`.
    """
    if len(paths) == 1 and paths[0].suffix == INDEX_SUFFIX and is_seen(paths[0]) and paths[0].is_file():
        if index_path is not None:
            raise ConfigError(
                "the source is an index, which is taken as it is",
                code="two-indices",
                subject=str(paths[0]),
                hint="name the folders instead, to bring an index of them up to date",
            )
        return read_index(paths[0])
    previous = read_index(index_path) if index_path is not None and is_seen(index_path) else None
    if previous is None and index_path is not None and index_path.suffix != INDEX_SUFFIX:
        raise ConfigError(
            f"the name of an index ends in {INDEX_SUFFIX}, by which it is known for one",
            code="bad-index-name",
            subject=str(index_path),
            hint=f"call it {index_path.name}{INDEX_SUFFIX}",
        )
    index = build_index(paths, previous=previous, workers=workers, on_progress=on_progress)
    if index_path is not None:
        with of_the_job(), replacing(index_path) as part:
            write_index(index, part)
    return index


def is_seen(path: Path) -> bool:
    """Whether there is something; False also where one may not look: who reads or writes there tells why."""
    try:
        path.stat()
    except (OSError, ValueError):  # a ValueError is what a zero byte in a name gets
        return False
    return True
