"""SimpleITK: resampling between axis-aligned grids of one origin."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import SimpleITK as sitk

from gpuprep.geometry import VolumeGeometry

INTERPOLATORS = {"linear": sitk.sitkLinear, "nearest": sitk.sitkNearestNeighbor}


def set_threads(threads: int) -> None:
    """Have every filter use so many."""
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)


def resampler(
    array: np.ndarray[Any, Any], source: VolumeGeometry, target: VolumeGeometry, interpolation: str, fill: int
) -> Callable[[], sitk.Image]:
    """Return what resamples; the image is made beforehand."""
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(source.spacing_dhw_mm[::-1].tolist())
    size, spacing = target.shape[::-1], target.spacing_dhw_mm[::-1].tolist()
    interpolator, same = INTERPOLATORS[interpolation], sitk.Transform()
    return lambda: sitk.Resample(
        image, size, same, interpolator, image.GetOrigin(), spacing, image.GetDirection(), fill
    )


to_array = sitk.GetArrayFromImage
