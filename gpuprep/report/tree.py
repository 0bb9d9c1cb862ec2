"""What an index holds, as text: patients, studies, series, their segmentations, and all that is wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby

from gpuprep.dicom.findings import Finding
from gpuprep.dicom.header import InstanceHeader
from gpuprep.dicom.index import Index, Series, SeriesKey, is_segmentation
from gpuprep.dicom.link import Link, LinkResult
from gpuprep.errors import LinkError
from gpuprep.report.table import printable

#: Columns of a terminal that lines keep within.
WIDTH = 120
#: Most characters of a Patient ID or UID: value representations LO and UI, PS3.5 6.2.
_LONGEST_ID = 64
#: Most characters of a modality: value representation CS, PS3.5 6.2.
_LONGEST_CODE = 16


def format_tree(index: Index, links: LinkResult) -> str:
    """Describe an index: a tree of patients, studies, series and segmentations, what is wrong, and a summary.

    Parameters
    ----------
    index : Index
        What was found.
    links : LinkResult
        `link` of its series.

    Returns
    -------
    str
        Lines of at most `WIDTH` characters. Patients appear by Patient ID, never by name; a file path appears only as
        an example of a problem. Every row of the index is counted: in a series, as a copy, or as a problem.
    """
    series = index.series()
    by_image: dict[SeriesKey, list[Link]] = {}
    for found in links.links:
        by_image.setdefault(found.image_key, []).append(found)
    unlinked = {error.subject: error for error in links.problems}
    lines: list[str] = []
    for patient_id, of_patient in groupby(series, key=lambda one: one.patient_id):
        lines.append(f"patient {_show(patient_id) or '(no Patient ID)'}")
        for study_uid, of_study in groupby(of_patient, key=lambda one: one.study_instance_uid):
            lines.append(f"  study {_show(study_uid) or '(no Study Instance UID)'}")
            for one in of_study:
                lines += _describe_series(one, by_image.get(one.key, ()), unlinked)
    lines += _describe_problems(index, series, links)
    lines += _summarise(index, series, links)
    return "\n".join(lines)


def _describe_series(series: Series, links: Sequence[Link], unlinked: Mapping[str, LinkError]) -> Iterator[str]:
    """Yield the lines of a series: its segmentations below it, or, of segmentations, those without image."""
    for instance in series.instances:
        if is_segmentation(instance) and instance.path in unlinked:
            yield f"    {_name(instance)}  no image"
            yield f"      ! {unlinked[instance.path].code}"
    count = sum(not is_segmentation(instance) for instance in series.instances)
    if not count:
        return
    copies = f" and {_count(len(series.copies), 'copy', 'copies')}" if series.copies else ""
    name = f"{_show(series.modality, _LONGEST_CODE) or '(no modality)'} {_show(series.series_instance_uid)}"
    yield f"    {name}  {_count(count, 'instance', 'instances')}{copies}"
    yield from _list_codes("      ! ", series.findings)
    for found in links if series.is_image else ():
        yield f"      {_name(found.segmentation)}  by {found.evidence}"
        yield from _list_codes("        ! ", found.findings)


def _list_codes(indent: str, findings: Sequence[Finding]) -> Iterator[str]:
    if findings:
        yield _cut(indent + ", ".join(dict.fromkeys(finding.code for finding in findings)), WIDTH)


def _describe_problems(index: Index, series: Sequence[Series], links: LinkResult) -> Iterator[str]:
    yield from _list_by_code("problems", ((row.error_code, row.path) for row in index.problems))
    yield from _list_by_code("segmentations without image", ((error.code, error.subject) for error in links.problems))
    remarks = [(f.code, one.instances[0].path) for one in series for f in one.findings]
    remarks += [(f.code, found.segmentation.path) for found in links.links for f in found.findings]
    yield from _list_by_code("remarks", remarks)


def _list_by_code(title: str, found: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Yield a line for each code: how often, and the first path."""
    examples: dict[str, str] = {}
    counts: Counter[str] = Counter()
    for code, path in found:
        counts[code] += 1
        examples.setdefault(code, path)
    if counts:
        yield title
    for code, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        head = f"  {count:>7} {code:<32} e.g. "
        yield head + _show_path(examples[code], WIDTH - len(head))


def _summarise(index: Index, series: Sequence[Series], links: LinkResult) -> Iterator[str]:
    patients = len({one.patient_id for one in series})
    studies = len({(one.patient_id, one.study_instance_uid) for one in series})
    instances = sum(len(one.instances) for one in series)
    copies = sum(len(one.copies) for one in series)
    yield (
        f"{_count(patients, 'patient', 'patients')}, {_count(studies, 'study', 'studies')}, {len(series)} series; "
        f"{_count(len(links.links), 'segmentation', 'segmentations')} linked, {len(links.problems)} not"
    )
    yield (
        f"{_count(len(index.instances), 'path', 'paths')}: {_count(instances, 'instance', 'instances')}, "
        f"{_count(copies, 'copy', 'copies')}, {len(index.problems)} with problems"
    )


def _name(segmentation: InstanceHeader) -> str:
    return f"{_show(segmentation.modality, _LONGEST_CODE) or '(no modality)'} {_show(segmentation.sop_instance_uid)}"


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def _show(text: str, length: int = _LONGEST_ID) -> str:
    """Make a text from a file safe for a terminal: printable, and no longer than it may be."""
    return _cut(printable(text), length)


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"


def _show_path(path: str, length: int) -> str:
    """Show the end of a path, which tells more than its beginning."""
    shown = _show(path, len(path))
    return shown if len(shown) <= length else f"…{shown[1 - length :]}"
