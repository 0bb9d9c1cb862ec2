"""What the benchmark of conversions prints, worked out by hand."""

from gpuprep.report.conversions import format_conversions
from gpuprep.run.bench_convert import BackendBenchmark, ConversionBenchmark, JobRate, StageRate
from gpuprep.run.roofline import CopyRates, KernelRate

JOB = JobRate(8.0, 4, ("a: gap", "b: gap", "c: gap", "d: gap"), 400_000_000, 100_000_000)
STAGES = (
    StageRate("parse", 0.005, 0),
    StageRate("upload", 0.01, 100_000_000),
    StageRate("ops", 0.025, 2_000_000_000),
    StageRate("download", 0.01, 50_000_000),
)
KERNELS = (KernelRate("window of a CT", ("window",), 0.002, 3_000_000_000, 0.75),)
CUDA = BackendBenchmark("cuda", "H100", JOB, 2, STAGES, CopyRates(2e12, 20e9, 10e9), KERNELS)


def test_rates_shares_and_times():
    benchmark = ConversionBenchmark((CUDA,), {"cpu": "not asked for"}, 7, 1_000_000_000)
    assert [" ".join(line.split()) for line in format_conversions(benchmark).splitlines()] == [
        "7 files, 1000 MB; a case is an image or a segmentation",
        "",
        "job device s cases cases/min MB/s in MB/s out",
        "cuda H100 8.00 4 30.0 50.0 12.5",
        "cpu: not measured: not asked for",
        *("cuda: failed: a: gap", "cuda: failed: b: gap", "cuda: failed: c: gap", "cuda: … and 1 more cases failed"),
        "",
        "cuda: stages of 2 cases, one after the other, each with all cores",
        "stage ms a case share MB a case MB/s",
        "parse 5.0 10%",
        "upload 10.0 20% 100.0 10000",
        "ops 25.0 50% 2000.0 80000",
        "download 10.0 20% 50.0 5000",
        "upload: 50% of the 20.0 GB/s that pinned memory copies",
        "download: 50% of the 10.0 GB/s that pinned memory copies",
        "upload, ops and download take 4.50 times what the copies alone would",
        "",
        "cuda: kernels; memory copies 2000.0 GB/s, read and written",
        "kernels ms MB GB/s of copy rate",
        "window of a CT 2.000 3000.0 1500.0 75%",
    ]
