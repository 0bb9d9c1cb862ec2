"""Does gpuprep work on this GPU, and how fast? One command, under ten minutes, in a checkout; nothing is installed.

    python benchmarks/gpu_check.py                     # on a machine with a GPU
    python benchmarks/gpu_check.py --device host       # the same checks, host build against the plain reference

It needs NumPy and CuPy, and a C++ compiler and CMake where the host library is not built yet. What other packages are
missing for (pydicom for synthetic studies, isal for .nii.gz, DALI and imagecodecs, compute-sanitizer) is skipped, with
the reason in the result: ``benchmarks/results/gpu-check-<device>.json``. Studies made elsewhere, by ``gpuprep synth``,
serve without pydicom: ``--studies DIR``. The exit status is 1 when a check failed, 5 without a device.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent
sys.path.insert(0, str(HERE))
if find_spec("gpuprep") is None or (REPOSITORY / "gpuprep" / "_kernels").is_dir():  # built here, rather than installed
    sys.path.insert(0, str(REPOSITORY))

import numpy as np  # noqa: E402
from timing import describe_machine  # noqa: E402

from gpuprep import backends, hostlib  # noqa: E402
from gpuprep.config import Crop  # noqa: E402
from gpuprep.errors import BackendUnavailableError, ExitStatus, KernelError  # noqa: E402

#: Seconds for everything, and the least that a step with a time limit is worth beginning with.
BUDGET_S, LEAST_S = 570.0, 20.0
#: Shapes of the trials: a single voxel, tails on every axis, many blocks.
SHAPES = ((1, 1, 1), (3, 21, 131), (40, 97, 300))
SMALL_SHAPES = SHAPES[1:2]
SMALL_CT = (4, 64, 70)
#: How studies are converted: each kernel of the main path takes part. One grey level is 2 / WINDOW_WIDTH.
WINDOW_WIDTH = 400
CHOICES: dict[str, dict[str, Any]] = {
    "as acquired": {},
    "1 mm, window, RAS": {"spacing_xyz_mm": (1, 1, 1), "window_level": 40, "window_width": WINDOW_WIDTH,
                          "rescale_intensity": (-1, 1), "orientation": "RAS"},
    "foreground, 3 mm, antialiased": {"spacing_xyz_mm": (3, 3, 3), "antialias": True, "crop": Crop("foreground", 10)},
    "ROIs, cubic": {"spacing_xyz_mm": (2, 2, 0), "interpolation": "cubic", "crop": Crop("roi", 5)},
}  # fmt: skip
#: What we aim at on an H100: share of the copy rate of each kernel, time of the work on 512 × 512 × 300 voxels, and
#: time of a case on the device over that of its transfers.
AIM_SHARE, AIM_WORK, AIM_SECONDS = 0.70, "resample and window → 1 mm", 0.35e-3
AIM_TRANSFER_RATIO = 1.3
#: Exit status of compute-sanitizer when it found something.
_SANITIZER_STATUS = 9


class Skip(Exception):
    """A check cannot be made here; the message says why."""


@dataclass
class Check:
    """What came of one check: passed, failed or skipped, why, and what was found."""

    name: str
    status: str = "passed"
    reason: str = ""
    seconds: float = 0.0
    found: Any = None


@dataclass
class Run:
    """What the checks share: options, the backend to be checked, what it is held against, and the time left."""

    options: argparse.Namespace
    subject: Any = None
    oracle: Any = None
    checks: list[Check] = field(default_factory=list)
    started: float = field(default_factory=time.perf_counter)

    @property
    def on_gpu(self) -> bool:
        """Whether a CUDA device is checked, rather than the host build."""
        return self.options.device == "cuda"

    def seconds_left(self) -> float:
        """Return what is left of the budget; `Skip` when that is too little to begin with."""
        left = BUDGET_S - (time.perf_counter() - self.started)
        if left < LEAST_S:
            raise Skip(f"the {BUDGET_S:.0f} s of this script are over")
        return left

    def require(self) -> tuple[Any, Any]:
        """Return subject and oracle."""
        if self.subject is None:
            raise Skip("there is no backend to check")
        return self.subject, self.oracle


def check_host_library(run: Run) -> dict[str, str]:
    """Load the host library, which knows the parameters of every kernel; build it where it is missing."""
    try:
        return {"level": hostlib.load()[1], "built": "before"}
    except KernelError:
        pass
    missing = [tool for tool in ("cmake", "g++") if shutil.which(tool) is None]
    if missing:
        raise Skip(f"not built, and no {' and no '.join(missing)} to build it with: nothing can be launched")
    with tempfile.TemporaryDirectory() as build:
        for command in (
            ["cmake", "-S", str(REPOSITORY / "kernels" / "host"), "-B", build, "-DCMAKE_BUILD_TYPE=Release"],
            ["cmake", "--build", build, "-j"],
            ["cmake", "--install", build, "--prefix", str(REPOSITORY)],
        ):
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=run.seconds_left())
            if done.returncode:
                raise RuntimeError(f"{' '.join(command)}: {(done.stdout + done.stderr)[-2000:]}")
    return {"level": hostlib.load()[1], "built": "now"}


def check_probe(run: Run) -> dict[str, Any]:
    """Choose what is checked and what it is held against, and describe the device."""
    if not run.on_gpu:
        run.subject, run.oracle = backends.select("cpu"), backends.select("reference")
        return {"device": run.subject.device}
    backend = backends.select("cuda")
    run.subject, run.oracle = backend, backends.select("cpu")
    runtime = backend.xp.cuda.runtime
    properties = runtime.getDeviceProperties(backend.xp.cuda.Device().id)
    return {
        "device": backend.device,
        "compute_capability": f"{properties['major']}.{properties['minor']}",
        "memory_gb": round(properties["totalGlobalMem"] / 1e9, 1),
        "multiprocessors": properties["multiProcessorCount"],
        "l2_mb": round(properties["l2CacheSize"] / 1e6, 1),
        "driver_cuda": runtime.driverGetVersion(),
        "runtime_cuda": runtime.runtimeGetVersion(),
        "nvrtc": ".".join(map(str, backend.xp.cuda.nvrtc.getVersion())),
        "cupy": backend.xp.__version__,
        "oracle": run.oracle.device,
    }


def check_kernels(run: Run) -> dict[str, Any]:
    """Run every kernel on fresh random input; all bits must be those of the oracle."""
    from kernel_trials import compare

    from gpuprep.backends.signature import kernel_names

    subject, oracle = run.require()
    outcomes = list(compare(subject, oracle, SMALL_SHAPES if run.options.small else SHAPES, run.options.seed))
    launched = {kernel for outcome in outcomes for kernel in outcome.kernels}
    missing = sorted(set(kernel_names()) - launched)
    differing = [f"{o.trial} of {o.shape}: {o.difference}" for o in outcomes if o.difference]
    if missing or differing:
        raise AssertionError("; ".join([*differing[:20], *(f"{kernel} was never launched" for kernel in missing)]))
    return {"seed": run.options.seed, "trials": len(outcomes), "kernels": sorted(launched)}


def check_sanitizer(tool: str) -> Callable[[Run], dict[str, Any]]:
    """Return the check that runs every kernel under a tool of compute-sanitizer."""

    def check(run: Run) -> dict[str, Any]:
        run.require()
        if not run.on_gpu:
            raise Skip("needs a CUDA device")
        sanitizer = shutil.which("compute-sanitizer")
        if sanitizer is None:
            raise Skip("compute-sanitizer is not on PATH")
        command = [sanitizer, "--tool", tool, "--error-exitcode", str(_SANITIZER_STATUS), sys.executable, __file__]
        command += ["--device", "cuda", "--launch-only", "--seed", str(run.options.seed)]
        limit = run.seconds_left() / 3
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=limit)
        except subprocess.TimeoutExpired:
            raise Skip(f"took longer than {limit:.0f} s") from None
        summary = re.findall(r"ERROR SUMMARY: .*|RACECHECK SUMMARY: .*", done.stdout)
        if "Device not supported" in done.stdout:
            raise Skip("compute-sanitizer does not support this device or its virtualisation")
        if done.returncode:
            raise AssertionError((done.stdout + done.stderr)[-4000:])
        return {"summary": summary}

    return check


def launch_only(seed: int) -> None:
    """Launch every kernel of ours and as few others as can be, for compute-sanitizer."""
    from kernel_trials import list_trials

    backend = backends.select("cuda")
    backend.xp.cuda.set_allocator(None)  # each array its own allocation: the pool would hide a step beyond its end
    with backend.activate():
        for number, trial in enumerate(trial for trial in list_trials() if not trial.is_cupys):
            trial.run(backend, np.random.default_rng((seed, number)), SMALL_SHAPES[0])


class CollectingWriter:
    """Keeps what a case would write."""

    config = "collected"

    def __init__(self) -> None:
        self.images: list[np.ndarray[Any, Any]] = []
        self.masks: list[np.ndarray[Any, Any]] = []

    def write_image(self, case: str, channel: int, volume: Any) -> tuple[()]:
        """Keep the voxels."""
        self.images.append(np.array(volume.array))
        return ()

    def write_mask(self, case: str, mask: Any, record: dict[str, Any]) -> tuple[()]:
        """Keep codes and table."""
        self.masks += [np.array(mask.codes), np.array(mask.table)]
        return ()

    def discard(self, case: str) -> None:
        """Forget the case."""
        self.images.clear()
        self.masks.clear()


def check_pipeline(run: Run) -> dict[str, Any]:
    """Convert studies, from files to the arrays that would be written, under several options; on both backends."""
    from kernel_trials import describe_difference

    from gpuprep.config import OnMissing, RoiOptions, RoiStrategy, Stacking, Transforms
    from gpuprep.ops.resample import REFERENCE_TOLERANCE
    from gpuprep.run.case import CaseOptions
    from gpuprep.run.plan import CasePlan, StudyModalities, plan_study_cases
    from gpuprep.run.sources import open_sources

    subject, oracle = run.require()
    rois = RoiOptions((), strategy=RoiStrategy.SEPARATE, on_missing=OnMissing.IGNORE)
    compared = 0
    with studies(run) as folder:
        sources = open_sources([folder], index_path=None, workers=hostlib.usable_cores())
        for name, transforms in CHOICES.items():
            options = CaseOptions(Transforms(**transforms), Stacking(), rois)
            crops_to_rois = options.transforms.crop.to == "roi"
            plans = plan_study_cases(
                sources.series,
                sources.links,
                StudyModalities(("CT", "MR", "PT"), ("RTSTRUCT", "SEG")),
                stacking=options.stacking,
                images_with_masks=crops_to_rois,
                doses_on_images=False,
            )
            level = 2 / WINDOW_WIDTH if "rescale_intensity" in transforms else 0.0
            tolerance = 0.0 if oracle.has_kernels else REFERENCE_TOLERANCE + level
            for plan in plans:
                if not isinstance(plan, CasePlan):
                    continue
                run.seconds_left()
                found, expected = (convert(plan, options, backend) for backend in (subject, oracle))
                differences = [
                    *(
                        describe_difference(*pair, tolerance)
                        for pair in zip(found.images, expected.images, strict=True)
                    ),
                    *(describe_difference(*pair, 0.0) for pair in zip(found.masks, expected.masks, strict=True)),
                ]
                if any(differences):
                    raise AssertionError(f"{name}, {plan.case}: {next(filter(None, differences))}")
                compared += 1
    if compared == 0:
        raise Skip("the studies hold no case")
    return {"cases": compared, "options": list(CHOICES)}


def convert(plan: Any, options: Any, backend: Any) -> CollectingWriter:
    """Return what a case would write."""
    from gpuprep.run.case import process_case

    writer = CollectingWriter()
    row = process_case(plan, options, backend, writer, hostlib.usable_cores())
    if row.status != "done":
        raise AssertionError(f"{plan.case} on {backend.name}: {row.message} [{row.code}]")
    return writer


@contextmanager
def studies(run: Run) -> Iterator[Path]:
    """Give the folder of studies that was named, or synthetic ones for as long as they are needed."""
    if run.options.studies is not None:
        yield run.options.studies
        return
    with tempfile.TemporaryDirectory() as folder:
        try:
            from gpuprep.dicom.synth import write_study

            if run.options.small:
                write_study(Path(folder), slices=8, size=32, with_seg=True)
            else:
                write_study(Path(folder, "small"), patients=2, with_seg=True)
                write_study(Path(folder, "large"), slices=100, size=512, spacing_xyz_mm=(0.8, 0.8, 2.5), seed=1)
        except ImportError as error:
            raise Skip(f"no --studies were given, and synthetic ones cannot be written: {error}") from error
        yield Path(folder)


def check_rates(run: Run) -> dict[str, Any]:
    """Time the kernels and hold them against the copy rate of their memory."""
    from gpuprep.run.roofline import measure_copies, measure_kernels

    subject, _ = run.require()
    small = run.options.small
    with subject.activate():
        rates = measure_copies(subject, 1 << 20 if small else None)
        kernels = measure_kernels(subject, rates, SMALL_CT if small else None)
    below = [k.work for k in kernels if k.share < AIM_SHARE]
    aimed = next(k for k in kernels if k.work == AIM_WORK)
    return {
        "copy_bytes_per_s": asdict(rates),
        "kernels": [asdict(k) for k in kernels],
        "aims": {
            f"share of the copy rate at least {AIM_SHARE:.0%}": f"missed by {', '.join(below)}" if below else "met",
            f"{AIM_WORK} in {AIM_SECONDS * 1e3} ms": f"{aimed.seconds * 1e3:.3f} ms",
        },
    }


def check_decoders(run: Run) -> list[dict[str, Any]]:
    """Decode frames of each transfer syntax by DALI; what it is used for has to give the frames that were encoded."""
    try:
        from decode_matrix import compare_decoders

        from gpuprep.codecs.dali import Loader, find_loader
    except ImportError as error:
        raise Skip(f"needs another package: {error}") from error
    backend, _ = run.require()
    threads = hostlib.usable_cores()
    try:
        loader = find_loader(backend, threads) if run.on_gpu else Loader(None, backend.xp, threads)
    except BackendUnavailableError as error:
        raise Skip(str(error)) from error
    if isinstance(loader, str):
        raise Skip(loader)
    sizes = {"frames": 3, "size": 40} if run.options.small else {}
    try:
        with backend.activate():
            outcomes = list(compare_decoders(loader, backend, seed=run.options.seed, **sizes))
    except ImportError as error:
        raise Skip(f"nothing to encode frames with: {error}") from error
    differing = [f"{o.encoding}: {o.differing_frames} frames differ" for o in outcomes if o.differing_frames]
    if differing:
        raise AssertionError("; ".join(differing))
    return [asdict(outcome) for outcome in outcomes]


def check_end_to_end(run: Run) -> dict[str, Any]:
    """Convert studies to 1 mm as a job does, on the device and on the CPU, and measure jobs and stages.

    In a process that has not touched CUDA, as that of a job: it forks.
    """
    from gpuprep.config import OnMissing, Resources, RoiOptions, RoiStrategy, Stacking, Transforms
    from gpuprep.run.bench_convert import measure_conversions
    from gpuprep.run.case import CaseOptions
    from gpuprep.run.job import ignore
    from gpuprep.run.plan import StudyModalities

    run.require()
    if find_spec("isal") is None:
        raise Skip("isal, which compresses, is not installed")
    rois = RoiOptions((), strategy=RoiStrategy.SEPARATE, on_missing=OnMissing.IGNORE)
    with (
        studies(run) as folder,
        tempfile.TemporaryDirectory() as work,
        ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process,
    ):
        benchmark = process.submit(
            measure_conversions,
            [folder],
            wanted=StudyModalities(("CT", "MR", "PT"), ("RTSTRUCT", "SEG")),
            case_options=CaseOptions(Transforms((1, 1, 1)), Stacking(), rois),
            resources=Resources("auto" if run.on_gpu else "cpu"),
            stage_cases=4,
            work=Path(work),
            on_step=ignore,
            kernel_shape=SMALL_CT,
        ).result()
    failed = [message for one in benchmark.backends for message in one.job.failed]
    if failed:
        raise AssertionError("; ".join(failed[:5]))
    ratios = {one.backend: one.transfer_ratio for one in benchmark.backends if one.transfer_ratio is not None}
    aims = {f"device within {AIM_TRANSFER_RATIO} times its transfers": ratios}
    return asdict(benchmark) | {"aims": aims}


CHECKS: dict[str, Callable[[Run], Any]] = {
    "host library": check_host_library,
    "probe": check_probe,
    "kernels": check_kernels,
    "memcheck": check_sanitizer("memcheck"),
    "racecheck": check_sanitizer("racecheck"),
    "decoders": check_decoders,
    "pipeline": check_pipeline,
    "rates": check_rates,
    "end to end": check_end_to_end,
}


def make_checks(run: Run) -> Iterator[Check]:
    """Make all checks in turn; one that fails does not keep the others from being made."""
    for name, check in CHECKS.items():
        made = Check(name)
        start = time.perf_counter()
        try:
            run.seconds_left()
            made.found = check(run)
        except Skip as skip:
            made.status, made.reason = "skipped", str(skip)
        except BackendUnavailableError as error:
            made.status, made.reason = "failed", str(error)
        except Exception as error:  # whatever a check raises is its result
            made.status, made.reason = "failed", f"{type(error).__name__}: {error}"
            made.found = traceback.format_exc()
        made.seconds = round(time.perf_counter() - start, 3)
        yield made


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "host"], default="cuda", help="host: needs no GPU")
    parser.add_argument("--studies", type=Path, help="DICOM studies to convert; synthetic ones by default")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 2**32, help="of all random input; new every time")
    parser.add_argument("--small", action="store_true", help="small inputs, to try the script: the rates mean nothing")
    parser.add_argument("--output", type=Path, help="where the result goes, instead of benchmarks/results/")
    parser.add_argument("--launch-only", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.launch_only:
        launch_only(options.seed)
        return 0
    run = Run(options)
    result = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "arguments": {key: str(value) for key, value in vars(options).items()},
        "machine": describe_machine(),
    }
    for check in make_checks(run):
        run.checks.append(check)
        print(f"{check.status:8s} {check.seconds:7.1f} s  {check.name:14s} {check.reason[:2000]}", flush=True)
    if run.subject is None:
        print("nothing was checked; --device host needs no GPU")
        return ExitStatus.NO_BACKEND
    device = run.subject.device
    result |= {"device": device, "seconds": round(time.perf_counter() - run.started, 1)}
    result["checks"] = [asdict(check) for check in run.checks]
    slug = re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")
    path = options.output or HERE / "results" / f"gpu-check-{slug}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(path)
    return int(any(check.status == "failed" for check in run.checks))


if __name__ == "__main__":
    sys.exit(main())
