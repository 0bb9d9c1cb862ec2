"""``gpuprep tiff``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gpuprep._version import __version__
from gpuprep.cli import options
from gpuprep.config import OnExisting
from gpuprep.errors import ConfigError, ExitStatus

if TYPE_CHECKING:
    from gpuprep.run.tiff_options import TiffOptions

#: What options offer, listed here because importing it would delay ``--help``; a test holds it to the code.
_CHOICES = {
    "crop": ["box", "components"],
    "filter": ["triangle", "nearest", "catmull-rom", "gaussian", "lanczos3", "box"],
    "padding": ["zero", "top-left", "bottom-right", "center", "none"],
    "compressor": ["packbits", "lzw", "uncompressed", "deflate", "zstd"],
    "frames": ["keep", "central-slice", "max-intensity", "mean", "interpolate"],
    "layout": ["study/sop", "study/series/sop"],
}


@click.command(short_help="X-ray, mammography, tomosynthesis, any image → TIFF that maps back to its source.")
@click.argument("source", type=options.PATH)
@click.argument("output", type=options.PATH)
@click.option(
    "-c",
    "--crop",
    is_flag=True,
    help="Cut away rows and columns at the borders that are all background: "
    "black, that is at or below the window's lower end.",
)
@click.option(
    "-m",
    "--crop-max",
    is_flag=True,
    help="Take white for background too, the greatest value, so that burnt-in marks do not hold up the crop.",
)
@click.option(
    "--crop-mode",
    type=click.Choice(_CHOICES["crop"]),
    help="box: all that is not background. components: its largest connected part. [default: box; with "
    "--compat: components]",
)
@click.option("-n", "--no-components", is_flag=True, help="The same as --crop-mode box.")
@click.option(
    "-b",
    "--border-frac",
    type=float,
    default=0.0,
    show_default=True,
    metavar="F",
    help="Look for the picture only inside this share of each border, then grow the box by as much.",
)
@click.option("-s", "--size", metavar="W,H", help="Fit into this size, aspect kept, and pad to it.")
@click.option(
    "--spacing", metavar="X,Y[,Z]", help="Resample to this pixel and frame distance in mm instead; no padding."
)
@click.option(
    "-f",
    "--filter",
    "filter_name",
    type=click.Choice(_CHOICES["filter"]),
    default="triangle",
    show_default=True,
    help="How pixels are resampled: antialiased, but for nearest.",
)
@click.option(
    "-p",
    "--padding",
    type=click.Choice(_CHOICES["padding"]),
    default="zero",
    show_default=True,
    help="Where to add pixels to reach --size; zero: at the sides that are emptier.",
)
@click.option("--no-padding", is_flag=True, help="The same as --padding none.")
@click.option(
    "-z",
    "--compressor",
    type=click.Choice(_CHOICES["compressor"]),
    default="packbits",
    show_default=True,
    help="Compression of the pages; gpuprep bench read --compare tells sizes and times for your data.",
)
@click.option(
    "--predictor/--no-predictor",
    default=None,
    help="Store differences of pixels. [default: on for lzw, deflate and zstd; with --compat: off]",
)
@click.option(
    "-v",
    "--volume-handler",
    type=click.Choice(_CHOICES["frames"]),
    default="keep",
    show_default=True,
    help="What becomes of several frames: all, the middle one, the greatest or mean of each pixel, or --target-frames.",
)
@click.option(
    "-t",
    "--target-frames",
    type=click.IntRange(min=1),
    default=32,
    show_default=True,
    help="Frames of --volume-handler interpolate.",
)
@click.option(
    "-w",
    "--window",
    default="voi",
    show_default=True,
    metavar="voi|minmax|none|C,W",
    help="The file's VOI LUT or window, else least to greatest of all frames; the latter always; modality "
    "values (int16 or float32); this centre and width.",
)
@click.option(
    "--layout",
    type=click.Choice(_CHOICES["layout"]),
    help="Names below OUTPUT, of UIDs. [default: study/sop; with --compat: study/series/sop]",
)
@click.option(
    "--compat",
    type=click.Choice(["dicom-preprocessing"]),
    help="Tags as dicom-preprocessing means them (crop centre, padding widths), and its defaults.",
)
@click.option("--strict", is_flag=True, help="Stop at the first file that is no DICOM or cannot be converted.")
@click.option(
    "--on-existing",
    type=click.Choice([m.value for m in OnExisting]),
    default="skip",
    show_default=True,
    help="Images that are done: leave them, convert them again, or stop. A single TIFF is written again, or stops.",
)
@options.backend_option
@options.device_option
@click.option("-j", "--threads", "--workers", "workers", type=click.IntRange(min=1), metavar="N",
              help="Images at once: on the CPU processes, all cores by default; on CUDA 3 a device.")  # fmt: skip
@options.scheduler_option
@click.version_option(__version__, "-V", "--version", prog_name="gpuprep")
def tiff(
    source: Path,
    output: Path,
    strict: bool,
    on_existing: str,
    backend: str,
    devices: str,
    workers: int | None,
    scheduler: str,
    **chosen: Any,
) -> int:
    """Convert SOURCE, a file, a folder, an index or a .txt list of paths, into TIFF files with one page a frame.

    OUTPUT is a folder, or a file named .tif or .tiff when SOURCE holds one image. Grey levels take the whole range of 8
    bits, or of 16 when more than 8 are stored. Tags DefaultCropOrigin, DefaultCropSize, DefaultScale and ActiveArea,
    and ImageDescription as JSON, map coordinates back to the source: see gpuprep.CoordinateMap and gpuprep traces.

    \b
    gpuprep tiff --crop --size 384,512 --compressor zstd /data/dicoms /data/tiffs
    gpuprep tiff -w 40,400 image.dcm image.tiff
    """
    from gpuprep.cli.jobs import finish, watched
    from gpuprep.hostlib import usable_cores
    from gpuprep.report.progress import count_files
    from gpuprep.run.tiff import convert_one, convert_to_tiff
    from gpuprep.run.tiff_plan import only_image, read_sources
    from gpuprep.writers.atomic import SIDECARS
    from gpuprep.writers.tiff import TIFF_SUFFIXES

    tiff_options = parse_tiff_options(**chosen)
    is_cut, is_sized = tiff_options.crop is not None, tiff_options.size is not None
    options.warn_of_unused(
        dict.fromkeys(["crop_max", "crop_mode", "no_components", "border_frac"], (is_cut, "it needs --crop"))
        | dict.fromkeys(["padding", "no_padding"], (is_sized, "it needs --size"))
        | {"filter_name": (is_sized or tiff_options.spacing_xyz_mm is not None, "it needs --size or --spacing")}
        | {"target_frames": (tiff_options.frames == "interpolate", "it needs --volume-handler interpolate")}
    )
    resources = options.parse_resources(backend, devices, workers, scheduler)
    with count_files() as on_progress:
        index = read_sources(source, output, workers=workers or usable_cores(), on_progress=on_progress)
    if output.suffix.lower() in TIFF_SUFFIXES and not output.is_dir():
        options.warn_of_unused({"scheduler": (False, "a single image is converted here")})
        image = only_image(index, output)
        convert_one(image, output, tiff_options, resources, on_existing=OnExisting(on_existing))
        click.echo(str(output))
        return ExitStatus.DONE
    with watched(OnExisting(on_existing), resources) as execution:
        rows, problems = convert_to_tiff(index, output, tiff_options, execution=execution, strict=strict)
    return finish(output, output / SIDECARS, rows, problems)


def parse_tiff_options(
    *,
    crop: bool,
    crop_max: bool,
    crop_mode: str | None,
    no_components: bool,
    border_frac: float,
    size: str | None,
    spacing: str | None,
    filter_name: str,
    padding: str,
    no_padding: bool,
    compressor: str,
    predictor: bool | None,
    volume_handler: str,
    target_frames: int,
    window: str,
    layout: str | None,
    compat: str | None,
) -> TiffOptions:
    """Build `TiffOptions` from option values.

    Raises
    ------
    ConfigError
        ``bad-crop``, ``bad-border``, ``bad-size``, ``bad-spacing``, ``bad-window``, ``bad-frames``, ``bad-predictor``.
    """
    from gpuprep.ops.region import CropOptions
    from gpuprep.run.tiff_options import TiffOptions
    from gpuprep.writers.tiff import PREDICTED, TiffStyle

    is_compat = compat is not None
    if no_components and crop_mode == "components":
        raise ConfigError(
            "--no-components and --crop-mode components exclude each other",
            code="bad-crop",
            hint="leave one of them out",
        )
    if predictor and compressor not in PREDICTED:
        raise ConfigError(
            f"{compressor} has no predictor", code="bad-predictor", hint=f"choose one of: {', '.join(PREDICTED)}"
        )
    mode = "box" if no_components else crop_mode or ("components" if is_compat else "box")
    crop_options = CropOptions(mode, crop_max, border_frac, empty_frame_keeps_all=is_compat)  # type: ignore[arg-type]
    return TiffOptions(
        crop=crop_options if crop else None,
        size=_size(size) if size is not None else None,
        spacing_xyz_mm=_spacing(spacing) if spacing is not None else None,
        filter_name=filter_name,
        padding="none" if no_padding else padding,  # type: ignore[arg-type]
        frames=volume_handler,  # type: ignore[arg-type]
        target_frames=target_frames,
        window=_window(window),  # type: ignore[arg-type]
        style=TiffStyle(
            compressor=compressor,  # type: ignore[arg-type]
            predictor=compressor in PREDICTED and not is_compat if predictor is None else predictor,
            is_compat=is_compat,
        ),
        layout=layout or ("study/series/sop" if is_compat else "study/sop"),  # type: ignore[arg-type]
    )


def _size(text: str) -> tuple[int, int]:
    width, height = options.parse_numbers(text, (2,), "bad-size", "--size needs width and height, as in 384,512")
    if not (width.is_integer() and height.is_integer()):
        raise ConfigError(f"size {text} is not in whole pixels", code="bad-size", hint="as in --size 384,512")
    return int(width), int(height)


def _spacing(text: str) -> tuple[float, float, float]:
    numbers = options.parse_numbers(text, (2, 3), "bad-spacing", "--spacing needs x,y or x,y,z in mm, as in 0.2,0.2")
    return numbers[0], numbers[1], numbers[2] if len(numbers) > 2 else 0.0


def _window(text: str) -> str | tuple[float, float]:
    if text in ("voi", "minmax", "none"):
        return text
    centre, width = options.parse_numbers(text, (2,), "bad-window", "--window needs voi, minmax, none, or centre,width")
    return centre, width
