"""Throughput of conversions on this machine, and where the time goes.

Three things are measured for each backend: a whole job as users run it; the stages of some of its cases, one after the
other, so that each has the machine to itself; and the kernels against the rate at which memory copies.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np

from gpuprep.backends.metered import DOWNLOAD, UPLOAD, MeteredBackend, Tally
from gpuprep.config import MaskContainer, OnExisting, Resources
from gpuprep.dicom.crawl import FoundFile, crawl
from gpuprep.errors import BackendUnavailableError, InputNotFoundError
from gpuprep.hostlib import usable_cores
from gpuprep.masks import RoiMask
from gpuprep.run.case import CaseOptions, process_case
from gpuprep.run.job import Execution
from gpuprep.run.ledger import CaseRow
from gpuprep.run.local import Crash, map_isolated
from gpuprep.run.nifti import NiftiOptions, convert_to_nifti, name_files
from gpuprep.run.plan import CasePlan, StudyModalities, plan_study_cases
from gpuprep.run.roofline import CopyRates, KernelRate, Shape, measure_copies, measure_kernels
from gpuprep.run.slots import BackendChoice, place, slot_backend
from gpuprep.run.sources import Sources, open_sources
from gpuprep.volume import Volume
from gpuprep.writers.base import Output
from gpuprep.writers.block_gzip import write_gzip
from gpuprep.writers.nifti import IMAGE_LEVEL
from gpuprep.writers.paths import PathTemplate
from gpuprep.writers.record import CaseRecord
from gpuprep.writers.study import StudyWriter

Task = TypeVar("Task")
Result = TypeVar("Result")

#: In the order of the data's way; the first three are the same for every backend.
STAGES = ("read", "crawl", "parse", "decode", "upload", "ops", "download", "compress", "write")
#: What a case's clock counts that is work on voxels, with the transfers in between.
_CLOCK_OPS = ("rescale", "crop", "rasterize", "resample", "intensity")
_TEMPLATE = PathTemplate("{PatientID}/{CaseID}_{ImageID}.nii.gz")
#: Synthetic studies, when there is no other source: a chest CT and five ROIs each.
SYNTHETIC_SLICES, SYNTHETIC_SIZE, SYNTHETIC_SPACING_XYZ_MM = 100, 512, (0.8, 0.8, 2.5)
#: As many as cores, within these bounds.
SYNTHETIC_PATIENTS = (2, 8)
_READ_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class StageRate:
    """What a stage takes when it has the machine to itself.

    Parameters
    ----------
    stage : str
        One of `STAGES`. ``read``: bytes of files, for the first time; ``crawl``: finding files; ``parse``: headers,
        grouping, linking, structure sets; ``decode``: files, now in the page cache, to stored values, and where DALI is
        the loader, onto the device; ``upload``, ``download``: between host and device; ``ops``: everything on voxels;
        ``compress``: gzip of image voxels; ``write``: the rest of the writer: checksums, statistics, masks, files.
    seconds : float
        Mean a case.
    bytes : float
        Mean a case: of its files, up to ``decode``; transferred; given to kernels; of voxels; written.
    """

    stage: str
    seconds: float
    bytes: float


@dataclass(frozen=True, slots=True)
class JobRate:
    """A whole job, from sources that are open to the last file; the start of its workers included.

    Parameters
    ----------
    seconds : float
        Wall time.
    cases : int
        Those that were done: an image or a segmentation each.
    failed : tuple of str
        What became of the others.
    input_bytes, output_bytes : int
        Of the files of cases that were done; a file that several cases need counts once.
    """

    seconds: float
    cases: int
    failed: tuple[str, ...]
    input_bytes: int
    output_bytes: int


@dataclass(frozen=True, slots=True)
class BackendBenchmark:
    """What one backend attains.

    Parameters
    ----------
    backend, device : str
        What ran.
    job : JobRate
    stage_cases : int
        Cases that `stages` are means of; 0, and no stages, when no case was done.
    stages : tuple of StageRate
        In the order of `STAGES`.
    copies : CopyRates
    kernels : tuple of KernelRate
    """

    backend: str
    device: str
    job: JobRate
    stage_cases: int
    stages: tuple[StageRate, ...]
    copies: CopyRates
    kernels: tuple[KernelRate, ...]

    @property
    def transfer_ratio(self) -> float | None:
        """Time of a case on the device over that of its transfers at the copy rate; None when nothing is copied."""
        stages = {s.stage: s for s in self.stages}
        if not stages or not self.copies.upload or not self.copies.download:
            return None
        least = stages["upload"].bytes / self.copies.upload + stages["download"].bytes / self.copies.download
        return sum(stages[name].seconds for name in ("upload", "ops", "download")) / least


@dataclass(frozen=True, slots=True)
class ConversionBenchmark:
    """The backends that were measured; why others could not be, by name; the input files."""

    backends: tuple[BackendBenchmark, ...]
    missing: dict[str, str]
    files: int
    input_bytes: int


def write_synthetic_studies(folder: Path) -> None:
    """Write studies to measure on: CT of 512 × 512 × 100 with structure sets, as many as there are cores, 2 to 8."""
    from gpuprep.dicom.synth import write_study

    write_study(
        folder,
        patients=int(np.clip(usable_cores(), *SYNTHETIC_PATIENTS)),
        slices=SYNTHETIC_SLICES,
        size=SYNTHETIC_SIZE,
        spacing_xyz_mm=SYNTHETIC_SPACING_XYZ_MM,
    )


def measure_conversions(
    paths: Sequence[Path],
    *,
    wanted: StudyModalities,
    case_options: CaseOptions,
    resources: Resources,
    stage_cases: int,
    work: Path,
    on_step: Callable[[str], None],
    kernel_shape: Shape | None = None,
) -> ConversionBenchmark:
    """Convert studies to NIfTI, masks to ``.seg.nrrd``, and measure it.

    Parameters
    ----------
    paths : sequence of Path
        Folders and files. All are read once before the jobs, so that each finds in the page cache what fits there.
    wanted, case_options
        What is converted, and how.
    resources : Resources
        The backend ``auto`` measures the CPU, and CUDA where it works.
    stage_cases : int
        Cases whose stages are measured, at most; spread evenly over all.
    work : Path
        Folder for the outputs, without any.
    on_step : callable
        Told what is measured next.
    kernel_shape : (int, int, int), optional
        Of the CT that kernels are timed on; `roofline.CT_SHAPES` by default.

    Raises
    ------
    InputNotFoundError
        ``path-missing``, ``no-dicom-found``; ``nothing-to-convert``: no case of what is wanted.
    BackendUnavailableError
        The backend that was asked for cannot work here; ``benchmark-crashed``: a process that measured died.
    """
    on_step("files")
    files, crawl_s = _timed(lambda: [f for f in crawl(paths) if isinstance(f, FoundFile)])
    read_s = _timed(lambda: _read_all(files))[1]
    sources, open_s = _timed(lambda: open_sources(paths, index_path=None, workers=usable_cores()))
    nifti = NiftiOptions(wanted, _TEMPLATE, MaskContainer.SEG_NRRD)
    plans = _plan(sources, wanted, case_options)
    if not plans:
        raise InputNotFoundError(
            "there is no image of the modalities that are wanted",
            code="nothing-to-convert",
            subject=", ".join(map(str, paths)),
            hint="gpuprep show tells what is there, --modalities what is taken",
        )
    size = sum(file.size for file in files)
    taken = {"read": read_s, "crawl": crawl_s, "parse": max(0.0, open_s - crawl_s)}
    common = {stage: StageRate(stage, s / len(plans), size / len(plans)) for stage, s in taken.items()}
    measured: list[BackendBenchmark] = []
    missing: dict[str, str] = {}
    for name in ("cpu", "cuda") if resources.backend == "auto" else (resources.backend,):
        alone = replace(resources, backend=name, workers=1)
        try:
            (device,) = _run_alone(_describe, [name], alone)
        except BackendUnavailableError as error:
            if resources.backend != "auto":
                raise
            missing[name] = str(error)
            continue
        on_step(f"{name}: job")
        rows, seconds = _run_job(sources, nifti, case_options, replace(resources, backend=name), work / name)
        cases = {row.case for row in rows if row.status == "done"}
        done = [plan for plan in plans if plan.case in cases]
        job = _rate_job(rows, done, seconds)
        on_step(f"{name}: stages")
        chosen = _spread(done, stage_cases)
        stages = _measure_stages(chosen, nifti, case_options, alone, work / f"{name}-stages", common)
        on_step(f"{name}: kernels")
        ((copies, kernels),) = _run_alone(_measure_kernels, [kernel_shape], alone)
        measured.append(BackendBenchmark(name, device, job, len(chosen), stages, copies, kernels))
    return ConversionBenchmark(tuple(measured), missing, len(files), size)


def _timed(call: Callable[[], Result]) -> tuple[Result, float]:
    start = time.perf_counter()
    result = call()
    return result, time.perf_counter() - start


def _read_all(files: Iterable[FoundFile]) -> None:
    def read(file: FoundFile) -> None:
        buffer = bytearray(_READ_BYTES)
        with suppress(OSError), Path(file.path).open("rb", buffering=0) as stream:  # the job tells why not
            while stream.readinto(buffer):
                pass

    with ThreadPoolExecutor(usable_cores()) as pool:
        list(pool.map(read, files))


def _plan(sources: Sources, wanted: StudyModalities, options: CaseOptions) -> list[CasePlan]:
    plans = plan_study_cases(
        sources.series,
        sources.links,
        wanted,
        stacking=options.stacking,
        images_with_masks=options.transforms.crop.to == "roi",
        doses_on_images=False,
    )
    return [plan for plan in plans if isinstance(plan, CasePlan)]


def _spread(plans: Sequence[CasePlan], count: int) -> list[CasePlan]:
    """Return at most `count` plans at even distances, the first and the last one among them."""
    places = np.linspace(0, len(plans) - 1, min(count, len(plans))).round().astype(int)
    return [plans[place] for place in places]


def _run_alone(
    work: Callable[[BackendChoice, Task], Result], tasks: Sequence[Task], resources: Resources
) -> list[Result]:
    """Do tasks one after the other in one process, for this one must not touch CUDA."""
    placement = place(resources, 1)
    results = []
    for _, outcome in map_isolated(
        partial(work, placement.choice),
        tasks,
        workers=1,
        environments=placement.environments,
        start_by=placement.start_by,
    ):
        if isinstance(outcome, Crash):
            error = BackendUnavailableError(
                f"the process that measured {resources.backend} ended: {outcome.reason}",
                code="benchmark-crashed",
                hint="gpuprep info tells whether the backend works",
            )
            error.add_note(outcome.details)
            raise error
        results.append(outcome)
    return results


def _describe(choice: BackendChoice, name: str) -> str:
    return slot_backend(choice).device


def _measure_kernels(choice: BackendChoice, shape: Shape | None) -> tuple[CopyRates, tuple[KernelRate, ...]]:
    backend = slot_backend(choice)
    with backend.activate():
        copies = measure_copies(backend)
        return copies, tuple(measure_kernels(backend, copies, shape))


def _run_job(
    sources: Sources, nifti: NiftiOptions, options: CaseOptions, resources: Resources, root: Path
) -> tuple[tuple[CaseRow, ...], float]:
    result, seconds = _timed(
        lambda: convert_to_nifti(
            sources,
            root,
            case_options=options,
            options=nifti,
            execution=Execution(OnExisting.OVERWRITE, resources),
        )
    )
    return result.rows, seconds


def _rate_job(rows: Sequence[CaseRow], done: Sequence[CasePlan], seconds: float) -> JobRate:
    sizes = {file.path: file.size for plan in done for file in plan.files}
    return JobRate(
        seconds,
        len(done),
        tuple(f"{row.case}: {row.message} [{row.code}]" for row in rows if row.status != "done"),
        sum(sizes.values()),
        sum(output.size for row in rows if row.status == "done" for output in row.outputs),
    )


@dataclass(slots=True)
class _MeteredWriter:
    """Writes as another writer does, keeps the seconds, and compresses image voxels once more by itself."""

    writer: StudyWriter
    written: Tally = field(default_factory=Tally)
    compressed: Tally = field(default_factory=Tally)

    @property
    def config(self) -> str:
        """That of the writer."""
        return self.writer.config

    def write_image(self, case: str, channel: int, volume: Volume) -> Sequence[Output]:
        """Write an image, then compress its voxels into nothing."""
        outputs = self._write(lambda: self.writer.write_image(case, channel, volume))
        voxels = np.ascontiguousarray(volume.array).data.cast("B")
        self.compressed.add(_timed(lambda: _compress(voxels, self.writer.threads))[1], voxels.nbytes)
        return outputs

    def write_mask(self, case: str, mask: RoiMask, record: CaseRecord) -> Sequence[Output]:
        """Write a mask."""
        return self._write(lambda: self.writer.write_mask(case, mask, record))

    def discard(self, case: str) -> None:
        """Remove what was written of a case."""
        self.writer.discard(case)

    def _write(self, call: Callable[[], Sequence[Output]]) -> Sequence[Output]:
        outputs, seconds = _timed(call)
        self.written.add(seconds, sum(output.size for output in outputs))
        return outputs


def _compress(voxels: memoryview, threads: int) -> None:
    with Path(os.devnull).open("wb") as file:
        write_gzip(file, b"", voxels, level=IMAGE_LEVEL, threads=threads)


def _measure_case(
    options: CaseOptions, writer: StudyWriter, choice: BackendChoice, plan: CasePlan
) -> dict[str, tuple[float, int]]:
    """Return seconds and bytes of each stage of a case, and what its clock counts for ``parse``."""
    backend = MeteredBackend(slot_backend(choice))
    metered = _MeteredWriter(writer)
    row: CaseRow = process_case(plan, options, backend, metered, choice.threads)
    up, down = backend.transfers[UPLOAD], backend.transfers[DOWNLOAD]
    decode_s = row.timings.get("decode", 0.0)
    image_up_s = up.longest_s if decode_s else 0.0  # the image goes up as soon as it is decoded
    ops_s = sum(row.timings.get(stage, 0.0) for stage in _CLOCK_OPS) - (up.seconds - image_up_s) - down.seconds
    write_s = metered.written.seconds - metered.compressed.seconds
    return {
        "parse": (row.timings.get("headers", 0.0), 0),
        "decode": (max(0.0, decode_s - image_up_s), row.input_bytes if decode_s else 0),
        "upload": (up.seconds, up.bytes),
        "ops": (max(0.0, ops_s), sum(tally.bytes for tally in backend.kernels.values())),
        "download": (down.seconds, down.bytes),
        "compress": (metered.compressed.seconds, metered.compressed.bytes),
        "write": (max(0.0, write_s), metered.written.bytes),
    }


def _measure_stages(
    plans: Sequence[CasePlan],
    nifti: NiftiOptions,
    options: CaseOptions,
    resources: Resources,
    root: Path,
    common: dict[str, StageRate],
) -> tuple[StageRate, ...]:
    """Convert cases one after the other; the first one twice, to load what is loaded once."""
    if not plans:
        return ()
    images, masks = name_files(plans, nifti, options.stacking, {})
    writer = StudyWriter(
        root,
        images,
        masks,
        container=nifti.masks,
        layout=nifti.template.text,
        suffix=nifti.template.suffix,
        held={},
        threads=usable_cores(),
    )
    _, *cases = _run_alone(partial(_measure_case, options, writer), [plans[0], *plans], resources)
    rates = []
    for stage in STAGES:
        first = common.get(stage, StageRate(stage, 0.0, 0.0))
        seconds, size = np.mean([case.get(stage, (0.0, 0)) for case in cases], axis=0).tolist()
        rates.append(StageRate(stage, first.seconds + seconds, first.bytes + size))
    return tuple(rates)
