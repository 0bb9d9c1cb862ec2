"""Studies as trees of files: images, doses and masks under names made of DICOM fields, with fingerprints."""

from __future__ import annotations

import ctypes
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuprep import hostlib
from gpuprep.config import MaskContainer
from gpuprep.dicom.header import InstanceHeader
from gpuprep.errors import OverlapError, WriteError
from gpuprep.geometry import VolumeGeometry
from gpuprep.masks import RoiMask, to_label_image
from gpuprep.volume import Volume
from gpuprep.writers.atomic import remove, stored_size
from gpuprep.writers.base import Output
from gpuprep.writers.masks import MASK_WRITERS, SUFFIXES
from gpuprep.writers.names import safe_name, text_digest
from gpuprep.writers.nifti import IMAGE_LEVEL, LABEL_LEVEL, write_nifti
from gpuprep.writers.record import CaseRecord

#: Stands in a path for the name of a ROI, which is known when the mask is drawn.
ROI_PLACE = "\0"
#: Container → end of its files' names.
_SUFFIXES = {container: suffix for suffix, container in reversed(SUFFIXES.items())}


@dataclass(frozen=True, slots=True)
class NamedFile:
    """A file that a case is to write, and what it is made of.

    Parameters
    ----------
    case : str
        The case.
    path : str
        Relative to the output folder, without suffix; with `ROI_PLACE` where one file a ROI is written.
    source : InstanceHeader
        The segmentation or dose, or one instance of the image series.
    reference : tuple of InstanceHeader
        Series on whose grid it is; empty for images, and for doses on their own grid.
    """

    case: str
    path: str
    source: InstanceHeader
    reference: tuple[InstanceHeader, ...] = ()

    @property
    def origin(self) -> dict[str, str]:
        """Where it comes from, for the index of files."""
        is_image = self.source.modality not in ("RTSTRUCT", "SEG", "RTDOSE")
        return {
            "case": self.case,
            "patient_id": self.source.patient_id,
            "modality": self.source.modality,
            "study_instance_uid": self.source.study_instance_uid,
            "series_instance_uid": self.source.series_instance_uid,
            "sop_instance_uid": "" if is_image else self.source.sop_instance_uid,
            "reference_series_uid": self.reference[0].series_instance_uid if self.reference else "",
        }


def tell_apart(files: Sequence[NamedFile], held: Mapping[str, str]) -> list[NamedFile]:
    """Return the files with a digest of their origin in those paths that others have too, or could get from a ROI.

    Paths count as equal when they differ in case alone, as some file systems take them.

    Parameters
    ----------
    files : sequence of NamedFile
        All that are to be written.
    held : mapping of str to str
        Path, lower case and without suffix → case that has written it before.
    """
    taken = Counter(f.path.lower() for f in files)
    around = {path: path.partition(ROI_PLACE) for path in taken if ROI_PLACE in path}
    # what one has more than another before or after the ROI may be part of that one's ROI
    meets = _begin_others({path: (end, start) for path, (start, _, end) in around.items()})
    meets |= _begin_others({path: (start, end[::-1]) for path, (start, _, end) in around.items()})
    return [
        replace(f, path=f"{f.path}_{_digest(f)}")
        if taken[path] > 1 or path in meets or held.get(path, f.case) != f.case
        else f
        for f, path in ((f, f.path.lower()) for f in files)
    ]


def without_suffix(path: str) -> str:
    """Return the path of a file that `StudyWriter` wrote, as it was planned."""
    return next((path.removesuffix(s) for s in SUFFIXES if path.endswith(s)), path)


def _begin_others(texts: Mapping[str, tuple[str, str]]) -> set[str]:
    """Return the keys whose second text begins that of another with the same first one."""
    ordered = sorted((text, key) for key, text in texts.items())
    return {key for (a, key), (b, _) in pairwise(ordered) if a[0] == b[0] and b[1].startswith(a[1])}


def _digest(file: NamedFile) -> str:
    return text_digest("/".join((file.case, file.source.series_instance_uid, file.source.sop_instance_uid)))


@dataclass(frozen=True, slots=True)
class StudyWriter:
    """Writes files at planned places; each output's `content` is its entry in the index of files.

    Parameters
    ----------
    root : Path
        The output folder.
    images : mapping of str to NamedFile
        Case → its image or dose.
    masks : mapping of str to NamedFile
        Case → its mask.
    container : MaskContainer
        What masks are written to; SEPARATE gives each ROI a file of its own at its place.
    layout : str
        The template of the names, part of what makes a case done.
    suffix : str
        ``.nii.gz`` or ``.nii``.
    held : mapping of str to str
        As in `tell_apart`.
    threads : int
        For compression.
    """

    root: Path
    images: Mapping[str, NamedFile]
    masks: Mapping[str, NamedFile]
    container: MaskContainer
    layout: str
    suffix: str
    held: Mapping[str, str]
    threads: int
    _written: dict[str, list[Path]] = field(default_factory=dict, repr=False)
    _planned: frozenset[str] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        planned = frozenset(f.path.lower() for f in (*self.images.values(), *self.masks.values()))
        object.__setattr__(self, "_planned", planned)

    @property
    def config(self) -> str:
        """Template, and what masks are written to."""
        return f"{self.layout} {self.container}"

    def write_image(self, case: str, channel: int, volume: Volume) -> tuple[Output]:
        """Write the only channel, or the dose."""
        file = self.images[case]
        content = {**file.origin, "units": _units(volume, file.source)}
        content |= describe_grid(volume.array, volume.geometry) | measure_values(volume.array)
        return (self._write(case, file.path, volume.array, volume.geometry, IMAGE_LEVEL, content),)

    def write_mask(self, case: str, mask: RoiMask, record: CaseRecord) -> tuple[Output, ...]:
        """Write the ROIs of a mask; `record` gets ``overlaps``.

        Raises
        ------
        OverlapError
            ``labels-overlap``: one label image cannot hold it.
        WriteError
            ``mask-empty``: no ROI has a voxel, so that there would be no file; and what the container's writer raises.
        """
        file = self.masks[case]
        names = [roi.name for roi in mask.rois]
        record["overlaps"] = [[names[i], names[j], voxels] for i, j, voxels in mask.overlaps()]
        rois = describe_rois(mask)
        if self.container is not MaskContainer.SEPARATE:
            return (self._write_container(file, mask, rois),)
        if not any(roi["voxels"] for roi in rois):
            raise WriteError(
                "no ROI has a voxel",
                code="mask-empty",
                subject=file.source.path,
                hint="look whether its contours lie on the image: report.json tells what could not be drawn",
            )
        outputs = []
        paths = iter(self._roi_paths(file, [roi["name"] for roi in rois if roi["voxels"]]))
        for roi, (voxels, filled) in zip(rois, mask.binaries(), strict=True):
            if roi["voxels"]:
                content = {**file.origin, **describe_grid(voxels, mask.geometry), "rois": [{**roi, "value": 1}]}
                output = self._write(case, next(paths), voxels, mask.geometry, LABEL_LEVEL, content, filled)
                outputs.append(output)
        return tuple(outputs)

    def _write_container(self, file: NamedFile, mask: RoiMask, rois: list[dict[str, Any]]) -> Output:
        path = self._mask_path(file)
        write = MASK_WRITERS.load(self.container)
        options = {"sources": file.reference} if self.container is MaskContainer.DICOM_SEG else {}
        try:
            write(mask, path, **options)
        except OverlapError as error:
            hint = f"--masks {MaskContainer.SEPARATE} or {MaskContainer.SEG_NRRD} keeps overlaps"
            raise OverlapError(error.message, code=error.code, subject=file.source.path, hint=hint) from error
        voxels = mask.codes
        if self.container is MaskContainer.LABEL:
            voxels = to_label_image(mask)
            rois = [{**roi, "value": value} for value, roi in enumerate(rois, 1)]
        content = {**file.origin, **describe_grid(voxels, mask.geometry), "rois": rois}
        return Output(path.relative_to(self.root).as_posix(), stored_size(path), 0, content)

    def discard(self, case: str) -> None:
        """Remove what was written of a case."""
        from gpuprep.writers.masks.zarr import is_mask as is_zarr_mask

        planned = [self._path(self.images[case].path)] if case in self.images else []
        if case in self.masks and self.container is not MaskContainer.SEPARATE:
            path = self._mask_path(self.masks[case])
            if not path.is_dir() or is_zarr_mask(path):
                planned.append(path)
        for path in [*planned, *self._written.pop(case, ())]:
            remove(path)

    def _path(self, stem: str) -> Path:
        return self.root / f"{stem}{self.suffix}"

    def _mask_path(self, file: NamedFile) -> Path:
        suffix = self.suffix if self.container is MaskContainer.LABEL else _SUFFIXES[self.container]
        return self.root / f"{file.path}{suffix}"

    def _roi_paths(self, file: NamedFile, names: Iterable[str]) -> list[str]:
        """Return a path for each ROI; what is taken already gets a number and a digest of its name."""
        taken: set[str] = set()
        paths: list[str] = []
        for number, name in enumerate(names, 1):
            path = file.path.replace(ROI_PLACE, safe_name(name, "roi"))
            place = path.lower()
            if place in taken or place in self._planned or self.held.get(place, file.case) != file.case:
                path = file.path.replace(ROI_PLACE, f"{safe_name(name, 'roi')}_{number}_{text_digest(name)}")
            taken.add(path.lower())
            paths.append(path)
        return paths

    def _write(
        self,
        case: str,
        stem: str,
        array: NDArray[Any],
        geometry: VolumeGeometry,
        level: int,
        content: dict[str, Any],
        filled: range | None = None,
    ) -> Output:
        path = self._path(stem)
        self._written.setdefault(case, []).append(path)
        output = write_nifti(path, array, geometry, level=level, threads=self.threads, root=self.root, filled=filled)
        return replace(output, content=content)


def describe_grid(array: NDArray[Any], geometry: VolumeGeometry) -> dict[str, Any]:
    """Return type, size, voxel size and CRC-32 of voxels, axes in NIfTI's order: columns, rows, slices."""
    from isal import isal_zlib

    return {
        "dtype": array.dtype.name,
        "voxels_crc32": isal_zlib.crc32(np.ascontiguousarray(array).data.cast("B")),
        "shape": list(geometry.shape[::-1]),
        "spacing_mm": geometry.spacing_dhw_mm[::-1].round(6).tolist(),
    }


def measure_values(array: NDArray[Any]) -> dict[str, float]:
    """Return minimum, maximum, mean and standard deviation (of all voxels, not of a sample), in float64."""
    if array.dtype == np.int16:
        return _measure_int16(np.ascontiguousarray(array))
    total = squares = 0.0
    shift = float(array.flat[0])  # near the values, so that squares of large numbers do not cancel
    values = np.empty(array.shape[1:], np.float64)
    for plane in array:
        np.subtract(plane, shift, out=values, dtype=np.float64)
        total += float(values.sum())
        squares += float(np.einsum("ij,ij", values, values))  # a BLAS product would wake all cores for a slice
    mean = total / array.size
    return {
        "minimum": float(array.min()),
        "maximum": float(array.max()),
        "mean": shift + mean,
        "std": float(np.sqrt(max(0.0, squares / array.size - mean * mean))),
    }


def _measure_int16(array: NDArray[np.int16]) -> dict[str, float]:
    """Do so with exact sums, in one pass."""
    found = np.zeros((len(array), 4), np.int64)
    measure = hostlib.load()[0].gp_measure_i16
    for plane, into in zip(array, found, strict=True):
        measure(ctypes.c_void_p(plane.ctypes.data), ctypes.c_int64(plane.size), ctypes.c_void_p(into.ctypes.data))
    total, squares = (sum(map(int, column)) for column in found[:, 2:].T)
    return {
        "minimum": float(found[:, 0].min()),
        "maximum": float(found[:, 1].max()),
        "mean": total / array.size,
        "std": math.sqrt(array.size * squares - total * total) / array.size,
    }


def describe_rois(mask: RoiMask) -> list[dict[str, Any]]:
    """Return name, voxels, volume and box (x, y, z: first and last voxel) of each ROI."""
    voxel_mm3 = mask.geometry.voxel_mm3
    return [
        {
            "name": roi.name,
            "voxels": voxels,
            "volume_mm3": round(voxels * voxel_mm3, 3),
            "box": [first[::-1], [end - 1 for end in stop[::-1]]] if voxels else None,
        }
        for roi, voxels, (first, stop) in zip(
            mask.rois, mask.voxel_counts.tolist(), mask.bounding_boxes().tolist(), strict=True
        )
    ]


def _units(volume: Volume, source: InstanceHeader) -> str:
    steps = {step.name: step.parameters for step in volume.steps}
    if steps.get("window", {}).get("rescale"):
        return ""
    if "suvbw" in steps:
        return "SUVbw"
    return {"CT": "HU", "RTDOSE": "GY", "PT": source.units}.get(volume.modality, "")
