"""Frames of a multi-frame image to fewer, or to frames at other distances."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from gpuprep.backends.base import Backend

Combination = Literal["keep", "central-slice", "max-intensity", "mean"]
FrameHandling = Literal[Combination, "interpolate"]


def combine_frames(
    planes: Any, handling: Combination, *, samples: int = 1, least_is_white: bool = False, backend: Backend
) -> Any:
    """Reduce frames to one, or keep them.

    Parameters
    ----------
    planes : array of shape (frames · samples, H, W)
        On `backend`; the samples of a pixel are neighbouring planes.
    handling : {"keep", "central-slice", "max-intensity", "mean"}
        Frame ``frames // 2``; the brightest of each pixel; the mean, rounded half to even.
    samples : int
        1, or 3 for RGB.
    least_is_white : bool
        Lower values are brighter.
    backend : Backend
        Where to compute.
    """
    xp = backend.xp
    frames = planes.reshape(-1, samples, *planes.shape[1:])
    match handling:
        case "keep":
            return planes
        case "central-slice":
            return frames[len(frames) // 2]
        case "max-intensity":
            return frames.min(axis=0) if least_is_white else frames.max(axis=0)
        case "mean":
            mean = frames.mean(axis=0, dtype=np.float64)
            return (xp.rint(mean) if planes.dtype.kind in "iu" else mean).astype(planes.dtype)


def interpolate_frames(planes: Any, count: int, *, samples: int = 1, backend: Backend) -> Any:
    """Return `count` frames spread evenly from the first to the last, linear between neighbours, truncated.

    Frame i is at ``i (frames - 1) / (count - 1)``; a single one is the first, and as many as there are stay as they
    are. Parameters as `combine_frames`.
    """
    xp = backend.xp
    frames = planes.reshape(-1, samples, *planes.shape[1:])
    if count == len(frames):
        return planes
    result = xp.empty((count, *frames.shape[1:]), planes.dtype)
    for i in range(count):
        # in float32, as the neighbours' weights are
        place = np.float32(i) / np.float32(max(count - 1, 1)) * np.float32(len(frames) - 1)
        low = int(place)
        high, weight = min(low + 1, len(frames) - 1), float(place) - low
        below = frames[low].astype(np.float32)
        result[i] = below + (frames[high].astype(np.float32) - below) * np.float32(weight)
    return result.reshape(-1, *planes.shape[1:])
