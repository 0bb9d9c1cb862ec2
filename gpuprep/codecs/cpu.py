"""Decoders of encapsulated frames that run on the CPU.

HTJ2K is decoded by OpenJPEG, not by the faster OpenJPH: imagecodecs' binding of the latter returns uninitialised memory
for a damaged codestream and wraps lossy samples around at the ends of their range. Nor does its LJPEG serve where
libjpeg-turbo refuses a lossless frame: it makes pixels of nearly all damaged ones, and crashes on some.
"""

from __future__ import annotations

import ctypes
import zlib
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np

from gpuprep import hostlib
from gpuprep.codecs import DECODERS
from gpuprep.codecs.base import (
    HTJ2K,
    JPEG_2000,
    JPEG_BASELINE,
    JPEG_EXTENDED,
    JPEG_LOSSLESS,
    Decoder,
    Image,
    clean_bits,
    container_dtype,
    image_shape,
    shift_bits,
)
from gpuprep.codecs.codestream import Codestream, check_codestream, read_jpeg, read_jpeg2000
from gpuprep.codecs.colour import check_photometric, convert_to_rgb, is_ybr
from gpuprep.codecs.native import frame_bits, unpack_frame
from gpuprep.dicom.datasets import quiet_pydicom
from gpuprep.dicom.framespec import FrameSpec
from gpuprep.errors import DecodeError

# Further transfer syntaxes, which only CPU decoders know. Source: PS3.6 table A-1.
_RLE = frozenset({"1.2.840.10008.1.2.5"})
DEFLATED_FRAME = "1.2.840.10008.1.2.8.1"
_JPEG_LOSSY = frozenset({JPEG_BASELINE, JPEG_EXTENDED})
_JPEG_LS = frozenset({"1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81"})
_SUPPORTED = _RLE | {DEFLATED_FRAME} | _JPEG_LOSSY | JPEG_LOSSLESS | _JPEG_LS | JPEG_2000 | HTJ2K

#: What gp_decode_rle returns other than 0. Source: ``enum Status`` in kernels/host/rle.cpp.
_RLE_FAILURES = {
    1: "an RLE header that does not fit the image",
    2: "an RLE segment that ends before its last pixel",
    3: "too little memory to decode RLE",
}


def decoders_for(transfer_syntax_uid: str, *, subject: str = "") -> tuple[Decoder, ...]:
    """Return the decoders of a transfer syntax that work on this machine, best first; at least one.

    Parameters
    ----------
    transfer_syntax_uid : str
        Of the frames.
    subject : str
        Path of their file, for the error.

    Raises
    ------
    DecodeError
        ``no-decoder``: there is none; the hint says what to do.
    """
    decoders = tuple(d for d in map(DECODERS.load, DECODERS) if transfer_syntax_uid in d.syntaxes())
    if decoders:
        return decoders
    from pydicom.uid import UID

    if transfer_syntax_uid in _SUPPORTED:
        hint = "install imagecodecs, or GDCM: pip install 'gpuprep[gdcm]'"
    else:
        hint = "convert the files to explicit VR little endian first, for example with gdcmconv --raw"
    with quiet_pydicom():
        name = UID(transfer_syntax_uid).name or "(none)"
    raise DecodeError(f"no decoder for transfer syntax {name}", code="no-decoder", subject=subject, hint=hint)


def choose_decoder(data: bytes, spec: FrameSpec, out: Image) -> Decoder:
    """Decode a frame with the best decoder that can, and return that decoder.

    Parameters
    ----------
    data, spec, out
        As `Decoder.decode_frame` takes them.

    Raises
    ------
    DecodeError
        ``no-decoder``: as `decoders_for`. ``corrupt-frame``: all of them fail. ``frame-size-mismatch``,
        ``unsupported-pixels``: as `Decoder.decode_frame`.
    """
    failures = []
    for decoder in decoders_for(spec.transfer_syntax_uid):
        try:
            decoder.decode_frame(data, spec, out)
        except DecodeError as error:
            if error.code != "corrupt-frame":
                raise
            failures.append(f"{decoder.name}: {error.message}")
        else:
            return decoder
    raise DecodeError("; ".join(failures), code="corrupt-frame")


class ImagecodecsDecoder:
    """Decodes JPEG codestreams with a codec of imagecodecs.

    Parameters
    ----------
    codec : str
        Its name there, in lower case.
    syntaxes : frozenset of str
        Transfer syntaxes to use it for.
    read : callable
        Reads the header of a codestream.
    """

    def __init__(self, codec: str, syntaxes: frozenset[str], read: Callable[[bytes], Codestream]) -> None:
        self.name = f"imagecodecs-{codec}"
        self._codec = codec
        self._syntaxes = syntaxes
        self._read = read

    def syntaxes(self) -> frozenset[str]:
        """Return the transfer syntaxes it can decode here; see `Decoder`."""
        try:
            import imagecodecs
        except ImportError:
            return frozenset()
        return self._syntaxes if getattr(imagecodecs, self._codec.upper()).available else frozenset()

    def decode_frame(self, data: bytes, spec: FrameSpec, out: Image) -> None:
        """Decode a frame into `out`; see `Decoder`."""
        import imagecodecs

        check_photometric(spec)
        stream = self._read(data)
        check_codestream(stream, spec)
        decode = getattr(imagecodecs, f"{self._codec}_decode")
        options: dict[str, Any] = {}
        if self._codec == "jpeg8" and stream.samples == 3:  # samples as they are: colour is converted below
            options = {"colorspace": imagecodecs.JPEG8.CS.YCbCr, "outcolorspace": imagecodecs.JPEG8.CS.YCbCr}
        samples = np.dtype(f"{'i' if stream.is_signed else 'u'}{1 if stream.precision <= 8 else 2}")
        fits = samples.itemsize == out.itemsize and stream.samples == 1  # codecs differ in how they lay out colour
        try:
            decoded = decode(data[stream.starts_at :], **options, out=out.view(samples) if fits else None)
        except (RuntimeError, ValueError) as error:
            raise DecodeError(str(error), code="corrupt-frame") from error
        if not fits:
            out[...] = decoded
        width = 8 * out.itemsize
        if stream.is_signed != spec.is_signed:  # the words are right, their sign bit is at the codestream's precision
            shift_bits(out, left=width - stream.precision, right=width - stream.precision)
        shift_bits(out, left=width - spec.bits_stored, right=width - spec.bits_stored)
        if stream.samples == 3 and _holds_ybr(stream, spec):
            convert_to_rgb(out)


def _holds_ybr(stream: Codestream, spec: FrameSpec) -> bool:
    """Whether decoded samples are YBR: the codestream knows better than the header."""
    return stream.says_ybr or (is_ybr(spec.photometric_interpretation) and not stream.says_rgb)


class RleDecoder:
    """Decodes DICOM RLE with the host library."""

    name = "host-rle"

    def syntaxes(self) -> frozenset[str]:
        """Return RLE Lossless; see `Decoder`."""
        return _RLE

    def decode_frame(self, data: bytes, spec: FrameSpec, out: Image) -> None:
        """Decode a frame into `out`; see `Decoder`."""
        check_photometric(spec)
        if spec.bits_allocated == 1:
            packed = np.empty(-(-frame_bits(spec) // 8), np.uint8)
            _decode_rle(data, packed, packed.size, 1, 1)
            unpack_frame(packed, spec, out)
            return
        _decode_rle(data, out, spec.rows * spec.columns, spec.samples_per_pixel, out.itemsize)
        clean_bits(out, spec)
        if is_ybr(spec.photometric_interpretation):
            convert_to_rgb(out)


def _decode_rle(data: bytes, out: Image, pixels: int, samples: int, width: int) -> None:
    if not out.flags.c_contiguous:
        raise ValueError("the destination is not contiguous")
    status = _rle_function()(data, len(data), pixels, samples, width, out.ctypes.data)
    if status:
        raise DecodeError(_RLE_FAILURES[status], code="corrupt-frame")


@cache
def _rle_function() -> Any:
    function = hostlib.load()[0].gp_decode_rle
    function.restype = ctypes.c_int
    function.argtypes = [
        ctypes.c_char_p,
        ctypes.c_int64,
        ctypes.c_int64,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_void_p,
    ]
    return function


class DeflateDecoder:
    """Inflates frames of Deflated Image Frame Compression (PS3.5 A.4.13); each frame begins on a byte."""

    name = "deflate"

    def syntaxes(self) -> frozenset[str]:
        """Return Deflated Image Frame Compression; see `Decoder`."""
        return frozenset({DEFLATED_FRAME})

    def decode_frame(self, data: bytes, spec: FrameSpec, out: Image) -> None:
        """Decode a frame into `out`; see `Decoder`."""
        expected = -(-frame_bits(spec) // 8)
        try:
            raw = zlib.decompressobj(wbits=-zlib.MAX_WBITS).decompress(data, expected + 1)
        except zlib.error as error:
            raise DecodeError(str(error), code="corrupt-frame") from error
        if len(raw) not in (expected, expected + expected % 2):
            raise DecodeError(
                f"a frame of {len(raw)} bytes, expected {expected}",
                code="corrupt-frame" if len(raw) < expected else "frame-size-mismatch",
            )
        unpack_frame(np.frombuffer(raw, np.uint8)[:expected], spec, out)


class PydicomDecoder:
    """Decodes with one of pydicom's plugins.

    Parameters
    ----------
    plugin : str
        Its name in pydicom.
    """

    def __init__(self, plugin: str) -> None:
        self.name = f"pydicom-{plugin}"
        self._plugin = plugin

    def syntaxes(self) -> frozenset[str]:
        """Return the transfer syntaxes it can decode here; see `Decoder`."""
        return _plugin_syntaxes(self._plugin)

    def decode_frame(self, data: bytes, spec: FrameSpec, out: Image) -> None:
        """Decode a frame into `out`; see `Decoder`."""
        from pydicom.encaps import encapsulate
        from pydicom.pixels import get_decoder

        check_photometric(spec)
        read = read_jpeg2000 if spec.transfer_syntax_uid in JPEG_2000 | HTJ2K else read_jpeg
        stream = read(data)
        check_codestream(stream, spec)
        try:
            pixels, _ = get_decoder(spec.transfer_syntax_uid).as_array(
                encapsulate([data[stream.starts_at :]], has_bot=False),  # it may never leave a damaged box
                index=0,
                decoding_plugin=self._plugin,
                rows=spec.rows,
                columns=spec.columns,
                samples_per_pixel=spec.samples_per_pixel,
                photometric_interpretation=spec.photometric_interpretation,
                planar_configuration=spec.planar_configuration,
                number_of_frames=1,
                bits_allocated=spec.bits_allocated,
                bits_stored=spec.bits_stored,
                pixel_representation=int(spec.is_signed),
                pixel_keyword="PixelData",
            )
        except (RuntimeError, ValueError, TypeError, AttributeError, NotImplementedError) as error:
            raise DecodeError(str(error), code="corrupt-frame") from error
        out[...] = pixels.astype(container_dtype(spec)).reshape(image_shape(spec))
        clean_bits(out, replace(spec, high_bit=spec.bits_stored - 1))


@cache
def _plugin_syntaxes(plugin: str) -> frozenset[str]:
    from pydicom.pixels import get_decoder

    return frozenset(
        uid for uid in _SUPPORTED - _RLE - {DEFLATED_FRAME} if plugin in get_decoder(uid).available_plugins
    )


RLE = RleDecoder()
DEFLATE = DeflateDecoder()
JPEG8 = ImagecodecsDecoder("jpeg8", _JPEG_LOSSY | JPEG_LOSSLESS, read_jpeg)
JPEGLS = ImagecodecsDecoder("jpegls", _JPEG_LS, read_jpeg)
JPEG2K = ImagecodecsDecoder("jpeg2k", JPEG_2000 | HTJ2K, read_jpeg2000)
GDCM = PydicomDecoder("gdcm")
