"""What ``gpuprep bench convert`` prints, writes as JSON, and plots."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gpuprep.errors import ConfigError
from gpuprep.extras import load_extra
from gpuprep.report.machine import list_facts
from gpuprep.report.table import format_table
from gpuprep.run.bench_convert import STAGES, BackendBenchmark, ConversionBenchmark, JobRate
from gpuprep.run.roofline import KernelRate
from gpuprep.writers.atomic import write_bytes, write_text

#: What a plot can be written as, by suffix.
PLOT_FORMATS = (".png", ".svg", ".pdf")
#: Failed cases that are named.
_NAMED = 3

_HEAD_JOB = ("job", "device", "s", "cases", "cases/min", "MB/s in", "MB/s out")
_HEAD_STAGES = ("stage", "ms a case", "share", "MB a case", "MB/s")
_HEAD_KERNELS = ("kernels", "ms", "MB", "GB/s", "of copy rate")


def format_conversions(benchmark: ConversionBenchmark) -> str:
    """Return the tables of jobs, stages and kernels."""
    return "\n".join(_lines(benchmark))


def _lines(benchmark: ConversionBenchmark) -> Iterator[str]:
    yield f"{benchmark.files} files, {benchmark.input_bytes / 1e6:.0f} MB; a case is an image or a segmentation"
    yield ""
    yield format_table(_HEAD_JOB, map(_job_row, benchmark.backends))
    for name, reason in benchmark.missing.items():
        yield f"  {name}: not measured: {reason}"
    for one in benchmark.backends:
        failed = one.job.failed
        yield from (f"  {one.backend}: failed: {message}" for message in failed[:_NAMED])
        if len(failed) > _NAMED:
            yield f"  {one.backend}: … and {len(failed) - _NAMED} more cases failed"
    for one in benchmark.backends:
        if one.stages:
            yield ""
            yield f"{one.backend}: stages of {one.stage_cases} cases, one after the other, each with all cores"
            yield format_table(_HEAD_STAGES, _stage_rows(one))
            yield from _transfer_lines(one)
        yield ""
        yield f"{one.backend}: kernels; memory copies {one.copies.memory / 1e9:.1f} GB/s, read and written"
        yield format_table(_HEAD_KERNELS, map(_kernel_row, one.kernels))
        if any(rate.share > 1 for rate in one.kernels):
            yield "  over 100%: a copy also loads what it overwrites, as work in place or in caches does not"


def _per_minute(job: JobRate) -> float:
    return 60 * job.cases / job.seconds


def _job_row(one: BackendBenchmark) -> tuple[str, ...]:
    job = one.job
    rates = (job.input_bytes / job.seconds / 1e6, job.output_bytes / job.seconds / 1e6)
    counts = (f"{job.seconds:.2f}", str(job.cases), f"{_per_minute(job):.1f}")
    return (one.backend, one.device, *counts, *(f"{rate:.1f}" for rate in rates))


def _stage_rows(one: BackendBenchmark) -> Iterator[tuple[str, ...]]:
    total = sum(stage.seconds for stage in one.stages)
    for s in one.stages:
        rate = f"{s.bytes / s.seconds / 1e6:.0f}" if s.seconds and s.bytes else ""
        size = f"{s.bytes / 1e6:.1f}" if s.bytes else ""
        yield s.stage, f"{s.seconds * 1e3:.1f}", f"{s.seconds / total:.0%}", size, rate


def _transfer_lines(one: BackendBenchmark) -> Iterator[str]:
    if one.transfer_ratio is None or one.copies.upload is None or one.copies.download is None:
        return
    rates = {"upload": one.copies.upload, "download": one.copies.download}
    for stage in one.stages:
        if stage.stage in rates and stage.seconds:
            share = stage.bytes / stage.seconds / rates[stage.stage]
            yield f"  {stage.stage}: {share:.0%} of the {rates[stage.stage] / 1e9:.1f} GB/s that pinned memory copies"
    yield f"  upload, ops and download take {one.transfer_ratio:.2f} times what the copies alone would"


def _kernel_row(rate: KernelRate) -> tuple[str, ...]:
    numbers = (f"{rate.seconds * 1e3:.3f}", f"{rate.bytes / 1e6:.1f}", f"{rate.bytes / rate.seconds / 1e9:.1f}")
    return (rate.work, *numbers, f"{rate.share:.0%}")


def write_json(benchmark: ConversionBenchmark, path: Path) -> None:
    """Write all figures, in seconds and bytes, with the machine and the time.

    Raises
    ------
    OutputError
        As `write_bytes`.
    """
    content = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": list_facts(),
        **asdict(benchmark),
    }
    write_text(path, json.dumps(content, indent=1) + "\n")


def check_plot(path: Path) -> None:
    """Refuse a plot that could not be written, before anything is measured.

    Raises
    ------
    ConfigError
        ``bad-plot-format``; ``extra-missing``: there is no matplotlib.
    """
    if path.suffix.lower() not in PLOT_FORMATS:
        raise ConfigError(
            f"a plot cannot be written as {path.suffix or 'a file without suffix'}",
            code="bad-plot-format",
            subject=str(path),
            hint=f"end its name with one of: {', '.join(PLOT_FORMATS)}",
        )
    load_extra("matplotlib.figure", "plot")


def write_plot(benchmark: ConversionBenchmark, path: Path) -> None:
    """Draw time by stage, and kernels against the copy rate.

    Raises
    ------
    ConfigError
        As `check_plot`.
    OutputError
        As `write_bytes`.
    """
    check_plot(path)
    figure: Any = load_extra("matplotlib.figure", "plot").Figure(figsize=(12, 5), layout="constrained")
    stages, kernels = figure.subplots(1, 2)
    height = 0.8 / len(benchmark.backends)
    for number, one in enumerate(benchmark.backends):
        label = f"{one.backend}: {one.device}, {_per_minute(one.job):.1f} cases/min"
        shift = height * (number - (len(benchmark.backends) - 1) / 2)
        places = [i + shift for i in range(len(one.stages))]
        stages.barh(places, [s.seconds * 1e3 for s in one.stages], height, label=label)
        stages.set_yticks(range(len(STAGES)), STAGES)
        places = [i + shift for i in range(len(one.kernels))]
        kernels.barh(places, [100 * k.share for k in one.kernels], height)
        kernels.set_yticks(range(len(one.kernels)), [k.work for k in one.kernels])
    stages.set_xlabel("ms a case, each stage alone")
    stages.legend(loc="lower right", fontsize="small")
    kernels.axvline(100, color="black", linewidth=0.8)
    kernels.set_xlabel("% of the rate at which memory copies")
    for axes in (stages, kernels):
        axes.invert_yaxis()
    drawn = io.BytesIO()
    figure.savefig(drawn, format=path.suffix[1:].lower(), dpi=150)
    write_bytes(path, drawn.getvalue())
