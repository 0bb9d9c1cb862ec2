"""Coordinates of a source image ↔ coordinates of the TIFF that was made of it.

Coordinates are continuous: pixel (0, 0) covers 0 to 1, so a box is (left, top, right, bottom) of its edges.
"""

from __future__ import annotations

import json
import struct
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gpuprep.errors import ConfigError

Float = NDArray[np.float64]

#: Key of this transform in the JSON of ImageDescription.
TRANSFORM_KEY = "transform"
#: In Software of files whose tags are as dicom-preprocessing writes them: crop centre, padding widths.
COMPAT_NAME = "dicom-preprocessing"
#: Tags. Numbers and names are those of the DNG 1.7 specification, types and the order of values (x first) those of
#: dicom-preprocessing; 65000 is private.
DEFAULT_SCALE, DEFAULT_CROP_ORIGIN, DEFAULT_CROP_SIZE, ACTIVE_AREA, FLIP = 50718, 50719, 50720, 50829, 65000

#: What tifffile raises on damaged files, found by fuzzing it; its own TiffFileError is a ValueError.
TIFF_ERRORS = (
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
)


@dataclass(frozen=True, slots=True)
class CoordinateMap:
    """Flip, crop, scale and pad, in this order.

    Parameters
    ----------
    source_size : (int, int)
        Columns and rows of the source.
    flip : (bool, bool)
        Whether columns and rows run backwards.
    crop : (int, int, int, int)
        Left, top, width and height of what was cut out, source pixels (after the flip).
    scale : (float, float)
        Output pixels a source pixel along x and y.
    pad : (int, int, int, int)
        Pixels added at left, top, right and bottom.
    """

    source_size: tuple[int, int]
    flip: tuple[bool, bool]
    crop: tuple[int, int, int, int]
    scale: tuple[float, float]
    pad: tuple[int, int, int, int]

    @classmethod
    def from_tiff(cls, path: str | Path) -> CoordinateMap:
        """Read the map of a file of ``gpuprep tiff``, or of dicom-preprocessing.

        Raises
        ------
        ConfigError
            ``no-coordinate-map``: the file is no TIFF, or says nothing of where its pixels come from.
        """
        import tifffile

        try:
            with tifffile.TiffFile(path) as file:
                page: Any = file.pages.first
                tags = {tag.code: tag.value for tag in page.tags}
                size = (int(page.imagewidth), int(page.imagelength))
        except TIFF_ERRORS as error:
            raise ConfigError(f"cannot be read: {error}", code="no-coordinate-map", subject=str(path)) from error
        description = str(tags.get(270, ""))
        software = tags.get(305, b"")
        software = bytes(software).decode("ascii", "replace") if isinstance(software, bytes | tuple) else str(software)
        try:
            if TRANSFORM_KEY in description and description.startswith("{"):
                return cls._from_json(json.loads(description)[TRANSFORM_KEY])
            if COMPAT_NAME in software:
                return cls._from_compat_tags(tags, size)
        except (ArithmeticError, LookupError, TypeError, ValueError) as error:
            raise ConfigError(
                f"its transform is garbled: {error}", code="no-coordinate-map", subject=str(path)
            ) from error
        raise ConfigError(
            "the file does not say where its pixels come from",
            code="no-coordinate-map",
            subject=str(path),
            hint="only files written by gpuprep tiff or dicom-preprocessing do",
        )

    @classmethod
    def _from_json(cls, values: dict[str, Any]) -> CoordinateMap:
        parts = [tuple(values[name]) for name in ("source_size", "flip", "crop", "scale", "pad")]
        if [len(part) for part in parts] != [2, 2, 4, 2, 4] or not all(0 < v < np.inf for v in parts[3]):
            raise ValueError(f"{parts}")
        return cls(*parts)

    @classmethod
    def _from_compat_tags(cls, tags: dict[int, Any], size: tuple[int, int]) -> CoordinateMap:
        left, top, right, bottom = tags.get(ACTIVE_AREA, (0, 0, 0, 0))
        scale_x, scale_y = tags.get(DEFAULT_SCALE, (1.0, 1.0))
        if not (0 < scale_x < np.inf and 0 < scale_y < np.inf):
            raise ValueError(f"a scale of {scale_x} and {scale_y}")
        content = (size[0] - left - right, size[1] - top - bottom)
        cut = (round(content[0] / scale_x), round(content[1] / scale_y))
        if DEFAULT_CROP_SIZE in tags:
            cut = tags[DEFAULT_CROP_SIZE]
        centre_x, centre_y = tags.get(DEFAULT_CROP_ORIGIN, (cut[0] // 2, cut[1] // 2))
        crop = (centre_x - cut[0] // 2, centre_y - cut[1] // 2, *cut)
        width, height, horizontal, vertical = tags.get(FLIP, (crop[0] + cut[0], crop[1] + cut[1], 0, 0))
        return cls(
            (width, height), (bool(horizontal), bool(vertical)), crop, (scale_x, scale_y), (left, top, right, bottom)
        )

    @property
    def active_area(self) -> tuple[int, int, int, int]:
        """Left, top, right and bottom edge of what is no padding, whole pixels of the TIFF."""
        left, top, _, _ = self.pad
        width, height = (max(1, int(n * scale + 0.5)) for n, scale in zip(self.crop[2:], self.scale, strict=True))
        return left, top, left + width, top + height

    def to_json(self) -> dict[str, Any]:
        """Return the map as `from_tiff` reads it."""
        return asdict(self)

    def to_output(self, points: ArrayLike) -> Float:
        """Map source points (…, 2) as x, y to the TIFF; points outside the crop land outside the active area."""
        flipped = self._flipped(np.asarray(points, np.float64))
        return (flipped - self.crop[:2]) * self.scale + self.pad[:2]

    def to_source(self, points: ArrayLike) -> Float:
        """Map points (…, 2) of the TIFF to the source: the inverse of `to_output`."""
        return self._flipped((np.asarray(points, np.float64) - self.pad[:2]) / self.scale + self.crop[:2])

    def _flipped(self, points: Float) -> Float:
        return np.where(self.flip, np.asarray(self.source_size) - points, points)
