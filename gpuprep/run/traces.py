"""Boxes drawn on source images → boxes on the TIFFs that were made of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gpuprep.coordinates import CoordinateMap
from gpuprep.errors import ConfigError, InputNotFoundError
from gpuprep.run.sources import refuse_as_output
from gpuprep.run.tiff_files import find_tiffs
from gpuprep.writers.atomic import replacing

#: Columns of a table of boxes; others are carried along, those of CSV as text.
UID_COLUMN = "sop_instance_uid"
BOX_COLUMNS = ("x_min", "y_min", "x_max", "y_max")


@dataclass(frozen=True, slots=True)
class TraceCounts:
    """What became of the boxes: how many were mapped, how many are empty in the crop, and UIDs without a TIFF."""

    mapped: int
    outside: int
    missing: tuple[str, ...]


def map_traces(source: Path, table_path: Path, output: Path) -> TraceCounts:
    """Map the boxes of a table to TIFFs, which are named by SOP Instance UID.

    Boxes are edges in continuous pixels, as `CoordinateMap` has them. They are cut to the picture, without padding;
    what is left of none is dropped, and so are boxes of images without a TIFF.

    Parameters
    ----------
    source : Path
        A folder of TIFFs, or one.
    table_path, output : Path
        Tables in CSV or Parquet, by suffix, with the columns `UID_COLUMN` and `BOX_COLUMNS`.

    Raises
    ------
    InputNotFoundError
        ``path-missing``, ``no-tiff-found``.
    ConfigError
        ``bad-table``: another suffix, or columns missing, repeated or not numeric; ``no-coordinate-map``;
        ``ambiguous-tiff``: several TIFFs are named by a UID of the table; ``output-is-source``.
    WriteError
        As `replacing`.
    """
    import pyarrow as pa

    _check_suffix(output)
    refuse_as_output([table_path], output)
    table = _read_table(table_path)
    tiffs: dict[str, list[str]] = {}
    for file in find_tiffs(source):
        tiffs.setdefault(Path(file.path).stem, []).append(file.path)
    uids = [str(uid) for uid in table.column(UID_COLUMN).to_pylist()]
    boxes = np.stack([_numbers(table, name, table_path) for name in BOX_COLUMNS], axis=1)
    mapped = np.full(boxes.shape, np.nan)
    maps = {uid: CoordinateMap.from_tiff(_only(tiffs[uid])) for uid in dict.fromkeys(uids) if uid in tiffs}
    rows_of: dict[str, list[int]] = {}
    for row, uid in enumerate(uids):
        rows_of.setdefault(uid, []).append(row)
    for uid, coordinates in maps.items():
        mapped[rows_of[uid]] = map_boxes(boxes[rows_of[uid]], coordinates)
    has_area = (mapped[:, 2] > mapped[:, 0]) & (mapped[:, 3] > mapped[:, 1])
    for column, name in enumerate(BOX_COLUMNS):
        place = table.column_names.index(name)
        table = table.set_column(place, name, pa.array(mapped[:, column]))
    _write_table(table.filter(pa.array(has_area)), output)
    missing = tuple(uid for uid in rows_of if uid not in maps)
    found = sum(len(rows_of[uid]) for uid in maps)
    return TraceCounts(int(has_area.sum()), found - int(has_area.sum()), missing)


def _only(paths: list[str]) -> str:
    if len(paths) > 1:
        raise ConfigError(
            f"{len(paths)} TIFFs have this name, another is {paths[1]}",
            code="ambiguous-tiff",
            subject=paths[0],
            hint="name a folder that holds but one of each image",
        )
    return paths[0]


def map_boxes(boxes: np.ndarray[Any, Any], coordinates: CoordinateMap) -> np.ndarray[Any, Any]:
    """Map boxes (N, 4) as left, top, right, bottom, and cut them to the picture; empty ones have no area."""
    corners = coordinates.to_output(boxes.reshape(-1, 2, 2))
    area = coordinates.active_area
    corners = np.clip(np.sort(corners, axis=1), area[:2], area[2:])
    return np.asarray(corners.reshape(-1, 4))


def _check_suffix(path: Path) -> None:
    if path.suffix.lower() not in (".csv", ".parquet"):
        raise ConfigError(
            "a table is .csv or .parquet", code="bad-table", subject=str(path), hint="name the file accordingly"
        )


def _read_table(path: Path) -> Any:
    import pyarrow as pa
    from pyarrow import csv, parquet

    _check_suffix(path)
    try:
        content = path.read_bytes()
        if path.suffix.lower() == ".csv":
            names = csv.open_csv(pa.BufferReader(content)).schema.names
            as_it_stands = dict.fromkeys(set(names) - set(BOX_COLUMNS), pa.string())
            types = csv.ConvertOptions(column_types=as_it_stands)
            table = csv.read_csv(pa.BufferReader(content), convert_options=types)
        else:
            table = parquet.read_table(pa.BufferReader(content))
    except FileNotFoundError as error:
        message = "there is no such file"
        raise InputNotFoundError(message, code="path-missing", subject=str(path), hint="check the path") from error
    except (pa.ArrowInvalid, OSError) as error:
        reason = getattr(error, "strerror", None) or error
        raise _bad_table(f"cannot be read as a table: {reason}", path) from error
    for problem, counts in (("missing", (0,)), ("repeated", range(2, len(table.column_names) + 1))):
        names = [name for name in (UID_COLUMN, *BOX_COLUMNS) if table.column_names.count(name) in counts]
        if names:
            raise _bad_table(f"columns are {problem}: {', '.join(names)}", path)
    return table


def _numbers(table: Any, name: str, path: Path) -> np.ndarray[Any, Any]:
    try:
        return np.asarray(table.column(name).to_numpy(), np.float64)
    except (ValueError, TypeError) as error:
        raise _bad_table(f"column {name} holds no numbers", path) from error


def _bad_table(message: str, path: Path) -> ConfigError:
    hint = f"a table of boxes has the columns {', '.join((UID_COLUMN, *BOX_COLUMNS))}, each once"
    return ConfigError(message, code="bad-table", subject=str(path), hint=hint)


def _write_table(table: Any, path: Path) -> None:
    from pyarrow import csv, parquet

    with replacing(path) as part, part.open("wb") as file:
        if path.suffix.lower() == ".csv":
            csv.write_csv(table, file)
        else:
            parquet.write_table(table, file)
