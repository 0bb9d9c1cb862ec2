"""Does gpuprep work on this GPU, and how fast? One command, under ten minutes, in a checkout; nothing is installed.

    python benchmarks/gpu_check.py                     # on a machine with a GPU
    python benchmarks/gpu_check.py --device host       # the same checks, host build against the plain reference

It needs NumPy and CuPy, and a C++ compiler and CMake where the host library is not built yet. What other packages are
missing for (pydicom for synthetic studies, isal for .nii.gz, DALI and imagecodecs, compute-sanitizer) is skipped, with
the reason in the result: ``benchmarks/results/gpu-check-<device>.json``, written anew after each check. Studies made
elsewhere, by ``gpuprep synth``, serve without pydicom: ``--studies DIR``. The exit status is 1 when a check failed, 5
without a device.

Each check has a process of its own and a time limit, for a device that fails or hangs does no more work for a process.
"""

from __future__ import annotations

import argparse
import faulthandler
import gzip
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache, partial
from importlib.util import find_spec
from itertools import product
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent
sys.path.insert(0, str(HERE))
if find_spec("gpuprep") is None or (REPOSITORY / "gpuprep" / "_kernels").is_dir():  # built here, rather than installed
    sys.path.insert(0, str(REPOSITORY))

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as the command has it: this process forks

import numpy as np  # noqa: E402
from timing import describe_machine  # noqa: E402

from gpuprep import backends, hostlib  # noqa: E402
from gpuprep.backends.base import Backend  # noqa: E402
from gpuprep.config import Crop  # noqa: E402
from gpuprep.errors import BackendUnavailableError, DeviceLostError, ExitStatus, KernelError  # noqa: E402

#: Seconds for everything, and the least that a step is worth beginning with.
BUDGET_S, LEAST_S = 560.0, 15.0
#: Seconds that a trial may take: it imports CuPy and compiles kernels, where it is the first.
TRIAL_S = 90.0
#: Seconds beyond its time that a check has to end, and seconds to write where it was if it does not.
GRACE_S, TRACE_S = 5.0, 1.0
#: Has a check's process write where it is.
_TRACE_SIGNAL = signal.SIGUSR1
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
#: Where the CUDA toolkit has its programs by default.
_CUDA_BIN = "/usr/local/cuda/bin"
#: Suffixes of files that end in a gzip stream.
_GZIP = frozenset({".gz", ".nrrd"})


class Skip(Exception):
    """A check cannot be made here; the message says why."""


class Failure(Exception):
    """A check found something wrong: in short, and all of it."""

    def __init__(self, message: str, found: Any) -> None:
        super().__init__(message)
        self.found = found


@dataclass
class Check:
    """What came of one check: passed, failed or skipped, why, and what was found."""

    name: str
    status: str = "passed"
    reason: str = ""
    seconds: float = 0.0
    found: Any = None


@dataclass(frozen=True)
class Run:
    """What the checks share: options, a folder that is removed at the end, and when the time is over.

    `ends` is on the clock of `time.perf_counter`, which the processes of a machine share.
    """

    options: argparse.Namespace
    folder: Path
    ends: float

    @property
    def on_gpu(self) -> bool:
        """Whether a CUDA device is checked, rather than the host build."""
        return self.options.device == "cuda"

    @property
    def seconds_left(self) -> float:
        """Seconds that are left."""
        return self.ends - time.perf_counter()

    @property
    def is_over(self) -> bool:
        """Whether too little time is left to begin with anything."""
        return self.seconds_left < LEAST_S

    def select(self) -> tuple[Backend, Backend]:
        """Return the backend to be checked, and what it is held against; the same ones in a process."""
        return _select(self.options.device)


@lru_cache(maxsize=1)
def _select(device: str) -> tuple[Backend, Backend]:
    subject, oracle = ("cuda", "cpu") if device == "cuda" else ("cpu", "reference")
    return backends.select(subject), backends.select(oracle)


def run_command(command: Sequence[str], limit_s: float) -> tuple[int, str]:
    """Return exit status and output of a command; one that takes too long is ended, with all that it began."""
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", start_new_session=True
    )
    try:
        output, _ = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        raise Failure(f"{command[0]} took longer than {limit_s:.0f} s", output[-4000:].splitlines()) from None
    return process.returncode, output


def check_host_library(run: Run) -> dict[str, str]:
    """Load the host library, which knows the parameters of every kernel; build it where it is missing or old."""
    built = "before"
    if not _is_built():
        built = "now"
        missing = [tool for tool in ("cmake", "g++") if shutil.which(tool) is None]
        if missing:
            raise Skip(f"not built, and no {' and no '.join(missing)} to build it with: nothing can be launched")
        with tempfile.TemporaryDirectory() as build:
            for command in (
                ["cmake", "-S", str(REPOSITORY / "kernels" / "host"), "-B", build, "-DCMAKE_BUILD_TYPE=Release"],
                ["cmake", "--build", build, "-j", str(hostlib.usable_cores())],
                ["cmake", "--install", build, "--prefix", str(REPOSITORY)],
            ):
                status, output = run_command(command, run.seconds_left)
                if status:
                    raise Failure(" ".join(command), output[-4000:].splitlines())
    return {"level": hostlib.load()[1], "built": built}


def _is_built() -> bool:
    """Whether the kernels that are used are those of this checkout, and the library beside them can be loaded."""
    kernels = {path.name: path.read_bytes() for path in (REPOSITORY / "kernels").glob("*.cu*")}
    if {path.name: path.read_bytes() for path in hostlib.KERNEL_DIR.glob("*.cu*")} != kernels:
        if REPOSITORY not in hostlib.KERNEL_DIR.parents:
            raise RuntimeError(f"the kernels in {hostlib.KERNEL_DIR}, where gpuprep is installed, are others than here")
        return False
    try:
        hostlib.load()
    except (KernelError, OSError):
        return False
    return True


def check_probe(run: Run) -> dict[str, Any]:
    """Choose what is checked and what it is held against, and describe the device."""
    subject, oracle = run.select()
    if not run.on_gpu:
        return {"device": subject.device}
    cuda: Any = subject.xp.cuda
    properties = cuda.runtime.getDeviceProperties(cuda.Device().id)
    return {
        "device": subject.device,
        "compute_capability": f"{properties['major']}.{properties['minor']}",
        "memory_gb": round(properties["totalGlobalMem"] / 1e9, 1),
        "multiprocessors": properties["multiProcessorCount"],
        "l2_mb": round(properties["l2CacheSize"] / 1e6, 1),
        "driver_cuda": cuda.runtime.driverGetVersion(),
        "runtime_cuda": cuda.runtime.runtimeGetVersion(),
        "nvrtc": ".".join(map(str, cuda.nvrtc.getVersion())),
        "cupy": subject.xp.__version__,
        "numpy": np.__version__,
        "oracle": oracle.device,
    }


def check_transfers(run: Run) -> dict[str, Any]:
    """Send bytes up and down each way there is: at once, from and to pinned memory, and in pieces."""
    from gpuprep.backends.staging import BUFFER_BYTES, PAGEABLE_BYTES, PINNED_BYTES

    subject, _ = run.select()
    sizes = [1, PAGEABLE_BYTES, PAGEABLE_BYTES + 1, 3 * BUFFER_BYTES - 1]
    if not run.options.small:
        sizes.append(PINNED_BYTES + 5)
    random = np.random.default_rng(run.options.seed)
    differing = []
    for size in sizes:
        sent = random.integers(0, 256, size, np.uint8)
        pinned = subject.host_array((size,), np.uint8)
        pinned[...] = sent
        with subject.activate():
            there = [subject.upload(array) for array in (sent, pinned)]
            for name, array in zip(("pageable", "pinned"), there, strict=True):
                wrong = np.flatnonzero(np.asarray(subject.download(array)) != sent)
                if len(wrong):
                    differing.append(f"{len(wrong)} of {size} bytes of {name} memory, from {wrong[0]} to {wrong[-1]}")
    if differing:
        raise Failure(differing[0], differing)
    return {"sizes": sizes}


def check_kernels(run: Run) -> dict[str, Any]:
    """Run every kernel on fresh random input; all bits must be those of the oracle.

    Trials have a process of their own; one that the device fails in, or hangs, costs a new one.
    """
    from kernel_trials import Outcome, list_trials

    from gpuprep.backends.signature import kernel_names
    from gpuprep.run.local import Crash, map_isolated

    trials = list_trials()
    tasks = list(product(SMALL_SHAPES if run.options.small else SHAPES, range(len(trials))))
    outcomes: list[Outcome] = []
    with closing(map_isolated(partial(make_trial, run), tasks, workers=1)) as made:
        for (shape, number), outcome in made:
            if isinstance(outcome, Crash):
                where = "\n".join((outcome.reason, *_read(_trial_trace(run)), outcome.details))
                outcome = Outcome(trials[number].name, shape, (), where)
            outcomes.append(outcome)
            if run.is_over:
                break
    launched = {kernel for outcome in outcomes for kernel in outcome.kernels}
    missing = sorted(set(kernel_names()) - launched)
    different = [asdict(outcome) for outcome in outcomes if outcome.difference]
    found = {
        "seed": run.options.seed,
        "trials": len(outcomes),
        "trials_left_out": len(tasks) - len(outcomes),
        "kernels": sorted(launched),
        "never_launched": missing,
        "different": different,
    }
    if missing or different or found["trials_left_out"]:
        names = sorted({f"{one['trial']} of {one['shape']}" for one in different})
        raise Failure(
            f"{len(different)} of {len(outcomes)} trials differ, {found['trials_left_out']} were left out, "
            f"{len(missing)} kernels were never launched: {', '.join(names)}",
            found,
        )
    return found


@contextmanager
def ending_after(seconds: float, trace: Path) -> Iterator[None]:
    """End the process when the block takes longer; where it was is written to a file.

    It must not have been forked from within such a block: the clock's lock would be held for ever.
    """
    with trace.open("w") as file:
        faulthandler.dump_traceback_later(seconds, exit=True, file=file)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()


def make_trial(run: Run, task: tuple[tuple[int, int, int], int]) -> Any:
    """Return the outcome of a trial, told by shape and number; in a process of its own."""
    from kernel_trials import compare, list_trials

    shape, number = task
    with ending_after(TRIAL_S, _trial_trace(run)):
        try:
            return compare(list_trials()[number], *run.select(), shape, (run.options.seed, number))
        except DeviceLostError:
            _trial_trace(run).write_text(traceback.format_exc())
            raise


def _trial_trace(run: Run) -> Path:
    return run.folder / "trial.txt"


def check_sanitizer(tool: str) -> Callable[[Run], dict[str, Any]]:
    """Return the check that runs every kernel under a tool of compute-sanitizer."""

    def check(run: Run) -> dict[str, Any]:
        if not run.on_gpu:
            raise Skip("needs a CUDA device")
        sanitizer = shutil.which("compute-sanitizer", path=f"{os.environ['PATH']}{os.pathsep}{_CUDA_BIN}")
        if sanitizer is None:
            raise Skip(f"compute-sanitizer is neither on PATH nor in {_CUDA_BIN}")
        command = [sanitizer, "--tool", tool, "--error-exitcode", str(_SANITIZER_STATUS)]
        if tool == "memcheck":  # calls of CUDA that fail end the launches anyway, but for questions to the driver
            command += ["--report-api-errors", "no"]
        command += [sys.executable, __file__, "--launch-only", "--seed", str(run.options.seed)]
        status, output = run_command(command, run.seconds_left)
        if "Device not supported" in output:
            raise Skip("compute-sanitizer does not support this device or its virtualisation")
        found = {
            "summary": re.findall(r"ERROR SUMMARY: .*|RACECHECK SUMMARY: .*", output),
            "launched": len(re.findall(r"^launched ", output, re.MULTILINE)),
        }
        if status:
            lines = output.splitlines()
            what = "found something" if status == _SANITIZER_STATUS else f"ended with status {status}"
            raise Failure(f"{tool} {what}", found | {"first": lines[:100], "last": lines[-50:]})
        return found

    return check


def launch_only(seed: int) -> int:
    """Launch every kernel of ours and as few others as can be, for compute-sanitizer; return the exit status."""
    from kernel_trials import list_trials

    backend = backends.select("cuda")
    xp: Any = backend.xp
    xp.cuda.set_allocator(None)  # each array its own allocation: the pool would hide a step beyond its end
    status = 0
    for number, trial in enumerate(list_trials()):
        if trial.is_cupys:
            continue
        try:
            with backend.activate():
                trial.run(backend, np.random.default_rng((seed, number)), SMALL_SHAPES[0])
        except DeviceLostError:
            raise
        except Exception:  # one kernel that fails must not keep the others from being launched
            traceback.print_exc()
            status = 1
        print(f"launched {trial.name}", flush=True)
    return status


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

    subject, oracle = run.select()
    rois = RoiOptions((), strategy=RoiStrategy.SEPARATE, on_missing=OnMissing.IGNORE)
    compared = left_out = 0
    is_lost = False
    sources = open_sources([studies(run)], index_path=None, workers=hostlib.usable_cores())
    different: list[str] = []
    for name, transforms in CHOICES.items():
        options = CaseOptions(Transforms(**transforms), Stacking(), rois)
        plans = plan_study_cases(
            sources.series,
            sources.links,
            StudyModalities(("CT", "MR", "PT"), ("RTSTRUCT", "SEG")),
            stacking=options.stacking,
            images_with_masks=options.transforms.crop.to == "roi",
            doses_on_images=False,
        )
        level = 2 / WINDOW_WIDTH if "rescale_intensity" in transforms else 0.0
        tolerance = 0.0 if oracle.has_kernels else REFERENCE_TOLERANCE + level
        for plan in plans:
            if not isinstance(plan, CasePlan):
                continue
            if run.is_over or is_lost:
                left_out += 1
                continue
            compared += 1
            try:
                found, expected = (convert(plan, options, backend) for backend in (subject, oracle))
                pairs = [
                    *((*pair, tolerance) for pair in zip(found.images, expected.images, strict=True)),
                    *((*pair, 0.0) for pair in zip(found.masks, expected.masks, strict=True)),
                ]
                said = next(filter(None, (describe_difference(*pair) for pair in pairs)), "")
            except Exception as error:  # one case that fails must not keep the others from being checked
                said = traceback.format_exc()
                is_lost = isinstance(error, DeviceLostError)
            if said:
                different.append(f"{name}, {plan.case}: {said}")
    if compared == left_out == 0:
        raise Skip("the studies hold no case")
    result = {"cases": compared, "cases_left_out": left_out, "options": list(CHOICES), "different": different}
    if different or left_out:
        raise Failure(f"{len(different)} of {compared} cases differ, {left_out} were left out", result)
    return result


def convert(plan: Any, options: Any, backend: Any) -> CollectingWriter:
    """Return what a case would write."""
    from gpuprep.run.case import process_case

    writer = CollectingWriter()
    row = process_case(plan, options, backend, writer, hostlib.usable_cores())
    if row.status != "done":
        raise AssertionError(f"{plan.case} on {backend.name}: {row.message} [{row.code}]")
    return writer


def studies(run: Run) -> Path:
    """Return the folder of studies that was named, or of synthetic ones, made where they are first needed."""
    if run.options.studies is not None:
        return Path(run.options.studies)
    folder, unfinished = run.folder / "studies", run.folder / "studies.part"
    if not folder.exists():
        shutil.rmtree(unfinished, ignore_errors=True)
        try:
            from gpuprep.dicom.synth import write_study

            if run.options.small:
                write_study(unfinished, slices=8, size=32, with_seg=True)
            else:
                write_study(unfinished / "small", patients=2, with_seg=True)
                patients, spacing_xyz_mm = (3 if run.on_gpu else 1), (0.8, 0.8, 2.5)  # the plain reference is slow
                write_study(
                    unfinished / "large", patients=patients, slices=100, size=512, spacing_xyz_mm=spacing_xyz_mm, seed=1
                )
        except ImportError as error:
            raise Skip(f"no --studies were given, and synthetic ones cannot be written: {error}") from error
        unfinished.rename(folder)
    return folder


def check_rates(run: Run) -> dict[str, Any]:
    """Time the kernels and hold them against the copy rate of their memory."""
    from gpuprep.run.roofline import measure_copies, measure_kernels

    subject, _ = run.select()
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
    backend, _ = run.select()
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
    found = [asdict(outcome) for outcome in outcomes]
    if differing:
        raise Failure("; ".join(differing), found)
    return found


def check_end_to_end(run: Run) -> dict[str, Any]:
    """Convert studies to 1 mm as a job does, on the device and on the CPU, and measure jobs and stages.

    Jobs of a device have cases in several slots at once: their files have to hold what those of the CPU do.
    """
    from gpuprep.config import OnMissing, Resources, RoiOptions, RoiStrategy, Stacking, Transforms
    from gpuprep.run.bench_convert import measure_conversions
    from gpuprep.run.case import CaseOptions
    from gpuprep.run.job import ignore
    from gpuprep.run.plan import StudyModalities

    if find_spec("isal") is None:
        raise Skip("isal, which compresses, is not installed")
    folder, work = studies(run), run.folder / "end to end"
    rois = RoiOptions((), strategy=RoiStrategy.SEPARATE, on_missing=OnMissing.IGNORE)
    benchmark = measure_conversions(
        [folder],
        wanted=StudyModalities(("CT", "MR", "PT"), ("RTSTRUCT", "SEG")),
        case_options=CaseOptions(Transforms((1, 1, 1)), Stacking(), rois),
        resources=Resources("auto" if run.on_gpu else "cpu"),
        stage_cases=4,
        work=work,
        on_step=ignore,
        kernel_shape=SMALL_CT,
    )
    ratios = {one.backend: one.transfer_ratio for one in benchmark.backends if one.transfer_ratio is not None}
    wrong = [message for one in benchmark.backends for message in one.job.failed]
    if run.on_gpu:
        wrong += [f"{name} was not measured: {why}" for name, why in benchmark.missing.items()]
    if not wrong and len(benchmark.backends) == 2:
        wrong = list(compare_files(*(work / one.backend for one in benchmark.backends)))
    found = asdict(benchmark) | {
        "aims": {f"device within {AIM_TRANSFER_RATIO} times its transfers": ratios},
        "wrong": wrong,
    }
    if wrong:
        raise Failure(wrong[0], found)
    return found


def compare_files(one: Path, other: Path) -> Iterator[str]:
    """Say which images and masks of two jobs do not hold the same, whatever way they are compressed."""
    names = {path.relative_to(folder) for folder in (one, other) for path in folder.rglob("*") if path.suffix in _GZIP}
    if not names:
        yield "there are no files to compare"
    for name in sorted(names):
        if not all((folder / name).exists() for folder in (one, other)):
            yield f"{name} was written by one job alone"
        elif _content(one / name) != _content(other / name):
            yield f"{name} differs"


def _content(path: Path) -> bytes:
    head, stream = b"", path.read_bytes()
    if path.suffix == ".nrrd":  # the header ends with an empty line
        head, stream = stream.split(b"\n\n", 1)
    return head + gzip.decompress(stream)


@dataclass(frozen=True)
class Step:
    """A check, and the seconds that it may take."""

    check: Callable[[Run], Any]
    limit_s: float


CHECKS = {
    "host library": Step(check_host_library, 240),
    "probe": Step(check_probe, 120),
    "transfers": Step(check_transfers, 60),
    "kernels": Step(check_kernels, 240),
    "rates": Step(check_rates, 90),
    "pipeline": Step(check_pipeline, 240),
    "end to end": Step(check_end_to_end, 150),
    "decoders": Step(check_decoders, 90),
    "memcheck": Step(check_sanitizer("memcheck"), 180),
    "racecheck": Step(check_sanitizer("racecheck"), 120),
}


def make_check(run: Run, name: str) -> Check:
    """Make a check in this process."""
    made = Check(name)
    start = time.perf_counter()
    try:
        made.found = CHECKS[name].check(run)
    except Skip as skip:
        made.status, made.reason = "skipped", str(skip)
    except Failure as failure:
        made.status, made.reason, made.found = "failed", str(failure), failure.found
    except Exception as error:  # whatever a check raises is its result
        made.status, made.reason = "failed", f"{type(error).__name__}: {error}"
        made.found = traceback.format_exc().splitlines()
    made.seconds = round(time.perf_counter() - start, 3)
    return made


def make_check_apart(run: Run, name: str) -> Check:
    """Make a check in a process of its own, forked from this one, which has not touched CUDA."""
    start = time.perf_counter()
    run = replace(run, ends=min(run.ends, start + CHECKS[name].limit_s))
    if run.is_over:
        return Check(name, "skipped", f"the {BUDGET_S:.0f} s of this script are over")
    fork = get_context("fork")
    ours, theirs = fork.Pipe(duplex=False)
    process = fork.Process(target=_send_check, args=(theirs, run, name))
    process.start()
    theirs.close()
    reason = "its process ended"
    try:
        if ours.poll(run.seconds_left + GRACE_S):
            return Check(**ours.recv())
        reason = "took too long"
        os.kill(process.pid, _TRACE_SIGNAL)
        time.sleep(TRACE_S)
    except EOFError:
        process.join(GRACE_S)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # and what it has begun
        process.join(GRACE_S)
    seconds = round(time.perf_counter() - start, 3)
    return Check(name, "failed", f"{reason}, status {process.exitcode}", seconds, _read(_check_trace(run)))


def _send_check(pipe: Connection[dict[str, Any], None], run: Run, name: str) -> None:
    os.setsid()
    with _check_trace(run).open("w") as trace:
        faulthandler.register(_TRACE_SIGNAL, file=trace)
        pipe.send(asdict(make_check(run, name)))


def _check_trace(run: Run) -> Path:
    return run.folder / "check.txt"


def _read(path: Path) -> list[str]:
    return path.read_text(errors="replace").splitlines()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "host"], default="cuda", help="host: needs no GPU")
    parser.add_argument("--studies", type=Path, help="DICOM studies to convert; synthetic ones by default")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 2**32, help="of all random input; new every time")
    parser.add_argument("--small", action="store_true", help="small inputs, to try the script: the rates mean nothing")
    parser.add_argument("--only", nargs="+", choices=list(CHECKS), metavar="CHECK", help="these and the probe")
    parser.add_argument("--output", type=Path, help="where the result goes, instead of benchmarks/results/")
    parser.add_argument("--launch-only", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.launch_only:
        return launch_only(options.seed)
    start = time.perf_counter()
    result = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "arguments": {key: str(value) for key, value in vars(options).items()},
        "machine": describe_machine(),
    }
    checks: list[Check] = []
    path = Path()
    with tempfile.TemporaryDirectory() as folder:
        run = Run(options, Path(folder), start + BUDGET_S)
        for name in CHECKS:
            if options.only and name not in {"host library", "probe", *options.only}:
                continue
            check = make_check_apart(run, name)
            checks.append(check)
            print(f"{check.status:8s} {check.seconds:7.1f} s  {check.name:14s} {check.reason[:2000]}", flush=True)
            if name == "probe":
                if check.status != "passed":
                    print("nothing was checked; --device host needs no GPU", *(check.found or ()), sep="\n")
                    return ExitStatus.NO_BACKEND
                device = check.found["device"]
                result["device"] = device
                slug = re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")
                path = options.output or HERE / "results" / f"gpu-check-{slug}.json"
                path.parent.mkdir(parents=True, exist_ok=True)
            if "device" in result:  # after each check: whoever ends the script keeps what there is
                result |= {"seconds": round(time.perf_counter() - start, 1), "checks": [asdict(c) for c in checks]}
                path.write_text(json.dumps(result, indent=1, default=str) + "\n", encoding="utf-8")
    print(path)
    return int(any(check.status == "failed" for check in checks))


if __name__ == "__main__":
    sys.exit(main())
