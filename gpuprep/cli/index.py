"""``gpuprep index`` and ``gpuprep show``."""

from __future__ import annotations

from pathlib import Path

import click

from gpuprep.cli import options
from gpuprep.errors import ExitStatus


@click.command(short_help="Read all headers below folders into a Parquet index.")
@click.argument("source", type=options.PATH, nargs=-1, required=True)
@click.option("-o", "--output", type=options.PATH, default="index.parquet", show_default=True, metavar="FILE.parquet",
              help="The index, made or brought up to date.")  # fmt: skip
@click.option("-j", "--workers", type=click.IntRange(min=1), metavar="N", help="Threads; all cores by default.")
def index(source: tuple[Path, ...], output: Path, workers: int | None) -> int:
    """Find DICOM by content below SOURCE and write one row an instance.

    An index that is there already is brought up to date: only new and changed files are read. The sources are never
    written to. `gpuprep show` prints the result; any Parquet tool can query it.

    \b
    gpuprep index /data/dicoms -o index.parquet
    """
    from gpuprep.hostlib import usable_cores
    from gpuprep.report.progress import count_files
    from gpuprep.run.sources import load_index

    with count_files() as on_progress:
        result = load_index(source, index_path=output, workers=workers or usable_cores(), on_progress=on_progress)
    click.echo(str(output))
    files = len(result.instances)
    click.echo(f"{files} file{'s' * (files != 1)}, {len(result.problems)} of them unusable", err=True)
    return ExitStatus.DONE if files else ExitStatus.NO_INPUT


@click.command(short_help="Print what an index holds: patients, studies, series, segmentations, problems.")
@click.argument("source", type=options.PATH, nargs=-1, required=True)
def show(source: tuple[Path, ...]) -> int:
    """Print the tree patient → study → series → segmentations of SOURCE, an index or folders that are read now.

    \b
    gpuprep show index.parquet
    gpuprep show /data/dicoms
    """
    from gpuprep.dicom.link import link
    from gpuprep.hostlib import usable_cores
    from gpuprep.report.progress import count_files
    from gpuprep.report.tree import format_tree
    from gpuprep.run.sources import load_index

    with count_files() as on_progress:
        result = load_index(source, index_path=None, workers=usable_cores(), on_progress=on_progress)
    click.echo(format_tree(result, link(result.series())))
    return ExitStatus.DONE if result.instances else ExitStatus.NO_INPUT
