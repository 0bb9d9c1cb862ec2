"""gzip files of volumes, compressed in blocks: several at once, and zeros once for all.

A gzip member may end a block of its stream anywhere (RFC 1951), so blocks compressed apart can be put side by side, and
the checksum of the whole follows from theirs.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache
from typing import IO

#: Bytes compressed at a time.
BLOCK = 1 << 20
#: Blocks handed to each thread ahead of the one that is awaited.
_BLOCKS_AHEAD = 2
#: Magic number, deflate, no flags, no time, no extra flags, unknown system (RFC 1952 2.3).
_HEADER = bytes((0x1F, 0x8B, 8, 0, 0, 0, 0, 0, 0, 255))
#: The last block of a stream: no content, fixed codes (RFC 1951 3.2.6).
_LAST_BLOCK = bytes((3, 0))
#: zlib level for zeros, which come down to a thousandth.
_ZEROS_LEVEL = 9


@dataclass(frozen=True, slots=True)
class _Piece:
    """Part of a deflate stream that ends on a whole byte: what it is compressed from, by checksum and length."""

    deflated: bytes
    crc32: int
    length: int


def write_gzip(
    file: IO[bytes], header: bytes, content: memoryview, *, level: int, threads: int = 1, filled: range | None = None
) -> int:
    """Write `header` and `content` as one gzip member, and return the CRC-32 of both.

    Parameters
    ----------
    file : binary file
        Open for writing.
    header : bytes
        What comes before the content.
    content : memoryview of bytes
        Compressed in blocks of `BLOCK`, so that threads do not change what is written.
    level : int
        isal compression level, 0 to 3, of what is not known to be zero.
    threads : int
        Compression threads, at least 1.
    filled : range, optional
        Bytes of `content` that may hold something: it is all zero outside, and not looked at there.
    """
    from isal.isal_zlib import crc32_combine

    file.write(_HEADER)
    crc = length = 0
    filled = range(len(content)) if filled is None else filled
    with closing(_pieces(header, content, filled, level, threads)) as pieces:
        for piece in pieces:
            file.write(piece.deflated)
            crc = crc32_combine(crc, piece.crc32, piece.length)
            length += piece.length
    file.write(_LAST_BLOCK + struct.pack("<2I", crc, length % (1 << 32)))
    return crc


def _pieces(
    header: bytes, content: memoryview, filled: range, level: int, threads: int
) -> Generator[_Piece, None, None]:
    yield _deflate(header, level)
    yield from _zeros(filled.start)
    blocks = (content[at : min(at + BLOCK, filled.stop)] for at in range(filled.start, filled.stop, BLOCK))
    yield from _deflate_apart(blocks, level, threads)
    yield from _zeros(len(content) - filled.stop)


def _deflate_apart(blocks: Iterator[memoryview], level: int, threads: int) -> Iterator[_Piece]:
    """Compress blocks in threads; yield them in order.

    One thread is worth it too: in the main thread glibc gives the memory of each block back to the system, and takes it
    anew with a page fault for each of its pages.
    """
    from concurrent.futures import Future, ThreadPoolExecutor

    with ThreadPoolExecutor(threads, thread_name_prefix="deflate") as pool:
        pending: deque[Future[_Piece]] = deque()
        for block in blocks:
            pending.append(pool.submit(_deflate, block, level))
            if len(pending) > threads * _BLOCKS_AHEAD:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def _deflate(data: bytes | memoryview, level: int) -> _Piece:
    from isal import isal_zlib

    stream = isal_zlib.compressobj(level, isal_zlib.DEFLATED, -isal_zlib.MAX_WBITS)
    deflated = stream.compress(data) + stream.flush(isal_zlib.Z_FULL_FLUSH)
    return _Piece(deflated, isal_zlib.crc32(data), len(data))


def _zeros(count: int) -> Iterator[_Piece]:
    for size in (*[BLOCK] * (count // BLOCK), count % BLOCK):
        if size:
            yield _deflated_zeros(size)


@lru_cache(maxsize=4)
def _deflated_zeros(size: int) -> _Piece:
    import zlib

    data = bytes(size)
    stream = zlib.compressobj(_ZEROS_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
    return _Piece(stream.compress(data) + stream.flush(zlib.Z_FULL_FLUSH), zlib.crc32(data), size)
