"""The TIFF job: every image file becomes one TIFF whose tags lead back to the source's coordinates."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from gpuprep.backends.base import Backend
from gpuprep.config import OnExisting, Resources, digest
from gpuprep.dicom.header import InstanceHeader
from gpuprep.dicom.index import Index
from gpuprep.errors import CaseError, HeaderError, OutputError
from gpuprep.run.job import Batching, Execution, open_job, run_plans
from gpuprep.run.ledger import CaseRow, FileProblem
from gpuprep.run.slots import BackendChoice, place, slot_backend
from gpuprep.run.stopwatch import Stopwatch
from gpuprep.run.tiff_image import Loaded, Made, load_image, make_where_it_fits, make_where_they_fit
from gpuprep.run.tiff_options import TiffOptions
from gpuprep.run.tiff_plan import ImagePlan, group_images, plan_images
from gpuprep.writers.atomic import remove_file
from gpuprep.writers.base import Output
from gpuprep.writers.tiff import write_tiff


@dataclass(frozen=True, slots=True)
class TiffWork:
    """What a worker does with a plan; picklable."""

    options: TiffOptions
    root: Path
    choice: BackendChoice

    def __call__(self, plan: ImagePlan) -> CaseRow:
        """Convert one file and return its row; a `CaseError` becomes a failed row and leaves no file."""
        clock, start = Stopwatch(), time.perf_counter()
        backend = slot_backend(self.choice)
        row = self._row(plan, backend, clock.seconds)
        try:
            loaded = load_image(plan.header, self.choice.threads, clock)
            row = self._write(plan, row, make_where_it_fits(loaded, self.options, backend, clock), backend, clock)
        except CaseError as error:
            row = self._fail(plan, row, error)
        return replace(row, seconds=round(time.perf_counter() - start, 6))

    def convert_together(self, plans: Sequence[ImagePlan]) -> list[CaseRow]:
        """Convert the images of a batch and return their rows; times are shared out evenly.

        The result of each is that of converting it alone. A file that cannot be read or written costs itself; when the
        backend refuses them all, they are converted one by one. What a device has no memory for is done in halves, what
        it has none for alone on the host, with a warning in its row.
        """
        if len(plans) == 1:
            return [self(plans[0])]
        clock, start = Stopwatch(), time.perf_counter()
        backend = slot_backend(self.choice)
        rows = {plan.case: self._row(plan, backend, {}) for plan in plans}
        loaded: dict[str, Loaded] = {}
        for plan in plans:
            try:
                image = load_image(plan.header, self.choice.threads, clock)
            except CaseError as error:
                rows[plan.case] = self._fail(plan, rows[plan.case], error)
                continue
            if self.options.window == "none" and image.display.modality_lut is not None:
                return [self(each) for each in plans]  # its values may have another type
            loaded[plan.case] = image
        try:
            images = make_where_they_fit(list(loaded.values()), self.options, backend, clock)
        except CaseError:
            return [self(plan) for plan in plans]
        made = dict(zip(loaded, images, strict=True))
        for plan in plans:
            if plan.case in made:
                try:
                    rows[plan.case] = self._write(plan, rows[plan.case], made[plan.case], backend, clock)
                except CaseError as error:
                    rows[plan.case] = self._fail(plan, rows[plan.case], error)
        share = {stage: seconds / len(plans) for stage, seconds in clock.seconds.items()}
        seconds = round((time.perf_counter() - start) / len(plans), 6)
        return [replace(row, timings=share, seconds=seconds) for row in rows.values()]

    def _row(self, plan: ImagePlan, backend: Backend, timings: dict[str, float]) -> CaseRow:
        return CaseRow(
            case=plan.case,
            key=plan.key,
            config=digest(self.options),
            patient=plan.patient,
            status="done",
            backend=_name(backend),
            input_bytes=plan.header.size,
            timings=timings,
        )

    def _write(self, plan: ImagePlan, row: CaseRow, made: Made, backend: Backend, clock: Stopwatch) -> CaseRow:
        image = made.image
        with clock.stage("write"):
            output = write_tiff(self.root / plan.path, image.frames, image.origin, self.options.style, root=self.root)
        details = {**image.origin.description, "backend_reason": backend.reason, "warnings": list(made.warnings)}
        if made.together > 1:
            details["batch"] = made.together
        return replace(row, backend=_name(made.backend), decoder=image.decoder, outputs=(output,), details=details)

    def _fail(self, plan: ImagePlan, row: CaseRow, error: CaseError) -> CaseRow:
        _discard(self.root / plan.path)
        return row.failed(error)


def _discard(path: Path) -> None:
    if path.is_file():  # what else has its name is not ours
        remove_file(path)


def _name(backend: Backend) -> str:
    return f"{backend.name} {backend.device}".strip()


def convert_one(
    source: InstanceHeader,
    path: Path,
    options: TiffOptions,
    resources: Resources,
    *,
    on_existing: OnExisting = OnExisting.OVERWRITE,
) -> Output:
    """Convert one file to a TIFF of the given name, in place of one that is there, unless `on_existing` is FAIL.

    Raises
    ------
    CaseError
        As `load_image`, `make_where_it_fits` and `write_tiff`.
    OutputError
        ``exists``.
    """
    if on_existing is OnExisting.FAIL and path.exists():
        raise OutputError("there is such a file already", code="exists", subject=str(path), hint="choose another name")
    placement = place(replace(resources, scheduler=""), 1)
    choice = replace(placement.choice, threads=resources.workers or placement.threads)
    os.environ.update(placement.environments[0])
    clock = Stopwatch()
    loaded = load_image(source, choice.threads, clock)
    image = make_where_it_fits(loaded, options, slot_backend(choice), clock).image
    return write_tiff(path, image.frames, image.origin, options.style, root=path.parent)


def convert_to_tiff(
    index: Index,
    root: Path,
    options: TiffOptions,
    *,
    execution: Execution,
    strict: bool,
) -> tuple[tuple[CaseRow, ...], tuple[FileProblem, ...]]:
    """Convert all images, resuming what an earlier run left; return rows and problems.

    Parameters
    ----------
    index : Index
        The files, from `read_sources`.
    root : Path
        The output folder.
    options : TiffOptions
        What is done to each image.
    execution : Execution
        How the job runs.
    strict : bool
        Stop at the first file that is no DICOM, or cannot be converted, with its `CaseError`.

    Raises
    ------
    CaseError
        When `strict`.
    ConfigError, OutputError
        Those of `open_job` and `run_plans`.
    """
    plans, problems = plan_images(index, options.layout)
    unreadable = next((p for p in problems if p.code not in ("duplicate-instance", "not-an-image")), None)
    if strict and unreadable is not None:
        raise HeaderError(unreadable.detail, code=unreadable.code, subject=unreadable.path, hint="leave out --strict")

    def pass_on(row: CaseRow) -> None:
        execution.on_row(row)
        if strict and row.status == "failed":
            raise CaseError(row.message, code=row.code, subject=row.subject or row.case, hint=row.hint)

    paths = {plan.case: root / plan.path for plan in plans if isinstance(plan, ImagePlan)}
    with open_job("tiff", root, plans, problems, execution.resources) as (ledger, placement):
        work = TiffWork(options, root, placement.choice)
        batching = Batching(partial(group_images, options=options), work.convert_together)
        run_plans(
            plans,
            work=work,
            batching=batching if placement.choice.name == "cuda" else None,
            config=digest(options),
            discard=lambda case: _discard(paths[case]) if case in paths else None,
            root=root,
            own_folders=[root],
            ledger=ledger,
            execution=replace(execution, on_row=pass_on),
            placement=placement,
        )
        rows = ledger.rows()
    planned = {p.case for p in plans}
    return tuple(row for case, row in rows.items() if case in planned), problems
