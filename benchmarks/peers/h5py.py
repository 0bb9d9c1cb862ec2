"""h5py's own gzip filter, level 1, a chunk a slice."""

from __future__ import annotations

from typing import Any

import h5py
import numpy as np

OPTIONS = {"compression": "gzip", "compression_opts": 1}


def write_at_once(file: h5py.File, volume: np.ndarray[Any, Any]) -> None:
    """Write a volume of shape (D, H, W) as H × W × D by one assignment."""
    _, height, width = volume.shape
    file.create_dataset("volume", data=volume.transpose(1, 2, 0), chunks=(height, width, 1), **OPTIONS)


def write_by_slice(file: h5py.File, volume: np.ndarray[Any, Any]) -> None:
    """The same, a slice at a time."""
    depth, height, width = volume.shape
    dataset = file.create_dataset("volume", (height, width, depth), volume.dtype, chunks=(height, width, 1), **OPTIONS)
    for n in range(depth):
        dataset[:, :, n] = volume[n]
