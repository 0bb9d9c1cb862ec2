"""The index of the files that a job wrote: a row a file, and for masks a row a ROI; CSV and Parquet."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from gpuprep.writers.atomic import replacing, write_text
from gpuprep.writers.base import Output

#: Column → Parquet type. Voxel indices and sizes are in NIfTI's order: x along columns, y along rows, z along slices.
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


def write_contents(folder: Path, outputs: Iterable[Output]) -> tuple[Path, Path]:
    """Write ``index.csv`` and ``index.parquet`` of files into `folder`; return their paths.

    Raises
    ------
    WriteError
        As `replacing`.
    """
    import pyarrow as pa
    from pyarrow import parquet

    entries = [entry for output in outputs for entry in _entries(output)]
    csv_path, parquet_path = folder / "index.csv", folder / "index.parquet"
    text = io.StringIO()
    table = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    table.writeheader()
    table.writerows(entries)
    write_text(csv_path, text.getvalue())
    columns = {
        name: pa.array([entry.get(name) for entry in entries], pa.type_for_alias(kind))
        for name, kind in COLUMNS.items()
    }
    with replacing(parquet_path) as part:
        parquet.write_table(pa.table(columns), part, compression="zstd")
    return csv_path, parquet_path


def _entries(output: Output) -> Iterator[dict[str, Any]]:
    content = output.content
    entry = {name: content[name] for name in COLUMNS if name in content}
    entry |= {"path": output.path, "bytes": output.size}
    for axis, size, spacing in zip("xyz", content["shape"], content["spacing_mm"], strict=True):
        entry |= {f"size_{axis}": size, f"spacing_{axis}_mm": spacing}
    if "rois" not in content:
        yield entry
    for roi in content.get("rois", ()):
        about = {"roi": roi["name"], "label_value": roi.get("value")}
        about |= {"voxels": roi["voxels"], "volume_mm3": roi["volume_mm3"]}
        if roi["box"] is not None:
            for end, corner in zip(("first", "last"), roi["box"], strict=True):
                about |= {f"box_{end}_{axis}": at for axis, at in zip("xyz", corner, strict=True)}
        yield entry | about
