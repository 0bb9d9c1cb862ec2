"""A case of Supervisely's NIfTI import, read back: by volume name or by plane, ours or others'.

Each object is a ROI of its own, named as its class. Names, order and colours are those of ``dataset.json`` beside the
import folder, else of the class colour map, else of the files.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuprep.codes import code_dtype
from gpuprep.errors import ConfigError, GeometryError
from gpuprep.geometry import VolumeGeometry
from gpuprep.masks import Roi, RoiMask, from_layers
from gpuprep.writers.colours import Rgb
from gpuprep.writers.masks.description import reading
from gpuprep.writers.masks.label import HEADER_TOLERANCE_MM, as_labels, stated_geometry
from gpuprep.writers.masks.separate import MANIFEST, filled_box
from gpuprep.writers.names import NIFTI_SUFFIXES, is_nifti_name, nifti_stem
from gpuprep.writers.nifti import read_nifti
from gpuprep.writers.sidecar import parse_grid
from gpuprep.writers.supervisely import COLOUR_MAP, IMPORT_FOLDER, MASK_WORDS, VOLUME_WORD, Plane
from gpuprep.writers.supervisely_tables import read_colour_map

#: Planes in the order in which the importer looks for them among the words of a name.
_PLANE_ORDER: tuple[Plane, ...] = ("cor", "sag", "axl")
_UUID = "[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
#: What ties files of several folders to one case.
_UUIDS = re.compile(f"{_UUID}_{_UUID}_", re.IGNORECASE)

_Box = tuple[slice, slice, slice]


@dataclass(frozen=True, slots=True)
class _PlaneFile:
    """A mask file by plane: of which case and plane, and its number at the end of its name."""

    path: Path
    case: str
    plane: Plane
    number: int | None


@dataclass(frozen=True, slots=True)
class _Classes:
    """Key of each class, a stem or a value, → name and colour, in order; and the grid, where they are known."""

    by_key: Mapping[str | int, tuple[str, Rgb | None]] = field(default_factory=dict)
    grid: VolumeGeometry | None = None


@dataclass(frozen=True, slots=True, eq=False)
class _Layer:
    """The values of a file where it is not 0: objects of the class `key`, or, without one, each a class."""

    key: str | int | None
    box: _Box
    values: NDArray[np.unsignedinteger]
    geometry: VolumeGeometry


def is_case(path: Path) -> bool:
    """Whether a folder holds masks as Supervisely's import has them: by plane, or named as a volume beside it."""
    if not path.is_dir() or path.suffix == ".zarr" or (path / MANIFEST).exists():
        return False
    holds_volumes = any((path / nifti_stem(p.name)).is_dir() for p in _nifti_files(path))
    return holds_volumes or bool(_volume_of(path)) or bool(_plane_files(path))


def find_scores(path: Path) -> list[Path]:
    """Return the score tables of a case, which a mask cannot hold."""
    return sorted(p for p in path.rglob("*.csv") if "score" in p.name)


def read(path: Path, plane: Plane | None = None) -> RoiMask:
    """Read the masks of a case.

    Parameters
    ----------
    path : Path
        Folder of the case.
    plane : str, optional
        Which of its planes; needed where they differ.

    Returns
    -------
    RoiMask
        A ROI an object, named as its class; a class without voxels is one ROI.

    Raises
    ------
    ConfigError
        ``several-cases``: the folder holds more than one; ``plane-missing``: it has no masks of `plane`;
        ``planes-differ``: which plane is meant is not said.
    HeaderError
        ``colours-unreadable``, and as `reading`.
    GeometryError
        ``shape-mismatch``: a file lies on another grid than the first one.
    """
    files = _plane_files(path)
    if len({file.case for file in files}) > 1 or any((path / nifti_stem(p.name)).is_dir() for p in _nifti_files(path)):
        raise ConfigError(
            "the folder holds several cases", code="several-cases", subject=str(path), hint="give the folder of one"
        )
    with reading(path):
        if files:
            return _read_plane(path, _choose_plane(path, files, plane))
        if plane is not None:
            raise _plane_missing(path, plane)
        layers = [_read_layer(p, nifti_stem(p.name)) for p in _nifti_files(path)]
        if not layers:
            raise FileNotFoundError(path)
        return _join(layers, _read_sidecar(path, "class") or _Classes())


def _read_plane(path: Path, files: Sequence[_PlaneFile]) -> RoiMask:
    classes = _read_sidecar(path, "value") or _read_colours(path)
    if len(files) == 1:  # the importer's rule for a label map
        return _join([_read_layer(files[0].path, None)], classes)
    keys = [nifti_stem(file.path.name) if file.number is None else file.number for file in files]
    return _join([_read_layer(file.path, key) for file, key in zip(files, keys, strict=True)], classes)


def _join(layers: Sequence[_Layer], classes: _Classes) -> RoiMask:
    """Make one mask of layers, classes in their order and then those that are not known."""
    geometry = layers[0].geometry
    if not all(layer.geometry.same_grid(geometry, HEADER_TOLERANCE_MM) for layer in layers):
        raise GeometryError("not all files are on the same grid", code="shape-mismatch")
    layers = [layer for layer in layers if layer.values.size] or layers[:1]
    found: dict[str | int, list[tuple[int, int]]] = {}
    for number, layer in enumerate(layers):
        for value in np.unique(layer.values[layer.values > 0]).tolist():
            found.setdefault(value if layer.key is None else layer.key, []).append((number, value))
    nowhere = (0, _largest(layers) + 1)
    rois: list[Roi] = []
    places: list[tuple[int, int]] = []
    others = sorted((key for key in found if key not in classes.by_key), key=lambda key: (isinstance(key, str), key))
    for key in (*classes.by_key, *others):
        name, rgb = classes.by_key.get(key, (f"Segment_{key}" if isinstance(key, int) else key, None))
        for place in found.get(key, [nowhere]):
            rois.append(Roi(len(rois) + 1, name, rgb))
            places.append(place)
    known = classes.grid
    grid = known if known is not None and known.same_grid(geometry, HEADER_TOLERANCE_MM) else geometry
    return from_layers(_slices(layers, grid), len(layers), places, rois, grid)


def _slices(layers: Sequence[_Layer], grid: VolumeGeometry) -> Iterator[NDArray[np.unsignedinteger]]:
    """Yield each slice of all layers, shape (H, W, L)."""
    dtype = code_dtype(_largest(layers) + 1)
    for d in range(grid.shape[0]):
        labels = np.zeros((*grid.shape[1:], len(layers)), dtype)
        for n, layer in enumerate(layers):
            depth, rows, columns = layer.box
            if depth.start <= d < depth.stop:
                labels[rows, columns, n] = layer.values[d - depth.start]
        yield labels


def _largest(layers: Sequence[_Layer]) -> int:
    return max(int(layer.values.max(initial=0)) for layer in layers)


def _read_layer(path: Path, key: str | int | None) -> _Layer:
    file = read_nifti(path)
    values = as_labels(file)
    box = filled_box(values)
    values = values[box]
    dtype = code_dtype(int(values.max(initial=0)) + 1)
    return _Layer(key, box, values.astype(dtype), stated_geometry(file))


def _read_sidecar(path: Path, key: str) -> _Classes | None:
    """Return the classes that our ``dataset.json`` tells of a case in the import folder, by ``class`` or ``value``."""
    file = path.parent.parent / "dataset.json"
    if path.parent.name != IMPORT_FOLDER or not file.is_file():
        return None
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    if content.get("import") != IMPORT_FOLDER:
        return None
    cases = (case for case in content["cases"].values() if case["volume"] == path.name)
    grid = next((parse_grid(case) for case in cases), None)
    return _Classes({entry[key]: (entry["name"], _rgb(entry["color"])) for entry in content["classes"]}, grid)


def _read_colours(path: Path) -> _Classes:
    """Return the classes of the colour map in the folder of a case or the one above."""
    for folder in (path, path.parent):
        texts = sorted(folder.glob("[!.]*.txt"), key=lambda p: (p.name != COLOUR_MAP, p.name))
        if texts:
            return _Classes({value: (name, rgb) for value, (name, rgb) in read_colour_map(texts[0]).items()})
    return _Classes()


def _rgb(color: Sequence[int]) -> Rgb:
    red, green, blue = color
    return red, green, blue


def _choose_plane(path: Path, files: Sequence[_PlaneFile], plane: Plane | None) -> list[_PlaneFile]:
    by_plane: dict[Plane, list[_PlaneFile]] = {}
    for file in files:
        by_plane.setdefault(file.plane, []).append(file)
    if plane is not None:
        if plane not in by_plane:
            raise _plane_missing(path, plane)
        return by_plane[plane]
    first, *others = by_plane.values()
    content = [file.path.read_bytes() for file in first]
    if any([file.path.read_bytes() for file in other] != content for other in others):
        raise ConfigError(
            f"the planes {', '.join(by_plane)} differ",
            code="planes-differ",
            subject=str(path),
            hint="say which one, as in --plane axl",
        )
    return first


def _plane_missing(path: Path, plane: Plane) -> ConfigError:
    return ConfigError(f"it has no masks of the plane {plane}", code="plane-missing", subject=str(path))


def _plane_files(path: Path) -> list[_PlaneFile]:
    """Return the masks by plane below a folder, by number and name."""
    files = []
    for file in path.rglob("*.nii*"):
        stem = nifti_stem(file.name)
        words = stem.lower().split("_")
        plane = next((p for p in _PLANE_ORDER if p in words), None)
        is_mask = VOLUME_WORD not in file.name and any(word in file.name for word in MASK_WORDS)
        if plane is None or not is_mask or not is_nifti_name(file.name):
            continue
        uuids = _UUIDS.match(stem)
        case = uuids[0] if uuids else str(file.parent)
        files.append(_PlaneFile(file, case, plane, int(words[-1]) if words[-1].isdigit() else None))
    return sorted(files, key=lambda f: (f.number or 0, f.path.name))


def _volume_of(path: Path) -> Path | None:
    """Return the volume by whose name a folder is called."""
    return next((p for suffix in NIFTI_SUFFIXES if (p := path.parent / f"{path.name}{suffix}").is_file()), None)


def _nifti_files(path: Path) -> list[Path]:
    return sorted(p for p in path.iterdir() if is_nifti_name(p.name) and p.is_file())
