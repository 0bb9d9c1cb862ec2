"""The nnU-Net job: sources to a data set that nnU-Net accepts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from gpuprep.config import MaskStrategy, digest
from gpuprep.errors import ConfigError, OutputError
from gpuprep.run.case import CaseOptions
from gpuprep.run.job import Execution, ending_clean, files_present, open_job, run_cases
from gpuprep.run.labelled import (
    JobResult,
    count_unlabelled,
    forget,
    labels_of,
    move_outputs,
    refuse_mixed_options,
    split_vanished,
)
from gpuprep.run.ledger import CaseRow, Ledger
from gpuprep.run.local import Crash, map_isolated
from gpuprep.run.plan import CasePlan, FailedPlan, plan_segmented_cases
from gpuprep.run.slots import share_cores
from gpuprep.run.sources import Sources
from gpuprep.writers.atomic import PART_SUFFIX, make_folder, of_the_job, remove
from gpuprep.writers.base import Output
from gpuprep.writers.nnunet import (
    DatasetFolder,
    NnunetWriter,
    RegionCodes,
    RegionTable,
    Split,
    assign_splits,
    channel_name,
    check_strategy,
    make_folds,
    make_region_table,
    read_palette_table,
    write_dataset_json,
    write_region_table,
    write_scripts,
    write_splits,
)


@dataclass(frozen=True, slots=True)
class NnunetOptions:
    """What of the job concerns the data set, not the single case.

    Parameters
    ----------
    images, segmentations : tuple of str
        Modalities; images in channel order.
    strategy : MaskStrategy
    region_codes : {"compact", "bitmask"}
    test_ratio : float
        Share of the patients that go to the test set, 0 to 1.
    test_cases : frozenset of str or None
        Cases or patients that make the test set; then `test_ratio` must be 0.
    seed : int
        Of test set and folds.

    Raises
    ------
    ConfigError
        ``bad-test-set``.
    """

    images: tuple[str, ...]
    segmentations: tuple[str, ...]
    strategy: MaskStrategy
    region_codes: RegionCodes = "compact"
    test_ratio: float = 0.0
    test_cases: frozenset[str] | None = None
    seed: int = 42

    def __post_init__(self) -> None:
        if self.test_cases is not None and self.test_ratio:
            raise ConfigError(
                "there are a ratio and a list of the test set", code="bad-test-set", hint="leave one of them out"
            )
        if not 0 <= self.test_ratio <= 1:
            raise ConfigError(
                f"test set ratio {self.test_ratio} is not usable",
                code="bad-test-set",
                hint="give a ratio from 0 to 1, as in --test-set-ratio 0.2",
            )


def convert_to_nnunet(
    sources: Sources,
    folder: DatasetFolder,
    *,
    case_options: CaseOptions,
    options: NnunetOptions,
    execution: Execution,
) -> JobResult:
    """Convert all labelled cases of the sources into a data set, resuming what an earlier run left.

    Parameters
    ----------
    sources : Sources
        What there is.
    folder : DatasetFolder
        The data set.
    case_options : CaseOptions
        What is done to each case.
    options : NnunetOptions
        What is made of them all.
    execution : Execution
        How the job runs.

    Raises
    ------
    ConfigError
        ``bad-modalities``, ``bad-test-set``, ``ignore-label``; those of `labels_of` and `open_job`.
    OutputError
        ``foreign-files``, ``dataset-id-taken``, ``too-many-regions``, ``too-many-labels``, ``options-changed``,
        ``outputs-missing``, ``labels-not-written``, ``palette-unreadable``; those of `open_job` and `run_cases`.
    """
    labels, transforms = labels_of(case_options), case_options.transforms
    check_strategy(options.strategy, labels, options.region_codes)
    plans = plan_segmented_cases(
        sources.series,
        sources.links,
        images=options.images,
        segmentations=options.segmentations,
        multiple=case_options.multiple,
    )
    _refuse_foreign(folder)
    job = open_job("nnunet", folder.root, plans, sources.problems, execution.resources, ledger_path=folder.ledger)
    with job as (ledger, placement):
        make_folder(folder.raw)
        _refuse_taken_id(folder, ledger)
        known, vanished = split_vanished(ledger.rows(), plans, folder.root)
        splits = _assign(plans, known, options)
        writer = NnunetWriter(folder, splits, options.strategy, options.images, placement.threads)
        refuse_mixed_options(known, plans, digest(case_options, writer.config))
        forget(ledger, vanished, folder.root, writer.discard)
        move_outputs(ledger, folder.root, lambda case, path: _in_split(path, splits[case]))
        run_cases(
            plans,
            options=case_options,
            writer=writer,
            root=folder.root,
            own_folders=(folder.raw, folder.sidecars),
            ledger=ledger,
            execution=execution,
            placement=placement,
        )
        regions = None
        if options.strategy is MaskStrategy.REGION_MASK:
            names = [label.name for label in labels]
            processes, _ = share_cores(execution.resources.workers, len(plans))
            regions = _write_regions(writer, ledger, names, options.region_codes, processes)
        write_region_table(folder, regions)
        rows = ledger.rows()
        training = {c: r.patient for c, r in rows.items() if r.status == "done" and splits[c] == "Tr"}
        rescaled = {
            m for m in options.images if transforms.rescale_intensity and transforms.is_windowed(m, options.images)
        }
        write_dataset_json(
            folder,
            labels=labels,
            channels=[channel_name(m, rescaled=m in rescaled) for m in options.images],
            training_cases=len(training),
            regions=regions,
        )
        folds = make_folds(training, seed=options.seed)
        write_splits(folder, folds)
        write_scripts(folder, len(folds))
    return JobResult(tuple(rows.values()), sources.problems, count_unlabelled(sources, plans, options.images[0]))


def _refuse_foreign(folder: DatasetFolder) -> None:
    if not folder.ledger.exists() and any(p.is_file() and p.suffix != PART_SUFFIX for p in folder.raw.rglob("*")):
        raise OutputError(
            f"the data set {folder.full_name} is there already, without a ledger of gpuprep",
            code="foreign-files",
            subject=str(folder.raw),
            hint="choose another --dataset-name or output folder",
        )


def _refuse_taken_id(folder: DatasetFolder, ledger: Ledger) -> None:
    """Refuse an id that a run which began at the same time has taken too, once folder and ledger are there."""
    others = [p.name for p in folder.raw.parent.glob(f"Dataset{folder.number:03d}_*") if p.name != folder.full_name]
    if others and not any(folder.raw.iterdir()) and not ledger.rows():
        ledger.close()
        with of_the_job():
            folder.raw.rmdir()
            remove(folder.sidecars)
        raise OutputError(
            f"another run has just taken the data set id {folder.number}, for {others[0]}",
            code="dataset-id-taken",
            subject=str(folder.root),
            hint="run the same command again, or choose a --dataset-id",
        )


def _assign(
    plans: Sequence[CasePlan | FailedPlan], known: dict[str, CaseRow], options: NnunetOptions
) -> dict[str, Split]:
    patients = {c: row.patient for c, row in known.items()} | {p.case: p.patient for p in plans}
    if options.test_cases is None:
        cases = {p.case for p in plans if isinstance(p, CasePlan)} | {c for c, r in known.items() if r.status == "done"}
        by_patient = assign_splits((patients[c] for c in cases), test_ratio=options.test_ratio, seed=options.seed)
        return {case: by_patient.get(patient, "Tr") for case, patient in patients.items()}
    unknown = options.test_cases - patients.keys() - set(patients.values())
    if unknown:
        raise ConfigError(
            f"the list of test cases names what the sources do not hold: {', '.join(sorted(unknown)[:5])}",
            code="bad-test-set",
            hint="one case name or patient ID a line",
        )
    test = {p for c, p in patients.items() if c in options.test_cases or p in options.test_cases}
    return {case: "Ts" if patient in test else "Tr" for case, patient in patients.items()}


def _in_split(path: str, split: Split) -> str:
    parts = path.split("/")
    if len(parts) == 4 and parts[0] == "nnUNet_raw":
        parts[2] = parts[2][:-2] + split
    return "/".join(parts)


@dataclass(frozen=True, slots=True)
class _RegionWork:
    writer: NnunetWriter
    regions: RegionTable

    def __call__(self, case: str) -> Output:
        return self.writer.write_region_labels(case, self.regions)


def _write_regions(
    writer: NnunetWriter, ledger: Ledger, labels: Sequence[str], coding: RegionCodes, workers: int
) -> RegionTable:
    """Number the label sets of the whole data set, and write the label volumes that are not in these codes yet."""
    folder = writer.folder
    done = {c: row for c, row in ledger.rows().items() if row.status == "done"}
    regions = make_region_table(labels, [read_palette_table(folder.palette(c)) for c in done], coding)
    codes = digest(regions)
    stale = [
        c
        for c, r in done.items()
        if r.details.get("region_codes") != codes or not files_present(r.outputs, folder.root)
    ]
    written = map_isolated(_RegionWork(writer, regions), stale, workers=min(workers, max(1, len(stale))))
    with ending_clean(written, (folder.raw,)):
        for case, outcome in written:
            if isinstance(outcome, Crash):
                raise OutputError(
                    f"cannot write the labels of {case}: {outcome.reason}",
                    code="labels-not-written",
                    hint="free some space or memory and run again: finished cases are kept",
                )
            row = done[case]
            outputs = (*(o for o in row.outputs if "/labels" not in o.path), outcome)
            ledger.put(replace(row, outputs=outputs, details={**row.details, "region_codes": codes}))
    return regions
