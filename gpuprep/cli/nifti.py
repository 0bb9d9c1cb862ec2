"""``gpuprep nifti``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from gpuprep.cli import options
from gpuprep.config import OnExisting


@click.command(short_help="Image series → .nii.gz, one a volume.")
@click.argument("source", type=options.PATH, nargs=-1, required=True)
@click.argument("output", type=options.PATH)
@click.option("-m", "--modalities", default="CT,MR,PT", show_default=True, help="Image modalities to convert.")
@click.option("--uncompressed", is_flag=True, help="Write .nii instead of .nii.gz.")
@options.transform_options
@options.run_options
def nifti(
    source: tuple[Path, ...],
    output: Path,
    modalities: str,
    uncompressed: bool,
    on_irregular: str,
    spacing_tolerance: float,
    on_existing: str,
    index_path: Path | None,
    backend: str,
    workers: int | None,
    **transforms: Any,
) -> int:
    """Convert every image volume below SOURCE into one NIfTI file in OUTPUT.

    A series with several volumes (echoes, time points) gives one file each.
    """
    from gpuprep.cli.jobs import finish
    from gpuprep.hostlib import usable_cores
    from gpuprep.report.progress import Progress
    from gpuprep.run.case import CaseOptions
    from gpuprep.run.nifti import convert_to_nifti
    from gpuprep.run.plan import parse_modalities
    from gpuprep.run.sources import open_sources

    images, _ = parse_modalities(modalities)
    case_options = CaseOptions(
        transforms=options.parse_transforms(**transforms),
        stacking=options.parse_stacking(on_irregular, spacing_tolerance),
    )
    sources = open_sources(source, index_path=index_path, workers=workers or usable_cores())
    with Progress() as progress:
        rows, problems = convert_to_nifti(
            sources,
            output,
            modalities=images,
            case_options=case_options,
            suffix=".nii" if uncompressed else ".nii.gz",
            on_existing=OnExisting(on_existing),
            backend=backend,
            workers=workers,
            on_start=progress.start,
            on_row=progress.add,
        )
    click.echo(str(output))
    return finish(output / "gpuprep", rows, problems)
