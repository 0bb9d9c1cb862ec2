"""Pillow: crop to what is not 0, resize as 32-bit float, pad right and below."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

FILTERS = {"triangle": Image.Resampling.BILINEAR, "lanczos3": Image.Resampling.LANCZOS}


def fit(plane: np.ndarray[Any, Any], filter_name: str, width: int, height: int) -> np.ndarray[Any, Any]:
    """Return the plane in a frame of `height` × `width`."""
    rows, columns = np.flatnonzero(plane.any(axis=1)), np.flatnonzero(plane.any(axis=0))
    part = plane[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    scale = min(width / part.shape[1], height / part.shape[0])
    size = (round(part.shape[1] * scale), round(part.shape[0] * scale))
    resized = np.asarray(Image.fromarray(part.astype(np.float32)).resize(size, FILTERS[filter_name]))
    return np.pad(resized, ((0, height - size[1]), (0, width - size[0])))
