"""Bit planes to codes and codes to codes, launched on their own for every width of code."""

from __future__ import annotations

import numpy as np
import pytest

from gpuprep.backends import select
from gpuprep.backends.cpu import CpuBackend

CPU = select("cpu")
BACKENDS = [CPU, CpuBackend(row_forms=False)]
CAPACITY = 256
#: The box of planes (words, depth, rows, columns) and where it lies in the volume of codes.
BOX, VOLUME, ROW, COLUMN = (2, 3, 5, 131), (4, 9, 140), 2, 7
SLICES = np.array([3, 0, 2], np.int32)
BLOCK = (2, 4)


def launch(backend, kernel, arrays, leading=()):
    _, depth, rows, columns = BOX
    grid = (-(-columns // (backend.lanes * BLOCK[0])), -(-rows // BLOCK[1]), depth)
    sizes = (rows, columns, VOLUME[1], VOLUME[2], ROW, COLUMN)
    backend.launch(kernel, grid, BLOCK, (*arrays, SLICES, *leading, *map(np.int32, sizes)))


@pytest.mark.parametrize("backend", BACKENDS, ids=["row form", "kernel"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32])
def test_equal_sets_get_equal_codes_and_tables_are_applied(dtype, backend):
    width = 8 * np.dtype(dtype).itemsize
    planes = np.random.default_rng(8).integers(0, 6, BOX).astype(np.uint32)
    planes[:, 1] = planes[:, 1, :1, :1]  # one set all over a slice
    slots, codes = np.zeros(CAPACITY, np.uint32), np.zeros(VOLUME, dtype)
    launch(backend, f"palette_encode_u{width}", (planes, slots, codes), (np.uint32(CAPACITY), *map(np.int32, BOX[:2])))
    box = codes[SLICES, ROW : ROW + BOX[2], COLUMN : COLUMN + BOX[3]]
    outside = codes.copy()
    outside[SLICES, ROW : ROW + BOX[2], COLUMN : COLUMN + BOX[3]] = 0
    assert slots[0] == 0
    assert not outside.any()
    sets = planes[0].astype(int) * 6 + planes[1]
    pairs = np.unique(np.stack([sets.ravel(), box.ravel()]), axis=1)
    assert len(np.unique(pairs[0])) == len(np.unique(pairs[1])) == pairs.shape[1] == 36
    assert not box[sets == 0].any()

    table = np.arange(CAPACITY)[::-1].astype(dtype)
    table[0] = 0
    expected = table[box]
    launch(backend, f"palette_relabel_u{width}", (codes, table))
    np.testing.assert_array_equal(codes[SLICES, ROW : ROW + BOX[2], COLUMN : COLUMN + BOX[3]], expected)


@pytest.mark.parametrize("backend", BACKENDS, ids=["row form", "kernel"])
def test_a_full_table_says_so(backend):
    planes = np.arange(np.prod(BOX), dtype=np.uint32).reshape(BOX)
    slots, codes = np.zeros(16, np.uint32), np.zeros(VOLUME, np.uint8)
    launch(backend, "palette_encode_u8", (planes, slots, codes), (np.uint32(16), *map(np.int32, BOX[:2])))
    assert slots[0] == 1


@pytest.mark.parametrize("columns", [1, 63, 64, 65, 128, 129, 200])
@pytest.mark.parametrize("words", [1, 2])
def test_row_forms_find_every_run(words, columns):
    rng = np.random.default_rng(columns)
    planes = np.repeat(rng.integers(0, 4, (words, 1, 40, columns)), rng.integers(1, 9, columns), axis=3)[..., :columns]
    planes = np.ascontiguousarray(planes.astype(np.uint32))
    made = []
    for backend in BACKENDS:
        slots, codes = np.zeros(CAPACITY, np.uint32), np.zeros((1, 40, columns), np.uint8)
        arguments = (np.zeros(1, np.int32), np.uint32(CAPACITY), np.int32(words), np.int32(1))
        sizes = tuple(map(np.int32, (40, columns, 40, columns, 0, 0)))
        grid = (-(-columns // (CPU.lanes * BLOCK[0])), -(-40 // BLOCK[1]), 1)
        backend.launch("palette_encode_u8", grid, BLOCK, (planes, slots, codes, *arguments, *sizes))
        lut = np.zeros(CAPACITY, np.uint8)
        used = np.unique(codes[codes > 0])
        keys = planes.reshape(words, -1)[:, slots[used].astype(np.int64) - 1]
        lut[used] = keys[0] + 4 * (keys[1] if words > 1 else 0)
        backend.launch("palette_relabel_u8", grid, BLOCK, (codes, lut, arguments[0], *sizes))
        made.append(codes)
    expected = planes[0, 0] + 4 * (planes[1, 0] if words > 1 else 0)
    np.testing.assert_array_equal(made[0][0], expected)
    np.testing.assert_array_equal(made[1][0], expected)
