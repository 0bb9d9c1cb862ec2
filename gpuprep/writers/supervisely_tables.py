"""Tables of Supervisely's import by plane: scores, class colours, and which masks belong to which of its volumes."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from gpuprep.errors import ConfigError, HeaderError
from gpuprep.geometry import VolumeGeometry
from gpuprep.writers.atomic import write_text
from gpuprep.writers.colours import Rgb
from gpuprep.writers.sidecar import write_json
from gpuprep.writers.supervisely import (
    COLOUR_MAP,
    IMPORT_FOLDER,
    MAPPING,
    PLANES,
    SCORES,
    VOLUME_WORD,
    Plane,
    case_name,
    uuid_prefix,
)


@dataclass(frozen=True, slots=True)
class Score:
    """What a user gives to a label on a layer.

    Parameters
    ----------
    case : str
        Case name or patient ID.
    plane : str
    layer : int
        From 1, along the plane's axis of the RAS+ volume: from the left (sag), from behind (cor), from below (axl).
    label : str
    value : float
    """

    case: str
    plane: Plane
    layer: int
    label: str
    value: float


def read_scores(path: Path, labels: Sequence[str]) -> tuple[Score, ...]:
    """Read a CSV table with the columns case, plane, layer, label and score.

    Raises
    ------
    ConfigError
        ``bad-scores``: there are none, a column is missing, a value is none of its kind, a score is given twice, or a
        layer that has a score of one label lacks that of another: the importer drops tables with empty cells.
    """
    scores: dict[tuple[str, Plane, int, str], float] = {}
    columns = "case,plane,layer,label,score; layers count from 1; labels are those of the ROI map"
    with _rows(path, "score", columns) as rows:
        for row in rows:
            (plane,) = (p for p in PLANES if p == row["plane"])
            layer, value = int(row["layer"]), float(row["score"])
            key = row["case"], plane, layer, row["label"]
            if layer < 1 or not math.isfinite(value) or row["label"] not in labels or key in scores:
                raise ValueError
            scores[key] = value
        if not scores:
            raise ValueError
    for case, plane in {(case, plane) for case, plane, _, _ in scores}:
        cells = {(layer, label) for c, p, layer, label in scores if (c, p) == (case, plane)}
        missing = {(layer, label) for layer, _ in cells for _, label in cells} - cells
        if missing:
            layer, label = min(missing)
            raise ConfigError(
                f"layer {layer} of {plane} of {case} lacks a score of {label!r}",
                code="bad-scores",
                subject=str(path),
                hint="on a layer that has scores every label of that case and plane needs one: the importer drops gaps",
            )
    return tuple(Score(*key, value) for key, value in scores.items())


def write_scores(
    root: Path, case: str, planes: Sequence[Plane], labels: Sequence[str], grid: VolumeGeometry, scores: Sequence[Score]
) -> None:
    """Write the score table of each plane of a case.

    One without scores gets a table without rows: the importer would take that of another case.

    Raises
    ------
    ConfigError
        ``bad-scores``: a layer that the volume does not have.
    """
    layers_of = dict(zip(PLANES, grid.shape, strict=True))  # RAS+: slices, rows and columns
    for plane in planes:
        cells = {(score.layer, score.label): score.value for score in scores if score.plane == plane}
        layers = sorted({layer for layer, _ in cells})
        if layers and layers[-1] > layers_of[plane]:
            raise ConfigError(
                f"{case} has {layers_of[plane]} layers along {plane}, not {layers[-1]}",
                code="bad-scores",
                hint="layers count from 1 along the plane's axis of the volume that is written; then run again",
            )
        columns = [label for label in labels if layers and (layers[0], label) in cells]
        lines = [["Layer", *(f"Label-{labels.index(label) + 1}" for label in columns)]]
        lines += [[str(layer), *(repr(cells[layer, label]) for label in columns)] for layer in layers]
        text = "".join(",".join(line) + "\n" for line in lines)
        write_text(root / IMPORT_FOLDER / case_name(case, "plane") / f"{uuid_prefix(case)}{plane}{SCORES}", text)


def write_colour_map(root: Path, names: Sequence[str], colours: Sequence[Rgb]) -> None:
    """Write ``cls_color_map.txt``: ``value name R G B``, no blank line, for one bad line discards the whole file."""
    classes = enumerate(zip(names, colours, strict=True), 1)
    lines = [f"{value} {name} {red} {green} {blue}\n" for value, (name, (red, green, blue)) in classes]
    write_text(root / IMPORT_FOLDER / COLOUR_MAP, "".join(lines))


@dataclass(frozen=True, slots=True)
class TargetVolume:
    """A volume in Supervisely that a mask is for.

    Parameters
    ----------
    case : str
        Case name or patient ID.
    plane : str
    id : int
        The volume's ID in Supervisely.
    dataset : str
        Name of its data set; empty when masks are for one data set alone.
    """

    case: str
    plane: Plane
    id: int
    dataset: str = ""


def read_targets(path: Path) -> tuple[TargetVolume, ...]:
    """Read a CSV table with the columns case, plane and volume_id, and dataset for masks of several data sets.

    Raises
    ------
    ConfigError
        ``bad-volumes``: there are none, a column is missing, a value is none of its kind, a plane of a case or a volume
        occurs twice, or some rows name a data set and others do not.
    """
    targets: list[TargetVolume] = []
    columns = "case,plane,volume_id and, for masks of several data sets, dataset (a folder's name)"
    with _rows(path, "volume", columns) as rows:
        for row in rows:
            (plane,) = (p for p in PLANES if p == row["plane"])
            target = TargetVolume(row["case"], plane, int(row["volume_id"]), row.get("dataset") or "")
            is_again = any(t.id == target.id or (t.case, t.plane) == (target.case, plane) for t in targets)
            is_folder = target.dataset not in (".", "..") and not set(target.dataset) & set("/\\\0")
            is_like_others = not targets or bool(target.dataset) == bool(targets[0].dataset)
            if target.id < 1 or is_again or not is_folder or not is_like_others or VOLUME_WORD in target.dataset:
                raise ValueError
            targets.append(target)
        if not targets:
            raise ValueError
    return tuple(targets)


@contextmanager
def _rows(path: Path, entry: str, columns: str) -> Iterator[Iterator[dict[str, str]]]:
    """Open the table of an option, one `entry` a row; a ValueError, KeyError or TypeError is told with its line."""
    line = 1

    def count(rows: Iterator[dict[str, str]]) -> Iterator[dict[str, str]]:
        nonlocal line
        for row in rows:
            line += 1
            yield row

    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield count(csv.DictReader(file, skipinitialspace=True))
    except OSError as error:
        raise ConfigError(
            f"cannot read: {error.strerror}",
            code=f"bad-{entry}s",
            subject=str(path),
            hint=f"check the path of --{entry}s",
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        found = f"line {line} does not say a {entry}, or says one again" if line > 1 else f"no line says a {entry}"
        raise ConfigError(
            found,
            code=f"bad-{entry}s",
            subject=str(path),
            hint=f"the columns are {columns}",
        ) from error


def write_mapping(root: Path, ids: Mapping[str, int]) -> None:
    """Write ``mapping.json``: path of each annotation below the import folder → ID of its volume."""
    write_json(root / IMPORT_FOLDER / MAPPING, dict(sorted(ids.items())))


def read_colour_map(path: Path) -> dict[int, tuple[str, Rgb]]:
    """Read a class colour map: value → name, RGB.

    Raises
    ------
    HeaderError
        ``colours-unreadable``: a line is no ``value name R G B``; the importer discards such a file whole.
    """
    classes: dict[int, tuple[str, Rgb]] = {}
    try:
        for line in path.read_text(encoding="utf-8").splitlines():
            value, *words = line.split()
            red, green, blue = map(int, words[-3:])
            if len(words) < 4 or not all(0 <= c <= 255 for c in (red, green, blue)):
                raise ValueError
            classes[int(value)] = (" ".join(words[:-3]), (red, green, blue))
    except (OSError, ValueError) as error:
        raise HeaderError(
            "not a class colour map: a line is no 'value name R G B'", code="colours-unreadable", subject=str(path)
        ) from error
    return classes
