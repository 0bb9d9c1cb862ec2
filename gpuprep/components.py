"""Connected components of a mask: what touches by a face, an edge or a corner is one."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Rows before a row in reading order that touch it: (slice, row) steps. Later ones see it in turn.
_ROWS_BEFORE = ((0, -1), (-1, -1), (-1, 0), (-1, 1))

_Index = NDArray[np.int64]


def label_components(binary: NDArray[Any]) -> tuple[NDArray[np.uint32], int]:
    """Number the connected components of a mask, 26 neighbours a voxel.

    Parameters
    ----------
    binary : ndarray of shape (D, H, W)
        Non-zero inside.

    Returns
    -------
    ndarray of shape (D, H, W), uint32
        0 outside, else 1, 2, … in the order of the components' first voxels.
    int
        How many there are.
    """
    depth, height, width = binary.shape
    padded = np.zeros((depth * height, width + 2), np.bool_)
    padded[:, 1:-1] = binary.reshape(-1, width) != 0
    row, column = np.nonzero(padded[:, 1:] != padded[:, :-1])
    row, start, stop = row[::2].astype(np.int64), column[::2].astype(np.int64), column[1::2].astype(np.int64)
    first, second = _touching_runs(row, start, stop, height, width)
    parent = _join(len(row), first, second)
    roots, number = np.unique(parent, return_inverse=True)
    labels = np.zeros(depth * height * width, np.uint32)
    begin, length = row * width + start, stop - start
    inside = np.repeat(begin - np.cumsum(length) + length, length) + np.arange(length.sum())
    labels[inside] = np.repeat(number + 1, length)
    return labels.reshape(binary.shape), len(roots)


def _touching_runs(row: _Index, start: _Index, stop: _Index, height: int, width: int) -> tuple[_Index, _Index]:
    """Return the pairs of runs (of voxels in a row, in reading order) that touch, as two arrays of run indices."""
    pitch = width + 2  # runs of neighbouring rows stay apart although touching runs may begin one column later
    starts, stops = row * pitch + start, row * pitch + stop
    pairs = []
    for slice_step, row_step in _ROWS_BEFORE:
        is_there = (row % height + row_step >= 0) & (row % height + row_step < height)
        run = np.flatnonzero(is_there)
        other = (row[run] + slice_step * height + row_step) * pitch
        low = np.searchsorted(stops, other + start[run], side="left")
        high = np.searchsorted(starts, other + stop[run], side="right")
        count = np.maximum(high - low, 0)
        offset = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
        pairs.append((np.repeat(run, count), np.repeat(low, count) + offset))
    return np.concatenate([p[0] for p in pairs]), np.concatenate([p[1] for p in pairs])


def _join(count: int, first: _Index, second: _Index) -> _Index:
    """Return for each of `count` nodes the smallest node that edges lead to, by hooking roots and jumping pointers."""
    parent = np.arange(count)
    while True:
        a, b = parent[first], parent[second]
        if np.array_equal(a, b):
            return parent
        np.minimum.at(parent, np.maximum(a, b), np.minimum(a, b))
        while not np.array_equal(parent, above := parent[parent]):
            parent = above
