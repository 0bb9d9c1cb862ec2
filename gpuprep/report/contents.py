"""The index of the files that a job wrote: a row a file, and for masks a row a ROI; CSV or Parquet."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from gpuprep.writers.atomic import of_the_job, replacing, write_text
from gpuprep.writers.base import Output

#: Column → Parquet type. Voxel indices and sizes are in NIfTI's order: x along columns, y along rows, z along slices.
#: ``dtype`` and ``voxels_crc32`` are of the voxels of a NIfTI file; of the palette's codes in other mask containers.
COLUMNS = {
    "path": "string",
    "bytes": "int64",
    "voxels_crc32": "int64",
    "case": "string",
    "patient_id": "string",
    "modality": "string",
    "study_instance_uid": "string",
    "series_instance_uid": "string",
    "sop_instance_uid": "string",
    "reference_series_uid": "string",
    "dtype": "string",
    **{f"size_{axis}": "int64" for axis in "xyz"},
    **{f"spacing_{axis}_mm": "float64" for axis in "xyz"},
    "units": "string",
    "minimum": "float64",
    "maximum": "float64",
    "mean": "float64",
    "std": "float64",
    "roi": "string",
    "label_value": "int64",
    "voxels": "int64",
    "volume_mm3": "float64",
    **{f"box_{end}_{axis}": "int64" for end in ("first", "last") for axis in "xyz"},
}


#: The formats an index of files is written in.
CONTENTS_FORMATS = ("csv", "parquet")


def write_contents(folder: Path, outputs: Iterable[Output], form: str) -> Path:
    """Write ``index.csv`` or ``index.parquet`` of files into `folder`, remove the other one, and return the path.

    Raises
    ------
    OutputError
        The codes of `replacing`.
    """
    entries = (entry for output in outputs for entry in _entries(output))
    write = {"csv": _write_csv, "parquet": _write_parquet}[form]
    paths = {name: folder / f"index.{name}" for name in CONTENTS_FORMATS}
    write(paths[form], entries)
    for name in set(paths) - {form}:
        with of_the_job():
            paths[name].unlink(missing_ok=True)
    return paths[form]


def _write_csv(path: Path, entries: Iterable[dict[str, Any]]) -> None:
    text = io.StringIO()
    table = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    table.writeheader()
    table.writerows(entries)
    write_text(path, text.getvalue())


def _write_parquet(path: Path, entries: Iterable[dict[str, Any]]) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    rows = list(entries)
    columns = {
        name: pa.array([row.get(name) for row in rows], pa.type_for_alias(kind)) for name, kind in COLUMNS.items()
    }
    with of_the_job(), replacing(path) as part, part.open("wb") as file:
        parquet.write_table(pa.table(columns), file, compression="zstd")


def _entries(output: Output) -> Iterator[dict[str, Any]]:
    content = output.content
    entry = {name: content[name] for name in COLUMNS if name in content}
    entry |= {"path": output.path, "bytes": output.size}
    for axis, size, spacing in zip("xyz", content["shape"], content["spacing_mm"], strict=True):
        entry |= {f"size_{axis}": size, f"spacing_{axis}_mm": spacing}
    rois = content.get("rois", ())
    if not rois:
        yield entry
    for roi in rois:
        about = {"roi": roi["name"], "label_value": roi.get("value")}
        about |= {"voxels": roi["voxels"], "volume_mm3": roi["volume_mm3"]}
        if roi["box"] is not None:
            for end, corner in zip(("first", "last"), roi["box"], strict=True):
                about |= {f"box_{end}_{axis}": at for axis, at in zip("xyz", corner, strict=True)}
        yield entry | about
