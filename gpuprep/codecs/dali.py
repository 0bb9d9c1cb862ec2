"""DALI as the loader of a CUDA device: it decodes what it can there, uploads the rest, and reads ahead.

A graph takes batches of codestreams, which it decodes, or of pixels, native ones and those that a CPU decoder made,
which it uploads. Its output reaches CuPy by DLPack on CuPy's stream. The same graphs run on the CPU, where tests hold
them to the CPU decoders.

What DALI does that one has to know (2.4):

- Any output type but that of the samples is rescaled to the type's range; any colour but GRAY corrupts grey JPEG; an
  EXIF orientation turns the image unless told not to.
- It refuses signed JPEG 2000. Called unsigned, the samples come out 2^(precision - 1) too great.
- On a device, lossless JPEG of 9 to 15 bits is stretched to 16, by DALI's own tests. So a first frame of each kind
  (`Kind`) is decoded by a CPU decoder too, and what DALI makes of it says whether to stretch back, or not to use DALI.
- A frame that cannot be decoded costs its batch and the pipeline, which is built anew. So does a device with too little
  memory: then the batch, and those behind it, are halved.
- The memory of a batch that nobody refers to any more is written to again in the order of DALI's own stream: that of
  CuPy has to be done with it before.
"""

from __future__ import annotations

import gc
import logging
import os
import re
import threading
import warnings
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from types import ModuleType
from typing import Any, Literal, TypeVar

import numpy as np

from gpuprep.backends.base import Backend
from gpuprep.codecs.base import (
    HTJ2K,
    JPEG_2000,
    JPEG_BASELINE,
    JPEG_LOSSLESS,
    Image,
    container_dtype,
    image_shape,
)
from gpuprep.codecs.codestream import Codestream, check_codestream, clear_sign, has_end, read_jpeg, read_jpeg2000
from gpuprep.codecs.cpu import choose_decoder
from gpuprep.dicom.framespec import FrameSpec
from gpuprep.errors import BackendUnavailableError, DeviceMemoryError

_LOG = logging.getLogger(__name__)

#: Frames of a batch: 16 MB of 512 × 512 pixels.
BATCH_FRAMES = 32
#: Batches in work inside a graph.
_GRAPH_DEPTH = 2
#: What lossy decoders may differ by, grey levels: they round their transforms in different places.
LOSSY_TOLERANCE = 1

#: What DALI, CUDA and nvJPEG say when memory is short.
_SHORTAGE = re.compile(r"out.of.memory|bad_alloc|allocation failed|can't allocate|allocator.failure", re.IGNORECASE)

_JPEG_2000 = JPEG_2000 | HTJ2K
#: Transfer syntaxes whose frames may be lossy. Source: PS3.6 table A-1.
_LOSSY = frozenset({JPEG_BASELINE, "1.2.840.10008.1.2.4.91", "1.2.840.10008.1.2.4.203"})

Tag = TypeVar("Tag")
#: How the samples of a kind come out of DALI.
Scale = Literal["exact", "stretched", "wrong"]


@dataclass(frozen=True, slots=True)
class Kind:
    """Codestreams that DALI treats alike: of one transfer syntax, precision and sign."""

    transfer_syntax_uid: str
    precision: int
    is_signed: bool

    @property
    def offset(self) -> int:
        """What is added to each sample that DALI decodes."""
        return 1 << self.precision - 1 if self.is_signed else 0

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of decoded samples."""
        return np.dtype(np.uint8 if self.precision <= 8 else np.uint16)


def find_kind(data: bytes, spec: FrameSpec) -> Kind | None:
    """Return what DALI has to know of a codestream, or None for one that it should not be given.

    Those are codestreams without their end, which decoders may fill up in silence; of less than 8 bits, which would be
    stretched; signed ones in a JP2 box, which says so too; and those whose precision and sign are not what the header
    says, in ways that the CPU decoders sort out.

    Raises
    ------
    DecodeError
        As `check_codestream` and the readers of headers.
    """
    stream = read_header(data, spec)
    check_codestream(stream, spec)
    if stream.is_signed:
        fits = spec.is_signed and stream.precision <= spec.bits_stored and stream.starts_at == 0
    else:
        fits = stream.precision >= spec.bits_stored or not spec.is_signed
    if not (fits and 8 <= stream.precision <= 16 and has_end(data)):
        return None
    return Kind(spec.transfer_syntax_uid, stream.precision, stream.is_signed)


def read_header(data: bytes, spec: FrameSpec) -> Codestream:
    """Return what a codestream says of itself."""
    return read_jpeg2000(data) if spec.transfer_syntax_uid in _JPEG_2000 else read_jpeg(data)


def is_loadable(spec: FrameSpec) -> bool:
    """Whether frames of this layout can go through a graph: one sample of 8 or 16 bits."""
    return spec.samples_per_pixel == 1 and spec.bits_allocated in (8, 16)


#: What frames are, and their codestreams or pixels.
_Batch = tuple[Sequence[Tag], Sequence[Image]]


def _cut(batches: Iterable[_Batch[Tag]], most: int) -> Iterator[_Batch[Tag]]:
    """Yield the batches in pieces of at most `most` frames."""
    for tags, items in batches:
        for start in range(0, len(items), most):
            yield tags[start : start + most], items[start : start + most]


class _Feed:
    """Where a graph takes its batches from; set anew for each run."""

    def __init__(self) -> None:
        self.batches: Iterator[Sequence[Image]] = iter(())

    def __call__(self) -> Sequence[Image]:
        return next(self.batches)


@dataclass(frozen=True, slots=True)
class _Graph:
    pipeline: Any
    feed: _Feed


class Loader:
    """Runs DALI's graphs on a device, or on the CPU. Several threads may use it at once.

    Parameters
    ----------
    device : int, optional
        Number of the CUDA device; None for the CPU.
    xp : module
        CuPy, or NumPy for the CPU.
    threads : int
        Threads of a graph.

    Raises
    ------
    BackendUnavailableError
        ``dali-missing``: it cannot be imported. ``dali-failed``: a graph cannot be built or does not return what it was
        given.
    DeviceMemoryError
        ``device-memory``: as all other methods that run graphs, when there is no memory for a graph and one frame.
    """

    def __init__(self, device: int | None, xp: ModuleType, threads: int) -> None:
        self._dali = _import_dali()
        self._device = device
        self._xp = xp
        self._threads = threads
        self._idle: dict[tuple[bool, np.dtype[Any]], list[_Graph]] = defaultdict(list)
        self._scales: dict[Kind, Scale] = {}
        self.decoder_name = "dali-cpu" if device is None else "dali-cuda"
        self.description = f"DALI {self._dali.__version__} on " + ("the CPU" if device is None else f"device {device}")
        self._probe()

    def _probe(self) -> None:
        """Send a few pixels through: the only proof that it works."""
        frame = np.arange(4, dtype=np.uint16)
        try:
            ((_, images),) = self._run(False, frame.dtype, [(range(1), [frame.view(np.uint8)])])
        except DeviceMemoryError:
            raise
        except (RuntimeError, MemoryError) as error:
            raise BackendUnavailableError(f"DALI does not work: {_last_line(error)}", code="dali-failed") from error
        if images is None or not (images == self._xp.asarray(frame[None])).all():
            raise BackendUnavailableError("DALI changes or loses pixels", code="dali-failed")

    def syntaxes(self) -> frozenset[str]:
        """Return the transfer syntaxes that it decodes; lossless JPEG only on a device."""
        return _JPEG_2000 | {JPEG_BASELINE} | (JPEG_LOSSLESS if self._device is not None else frozenset())

    def upload(self, frames: Image) -> Any:
        """Return frames, (n, rows, columns) of 8 or 16 bits, as an array of the device.

        Raises
        ------
        DeviceMemoryError
            ``device-memory``; or what CuPy raises when the device has too little memory.
        """
        words = frames.reshape(len(frames), -1).view(f"u{frames.itemsize}")
        uploaded = self._xp.empty(words.shape, words.dtype)
        batches = _cut([(range(len(words)), list(words.view(np.uint8)))], BATCH_FRAMES)
        for numbers, images in self._run(False, words.dtype, batches):
            part = slice(numbers[0], numbers[-1] + 1)
            uploaded[part] = self._xp.asarray(words[part]) if images is None else images
        return uploaded.view(frames.dtype).reshape(frames.shape)

    def learn(self, kind: Kind, data: bytes, spec: FrameSpec) -> Scale | None:
        """Find out on a frame how this kind comes out of DALI, unless it is known.

        Parameters
        ----------
        kind : Kind
            Of `data`.
        data : bytes
            A codestream.
        spec : FrameSpec
            Its layout.

        Returns
        -------
        {"exact", "stretched", "wrong"} or None
            DALI serves unless ``wrong``. None when this frame does not tell, as a black one: zeros look the same,
            stretched or not.

        Raises
        ------
        DecodeError
            The CPU decoders cannot decode it either; as `choose_decoder`.
        """
        if kind not in self._scales:
            expected = np.empty(image_shape(spec), container_dtype(spec))
            judge = choose_decoder(data, spec, expected).name
            ((_, images),) = self._run(True, kind.dtype, [(range(1), [self._prepare(kind, data)])])
            scales = [] if images is None else self._find_scales(kind, images[0], expected, spec)
            if len(scales) > 1:
                return None
            self._scales[kind] = scales[0] if scales else "wrong"
            if not scales:
                what = "does not decode it" if images is None else f"gives other pixels than {judge}"
                _LOG.warning("%s is not used for %s: it %s", self.description, kind, what)
        return self._scales[kind]

    def _find_scales(self, kind: Kind, found: Any, expected: Image, spec: FrameSpec) -> list[Scale]:
        """Return the scales that would make of the samples `found` the stored values `expected`."""
        mask = (1 << spec.bits_stored) - 1
        stored = self._xp.asarray((expected.astype(np.int64) + kind.offset) & mask)
        tolerance = LOSSY_TOLERANCE if kind.transfer_syntax_uid in _LOSSY else 0
        candidates: dict[Scale, Any] = {"exact": found}
        if 8 < kind.precision < 16:
            candidates["stretched"] = unstretch(found, kind.precision, self._xp)
        return [
            scale
            for scale, samples in candidates.items()
            if int(self._xp.abs((samples.astype(np.int64) & mask) - stored).max()) <= tolerance
        ]

    def decode(
        self, kind: Kind, batches: Iterable[tuple[Sequence[Tag], Sequence[bytes]]]
    ) -> Iterator[tuple[Sequence[Tag], Any | None]]:
        """Decode batches of codestreams of images of one size.

        Parameters
        ----------
        kind : Kind
            Of all codestreams; `learn` knows it, and that DALI serves.
        batches : iterable of (sequence of tags, sequence of bytes)
            At most `BATCH_FRAMES` codestreams each, and what they are; taken a few ahead.

        Yields
        ------
        tags
            Of a batch, in order; of a part of it where the device has too little memory for more.
        images : array of shape (frames, rows, columns), `Kind.dtype`, or None
            Samples plus `Kind.offset`, on the device, ordered on the current stream; None where DALI cannot decode the
            batch.
        """
        prepared = ((tags, [self._prepare(kind, data) for data in streams]) for tags, streams in batches)
        for tags, images in self._run(True, kind.dtype, prepared):
            if images is not None and self._scales.get(kind) == "stretched":
                images = unstretch(images, kind.precision, self._xp)
            yield tags, images

    @staticmethod
    def _prepare(kind: Kind, data: bytes) -> Image:
        return np.frombuffer(clear_sign(data) if kind.is_signed else data, np.uint8)

    def _run(
        self, is_encoded: bool, dtype: np.dtype[Any], batches: Iterable[_Batch[Tag]]
    ) -> Iterator[tuple[Sequence[Tag], Any | None]]:
        """Send batches through a graph; one that fails costs the graph, and those behind it go through another."""
        waiting = iter(batches)
        in_graph: deque[_Batch[Tag]] = deque()

        def hand_over() -> Iterator[Sequence[Image]]:
            for batch in waiting:
                in_graph.append(batch)
                yield batch[1]

        is_last_try = False
        while True:
            graph = output = images = None
            try:
                graph = self._take_graph(is_encoded, dtype)
                graph.feed.batches = hand_over()
                while True:
                    (output,) = graph.pipeline.run(self._stream())
                    images = self._xp.from_dlpack(output.as_tensor())
                    is_last_try = False
                    yield in_graph.popleft()[0], images[..., 0] if is_encoded else images
                    self._synchronize()
            except StopIteration:
                assert graph is not None
                graph.pipeline.reset()
                self._idle[is_encoded, dtype].append(graph)
                return
            except (RuntimeError, MemoryError) as error:
                self._synchronize()  # says in CuPy's words when the device is lost
                reason = _last_line(error)
                is_short = isinstance(error, MemoryError) or _SHORTAGE.search(str(error)) is not None
                if not is_short and not in_graph:
                    raise
            graph = output = images = None  # and what they hold of the device, before the next graph is built
            if is_short:
                self._free_memory()
                frames = len(in_graph[0][1]) if in_graph else 0
                if frames < 2 and is_last_try:
                    raise DeviceMemoryError(
                        f"{self.description} has no memory for a frame: {reason}", code="device-memory"
                    )
                is_last_try = frames < 2  # with what has been freed
                waiting = chain(tuple(in_graph), waiting)
                if frames > 1:
                    _LOG.warning("%s has too little memory for %d frames at once: %s", self.description, frames, reason)
                    waiting = _cut(waiting, frames // 2)
            else:
                _LOG.warning("%s fails on a batch, which will do without: %s", self.description, reason)
                yield in_graph.popleft()[0], None
                waiting = chain(tuple(in_graph), waiting)
            in_graph.clear()

    def _free_memory(self) -> None:
        gc.collect()  # a graph and its source refer to each other
        self._dali.backend.ReleaseUnusedMemory()
        if self._device is not None:
            self._xp.get_default_memory_pool().free_all_blocks()

    def _synchronize(self) -> None:
        if self._device is not None:
            self._xp.cuda.get_current_stream().synchronize()

    def _stream(self) -> Any:
        return None if self._device is None else self._xp.cuda.get_current_stream().ptr

    def _take_graph(self, is_encoded: bool, dtype: np.dtype[Any]) -> _Graph:
        """Return a graph that nobody uses. Who does not run it to its end does not put it back."""
        try:
            return self._idle[is_encoded, dtype].pop()
        except IndexError:
            return self._build(is_encoded, dtype)

    def _build(self, is_encoded: bool, dtype: np.dtype[Any]) -> _Graph:
        fn, types = self._dali.fn, self._dali.types
        kind = types.UINT8 if dtype == np.uint8 else types.UINT16
        feed = _Feed()
        pipeline = self._dali.Pipeline(
            batch_size=BATCH_FRAMES,
            num_threads=self._threads,
            device_id=self._device,
            prefetch_queue_depth=_GRAPH_DEPTH,
            exec_dynamic=True,  # outputs stay valid as long as they are referred to
        )
        with pipeline:
            data = fn.external_source(feed, batch=True, dtype=types.UINT8, ndim=1)
            if is_encoded:
                device = "cpu" if self._device is None else "mixed"
                data = fn.decoders.image(
                    data, device=device, output_type=types.GRAY, dtype=kind, adjust_orientation=False
                )
            else:
                data = fn.reinterpret(data, dtype=kind)
                data = data if self._device is None else data.gpu()
            pipeline.set_outputs(data)
        pipeline.build()
        return _Graph(pipeline, feed)


def unstretch(samples: Any, precision: int, xp: ModuleType) -> Any:
    """Return samples of 9 to 15 bits from those that were stretched to 16: the exact inverse."""
    top = (1 << precision) - 1
    return ((samples.astype(xp.uint32) * xp.uint32(top) + xp.uint32(0x7FFF)) // xp.uint32(0xFFFF)).astype(xp.uint16)


def _import_dali() -> Any:
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")  # its OpenCV complains of 16-bit JPEG 2000 that it decodes well
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import nvidia.dali as dali
            import nvidia.dali.fn
            import nvidia.dali.types  # noqa: F401
    except ImportError as error:
        raise BackendUnavailableError(
            f"DALI cannot be imported: {error}", code="dali-missing", hint='pip install "gpuprep[dali]"'
        ) from error
    return dali


def _last_line(error: Exception) -> str:
    """Return what DALI says of an error, without its tracebacks."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = [line for line in lines if "no longer valid" not in line]
    return (said or lines or [type(error).__name__])[-1]


#: Device and threads → its loader, or why there is none, for this process; slots in threads share it.
_FOUND: dict[tuple[int, int], Loader | str] = {}
_FINDING = threading.Lock()


def find_loader(backend: Backend, threads: int) -> Loader | str:
    """Return this process's loader for the device of a backend, or in words why there is none.

    Parameters
    ----------
    backend : Backend
        ``cuda``; its current device counts.
    threads : int
        Threads of each graph.
    """
    device = backend.xp.cuda.Device().id
    with _FINDING:
        if (device, threads) not in _FOUND:
            try:
                _FOUND[device, threads] = Loader(device, backend.xp, threads)
            except BackendUnavailableError as error:
                level = logging.INFO if error.code == "dali-missing" else logging.WARNING
                _LOG.log(level, "frames are decoded by CPU decoders: %s", error)
                _FOUND[device, threads] = f"{error.message} [{error.code}]"
    return _FOUND[device, threads]
