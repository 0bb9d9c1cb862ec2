"""A stack to one array on a device: codestreams through DALI, the rest through CPU decoders and DALI's upload."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import chain, groupby, islice
from typing import Any

from gpuprep.backends.base import Backend
from gpuprep.codecs import encapsulated
from gpuprep.codecs.base import container_dtype, empty_images
from gpuprep.codecs.batch import Decoded, Source, decode_sources, find_sources, named
from gpuprep.codecs.dali import BATCH_FRAMES, Kind, Loader, find_kind, is_loadable
from gpuprep.dicom.framespec import FrameSpec
from gpuprep.dicom.stack import Stack

#: Batches of codestreams read ahead of the one that DALI is given.
_BATCHES_AHEAD = 2

#: What a frame fills, and its codestream.
_Frame = tuple[Source, bytes]
#: The same of consecutive frames of a stack.
_Batch = tuple[Sequence[Source], Sequence[bytes]]


def load_by(loader: Loader, stack: Stack, backend: Backend, *, workers: int) -> Decoded:
    """Decode the frames of a stack into an array of the device of `loader`; see `load_stack`."""
    sources, layout = find_sources(stack)
    if is_loadable(layout) and _has_one_kind_of_frames(sources, loader):
        frames = _read_codestreams(sources)
        kind, seen = _choose_kind(loader, frames)
        if kind is not None:
            return _load_encoded(loader, kind, chain(seen, frames), layout, backend, workers)
    array = empty_images(layout.number_of_frames, layout, container_dtype(layout))
    decoded = decode_sources(sources, array, layout, workers)
    uploaded = loader.upload(array) if is_loadable(layout) else backend.upload(array)
    return replace(decoded, array=uploaded, loader=loader.description)


def _has_one_kind_of_frames(sources: Sequence[Source], loader: Loader) -> bool:
    """Whether all headers say the same of their frames, and DALI knows the transfer syntax."""
    (spec, *others) = {replace(source.spec, number_of_frames=1) for source in sources}
    return not others and spec.transfer_syntax_uid in loader.syntaxes()


def _choose_kind(loader: Loader, frames: Iterator[_Frame]) -> tuple[Kind | None, list[_Frame]]:
    """Return the kind of the first frames, None where DALI does not serve, and the frames that it took to know."""
    seen = []
    for source, data in islice(frames, BATCH_FRAMES):
        seen.append((source, data))
        with named(source):
            kind = find_kind(data, source.spec)
            scale = "wrong" if kind is None else loader.learn(kind, data, source.spec)
        if scale is not None:
            return None if scale == "wrong" else kind, seen
    return None, seen


def _load_encoded(
    loader: Loader,
    kind: Kind,
    frames: Iterator[_Frame],
    layout: FrameSpec,
    backend: Backend,
    workers: int,
) -> Decoded:
    """Decode codestreams in batches on the device.

    Batches with a frame of another kind, and those that DALI fails on, are decoded by CPU decoders and brought into
    the form of the others.
    """
    shape = (layout.number_of_frames, layout.rows, layout.columns)
    words = backend.xp.empty(shape, f"u{container_dtype(layout).itemsize}")
    offset = 1 << layout.bits_stored - 1 if kind.is_signed else 0
    lift = words.dtype.type(offset - kind.offset)
    elsewhere: list[Sequence[Source]] = []
    names = set()

    def choose(batches: Iterator[_Batch]) -> Iterator[_Batch]:
        for sources, streams in batches:
            if all(_is_of_kind(kind, *frame) for frame in zip(sources, streams, strict=True)):
                yield sources, streams
            else:
                elsewhere.append(sources)

    with ThreadPoolExecutor(1, thread_name_prefix="read") as reader:
        for sources, images in loader.decode(kind, choose(_ahead(reader, _batches(frames)))):
            if images is None:
                elsewhere.append(sources)
            else:
                names.add(loader.decoder_name)
                _spread(images.astype(words.dtype) + lift if lift else images, sources, words)
    for sources in elsewhere:
        names |= _load_by_cpu(loader, sources, offset, words, workers)
    spec = replace(layout, high_bit=layout.bits_stored - 1, is_signed=layout.is_signed and not offset)
    array = words.view(container_dtype(spec))
    is_clean = not spec.is_signed and kind.precision <= spec.bits_stored
    return Decoded(array, spec, ", ".join(sorted(names)), is_clean, offset, loader.description)


def _is_of_kind(kind: Kind, source: Source, data: bytes) -> bool:
    with named(source):
        return find_kind(data, source.spec) == kind


def _load_by_cpu(loader: Loader, sources: Sequence[Source], offset: int, words: Any, workers: int) -> set[str]:
    """Decode a batch by CPU decoders, upload it and put it in its place; return the decoders' names."""
    spec = sources[0].spec
    images = empty_images(len(sources), spec, container_dtype(spec))
    decoded = decode_sources([replace(s, slot=n, tiles=[]) for n, s in enumerate(sources)], images, spec, workers)
    unsigned = images.view(f"u{images.itemsize}")
    unsigned += unsigned.dtype.type(offset)
    _spread(loader.upload(unsigned), sources, words)
    return set(decoded.decoder.split(", "))


def _batches(frames: Iterator[_Frame]) -> Iterator[_Batch]:
    while batch := list(islice(frames, BATCH_FRAMES)):
        yield [source for source, _ in batch], [data for _, data in batch]


def _read_codestreams(sources: Sequence[Source]) -> Iterator[_Frame]:
    """Open each file once and yield the codestream of each source."""
    for _, group in groupby(sources, key=lambda source: source.header.path):
        first, *others = group
        codestreams = encapsulated.read_frames(first.header, first.spec)
        for source in (first, *others):
            yield source, codestreams[source.index]


def _ahead(thread: ThreadPoolExecutor, batches: Iterator[_Batch]) -> Iterator[_Batch]:
    """Yield batches while a thread takes the next ones."""
    pending = deque(thread.submit(next, batches, None) for _ in range(_BATCHES_AHEAD))
    while (batch := pending.popleft().result()) is not None:
        pending.append(thread.submit(next, batches, None))
        yield batch


def _spread(images: Any, sources: Sequence[Source], words: Any) -> None:
    """Put the images of consecutive sources into their slots."""
    if not any(source.tiles for source in sources):
        words[sources[0].slot : sources[0].slot + len(sources)] = images
        return
    for source, image in zip(sources, images, strict=True):
        for slot, box in source.tiles:
            words[slot] = image[box]
