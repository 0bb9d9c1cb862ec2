"""Bit planes, wherever they come from → a palette, by the kernels of kernels/palette.cu."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gpuprep.backends.base import Backend
from gpuprep.errors import GeometryError
from gpuprep.geometry import VolumeGeometry
from gpuprep.masks import PLANE_BITS, Roi, RoiMask, canonical_rows, code_dtype, from_planes

#: Threads of a block along columns and rows, where a thread handles LANES columns.
BOX_BLOCK = (16, 16)
#: Slots of the first hash table of sets; more are tried when it is full.
_FIRST_CAPACITY = 1 << 10


def palette_of_planes(planes: Any, rois: Sequence[Roi], geometry: VolumeGeometry, *, backend: Backend) -> RoiMask:
    """Build the palette of bit planes.

    Parameters
    ----------
    planes : ndarray of shape (P, D, H, W), uint32
        C order, an array of `backend`; ROI i is bit ``i % 32`` of plane ``i // 32``, bits beyond are zero.
    rois : sequence of Roi
        What the bits mean.
    geometry : VolumeGeometry
        Grid of the planes.
    backend : Backend
        Where to compute; the result is the same on each, byte for byte.

    Raises
    ------
    GeometryError
        ``shape-mismatch``: the planes do not fill `geometry`, or are not as many as `rois` need.
    """
    words = max(1, -(-len(rois) // PLANE_BITS))
    if tuple(planes.shape) != (words, *geometry.shape):
        raise GeometryError(
            f"bit planes of shape {tuple(planes.shape)} for {len(rois)} ROIs on a grid of shape {geometry.shape}",
            code="shape-mismatch",
        )
    if not backend.has_kernels:
        return from_planes(backend.download(planes), rois, geometry)
    depth, height, width = geometry.shape
    xp = backend.xp
    slices = backend.upload(np.arange(depth, dtype=np.int32))
    grid = (-(-width // (backend.lanes * BOX_BLOCK[0])), -(-height // BOX_BLOCK[1]), depth)
    box = tuple(map(np.int32, (height, width, height, width, 0, 0)))
    capacity = _FIRST_CAPACITY
    while True:
        codes = xp.empty(geometry.shape, code_dtype(capacity))
        codes.fill(0)  # not zeros: that comes in small pages, each a fault when it is first written
        slots = xp.zeros(capacity, np.uint32)
        sizes = (np.uint32(capacity), *map(np.int32, (words, depth)))
        suffix = f"u{8 * codes.itemsize}"
        backend.launch(f"palette_encode_{suffix}", grid, BOX_BLOCK, (planes, slots, codes, slices, *sizes, *box))
        owner = backend.download(slots)
        if owner[0] == 0:
            break
        capacity *= 16
    used = np.flatnonzero(owner)
    keys = backend.download(planes.reshape(words, -1)[:, backend.upload(owner[used].astype(np.int64) - 1)])
    table, place = canonical_rows(np.concatenate([np.zeros((1, words), np.uint32), keys.T]))
    lut = np.zeros(capacity, codes.dtype)
    lut[used] = place[1:]
    backend.launch(f"palette_relabel_{suffix}", grid, BOX_BLOCK, (codes, backend.upload(lut), slices, *box))
    codes = backend.download(codes).astype(code_dtype(len(table)), copy=False)
    return RoiMask(codes, table, tuple(rois), geometry)
