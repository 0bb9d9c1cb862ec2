"""``gpuprep bench``."""

from __future__ import annotations

import click

from gpuprep.cli.lazy import LazyGroup

#: Command → where its function is.
BENCHMARKS = {
    "convert": "gpuprep.cli.bench_convert:convert",
    "read": "gpuprep.cli.bench_read:read",
}


@click.group(cls=LazyGroup, places=BENCHMARKS, short_help="Measure on your own data, on this machine.")
def bench() -> None:
    """Measure throughput on your own data, on this machine, and say under which conditions."""
