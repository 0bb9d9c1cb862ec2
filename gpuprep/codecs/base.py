"""What a decoder is told about a frame, and what it owes."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from gpuprep.dicom.datasets import DEFLATED_UID, EXPLICIT_BIG_UID, EXPLICIT_LITTLE_UID, IMPLICIT_LITTLE_UID
from gpuprep.dicom.framespec import FrameSpec

Image = NDArray[Any]

# Transfer syntaxes. Source: PS3.5 annex A, PS3.6 table A-1.
#: Those whose pixel data is not encapsulated.
NATIVE_SYNTAXES = frozenset({IMPLICIT_LITTLE_UID, EXPLICIT_LITTLE_UID, DEFLATED_UID, EXPLICIT_BIG_UID})
JPEG_BASELINE, JPEG_EXTENDED = "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51"
JPEG_LOSSLESS = frozenset({"1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70"})
JPEG_2000 = frozenset({"1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91"})
HTJ2K = frozenset({"1.2.840.10008.1.2.4.201", "1.2.840.10008.1.2.4.202", "1.2.840.10008.1.2.4.203"})


class Decoder(Protocol):
    """Turns the bytes of one encapsulated frame into stored values; any thread may call it."""

    name: str

    def syntaxes(self) -> frozenset[str]:
        """Return the transfer syntax UIDs it can decode on this machine; none when its library is missing."""

    def decode_frame(self, data: bytes, spec: FrameSpec, out: Image) -> None:
        """Decode a frame into `out`.

        Parameters
        ----------
        data : bytes
            The codestream, its fragments joined.
        spec : FrameSpec
            What the header says of it.
        out : ndarray of shape (rows, columns) or (rows, columns, samples), dtype `container_dtype` of `spec`
            Receives stored values: bits above `bits_stored` are cleared or carry the sign; YBR_FULL is converted to
            RGB. C-contiguous.

        Raises
        ------
        DecodeError
            ``corrupt-frame``: the bytes cannot be decoded. ``frame-size-mismatch``: they hold an image of another size
            than the header says. ``unsupported-pixels``: no decoder handles such pixels.
        """


def container_dtype(spec: FrameSpec) -> np.dtype[Any]:
    """Return the type of decoded samples: as wide as the bits allocated, one byte a bit for packed bits."""
    kind = "f" if spec.is_float else "i" if spec.is_signed and spec.bits_allocated > 1 else "u"
    return np.dtype(f"{kind}{max(1, spec.bits_allocated // 8)}")


def image_shape(spec: FrameSpec) -> tuple[int, ...]:
    """Return (rows, columns), or (rows, columns, samples) of a colour image."""
    return (spec.rows, spec.columns, *([spec.samples_per_pixel] if spec.samples_per_pixel > 1 else []))


def are_bits_clean(spec: FrameSpec) -> bool:
    """Whether the stored bits fill their words, so that nothing else can be in them."""
    return spec.is_float or spec.bits_allocated == 1 or spec.bits_stored == spec.bits_allocated


def clean_bits(words: Image, spec: FrameSpec) -> None:
    """Clear, or fill with the sign, the bits of `words` above the stored ones, in place (PS3.5 8.1.1).

    Stored bits that do not begin at bit 0 (as High Bit tells, allowed before 1999) are moved there.
    """
    left, right = unstored_bits(spec)
    shift_bits(words, left=left, right=right)


def unstored_bits(spec: FrameSpec) -> tuple[int, int]:
    """Return by how many bits words are shifted to the left, then to the right, to leave the stored ones alone."""
    if are_bits_clean(spec):
        return 0, 0
    return spec.bits_allocated - 1 - spec.high_bit, spec.bits_allocated - spec.bits_stored


def shift_bits(words: Image, *, left: int, right: int) -> None:
    """Shift integers left, then right, in place; the second shift copies the sign of signed types."""
    if left:
        np.left_shift(words, left, out=words)
    if right:
        np.right_shift(words, right, out=words)


def empty_images(count: int, spec: FrameSpec, dtype: DTypeLike) -> Image:
    """Return an uninitialised array for `count` images."""
    return np.empty((count, *image_shape(spec)), dtype)
