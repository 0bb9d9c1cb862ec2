"""Supervisely's NIfTI import, by volume name and by plane.

What its importer does with names and files is the contract here. It takes every NIfTI of the tree, keys volumes by
their stem alone, refuses the whole import when a stem holds ``cor``, ``sag`` or ``axl`` (by volume name), skips folders
whose path holds ``converted``, gives other files (``.txt``, ``.csv``, ``.json``) a meaning, turns everything
to RAS, and tilts the masks of oblique volumes the wrong way. So the import folder holds NIfTI along the patient's axes,
RAS+, and what belongs beside lies beside it.
"""

from __future__ import annotations

import csv
import math
import re
import shutil
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from gpuprep.components import label_components
from gpuprep.errors import ConfigError, OutputError, WriteError
from gpuprep.geometry import VolumeGeometry
from gpuprep.masks import RoiMask, code_dtype, to_label_image, to_sparse
from gpuprep.volume import Volume
from gpuprep.writers.atomic import PART_SUFFIX, remove_file, replacing, write_text
from gpuprep.writers.base import Output
from gpuprep.writers.colours import Rgb, choose_colours
from gpuprep.writers.masks.label import name_labels
from gpuprep.writers.names import safe_name, unique_names
from gpuprep.writers.nifti import IMAGE_LEVEL, LABEL_LEVEL, write_nifti
from gpuprep.writers.sidecar import count_combinations, describe_labels, describe_sources, parse_grid, write_json

Layout = Literal["volume", "plane"]
Plane = Literal["axl", "cor", "sag"]
Overlap = Literal["error", "last"]
Instances = Literal["label", "component"]

PLANES: tuple[Plane, ...] = get_args(Plane)
#: The folder to upload, below the output folder.
IMPORT_FOLDER = "import"
#: Where class names and colours are, by plane.
COLOUR_MAP = "cls_color_map.txt"
#: End of the names of score files.
SCORES = "_score.csv"

#: Parts of a stem for which the importer by volume name refuses everything.
_PLANE_WORDS = re.compile("cor|sag|axl")
#: Folders whose path holds this are skipped by the importer.
_SKIPPED = "converted"


def escape_stem(name: str) -> str:
    """Return a name in which the importer finds no plane: ``spinal_cord`` becomes ``spinal_Cord``."""
    return _PLANE_WORDS.sub(lambda found: found[0].capitalize(), name)


def class_names(labels: Sequence[str], layout: Layout) -> tuple[str, ...]:
    """Return the class of each label in the import: one safe word, unique, and where it is a stem without a plane."""
    names = unique_names(safe_name(label) for label in labels)
    return tuple(map(escape_stem, names) if layout == "volume" else names)


def parse_planes(text: str) -> tuple[Plane, ...]:
    """Read ``axl,cor,sag`` or some of them.

    Raises
    ------
    ConfigError
        ``bad-planes``.
    """
    words = [word.strip() for word in text.split(",")]
    planes = tuple(plane for plane in PLANES if plane in words)
    if len(planes) < len(words):
        raise ConfigError(
            f"planes {text!r} are not understood",
            code="bad-planes",
            hint=f"name some of {','.join(PLANES)}, each once",
        )
    return planes


def check_output(root: Path) -> None:
    """Refuse an output folder that the importer would skip or read too much from.

    Raises
    ------
    ConfigError
        ``path-breaks-reader``: its path holds ``converted``.
    OutputError
        ``foreign-files``: the import folder holds something else than NIfTI, scores and the colour map.
    """
    for path in {root.absolute(), root.resolve()}:
        if _SKIPPED in str(path):
            raise ConfigError(
                f"Supervisely's importer skips folders with {_SKIPPED!r} in their path, and would import nothing",
                code="path-breaks-reader",
                subject=str(path),
                hint="choose another output folder",
            )
    for path in sorted((root / IMPORT_FOLDER).rglob("*")):
        if path.is_file() and not path.name.endswith((".nii.gz", SCORES, PART_SUFFIX)) and path.name != COLOUR_MAP:
            raise OutputError(
                "the import folder holds a file that Supervisely's importer would give a meaning of its own",
                code="foreign-files",
                subject=str(path),
                hint="move it out of the import folder",
            )


@dataclass(frozen=True, slots=True)
class VolumeWriter:
    """Writes ``import/<case>.nii.gz`` and ``import/<case>/<class>.nii.gz``, one file a label, so that overlap is kept.

    Parameters
    ----------
    root : Path
        The output folder.
    instances : {"label", "component"}
        Whether all voxels of a label are one object, or each connected component is, numbered from 1.
    threads : int
        Compression threads.
    """

    root: Path
    instances: Instances
    threads: int = 1

    @property
    def config(self) -> str:
        """The layout, and what an object is."""
        return f"supervisely volume {self.instances}"

    def write_mask(self, case: str, mask: RoiMask, record: dict[str, Any]) -> list[Output]:
        """Write a file for each label that has voxels: 0 outside, else the number of the object.

        `record` gets what `describe_labels` says, and ``objects`` by label.

        Raises
        ------
        WriteError
            ``too-many-objects``: more than uint16 holds.
        """
        record |= describe_labels(mask)
        self.discard(case)
        folder = self.root / IMPORT_FOLDER / escape_stem(case)
        names = [roi.name for roi in mask.rois]
        record["objects"] = {}
        outputs = []
        for roi, (name, stem) in enumerate(zip(names, class_names(names, "volume"), strict=True)):
            if not mask.voxel_counts[roi]:
                continue
            values, record["objects"][name] = self._number_objects(mask, roi, case)
            path, geometry = folder / f"{stem}.nii.gz", mask.geometry
            outputs.append(write_nifti(path, values, geometry, level=LABEL_LEVEL, threads=self.threads, root=self.root))
        return outputs

    def _number_objects(self, mask: RoiMask, roi: int, case: str) -> tuple[NDArray[np.unsignedinteger], int]:
        binary = mask.binary(roi)
        if self.instances == "label":
            return binary, 1
        start, stop = mask.bounding_boxes()[roi]
        box = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
        labels, count = label_components(binary[box])
        if count > np.iinfo(np.uint16).max:
            raise WriteError(
                f"{mask.rois[roi].name!r} has {count} connected components, more than 16 bits tell apart",
                code="too-many-objects",
                subject=case,
                hint="use --instances label",
            )
        values: NDArray[np.unsignedinteger] = binary.astype(code_dtype(count + 1))
        values[box] = labels
        return values, count

    def write_image(self, case: str, channel: int, volume: Volume) -> list[Output]:
        """Write the volume."""
        return [_write_image(self.root / IMPORT_FOLDER / f"{escape_stem(case)}.nii.gz", volume, self)]

    def discard(self, case: str) -> None:
        """Remove the files of a case, whatever their layout."""
        _discard(self.root, case)


@dataclass(frozen=True, slots=True)
class PlaneWriter:
    """Writes ``import/<case>/<plane>_anatomic.nii.gz`` and ``<plane>_inference.nii.gz``, a label map, for each plane.

    Each plane is the same volume under the name by which Supervisely shows it in that plane; its importer turns all
    volumes to RAS.

    Parameters
    ----------
    root : Path
        The output folder.
    planes : tuple of str
    overlap : {"error", "last"}
        Refuse labels that share voxels, or let the last one win.
    has_scores : bool
        Whether names begin with two UUIDs, without which the importer does not find the scores of several cases.
    threads : int
        Compression threads.
    """

    root: Path
    planes: tuple[Plane, ...]
    overlap: Overlap
    has_scores: bool = False
    threads: int = 1

    @property
    def config(self) -> str:
        """Layout, planes, what is done to overlap, and names."""
        return f"supervisely plane {','.join(self.planes)} {self.overlap} {self.has_scores}"

    def write_mask(self, case: str, mask: RoiMask, record: dict[str, Any]) -> list[Output]:
        """Write the label map of each plane; value n is the n-th label, which the file's label table says too.

        `record` gets what `describe_labels` says, and ``lost_voxels`` by label where the last one won.

        Raises
        ------
        OverlapError
            ``labels-overlap``.
        """
        record |= describe_labels(mask)
        if self.overlap == "error":
            labels = to_label_image(mask)
        else:
            labels, lost = to_sparse(mask)
            record["lost_voxels"] = dict(zip((roi.name for roi in mask.rois), lost.tolist(), strict=True))
        self.discard(case)
        first, *others = (self._path(case, plane, "inference") for plane in self.planes)
        written = write_nifti(
            first,
            labels,
            mask.geometry,
            level=LABEL_LEVEL,
            threads=self.threads,
            root=self.root,
            extensions=name_labels(mask),
        )
        return [written, *(_copy(first, other, written, self.root) for other in others)]

    def write_image(self, case: str, channel: int, volume: Volume) -> list[Output]:
        """Write the volume of each plane."""
        first, *others = (self._path(case, plane, "anatomic") for plane in self.planes)
        written = _write_image(first, volume, self)
        return [written, *(_copy(first, other, written, self.root) for other in others)]

    def discard(self, case: str) -> None:
        """Remove the files of a case, whatever their layout."""
        _discard(self.root, case)

    def _path(self, case: str, plane: Plane, kind: str) -> Path:
        name = f"{plane}_{kind}.nii.gz"
        return self.root / IMPORT_FOLDER / case / (f"{uuid_prefix(case)}{name}" if self.has_scores else name)


def _write_image(path: Path, volume: Volume, writer: VolumeWriter | PlaneWriter) -> Output:
    array, geometry = volume.array, volume.geometry
    return write_nifti(path, array, geometry, level=IMAGE_LEVEL, threads=writer.threads, root=writer.root)


def _copy(source: Path, path: Path, written: Output, root: Path) -> Output:
    with replacing(path) as part:
        shutil.copyfile(source, part)
    return replace(written, path=path.relative_to(root).as_posix())


def _discard(root: Path, case: str) -> None:
    remove_file(root / IMPORT_FOLDER / f"{escape_stem(case)}.nii.gz")
    for folder in {root / IMPORT_FOLDER / escape_stem(case), root / IMPORT_FOLDER / case}:
        if folder.is_dir():
            for path in [*folder.glob("*.nii.gz"), *folder.glob(f"*{SCORES}")]:
                remove_file(path)
            if not any(folder.iterdir()):
                folder.rmdir()


def uuid_prefix(case: str) -> str:
    """Return two UUIDs that stand for a case, as the importer wants them at the beginning of names."""
    return f"{uuid.uuid5(uuid.NAMESPACE_OID, case)}_{uuid.uuid5(uuid.NAMESPACE_OID, f'{case}/volume')}_"


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
    line = 1
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            for row in csv.DictReader(file, skipinitialspace=True):
                line += 1
                (plane,) = (p for p in PLANES if p == row["plane"])
                layer, value = int(row["layer"]), float(row["score"])
                key = row["case"], plane, layer, row["label"]
                if layer < 1 or not math.isfinite(value) or row["label"] not in labels or key in scores:
                    raise ValueError
                scores[key] = value
        if not scores:
            raise ValueError
    except OSError as error:
        raise ConfigError(f"cannot read: {error.strerror}", code="bad-scores", subject=str(path)) from error
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"line {line} does not say a score, or says one again",
            code="bad-scores",
            subject=str(path),
            hint="the columns are case,plane,layer,label,score; layers count from 1; labels are those of the ROI map",
        ) from error
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
                f"{case} has {layers_of[plane]} layers along {plane}, not {layers[-1]}", code="bad-scores"
            )
        columns = [label for label in labels if layers and (layers[0], label) in cells]
        lines = [["Layer", *(f"Label-{labels.index(label) + 1}" for label in columns)]]
        lines += [[str(layer), *(repr(cells[layer, label]) for label in columns)] for layer in layers]
        text = "".join(",".join(line) + "\n" for line in lines)
        write_text(root / IMPORT_FOLDER / case / f"{uuid_prefix(case)}{plane}{SCORES}", text)


def write_colour_map(root: Path, names: Sequence[str], colours: Sequence[Rgb]) -> None:
    """Write ``cls_color_map.txt``: ``value name R G B``, no blank line, for one bad line discards the whole file."""
    classes = enumerate(zip(names, colours, strict=True), 1)
    lines = [f"{value} {name} {red} {green} {blue}\n" for value, (name, (red, green, blue)) in classes]
    write_text(root / IMPORT_FOLDER / COLOUR_MAP, "".join(lines))


def write_dataset_json(
    root: Path, *, layout: Layout, labels: Sequence[str], cases: Mapping[str, Mapping[str, Any]]
) -> tuple[Rgb, ...]:
    """Write ``dataset.json`` beside the import folder; return the colours of the labels.

    Parameters
    ----------
    labels : sequence of str
        In the order of the ROI map.
    cases : mapping
        Case → details of its row.
    """
    colours = choose_colours(labels, [details["colours"] for details in cases.values()])
    names = class_names(labels, layout)
    content = {
        "layout": layout,
        "import": IMPORT_FOLDER,
        "classes": [
            {"value": value, "name": label, "class": name, "color": list(rgb)}
            for value, (label, name, rgb) in enumerate(zip(labels, names, colours, strict=True), 1)
        ],
        "combinations": count_combinations(cases.values()),
        "cases": {case: _describe_case(case, details, layout) for case, details in sorted(cases.items())},
    }
    write_json(root / "dataset.json", content)
    return colours


def _describe_case(case: str, details: Mapping[str, Any], layout: Layout) -> dict[str, Any]:
    grid = parse_grid(details["grid"])
    return {
        "volume": escape_stem(case) if layout == "volume" else case,
        "shape_dhw": list(grid.shape),
        "index_dhw_to_lps_mm": grid.index_to_lps.tolist(),
        **describe_sources(details),
    }
