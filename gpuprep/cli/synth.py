"""``gpuprep synth``."""

from __future__ import annotations

from pathlib import Path

import click

from gpuprep.cli import options
from gpuprep.errors import ExitStatus


@click.command(short_help="Write small synthetic studies to try gpuprep with.")
@click.argument("output", type=options.PATH)
@click.option("--patients", type=click.IntRange(min=1), default=1, show_default=True, help="As many studies.")
@click.option("--seg", is_flag=True, help="Add a DICOM SEG to each study.")
def synth(output: Path, patients: int, seg: bool) -> int:
    """Write synthetic CT series with an RTSTRUCT into OUTPUT, and roi_patterns.yaml for its ROIs.

    \b
    gpuprep synth demo
    gpuprep nnunet -m CT,RTSTRUCT -ryaml demo/roi_patterns.yaml -ms region_mask demo nnunet_ready
    """
    from gpuprep.dicom.synth import write_study
    from gpuprep.writers.atomic import of_the_job

    with of_the_job():
        write_study(output, patients=patients, with_seg=seg)
    click.echo(str(output))
    return ExitStatus.DONE
