"""The index: what the headers of all files below the sources say, kept as Parquet, grouped into series."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from itertools import islice, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpuprep.dicom.crawl import CrawlProblem, FoundFile, crawl
from gpuprep.dicom.findings import Finding
from gpuprep.dicom.header import (
    LABELMAP_SEG_UID,
    RTDOSE_UID,
    RTSTRUCT_UID,
    SEG_UID,
    InstanceHeader,
    divide_copies,
    read_headers,
)
from gpuprep.errors import ConfigError, InputNotFoundError

if TYPE_CHECKING:
    import pyarrow as pa

#: Files whose headers are read at a time; bounds what the reader holds beside the rows.
CHUNK_FILES = 4096
#: Counts up when rows of older indexes can no longer be used.
INDEX_VERSION = 3
#: SOP classes whose instances outline what an image shows.
SEGMENTATION_SOP_CLASSES = frozenset({RTSTRUCT_UID, SEG_UID, LABELMAP_SEG_UID})
#: SOP classes with pixels that are no image: those of segmentations, and RT Dose.
NO_IMAGE_SOP_CLASSES = SEGMENTATION_SOP_CLASSES | {RTDOSE_UID}
#: Secondary Capture Image Storage: screenshots and dose reports in the modality of their study, as a rule.
SECONDARY_CAPTURE_UID = "1.2.840.10008.5.1.4.1.1.7"
#: Values that a message lists, and the most characters of each: value representations UI and LO, PS3.5 6.2.
LISTED_VALUES, LISTED_CHARACTERS = 3, 64

#: Series Instance UID and modality: series of two modalities may share a UID.
SeriesKey = tuple[str, str]

_VERSION_KEY = b"gpuprep.index.version"
_PATH_BYTES = "path_bytes"


@dataclass(frozen=True, slots=True)
class Series:
    """The instances of one series and modality, from whatever folders.

    Parameters
    ----------
    study_instance_uid, series_instance_uid, patient_id, modality, sop_class_uid : str
        Those of the first instance.
    instances : tuple of InstanceHeader
        Each SOP instance once, by path.
    copies : tuple of InstanceHeader
        Further files of the same instances, left out.
    findings : tuple of Finding
        ``duplicate-instance``: files left out because another has the same SOP Instance UID and an equal header, in
        whatever transfer syntax.
        ``conflicting-instances``: files with the same SOP Instance UID and other headers; all are among `instances`.
        ``conflicting-patient-ids``, ``conflicting-study-uids``, ``conflicting-frames-of-reference``: what should be
        one within a series is not.
        ``shared-series-uid``: another modality has this Series Instance UID too.
    """

    study_instance_uid: str
    series_instance_uid: str
    patient_id: str
    modality: str
    sop_class_uid: str
    instances: tuple[InstanceHeader, ...]
    copies: tuple[InstanceHeader, ...] = ()
    findings: tuple[Finding, ...] = ()

    @property
    def key(self) -> SeriesKey:
        """What no other series has."""
        return self.series_instance_uid, self.modality

    @property
    def is_image(self) -> bool:
        """Whether it has pixels that show the patient, and is more than localizers and screenshots."""
        return any(map(is_image, self.instances))

    @property
    def frame_of_reference_uids(self) -> frozenset[str]:
        """Frames of reference that its instances name."""
        return frozenset(i.frame_of_reference_uid for i in self.instances if i.frame_of_reference_uid)


@dataclass(frozen=True, slots=True)
class Index:
    """One row a file, by path.

    Parameters
    ----------
    instances : tuple of InstanceHeader
        All files that were found, usable or not, and the folders and links that could not be followed. Beside the
        error codes of `InstanceHeader` and `CrawlProblem` a row may have ``no-series-uid``: it is DICOM, but belongs
        to no series.
    """

    instances: tuple[InstanceHeader, ...]

    @property
    def problems(self) -> tuple[InstanceHeader, ...]:
        """The rows with an error code. Each row is either here or in one of `series`."""
        return tuple(row for row in self.instances if row.error_code)

    def series(self) -> tuple[Series, ...]:
        """Group the usable rows, by Patient ID, Study, Series Instance UID and modality, in this order."""
        groups: dict[SeriesKey, list[InstanceHeader]] = {}
        for row in self.instances:
            if not row.error_code:
                groups.setdefault((row.series_instance_uid, row.modality), []).append(row)
        modalities = Counter(uid for uid, _ in groups)
        series = [_build_series(rows, is_uid_shared=modalities[uid] > 1) for (uid, _), rows in groups.items()]
        return tuple(
            sorted(series, key=lambda s: (s.patient_id, s.study_instance_uid, s.series_instance_uid, s.modality))
        )


def list_some(values: Sequence[str]) -> str:
    """Return the first values for a message, each cut to the length that UIDs and Patient IDs may have."""
    more = len(values) - LISTED_VALUES
    listed = ", ".join(value[:LISTED_CHARACTERS] or "none" for value in values[:LISTED_VALUES])
    return f"{listed} and {more} more" if more > 0 else listed


def is_segmentation(instance: InstanceHeader) -> bool:
    """Tell whether an instance outlines what an image shows: RTSTRUCT or SEG."""
    return instance.sop_class_uid in SEGMENTATION_SOP_CLASSES


def is_image(instance: InstanceHeader) -> bool:
    """Tell whether an instance has pixels that show the patient.

    Localizers (PS3.3 C.8.2.1.1.1, value 3) do not count, nor do screenshots.
    """
    has_pixels = bool(instance.rows) and instance.sop_class_uid not in NO_IMAGE_SOP_CLASSES
    return has_pixels and "LOCALIZER" not in instance.image_type.split("\\") and not is_screenshot(instance)


def is_screenshot(instance: InstanceHeader) -> bool:
    """Tell whether an instance is a secondary capture without a place in the patient: a screenshot, a dose report."""
    return instance.sop_class_uid == SECONDARY_CAPTURE_UID and not instance.image_position_lps_mm


def build_index(
    sources: Sequence[Path],
    *,
    previous: Index | None = None,
    workers: int = 1,
    on_progress: Callable[[int], None] | None = None,
) -> Index:
    """Crawl folders and read the headers of all files in them.

    Parameters
    ----------
    sources : sequence of Path
        Folders and files; nothing is written there.
    previous : Index, optional
        Rows of files whose path, size and time of modification are as they were are taken from here. Files that are
        no longer below the sources are dropped.
    workers : int
        Threads for reading headers.
    on_progress : callable, optional
        Told the number of files done so far, once a chunk.

    Raises
    ------
    InputNotFoundError
        ``path-missing``: a source does not exist.
    """
    known = {row.path: row for row in previous.instances} if previous else {}
    rows: list[InstanceHeader] = []
    found = crawl(sources)
    while chunk := list(islice(found, CHUNK_FILES)):
        rows += _read_chunk(chunk, known, workers)
        if on_progress:
            on_progress(len(rows))
    return Index(tuple(sorted(rows, key=lambda row: row.path)))


def _read_chunk(
    chunk: Sequence[FoundFile | CrawlProblem], known: dict[str, InstanceHeader], workers: int
) -> Iterator[InstanceHeader]:
    to_read: list[str] = []
    for item in chunk:
        if isinstance(item, CrawlProblem):
            yield InstanceHeader(path=item.path, error_code=item.code, error_detail=item.detail)
            continue
        row = known.get(item.path)
        if row and (row.size, row.mtime_ns) == (item.size, item.mtime_ns) and row.error_code != "unreadable":
            yield row
        else:
            to_read.append(item.path)
    for row in read_headers(to_read, workers=workers):
        if row.error_code or row.series_instance_uid:
            yield row
        else:
            yield replace(row, error_code="no-series-uid", error_detail="Series Instance UID (0020,000E) is missing")


# --- Series ----------------------------------------------------------------------------------------------------------


def _build_series(rows: Sequence[InstanceHeader], *, is_uid_shared: bool) -> Series:
    first = rows[0]
    instances, copies = divide_copies(rows)
    findings = _judge_copies(instances, copies)
    for attribute, code, what in (
        ("patient_id", "conflicting-patient-ids", "Patient IDs"),
        ("study_instance_uid", "conflicting-study-uids", "Study Instance UIDs"),
        ("frame_of_reference_uid", "conflicting-frames-of-reference", "Frame of Reference UIDs"),
    ):
        counts = Counter(getattr(row, attribute) for row in instances)
        if len(counts) > 1:
            findings.append(Finding(code, f"{len(counts)} {what} in one series: {list_some(sorted(counts))}"))
    if is_uid_shared:
        findings.append(Finding("shared-series-uid", "another modality has the same Series Instance UID"))
    return Series(
        first.study_instance_uid,
        first.series_instance_uid,
        first.patient_id,
        first.modality,
        first.sop_class_uid,
        tuple(instances),
        tuple(copies),
        tuple(findings),
    )


def _judge_copies(instances: Sequence[InstanceHeader], copies: Sequence[InstanceHeader]) -> list[Finding]:
    """Return findings of copies that were left out, and of instances that claim to be the same."""
    same_uid: dict[str, list[InstanceHeader]] = {}
    for row in instances:
        same_uid.setdefault(row.sop_instance_uid, []).append(row)
    findings = []
    if copies:
        example = same_uid[copies[0].sop_instance_uid][0].path
        findings.append(
            Finding(
                "duplicate-instance", f"{len(copies)} further copies of an instance, e.g. {copies[0].path} of {example}"
            )
        )
    findings += [
        Finding(
            "conflicting-instances",
            f"{len(same)} different files with SOP Instance UID {uid[:LISTED_CHARACTERS]}, e.g. {same[1].path}",
        )
        for uid, same in same_uid.items()
        if uid and len(same) > 1
    ]
    return findings


# --- Parquet ---------------------------------------------------------------------------------------------------------


def write_index(index: Index, path: Path) -> None:
    """Write an index as Parquet, a row a file, columns named and ordered as the fields of `InstanceHeader`.

    A path that is not UTF-8 has its bytes in the column ``path_bytes``, which is null for all others.

    Raises
    ------
    OSError
        The system refused; an unfinished file may be left.
    """
    import pyarrow as pa
    import pyarrow.parquet

    schema = _build_schema()
    columns = {f.name: [getattr(row, f.name) for row in index.instances] for f in fields(InstanceHeader)}
    columns[_PATH_BYTES] = [None if _is_utf8(p) else os.fsencode(p) for p in columns["path"]]
    columns["path"] = [os.fsencode(p).decode("utf-8", "replace") for p in columns["path"]]
    table = pa.table({f.name: pa.array(columns[f.name], f.type) for f in schema}, schema=schema)
    with path.open("wb") as file:
        pa.parquet.write_table(table, file, compression="zstd")


def read_index(path: Path) -> Index:
    """Read what `write_index` wrote.

    Raises
    ------
    InputNotFoundError
        ``path-missing``: there is no such file; ``index-unreadable``: the system does not give it, or it is no file.
    ConfigError
        ``not-an-index``: it is no Parquet file, or not one of ours; ``index-version``: another version wrote it.
    """
    import pyarrow as pa
    import pyarrow.parquet

    try:
        is_file = stat.S_ISREG(path.stat().st_mode)  # a pipe or a device may never end
        content = path.read_bytes() if is_file else b""
    except OSError as error:
        code = "path-missing" if isinstance(error, FileNotFoundError) else "index-unreadable"
        raise _unreadable_index(path, error.strerror or str(error), code) from error
    if not is_file:
        raise _unreadable_index(path, "it is a folder or a device", "index-unreadable")
    try:
        table = pa.parquet.read_table(pa.BufferReader(content))
    except (pa.ArrowException, OSError) as error:  # an OSError is what pyarrow raises on damaged pages
        raise _not_an_index(path, "it is no Parquet file, or a damaged one") from error
    version = (table.schema.metadata or {}).get(_VERSION_KEY)
    if version is None:
        raise _not_an_index(path, "it is Parquet, but no index of gpuprep")
    if version != str(INDEX_VERSION).encode() or not table.schema.equals(_build_schema()):
        raise ConfigError(
            f"the index has format {version.decode(errors='replace')}, this is format {INDEX_VERSION}",
            code="index-version",
            subject=str(path),
            hint="delete it and index again",
        )
    columns = {name: _list_values(table[name].combine_chunks()) for name in table.schema.names}
    paths = columns.pop(_PATH_BYTES)
    columns["path"] = [os.fsdecode(raw) if raw else text for text, raw in zip(columns["path"], paths, strict=True)]
    rows = tuple(InstanceHeader.__new__(InstanceHeader) for _ in range(table.num_rows))
    for name, values in columns.items():  # by column and past __init__, which would take most of the time
        set_slot = getattr(InstanceHeader, name).__set__
        for row, value in zip(rows, values, strict=True):
            set_slot(row, value)
    return Index(rows)


def _list_values(array: pa.Array) -> list[Any]:
    """Return the values of a column as Python objects, lists as tuples; equal texts are one object."""
    import pyarrow as pa

    if pa.types.is_list(array.type):
        values, bounds = _list_values(array.values), array.offsets.to_pylist()
        return [tuple(values[begin:end]) for begin, end in pairwise(bounds)]
    if pa.types.is_integer(array.type) or pa.types.is_floating(array.type):
        numbers = array.fill_null(0).to_numpy().tolist()
        absent = array.is_null().to_numpy(zero_copy_only=False).tolist()
        return [None if is_absent else number for number, is_absent in zip(numbers, absent, strict=True)]
    encoded = array.dictionary_encode()
    texts = [*encoded.dictionary.to_pylist(), None]
    return [texts[i] for i in encoded.indices.fill_null(-1).to_numpy().tolist()]


def _unreadable_index(path: Path, reason: str, code: str) -> InputNotFoundError:
    hint = "name the index file itself; gpuprep index SRC -o FILE.parquet writes one"
    return InputNotFoundError(f"the index cannot be read: {reason}", code=code, subject=str(path), hint=hint)


def _not_an_index(path: Path, reason: str) -> ConfigError:
    return ConfigError(reason, code="not-an-index", subject=str(path), hint="gpuprep index SRC -o INDEX writes one")


def _build_schema() -> pa.Schema:
    import pyarrow as pa

    types = {  # by kind, or by annotation for the columns that are not from DICOM
        "str": pa.string(),
        "text": pa.string(),
        "uid": pa.string(),
        "uids": pa.list_(pa.string()),
        "int": pa.int64(),
        "float": pa.float64(),
        "factor": pa.float64(),
        "floats": pa.list_(pa.float64()),
        "presence": pa.bool_(),
    }
    columns = [(f.name, types[f.metadata.get("kind", f.type)]) for f in fields(InstanceHeader)]
    return pa.schema([*columns, (_PATH_BYTES, pa.binary())], metadata={_VERSION_KEY: str(INDEX_VERSION)})


def _is_utf8(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True
