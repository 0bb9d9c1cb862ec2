"""What ``gpuprep tiff`` is asked to do to every image."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from gpuprep.dicom.display import SPACING_RANGE_MM
from gpuprep.errors import ConfigError
from gpuprep.ops.frames import FrameHandling
from gpuprep.ops.region import CropOptions
from gpuprep.ops.resize import FILTERS
from gpuprep.writers.tiff import TiffStyle

Padding = Literal["zero", "top-left", "bottom-right", "center", "none"]
Layout = Literal["study/sop", "study/series/sop"]

#: Most pixels along an axis of the output, and most frames: what PageNumber can count.
MOST_PIXELS = 65535


@dataclass(frozen=True, slots=True)
class TiffOptions:
    """What is done to every image.

    Parameters
    ----------
    crop : CropOptions or None
    size : (int, int) or None
        Width and height that the image is fitted into.
    spacing_xyz_mm : (float, float, float) or None
        Pixel and, if not 0, frame distance to resample to; not with `size`.
    filter_name : str
        One of `FILTERS`.
    padding : str
        Where pixels are added to reach `size`; ``zero``: at the sides that are emptier.
    frames : str
        What becomes of several frames.
    target_frames : int
        Frames of ``interpolate``.
    window : "voi", "minmax", "none" or (float, float)
        The file's VOI LUT or window, else least to greatest; the latter; modality values; centre and width.
    style : TiffStyle
    layout : str

    Raises
    ------
    ConfigError
        ``bad-size``, ``bad-spacing``, ``bad-window``, ``bad-frames``, ``unknown-filter``.
    """

    crop: CropOptions | None = None
    size: tuple[int, int] | None = None
    spacing_xyz_mm: tuple[float, float, float] | None = None
    filter_name: str = "triangle"
    padding: Padding = "zero"
    frames: FrameHandling = "keep"
    target_frames: int = 32
    window: Literal["voi", "minmax", "none"] | tuple[float, float] = "voi"
    style: TiffStyle = field(default_factory=TiffStyle)
    layout: Layout = "study/sop"

    def __post_init__(self) -> None:
        if self.size is not None and not all(0 < n <= MOST_PIXELS for n in self.size):
            raise ConfigError(
                f"size {self.size} is not from 1 to {MOST_PIXELS}", code="bad-size", hint="as in --size 384,512"
            )
        if self.spacing_xyz_mm is not None:
            x, y, z = self.spacing_xyz_mm
            least, most = SPACING_RANGE_MM
            if not (least <= x <= most and least <= y <= most and (z == 0 or least <= z <= most)):
                raise ConfigError(
                    f"spacing {self.spacing_xyz_mm} mm is not usable",
                    code="bad-spacing",
                    hint="give x,y or x,y,z in mm, as in --spacing 0.2,0.2",
                )
            if self.size is not None:
                raise ConfigError(
                    "--size and --spacing exclude each other", code="bad-size", hint="leave one of them out"
                )
        if isinstance(self.window, tuple) and not (np.isfinite(self.window).all() and self.window[1] > 0):
            raise ConfigError(
                f"window {self.window} has no positive width", code="bad-window", hint="as in --window 2048,4096"
            )
        if not 1 <= self.target_frames <= MOST_PIXELS:
            raise ConfigError(
                f"{self.target_frames} target frames",
                code="bad-frames",
                hint=f"give --target-frames from 1 to {MOST_PIXELS}",
            )
        if self.filter_name not in FILTERS:
            raise ConfigError(
                f"there is no filter {self.filter_name!r}",
                code="unknown-filter",
                hint=f"choose one of: {', '.join(FILTERS)}",
            )
