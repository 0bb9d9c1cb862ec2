"""``gpuprep traces``."""

from __future__ import annotations

from pathlib import Path

import click

from gpuprep.cli import options
from gpuprep.errors import ExitStatus

#: UIDs named in the message about images without a TIFF.
_NAMED = 3


@click.command(short_help="Boxes on source images → boxes on the TIFFs of gpuprep tiff.")
@click.argument("source", type=options.PATH)
@click.argument("traces", type=options.PATH)
@click.argument("output", type=options.PATH)
def traces(source: Path, traces: Path, output: Path) -> int:
    """Map the boxes in TRACES to the TIFFs below SOURCE, or to this one, and write them to OUTPUT.

    The name of a TIFF is its SOP Instance UID, as gpuprep tiff names the files of a folder.

    TRACES and OUTPUT are tables, .csv or .parquet, with the columns sop_instance_uid, x_min, x_max, y_min and y_max;
    others are carried along as they stand. Boxes are edges in continuous pixels: pixel (0, 0) covers 0 to 1. They are
    cut to the picture; boxes that lie outside the crop are dropped. Exit status 4: images of some boxes have no TIFF.

    \b
    gpuprep traces /data/tiffs boxes.csv mapped.csv
    """
    from gpuprep.run.traces import map_traces

    counts = map_traces(source, traces, output)
    click.echo(str(output))
    click.echo(f"{counts.mapped} boxes mapped, {counts.outside} empty or outside the picture dropped", err=True)
    if counts.missing:
        named = ", ".join(counts.missing[:_NAMED])
        click.echo(f"boxes of {len(counts.missing)} images without a TIFF dropped, e.g. of {named}", err=True)
        return ExitStatus.CASES_FAILED
    return ExitStatus.DONE
