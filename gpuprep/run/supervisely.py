"""The Supervisely job: sources to a folder that its NIfTI import accepts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from gpuprep.config import OnExisting, digest
from gpuprep.errors import ConfigError, OutputError
from gpuprep.run.case import CaseOptions
from gpuprep.run.job import OnRow, OnStart, run_cases, share_cores
from gpuprep.run.labelled import (
    JobResult,
    count_unlabelled,
    forget_vanished_failures,
    labels_of,
    refuse_mixed_options,
)
from gpuprep.run.ledger import Ledger
from gpuprep.run.plan import plan_segmented_cases
from gpuprep.run.sources import Sources
from gpuprep.writers.atomic import make_folder
from gpuprep.writers.sidecar import parse_grid
from gpuprep.writers.supervisely import (
    COLOUR_MAP,
    IMPORT_FOLDER,
    PLANES,
    Instances,
    Layout,
    Overlap,
    Plane,
    PlaneWriter,
    Score,
    VolumeWriter,
    check_output,
    class_names,
    escape_stem,
    write_colour_map,
    write_dataset_json,
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
    instances : {"label", "component"}
        Of the layout ``volume``: what an object of a class is.
    planes : tuple of str
        Of the layout ``plane``.
    overlap : {"error", "last"}
        Of the layout ``plane``, whose label maps hold one label a voxel.
    scores : tuple of Score
        Of the layout ``plane``.

    Raises
    ------
    ConfigError
        ``bad-modalities``, ``bad-scores``.
    """

    images: tuple[str, ...]
    segmentations: tuple[str, ...]
    layout: Layout
    instances: Instances = "label"
    planes: tuple[Plane, ...] = PLANES
    overlap: Overlap = "error"
    scores: tuple[Score, ...] = ()

    def __post_init__(self) -> None:
        if len(self.images) > 1:
            raise ConfigError(
                "Supervisely's volumes have one channel",
                code="bad-modalities",
                hint="name one image modality, as in --modalities CT,RTSTRUCT",
            )
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
    on_existing: OnExisting,
    backend: str,
    workers: int | None,
    on_start: OnStart,
    on_row: OnRow,
) -> JobResult:
    """Convert all labelled cases of the sources, resuming what an earlier run left.

    Volumes are written RAS+ on a grid along the patient's axes, whatever `case_options` says of orientation.

    Raises
    ------
    ConfigError
        ``bad-modalities``, ``bad-orientation``, ``bad-scores``, ``path-breaks-reader``.
    OutputError
        ``foreign-files``, ``name-collision``, ``exists``, ``options-changed``, ``output-locked``.
    """
    transforms = case_options.transforms
    if transforms.orientation not in ("keep", "RAS"):
        raise ConfigError(
            f"Supervisely turns volumes to RAS; {transforms.orientation} would not last",
            code="bad-orientation",
            hint="leave out --orientation",
        )
    case_options = replace(case_options, transforms=replace(transforms, orientation="RAS", is_axis_aligned=True))
    labels = [label.name for label in labels_of(case_options)]
    names = class_names(labels, options.layout)
    plans = plan_segmented_cases(
        sources.series,
        sources.links,
        images=options.images,
        segmentations=options.segmentations,
        multiple=case_options.multiple,
    )
    check_output(root)
    unknown = {score.case for score in options.scores} - {name for plan in plans for name in (plan.case, plan.patient)}
    if unknown:
        raise ConfigError(
            f"there are scores of {', '.join(sorted(unknown)[:5])}, which the sources do not hold", code="bad-scores"
        )
    taken = {IMPORT_FOLDER, *names} & {escape_stem(plan.case) for plan in plans}
    if taken:
        raise OutputError(
            f"{', '.join(sorted(taken))} would name a class and a volume, and the volume would be lost in the import",
            code="name-collision",
            hint="rename the label in the ROI map",
        )
    ledger = Ledger(root / "gpuprep" / "ledger.sqlite")
    try:
        ledger.set_file_problems(sources.problems)
        forget_vanished_failures(ledger, plans)
        processes, threads = share_cores(workers, len(plans))
        writer = (
            VolumeWriter(root, options.instances, threads)
            if options.layout == "volume"
            else PlaneWriter(root, options.planes, options.overlap, bool(options.scores), threads)
        )
        refuse_mixed_options(ledger, plans, digest(case_options, writer.config))
        make_folder(root / IMPORT_FOLDER)
        run_cases(
            plans,
            options=case_options,
            writer=writer,
            root=root,
            own_folders=(root,),
            ledger=ledger,
            on_existing=on_existing,
            backend=backend,
            workers=processes,
            threads=threads,
            on_start=on_start,
            on_row=on_row,
        )
        rows = ledger.rows()
    finally:
        ledger.close()
    done = {case: row.details for case, row in rows.items() if row.status == "done"}
    colours = write_dataset_json(root, layout=options.layout, labels=labels, cases=done)
    if options.layout == "plane":
        write_colour_map(root, names, colours)
        for case, details in done.items() if options.scores else ():
            scores = [score for score in options.scores if score.case in (case, rows[case].patient)]
            write_scores(root, case, options.planes, labels, parse_grid(details["grid"]), scores)
    else:
        (root / IMPORT_FOLDER / COLOUR_MAP).unlink(missing_ok=True)
    unlabelled = count_unlabelled(sources, plans, options.images[0])
    return JobResult(tuple(rows.values()), sources.problems, unlabelled)
