"""The TIFF job: every image file becomes one TIFF whose tags lead back to the source's coordinates."""

from __future__ import annotations

import os
import re
import time
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from gpuprep.backends.base import Backend
from gpuprep.config import OnExisting, Resources, digest
from gpuprep.dicom.display import BREAST_TOMOSYNTHESIS_UID
from gpuprep.dicom.header import InstanceHeader, read_headers
from gpuprep.dicom.index import Index, build_index
from gpuprep.errors import CaseError, ConfigError, HeaderError, InputNotFoundError, LinkError, OutputError
from gpuprep.run.case import Stopwatch
from gpuprep.run.job import Batching, Execution, run_plans
from gpuprep.run.ledger import CaseRow, FileProblem, Ledger
from gpuprep.run.plan import FailedPlan
from gpuprep.run.slots import BackendChoice, place, slot_backend
from gpuprep.run.tiff_image import Loaded, Made, load_image, make_where_it_fits, make_where_they_fit
from gpuprep.run.tiff_options import Layout, TiffOptions
from gpuprep.writers.base import Output
from gpuprep.writers.names import safe_name, text_digest
from gpuprep.writers.tiff import write_tiff

#: Images up to this size are small: their kernels take hardly longer than their starts.
SMALL_IMAGE_PIXELS = 1 << 22
#: Pixels that go to the backend together at most; a batch takes some six times as many bytes there.
BATCH_PIXELS = 1 << 25
_UID = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,127}")
#: Error codes of files that are no images to convert, rather than images that cannot be.
_NO_DICOM = ("not-dicom", "empty-file", "dicomdir")


@dataclass(frozen=True, slots=True)
class ImagePlan:
    """One file to convert; `path` is where its TIFF goes, relative to the output folder."""

    case: str
    patient: str
    header: InstanceHeader
    path: str
    key: str

    @property
    def subject(self) -> str:
        """What messages name: the file."""
        return self.header.path


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
            config=config_of(self.options),
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
        (self.root / plan.path).unlink(missing_ok=True)
        return row.failed(error)


def _name(backend: Backend) -> str:
    return f"{backend.name} {backend.device}".strip()


def config_of(options: TiffOptions) -> str:
    """Return the digest of the options."""
    return digest(options)


# From sources to plans


def read_sources(source: Path, *, workers: int) -> Index:
    """Read the headers below a folder, of one file, or of the files that a text file lists.

    A listed path that is not there is a row with an error.

    Raises
    ------
    InputNotFoundError
        ``path-missing``; ``no-dicom-found``: no file is DICOM.
    ConfigError
        ``bad-list``: the text file is not UTF-8.
    """
    paths = [source]
    if source.suffix.lower() == ".txt" and source.is_file():
        paths = [Path(line) for line in _read_lines(source) if line]
    is_list = paths != [source]
    lost = [path for path in paths if not path.exists()] if is_list else []
    index = build_index([path for path in paths if path not in set(lost)], workers=workers)
    index = Index((*index.instances, *read_headers([str(path) for path in lost])))
    if all(row.error_code in _NO_DICOM for row in index.instances):
        raise InputNotFoundError(
            f"none of {len(index.instances)} files is DICOM", code="no-dicom-found", subject=str(source)
        )
    return index


def _read_lines(source: Path) -> list[str]:
    try:
        text = source.read_text(encoding="utf-8-sig")  # editors on Windows put a mark before UTF-8
    except UnicodeDecodeError as error:
        raise ConfigError(
            "a list of paths has to be text in UTF-8", code="bad-list", subject=str(source), hint="one path a line"
        ) from error
    return [line.strip() for line in text.splitlines()]


def _is_usable(row: InstanceHeader) -> bool:
    return row.error_code in ("", "no-series-uid")


def _broken(index: Index) -> list[InstanceHeader]:
    """Return the files that cannot be read, or whose DICOM header is broken."""
    return [row for row in index.problems if not _is_usable(row) and row.error_code not in _NO_DICOM]


def _header_error(row: InstanceHeader) -> HeaderError:
    return HeaderError(row.error_detail, code=row.error_code, subject=row.path)


def only_image(index: Index, output: Path) -> InstanceHeader:
    """Return the one image of an index, to become a single TIFF.

    Raises
    ------
    ConfigError
        ``bad-output``: there are several, or none.
    HeaderError
        There is none, but a broken file: what is wrong with it.
    """
    images = [row for row in index.instances if _is_usable(row) and row.rows]
    broken = _broken(index)
    if not images and broken:
        raise _header_error(broken[0])
    if len(images) != 1:
        raise ConfigError(
            f"{len(images)} images cannot become one TIFF",
            code="bad-output",
            subject=str(output),
            hint="name a folder",
        )
    return images[0]


def plan_images(index: Index, layout: Layout) -> tuple[list[ImagePlan | FailedPlan], tuple[FileProblem, ...]]:
    """Make a plan for each image file; return them, by case, with the files that are no image.

    Further copies of an instance are left out. Different files that say to be the same instance are failed plans, as
    are files that cannot be read, or whose DICOM header is broken.
    """
    copies = {copy.path for series in index.series() for copy in series.copies}
    rows = [row for row in index.instances if _is_usable(row) and row.path not in copies]
    images = [row for row in rows if row.rows]
    problems = [FileProblem(r.path, r.error_code, r.error_detail) for r in index.problems if r.error_code in _NO_DICOM]
    problems += [FileProblem(path, "duplicate-instance", "a further copy of an instance") for path in sorted(copies)]
    problems += [
        FileProblem(row.path, "not-an-image", f"modality {row.modality or 'unknown'} without rows and columns")
        for row in rows
        if not row.rows
    ]
    same = Counter(row.sop_instance_uid for row in images if row.sop_instance_uid)
    plans: list[ImagePlan | FailedPlan] = [_unnamed(row, _header_error(row)) for row in _broken(index)]
    for row in images:
        try:
            name = name_output(row, layout)
        except HeaderError as error:
            plans.append(_unnamed(row, error))
            continue
        if same[row.sop_instance_uid] > 1:
            conflict = LinkError(
                f"{same[row.sop_instance_uid]} different files have the SOP Instance UID {row.sop_instance_uid}",
                code="conflicting-instances",
                subject=row.path,
                hint="convert the file that is meant on its own",
            )
            plans.append(FailedPlan(f"{name}_{text_digest(row.path)}", _patient(row), conflict))
            continue
        plans.append(_plan(row, name, f"{name}.tiff"))
    return sorted(plans, key=lambda plan: plan.case), tuple(problems)


def _plan(row: InstanceHeader, case: str, path: str) -> ImagePlan:
    key = digest([row.sop_instance_uid, row.path, row.size, row.mtime_ns])
    return ImagePlan(case, _patient(row), row, path, key)


def _unnamed(row: InstanceHeader, error: HeaderError) -> FailedPlan:
    return FailedPlan(f"unnamed/{safe_name(Path(row.path).name)}_{text_digest(row.path)}", _patient(row), error)


def _patient(row: InstanceHeader) -> str:
    return row.patient_id or row.study_instance_uid


def name_output(header: InstanceHeader, layout: Layout) -> str:
    """Return study/sop or study/series/sop, of the UIDs.

    Raises
    ------
    HeaderError
        ``attribute-missing``: there is no UID; ``attribute-invalid``: it is none that a file can be named by.
    """
    parts = []
    for part in layout.split("/"):
        attribute = f"{part}_instance_uid"
        uid = getattr(header, attribute)
        if not uid:
            raise HeaderError(f"{attribute} is missing", code="attribute-missing", subject=header.path)
        if not _UID.fullmatch(uid):
            raise HeaderError(f"{attribute} is no UID", code="attribute-invalid", subject=header.path)
        parts.append(uid)
    return "/".join(parts)


# Batches


def batch_key(header: InstanceHeader) -> Hashable | None:
    """Return what images that go to the backend together have in common; None for one that goes alone.

    Those that do are small, have one frame of grey levels in whole numbers, and are rescaled alike, which gives their
    values one type.
    """
    pixels = (header.rows or 0) * (header.columns or 0)
    is_grey = header.photometric_interpretation in ("MONOCHROME1", "MONOCHROME2") and header.samples_per_pixel == 1
    is_single = (header.number_of_frames or 1) == 1 and header.sop_class_uid != BREAST_TOMOSYNTHESIS_UID
    if not is_grey or not is_single or header.bits_allocated not in (8, 16) or not 0 < pixels <= SMALL_IMAGE_PIXELS:
        return None
    return (
        header.rows,
        header.columns,
        header.bits_allocated,
        header.bits_stored,
        header.high_bit,
        header.pixel_representation,
        header.rescale_slope,
        header.rescale_intercept,
    )


def group_images(plans: Sequence[ImagePlan], options: TiffOptions) -> list[tuple[ImagePlan, ...]]:
    """Return batches of plans, of at most `BATCH_PIXELS` pixels each, in the order of their last images."""
    batches: list[tuple[ImagePlan, ...]] = []
    waiting: dict[Hashable, list[ImagePlan]] = {}
    for plan in plans:
        key = batch_key(plan.header) if options.size is not None else None
        if key is None:
            batches.append((plan,))
            continue
        batch = waiting.setdefault(key, [])
        batch.append(plan)
        if (len(batch) + 1) * (plan.header.rows or 0) * (plan.header.columns or 0) > BATCH_PIXELS:
            batches.append(tuple(waiting.pop(key)))
    return batches + [tuple(batch) for batch in waiting.values()]


# The job


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
    placement = place(resources, 1)
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
    strict : bool
        Stop at the first file that is no DICOM, or cannot be converted, with its `CaseError`.

    Raises
    ------
    CaseError
        When `strict`.
    OutputError
        ``exists``, ``output-locked``.
    """
    plans, problems = plan_images(index, options.layout)
    unreadable = next((p for p in problems if p.code not in ("duplicate-instance", "not-an-image")), None)
    if strict and unreadable is not None:
        raise HeaderError(unreadable.detail, code=unreadable.code, subject=unreadable.path, hint="leave out --strict")

    def pass_on(row: CaseRow) -> None:
        execution.on_row(row)
        if strict and row.status == "failed":
            raise CaseError(row.message, code=row.code, subject=row.subject or row.case, hint=row.hint)

    ledger = Ledger(root / "gpuprep" / "ledger.sqlite")
    try:
        ledger.set_file_problems(problems)
        placement = place(execution.resources, len(plans))
        work = TiffWork(options, root, placement.choice)
        batching = Batching(partial(group_images, options=options), work.convert_together)
        run_plans(
            plans,
            work=work,
            batching=batching if placement.choice.name == "cuda" else None,
            config=config_of(options),
            discard=lambda case: (root / f"{case}.tiff").unlink(missing_ok=True),
            root=root,
            own_folders=[root],
            ledger=ledger,
            execution=replace(execution, on_row=pass_on),
            placement=placement,
        )
        rows = ledger.rows()
    finally:
        ledger.close()
    planned = {p.case for p in plans}
    return tuple(row for case, row in rows.items() if case in planned), problems
