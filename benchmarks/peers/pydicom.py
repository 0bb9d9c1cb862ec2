"""pydicom: headers, structure sets and pixels, one file at a time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.pixels import apply_modality_lut, apply_voi_lut


def read_headers(paths: Sequence[str]) -> list[pydicom.Dataset]:
    """Read up to the pixels."""
    return [pydicom.dcmread(path, stop_before_pixels=True, force=True) for path in paths]


def read_contours(path: Path) -> int:
    """Parse every number of a structure set; return how many there are."""
    return sum(
        len([float(number) for number in contour.ContourData])
        for item in pydicom.dcmread(path).ROIContourSequence
        for contour in item.ContourSequence
    )


def decode(paths: Sequence[str], plugin: str) -> np.ndarray[Any, Any]:
    """Decode a series by one of pydicom's plugins."""
    images = []
    for path in paths:
        dataset = pydicom.dcmread(path)
        dataset.pixel_array_options(decoding_plugin=plugin)
        images.append(dataset.pixel_array)
    return np.stack(images)


def read_stored(path: Path) -> np.ndarray[Any, Any]:
    """Return stored values."""
    return pydicom.dcmread(path).pixel_array


def read_windowed(path: Path) -> np.ndarray[Any, Any]:
    """Return values after the modality LUT and the window."""
    dataset = pydicom.dcmread(path)
    return apply_voi_lut(apply_modality_lut(dataset.pixel_array, dataset), dataset)
