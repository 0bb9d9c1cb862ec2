"""A stack or an instance to one array of stored values on the host."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuprep.codecs import encapsulated, native
from gpuprep.codecs.base import (
    NATIVE_SYNTAXES,
    Decoder,
    Image,
    are_bits_clean,
    container_dtype,
    empty_images,
    image_shape,
    unstored_bits,
)
from gpuprep.codecs.cpu import choose_decoder, decoders_for
from gpuprep.dicom.framespec import FrameSpec
from gpuprep.dicom.header import InstanceHeader
from gpuprep.dicom.stack import Stack
from gpuprep.errors import DecodeError

#: Frames handed to each thread ahead of the one that is awaited.
_FRAMES_AHEAD = 2

Fill = Callable[[Image], None]
Float = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Decoded:
    """Decoded frames.

    Parameters
    ----------
    array : array of shape (D, rows, columns) or (D, rows, columns, samples)
        Stored values plus `offset`, before rescale; RGB for all colour images but palette ones, whose indices are kept.
    spec : FrameSpec
        Layout of the words in `array`: rows and columns, `bits_stored`, `high_bit` and `is_signed`.
    decoder : str
        What decoded them, for the ledger: ``"native"``, ``"imagecodecs-jpeg8"``; several names joined by a comma.
    bits_are_clean : bool
        Whether bits above the stored ones are cleared or carry the sign; otherwise they may hold anything.
    offset : int
        What was added to each stored value; `fold_offset` takes it out again.
    loader : str
        What brought the frames to a device, or why it was not DALI, for the ledger; empty on the CPU.
    ends : array of shape (D, 2), int64, or None
        Least and greatest stored value of each frame, where reading found them on the way.
    """

    array: Image
    spec: FrameSpec
    decoder: str
    bits_are_clean: bool
    offset: int = 0
    loader: str = ""
    ends: NDArray[np.int64] | None = None


@dataclass(frozen=True, slots=True)
class Source:
    """One image of a file, and what it fills: a slot of the volume, or with each of its tiles one."""

    header: InstanceHeader
    spec: FrameSpec
    index: int
    slot: int
    tiles: list[tuple[int, tuple[slice, slice]]] = field(default_factory=list)


def decode_stack(
    stack: Stack, *, workers: int, empty: Callable[[Sequence[int], np.dtype[Any]], Image] = np.empty
) -> Decoded:
    """Decode the frames of a stack, in its order.

    Native frames are read into place by one call of the host library. Encapsulated ones are decoded into place in
    threads; the decoder of each transfer syntax is chosen on its first frame and kept: a later frame that it cannot
    decode is an error, not a reason to mix decoders.

    Parameters
    ----------
    stack : Stack
        Its frames.
    workers : int
        Most threads.
    empty : callable
        Makes an uninitialised array of a shape and a dtype.

    Raises
    ------
    DecodeError
        ``pixel-data-truncated``, ``pixel-data-missing``, ``unreadable``: the file does not hold the frames.
        ``corrupt-frame``, ``frame-size-mismatch``: a codestream is damaged or is another image.
        ``no-decoder``: the hint says what to install. ``unsupported-pixels``: a kind of pixels nobody decodes here.
    HeaderError
        As `FrameSpec.from_header`.
    """
    sources, layout = find_sources(stack)
    array = empty((layout.number_of_frames, *image_shape(layout)), container_dtype(layout))
    return decode_sources(sources, array, layout, workers)


def fold_offset(decoded: Decoded, slopes: Float, intercepts: Float) -> tuple[Decoded, Float]:
    """Take the offset of decoded frames out of them, or into the intercepts where that is exact.

    Parameters
    ----------
    decoded : Decoded
        Its array may be overwritten.
    slopes, intercepts : array of shape (D,), float64
        Rescale Slope and Intercept of each slice.

    Returns
    -------
    decoded : Decoded
        Of offset 0. Its words count from 0 where the offset went into the intercepts.
    intercepts : array of shape (D,), float64
        That go with it: intercept - slope × offset where both are whole numbers, so that no bit of the result changes.
    """
    if not decoded.offset:
        return decoded, intercepts
    if (slopes == np.rint(slopes)).all() and (intercepts == np.rint(intercepts)).all():
        return replace(decoded, offset=0), intercepts - slopes * decoded.offset
    words = decoded.array
    words ^= words.dtype.type(decoded.offset)  # two's complement has the sign bit the other way round
    signed = words.view(f"i{words.dtype.itemsize}")
    return replace(decoded, array=signed, spec=replace(decoded.spec, is_signed=True), offset=0), intercepts


def narrow_words(decoded: Decoded) -> Decoded:
    """Put words of 32 bits into 16 where their values fit, as of a series with signed and unsigned images.

    Others are returned as they are, and so are words whose bits are not clean.
    """
    words = decoded.array
    if words.dtype.kind not in "iu" or words.dtype.itemsize <= 2 or not decoded.bits_are_clean:
        return decoded
    least, greatest = int(words.min()), int(words.max())
    for narrow in (np.dtype(np.int16), np.dtype(np.uint16)):
        if np.iinfo(narrow).min <= least and greatest <= np.iinfo(narrow).max:
            spec = replace(decoded.spec, bits_allocated=16, bits_stored=16, high_bit=15, is_signed=narrow.kind == "i")
            return replace(decoded, array=words.astype(narrow), spec=spec)
    return decoded


def decode_instance(header: InstanceHeader, spec: FrameSpec, *, workers: int = 1) -> Decoded:
    """Decode all frames of one file.

    Parameters
    ----------
    header : InstanceHeader
        The file.
    spec : FrameSpec
        Its layout, from `FrameSpec.from_header`.
    workers : int
        Most threads.

    Returns
    -------
    Decoded
        Its array of dtype `container_dtype` of `spec`, with clean bits.

    Raises
    ------
    DecodeError
        As `decode_stack`.
    """
    layer = native if spec.transfer_syntax_uid in NATIVE_SYNTAXES else encapsulated
    layer.check_size(header, spec)  # before memory is taken for all frames
    array = empty_images(spec.number_of_frames, spec, container_dtype(spec))
    sources = [Source(header, spec, index, index) for index in range(spec.number_of_frames)]
    return decode_sources(sources, array, spec, workers, clean_as=spec)


def find_sources(stack: Stack) -> tuple[list[Source], FrameSpec]:
    """Return the images that make a stack, and the layout of its array."""
    specs = {frame.instance.path: FrameSpec.from_header(frame.instance) for frame in stack.frames}
    frames, rows, columns = stack.frames_shape
    layout = replace(_common_layout(list(specs.values())), rows=rows, columns=columns, number_of_frames=frames)
    if stack.tiles_a_row:
        return _mosaic_sources(stack, specs), layout
    sources = [
        Source(frame.instance, specs[frame.instance.path], frame.index, slot) for slot, frame in enumerate(stack.frames)
    ]
    return sources, layout


def _common_layout(specs: Sequence[FrameSpec]) -> FrameSpec:
    """Return the layout of all frames, or of integers that hold the values of each."""
    layouts = {(s.bits_allocated, s.bits_stored, s.high_bit, s.is_signed, s.is_float) for s in specs}
    if len(layouts) == 1:
        return specs[0]
    is_signed = any(s.is_signed for s in specs)
    bits = max(s.bits_stored + (is_signed and not s.is_signed) for s in specs)
    if bits > 64 or len({s.is_float for s in specs}) > 1:
        raise DecodeError("no type holds both 64 bits and signs, or integers and floats", code="unsupported-pixels")
    allocated = next(width for width in (8, 16, 32, 64) if bits <= width)
    return replace(specs[0], bits_allocated=allocated, bits_stored=bits, high_bit=bits - 1, is_signed=is_signed)


def _mosaic_sources(stack: Stack, specs: Mapping[str, FrameSpec]) -> list[Source]:
    """Return the mosaics of a stack, each with the slots and the tiles of its slices."""
    _, rows, columns = stack.frames_shape
    sources: dict[str, Source] = {}
    for slot, frame in enumerate(stack.frames):
        header = frame.instance
        source = sources.setdefault(header.path, Source(header, specs[header.path], 0, -1, []))
        down, right = divmod(frame.index, stack.tiles_a_row)
        box = slice(down * rows, (down + 1) * rows), slice(right * columns, (right + 1) * columns)
        source.tiles.append((slot, box))
    return list(sources.values())


def decode_sources(
    sources: Sequence[Source], array: Image, layout: FrameSpec, workers: int, clean_as: FrameSpec | None = None
) -> Decoded:
    """Decode images into their slots of `array`, whose layout is `layout`, as `decode_stack` describes.

    Native frames keep their bits above the stored ones, unless `clean_as` is given: the layout to clean them by.
    """
    if all(_lies_like(source, array, layout) for source in sources):
        extents = [
            native.frame_extent(s.header, s.spec, s.index, destination=s.slot * array[0].nbytes) for s in sources
        ]
        ends = native.read_extents(extents, array, workers=workers, clean_as=clean_as)
        if clean_as is not None:
            return Decoded(array, _shifted_down(layout), native.NAME, True, ends=ends)
        return Decoded(array, layout, native.NAME, are_bits_clean(layout))

    from concurrent.futures import Future, ThreadPoolExecutor

    decoders = _ChosenDecoders()
    with ThreadPoolExecutor(workers, thread_name_prefix="decode") as pool:
        pending: deque[Future[None]] = deque()
        for source, fill in _fillers(sources, decoders):
            pending.append(pool.submit(_place, source, fill, array))
            while pending and (len(pending) > workers * _FRAMES_AHEAD or not decoders.know(source.spec)):
                pending.popleft().result()
        while pending:
            pending.popleft().result()
    return Decoded(array, _shifted_down(layout), ", ".join(sorted(decoders.names)), True)


def _shifted_down(layout: FrameSpec) -> FrameSpec:
    return replace(layout, high_bit=layout.bits_stored - 1)


def _lies_like(source: Source, array: Image, layout: FrameSpec) -> bool:
    """Whether the bytes of a source lie in its file as they shall lie in `array`, with the stored bits of `layout`."""
    return (
        source.header.is_native
        and native.is_plain(source.spec)
        and not source.tiles
        and container_dtype(source.spec) == array.dtype
        and unstored_bits(source.spec) == unstored_bits(layout)
    )


class _ChosenDecoders:
    """The decoder of each transfer syntax: chosen on its first frame, which must be decoded alone, then kept."""

    def __init__(self) -> None:
        self.names: set[str] = set()
        self._chosen: dict[str, Decoder] = {}

    def know(self, spec: FrameSpec) -> bool:
        """Whether the decoder of this transfer syntax is chosen, or none is needed."""
        return spec.transfer_syntax_uid in NATIVE_SYNTAXES or spec.transfer_syntax_uid in self._chosen

    def require(self, header: InstanceHeader) -> None:
        """Refuse a transfer syntax that nobody decodes, before its frames are looked for."""
        if header.transfer_syntax_uid not in self._chosen:
            decoders_for(header.transfer_syntax_uid, subject=header.path)

    def decode(self, data: bytes, spec: FrameSpec, out: Image) -> None:
        decoder = self._chosen.get(spec.transfer_syntax_uid)
        if decoder is not None:
            decoder.decode_frame(data, spec, out)
            return
        decoder = self._chosen[spec.transfer_syntax_uid] = choose_decoder(data, spec, out)
        self.names.add(decoder.name)


def _fillers(sources: Sequence[Source], decoders: _ChosenDecoders) -> Iterator[tuple[Source, Fill]]:
    """Open each file once and yield, for each of its sources, the function that puts its image into an array."""
    for _, group in groupby(sources, key=lambda source: source.header.path):
        first, *others = group
        header, spec = first.header, first.spec
        if spec.transfer_syntax_uid not in NATIVE_SYNTAXES:
            decoders.require(header)
            codestreams = encapsulated.read_frames(header, spec)
            for source in (first, *others):
                yield source, partial(decoders.decode, codestreams[source.index], spec)
        else:
            decoders.names.add(native.NAME)
            header, held = native.open_pixels(header, spec)
            for source in (first, *others):
                yield source, partial(native.read_frame, header, spec, source.index, held=held)


def _place(source: Source, fill: Fill, array: Image) -> None:
    """Put the image of a source into its slots; an error says which frame of which file it is."""
    dtype = container_dtype(source.spec)
    in_place = not source.tiles and dtype == array.dtype
    image = array[source.slot] if in_place else np.empty(image_shape(source.spec), dtype)
    with named(source):
        fill(image)
    if source.tiles:
        for slot, box in source.tiles:
            array[slot] = image[box]
    elif not in_place:
        array[source.slot] = image


@contextmanager
def named(source: Source) -> Iterator[None]:
    """Have an error of the block say which frame of which file it is about."""
    try:
        yield
    except DecodeError as error:
        if error.subject:
            raise
        raise DecodeError(
            f"frame {source.index + 1}: {error.message}", code=error.code, subject=source.header.path, hint=error.hint
        ) from error
