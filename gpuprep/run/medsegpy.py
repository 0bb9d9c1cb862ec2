"""The MedSegPy job: sources to a data set that MedSegPy's loaders read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gpuprep.config import digest
from gpuprep.errors import ConfigError
from gpuprep.extras import load_extra
from gpuprep.run.case import CaseOptions
from gpuprep.run.job import Execution, open_job, run_cases
from gpuprep.run.labelled import (
    JobResult,
    count_unlabelled,
    forget,
    labels_of,
    move_outputs,
    refuse_channels,
    refuse_mixed_options,
    split_vanished,
)
from gpuprep.run.ledger import CaseRow
from gpuprep.run.plan import CasePlan, FailedPlan, plan_segmented_cases
from gpuprep.run.sources import Sources
from gpuprep.writers.atomic import SIDECARS, make_folder
from gpuprep.writers.medsegpy import (
    SPLITS,
    Collation,
    Layout,
    MedsegpyWriter,
    Numbering,
    Split,
    assign_splits,
    check_output,
    extend_numbering,
    read_numbering,
    write_dataset_json,
    write_numbering,
    write_register_script,
)


@dataclass(frozen=True, slots=True)
class MedsegpyOptions:
    """What of the job concerns the data set, not the single case.

    Parameters
    ----------
    name : str
        Under which ``register_medsegpy.py`` registers it.
    images, segmentations : tuple of str
        Modalities; one image modality, for MedSegPy's images have one channel.
    layout : {"2d", "3d"}
    shares : dict
        Split → share of the patients.
    listed : dict or None
        Patient → split, instead of `shares`.
    seed : int
        Of the splits.
    collations : tuple of Collation

    Raises
    ------
    ConfigError
        ``bad-modalities``; ``bad-collation``: two collated classes of one name.
    """

    name: str
    images: tuple[str, ...]
    segmentations: tuple[str, ...]
    layout: Layout
    shares: dict[Split, float] = field(default_factory=dict)
    listed: dict[str, Split] | None = None
    seed: int = 42
    collations: tuple[Collation, ...] = ()

    def __post_init__(self) -> None:
        refuse_channels(self.images, "MedSegPy's images")
        names = [collation.name for collation in self.collations]
        if len(set(names)) < len(names):
            raise ConfigError(
                f"collated classes {', '.join(names)} have no names of their own",
                code="bad-collation",
                hint="give each --collate another NAME",
            )


def convert_to_medsegpy(
    sources: Sources,
    root: Path,
    *,
    case_options: CaseOptions,
    options: MedsegpyOptions,
    execution: Execution,
) -> tuple[JobResult, list[str]]:
    """Convert all labelled cases of the sources, resuming what an earlier run left.

    Parameters
    ----------
    sources : Sources
        What there is.
    root : Path
        The output folder.
    case_options : CaseOptions
        What is done to each case.
    options : MedsegpyOptions
        What is made of them all.
    execution : Execution
        How the job runs.

    Returns
    -------
    JobResult
    list of str
        Where members of a collated class overlap; see `write_dataset_json`.

    Raises
    ------
    ConfigError
        ``bad-modalities``, ``bad-splits``, ``path-breaks-reader``, ``extra-missing``; those of `labels_of` and
        `open_job`.
    OutputError
        ``foreign-files``, ``numbering-unreadable``, ``too-many-scans``, ``options-changed``, ``outputs-missing``; those
        of `open_job` and `run_cases`.
    """
    load_extra("h5py", "medsegpy")
    labels = [label.name for label in labels_of(case_options)]
    plans = plan_segmented_cases(
        sources.series,
        sources.links,
        images=options.images,
        segmentations=options.segmentations,
        multiple=case_options.multiple,
    )
    check_output(root, options.layout)
    with open_job("medsegpy", root, plans, sources.problems, execution.resources) as (ledger, placement):
        numbering = _number(root / SIDECARS / "subjects.json", plans)
        known, vanished = split_vanished(ledger.rows(), plans, root)
        splits = _assign(plans, known, options)
        writer = MedsegpyWriter(root, options.layout, numbering.scan_ids(), splits, placement.threads)
        refuse_mixed_options(known, plans, digest(case_options, writer.config))
        forget(ledger, vanished, root, writer.discard)
        move_outputs(ledger, root, lambda case, path: f"{splits[case]}/{path.split('/')[1]}")
        for split in SPLITS:
            make_folder(root / split)
        run_cases(
            plans,
            options=case_options,
            writer=writer,
            root=root,
            own_folders=(root,),
            ledger=ledger,
            execution=execution,
            placement=placement,
        )
        rows = ledger.rows()
        overlaps = write_dataset_json(
            root,
            name=options.name,
            layout=options.layout,
            labels=labels,
            collations=options.collations,
            scans={writer.scan_ids[c]: (splits[c], r.details) for c, r in rows.items() if r.status == "done"},
        )
        write_register_script(root)
    unlabelled = count_unlabelled(sources, plans, options.images[0])
    return JobResult(tuple(rows.values()), sources.problems, unlabelled), overlaps


def _number(path: Path, plans: Sequence[CasePlan | FailedPlan]) -> Numbering:
    cases = [(p.case, p.patient, p.channels[0].instances[0].study_date) for p in plans if isinstance(p, CasePlan)]
    numbering = extend_numbering(read_numbering(path), cases)
    write_numbering(path, numbering)
    return numbering


def _assign(
    plans: Sequence[CasePlan | FailedPlan], known: dict[str, CaseRow], options: MedsegpyOptions
) -> dict[str, Split]:
    """Return the split of each case that is planned or done."""
    patients = {c: r.patient for c, r in known.items() if r.status == "done"}
    patients |= {p.case: p.patient for p in plans if isinstance(p, CasePlan)}
    by_patient = options.listed
    if by_patient is None:
        by_patient = assign_splits(patients.values(), options.shares, options.seed)
    missing = set(patients.values()) - by_patient.keys()
    if missing:
        raise ConfigError(
            f"no split is given for {len(missing)} patients: {', '.join(sorted(missing)[:5])}",
            code="bad-splits",
            hint="list every patient in the split file",
        )
    return {case: by_patient[patient] for case, patient in patients.items()}
