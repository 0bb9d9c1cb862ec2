"""Reading MedSegPy data sets back, without MedSegPy: paths in, NumPy out.

>>> from gpuprep.data import list_scans, read_scan
>>> for entry in list_scans("dataset", split="train"):
...     scan = read_scan(entry)
...     scan.image.shape, scan.masks.shape
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuprep.errors import ConfigError, DecodeError, InputNotFoundError
from gpuprep.extras import load_extra


@dataclass(frozen=True, slots=True)
class ScanEntry:
    """One scan as ``dataset.json`` lists it.

    Parameters
    ----------
    scan_id : str
        ``0000001_V00``.
    split : str
    files : tuple of (Path, Path)
        Image and mask file of each slice, in slice order; the same file twice in 3-D.
    classes : tuple of str
        What the channels of the masks are.
    spacing_hwd_mm : (float, float, float)
    index_hwd_to_lps_mm : tuple of tuple of float
        Affine (4, 4) from the index (row, column, slice) of a voxel centre to LPS mm.
    """

    scan_id: str
    split: str
    files: tuple[tuple[Path, Path], ...]
    classes: tuple[str, ...]
    spacing_hwd_mm: tuple[float, float, float]
    index_hwd_to_lps_mm: tuple[tuple[float, ...], ...]


@dataclass(frozen=True, slots=True, eq=False)
class Scan:
    """The voxels of a scan.

    Parameters
    ----------
    entry : ScanEntry
    image : ndarray of shape (H, W, D)
        (row, column, slice), in the dtype of the file.
    masks : ndarray of shape (H, W, D, C), uint8
        0 or 1; classes may overlap.
    """

    entry: ScanEntry
    image: NDArray[Any]
    masks: NDArray[np.uint8]


def list_scans(root: Path | str, split: str | None = None) -> tuple[ScanEntry, ...]:
    """Return the scans of a data set written by ``gpuprep medsegpy``, by scan id; all splits, or one.

    Raises
    ------
    InputNotFoundError
        ``no-dataset``: there is no ``dataset.json`` of that kind.
    ConfigError
        ``unknown-split``.
    """
    folder = Path(root)
    try:
        content = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
        splits = list(content["splits"])
        classes = tuple(c["name"] for c in content["classes"])
        entries = [
            ScanEntry(
                name,
                scan["split"],
                _files(folder, content["format"], name, scan),
                classes,
                tuple(scan["spacing_hwd_mm"]),
                tuple(map(tuple, scan["index_hwd_to_lps_mm"])),
            )
            for name, scan in sorted(content["scans"].items())
        ]
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise InputNotFoundError(
            f"no data set of gpuprep medsegpy: {type(error).__name__}",
            code="no-dataset",
            subject=str(folder),
            hint="give the folder that holds dataset.json",
        ) from error
    if split is not None and split not in splits:
        raise ConfigError(
            f"there is no split {split!r}",
            code="unknown-split",
            subject=str(folder),
            hint=f"splits are {', '.join(splits)}",
        )
    return tuple(entry for entry in entries if split in (None, entry.split))


def _files(folder: Path, layout: str, name: str, scan: dict[str, Any]) -> tuple[tuple[Path, Path], ...]:
    inside = folder / scan["split"]
    if layout == "3d":
        return ((inside / f"{name}.h5", inside / f"{name}.h5"),)
    slices = range(1, scan["shape_hwd"][2] + 1)
    return tuple((inside / f"{name}-Aug00_{n:03d}.im", inside / f"{name}-Aug00_{n:03d}.seg") for n in slices)


def read_scan(entry: ScanEntry) -> Scan:
    """Read image and masks of a scan.

    Raises
    ------
    DecodeError
        ``file-unreadable``: a file is missing or damaged.
    ConfigError
        ``extra-missing``.
    """
    is_volume = entry.files[0][0] == entry.files[0][1]
    images = [_read(image, "volume" if is_volume else "data") for image, _ in entry.files]
    masks = [_read(mask, "seg" if is_volume else "data") for _, mask in entry.files]
    return Scan(entry, np.concatenate(images, axis=2), np.concatenate(masks, axis=2))


def _read(path: Path, name: str) -> NDArray[Any]:
    try:
        with load_extra("h5py", "medsegpy").File(path, "r") as file:
            array: NDArray[Any] = file[name][()]
    except (OSError, KeyError) as error:
        raise DecodeError(f"cannot read {name!r}: {error}", code="file-unreadable", subject=str(path)) from error
    return array
