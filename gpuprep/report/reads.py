"""What ``gpuprep bench read`` prints."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from typing import TypeVar

from gpuprep.report.table import format_table
from gpuprep.run.bench_read import CodedFrame, FrameRead, ReadBenchmark

_BASE = "uncompressed"
#: Failures named in the report.
_NAMED = 3

Measured = TypeVar("Measured", FrameRead, CodedFrame)


def format_reads(benchmark: ReadBenchmark) -> str:
    """Return the throughput, the state of the page cache, and tables by compression."""
    reads = benchmark.reads
    seconds = sum(read.open_s + read.read_s + read.decode_s for read in reads)
    lines = [
        f"{len(reads)} files, one frame of each, in {benchmark.order} order, one after the other: "
        f"{len(reads) / seconds if reads else 0:.1f} files/s",
        f"page cache: {_describe_cache(benchmark)}",
        f"pixels: {_describe_depth(reads)}",
    ]
    lines += [f"failed: {message}" for message in benchmark.failed[:_NAMED]]
    if len(benchmark.failed) > _NAMED:
        lines.append(f"… and {len(benchmark.failed) - _NAMED} more files failed")
    lines += ["", "one frame by compression, medians", format_table(_HEAD_READS, map(_read_row, _by_coding(reads)))]
    if benchmark.compared:
        frames = len(benchmark.compared) // len(_by_coding(benchmark.compared))
        lines += ["", f"{frames} of the frames written with each compressor, decoded from memory"]
        lines.append(format_table(_HEAD_CODED, _coded_rows(_by_coding(benchmark.compared))))
    return "\n".join(lines)


def _describe_cache(benchmark: ReadBenchmark) -> str:
    cached = [read.cached_bytes for read in benchmark.reads]
    known = [held for held in cached if held is not None]
    asked = "emptied of these files first; " if benchmark.is_cold else ""
    if not known or len(known) < len(cached):
        return f"{asked}the file system does not tell what it held"
    share = sum(known) / max(1, sum(read.stored_bytes for read in benchmark.reads))
    return f"{asked}it held {share:.0%} of the bytes read (caches of disks and servers cannot be seen)"


def _describe_depth(reads: Sequence[FrameRead]) -> str:
    deep, spread = sum(read.is_16_bit for read in reads), sum(read.is_spread for read in reads)
    text = f"{deep} of {len(reads)} frames have 16 bits"
    return f"{text}, {spread} of them hold but 8 bits times 257, which compress better" if spread else text


def _by_coding(measured: Sequence[Measured]) -> list[list[Measured]]:
    """Return the measurements by compression: uncompressed first, then by name."""
    names = sorted({one.coding for one in measured}, key=lambda name: (name != _BASE, name))
    return [[one for one in measured if one.coding == name] for name in names]


_HEAD_READS = ("compression", "files", "MB", "size : pixels", "open ms", "read ms", "decode ms", "MB/s decoded")
_HEAD_CODED = ("compression", "size : pixels", "size : packbits", "decode ms", f"decode : {_BASE}")


def _read_row(reads: Sequence[FrameRead]) -> tuple[str, ...]:
    stored, pixels = sum(r.stored_bytes for r in reads), sum(r.pixel_bytes for r in reads)
    times = [statistics.median(getattr(r, name) for r in reads) * 1e3 for name in ("open_s", "read_s", "decode_s")]
    rate = pixels / 1e6 / sum(r.decode_s for r in reads)
    return (
        reads[0].coding,
        str(len(reads)),
        f"{stored / 1e6 / len(reads):.2f}",
        f"{stored / pixels:.3f}",
        *(f"{ms:.2f}" for ms in times),
        f"{rate:.0f}",
    )


def _coded_rows(groups: Sequence[Sequence[CodedFrame]]) -> Iterable[tuple[str, ...]]:
    sizes = {group[0].coding: sum(frame.stored_bytes for frame in group) for group in groups}
    times = {group[0].coding: statistics.median(frame.decode_s for frame in group) for group in groups}
    pixels = sum(frame.pixel_bytes for frame in groups[0])
    for coding, size in sizes.items():
        yield (
            coding,
            f"{size / pixels:.3f}",
            f"{size / sizes['packbits']:.3f}",
            f"{times[coding] * 1e3:.2f}",
            f"{times[coding] / times[_BASE]:.1f}",
        )
