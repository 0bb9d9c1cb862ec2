"""Volumes compressed in blocks, and those that are mostly zero, read back by zlib, igzip and nibabel."""

from __future__ import annotations

import errno
import gzip
import io
import threading
import zlib

import nibabel
import numpy as np
import pytest
from isal import igzip

from gpuprep.geometry import VolumeGeometry
from gpuprep.writers.block_gzip import BLOCK, write_gzip
from gpuprep.writers.nifti import write_nifti


@pytest.mark.parametrize("size", [0, 1, 1000, BLOCK, 3 * BLOCK + 17])
@pytest.mark.parametrize("share", [(0.0, 0.0), (0.0, 1.0), (0.3, 0.31), (0.5, 1.0)])
def test_what_is_read_is_what_was_written(size: int, share: tuple[float, float]) -> None:
    filled = range(int(share[0] * size), int(share[1] * size))
    content = np.zeros(size, np.uint8)
    content[filled.start : filled.stop] = np.random.default_rng(size).integers(0, 9, len(filled))
    file = io.BytesIO()
    crc = write_gzip(file, b"head", content.data, filled=filled, level=1)
    written, expected = file.getvalue(), b"head" + content.tobytes()
    assert gzip.decompress(written) == igzip.decompress(written) == expected
    assert crc == zlib.crc32(expected)
    member = zlib.decompressobj(wbits=31)
    assert member.decompress(written) == expected
    assert member.eof and not member.unused_data


@pytest.mark.parametrize("threads", [2, 5])
def test_threads_do_not_change_what_is_written(threads: int) -> None:
    content = np.random.default_rng(1).normal(0, 40, 9 * BLOCK + 5).astype(np.int8)
    files = [io.BytesIO(), io.BytesIO()]
    for file, count in zip(files, (1, threads), strict=True):
        write_gzip(file, b"head", content.data.cast("B"), level=2, threads=count)
    assert files[0].getvalue() == files[1].getvalue()
    assert gzip.decompress(files[0].getvalue()) == b"head" + content.tobytes()


def test_a_full_disk_ends_the_threads_too() -> None:
    class Full(io.BytesIO):
        def write(self, data: bytes) -> int:
            if self.tell() > BLOCK:
                raise OSError(errno.ENOSPC, "no space")
            return super().write(data)

    content = np.random.default_rng(1).integers(0, 255, 9 * BLOCK, np.uint8)
    with pytest.raises(OSError, match="no space"):
        write_gzip(Full(), b"head", content.data, level=1, threads=2)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("deflate")]


def test_a_sparse_volume_is_the_file_that_any_other_is(tmp_path) -> None:
    geometry = VolumeGeometry((6, 300, 500), np.diag([2.0, 1.5, 1.5, 1.0]))
    array = np.zeros(geometry.shape, np.uint16)
    array[2:4, 100:200, 7:300] = 3
    ours = write_nifti(tmp_path / "a.nii.gz", array, geometry, filled=range(2, 4), level=1, threads=1, root=tmp_path)
    plain = write_nifti(tmp_path / "b.nii.gz", array, geometry, level=1, threads=1, root=tmp_path)
    assert gzip.decompress((tmp_path / "a.nii.gz").read_bytes()) == gzip.decompress(
        (tmp_path / "b.nii.gz").read_bytes()
    )
    assert (ours.path, ours.size) == ("a.nii.gz", (tmp_path / "a.nii.gz").stat().st_size)
    assert ours.crc32 == plain.crc32
    assert np.array_equal(np.asarray(nibabel.load(tmp_path / "a.nii.gz").dataobj), array.transpose())


def test_zeros_outside_are_not_looked_at(tmp_path) -> None:
    geometry = VolumeGeometry((3, 4, 5), np.eye(4))
    array = np.ones(geometry.shape, np.uint8)
    write_nifti(tmp_path / "a.nii.gz", array, geometry, filled=range(1, 2), level=1, threads=1, root=tmp_path)
    read = np.asarray(nibabel.load(tmp_path / "a.nii.gz").dataobj).transpose()
    assert read.any(axis=(1, 2)).tolist() == [False, True, False]


def test_the_trailer_of_more_than_32_bits_of_bytes_counts_from_0_again() -> None:
    file = io.BytesIO()
    write_gzip(file, b"head", range((1 << 32) + 1), filled=range(0), level=1)  # all that counts is its length
    assert int.from_bytes(file.getvalue()[-4:], "little") == len(b"head") + 1  # RFC 1952: length modulo 2^32
