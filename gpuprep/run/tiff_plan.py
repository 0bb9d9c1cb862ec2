"""Sources to the images that become TIFFs: what to convert, under which name, and what goes to a device together."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path

from gpuprep.config import digest
from gpuprep.dicom.display import BREAST_TOMOSYNTHESIS_UID
from gpuprep.dicom.header import InstanceHeader, read_headers
from gpuprep.dicom.index import Index
from gpuprep.errors import COPY_AGAIN, ConfigError, HeaderError, InputNotFoundError, LinkError
from gpuprep.run.ledger import FileProblem
from gpuprep.run.plan import FailedPlan
from gpuprep.run.sources import is_seen, leave_out, load_index, refuse_as_output
from gpuprep.run.tiff_options import Layout, TiffOptions
from gpuprep.texts import read_text
from gpuprep.writers.names import safe_name, text_digest

#: Images up to this size are small: their kernels take hardly longer than their starts.
SMALL_IMAGE_PIXELS = 1 << 22
#: Pixels that go to the backend together at most; a batch takes some six times as many bytes there.
BATCH_PIXELS = 1 << 25
_UID = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,127}")
#: Error codes of files that are no images to convert, rather than images that cannot be.
_NO_DICOM = ("not-dicom", "empty-file", "dicomdir")
#: What to do about files that cannot be read, by error code.
_HINTS = dict.fromkeys(("header-truncated", "header-unreadable", "no-sop-class"), COPY_AGAIN) | dict.fromkeys(
    ("unreadable", "unreadable-folder", "broken-symlink"), "look after the path and its permissions, and run again"
)


@dataclass(frozen=True, slots=True)
class ImagePlan:
    """One file to convert; `path` is where its TIFF goes, relative to the output folder; `case` knows no layout."""

    case: str
    patient: str
    header: InstanceHeader
    path: str
    key: str

    @property
    def subject(self) -> str:
        """What messages name: the file."""
        return self.header.path


def read_sources(
    source: Path, output: Path, *, workers: int, on_progress: Callable[[int], None] | None = None
) -> Index:
    """Read an index, or the headers below a folder, of one file, or of listed files, but not what is in `output`.

    A listed path that is not there is a row with an error. `on_progress` is told the number of files read so far.

    Raises
    ------
    InputNotFoundError
        ``path-missing``; ``no-dicom-found``: no file is DICOM.
    ConfigError
        ``bad-list``: the text file cannot be read, or is not UTF-8; ``output-is-source``; those of `load_index`.
    """
    paths = [source]
    if source.suffix.lower() == ".txt" and is_seen(source) and source.is_file():
        text = read_text(source, code="bad-list", hint="a list of paths is text in UTF-8, one path a line")
        paths = [Path(line.strip()) for line in text.splitlines() if line.strip()]
    is_list = paths != [source]
    lost = {path: str(path) for path in paths if not is_seen(path)} if is_list else {}
    there = [path for path in paths if path not in lost]
    refuse_as_output(there, output)
    index = leave_out(load_index(there, index_path=None, workers=workers, on_progress=on_progress), there, output)
    index = Index((*index.instances, *read_headers(list(lost.values()))))
    if all(row.error_code in _NO_DICOM for row in index.instances):
        raise InputNotFoundError(
            f"none of {len(index.instances)} files is DICOM",
            code="no-dicom-found",
            subject=str(source),
            hint="check the path",
        )
    return index


def _is_usable(row: InstanceHeader) -> bool:
    return row.error_code in ("", "no-series-uid")


def _broken(index: Index) -> list[InstanceHeader]:
    """Return the files that cannot be read, or whose DICOM header is broken."""
    return [row for row in index.problems if not _is_usable(row) and row.error_code not in _NO_DICOM]


def _header_error(row: InstanceHeader) -> HeaderError:
    return HeaderError(row.error_detail, code=row.error_code, subject=row.path, hint=_HINTS.get(row.error_code, ""))


def only_image(index: Index, output: Path) -> InstanceHeader:
    """Return the one image of an index, to become a single TIFF.

    Raises
    ------
    ConfigError
        ``bad-output``: there are several, or none. ``output-is-source``: it has the name of its source.
    HeaderError
        A file is broken: what is wrong with it.
    """
    images = [row for row in index.instances if _is_usable(row) and row.rows]
    broken = _broken(index)
    if broken:
        raise _header_error(broken[0])
    if len(images) != 1:
        raise ConfigError(
            f"{len(images)} images cannot become one TIFF",
            code="bad-output",
            subject=str(output),
            hint="name a folder",
        )
    refuse_as_output([Path(images[0].path)], output)
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
            case, name = name_output(row, "study/sop"), name_output(row, layout)
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
            plans.append(FailedPlan(f"{case}_{text_digest(row.path)}", _patient(row), conflict))
            continue
        plans.append(_plan(row, case, f"{name}.tiff"))
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
