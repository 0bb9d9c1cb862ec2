"""nibabel: a .nii.gz a ROI by its defaults."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from gpuprep.geometry import VolumeGeometry


def write(masks: Mapping[str, np.ndarray[Any, Any]], geometry: VolumeGeometry, folder: Path) -> None:
    """Write binary masks of shape (D, H, W) by name."""
    affine = np.diag([-1.0, -1, 1, 1]) @ geometry.index_to_lps[:, [2, 1, 0, 3]]
    folder.mkdir(exist_ok=True)
    for name, array in masks.items():
        nibabel.save(nibabel.Nifti1Image(array.T, affine), folder / f"{name}.nii.gz")
