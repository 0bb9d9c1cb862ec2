"""YBR to RGB (PS3.3 C.7.6.3.1.2)."""

from __future__ import annotations

import numpy as np

from gpuprep.codecs.base import Image
from gpuprep.dicom.framespec import FrameSpec
from gpuprep.errors import DecodeError

#: Interpretations whose samples are converted. YBR_ICT and YBR_RCT are undone by the JPEG 2000 decoder itself.
_FULL_RANGE = ("YBR_FULL", "YBR_FULL_422")
#: Luma weights of red and blue. Source: ITU-R BT.601, which PS3.3 C.7.6.3.1.2 refers to.
_RED, _BLUE = 0.299, 0.114
_GREEN = 1 - _RED - _BLUE


def is_ybr(photometric_interpretation: str) -> bool:
    """Whether samples of this interpretation have to be converted to RGB."""
    return photometric_interpretation in _FULL_RANGE


def check_photometric(spec: FrameSpec) -> None:
    """Refuse the retired limited-range interpretations.

    Raises
    ------
    DecodeError
        ``unsupported-pixels``.
    """
    if spec.photometric_interpretation.startswith("YBR_PARTIAL"):
        raise DecodeError(
            f"photometric interpretation {spec.photometric_interpretation} is not supported",
            code="unsupported-pixels",
            hint="convert the file to RGB first",
        )


def convert_to_rgb(image: Image) -> None:
    """Convert 8-bit YBR_FULL to RGB in place, rounding half up.

    Parameters
    ----------
    image : ndarray of shape (..., 3), uint8
        Luma, blue difference, red difference; becomes red, green, blue.

    Raises
    ------
    DecodeError
        ``unsupported-pixels``: samples of more than 8 bits, for which the standard defines no YBR.
    """
    if image.dtype != np.uint8:
        raise DecodeError(f"YBR samples of type {image.dtype}, expected 8 bits", code="unsupported-pixels")
    half = np.float32(128)
    luma = image[..., 0].astype(np.float32)
    blue_difference, red_difference = image[..., 1] - half, image[..., 2] - half
    red = luma + np.float32(2 - 2 * _RED) * red_difference
    blue = luma + np.float32(2 - 2 * _BLUE) * blue_difference
    green = (
        luma
        - np.float32(_BLUE * (2 - 2 * _BLUE) / _GREEN) * blue_difference
        - np.float32(_RED * (2 - 2 * _RED) / _GREEN) * red_difference
    )
    for channel, values in enumerate((red, green, blue)):
        image[..., channel] = np.clip(np.floor(values + np.float32(0.5)), 0, 255)


def expand_422(words: Image, columns: int) -> Image:
    """Return Y, B, R for each pixel of native YBR_FULL_422, stored as Y Y B R for each two pixels of a row.

    Parameters
    ----------
    words : ndarray of shape (2 · N,)
        Samples of N pixels.
    columns : int
        Pixels of a row.

    Returns
    -------
    ndarray of shape (N, 3)

    Raises
    ------
    DecodeError
        ``unsupported-pixels``: the last pixel of a row has no other one to share its colour with.
    """
    if columns % 2:
        raise DecodeError(f"YBR_FULL_422 with {columns} columns, an odd number", code="unsupported-pixels")
    pairs = words.reshape(-1, 4)
    return pairs[:, [[0, 2, 3], [1, 2, 3]]].reshape(-1, 3)
