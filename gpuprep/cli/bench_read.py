"""``gpuprep bench read``."""

from __future__ import annotations

from pathlib import Path

import click

from gpuprep.cli import options
from gpuprep.errors import ExitStatus


@click.command(short_help="Files/s of TIFFs in an order; sizes and decode times by compression.")
@click.argument("folder", metavar="DIR", type=options.PATH)
@click.option(
    "--order",
    type=click.Choice(["random", "sequential", "inode"]),
    default="random",
    show_default=True,
    help="Shuffled; by path; by inode number, which is often near the order on disk.",
)
@click.option(
    "--files", type=click.IntRange(min=1), metavar="N", help="The first N files in this order; all by default."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the shuffling and of the choice of frames.")
@click.option("--cold", "is_cold", is_flag=True, help="Have the system forget these files first.")
@click.option(
    "--compare",
    type=click.IntRange(min=0),
    default=0,
    metavar="N",
    help="Also write the first N frames with every compressor, in memory, and compare sizes and decode times.",
)
def read(folder: Path, order: str, files: int | None, seed: int, is_cold: bool, compare: int) -> int:
    """Read one random frame of each TIFF below DIR, one file after the other, and print what that took.

    Each file is read once, so a second run finds what fits in the page cache there: the report says how much of the
    bytes it held. Run it on more data than memory, or with --cold, to measure the storage.

    \b
    gpuprep bench read --order inode --cold /data/tiffs
    gpuprep bench read --files 20 --compare 20 /data/tiffs      # which compressor for this data?

    Exit status 4: some files could not be read.
    """
    from gpuprep.report.progress import count_files
    from gpuprep.report.reads import format_reads
    from gpuprep.run.bench_read import measure_reads

    with count_files() as on_progress:
        benchmark = measure_reads(
            folder,
            order,  # type: ignore[arg-type]
            files=files,
            seed=seed,
            is_cold=is_cold,
            compare=compare,
            on_progress=on_progress,
        )
    click.echo(format_reads(benchmark))
    return ExitStatus.CASES_FAILED if benchmark.failed else ExitStatus.DONE
