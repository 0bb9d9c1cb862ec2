"""The `gpuprep` command.

Only click is imported here; a command imports what it needs when it runs, so that ``gpuprep --help`` and
``gpuprep --version`` answer at once.
"""

from __future__ import annotations

import errno
import gc
import io
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import click

from gpuprep._version import __version__
from gpuprep.cli.lazy import LazyGroup
from gpuprep.errors import ExitStatus, GpuprepError

#: Objects made between two searches for garbage: imports make many that stay.
GARBAGE_THRESHOLD = 200_000
#: Exit status of a program that SIGPIPE ends, as shells tell it.
_READER_GONE = 128 + 13
#: Command → where its function is.
COMMANDS = {
    "nnunet": "gpuprep.cli.nnunet:nnunet",
    "supervisely": "gpuprep.cli.supervisely:supervisely",
    "supervisely-annotations": "gpuprep.cli.supervisely:supervisely_annotations",
    "medsegpy": "gpuprep.cli.medsegpy:medsegpy",
    "nifti": "gpuprep.cli.nifti:nifti",
    "masks": "gpuprep.cli.masks:masks",
    "tiff": "gpuprep.cli.tiff:tiff",
    "traces": "gpuprep.cli.traces:traces",
    "manifest": "gpuprep.cli.manifest:manifest",
    "index": "gpuprep.cli.index:index",
    "show": "gpuprep.cli.index:show",
    "synth": "gpuprep.cli.synth:synth",
    "bench": "gpuprep.cli.bench:bench",
    "info": "gpuprep.cli.info:info",
}


@click.command(
    cls=LazyGroup,
    places=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(__version__, prog_name="gpuprep")
def cli() -> None:
    """Turn folders of clinical DICOM into training data, on the GPU or the CPU.

    \b
    gpuprep nnunet --modalities CT,RTSTRUCT --roi-match-yaml rois.yaml /data/dicoms /data/nnunet_ready
    gpuprep index /data/dicoms -o index.parquet && gpuprep show index.parquet

    \b
    Exit status: 0 all done, 1 a bug in gpuprep, 2 wrong option or configuration, 3 no input,
    4 some cases failed (see the report), 5 no backend, 6 output not writable, 130 interrupted.
    """


def main() -> NoReturn:
    """Run the command line and leave with its exit status, at once: to take the interpreter down costs 40 ms."""
    # NumPy's BLAS would start a thread a core, which spin for work; the matrices here are 4 × 4.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    gc.set_threshold(GARBAGE_THRESHOLD)
    _open_closed_streams()
    _print_anything()
    status = run()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()
    os._exit(status)


def _open_closed_streams() -> None:
    """Let streams that were closed lead nowhere, or files of a job would get their numbers and what is printed."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115 - open to the end


def _print_anything() -> None:
    """Have stdout take names of files that are no text, as they are, and arrows where its encoding has none."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape" if sys.stdout.encoding == "utf-8" else "backslashreplace")


def run() -> int:
    """Run the command line; errors become a message and a hint. Return the exit status."""
    try:
        status: int | None = cli.main(prog_name="gpuprep", standalone_mode=False)
        sys.stdout.flush()
    except GpuprepError as error:
        click.echo(f"error: {error}", err=True)
        if error.hint:
            click.echo(f"\nhint: {error.hint}", err=True)
        return error.exit_status
    except click.ClickException as error:
        error.show()
        return ExitStatus.CONFIG
    except (click.Abort, KeyboardInterrupt):
        click.echo("\ninterrupted; what is finished is kept, run the same command again to go on", err=True)
        return ExitStatus.INTERRUPTED
    except SystemExit:  # how click ends when nobody reads stdout any more, as in ``| head``
        return _READER_GONE
    except OSError as error:
        if error.errno == errno.EPIPE:
            return _READER_GONE
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        with suppress(OSError):  # where that is stderr itself
            click.echo(f"error: cannot print: {error.strerror} [disk-full]\n\nhint: make room and run again", err=True)
        return ExitStatus.OUTPUT
    return status or ExitStatus.DONE
