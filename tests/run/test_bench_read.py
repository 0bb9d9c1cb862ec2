"""Reading TIFFs in an order: every file once, sizes as the files say, what cannot be read is named."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile

from gpuprep.errors import ConfigError, ExitStatus, InputNotFoundError
from gpuprep.report.reads import format_reads
from gpuprep.run import bench_read
from gpuprep.run.bench_read import measure_reads
from gpuprep.run.tiff_files import find_tiffs

RAMP = np.add.outer(np.arange(60), np.arange(40)).astype(np.uint16) * 7


@pytest.fixture
def folder(tmp_path):
    """Six files of three frames, written against the order of their names."""
    for number, name in enumerate("fedcba"):
        path = tmp_path / name / "x.tiff"
        path.parent.mkdir()
        with tifffile.TiffWriter(path) as file:
            for _ in range(3):
                file.write(RAMP, compression="packbits" if number % 2 else None, contiguous=False, metadata=None)
    return tmp_path


def names(benchmark):
    return [path.split("/")[-2] for path in (read.path for read in benchmark.reads)]


def test_each_file_is_read_once_in_its_order(folder):
    assert names(measure_reads(folder, "sequential")) == list("abcdef")
    inodes = [Path(read.path).stat().st_ino for read in measure_reads(folder, "inode").reads]
    assert inodes == sorted(inodes)
    shuffled = names(measure_reads(folder, "random", seed=1))
    assert sorted(shuffled) == list("abcdef")
    assert shuffled == names(measure_reads(folder, "random", seed=1))
    assert shuffled[:2] == names(measure_reads(folder, "random", seed=1, files=2))


def test_sizes_are_those_of_the_frame(folder):
    for read in measure_reads(folder, "sequential").reads:
        with tifffile.TiffFile(read.path) as file:
            page = file.pages[read.frame]
        assert read.pixel_bytes == RAMP.nbytes
        assert read.stored_bytes == sum(page.databytecounts)
        assert read.coding == ("packbits" if page.compression == 32773 else "uncompressed")
        assert read.cached_bytes is None or 0 <= read.cached_bytes <= read.stored_bytes
        assert read.is_16_bit
        assert not read.is_spread
    frames = {read.frame for seed in range(6) for read in measure_reads(folder, "random", seed=seed).reads}
    assert frames == {0, 1, 2}


@pytest.mark.parametrize("dtype", [np.bool_, np.complex64, np.uint64])
def test_frames_that_are_not_ours_are_read_but_not_compared(tmp_path, dtype):
    tifffile.imwrite(tmp_path / "a.tif", RAMP.astype(dtype), photometric="minisblack")
    tifffile.imwrite(tmp_path / "b.tif", np.stack([RAMP, RAMP], -1), photometric="minisblack", planarconfig="contig")
    benchmark = measure_reads(tmp_path, "sequential", compare=2)
    assert (len(benchmark.reads), benchmark.failed, benchmark.compared) == (2, (), ())
    assert "written with each compressor" not in format_reads(benchmark)


def test_eight_bits_spread_over_sixteen_are_told(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", (RAMP % 256) * 257)
    benchmark = measure_reads(tmp_path, "random")
    assert benchmark.reads[0].is_spread
    assert "1 of them hold but 8 bits" in format_reads(benchmark)


def test_compressors_are_compared_on_the_same_frames(folder):
    compared = measure_reads(folder, "random", compare=2).compared
    sizes = {frame.coding: frame.stored_bytes for frame in compared}
    assert len(compared) == 2 * 8
    assert sizes["uncompressed"] == RAMP.nbytes
    assert sizes["lzw+predictor"] < sizes["lzw"] < sizes["packbits"]


def test_table_has_the_ratios(folder):
    text = format_reads(measure_reads(folder, "sequential", compare=1))
    rows = {line.split()[0]: line.split() for line in text.splitlines() if line.startswith("  ")}
    assert "6 files, one frame of each, in sequential order" in text
    assert rows["uncompressed"][1:3] == ["1.000", "0.988"]  # 80 : 81, a row is one packet of literals
    assert rows["packbits"][2] == "1.000"


def test_damaged_files_are_named_and_the_rest_is_read(gpuprep, folder):
    whole = (folder / "a" / "x.tiff").read_bytes()
    (folder / "a" / "x.tiff").write_bytes(b"II*\0 no TIFF")
    (folder / "b" / "x.tiff").write_bytes(whole[:200])
    result = gpuprep("bench", "read", folder)
    assert result.status == ExitStatus.CASES_FAILED
    assert "4 files, one frame of each, in random order" in result.stdout
    assert result.stdout.count("failed: ") == 2
    assert "Traceback" not in result.stderr


def test_no_damage_stops_it(tmp_path):
    tifffile.imwrite(tmp_path / "0.tiff", RAMP, compression="lzw", predictor=True)
    whole = np.frombuffer((tmp_path / "0.tiff").read_bytes(), np.uint8)
    rng = np.random.default_rng(5)
    for number in range(1, 200):
        damaged = whole.copy()
        damaged[rng.integers(0, 260, 3)] = rng.integers(0, 256, 3)  # within the tags
        (tmp_path / f"{number}.tiff").write_bytes(damaged.tobytes())
    benchmark = measure_reads(tmp_path, "sequential")
    assert len(benchmark.reads) + len(benchmark.failed) == 200
    assert benchmark.failed


def test_cold_reads_say_so(gpuprep, folder):
    result = gpuprep("bench", "read", folder, "--order", "inode", "--cold", "--files", 3)
    assert result.status == ExitStatus.DONE
    assert "3 files" in result.stdout
    assert "page cache: emptied of these files first; " in result.stdout


def test_a_file_that_is_gone_costs_itself(folder, monkeypatch):
    gone = folder / "gone.tiff"
    monkeypatch.setattr(bench_read, "find_tiffs", lambda f: [*found, replace(found[0], path=str(gone))])
    found = find_tiffs(folder)
    benchmark = measure_reads(folder, "sequential", is_cold=True)
    assert len(benchmark.reads) == len(found)
    assert benchmark.failed == (f"{gone}: No such file or directory",)


def test_refusals(tmp_path, folder, monkeypatch):
    (tmp_path / "empty").mkdir()
    for source, code in ((tmp_path / "empty", "no-tiff-found"), (tmp_path / "nowhere", "path-missing")):
        with pytest.raises(InputNotFoundError) as missing:
            measure_reads(source, "random")
        assert missing.value.code == code
    monkeypatch.delattr(os, "posix_fadvise")
    with pytest.raises(ConfigError) as caught:
        measure_reads(folder, "random", is_cold=True)
    assert caught.value.code == "no-cache-control"
