"""A folder of one NIfTI file a ROI, 0 and 1, and ``rois.json`` that says which file is which ROI."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuprep.errors import GeometryError
from gpuprep.geometry import VolumeGeometry
from gpuprep.masks import Roi, RoiMask, from_boxes
from gpuprep.writers.masks.description import describe, parse_geometry, parse_rois, reading, replacing_folder
from gpuprep.writers.masks.label import HEADER_TOLERANCE_MM
from gpuprep.writers.names import is_nifti_name, nifti_stem, safe_name, unique_names
from gpuprep.writers.nifti import LABEL_LEVEL, read_filled_slices, write_nifti

#: Lists the files in the order of the ROIs, and describes the mask.
MANIFEST = "rois.json"


def file_names(rois: Sequence[Roi]) -> list[str]:
    """Return a name for the file of each ROI, unique also where case does not count."""
    return [f"{name}.nii.gz" for name in unique_names(safe_name(roi.name) for roi in rois)]


def write(mask: RoiMask, path: Path) -> None:
    """Write a mask; a ROI without voxels has its file as well.

    Raises
    ------
    WriteError
        As `replacing_folder` and `gpuprep.writers.nifti.write_nifti`.
    """
    names = file_names(mask.rois)
    with replacing_folder(path, is_mask) as part:
        part.mkdir()
        for name, (binary, filled) in zip(names, mask.binaries(), strict=True):
            write_nifti(part / name, binary, mask.geometry, level=LABEL_LEVEL, threads=1, root=part, filled=filled)
        manifest = {"files": names, "mask": json.loads(describe(mask))}
        (part / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")


def is_mask(path: Path) -> bool:
    """Whether a folder holds the files of a mask and its list of them, and nothing besides."""
    try:
        files = json.loads((path / MANIFEST).read_text(encoding="utf-8"))["files"]
        return {p.name for p in path.iterdir()} <= {MANIFEST, *files}
    except (OSError, ValueError, KeyError, TypeError):
        return False


def read(path: Path) -> RoiMask:
    """Read a folder; without ``rois.json`` every ``.nii.gz`` and ``.nii`` is a ROI named as its file, by name.

    Raises
    ------
    HeaderError
        As `reading`; ``mask-unreadable`` also for a file with other values than 0 and one greater than 0.
    GeometryError
        ``shape-mismatch``: a file lies on another grid than the first one.
    """
    with reading(path):
        manifest = path / MANIFEST
        if manifest.is_file():
            content = json.loads(manifest.read_text(encoding="utf-8"))
            text = json.dumps(content["mask"])
            rois, geometry, files = parse_rois(text), parse_geometry(text), content["files"]
        elif path.is_file():
            raise ValueError("it is neither DICOM nor a folder, and its name has no suffix that says what else")
        else:
            files = sorted(p.name for p in path.iterdir() if is_nifti_name(p.name))
            if not files:
                raise ValueError("the folder holds neither NIfTI files nor a list of them")
            rois = tuple(Roi(n, nifti_stem(name)) for n, name in enumerate(files, 1))
            geometry, _, _ = read_filled_slices(path / files[0])
        return from_boxes((_read_box(path / name, geometry) for name in files), rois, geometry)


def _read_box(path: Path, geometry: VolumeGeometry) -> tuple[list[int], NDArray[np.bool_]]:
    """Return the first voxel (d, h, w) of the box that a ROI fills, and which voxels of it are the ROI's."""
    grid, first, array = read_filled_slices(path)
    if not grid.same_grid(geometry, HEADER_TOLERANCE_MM):
        raise GeometryError("not on the grid of the other files", code="shape-mismatch", subject=path.name)
    box = filled_box(array)
    array = array[box]
    inside = array != 0
    start = [first + box[0].start, box[1].start, box[2].start]
    values = array[inside]
    if len(values) and not (values[0] > 0 and (values == values[0]).all()):
        raise ValueError(f"{path.name} is no mask of one ROI: it holds values from {values.min()} to {values.max()}")
    return start, inside


def filled_box(array: NDArray[Any]) -> tuple[slice, slice, slice]:
    """Return the least box of an array (D, H, W) that holds all that is not 0; an empty one where all is."""
    box = []
    for axis, others in enumerate(((1, 2), (0, 2), (0, 1))):
        filled = np.flatnonzero(array.any(axis=others))
        box.append(slice(int(filled[0]), int(filled[-1]) + 1) if len(filled) else slice(0, 0))
        array = array[(slice(None),) * axis + (box[-1],)]
    depth, rows, columns = box
    return depth, rows, columns
