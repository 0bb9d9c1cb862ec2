"""TIFF: one page a frame, with tags that lead back to the source."""

from __future__ import annotations

import json
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gpuprep._version import __version__
from gpuprep.coordinates import (
    ACTIVE_AREA,
    COMPAT_NAME,
    DEFAULT_CROP_ORIGIN,
    DEFAULT_CROP_SIZE,
    DEFAULT_SCALE,
    FLIP,
    TRANSFORM_KEY,
    CoordinateMap,
)
from gpuprep.writers.atomic import replacing
from gpuprep.writers.base import Output

Compressor = Literal["packbits", "lzw", "uncompressed", "deflate", "zstd"]
COMPRESSORS: tuple[Compressor, ...] = ("packbits", "lzw", "uncompressed", "deflate", "zstd")
#: Compressors that gain from differences of neighbouring pixels.
PREDICTED: tuple[Compressor, ...] = ("lzw", "deflate", "zstd")
TIFF_SUFFIXES = (".tif", ".tiff")
#: Values of the tag Compression that have a name in `COMPRESSORS`, older numbers of the same method too.
_COMPRESSOR_OF = {1: "uncompressed", 32773: "packbits", 5: "lzw", 8: "deflate", 32946: "deflate", 50000: "zstd",
                  34926: "zstd"}  # fmt: skip

#: A classic TIFF ends at 4 GiB, of which 64 MiB are left for tags; compressed pages of noise can be this much larger
#: than their pixels (LZW).
_CLASSIC_LIMIT = (1 << 32) - (1 << 26)
_WORST_GROWTH = 1.5
#: Tag of how many frames there are (0 and their number on every page, as dicom-preprocessing has it), and the most
#: that it can say: the greatest SHORT.
PAGE_NUMBER, MOST_PAGES = 297, 0xFFFF
_SHORT, _LONG, _FLOAT = 3, 4, 11
#: Bytes of pixels in a strip of files that dicom-preprocessing could have written.
_STRIP_BYTES = 1_000_000
_LARGEST_LONG = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class TiffStyle:
    """How files are written.

    Parameters
    ----------
    compressor : str
        One of `COMPRESSORS`.
    predictor : bool
        Store differences of neighbouring pixels (LZW, deflate and zstd).
    is_compat : bool
        Tags with the meaning that dicom-preprocessing gives them, and none that it does not write.
    """

    compressor: Compressor = "packbits"
    predictor: bool = False
    is_compat: bool = False


@dataclass(frozen=True, slots=True)
class TiffOrigin:
    """Where the pixels of a file come from.

    Parameters
    ----------
    coordinates : CoordinateMap
    nominal_scale : float or None
        The scale that was aimed at, before sizes were rounded; None when each axis had its own, or none.
    was_cropped, was_resized, was_padded : bool
        Which steps were asked for.
    pixels_per_mm : (float, float) or None
        Resolution of the file along x and y.
    description : dict
        JSON-ready; goes to ImageDescription of the first page. No patient data.
    """

    coordinates: CoordinateMap
    nominal_scale: float | None
    was_cropped: bool
    was_resized: bool
    was_padded: bool
    pixels_per_mm: tuple[float, float] | None
    description: dict[str, Any]


def write_tiff(path: Path, frames: NDArray[Any], origin: TiffOrigin, style: TiffStyle, *, root: Path) -> Output:
    """Write a file, complete or not at all.

    Parameters
    ----------
    path : Path
        Its name.
    frames : ndarray of shape (frames, H, W) or (frames, H, W, 3), uint8, uint16, int16 or float32
    origin : TiffOrigin
    style : TiffStyle
    root : Path
        What the path in the result is relative to.

    Raises
    ------
    WriteError
        ``disk-full``, ``not-writable``, ``write-failed``.
    """
    import tifffile

    big = frames.nbytes * (1.0 if style.compressor == "uncompressed" else _WORST_GROWTH) >= _CLASSIC_LIMIT
    unit, resolution = _resolution(origin, style)
    software = f"gpuprep {__version__}"
    options: dict[str, Any] = {
        "software": f"{software} ({COMPAT_NAME})" if style.is_compat else software,
        "resolution": resolution,
        "resolutionunit": unit,
        "extratags": [
            (code, kind, len(values), values, False) for code, kind, values in _tags(origin, style, len(frames))
        ],
    }
    description = json.dumps(origin.description | {TRANSFORM_KEY: origin.coordinates.to_json()}, ensure_ascii=True)
    with replacing(path) as part:
        with tifffile.TiffWriter(part, bigtiff=big) as file:
            write_pages(file, frames, style, description=None if style.is_compat else description, **options)
        size = part.stat().st_size
    return Output(path.relative_to(root).as_posix(), size, 0)


def is_writable(frame: NDArray[Any]) -> bool:
    """Whether a page is one that `write_pages` takes: grey or RGB, uint8, uint16, int16 or float32."""
    is_shaped = frame.ndim == 2 or (frame.ndim == 3 and frame.shape[-1] == 3)
    return is_shaped and frame.dtype.name in ("uint8", "uint16", "int16", "float32")


def write_pages(
    file: Any, frames: NDArray[Any], style: TiffStyle, *, description: str | None = None, **options: Any
) -> None:
    """Write one page a frame into an open `tifffile.TiffWriter`.

    Parameters
    ----------
    file : tifffile.TiffWriter
    frames : ndarray of shape (frames, H, W) or (frames, H, W, 3), uint8, uint16, int16 or float32
    style : TiffStyle
    description : str, optional
        ImageDescription of the first page.
    **options
        Further arguments of ``TiffWriter.write``, the same for all pages.
    """
    rows = frames.shape[1]
    if style.is_compat:  # its reader's packbits has a row a strip
        rows = 1 if style.compressor == "packbits" else max(1, _STRIP_BYTES // frames[0, 0].nbytes)
    for number, frame in enumerate(frames):
        file.write(
            frame,
            photometric="rgb" if frames.ndim == 4 else "minisblack",
            compression=None if style.compressor == "uncompressed" else style.compressor,
            predictor=style.predictor and style.compressor in PREDICTED,
            rowsperstrip=rows,
            metadata=None,
            contiguous=False,
            description=description if number == 0 else None,
            **options,
        )


def name_compression(value: int) -> str:
    """Return the name in `COMPRESSORS` of a value of the tag Compression, else tifffile's name of it, or the number."""
    import tifffile

    if value in _COMPRESSOR_OF:
        return _COMPRESSOR_OF[value]
    try:
        return str(tifffile.COMPRESSION(value).name).lower()
    except ValueError:
        return str(value)


def _tags(origin: TiffOrigin, style: TiffStyle, frames: int) -> list[tuple[int, int, tuple[float, ...]]]:
    coordinates = origin.coordinates
    left, top, width, height = coordinates.crop
    scale, start, active = coordinates.scale, (left, top), coordinates.active_area
    if style.is_compat:
        start, active = (left + width // 2, top + height // 2), coordinates.pad
        scale = (origin.nominal_scale, origin.nominal_scale) if origin.nominal_scale else scale
    page_number = (0, min(frames, MOST_PAGES))
    tags: list[tuple[int, int, tuple[float, ...]]] = [(PAGE_NUMBER, _SHORT, page_number)]
    if origin.was_resized or not style.is_compat:
        tags.append((DEFAULT_SCALE, _FLOAT, tuple(float(np.float32(s)) for s in scale)))
    if origin.was_cropped or not style.is_compat:
        tags += [(DEFAULT_CROP_ORIGIN, _LONG, start), (DEFAULT_CROP_SIZE, _LONG, (width, height))]
    if origin.was_padded or not style.is_compat:
        tags.append((ACTIVE_AREA, _LONG, active))
    if any(coordinates.flip):
        tags.append((FLIP, _LONG, (*coordinates.source_size, *map(int, coordinates.flip))))
    return tags


def _resolution(origin: TiffOrigin, style: TiffStyle) -> tuple[str, Any]:
    if origin.pixels_per_mm is None:
        return "none", (1, 1)
    per_cm = [min(value * 10, float(_LARGEST_LONG)) for value in origin.pixels_per_mm]
    if style.is_compat:
        return "centimeter", tuple((int(value), 1) for value in per_cm)
    # As fractions of 32 bits, since tifffile before 2026.3 fails to make them of the largest and the least numbers.
    ratios = [Fraction(value).limit_denominator(int(_LARGEST_LONG / max(value, 1))) for value in per_cm]
    return "centimeter", tuple(ratio.as_integer_ratio() for ratio in ratios)
