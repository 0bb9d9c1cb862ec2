"""What a job is asked to do: frozen, checked, with a digest.

Nothing here reads a command line or a file; the CLI builds these objects, and workers receive them.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass
from enum import Enum, StrEnum
from typing import Literal, get_args

from gpuprep.errors import ConfigError

Interpolation = Literal["linear", "cubic", "lanczos", "nearest"]
ContourOverlap = Literal["xor", "union"]
OnIrregular = Literal["error", "resample"]
PetValues = Literal["suvbw", "stored"]

#: Slice steps within this fraction of the median step count as regular.
SPACING_TOLERANCE = 0.05
#: Voxels above this are foreground when cropping CT: between air (-1000 HU) and fat (about -100 HU).
CT_FOREGROUND_HU = -500.0
#: Least and largest spacing that are taken seriously, mm.
MIN_SPACING_MM, MAX_SPACING_MM = 1e-3, 1000.0


class MaskStrategy(StrEnum):
    """How ROIs become the integers of one label volume."""

    LABEL_IMAGE = "label_image"
    SPARSE_MASK = "sparse_mask"
    REGION_MASK = "region_mask"


class OnExisting(StrEnum):
    """What to do with cases whose outputs are already there."""

    SKIP = "skip"
    OVERWRITE = "overwrite"
    FAIL = "fail"


class OnMissing(StrEnum):
    """What to do when a label has no ROI in a case."""

    ERROR = "error"
    WARN = "warn"
    IGNORE = "ignore"


class RoiStrategy(StrEnum):
    """What several ROIs that match one label become."""

    MERGE = "merge"
    KEEP_FIRST = "keep_first"
    SEPARATE = "separate"


class MaskContainer(StrEnum):
    """What a mask is written to; `gpuprep.writers.masks` has the writers."""

    SEPARATE = "separate"
    LABEL = "label"
    SEG_NRRD = "seg.nrrd"
    DICOM_SEG = "dicomseg"
    ZARR = "zarr"
    HDF5 = "hdf5"
    NPZ = "npz"


class MultipleSegmentations(StrEnum):
    """What to do when several segmentations belong to one image."""

    ERROR = "error"
    LATEST = "latest"
    ALL = "all"
    MERGE = "merge"


@dataclass(frozen=True, slots=True)
class Resources:
    """What of the machine a job may use.

    Parameters
    ----------
    backend : {"auto", "cpu", "cuda", "reference"}
    devices : tuple of int
        CUDA devices, counted from 0 among those that the process sees; a process each.
    workers : int or None
        Cases at once. On the CPU each has a process, as many as cores by default; on CUDA they share the devices.
    scheduler : str
        Address of a Dask scheduler whose workers do the cases, each with what it has; empty for this machine alone.

    Raises
    ------
    ConfigError
        ``bad-devices``: none, a negative one, or one twice.
    """

    backend: str = "auto"
    devices: tuple[int, ...] = (0,)
    workers: int | None = None
    scheduler: str = ""

    def __post_init__(self) -> None:
        if not self.devices or min(self.devices) < 0 or len(set(self.devices)) < len(self.devices):
            raise ConfigError(
                f"devices {','.join(map(str, self.devices))!r} are not usable",
                code="bad-devices",
                hint="count devices from 0, each once, as in --devices 0,1",
            )


@dataclass(frozen=True, slots=True)
class Crop:
    """What to cut the volume to.

    Parameters
    ----------
    to : {"none", "foreground", "roi"}
        The whole volume, the bounding box of the foreground, or that of the matched ROIs.
    margin_mm : float
        Added on every side, as far as the volume reaches.
    """

    to: Literal["none", "foreground", "roi"] = "none"
    margin_mm: float = 0.0

    @classmethod
    def parse(cls, text: str) -> Crop:
        """Read ``none``, ``foreground[:MARGIN_MM]`` or ``roi[:MARGIN_MM]``.

        Raises
        ------
        ConfigError
            ``bad-crop``.
        """
        kind, _, margin = text.partition(":")
        bad = ConfigError(
            f"crop {text!r} is not understood",
            code="bad-crop",
            hint="write none, foreground, roi, or roi:10 for a margin of 10 mm",
        )
        try:
            value = float(margin) if margin else 0.0
        except ValueError:
            raise bad from None
        if not 0 <= value < math.inf:
            raise bad
        match kind:
            case "none" if not margin:
                return cls()
            case "foreground":
                return cls("foreground", value)
            case "roi":
                return cls("roi", value)
        raise bad


@dataclass(frozen=True, slots=True)
class Transforms:
    """What is done to images and masks between decoding and writing.

    Parameters
    ----------
    spacing_xyz_mm : (float, float, float)
        Wanted spacing of columns, rows and slices of the series as acquired; 0 keeps an axis.
    interpolation : str
        For images; masks are rasterised on the output grid or resampled by nearest neighbour.
    antialias : bool
        Widen the filter where the output is coarser than the input.
    window_level, window_width : float or None
        Clamp images to ``level ± width / 2`` in modality units; both or neither.
    rescale_intensity : (float, float) or None
        Map the window to this range, as float32.
    crop : Crop
    pet : {"suvbw", "stored"}
        Whether PET becomes SUVbw (g/ml) or keeps the units of its series.
    orientation : str
        ``"keep"``, or the sides towards which columns, rows and slices shall grow: ``"RAS"``, ``"LPS"``.
    is_axis_aligned : bool
        Put oblique volumes, with their masks, onto a grid along the patient's axes.

    Raises
    ------
    ConfigError
        ``bad-spacing``, ``antialias-nearest``, ``bad-window``, ``bad-orientation``, ``unknown-choice``.
    """

    spacing_xyz_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)
    interpolation: Interpolation = "linear"
    antialias: bool = False
    window_level: float | None = None
    window_width: float | None = None
    rescale_intensity: tuple[float, float] | None = None
    crop: Crop = Crop()
    orientation: str = "keep"
    pet: PetValues = "suvbw"
    is_axis_aligned: bool = False

    def __post_init__(self) -> None:
        check_choice("interpolation", self.interpolation, get_args(Interpolation))
        check_choice("PET values", self.pet, get_args(PetValues))
        if not all(s == 0 or MIN_SPACING_MM <= s <= MAX_SPACING_MM for s in self.spacing_xyz_mm):
            raise ConfigError(
                f"spacing {self.spacing_xyz_mm} mm is not usable",
                code="bad-spacing",
                hint=f"give three numbers from {MIN_SPACING_MM:g} to {MAX_SPACING_MM:g} mm, or 0 to keep that of the "
                "series, as in --spacing 1,1,3",
            )
        if self.antialias and self.interpolation == "nearest":
            raise ConfigError(
                "nearest takes one voxel and cannot average",
                code="antialias-nearest",
                hint="leave out --antialias, or use --interpolation linear",
            )
        if (self.window_level is None) != (self.window_width is None):
            raise ConfigError(
                "a window needs its level and its width",
                code="bad-window",
                hint="give both, as in --window-level 40 --window-width 400",
            )
        window = [n for n in (self.window_level, self.window_width) if n is not None]
        if not all(map(math.isfinite, window)) or (self.window_width is not None and self.window_width <= 0):
            raise ConfigError(
                f"level {self.window_level} and width {self.window_width} are no window",
                code="bad-window",
                hint="a window reaches from level - width / 2 to level + width / 2",
            )
        if self.rescale_intensity is not None and (
            self.window_level is None or not self.rescale_intensity[0] < self.rescale_intensity[1]
        ):
            raise ConfigError(
                "--rescale-intensity LOW,HIGH needs a window and LOW < HIGH",
                code="bad-window",
                hint="add --window-level and --window-width",
            )
        pairs = ("LR", "AP", "IS")
        if self.orientation != "keep" and sorted(
            next((i for i, pair in enumerate(pairs) if c in pair), -1) for c in self.orientation
        ) != [0, 1, 2]:
            raise ConfigError(
                f"orientation {self.orientation!r} is not understood",
                code="bad-orientation",
                hint="write keep, or one of L/R, A/P and I/S in any order, as in RAS",
            )

    def is_windowed(self, modality: str, modalities: Collection[str]) -> bool:
        """Whether the window applies to a channel: to CT, or to every channel of a case without CT."""
        return self.window_level is not None and (modality == "CT" or "CT" not in modalities)


@dataclass(frozen=True, slots=True)
class Stacking:
    """How slices become volumes.

    Parameters
    ----------
    on_irregular : {"error", "resample"}
        Whether missing slices, uneven spacing and gantry tilt are refused, or put on the regular grid that they imply.
    spacing_tolerance : float
        Slice steps within this fraction of their median count as regular.

    Raises
    ------
    ConfigError
        ``bad-tolerance``, ``unknown-choice``.
    """

    on_irregular: OnIrregular = "error"
    spacing_tolerance: float = SPACING_TOLERANCE

    def __post_init__(self) -> None:
        check_choice("treatment of irregular series", self.on_irregular, get_args(OnIrregular))
        if not 0 <= self.spacing_tolerance < 1:
            raise ConfigError(
                f"spacing tolerance {self.spacing_tolerance} is not a fraction of the slice distance",
                code="bad-tolerance",
                hint="0.05 accepts steps within 5 % of the median",
            )


@dataclass(frozen=True, slots=True)
class RoiOptions:
    """How ROI names become labels, and contours and segments become voxels.

    Parameters
    ----------
    labels : tuple of LabelPatterns
        In the order of the output; without any, every ROI is a label of its own, by its own name.
    ignore_case : bool
        Whether patterns match upper and lower case alike.
    strategy : RoiStrategy
        What several ROIs that match one label become.
    allow_multiple_matches : bool
        Whether a ROI may belong to several labels.
    on_missing : OnMissing
        What a label without a ROI means.
    contour_overlap : {"xor", "union"}
        What two contours of one ROI on a slice make: ``xor`` leaves out what both cover.
    fractional_threshold : float
        FRACTIONAL segments: foreground is above this fraction of the maximum, 0 ≤ t < 1.
    with_members : bool
        Masks also hold, after the labels, the ROIs that make them, each with the number of its label.

    Raises
    ------
    ConfigError
        ``bad-threshold``; ``unknown-choice``; ``roi-map-missing``: there is nothing to merge ROIs to, or to keep the
        first ROI of.
    """

    labels: tuple[LabelPatterns, ...]
    ignore_case: bool = True
    strategy: RoiStrategy = RoiStrategy.MERGE
    allow_multiple_matches: bool = True
    on_missing: OnMissing = OnMissing.ERROR
    contour_overlap: ContourOverlap = "xor"
    fractional_threshold: float = 0.5
    with_members: bool = False

    def __post_init__(self) -> None:
        check_choice("ROI strategy", self.strategy, RoiStrategy)
        check_choice("treatment of missing labels", self.on_missing, OnMissing)
        check_choice("treatment of overlapping contours", self.contour_overlap, get_args(ContourOverlap))
        object.__setattr__(self, "strategy", RoiStrategy(self.strategy))
        object.__setattr__(self, "on_missing", OnMissing(self.on_missing))
        if not 0 <= self.fractional_threshold < 1:
            raise ConfigError(
                f"fractional threshold {self.fractional_threshold} is not in [0, 1)",
                code="bad-threshold",
                hint="it is a fraction of the segment's maximum, as in --fractional-threshold 0.5",
            )
        if not self.labels and self.strategy is not RoiStrategy.SEPARATE:
            raise ConfigError(
                f"the ROI strategy {self.strategy.value} needs a ROI map",
                code="roi-map-missing",
                hint="add --roi-match-yaml FILE, or use --roi-strategy separate",
            )


@dataclass(frozen=True, slots=True)
class LabelPatterns:
    """One label of the output and the regular expressions of the ROI names that belong to it.

    Parameters
    ----------
    name : str
    patterns : tuple of str
        Each fits whole names.
    optional : bool
        May be absent whatever `RoiOptions.on_missing` says: the label is then empty.
    """

    name: str
    patterns: tuple[str, ...]
    optional: bool = False


def check_choice(what: str, value: str, choices: Iterable[str]) -> None:
    """Refuse a value that is none of the choices.

    Raises
    ------
    ConfigError
        ``unknown-choice``; the hint lists them.
    """
    known = [str(choice) for choice in choices]
    if value not in known:
        raise ConfigError(
            f"the {what} {value!r} is not known", code="unknown-choice", hint=f"choose one of: {', '.join(known)}"
        )


def digest(*parts: object) -> str:
    """Return 16 hex digits that change when any of the parts (dataclasses, enums, plain values) does."""

    def plain(value: object) -> object:
        if hasattr(value, "__dataclass_fields__"):
            return asdict(value)  # type: ignore[call-overload]
        if isinstance(value, Enum):
            return value.value
        raise TypeError(type(value))

    text = json.dumps(parts, default=plain, sort_keys=True, ensure_ascii=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
