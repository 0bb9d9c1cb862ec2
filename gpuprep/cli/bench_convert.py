"""``gpuprep bench convert``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from gpuprep.cli import options
from gpuprep.config import MultipleSegmentations
from gpuprep.errors import ExitStatus


@click.command(short_help="Cases/min and MB/s of a conversion, stage by stage, CPU against GPU.")
@click.argument("source", type=options.PATH, nargs=-1)
@options.apply(
    click.option("-m", "--modalities", metavar="CT,RTSTRUCT,…", default="CT,MR,PT,RTSTRUCT,SEG", show_default=True,
                 help="What to convert."),
    click.option("--backend", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True,
                 help="auto: the CPU, and CUDA where it works."),
    options.device_option,
    click.option("-j", "--workers", type=click.IntRange(min=1), metavar="N", help="Cases at once, as for the jobs."),
    click.option("--stage-cases", type=click.IntRange(min=1), default=4, show_default=True, metavar="N",
                 help="Cases, spread over all, whose stages are measured one after the other."),
    click.option("--work", type=options.PATH, metavar="DIR",
                 help="Folder for synthetic input and for outputs, while this runs; a temporary one by default."),
    click.option("--json", "json_path", type=options.PATH, metavar="FILE",
                 help="Write all figures here, with the machine."),
    click.option("--plot", "plot_path", type=options.PATH, metavar="FILE.png",
                 help="Draw them (.png, .svg, .pdf); needs the extra plot."),
)  # fmt: skip
@options.transform_options
def convert(
    source: tuple[Path, ...],
    modalities: str,
    backend: str,
    devices: str,
    workers: int | None,
    stage_cases: int,
    work: Path | None,
    json_path: Path | None,
    plot_path: Path | None,
    on_irregular: str,
    spacing_tolerance: float,
    **transforms: Any,
) -> int:
    """Convert studies to NIfTI as a job does, measure it, and remove what was written.

    SOURCE are folders of studies; without any, synthetic ones are made: CT of 512 × 512 × 100 with five ROIs.

    Three tables: the whole job; its stages, each alone on the machine, so that they add up to more than the job takes;
    and the kernels as a share of the rate at which memory copies: the limit of what reads its input once and writes
    its output once. Files are read before the jobs, so that these find in the page cache what fits there: the stage
    "read" tells of the storage, the others do not.

    \b
    gpuprep bench convert --spacing 1,1,1
    gpuprep bench convert --backend cpu --json bench.json --plot bench.png /data/dicoms

    Exit status 4: some cases failed; rates are those of the others.
    """
    from tempfile import TemporaryDirectory

    from gpuprep.config import OnMissing, RoiOptions, RoiStrategy
    from gpuprep.report.conversions import check_plot, format_conversions, write_json, write_plot
    from gpuprep.run.bench_convert import measure_conversions, write_synthetic_studies
    from gpuprep.run.case import CaseOptions
    from gpuprep.run.plan import StudyModalities
    from gpuprep.writers.atomic import make_folder

    case_options = CaseOptions(
        options.parse_transforms(**transforms),
        options.parse_stacking(on_irregular, spacing_tolerance),
        RoiOptions((), strategy=RoiStrategy.SEPARATE, on_missing=OnMissing.WARN),
        MultipleSegmentations.ALL,
    )
    wanted, resources = StudyModalities.parse(modalities), options.parse_resources(backend, devices, workers)
    if plot_path is not None:
        check_plot(plot_path)
    if work is not None:
        make_folder(work)
    with TemporaryDirectory(dir=work, prefix="gpuprep-bench-") as folder:
        if not source:
            click.echo("synthetic studies …", err=True)
            write_synthetic_studies(Path(folder, "in"))
        benchmark = measure_conversions(
            source or (Path(folder, "in"),),
            wanted=wanted,
            case_options=case_options,
            resources=resources,
            stage_cases=stage_cases,
            work=Path(folder, "out"),
            on_step=lambda step: click.echo(f"{step} …", err=True),
        )
    click.echo(format_conversions(benchmark))
    if json_path is not None:
        write_json(benchmark, json_path)
    if plot_path is not None:
        write_plot(benchmark, plot_path)
    failed = any(one.job.failed for one in benchmark.backends)
    return ExitStatus.CASES_FAILED if failed else ExitStatus.DONE
