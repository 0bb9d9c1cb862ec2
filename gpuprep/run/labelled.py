"""What all jobs with labels share: plans, what earlier runs left, the result."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gpuprep.config import LabelPatterns
from gpuprep.errors import ConfigError, OutputError
from gpuprep.run.case import CaseOptions
from gpuprep.run.ledger import CaseRow, FileProblem, Ledger
from gpuprep.run.plan import CasePlan, FailedPlan
from gpuprep.run.sources import Sources
from gpuprep.writers.atomic import make_folder, of_the_job, remove


@dataclass(frozen=True, slots=True)
class JobResult:
    """Rows of all cases of the data set, the unusable files, and the images that had no segmentation."""

    rows: tuple[CaseRow, ...]
    problems: tuple[FileProblem, ...]
    unlabelled: int


def labels_of(case_options: CaseOptions) -> tuple[LabelPatterns, ...]:
    """Return the labels of a job.

    Raises
    ------
    ConfigError
        ``roi-map-missing``.
    """
    if case_options.rois is None:
        raise ConfigError(
            "a labelled data set needs a ROI map", code="roi-map-missing", hint="add --roi-match-yaml FILE"
        )
    return case_options.rois.labels


def refuse_channels(images: Sequence[str], whose: str) -> None:
    """Refuse more than one image modality.

    Raises
    ------
    ConfigError
        ``bad-modalities``.
    """
    if len(images) > 1:
        raise ConfigError(
            f"{whose} have one channel",
            code="bad-modalities",
            hint="name one image modality, as in --modalities CT,RTSTRUCT",
        )


def count_unlabelled(sources: Sources, plans: Sequence[CasePlan | FailedPlan], modality: str) -> int:
    """Return how many series of `modality` are no case."""
    used = {p.channels[0].series_instance_uid for p in plans if isinstance(p, CasePlan)}
    return sum(s.modality == modality and s.series_instance_uid not in used for s in sources.series)


def split_vanished(
    rows: Mapping[str, CaseRow], plans: Sequence[CasePlan | FailedPlan], root: Path
) -> tuple[dict[str, CaseRow], list[CaseRow]]:
    """Return the rows that stay, by case, and those of cases that are no more.

    Such a case is not planned now, and failed before, or somebody has deleted all its files.

    Raises
    ------
    OutputError
        ``outputs-missing``: some files of a finished case that is not planned are gone, and others are not.
    """
    planned = {p.case for p in plans}
    kept = {case: row for case, row in rows.items() if case in planned}
    vanished: list[CaseRow] = []
    for case in sorted(rows.keys() - planned):
        row = rows[case]
        there = [o.path for o in row.outputs if (root / o.path).exists()]
        if row.status == "failed" or (row.outputs and not there):
            vanished.append(row)
            continue
        if len(there) < len(row.outputs):
            raise OutputError(
                f"some files of {case} are gone, and its sources are not given now",
                code="outputs-missing",
                subject=str(root),
                hint=f"give its sources too; or, to drop the case, delete its other files, such as {there[0]}",
            )
        kept[case] = row
    return kept, vanished


def forget(ledger: Ledger, vanished: Sequence[CaseRow], root: Path, discard: Callable[[str], None]) -> None:
    """Remove rows, and what a killed run left of their cases.

    Parameters
    ----------
    ledger : Ledger
    vanished : sequence of CaseRow
    root : Path
        What paths are relative to.
    discard : callable
        Removes what was written of a case.
    """
    for row in vanished:
        with of_the_job():
            for output in row.outputs:
                remove(root / output.path)
            discard(row.case)
        ledger.remove([row.case])


def refuse_mixed_options(rows: Mapping[str, CaseRow], plans: Sequence[CasePlan | FailedPlan], config: str) -> None:
    """Refuse to mix cases made with other options into a data set.

    Raises
    ------
    OutputError
        ``options-changed``: finished cases that are not planned now have another configuration.
    """
    planned = {p.case for p in plans}
    others = [c for c, r in rows.items() if r.status == "done" and c not in planned and r.config != config]
    if others:
        raise OutputError(
            f"the data set holds {len(others)} cases made with other options that are no cases now, "
            f"for example {others[0]}",
            code="options-changed",
            hint="give their sources too, or write into another folder or --dataset-name",
        )


def move_outputs(ledger: Ledger, root: Path, path_of: Callable[[str, str], str]) -> None:
    """Move the files of finished cases to where they belong now.

    Parameters
    ----------
    ledger : Ledger
    root : Path
        What paths are relative to.
    path_of : callable
        Returns where a file belongs, from its case and its path.
    """
    for row in ledger.rows().values():
        if row.status == "failed":
            continue
        moved = tuple(replace(o, path=path_of(row.case, o.path)) for o in row.outputs)
        if moved == row.outputs:
            continue
        for old, new in zip(row.outputs, moved, strict=True):
            source, destination = root / old.path, root / new.path
            make_folder(destination.parent)
            if source.exists():
                with of_the_job():
                    source.replace(destination)
        ledger.put(replace(row, outputs=moved))
