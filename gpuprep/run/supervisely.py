"""The Supervisely jobs: sources to a folder that its NIfTI import accepts, with volumes or for volumes it has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from gpuprep.config import digest
from gpuprep.dicom.index import list_some
from gpuprep.errors import ConfigError, OutputError
from gpuprep.run.case import CaseOptions
from gpuprep.run.job import Execution, open_job, run_cases
from gpuprep.run.labelled import (
    JobResult,
    count_unlabelled,
    forget,
    labels_of,
    refuse_channels,
    refuse_mixed_options,
    split_vanished,
)
from gpuprep.run.ledger import CaseRow
from gpuprep.run.plan import CasePlan, FailedPlan, plan_segmented_cases
from gpuprep.run.sources import Sources
from gpuprep.writers.atomic import make_folder, of_the_job, remove
from gpuprep.writers.sidecar import parse_grid
from gpuprep.writers.supervisely import (
    COLOUR_MAP,
    IMPORT_FOLDER,
    PLANES,
    AnnotationWriter,
    Instances,
    Layout,
    Overlap,
    Plane,
    PlaneMasks,
    PlaneWriter,
    VolumeWriter,
    case_name,
    check_output,
    class_names,
    uuid_prefix,
    write_dataset_json,
)
from gpuprep.writers.supervisely_tables import (
    Score,
    TargetVolume,
    write_colour_map,
    write_mapping,
    write_scores,
)


@dataclass(frozen=True, slots=True)
class SuperviselyOptions:
    """What of the job concerns the data set, not the single case.

    Parameters
    ----------
    images, segmentations : tuple of str
        Modalities; one image modality.
    layout : {"volume", "plane"}
    plane_masks : {"semantic", "instance"}
        By plane: a label map, or a file a label.
    instances : {"label", "component", "roi"}
        Of files a label: what an object of a class is.
    overlap : {"error", "last"}
        Of label maps, which hold one label a voxel.
    planes : tuple of str
        Of the layout ``plane``.
    scores : tuple of Score
        Of the layout ``plane``.
    targets : tuple of TargetVolume
        Of the layout ``annotations``: the volumes that masks are for, which say the planes too.

    Raises
    ------
    ConfigError
        ``bad-modalities``, ``bad-scores``.
    """

    images: tuple[str, ...]
    segmentations: tuple[str, ...]
    layout: Layout
    plane_masks: PlaneMasks = "semantic"
    instances: Instances = "label"
    overlap: Overlap = "error"
    planes: tuple[Plane, ...] = PLANES
    scores: tuple[Score, ...] = ()
    targets: tuple[TargetVolume, ...] = ()

    def __post_init__(self) -> None:
        refuse_channels(self.images, "Supervisely's volumes")
        unwritten = {score.plane for score in self.scores} - set(self.planes)
        if self.scores and (self.layout != "plane" or unwritten):
            raise ConfigError(
                f"there are scores of {', '.join(sorted(unwritten)) or 'planes'}, which are not written",
                code="bad-scores",
                hint="use --layout plane, with these --planes",
            )


def convert_to_supervisely(
    sources: Sources,
    root: Path,
    *,
    case_options: CaseOptions,
    options: SuperviselyOptions,
    execution: Execution,
) -> JobResult:
    """Convert all labelled cases of the sources, resuming what an earlier run left.

    Volumes are written RAS+ on a grid along the patient's axes, whatever `case_options` says of orientation.

    Parameters
    ----------
    sources : Sources
        What there is.
    root : Path
        The output folder.
    case_options : CaseOptions
        What is done to each case.
    options : SuperviselyOptions
        What is made of them all.
    execution : Execution
        How the job runs.

    Raises
    ------
    ConfigError
        ``bad-modalities``, ``bad-orientation``, ``bad-scores``, ``bad-volumes``, ``path-breaks-reader``; those
        of `labels_of` and `open_job`.
    OutputError
        ``foreign-files``, ``name-collision``, ``options-changed``, ``outputs-missing``; those of `open_job` and
        `run_cases`.
    """
    transforms = case_options.transforms
    if transforms.orientation not in ("keep", "RAS"):
        raise ConfigError(
            f"Supervisely turns volumes to RAS; {transforms.orientation} would not last",
            code="bad-orientation",
            hint="leave out --orientation",
        )
    labels = [label.name for label in labels_of(case_options)]
    rois = case_options.rois and replace(case_options.rois, with_members=options.instances == "roi")
    transforms = replace(transforms, orientation="RAS", is_axis_aligned=True)
    case_options = replace(case_options, transforms=transforms, rois=rois)
    plans = plan_segmented_cases(
        sources.series,
        sources.links,
        images=options.images,
        segmentations=options.segmentations,
        multiple=case_options.multiple,
    )
    check_output(root, options.layout)
    if options.layout == "volume":
        _refuse_collisions(plans, class_names(labels, options.layout))
    _refuse_unknown_cases([score.case for score in options.scores], plans, "scores of", "bad-scores")
    targets = _targets_by_case(plans, options.targets) if options.layout == "annotations" else {}
    if targets:
        plans = [replace(plan, writes_images=False) if isinstance(plan, CasePlan) else plan for plan in plans]
    with open_job("supervisely", root, plans, sources.problems, execution.resources) as (ledger, placement):
        writer = _make_writer(root, options, targets, placement.threads)
        known, vanished = split_vanished(ledger.rows(), plans, root)
        refuse_mixed_options(known, plans, digest(case_options, writer.config))
        forget(ledger, vanished, root, writer.discard)
        make_folder(root / IMPORT_FOLDER)
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
        _write_tables(root, {case: row for case, row in rows.items() if row.status == "done"}, labels, options, targets)
    return JobResult(tuple(rows.values()), sources.problems, count_unlabelled(sources, plans, options.images[0]))


def _refuse_collisions(plans: Sequence[CasePlan | FailedPlan], classes: Sequence[str]) -> None:
    taken = {IMPORT_FOLDER, *(case_name(plan.case, "volume") for plan in plans)} & set(classes)
    if taken:
        raise OutputError(
            f"{', '.join(sorted(taken))} would name a class and a volume or folder, and the import mixes them up",
            code="name-collision",
            hint="rename the label in the ROI map",
        )


def _refuse_unknown_cases(cases: Iterable[str], plans: Sequence[CasePlan | FailedPlan], what: str, code: str) -> None:
    unknown = set(cases) - {name for plan in plans for name in (plan.case, plan.patient)}
    if unknown:
        raise ConfigError(
            f"there are {what} {list_some(sorted(unknown))}, which the sources do not hold",
            code=code,
            hint="write case names, as in the report, or patient IDs; or leave out these rows",
        )


def _targets_by_case(
    plans: Sequence[CasePlan | FailedPlan], targets: Sequence[TargetVolume]
) -> dict[str, tuple[TargetVolume, ...]]:
    """Return the volumes of each case.

    Raises
    ------
    ConfigError
        ``bad-volumes``: a case has none, a volume has no case, or two, or two names of a case say the same plane.
    """
    _refuse_unknown_cases([target.case for target in targets], plans, "volumes of", "bad-volumes")
    planned = [plan for plan in plans if isinstance(plan, CasePlan)]
    found = {plan.case: tuple(t for t in targets if t.case in (plan.case, plan.patient)) for plan in planned}
    without = sorted(case for case, of in found.items() if not of)
    if without:
        raise ConfigError(
            f"no volume is given for {list_some(without)}",
            code="bad-volumes",
            hint="add them to the table of --volumes, by case name or patient ID, or leave out their files",
        )
    for case, of in found.items():
        if len({t.plane for t in of}) < len(of):
            raise ConfigError(
                f"two volumes are given for one plane of {case}",
                code="bad-volumes",
                hint="name each plane of a case once, by the case's name or the patient ID",
            )
    counts = Counter(target.id for of in found.values() for target in of)
    shared = sorted(id for id, cases in counts.items() if cases > 1)
    if shared:
        raise ConfigError(
            f"volume {list_some(list(map(str, shared)))} would get the masks of several cases",
            code="bad-volumes",
            hint="name cases, not patients, in the table of --volumes",
        )
    return found


def _make_writer(
    root: Path, options: SuperviselyOptions, targets: Mapping[str, Sequence[TargetVolume]], threads: int
) -> VolumeWriter | PlaneWriter | AnnotationWriter:
    if options.layout == "volume":
        return VolumeWriter(root, options.instances, threads)
    how = options.plane_masks, options.overlap, options.instances
    if options.layout == "plane":
        return PlaneWriter(root, options.planes, *how, has_scores=bool(options.scores), threads=threads)
    places = {case: tuple((t.plane, t.dataset) for t in of) for case, of in targets.items()}
    return AnnotationWriter(root, places, *how, threads=threads)


def _write_tables(
    root: Path,
    done: Mapping[str, CaseRow],
    labels: Sequence[str],
    options: SuperviselyOptions,
    targets: Mapping[str, Sequence[TargetVolume]],
) -> None:
    """Write what is about all cases: classes and, by plane, colours, scores and which masks belong to which volume."""
    details = {case: row.details for case, row in done.items()}
    colours = write_dataset_json(root, layout=options.layout, labels=labels, cases=details)
    if options.layout == "volume":
        with of_the_job():
            remove(root / IMPORT_FOLDER / COLOUR_MAP)
        return
    write_colour_map(root, class_names(labels, options.layout), colours)
    for case, row in done.items() if options.scores else ():
        scores = [score for score in options.scores if score.case in (case, row.patient)]
        write_scores(root, case, options.planes, labels, parse_grid(row.details["grid"]), scores)
    if options.layout == "annotations":
        ids: dict[str, int] = {}
        for case, row in done.items():
            for target in targets[case]:
                start = f"{uuid_prefix(case)}{target.plane}_"
                paths = (PurePosixPath(output.path).relative_to(IMPORT_FOLDER) for output in row.outputs)
                ids |= {path.as_posix(): target.id for path in paths if path.name.startswith(start)}
        write_mapping(root, ids)
