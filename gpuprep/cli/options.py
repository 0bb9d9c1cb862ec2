"""Options that several commands share, each once, and how their texts become configuration."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast, get_args

import click
from click.core import ParameterSource

from gpuprep.config import (
    SPACING_TOLERANCE,
    ContourOverlap,
    Crop,
    Interpolation,
    MultipleSegmentations,
    OnExisting,
    OnIrregular,
    OnMissing,
    PetValues,
    Resources,
    RoiOptions,
    RoiStrategy,
    Stacking,
    Transforms,
)
from gpuprep.errors import ConfigError

if TYPE_CHECKING:
    from gpuprep.run.case import CaseOptions

Command = TypeVar("Command", bound=Callable[..., Any])

#: What cannot be read or written is told where it is used, with a code, a hint and its exit status.
PATH = click.Path(path_type=Path, readable=False)


def apply(*options: Callable[[Any], Any]) -> Callable[[Command], Command]:
    """Return one decorator for several options, shown in this order."""

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def label_options(command: Command) -> Command:
    """Add the options of every command that makes labels: modalities, and those of `RoiOptions`."""
    return apply(
        click.option("-m", "--modalities", required=True, metavar="CT,RTSTRUCT",
                     help="Images (CT, MR, PT) and segmentations (RTSTRUCT, SEG). The first image modality carries the "
                          "segmentations; with nnunet others are further channels, in this order, on its grid."),
        click.option("-ryaml", "--roi-match-yaml", type=PATH, required=True, metavar="FILE",
                     help="YAML map from labels to regular expressions that fit whole ROI names, in label order; "
                          "gpuprep nnunet --help has an example."),
        click.option("--roi-strategy", type=click.Choice(["merge", "keep_first"], case_sensitive=False),
                     default="merge", show_default=True, help="What several ROIs that match one label become."),
        click.option("--on-missing", type=click.Choice([m.value for m in OnMissing]), default="error",
                     show_default=True,
                     help="A label without a ROI: fail the case, or leave the label empty, with or without a warning. "
                          "Labels marked optional in the map may always be absent."),
        click.option("--multiple-segmentations", type=click.Choice([m.value for m in MultipleSegmentations]),
                     default="error", show_default=True,
                     help="Several segmentations of one image match the labels: fail the case and name them, take the "
                          "latest by date, make a case of each, or one of all their ROIs."),
        roi_options,
    )(command)  # fmt: skip


def roi_options(command: Command) -> Command:
    """Add how ROI names match labels, and how contours and segments become voxels."""
    return apply(
        click.option("--roi-ignore-case/--roi-case-sensitive", default=True, show_default=True,
                     help="Whether patterns match upper and lower case alike."),
        click.option("--roi-allow-multi-matches/--roi-disallow-multi-matches", default=True, show_default=True,
                     help="Whether a ROI may belong to several labels."),
        click.option("--contour-overlap", type=click.Choice(get_args(ContourOverlap)), default="xor", show_default=True,
                     help="Overlapping contours of one ROI on a slice: a hole, or their union."),
        click.option("--fractional-threshold", type=float, default=0.5, show_default=True,
                     help="FRACTIONAL SEG: foreground is above this fraction of the maximum."),
    )(command)  # fmt: skip


def transform_options(command: Command) -> Command:
    """Add the options of `Transforms` and `Stacking`."""
    return apply(
        click.option("--spacing", default="0,0,0", metavar="X,Y,Z", show_default=True,
                     help="Voxel size in mm along columns, rows and slices; 0 keeps an axis."),
        click.option("--interpolation", type=click.Choice(get_args(Interpolation)),
                     default="linear", show_default=True, help="For images; masks are drawn on the output grid."),
        click.option("--antialias", is_flag=True, help="Average over the coarser voxels when downsampling."),
        click.option("--window-level", type=float,
                     help="Clamp images to level ± width / 2 (CT: HU). Beside CT other channels are left alone."),
        click.option("--window-width", type=float, help="Goes with --window-level."),
        click.option("--rescale-intensity", metavar="LOW,HIGH", help="Map the window to this range, as float32."),
        click.option("--crop", default="none", metavar="none|foreground[:MM]|roi[:MM]", show_default=True,
                     help="Cut to the foreground (CT: above -500 HU, else above 0) or to the matched ROIs, "
                          "with a margin in mm."),
        click.option("--pet", type=click.Choice(get_args(PetValues)), default="suvbw", show_default=True,
                     help="PET as SUV by body weight, from the header; or in the units of its series."),
        click.option("--orientation", default="keep", metavar="keep|RAS|LPS|…", show_default=True,
                     help="Sides towards which columns, rows and slices grow in the output."),
        stacking_options,
    )(command)  # fmt: skip


def stacking_options(command: Command) -> Command:
    """Add the options of `Stacking`."""
    return apply(
        click.option("--on-irregular", type=click.Choice(get_args(OnIrregular)), default="error", show_default=True,
                     help="Missing slices, uneven spacing, gantry tilt: refuse the case, or put its slices on the "
                          "regular grid they imply."),
        click.option("--spacing-tolerance", type=float, default=SPACING_TOLERANCE, show_default=True,
                     help="Slice steps within this fraction of their median count as regular."),
    )(command)  # fmt: skip


backend_option = click.option(
    "--backend", type=click.Choice(["auto", "cpu", "cuda", "reference"]), default="auto", show_default=True,
    help="auto: CUDA where a test kernel runs on it, else the CPU. reference: plain NumPy, slow, to check a result.",
)  # fmt: skip

device_option = click.option(
    "--devices", default="0", show_default=True, metavar="N,…",
    help="CUDA devices, counted from 0 among those that CUDA_VISIBLE_DEVICES shows; each gets a process.",
)  # fmt: skip

scheduler_option = click.option(
    "--scheduler", default="", metavar="tcp://HOST:8786",
    help="Have the workers of this Dask scheduler do the cases, on many machines that share sources and OUTPUT under "
         "the same paths; needs the extra dask.",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What a command that runs cases is told of how."""

    on_existing: OnExisting
    index_path: Path | None
    resources: Resources


def run_options(command: Command) -> Command:
    """Add the options of every command that runs cases, which gets them as `run`, `RunOptions`."""

    @wraps(command)
    def with_run(
        *,
        on_existing: str,
        index_path: Path | None,
        backend: str,
        devices: str,
        workers: int | None,
        scheduler: str,
        **others: Any,
    ) -> Any:
        resources = parse_resources(backend, devices, workers, scheduler)
        return command(run=RunOptions(OnExisting(on_existing), index_path, resources), **others)

    return apply(
        click.option("--on-existing", type=click.Choice([m.value for m in OnExisting]), default="skip",
                     show_default=True, help="Cases that are done: leave them, convert them again, or stop."),
        click.option("--index", "index_path", type=PATH, metavar="FILE.parquet",
                     help="Keep the index of the sources here; the next run reads only new and changed files."),
        backend_option,
        device_option,
        click.option("-j", "--workers", type=click.IntRange(min=1), metavar="N",
                     help="Cases at once: on the CPU processes, as many as cores by default; on CUDA 3 a device."),
        scheduler_option,
    )(cast("Command", with_run))  # fmt: skip


def warn_of_unused(uses: Mapping[str, tuple[bool, str]]) -> None:
    """Tell on stderr which options of the command line have no use.

    Parameters
    ----------
    uses : mapping
        Parameter of the running command → whether it has a use, and why it has none.
    """
    context = click.get_current_context()
    for option in context.command.params:
        has_use, reason = uses.get(option.name or "", (True, ""))
        if not has_use and context.get_parameter_source(option.name or "") is ParameterSource.COMMANDLINE:
            click.echo(f"warning: {max(option.opts, key=len)} has no use: {reason}", err=True)


def parse_case_options(
    *,
    roi_match_yaml: Path | None,
    roi_strategy: str,
    roi_ignore_case: bool,
    roi_allow_multi_matches: bool,
    on_missing: str,
    multiple_segmentations: str = "error",
    contour_overlap: str,
    fractional_threshold: float,
    on_irregular: str,
    spacing_tolerance: float,
    **transforms: Any,
) -> CaseOptions:
    """Build `CaseOptions` from the values of `label_options`, without the modalities, and `transform_options`.

    Without a ROI map every ROI is a label.

    Raises
    ------
    ConfigError
        Those of `load_roi_patterns`, `RoiOptions`, `parse_stacking` and `parse_transforms`.
    """
    from gpuprep.dicom.roi_names import load_roi_patterns
    from gpuprep.run.case import CaseOptions

    return CaseOptions(
        transforms=parse_transforms(**transforms),
        stacking=parse_stacking(on_irregular, spacing_tolerance),
        rois=RoiOptions(
            labels=load_roi_patterns(roi_match_yaml) if roi_match_yaml else (),
            ignore_case=roi_ignore_case,
            strategy=RoiStrategy(roi_strategy.lower()),
            allow_multiple_matches=roi_allow_multi_matches,
            on_missing=OnMissing(on_missing),
            contour_overlap=contour_overlap,  # type: ignore[arg-type]
            fractional_threshold=fractional_threshold,
        ),
        multiple=MultipleSegmentations(multiple_segmentations),
    )


def parse_transforms(
    spacing: str,
    interpolation: str,
    antialias: bool,
    window_level: float | None,
    window_width: float | None,
    rescale_intensity: str | None,
    crop: str,
    orientation: str,
    pet: str,
) -> Transforms:
    """Build `Transforms` from option texts.

    Raises
    ------
    ConfigError
        ``bad-spacing``, ``antialias-nearest``, ``bad-window``, ``bad-crop``, ``bad-orientation``.
    """
    x, y, z = parse_numbers(spacing, (3,), "bad-spacing", "--spacing needs three numbers, as in 1,1,3")
    mapped = None
    if rescale_intensity is not None:
        low, high = parse_numbers(
            rescale_intensity, (2,), "bad-window", "--rescale-intensity needs two numbers, as in 0,1"
        )
        mapped = (low, high)
    return Transforms(
        spacing_xyz_mm=(x, y, z),
        interpolation=interpolation,  # type: ignore[arg-type]
        antialias=antialias,
        window_level=window_level,
        window_width=window_width,
        rescale_intensity=mapped,
        crop=Crop.parse(crop),
        orientation=orientation if orientation == "keep" else orientation.upper(),
        pet=pet,  # type: ignore[arg-type]
    )


def parse_stacking(on_irregular: str, spacing_tolerance: float) -> Stacking:
    """Build `Stacking` from option values."""
    return Stacking(on_irregular, spacing_tolerance)  # type: ignore[arg-type]


def parse_resources(backend: str, devices: str, workers: int | None, scheduler: str = "") -> Resources:
    """Build `Resources` from option values.

    Raises
    ------
    ConfigError
        ``bad-devices``.
    """
    try:
        numbers = tuple(int(part) for part in devices.split(","))
    except ValueError:
        raise ConfigError(
            f"{devices!r} is no list of devices", code="bad-devices", hint="write --devices 0, or --devices 0,1"
        ) from None
    if scheduler:
        warn_of_unused({"devices": (False, "each worker of --scheduler uses the devices that it sees")})
    return Resources(backend, numbers, workers, scheduler)


def parse_numbers(text: str, counts: Collection[int], code: str, hint: str) -> list[float]:
    """Read as many finite numbers, separated by commas, as one of `counts` says.

    Raises
    ------
    ConfigError
        `code`.
    """
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) not in counts or not all(map(math.isfinite, values)):
        raise ConfigError(f"{text!r} is not understood", code=code, hint=hint)
    return values
