"""A table of the images below a folder: UIDs, path, inode, size, one row a TIFF or DICOM file, in flat memory."""

from __future__ import annotations

import csv
import json
import logging
import os
import re
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass, fields, replace
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, TextIO

from gpuprep.coordinates import TIFF_ERRORS
from gpuprep.dicom.crawl import CrawlProblem, FoundFile, crawl
from gpuprep.dicom.header import InstanceHeader, read_headers
from gpuprep.errors import ConfigError, InputNotFoundError, OutputError, WriteError
from gpuprep.writers.atomic import replacing
from gpuprep.writers.tiff import MOST_PAGES, PAGE_NUMBER, TIFF_SUFFIXES, name_compression

_DICOM_SUFFIXES = (".dcm", ".dicom")
#: Of file names; others are the end of a UID.
_SUFFIXES = (*_DICOM_SUFFIXES, *TIFF_SUFFIXES)
#: How TIFF and BigTIFF begin, in either byte order.
_TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
#: Files that are described at a time, and rows that are written at a time.
_BATCH = 1000
_ROWS_AT_ONCE = 10_000
#: Greatest number that a column holds; greater ones are garbled.
_GREATEST = 0xFFFFFFFF
#: Memory that sorting may take before it goes to disk, KiB.
_SORT_MEMORY_KIB = 16_000
_UID = re.compile(r"\d+(\.\d+)+")


@dataclass(frozen=True, slots=True)
class ManifestRow:
    """One image file; numbers are 0 where `error` is not empty.

    Parameters
    ----------
    study_instance_uid, series_instance_uid, sop_instance_uid : str
        Of the file: ImageDescription of a TIFF, or the DICOM header; else of its path, study/sop or study/series/sop.
    path : str
        Relative to the folder, with slashes.
    inode : int
        For reading in the order of the disk.
    width, height, channels, num_frames : int
        Pixels, samples a pixel, pages or frames.
    bits : int
        Of a sample: as it lies in a TIFF, as stored by DICOM.
    compression : str
        What ``gpuprep tiff --compressor`` calls it, or the Transfer Syntax UID.
    error : str
        ``unreadable``, ``empty-file``, ``not-tiff``, ``tiff-damaged``, ``pixel-data-truncated``, ``name-not-utf8``,
        ``unreadable-folder``, ``broken-symlink``, ``not-an-image``, ``attribute-invalid`` and what `InstanceHeader`
        has.
    """

    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str
    path: str
    inode: int
    width: int = 0
    height: int = 0
    channels: int = 0
    num_frames: int = 0
    bits: int = 0
    compression: str = ""
    error: str = ""


COLUMNS = tuple(f.name for f in fields(ManifestRow))
_NUMBERS = ("inode", "width", "height", "channels", "num_frames", "bits")


@dataclass(frozen=True, slots=True)
class ManifestCounts:
    """How many rows there are, how many of them with an error, and files that are neither TIFF nor DICOM."""

    rows: int
    errors: int
    others: int


def write_manifest(
    folder: Path, output: Path | TextIO, *, workers: int, on_progress: Callable[[int], None] | None = None
) -> ManifestCounts:
    """Write one row an image below a folder, sorted by study, series, SOP Instance UID and path.

    Rows are sorted on disk, in SQLite's temporary folder: memory does not grow with the number of files.

    Parameters
    ----------
    folder : Path
    output : Path or text stream
        .csv or .parquet; a stream gets CSV.
    workers : int
        Threads that read files.
    on_progress : callable, optional
        Told the number of files found so far.

    Raises
    ------
    ConfigError
        ``bad-table``: another suffix; ``not-a-folder``.
    InputNotFoundError
        ``path-missing``; ``no-image-found``.
    OutputError
        ``disk-full``, ``not-writable``, ``write-failed``; ``sort-failed``: no room for the temporary file.
    """
    if isinstance(output, Path) and output.suffix.lower() not in (".csv", ".parquet"):
        raise ConfigError(
            "a table is .csv or .parquet", code="bad-table", subject=str(output), hint="name the file accordingly"
        )
    if folder.is_file():
        raise ConfigError(
            "a manifest is made of a folder",
            code="not-a-folder",
            subject=str(folder),
            hint="name the folder that the file is in",
        )
    logging.getLogger("tifffile").addHandler(logging.NullHandler())  # damage has an error code instead
    database = sqlite3.connect("")  # a temporary file, which nobody else sees
    try:
        database.execute(f"PRAGMA cache_size = -{_SORT_MEMORY_KIB}")
        database.execute("PRAGMA temp_store = FILE")
        database.execute(f"CREATE TABLE images ({', '.join(COLUMNS)})")
        counts = _collect(database, folder.absolute(), workers, on_progress)
        if not counts.rows:
            raise InputNotFoundError(
                f"none of {counts.others} files is TIFF or DICOM",
                code="no-image-found",
                subject=str(folder),
                hint="check the path",
            )
        _write(database, output)
    except sqlite3.Error as error:
        raise OutputError(
            f"the rows cannot be sorted: {error}",
            code="sort-failed",
            hint="SQLITE_TMPDIR names a folder for temporary files that has room",
        ) from error
    except WriteError as error:
        raise OutputError(error.message, code=error.code, subject=error.subject, hint="choose another place") from error
    finally:
        database.close()
    return counts


def _collect(
    database: sqlite3.Connection, folder: Path, workers: int, on_progress: Callable[[int], None] | None
) -> ManifestCounts:
    rows = errors = others = 0
    found = crawl([folder], on_progress)
    insert = f"INSERT INTO images VALUES ({', '.join('?' * len(COLUMNS))})"
    with ThreadPoolExecutor(workers, thread_name_prefix="manifest") as pool:
        while batch := list(islice(found, _BATCH)):
            described = [row for row in _describe(batch, folder, pool, workers) if row is not None]
            database.executemany(insert, [_to_database(row) for row in described])
            rows += len(described)
            errors += sum(row.error != "" for row in described)
            others += len(batch) - len(described)
    return ManifestCounts(rows, errors, others)


def _describe(
    batch: Sequence[FoundFile | CrawlProblem], folder: Path, pool: ThreadPoolExecutor, workers: int
) -> Iterator[ManifestRow | None]:
    """Yield the row of each item, or None for a file that is no image."""
    files = [item for item in batch if isinstance(item, FoundFile)]
    tiffs = [file for file in files if _is_tiff(file.path)]
    described = dict(zip((f.path for f in tiffs), pool.map(describe_tiff, (f.path for f in tiffs)), strict=True))
    headers = {h.path: h for h in read_headers([f.path for f in files if f.path not in described], workers=workers)}
    for item in batch:
        if isinstance(item, CrawlProblem):
            yield replace(_named(item.path, folder, 0), error=item.code)
            continue
        named = _named(item.path, folder, item.inode)
        row = described.get(item.path) or _describe_dicom(headers[item.path])
        if row is None:
            yield None
            continue
        uids = {name: getattr(row, name) or getattr(named, name) for name in COLUMNS[:3]}
        yield replace(row, path=named.path, inode=item.inode, error=row.error or named.error, **uids)


def _is_tiff(path: str) -> bool:
    """Whether a file is called a TIFF, or begins like one."""
    if path.lower().endswith(TIFF_SUFFIXES):
        return True
    try:
        with Path(path).open("rb") as file:
            start = file.read(132)
            return start[:4] in _TIFF_MAGIC and start[128:] != b"DICM"  # which may have any preamble
    except OSError:  # told again, with its code, by the reader of headers
        return False


def describe_tiff(path: str) -> ManifestRow:
    """Return the row of a TIFF, with UIDs if it tells them.

    Only the first page is looked at, and its pixels only as to whether the file is long enough for them: to find every
    page of a tomosynthesis takes as many seeks. PageNumber tells how many there are; else they are counted.
    """
    import tifffile

    row = ManifestRow("", "", "", path, 0)
    try:
        with tifffile.TiffFile(path) as file:
            page: Any = file.pages.first
            number = page.tags.valueof(PAGE_NUMBER, (0, 0))
            total = number[1] if isinstance(number, tuple) and len(number) == 2 else 0
            ends = (o + n for o, n in zip(page.dataoffsets, page.databytecounts, strict=True))
            is_cut = max(ends, default=0) > file.filehandle.size
            found = replace(
                row,
                **_read_uids(page.description),
                width=page.imagewidth,
                height=page.imagelength,
                channels=page.samplesperpixel,
                num_frames=total if 0 < total < MOST_PAGES else len(file.pages),
                bits=max(page.bitspersample) if isinstance(page.bitspersample, tuple) else page.bitspersample,
                compression=name_compression(page.compression),
                error="pixel-data-truncated" if is_cut else "",
            )
        return found if _has_numbers(found) else replace(row, error="tiff-damaged")
    except OSError:
        return replace(row, error="unreadable")
    except tifffile.TiffFileError:
        return replace(row, error="not-tiff" if Path(path).stat().st_size else "empty-file")
    except TIFF_ERRORS:
        return replace(row, error="tiff-damaged")


def _has_numbers(row: ManifestRow) -> bool:
    numbers = [getattr(row, name) for name in _NUMBERS[1:]]
    return all(isinstance(n, int) and 0 <= n <= _GREATEST for n in numbers)


def _read_uids(description: str) -> dict[str, Any]:
    """Return the UIDs in the ImageDescription of a file of ``gpuprep tiff``."""
    try:
        told = json.loads(description)
    except ValueError:
        return {}
    if not isinstance(told, dict):
        return {}
    uids = {name: told.get(name) for name in COLUMNS[:3]}
    return {name: uid for name, uid in uids.items() if isinstance(uid, str) and uid.isascii()}


def _describe_dicom(header: InstanceHeader) -> ManifestRow | None:
    """Return the row of a DICOM file; None for what is none and is not called so."""
    is_called_dicom = header.path.lower().endswith(_DICOM_SUFFIXES)
    if header.error_code in ("not-dicom", "empty-file", "dicomdir") and not is_called_dicom:
        return None
    row = ManifestRow(
        header.study_instance_uid, header.series_instance_uid, header.sop_instance_uid, header.path, 0,
        error=header.error_code,
    )  # fmt: skip
    if row.error:
        return row
    if not header.rows or not header.columns:
        return replace(row, error="not-an-image")
    found = replace(
        row,
        width=header.columns,
        height=header.rows,
        channels=header.samples_per_pixel or 1,
        num_frames=header.number_of_frames or 1,
        bits=header.bits_stored or header.bits_allocated or 0,
        compression=header.transfer_syntax_uid,
    )
    return found if _has_numbers(found) else replace(row, error="attribute-invalid")


def _named(path: str, folder: Path, inode: int) -> ManifestRow:
    """Return a row of what the path of a file tells: study/sop or study/series/sop."""
    relative = Path(os.path.relpath(path, folder)).as_posix()
    error = ""
    try:
        relative.encode()
    except UnicodeEncodeError:
        relative, error = relative.encode("utf-8", "backslashreplace").decode(), "name-not-utf8"
    *folders, name = PurePosixPath(relative).parts or (relative,)  # the folder itself has none
    has_series = len(folders) > 1 and _UID.fullmatch(folders[-2]) is not None
    study = folders[-2] if has_series else folders[-1] if folders else ""
    is_suffixed = PurePosixPath(name).suffix.lower() in _SUFFIXES
    stem = PurePosixPath(name).stem if is_suffixed else name
    return ManifestRow(study, folders[-1] if has_series else "", stem, relative, inode, error=error)


# Sorting and writing


def _to_database(row: ManifestRow) -> tuple[Any, ...]:
    return astuple(replace(row, inode=str(row.inode)))  # type: ignore[arg-type]  # SQLite's integers have a sign


def _write(database: sqlite3.Connection, output: Path | TextIO) -> None:
    rows = database.execute(f"SELECT {', '.join(COLUMNS)} FROM images ORDER BY {', '.join(COLUMNS[:4])}")
    if not isinstance(output, Path):
        _write_csv(rows, output)
        return
    with replacing(output) as part:
        if output.suffix.lower() == ".csv":
            with part.open("w", encoding="utf-8", newline="") as stream:
                _write_csv(rows, stream)
        else:
            _write_parquet(rows, part)


def _write_csv(rows: sqlite3.Cursor, stream: TextIO) -> None:
    table = csv.writer(stream, lineterminator="\n")
    table.writerow(COLUMNS)
    table.writerows(rows)


def _write_parquet(rows: sqlite3.Cursor, path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    types = {"inode": pa.uint64()} | dict.fromkeys(_NUMBERS[1:], pa.uint32())
    schema = pa.schema([(name, types.get(name, pa.string())) for name in COLUMNS])
    with path.open("wb") as file, parquet.ParquetWriter(file, schema) as writer:
        while batch := rows.fetchmany(_ROWS_AT_ONCE):
            columns = [list(column) for column in zip(*batch, strict=True)]
            columns[COLUMNS.index("inode")] = [int(text) for text in columns[COLUMNS.index("inode")]]
            writer.write_table(pa.table(columns, schema=schema))
