"""How fast the frames of TIFFs are read: one frame a file, in a chosen order, by compression."""

from __future__ import annotations

import io
import os
import random
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gpuprep.coordinates import TIFF_ERRORS
from gpuprep.errors import ConfigError
from gpuprep.run.tiff_files import find_tiffs
from gpuprep.writers.tiff import (
    COMPRESSORS,
    PREDICTED,
    TiffStyle,
    is_writable,
    name_compression,
    write_pages,
)

Order = Literal["random", "sequential", "inode"]

#: 8 bits spread over 16 are multiples of this.
_SPREAD = 257


@dataclass(frozen=True, slots=True)
class FrameRead:
    """What reading one frame of one file took.

    Parameters
    ----------
    path : str
    frame : int
        Its number, from 0.
    coding : str
        Compression, with ``+predictor`` where there is one.
    pixel_bytes, stored_bytes : int
        Size of the frame in memory and in the file.
    cached_bytes : int or None
        How much of `stored_bytes` the page cache held; None when the file system does not tell.
    open_s, read_s, decode_s : float
        Wall time of opening the file and finding the frame, of reading its bytes, of decoding them into an array.
    is_16_bit, is_spread : bool
        Whether pixels have 16 bits, and whether these are 8 bits times 257.
    """

    path: str
    frame: int
    coding: str
    pixel_bytes: int
    stored_bytes: int
    cached_bytes: int | None
    open_s: float
    read_s: float
    decode_s: float
    is_16_bit: bool
    is_spread: bool


@dataclass(frozen=True, slots=True)
class CodedFrame:
    """One frame written with one compressor: its size, and seconds to decode it from memory."""

    coding: str
    pixel_bytes: int
    stored_bytes: int
    decode_s: float


@dataclass(frozen=True, slots=True)
class ReadBenchmark:
    """The reads in their order, a message for each file that could not be read, and frames written anew."""

    order: Order
    is_cold: bool
    reads: tuple[FrameRead, ...]
    failed: tuple[str, ...]
    compared: tuple[CodedFrame, ...]


def measure_reads(
    folder: Path,
    order: Order,
    *,
    files: int | None = None,
    seed: int = 0,
    is_cold: bool = False,
    compare: int = 0,
    on_progress: Callable[[int], None] | None = None,
) -> ReadBenchmark:
    """Read one random frame of each TIFF below a folder, one file after the other, each file once.

    Parameters
    ----------
    folder : Path
    order : {"random", "sequential", "inode"}
        Shuffled; by path; by inode number, which on many file systems is near the order on disk.
    files : int, optional
        Most files: the first ones in `order`.
    seed : int
        Of the order and of the choice of frames.
    is_cold : bool
        Have the system forget the files first (POSIX_FADV_DONTNEED). Caches of disks and servers stay as they are.
    compare : int
        So many of the frames are written anew with every compressor, in memory, and decoded; those that ``gpuprep
        tiff`` does not write, as they have other types or channels, are left out.
    on_progress : callable, optional
        Told the number of files read.

    Raises
    ------
    InputNotFoundError
        ``path-missing``; ``no-tiff-found``.
    ConfigError
        ``no-cache-control``: `is_cold` where the system has no such call.
    """
    import tifffile

    generator = random.Random(seed)
    found = sorted(find_tiffs(folder), key=lambda file: file.inode if order == "inode" else file.path)
    if order == "random":
        generator.shuffle(found)
    paths = [file.path for file in found[:files]]
    if is_cold:
        _forget(paths)
    _recode(np.zeros((8, 8), np.uint16))  # imports the codecs
    reads: list[FrameRead] = []
    failed: list[str] = []
    for number, path in enumerate(paths, start=1):
        try:
            reads.append(_read_frame(path, generator))
        except TIFF_ERRORS as error:
            failed.append(f"{path}: {getattr(error, 'strerror', None) or error}")
        if on_progress is not None:
            on_progress(number)
    frames = (tifffile.imread(read.path, key=read.frame) for read in reads[:compare])
    compared = [coded for frame in frames if is_writable(frame) for coded in _recode(frame)]
    return ReadBenchmark(order, is_cold, tuple(reads), tuple(failed), tuple(compared))


def _forget(paths: Sequence[str]) -> None:
    if not hasattr(os, "posix_fadvise"):
        raise ConfigError(
            "this system cannot be told to forget files", code="no-cache-control", hint="leave out --cold"
        )
    for path in paths:
        with suppress(OSError), Path(path).open("rb") as file:  # who reads it tells why not
            os.fsync(file.fileno())  # pages that are not on disk yet are not forgotten
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _read_frame(path: str, generator: random.Random) -> FrameRead:
    import tifffile

    start = time.perf_counter()
    with tifffile.TiffFile(path) as file:
        number = generator.randrange(len(file.pages))
        page: Any = file.pages[number]
        decode, handle = page.decode, file.filehandle.fileno()
        opened = time.perf_counter()
        segments = [_read_bytes(handle, *extent) for extent in zip(page.dataoffsets, page.databytecounts, strict=True)]
        read = time.perf_counter()
        frame = _assemble([data for data, _ in segments], page, decode)
        decoded = time.perf_counter()
        coding = name_compression(page.compression) + ("+predictor" if page.predictor > 1 else "")
    cached = [held for _, held in segments if held is not None]
    is_16_bit = frame.dtype == np.uint16
    return FrameRead(
        path=path,
        frame=number,
        coding=coding,
        pixel_bytes=frame.nbytes,
        stored_bytes=sum(len(data) for data, _ in segments),
        cached_bytes=sum(cached) if len(cached) == len(segments) else None,
        open_s=opened - start,
        read_s=read - opened,
        decode_s=decoded - read,
        is_16_bit=is_16_bit,
        is_spread=is_16_bit and bool(frame.any()) and not (frame % _SPREAD).any(),
    )


def _read_bytes(handle: int, offset: int, length: int) -> tuple[bytearray, int | None]:
    """Return bytes of a file, and how many of them the page cache held."""
    data = bytearray(length)
    done, held = 0, None
    if hasattr(os, "RWF_NOWAIT"):
        try:
            done = held = os.preadv(handle, [data], offset, os.RWF_NOWAIT)
        except BlockingIOError:
            held = 0
        except OSError:  # not every file system has this call
            held = None
    while done < length:
        more = os.preadv(handle, [memoryview(data)[done:]], offset + done)
        if more == 0:
            raise OSError(f"the file ends before byte {offset + length}, where the frame should end")
        done += more
    return data, held


def _assemble(segments: Sequence[bytes | bytearray], page: Any, decode: Callable[..., Any]) -> NDArray[Any]:
    """Return the pixels of all strips or tiles, one after the other, in one new array."""
    parts = [decode(data, i, jpegtables=page.jpegtables)[0] for i, data in enumerate(segments)]
    return np.concatenate([part.reshape(-1) for part in parts if part is not None])


def _recode(frame: NDArray[Any]) -> list[CodedFrame]:
    """Write a frame with each compressor, and decode it."""
    import tifffile

    styles = [*(TiffStyle(name) for name in COMPRESSORS), *(TiffStyle(name, predictor=True) for name in PREDICTED)]
    coded = []
    for style in styles:
        buffer = io.BytesIO()
        with tifffile.TiffWriter(buffer) as writer:
            write_pages(writer, frame[None], style)
        stored = buffer.getvalue()
        with tifffile.TiffFile(io.BytesIO(stored)) as file:
            page: Any = file.pages.first
            decode = page.decode
            segments = [stored[o : o + n] for o, n in zip(page.dataoffsets, page.databytecounts, strict=True)]
            start = time.perf_counter()
            _assemble(segments, page, decode)
            seconds = time.perf_counter() - start
        name = style.compressor + ("+predictor" if style.predictor else "")
        coded.append(CodedFrame(name, frame.nbytes, sum(map(len, segments)), seconds))
    return coded
