"""What DALI decodes on a device, how its samples come out, and how fast: by transfer syntax, precision and sign."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from gpuprep.backends.base import Backend
from gpuprep.codecs.cpu import choose_decoder
from gpuprep.codecs.dali import BATCH_FRAMES, LOSSY_TOLERANCE, Loader, find_kind
from gpuprep.dicom.framespec import FrameSpec

Image = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Encoding:
    """How frames are encoded: name, transfer syntax, bits a sample and an encoder of a frame."""

    name: str
    syntax: str
    bits: int
    encode: Callable[[Image], bytes]
    is_signed: bool = False
    is_lossy: bool = False

    @property
    def spec(self) -> dict[str, Any]:
        """What a header says of such frames, but for their size."""
        allocated = 8 if self.bits <= 8 else 16
        bits = {"bits_allocated": allocated, "bits_stored": self.bits, "high_bit": self.bits - 1}
        return {"transfer_syntax_uid": self.syntax, "is_signed": self.is_signed, **bits}


@dataclass(frozen=True)
class Outcome:
    """What came of an encoding.

    Parameters
    ----------
    encoding : str
    scale : str
        How samples come out: ``exact``, ``stretched`` to 16 bits (and stretched back), or ``wrong`` (and not used).
    differing_frames : int
        Frames that are not the encoded ones; of lossy encodings, not those of the CPU decoder.
    frames_per_s : float
        Of a second pass, on the clock of the host.
    """

    encoding: str
    scale: str
    differing_frames: int = 0
    frames_per_s: float = 0.0


def list_encodings() -> list[Encoding]:
    """Return all that imagecodecs can encode and DALI is said to decode."""
    import imagecodecs

    def jpeg_2000(bits: int, frame: Image, **options: Any) -> bytes:
        return bytes(imagecodecs.jpeg2k_encode(frame, codecformat="j2k", bitspersample=bits, **options))

    def lossless(bits: int, frame: Image) -> bytes:
        return bytes(imagecodecs.ljpeg_encode(frame, bitspersample=bits))

    def htj2k(frame: Image) -> bytes:
        return bytes(imagecodecs.htj2k_encode(frame, reversible=True))

    root = "1.2.840.10008.1.2.4"
    return [
        Encoding(
            "JPEG baseline", f"{root}.50", 8, lambda f: bytes(imagecodecs.jpeg8_encode(f, level=95)), is_lossy=True
        ),
        *(Encoding("JPEG lossless", f"{root}.70", bits, partial(lossless, bits)) for bits in (8, 12, 16)),
        *(Encoding("JPEG 2000", f"{root}.90", bits, partial(jpeg_2000, bits, reversible=True)) for bits in (8, 12, 16)),
        *(
            Encoding("JPEG 2000", f"{root}.90", bits, partial(jpeg_2000, bits, reversible=True), is_signed=True)
            for bits in (12, 16)
        ),
        Encoding("JPEG 2000 lossy", f"{root}.91", 12, partial(jpeg_2000, 12, level=50), is_lossy=True),
        *(Encoding("HTJ2K", f"{root}.201", bits, htj2k) for bits in (8, 12, 16)),
    ]


def make_frames(encoding: Encoding, frames: int, size: int, seed: int) -> Image:
    """Return smooth frames with noise, over most of the range."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    top = (1 << encoding.bits) - 1
    shape = 0.45 * top * (1 + np.sin(7 * x) * np.cos(5 * y))
    noisy = shape + random.normal(0, 0.005 * top, (frames, size, size))
    low = (1 << encoding.bits - 1) if encoding.is_signed else 0
    dtype = f"{'i' if encoding.is_signed else 'u'}{1 if encoding.bits <= 8 else 2}"
    return (noisy.clip(0, top).astype(np.int64) - low).astype(dtype)


def compare_decoders(
    loader: Loader, backend: Backend, *, frames: int = 4 * BATCH_FRAMES, size: int = 512, seed: int = 0
) -> Iterator[Outcome]:
    """Decode frames of each encoding by DALI and hold them against what was encoded."""
    for encoding in list_encodings():
        name = f"{encoding.name}, {encoding.bits} bits{', signed' if encoding.is_signed else ''}"
        pixels = make_frames(encoding, frames, size, seed)
        first = encoding.encode(pixels[0])  # alone: OpenJPH fills its tables in the first call, unguarded
        with ThreadPoolExecutor() as pool:
            streams = [first, *pool.map(encoding.encode, pixels[1:])]
        spec = FrameSpec(rows=size, columns=size, **encoding.spec)
        kind = find_kind(streams[0], spec) if encoding.syntax in loader.syntaxes() else None
        scale = "wrong" if kind is None else loader.learn(kind, streams[0], spec)
        if kind is None or scale in ("wrong", None):
            yield Outcome(name, "wrong")
            continue
        tolerance = 0
        if encoding.is_lossy:
            tolerance = LOSSY_TOLERANCE
            for data, image in zip(streams, pixels, strict=True):
                choose_decoder(data, spec, image)
        batches = [
            (range(n, min(n + BATCH_FRAMES, frames)), streams[n : n + BATCH_FRAMES])
            for n in range(0, frames, BATCH_FRAMES)
        ]
        differing = 0
        for numbers, images in loader.decode(kind, batches):
            found = -1 if images is None else backend.download(images).astype(np.int64) - kind.offset
            differing += int((np.abs(found - pixels[list(numbers)]) > tolerance).any((1, 2)).sum())
        backend.synchronize()
        start = time.perf_counter()
        for _ in loader.decode(kind, batches):
            pass
        backend.synchronize()
        yield Outcome(name, str(scale), differing, round(frames / (time.perf_counter() - start), 1))
