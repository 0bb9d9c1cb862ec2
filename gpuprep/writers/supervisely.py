"""Supervisely's NIfTI import, by volume name and by plane.

What its importer does with names and files is the contract here. It takes every NIfTI of the tree, keys volumes by
their stem alone, refuses the whole import when a stem holds ``cor``, ``sag`` or ``axl`` (by volume name), skips folders
whose path holds ``converted``, gives other files (``.txt``, ``.csv``, ``.json``) a meaning, turns everything
to RAS, and tilts the masks of oblique volumes the wrong way. So the import folder holds NIfTI along the patient's axes,
RAS+, and what belongs beside lies beside it.
"""

from __future__ import annotations

import json
import re
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from gpuprep.codes import apply_lut, code_dtype
from gpuprep.components import label_components
from gpuprep.errors import ConfigError, OutputError, OverlapError, WriteError
from gpuprep.masks import RoiMask, merge_to_labels, to_label_image, to_sparse
from gpuprep.volume import Volume
from gpuprep.writers.atomic import PART_SUFFIX, remove_file, replacing
from gpuprep.writers.base import Output
from gpuprep.writers.colours import Rgb, choose_colours
from gpuprep.writers.masks.label import name_labels
from gpuprep.writers.names import safe_name, unique_names
from gpuprep.writers.nifti import IMAGE_LEVEL, LABEL_LEVEL, write_nifti
from gpuprep.writers.record import CaseRecord
from gpuprep.writers.sidecar import count_combinations, describe_labels, describe_sources, parse_grid, write_json

Layout = Literal["volume", "plane", "annotations"]
PlaneMasks = Literal["semantic", "instance"]
Plane = Literal["axl", "cor", "sag"]
Overlap = Literal["error", "last"]
Instances = Literal["label", "component", "roi"]

PLANES: tuple[Plane, ...] = get_args(Plane)
#: The folder to upload, below the output folder.
IMPORT_FOLDER = "import"
#: Where class names and colours are, by plane.
COLOUR_MAP = "cls_color_map.txt"
#: End of the names of score files.
SCORES = "_score.csv"
#: Which volume each annotation belongs to.
MAPPING = "mapping.json"

#: Parts of a stem for which the importer by volume name refuses everything.
_PLANE_WORDS = re.compile("cor|sag|axl")
#: Folders whose path holds this are skipped by the importer.
_SKIPPED = "converted"
#: Makes a file a volume by plane; anywhere in a path, it keeps the importer from taking annotations alone.
VOLUME_WORD = "anatomic"
#: Make a file a mask by plane, in any place of its name.
MASK_WORDS = ("inference", "label", "annotation", "mask", "segmentation")


def escape_stem(name: str) -> str:
    """Return a name in which the importer finds no plane: ``spinal_cord`` becomes ``spinal_Cord``.

    By plane it finds one, in upper case too, among words between underscores, beside a word that tells a volume or a
    mask; such a file among others makes two formats, and ends the import. So ``Cor_mask`` becomes ``Cor-mask``.
    """
    escaped = _PLANE_WORDS.sub(lambda found: found[0].capitalize(), name)
    has_plane = not {*PLANES}.isdisjoint(escaped.lower().split("_"))
    has_kind = any(word in escaped for word in (VOLUME_WORD, *MASK_WORDS))
    return escaped.replace("_", "-") if has_plane and has_kind else escaped


def case_name(case: str, layout: Layout) -> str:
    """Return the name of a case's folder, and by volume name of its volume, which the importer does not skip."""
    name = escape_stem(case) if layout == "volume" else case
    return name.replace(_SKIPPED, _SKIPPED.capitalize())


def class_names(labels: Sequence[str], layout: Layout) -> tuple[str, ...]:
    """Return the class of each label in the import: one safe word, unique, and where it is a stem without a plane."""
    names = map(safe_name, labels)
    return tuple(unique_names(map(escape_stem, names) if layout == "volume" else names))


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


def check_output(root: Path, layout: Layout) -> None:
    """Refuse an output folder that the importer would skip or read too much from.

    Raises
    ------
    ConfigError
        ``path-breaks-reader``: its path holds ``converted``, or for annotations alone ``anatomic``.
    OutputError
        ``foreign-files``: the import folder holds something else than NIfTI, scores and the colour map; or, for
        annotations alone, than instance files and label maps, the mapping and the colour map.
    """
    words = (_SKIPPED, VOLUME_WORD) if layout == "annotations" else (_SKIPPED,)
    for path in {root.absolute(), root.resolve()}:
        for word in words:
            if word in str(path):
                raise ConfigError(
                    f"Supervisely's importer would import nothing from a path that holds {word!r}",
                    code="path-breaks-reader",
                    subject=str(path),
                    hint="choose another output folder",
                )
    for path in sorted((root / IMPORT_FOLDER).rglob("*")):
        if path.is_file() and not path.name.endswith(PART_SUFFIX) and not _belongs(path.name, layout):
            raise OutputError(
                "the import folder holds a file that Supervisely's importer would give a meaning of its own",
                code="foreign-files",
                subject=str(path),
                hint="move it out of the import folder",
            )


def _belongs(name: str, layout: Layout) -> bool:
    """Whether a file of this name may lie in the import folder."""
    if layout == "annotations":
        return name in (COLOUR_MAP, MAPPING) or (name.endswith(".nii.gz") and "_inference" in name)
    return name == COLOUR_MAP or name.endswith((".nii.gz", *(f"{plane}{SCORES}" for plane in PLANES)))


@dataclass(frozen=True, slots=True)
class VolumeWriter:
    """Writes ``import/<case>.nii.gz`` and ``import/<case>/<class>.nii.gz``, one file a label, so that overlap is kept.

    Parameters
    ----------
    root : Path
        The output folder.
    instances : {"label", "component", "roi"}
        Whether all voxels of a label are one object, or each connected component, or each ROI of the label, which masks
        then hold after the labels with the number of theirs; objects are numbered from 1.
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

    def write_mask(self, case: str, mask: RoiMask, record: CaseRecord) -> list[Output]:
        """Write a file for each label that has voxels: 0 outside, else the number of the object.

        `record` gets what `describe_labels` says, and ``objects`` by label.

        Raises
        ------
        OverlapError
            ``objects-overlap``: ROIs of one label share voxels.
        WriteError
            ``too-many-objects``: more than uint16 holds.
        """
        self.discard(case)
        mask, objects = _take_labels(mask, self.instances, record)
        folder = self.root / IMPORT_FOLDER / case_name(case, "volume")
        names = [roi.name for roi in mask.rois]
        record["objects"] = {}
        outputs = []
        for roi, (name, stem) in enumerate(zip(names, class_names(names, "volume"), strict=True)):
            if not mask.voxel_counts[roi]:
                continue
            values, record["objects"][name] = _number_objects(mask, roi, objects, self.instances, case)
            outputs.append(_write_mask(folder / f"{stem}.nii.gz", values, mask, self))
        return outputs

    def write_image(self, case: str, channel: int, volume: Volume) -> list[Output]:
        """Write the volume."""
        return [_write_image(self.root / IMPORT_FOLDER / f"{case_name(case, 'volume')}.nii.gz", volume, self)]

    def discard(self, case: str) -> None:
        """Remove the files of a case, whatever their layout."""
        _discard(self.root, case)


@dataclass(frozen=True, slots=True)
class PlaneWriter:
    """Writes ``import/<case>/<plane>_anatomic.nii.gz`` and ``<plane>_inference.nii.gz`` for each plane.

    Each plane is the same volume under the name by which Supervisely shows it in that plane; its importer turns all
    volumes to RAS.

    Instance files are ``<plane>_inference_<n>.nii.gz``, one a label. The importer takes the class from the place of a
    file in its walk through the folders, not from ``n``, and lists a folder in no order that could be relied on: so
    each file lies in a folder within that of the one before, ``2/3/…``, which any walk visits in this order; labels
    without voxels have their file too; and names begin with UUIDs, by which the importer finds files of other folders.

    Parameters
    ----------
    root : Path
        The output folder.
    planes : tuple of str
    masks : {"semantic", "instance"}
        A label map, or a file a label in which values number the objects.
    overlap : {"error", "last"}
        Of a label map: refuse labels that share voxels, or let the last one win.
    instances : {"label", "component", "roi"}
        Of instance files: what an object is, as in `VolumeWriter`.
    has_scores : bool
        Whether there will be score tables: without UUIDs in names the importer does not find those of several cases.
    threads : int
        Compression threads.
    """

    root: Path
    planes: tuple[Plane, ...]
    masks: PlaneMasks
    overlap: Overlap
    instances: Instances = "label"
    has_scores: bool = False
    threads: int = 1

    @property
    def config(self) -> str:
        """Layout, planes, names, and what `_annotate` depends on."""
        own = f"{','.join(self.planes)} {self.has_scores}"
        return f"supervisely plane {own} {self.masks} {self.overlap} {self.instances}"

    def write_mask(self, case: str, mask: RoiMask, record: CaseRecord) -> list[Output]:
        """Write the masks of each plane. In a label map value n is the n-th label, which its label table says too.

        `record` gets what `describe_labels` says, ``lost_voxels`` by label where the last one won, and ``objects`` by
        label of instance files.

        Raises
        ------
        OverlapError
            ``labels-overlap``, ``objects-overlap``.
        WriteError
            ``too-many-objects``.
        """
        self.discard(case)
        outputs = []
        mask, objects = _take_labels(mask, self.instances, record)
        for number, values in _annotate(mask, objects, self, record, case, by_place=True):
            paths = [self._path(case, plane, "inference", number) for plane in self.planes]
            outputs += _copies(paths, _write_mask(paths[0], values, mask, self), self.root)
        return outputs

    def write_image(self, case: str, channel: int, volume: Volume) -> list[Output]:
        """Write the volume of each plane."""
        paths = [self._path(case, plane, "anatomic") for plane in self.planes]
        return _copies(paths, _write_image(paths[0], volume, self), self.root)

    def discard(self, case: str) -> None:
        """Remove the files of a case, whatever their layout."""
        _discard(self.root, case)

    def _path(self, case: str, plane: Plane, kind: str, number: int = 0) -> Path:
        folder = (self.root / IMPORT_FOLDER / case_name(case, "plane")).joinpath(*map(str, range(2, number + 1)))
        has_uuids = self.has_scores or self.masks == "instance"
        return folder / (uuid_prefix(case) * has_uuids + plane_name(plane, kind, number))


@dataclass(frozen=True, slots=True)
class AnnotationWriter:
    """Writes masks for volumes that Supervisely has: ``import/[<dataset>/]<UUIDs>_<plane>_inference[_<n>].nii.gz``.

    Here the importer takes the class of an instance file from ``n``; but when a volume gets a single file, its values
    are classes. So a label that is alone gets a second file, without objects.

    Parameters
    ----------
    root : Path
        The output folder.
    places : mapping of str to tuple of (str, str)
        Case → plane and data set of each of its volumes; the data set is empty where it needs no name.
    masks, overlap, instances, threads
        As in `PlaneWriter`.
    """

    root: Path
    places: Mapping[str, tuple[tuple[Plane, str], ...]]
    masks: PlaneMasks
    overlap: Overlap
    instances: Instances = "label"
    threads: int = 1

    @property
    def config(self) -> str:
        """Places, and what `_annotate` depends on."""
        own = json.dumps(self.places, sort_keys=True)
        return f"supervisely annotations {own} {self.masks} {self.overlap} {self.instances}"

    def write_mask(self, case: str, mask: RoiMask, record: CaseRecord) -> list[Output]:
        """Write the masks of each plane; `record` and errors as in `PlaneWriter`."""
        self.discard(case)
        outputs = []
        mask, objects = _take_labels(mask, self.instances, record)
        for number, values in _annotate(mask, objects, self, record, case, by_place=False):
            names = [
                (dataset, uuid_prefix(case) + plane_name(p, "inference", number)) for p, dataset in self.places[case]
            ]
            paths = [self.root / IMPORT_FOLDER / dataset / name for dataset, name in names]
            outputs += _copies(paths, _write_mask(paths[0], values, mask, self), self.root)
        return outputs

    def write_image(self, case: str, channel: int, volume: Volume) -> list[Output]:
        """Write nothing: the volume is there."""
        return []

    def discard(self, case: str) -> None:
        """Remove the files of a case, in whatever data set."""
        folder = self.root / IMPORT_FOLDER
        for pattern in (f"{uuid_prefix(case)}*.nii.gz", f"*/{uuid_prefix(case)}*.nii.gz"):
            for path in [*folder.glob(pattern)]:
                remove_file(path)


def plane_name(plane: Plane, kind: str, number: int = 0) -> str:
    """Return the name of a file of a plane, ``axl_inference_3.nii.gz``; 0 is no number."""
    return f"{plane}_{kind}_{number}.nii.gz" if number else f"{plane}_{kind}.nii.gz"


def uuid_prefix(case: str) -> str:
    """Return two UUIDs that stand for a case, as the importer wants them at the beginning of names."""
    return f"{uuid.uuid5(uuid.NAMESPACE_OID, case)}_{uuid.uuid5(uuid.NAMESPACE_OID, f'{case}/volume')}_"


def _take_labels(mask: RoiMask, instances: Instances, record: CaseRecord) -> tuple[RoiMask, RoiMask]:
    """Return the mask of the labels alone, which `record` gets the description of, and that of their ROIs."""
    objects = mask
    if instances == "roi":
        # a ROI's number is that of its label, and so never the next after the labels'
        count = next((i for i, roi in enumerate(mask.rois) if roi.number != i + 1), len(mask.rois))
        mask = merge_to_labels(mask, [(i,) for i in range(count)])
        objects = merge_to_labels(objects, [(i,) for i in range(count, len(objects.rois))])
        record["voxels"] = dict(zip((roi.name for roi in mask.rois), mask.voxel_counts.tolist(), strict=True))
    record |= describe_labels(mask)
    return mask, objects


def _annotate(
    mask: RoiMask,
    objects: RoiMask,
    writer: PlaneWriter | AnnotationWriter,
    record: CaseRecord,
    case: str,
    *,
    by_place: bool,
) -> Iterator[tuple[int, NDArray[np.unsignedinteger]]]:
    """Yield number and values of each mask file of a plane; the number of a label map is 0.

    Parameters
    ----------
    by_place : bool
        Whether the importer numbers instance files by their place, so that none may be left out.
    """
    if writer.masks == "semantic":
        if writer.overlap == "error":
            yield (
                0,
                to_label_image(
                    mask, hint="--plane-masks instance keeps overlaps, --overlap last lets the last label win"
                ),
            )
        else:
            labels, lost = to_sparse(mask)
            record["lost_voxels"] = dict(zip((roi.name for roi in mask.rois), lost.tolist(), strict=True))
            yield 0, labels
        return
    record["objects"] = {}
    present = [number for number, voxels in enumerate(mask.voxel_counts, 1) if voxels]
    if not present:
        return
    numbers = [*range(1, present[-1] + 1)] if by_place else present
    for number in numbers if len(numbers) > 1 else [*numbers, numbers[0] + 1]:
        if number in present:
            values, record["objects"][mask.rois[number - 1].name] = _number_objects(
                mask, number - 1, objects, writer.instances, case
            )
            yield number, values
        else:
            yield number, np.zeros(mask.geometry.shape, np.uint8)


def _number_objects(
    mask: RoiMask, label: int, objects: RoiMask, instances: Instances, case: str
) -> tuple[NDArray[np.unsignedinteger], int]:
    """Return the volume in which the objects of a label are 1, 2, …, and how many there are."""
    if instances == "roi":
        return _number_rois(objects, label, mask.rois[label].name, case)
    binary = mask.binary(label)
    if instances == "label":
        return binary, 1
    start, stop = mask.bounding_boxes()[label]
    box = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
    labels, count = label_components(binary[box])
    if count > np.iinfo(np.uint16).max:
        raise WriteError(
            f"{mask.rois[label].name!r} has {count} connected components, more than 16 bits tell apart",
            code="too-many-objects",
            subject=case,
            hint="use --instances label",
        )
    values: NDArray[np.unsignedinteger] = binary.astype(code_dtype(count + 1))
    values[box] = labels
    return values, count


def _number_rois(objects: RoiMask, label: int, name: str, case: str) -> tuple[NDArray[np.unsignedinteger], int]:
    """Return the volume in which the ROIs of a label that have voxels are 1, 2, …, and how many there are."""
    of = [i for i, roi in enumerate(objects.rois) if roi.number == label + 1 and objects.voxel_counts[i]]
    members = objects.members[:, of]
    if (members.sum(axis=1) > 1).any():
        raise OverlapError(
            f"ROIs of the label {name!r} share voxels, and a voxel of a class belongs to one object",
            code="objects-overlap",
            subject=case,
            hint="use --instances label or component",
        )
    values = (members * np.arange(1, len(of) + 1)).max(axis=1, initial=0)
    return apply_lut(values.astype(code_dtype(len(of) + 1)), objects.codes), len(of)


def _write_image(path: Path, volume: Volume, writer: VolumeWriter | PlaneWriter) -> Output:
    array, geometry = volume.array, volume.geometry
    return write_nifti(path, array, geometry, level=IMAGE_LEVEL, threads=writer.threads, root=writer.root)


def _write_mask(
    path: Path,
    values: NDArray[np.unsignedinteger],
    mask: RoiMask,
    writer: VolumeWriter | PlaneWriter | AnnotationWriter,
) -> Output:
    is_label_map = not isinstance(writer, VolumeWriter) and writer.masks == "semantic"
    return write_nifti(
        path,
        values,
        mask.geometry,
        level=LABEL_LEVEL,
        threads=writer.threads,
        root=writer.root,
        extensions=name_labels(mask) if is_label_map else (),
    )


def _copies(paths: Sequence[Path], written: Output, root: Path) -> list[Output]:
    """Copy the first file to the other paths; return what is there then."""
    for path in paths[1:]:
        with replacing(path) as part:
            shutil.copyfile(paths[0], part)
    return [replace(written, path=path.relative_to(root).as_posix()) for path in paths]


def _discard(root: Path, case: str) -> None:
    by_volume, by_plane = (case_name(case, layout) for layout in ("volume", "plane"))
    remove_file(root / IMPORT_FOLDER / f"{by_volume}.nii.gz")
    for folder in {root / IMPORT_FOLDER / by_volume, root / IMPORT_FOLDER / by_plane}:
        for path in [*folder.rglob("*.nii.gz"), *folder.glob(f"*{SCORES}")]:
            remove_file(path)
        inner = sorted((path for path in folder.rglob("*") if path.is_dir()), reverse=True)
        for empty in (path for path in (*inner, folder) if path.is_dir() and not any(path.iterdir())):
            empty.rmdir()


def write_dataset_json(
    root: Path, *, layout: Layout, labels: Sequence[str], cases: Mapping[str, Mapping[str, Any]]
) -> tuple[Rgb, ...]:
    """Write ``dataset.json`` beside the import folder; return the colours of the labels.

    Parameters
    ----------
    root : Path
        The output folder.
    layout : {"volume", "plane", "annotations"}
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
        "volume": case_name(case, layout),
        "shape_dhw": list(grid.shape),
        "index_dhw_to_lps_mm": grid.index_to_lps.tolist(),
        **describe_sources(details),
    }
