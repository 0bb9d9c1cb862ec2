"""scikit-image: polygons, contour by contour."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from skimage.draw import polygon

from gpuprep.dicom.rtstruct import RoiContours
from gpuprep.geometry import VolumeGeometry


def fill_contours(rois: Sequence[RoiContours], geometry: VolumeGeometry) -> np.ndarray[Any, Any]:
    """Return one uint32 bit mask of up to 32 ROIs."""
    volume = np.zeros(geometry.shape, np.uint32)
    for bit, item in enumerate(rois):
        for contour in item.contours:
            index = geometry.to_index(contour.points_lps_mm)
            y, x = polygon(index[:, 1], index[:, 2], volume.shape[1:])
            volume[round(index[0, 0]), y, x] ^= np.uint32(1 << bit)
    return volume
