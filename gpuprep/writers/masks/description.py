"""What a mask is, apart from its voxels, as JSON; each container keeps it in one place of its own."""

from __future__ import annotations

import json
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from gpuprep.codes import PLANE_BITS
from gpuprep.errors import GpuprepError, HeaderError, WriteError
from gpuprep.geometry import VolumeGeometry
from gpuprep.masks import Code, Roi, RoiMask
from gpuprep.writers.atomic import replacing

#: Name under which containers keep the description.
KEY = "gpuprep_mask"
#: Raised when an older reader could misread what a newer writer wrote.
VERSION = 1
_ROI_FIELDS = tuple(field.name for field in fields(Roi))


def describe(mask: RoiMask, *, with_extents: bool = False) -> str:
    """Return ROIs and geometry as JSON in ASCII.

    Parameters
    ----------
    mask : RoiMask
    with_extents : bool
        Also say the voxel count and box (first voxel, and the one after the last, (d, h, w)) of each ROI, for
        containers of which a part can be read.
    """
    rois = [{key: value for key, value in asdict(roi).items() if value or key == "name"} for roi in mask.rois]
    if with_extents:
        extents = zip(rois, mask.voxel_counts.tolist(), mask.bounding_boxes().tolist(), strict=True)
        for entry, voxels, box in extents:
            entry |= {"voxels": voxels, "box": box}
    grid = mask.geometry
    return json.dumps(
        {
            "version": VERSION,
            "shape": grid.shape,
            "index_to_lps": grid.index_to_lps.tolist(),
            "frame_of_reference_uid": grid.frame_of_reference_uid,
            "rois": rois,
        }
    )


def parse_geometry(text: str) -> VolumeGeometry:
    """Return the geometry of a description."""
    content = json.loads(text)
    return VolumeGeometry(tuple(content["shape"]), content["index_to_lps"], content["frame_of_reference_uid"])


def parse_rois(text: str) -> tuple[Roi, ...]:
    """Return the ROIs of a description.

    Raises
    ------
    HeaderError
        ``mask-version``: a newer gpuprep wrote it.
    """
    content = json.loads(text)
    if content["version"] != VERSION:
        raise HeaderError(
            f"description of version {content['version']}, not {VERSION}",
            code="mask-version",
            hint="a newer gpuprep wrote it: update this one",
        )
    return tuple(_parse_roi(entry) for entry in content["rois"])


def restore(codes: NDArray[Any], table: NDArray[Any], text: str) -> RoiMask:
    """Return the mask of a palette and its description, which were read from one file.

    Raises
    ------
    ValueError
        They are no palette, or one of other ROIs.
    GeometryError
        ``shape-mismatch``: of another grid; ``code-unknown``: there are codes beyond the table.
    HeaderError
        As `parse_rois`.
    """
    rois = parse_rois(text)
    words = max(1, -(-len(rois) // PLANE_BITS))
    if codes.dtype not in (np.uint8, np.uint16, np.uint32) or table.dtype != np.uint32 or table.shape[1:] != (words,):
        raise ValueError(f"codes of {codes.dtype} with a table {table.shape} of {table.dtype}, for {len(rois)} ROIs")
    mask = RoiMask(codes, table, rois, parse_geometry(text))
    _ = mask.code_counts  # refuses codes beyond the table
    return mask


def parse_boxes(text: str) -> list[tuple[Sequence[int], Sequence[int]]]:
    """Return first voxel and the one after the last of each ROI of a description with extents."""
    return [(start, stop) for start, stop in (entry["box"] for entry in json.loads(text)["rois"])]


def _parse_roi(entry: dict[str, Any]) -> Roi:
    values: dict[str, Any] = {"number": 0}
    for name in _ROI_FIELDS:
        value = entry.get(name)
        if value is None:
            continue
        if name in ("category", "type", "region"):
            value = Code(**value)
        elif name in ("type_modifiers", "region_modifiers"):
            value = tuple(Code(**code) for code in value)
        elif name == "rgb":
            value = tuple(value)
        values[name] = value
    return Roi(**values)


@contextmanager
def replacing_folder(path: Path, is_mask: Callable[[Path], bool]) -> Iterator[Path]:
    """Give a temporary path for a mask that is a folder, as `replacing` does; only another mask is replaced by it.

    Parameters
    ----------
    path : Path
    is_mask : callable
        Tells whether a folder is such a mask, and nothing besides.

    Raises
    ------
    WriteError
        ``folder-occupied``: there is such a folder, with something else; and what `replacing` raises.
    """
    if path.is_dir() and any(path.iterdir()) and not is_mask(path):
        raise WriteError(
            "the folder holds something else than a mask",
            code="folder-occupied",
            subject=str(path),
            hint="it would be lost: choose another name",
        )
    with replacing(path) as part:
        yield part


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what goes wrong while a mask file is read into errors with codes that name it.

    Raises
    ------
    HeaderError
        ``unreadable``: the system refuses; ``mask-unreadable``: the content is damaged or something else.
    """
    try:
        yield
    except GpuprepError as error:
        error.subject = error.subject or str(path)
        raise
    except FileNotFoundError as error:
        raise HeaderError("there is no such file", code="unreadable", subject=str(error.filename or path)) from error
    except _damage_errors() as error:
        raise HeaderError(f"not a mask that can be read: {error}", code="mask-unreadable", subject=str(path)) from error


def _damage_errors() -> tuple[type[Exception], ...]:
    """Return what parsers, decompressors, NumPy, h5py and zarr raise on damaged files, found by fuzzing them."""
    from isal import isal_zlib

    return (
        ArithmeticError,
        AttributeError,
        EOFError,
        LookupError,
        MemoryError,
        OSError,
        RuntimeError,
        TypeError,
        ValueError,
        ElementTree.ParseError,
        tokenize.TokenError,
        zipfile.BadZipFile,
        zlib.error,
        isal_zlib.error,  # type: ignore[return-value]  # its stub says that it is an instance
    )
