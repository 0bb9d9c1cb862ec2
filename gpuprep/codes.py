"""Codes and their tables: a code of a voxel is a row of a table, whose bits are the ROIs that hold the voxel."""

from __future__ import annotations

import ctypes
from typing import Any, NoReturn, TypeVar

import numpy as np
from numpy.typing import NDArray

from gpuprep import hostlib
from gpuprep.errors import GeometryError

#: Bits in one word of a bit plane.
PLANE_BITS = 32

_Scalar = TypeVar("_Scalar", bound=np.generic)


def apply_lut(lut: NDArray[_Scalar], codes: NDArray[np.unsignedinteger]) -> NDArray[_Scalar]:
    """Return ``lut[codes]``, or `codes` itself when the table changes nothing: not to be written to.

    Parameters
    ----------
    lut : array of shape (K,)
        Values of 1, 2 or 4 bytes.
    codes : array of any shape, uint8, uint16 or uint32

    Raises
    ------
    GeometryError
        ``code-unknown``: a code is not in the table.
    """
    if lut.dtype == codes.dtype and bool((lut == np.arange(len(lut))).all()):
        return codes  # type: ignore[return-value]
    lut, codes = np.ascontiguousarray(lut), np.ascontiguousarray(codes)
    out = np.empty(codes.shape, lut.dtype)
    are_valid = hostlib.load()[0].gp_look_up_codes(
        ctypes.c_void_p(codes.ctypes.data),
        codes.itemsize,
        ctypes.c_int64(codes.size),
        ctypes.c_void_p(lut.ctypes.data),
        lut.itemsize,
        ctypes.c_int64(len(lut)),
        ctypes.c_void_p(out.ctypes.data),
    )
    return out if are_valid else _refuse_codes(len(lut))


def apply_rows(rows: NDArray[np.uint8], codes: NDArray[np.unsignedinteger], out: NDArray[np.uint8]) -> None:
    """Write ``rows[codes]`` into `out`.

    Parameters
    ----------
    rows : array of shape (K, C)
        C values for each code.
    codes : array of any shape, uint8, uint16 or uint32
    out : array of shape (…, C), as `codes`, C order

    Raises
    ------
    GeometryError
        ``code-unknown``: a code has no row.
    """
    rows, codes = np.ascontiguousarray(rows), np.ascontiguousarray(codes)
    are_valid = hostlib.load()[0].gp_spread_codes(
        ctypes.c_void_p(codes.ctypes.data),
        codes.itemsize,
        ctypes.c_int64(codes.size),
        ctypes.c_void_p(rows.ctypes.data),
        ctypes.c_int64(rows.shape[1]),
        ctypes.c_int64(len(rows)),
        ctypes.c_void_p(out.ctypes.data),
    )
    if not are_valid:
        _refuse_codes(len(rows))


def count_codes(codes: NDArray[np.unsignedinteger], size: int) -> NDArray[np.int64]:
    """Return how often each of `size` codes occurs, shape (size,).

    Raises
    ------
    GeometryError
        ``code-unknown``: there are others.
    """
    codes = np.ascontiguousarray(codes)
    counts = np.zeros(size, np.int64)
    are_valid = hostlib.load()[0].gp_count_codes(
        ctypes.c_void_p(codes.ctypes.data),
        codes.itemsize,
        ctypes.c_int64(codes.size),
        ctypes.c_void_p(counts.ctypes.data),
        ctypes.c_int64(size),
    )
    return counts if are_valid else _refuse_codes(size)


def _refuse_codes(size: int) -> NoReturn:
    raise GeometryError(f"a volume of codes holds some beyond its table of {size}", code="code-unknown")


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


def canonical_rows(rows: NDArray[np.uint32]) -> tuple[NDArray[np.uint32], NDArray[np.intp]]:
    """Return the distinct rows of (M, P) in canonical order, and the place of each row among them, shape (M,)."""
    order = canonical_order(rows)
    ordered = rows[order]
    is_new = np.ones(len(rows), np.bool_)
    is_new[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    place = np.empty(len(rows), np.intp)
    place[order] = np.cumsum(is_new) - 1
    return np.ascontiguousarray(ordered[is_new]), place


def column_runs(words: NDArray[Any]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return first index and length of each run of equal columns of words (P, n)."""
    changes = np.zeros(words.shape[1], np.bool_)
    changes[0] = True
    for word in words:
        changes[1:] |= word[1:] != word[:-1]
    starts = np.flatnonzero(changes)
    return starts, np.diff(starts, append=words.shape[1])


def row_runs(plane: NDArray[np.unsignedinteger]) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
    """Return first index, last index and code of each run of equal codes in a row of a plane (H, W), but not of 0."""
    changes = np.ones(plane.shape, np.bool_)
    np.not_equal(plane[:, 1:], plane[:, :-1], out=changes[:, 1:])
    starts = np.flatnonzero(changes)
    ends = np.append(starts[1:], plane.size) - 1
    codes = plane.reshape(-1)[starts].astype(np.intp)
    filled = codes > 0
    return starts[filled], ends[filled], codes[filled]
