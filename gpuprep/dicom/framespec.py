"""How the frames of an image file are laid out, as its header says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gpuprep.dicom.header import InstanceHeader
from gpuprep.errors import GeometryError, HeaderError

#: A frame with more pixels than this is a lie of the header or a whole-slide image: 16 384 × 16 384.
MOST_FRAME_PIXELS = 1 << 28
#: More frames in one file than any modality writes.
MOST_FRAMES = 1 << 20

_MONOCHROME = ("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR")
_PARAMETRIC_MAP = "1.2.840.10008.5.1.4.1.1.30"
_COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_PARTIAL_422", "YBR_PARTIAL_420", "YBR_ICT", "YBR_RCT")


@dataclass(frozen=True, slots=True)
class FrameSpec:
    """Layout of the frames of one instance or of a whole stack (PS3.3 C.7.6.3, Image Pixel Module).

    Parameters
    ----------
    transfer_syntax_uid : str
    rows, columns : int
        Size of a frame, pixels.
    bits_allocated, bits_stored, high_bit : int
        Of a sample: width of its word, bits in use, and the highest of these, counted from 0.
    is_signed : bool
        Whether stored values are two's complement.
    samples_per_pixel : int
        1, or 3 for colour.
    photometric_interpretation : str
    planar_configuration : int
        0: the samples of a pixel lie together; 1: plane after plane.
    number_of_frames : int
    is_float : bool
        Float Pixel Data of 32 bits, or Double Float Pixel Data of 64.
    """

    transfer_syntax_uid: str
    rows: int
    columns: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    is_signed: bool
    samples_per_pixel: int = 1
    photometric_interpretation: str = "MONOCHROME2"
    planar_configuration: int = 0
    number_of_frames: int = 1
    is_float: bool = False

    @classmethod
    def from_header(cls, header: InstanceHeader) -> FrameSpec:
        """Read and check the layout of the frames of one instance.

        Float pixel data (Parametric Map) has 32 or 64 bits and no Bits Stored; `is_float` tells it.

        Raises
        ------
        GeometryError
            ``not-an-image``: there are no rows and columns.
        HeaderError
            ``attribute-missing``: an attribute is absent or garbled. ``attribute-invalid``: it has a value that no
            image has.
        """
        if header.rows is None and header.columns is None:
            raise GeometryError(
                f"modality {header.modality or 'unknown'} without rows and columns",
                code="not-an-image",
                subject=header.path,
            )
        is_float = header.sop_class_uid == _PARAMETRIC_MAP and header.bits_stored is None
        allocated = _required(header, "bits_allocated")
        stored = allocated if is_float else _required(header, "bits_stored")
        spec = cls(
            transfer_syntax_uid=header.transfer_syntax_uid,
            rows=_required(header, "rows"),
            columns=_required(header, "columns"),
            bits_allocated=allocated,
            bits_stored=stored,
            high_bit=stored - 1 if header.high_bit is None else header.high_bit,
            is_signed=is_float or _required(header, "pixel_representation") == 1,
            samples_per_pixel=_required(header, "samples_per_pixel"),
            photometric_interpretation=_required(header, "photometric_interpretation"),
            planar_configuration=header.planar_configuration or 0,
            number_of_frames=1 if header.number_of_frames is None else header.number_of_frames,
            is_float=is_float,
        )
        expected = {
            "rows": spec.rows >= 1 and spec.rows * spec.columns <= MOST_FRAME_PIXELS,
            "columns": spec.columns >= 1,
            "number_of_frames": 1 <= spec.number_of_frames <= MOST_FRAMES,
            "bits_allocated": spec.bits_allocated in ((32, 64) if is_float else (8, 16, 32, 64))
            or (spec.bits_allocated == spec.samples_per_pixel == 1 and not is_float),
            "bits_stored": 1 <= spec.bits_stored <= spec.bits_allocated,
            "high_bit": spec.bits_stored - 1 <= spec.high_bit < spec.bits_allocated,
            "pixel_representation": header.pixel_representation in (None, 0, 1),
            "photometric_interpretation": spec.photometric_interpretation in _MONOCHROME + _COLOUR,
            "samples_per_pixel": spec.samples_per_pixel == (1 if spec.photometric_interpretation in _MONOCHROME else 3),
            "planar_configuration": spec.planar_configuration in (0, 1),
        }
        for name, is_good in expected.items():
            if not is_good:
                raise HeaderError(
                    f"{name} is {getattr(header, name)!r} in a {spec.columns} × {spec.rows} image "
                    f"of {spec.bits_allocated} bits, {spec.photometric_interpretation}",
                    code="attribute-invalid",
                    subject=header.path,
                )
        return spec


def _required(header: InstanceHeader, name: str) -> Any:
    value = getattr(header, name)
    if value is None or value == "":
        raise HeaderError(f"{name} is absent or garbled", code="attribute-missing", subject=header.path)
    return value
