"""ROIs on a voxel grid: bit planes while rasterising, a palette at rest.

Bit planes are ``uint32[P, D, H, W]``: ROI ``i`` is bit ``i % 32`` of plane ``i // 32``. A palette is one volume of
``codes`` and a table code → set of ROIs; it is as lossless as the planes, has no limit on ROIs, and every output
(label image, sparse, regions, one mask a ROI) is a lookup in the table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from gpuprep.errors import GeometryError
from gpuprep.geometry import VolumeGeometry

#: Bits in one word of a bit plane.
PLANE_BITS = 32


@dataclass(frozen=True, slots=True)
class Roi:
    """A ROI of an RTSTRUCT or a segment of a SEG, as its file names it.

    Parameters
    ----------
    number : int
        ROI Number (3006,0022) or Segment Number (0062,0004): what ties it to its contours or frames.
    name : str
        ROI Name or Segment Label, unfiltered; never used as a file name as it is.
    rgb : (int, int, int) or None
        Display colour, 0 to 255 each.
    """

    number: int
    name: str
    rgb: tuple[int, int, int] | None = None


@dataclass(frozen=True, eq=False)
class RoiMask:
    """Which ROIs cover each voxel, as a canonical palette.

    Parameters
    ----------
    codes : ndarray of shape (D, H, W), uint8, uint16 or uint32
        Index into `table`; the smallest dtype that holds ``len(table) - 1``.
    table : ndarray of shape (K, P), uint32
        ``table[code, p]`` has bit ``b`` set when ROI ``32 * p + b`` is in the set. Row 0 is the empty set; rows are
        unique and ascend as integers whose most significant word is the last: equal planes give equal bytes on
        every backend.
    rois : sequence of Roi
        The ROIs, in the order of their bits; a ROI without any voxel keeps its place.
    geometry : VolumeGeometry
        Grid of `codes`.

    Raises
    ------
    GeometryError
        ``shape-mismatch``: `codes` and `geometry` differ in shape.
    """

    codes: NDArray[np.unsignedinteger]
    table: NDArray[np.uint32]
    rois: Sequence[Roi]
    geometry: VolumeGeometry

    def __post_init__(self) -> None:
        if tuple(self.codes.shape) != self.geometry.shape:
            raise GeometryError(
                f"codes of shape {tuple(self.codes.shape)} on a grid of shape {self.geometry.shape}",
                code="shape-mismatch",
            )

    @cached_property
    def members(self) -> NDArray[np.bool_]:
        """Array of shape (K, N): whether ROI n is in the set of code k."""
        return unpack_bits(self.table, len(self.rois))

    @cached_property
    def code_counts(self) -> NDArray[np.int64]:
        """Voxels of each code, shape (K,)."""
        return np.bincount(self.codes.reshape(-1), minlength=len(self.table)).astype(np.int64)

    @property
    def voxel_counts(self) -> NDArray[np.int64]:
        """Voxels of each ROI, shape (N,)."""
        return self.code_counts @ self.members

    def binary(self, roi: int) -> NDArray[np.uint8]:
        """Return the mask of the ROI with index `roi`, uint8 0 or 1, shape (D, H, W)."""
        mask: NDArray[np.uint8] = self.members[:, roi].astype(np.uint8)[self.codes]
        return mask


def unpack_bits(table: NDArray[np.uint32], count: int) -> NDArray[np.bool_]:
    """Return which of `count` bits are set in each row of a table (K, P) of words, lowest first: shape (K, count)."""
    bits = np.unpackbits(np.ascontiguousarray(table.astype("<u4")).view(np.uint8), axis=1, bitorder="little")
    return bits[:, :count].astype(np.bool_)


def pack_bits(members: NDArray[np.bool_]) -> NDArray[np.uint32]:
    """Return rows (K, N) of booleans as words (K, P), P = ceil(N / 32), at least 1. Inverse of `unpack_bits`."""
    words = max(1, -(-members.shape[1] // PLANE_BITS))
    padded = np.zeros((len(members), words * PLANE_BITS), np.bool_)
    padded[:, : members.shape[1]] = members
    return np.packbits(padded, axis=1, bitorder="little").view("<u4").astype(np.uint32)


def code_dtype(codes: int) -> type[np.uint8] | type[np.uint16] | type[np.uint32]:
    """Return the smallest unsigned dtype that tells `codes` codes apart."""
    if codes <= 1 << 8:
        return np.uint8
    return np.uint16 if codes <= 1 << 16 else np.uint32


def canonical_order(table: NDArray[np.uint32]) -> NDArray[np.intp]:
    """Return the order that sorts table rows as integers, last word most significant."""
    return np.lexsort(tuple(table.T))
