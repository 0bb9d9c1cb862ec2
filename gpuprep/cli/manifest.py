"""``gpuprep manifest``."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from gpuprep.cli import options
from gpuprep.errors import ExitStatus


@click.command(short_help="Table of the images below a folder: UIDs, path, inode, size, frames.")
@click.argument("source", type=options.PATH)
@click.argument("output", type=options.PATH, required=False)
@click.option("-j", "--workers", type=click.IntRange(min=1), metavar="N", help="Threads; all cores by default.")
def manifest(source: Path, output: Path | None, workers: int | None) -> int:
    """Write one row for each TIFF or DICOM image below SOURCE to OUTPUT (.csv or .parquet), or as CSV to stdout.

    Rows are sorted by study, series and SOP Instance UID. These come from the file, else from its path:
    study/sop.tiff or study/series/sop.tiff. path is relative to SOURCE; reading in the order of inode is kind to disks.

    An image that cannot be read is a row with an error code, and exit status 4. Files that are neither TIFF nor DICOM,
    by content and by name, are counted and left out.

    \b
    gpuprep manifest /data/tiffs /data/tiffs.parquet
    gpuprep manifest /data/tiffs | sort -t, -k5n | cut -d, -f4      # paths in the order of inodes
    """
    from gpuprep.hostlib import usable_cores
    from gpuprep.report.progress import count_files
    from gpuprep.run.manifest import write_manifest

    with count_files() as on_progress:
        counts = write_manifest(
            source, output or sys.stdout, workers=workers or usable_cores(), on_progress=on_progress
        )
    if output is not None:
        click.echo(str(output))
    left_out = f", {counts.others} other files left out" if counts.others else ""
    click.echo(f"{counts.rows} images, {counts.errors} of them with an error{left_out}", err=True)
    return ExitStatus.CASES_FAILED if counts.errors else ExitStatus.DONE
