"""Bit planes, wherever they come from → a palette, by the kernels of kernels/palette.cu.

Codes are slots of a hash table of sets, found box by box; when all sets are known, codes become canonical.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuprep.backends.base import Backend
from gpuprep.codes import PLANE_BITS, canonical_rows, code_dtype
from gpuprep.errors import GeometryError
from gpuprep.geometry import VolumeGeometry
from gpuprep.masks import Roi, RoiMask, from_planes

#: Threads of a block along columns and rows, where a thread handles LANES columns.
BOX_BLOCK = (16, 16)
#: Slots of the first hash table of sets: codes of one byte. It grows by a factor when it is full.
_FIRST_CAPACITY = 1 << 8
_CAPACITY_GROWTH = 16


@dataclass(frozen=True, slots=True, eq=False)
class _Box:
    """Where planes (words, depth, rows, columns) lie: index of each slice, first row and column of the volume."""

    slices: NDArray[np.int32]
    row: int
    column: int
    rows: int
    columns: int


class PaletteEncoder:
    """Codes of a volume, from bit planes that are given box by box; what is in no box belongs to no ROI.

    Parameters
    ----------
    shape : (int, int, int)
        Of the volume (D, H, W).
    backend : Backend
        Where to compute; it has kernels.
    """

    def __init__(self, shape: tuple[int, int, int], backend: Backend) -> None:
        self._backend = backend
        self._capacity = _FIRST_CAPACITY
        self._codes = backend.xp.zeros(shape, code_dtype(_FIRST_CAPACITY))
        self._done: list[tuple[_Box, NDArray[np.intp]]] = []

    def add(self, planes: Any, slices: NDArray[np.integer], row: int, column: int) -> NDArray[np.uint32]:
        """Encode a box.

        Parameters
        ----------
        planes : array of the backend, of shape (words, depth, rows, columns), uint32
            C order; it may be overwritten afterwards.
        slices : ndarray of shape (depth,)
            Index in the volume of each of its slices; no slice is given twice.
        row, column : int
            Of the volume, where it begins.

        Returns
        -------
        ndarray of shape (K, words), uint32
            The sets of bits in the box, without the empty one: what `finish` needs to know the ROIs of.
        """
        backend = self._backend
        words, depth, rows, columns = planes.shape
        box = _Box(slices.astype(np.int32), row, column, rows, columns)
        while True:
            slots = backend.xp.zeros(self._capacity, np.uint32)
            sizes = map(np.int32, (words, depth))
            self._launch("encode", box, (planes, slots, self._codes), (np.uint32(self._capacity), *sizes))
            owner = backend.download(slots)
            if owner[0] == 0:
                break
            self._capacity *= _CAPACITY_GROWTH
            self._codes = self._codes.astype(code_dtype(self._capacity), copy=False)
        used = np.flatnonzero(owner)
        self._done.append((box, used))
        keys = planes.reshape(words, -1)[:, backend.upload(owner[used].astype(np.int64) - 1)]
        return np.ascontiguousarray(backend.download(keys).T)

    def finish(self, sets: Sequence[NDArray[np.uint32]], words: int) -> tuple[Any, NDArray[np.uint32]]:
        """Return codes (D, H, W), an array of the backend, and table of the canonical palette.

        Parameters
        ----------
        sets : sequence of ndarray of shape (K, words), uint32
            For each box, the ROIs that the sets stand for, in the order in which `add` returned them.
        words : int
            Words of the table.
        """
        table, place = canonical_rows(np.concatenate([np.zeros((1, words), np.uint32), *sets]))
        codes = self._codes = self._codes.astype(code_dtype(max(len(table), self._capacity)), copy=False)
        first = 1
        for box, used in self._done:
            lut = np.zeros(self._capacity, codes.dtype)
            lut[used] = place[first : first + len(used)]
            first += len(used)
            self._launch("relabel", box, (codes, self._backend.upload(lut)), ())
        return codes.astype(code_dtype(len(table)), copy=False), table

    def _launch(self, kernel: str, box: _Box, arrays: tuple[Any, ...], sizes: tuple[Any, ...]) -> None:
        backend = self._backend
        _, height, width = self._codes.shape
        places = map(np.int32, (box.rows, box.columns, height, width, box.row, box.column))
        grid = (
            -(-box.columns // (backend.lanes * BOX_BLOCK[0])),
            -(-box.rows // BOX_BLOCK[1]),
            len(box.slices),
        )
        name = f"palette_{kernel}_u{8 * self._codes.itemsize}"
        backend.launch(name, grid, BOX_BLOCK, (*arrays, backend.upload(box.slices), *sizes, *places))


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
    encoder = PaletteEncoder(geometry.shape, backend)
    keys = encoder.add(planes, np.arange(geometry.shape[0]), 0, 0)
    codes, table = encoder.finish([keys], words)
    return RoiMask(backend.download(codes), table, tuple(rois), geometry)
