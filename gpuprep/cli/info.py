"""``gpuprep info``."""

from __future__ import annotations

import click

from gpuprep.errors import ExitStatus


@click.command(short_help="Say what this machine offers: backends, decoders, versions, cores.")
def info() -> int:
    """Print backends (and why there is no GPU), decoders by transfer syntax and on the device, versions and cores.

    Attach the output to a bug report.
    """
    from gpuprep.report.machine import describe_machine

    click.echo(describe_machine())
    return ExitStatus.DONE
