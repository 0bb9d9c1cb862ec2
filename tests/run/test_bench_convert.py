"""Throughput of conversions: what is counted, what cannot be measured, and what is printed."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import fake_cuda
import pytest
from click.testing import CliRunner

from gpuprep.backends import select
from gpuprep.cli.bench_convert import convert
from gpuprep.config import MaskContainer, OnMissing, Resources, RoiOptions, RoiStrategy, Stacking, Transforms
from gpuprep.dicom.synth import write_study
from gpuprep.errors import BackendUnavailableError, ConfigError, ExitStatus, InputNotFoundError, OutputError
from gpuprep.hostlib import usable_cores
from gpuprep.report.conversions import check_plot, format_conversions, write_json, write_plot
from gpuprep.run import bench_convert, roofline
from gpuprep.run.bench_convert import (
    STAGES,
    BackendBenchmark,
    ConversionBenchmark,
    JobRate,
    StageRate,
    measure_conversions,
    write_synthetic_studies,
)
from gpuprep.run.case import CaseOptions
from gpuprep.run.nifti import NiftiOptions, name_files
from gpuprep.run.plan import StudyModalities
from gpuprep.run.roofline import CopyRates, KernelRate
from gpuprep.run.slots import BackendChoice
from gpuprep.run.sources import open_sources
from gpuprep.writers.nifti import read_nifti
from gpuprep.writers.study import StudyWriter

VOXELS = 24 * 64 * 64
WANTED = StudyModalities(("CT",), ("RTSTRUCT",))
OPTIONS = CaseOptions(
    Transforms(), Stacking(), RoiOptions((), strategy=RoiStrategy.SEPARATE, on_missing=OnMissing.WARN)
)


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    folder = tmp_path_factory.mktemp("studies")
    write_study(folder, patients=2)
    return folder


@pytest.fixture
def small_kernels(monkeypatch):
    """Let kernels be measured on little, also in the processes that are forked for it."""
    monkeypatch.setitem(roofline.CT_SHAPES, "cpu", (4, 64, 70))
    monkeypatch.setitem(roofline.COPY_BYTES, "cpu", 1 << 16)


def measure(studies, work, wanted=WANTED, backend="cpu"):
    return measure_conversions(
        [studies],
        wanted=wanted,
        case_options=OPTIONS,
        resources=Resources(backend, workers=2),
        stage_cases=4,
        work=work,
        on_step=lambda step: None,
    )


def bytes_of(benchmark):
    return {stage.stage: stage.bytes for stage in benchmark.stages}


def test_counts_are_those_of_the_files(studies, tmp_path, small_kernels):
    benchmark = measure(studies, tmp_path / "out")
    (one,) = benchmark.backends
    files = [p for p in studies.rglob("*") if p.is_file()]
    assert (benchmark.files, benchmark.input_bytes) == (len(files), sum(p.stat().st_size for p in files))
    assert benchmark.missing == {}
    assert (one.backend, one.job.cases, one.job.failed, one.stage_cases) == ("cpu", 4, (), 4)
    outputs = [p for p in (tmp_path / "out" / "cpu").rglob("*") if p.name.endswith((".nii.gz", ".seg.nrrd"))]
    assert len(outputs) == 4
    assert one.job.output_bytes == sum(p.stat().st_size for p in outputs)
    assert [stage.stage for stage in one.stages] == list(STAGES)
    counted = bytes_of(one)
    assert counted["read"] == counted["crawl"] == counted["parse"] == benchmark.input_bytes / 4
    slices, others = ([p.stat().st_size for p in studies.rglob(name)] for name in ("IM*.dcm", "RS.dcm"))
    assert one.job.input_bytes == sum(slices) + sum(others)
    assert counted["decode"] == sum(slices) / 4
    assert counted["compress"] == 2 * 2 * VOXELS / 4  # two images of int16, and two masks
    assert counted["write"] == one.job.output_bytes / 4
    assert counted["upload"] == counted["download"] == 0
    assert counted["ops"] > 2 * VOXELS / 2
    assert all(stage.seconds > 0 for stage in one.stages if stage.stage not in ("upload", "download", "write", "parse"))
    assert one.transfer_ratio is None


def test_a_case_that_fails_costs_itself(studies, tmp_path, small_kernels):
    (broken,) = (p for p in sorted(studies.rglob("IM0012.dcm")) if "SYNTH-002" in str(p))
    content = broken.read_bytes()
    broken.unlink()
    try:
        done = CliRunner().invoke(convert, ["--backend", "cpu", "--work", str(tmp_path), str(studies)],
                                  standalone_mode=False)  # fmt: skip
    finally:
        broken.write_bytes(content)
    assert done.return_value == ExitStatus.CASES_FAILED
    assert "[missing-slice]" in done.output
    assert "cpu: stages of 2 cases" in done.output
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform != "linux", reason="needs a file that opens and cannot be read")
def test_a_file_that_cannot_be_read_is_left_to_the_job(studies, tmp_path, small_kernels):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "studies").symlink_to(studies)
    (tmp_path / "in" / "unreadable").symlink_to("/proc/self/mem")
    assert measure(tmp_path / "in", tmp_path / "out").backends[0].job.cases == 4


def test_the_device_is_one_trip_up_and_one_down(studies, tmp_path, monkeypatch):
    device = fake_cuda.install(monkeypatch)
    monkeypatch.setattr(device.cupy.cuda, "Event", lambda **timing: fake_cuda.Event(device))
    monkeypatch.setattr(device.cupy.cuda, "get_elapsed_time", lambda begin, end: 1.0, raising=False)
    backend = select("cuda")
    monkeypatch.setattr(bench_convert, "slot_backend", lambda choice: backend)
    plans = bench_convert._plan(open_sources([studies], index_path=None, workers=1), WANTED, OPTIONS)
    nifti = NiftiOptions(WANTED, bench_convert._TEMPLATE, MaskContainer.SEG_NRRD)
    images, masks = name_files(plans, nifti, OPTIONS.stacking, {})
    writer = StudyWriter(
        tmp_path, images, masks, container=nifti.masks, layout="", suffix=".nii.gz", held={}, threads=1
    )
    image = next(plan for plan in plans if plan.writes_images)
    counted = bench_convert._measure_case(OPTIONS, writer, BackendChoice("cuda", 1), image)
    (path,) = tmp_path.rglob("*.nii.gz")
    assert read_nifti(path).array.shape == (24, 64, 64)
    tables = 1000  # bytes, at most
    assert 2 * VOXELS <= counted["upload"][1] <= 2 * VOXELS + tables
    assert 2 * VOXELS <= counted["download"][1] <= 2 * VOXELS + tables
    assert counted["ops"][0] > 0
    assert counted["decode"][0] > 0
    assert counted["compress"][1] == 2 * VOXELS


def test_a_backend_that_is_missing_is_named_or_refused(studies, tmp_path, small_kernels):
    try:
        select("cuda")
    except BackendUnavailableError as error:
        code = error.code
    else:
        pytest.skip("there is a device")
    benchmark = measure(studies, tmp_path / "auto", backend="auto")
    assert [one.backend for one in benchmark.backends] == ["cpu"]
    assert f"[{code}]" in benchmark.missing["cuda"]
    assert f"cuda: not measured: {benchmark.missing['cuda']}" in format_conversions(benchmark)
    with pytest.raises(BackendUnavailableError) as caught:
        measure(studies, tmp_path / "cuda", backend="cuda")
    assert caught.value.code == code


def test_refuses_sources_without_what_is_wanted(studies, tmp_path):
    with pytest.raises(InputNotFoundError) as caught:
        measure(studies, tmp_path, wanted=StudyModalities(("MR",)))
    assert caught.value.code == "nothing-to-convert"


def test_work_goes_to_a_folder_that_can_be_made(studies, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError) as caught:
        CliRunner().invoke(convert, ["--work", str(tmp_path / "file" / "x"), str(studies)],
                           standalone_mode=False, catch_exceptions=False)  # fmt: skip
    assert caught.value.code == "not-writable"


def test_stage_cases_are_spread_over_all():
    assert bench_convert._spread("abcdefg", 3) == ["a", "d", "g"]
    assert bench_convert._spread("ab", 4) == ["a", "b"]
    assert bench_convert._spread("", 4) == []


def _die(choice, task):
    os._exit(3)


def test_a_process_that_dies_is_an_error_not_a_figure():
    with pytest.raises(BackendUnavailableError) as caught:
        bench_convert._run_alone(_die, ["x"], Resources("cpu", workers=1))
    assert caught.value.code == "benchmark-crashed"


def test_synthetic_studies_are_made_where_there_is_no_source(tmp_path, monkeypatch):
    for name, value in {"SYNTHETIC_SLICES": 5, "SYNTHETIC_SIZE": 16, "SYNTHETIC_PATIENTS": (3, 3)}.items():
        monkeypatch.setattr(bench_convert, name, value)
    write_synthetic_studies(tmp_path)
    assert len(list(tmp_path.glob("SYNTH-*/CT/*.dcm"))) == 3 * 5


GPU = BackendBenchmark(
    backend="cuda",
    device="a device",
    job=JobRate(2.0, 3, ("x: no [a]", "y: no [b]", "z: no [c]", "w: no [d]"), 60_000_000, 30_000_000),
    stage_cases=3,
    stages=tuple(
        StageRate(stage, seconds, size)
        for stage, seconds, size in (
            ("read", 0.1, 20e6), ("crawl", 0.0, 0.0), ("parse", 0.01, 20e6), ("decode", 0.02, 20e6),
            ("upload", 0.002, 20e6), ("ops", 0.001, 80e6), ("download", 0.004, 40e6), ("compress", 0.2, 40e6),
            ("write", 0.063, 10e6),
        )
    ),
    copies=CopyRates(3e12, 20e9, 25e9),
    kernels=(KernelRate("window", ("window_i16_f32",), 1e-4, 240_000_000, 0.8),),
)  # fmt: skip
BENCHMARK = ConversionBenchmark((GPU,), {}, 7, 61_000_000)


def test_tables_by_hand():
    text = format_conversions(BENCHMARK)
    rows = [line.split() for line in text.splitlines()]
    assert "7 files, 61 MB; a case is an image or a segmentation" in text
    assert ["cuda", "a", "device", "2.00", "3", "90.0", "30.0", "15.0"] in rows
    assert ["compress", "200.0", "50%", "40.0", "200"] in rows
    assert ["crawl", "0.0", "0%"] in rows
    assert ["window", "0.100", "240.0", "2400.0", "80%"] in rows
    assert "upload: 50% of the 20.0 GB/s that pinned memory copies" in text
    assert "download: 40% of the 25.0 GB/s" in text
    # 20 MB at 20 GB/s and 40 MB at 25 GB/s are 2.6 ms; 7 ms were taken
    assert "upload, ops and download take 2.69 times what the copies alone would" in text
    assert text.count("failed: ") == 3
    assert "… and 1 more cases failed" in text


def test_a_share_over_all_is_explained():
    fast = replace(GPU, backend="cpu", kernels=(replace(GPU.kernels[0], share=1.16),))
    assert "over 100%" in format_conversions(replace(BENCHMARK, backends=(fast,)))
    assert "over 100%" not in format_conversions(BENCHMARK)


def test_json_has_all_figures_and_the_machine(tmp_path):
    write_json(BENCHMARK, tmp_path / "b.json")
    content = json.loads((tmp_path / "b.json").read_text())
    assert content["machine"]["cores"] == str(usable_cores())
    (one,) = content["backends"]
    assert one["kernels"][0]["share"] == 0.8
    assert [stage["stage"] for stage in one["stages"]] == list(STAGES)


@pytest.mark.parametrize(("name", "begins"), [("a.png", b"\x89PNG"), ("a.svg", b"<?xml"), ("a.PDF", b"%PDF")])
def test_plots(tmp_path, name, begins):
    pytest.importorskip("matplotlib", reason="needs matplotlib")
    both = replace(BENCHMARK, backends=(replace(GPU, backend="cpu", stages=(), stage_cases=0), GPU))
    write_plot(both, tmp_path / name)
    assert (tmp_path / name).read_bytes().startswith(begins)


def test_plots_that_cannot_be_written_are_refused_before_anything_is_measured(tmp_path, monkeypatch, gpuprep):
    with pytest.raises(ConfigError) as caught:
        check_plot(Path("plot.bmp"))
    assert caught.value.code == "bad-plot-format"
    result = gpuprep("bench", "convert", "--plot", tmp_path / "plot.bmp")
    assert result.status == ExitStatus.CONFIG
    assert "synthetic" not in result.stderr
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ConfigError) as caught:
        check_plot(Path("plot.png"))
    assert caught.value.code == "extra-missing"
    assert "gpuprep[plot]" in caught.value.hint


def test_shares_of_nothing_are_not_printed():
    text = format_conversions(replace(BENCHMARK, backends=(replace(GPU, stages=(), stage_cases=0),)))
    assert "stages of" not in text
    assert "window" in text
