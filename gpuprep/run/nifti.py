"""The NIfTI job: images, doses and masks of studies become files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gpuprep.config import MaskContainer, Stacking
from gpuprep.errors import ConfigError
from gpuprep.run.case import CaseOptions
from gpuprep.run.job import Execution, open_job, run_cases
from gpuprep.run.ledger import CaseRow, FileProblem
from gpuprep.run.plan import CasePlan, FailedPlan, StudyModalities, plan_study_cases
from gpuprep.run.sources import Sources
from gpuprep.run.volumes import choose_images
from gpuprep.writers.base import Output
from gpuprep.writers.names import safe_name
from gpuprep.writers.paths import PathTemplate
from gpuprep.writers.study import ROI_PLACE, NamedFile, StudyWriter, tell_apart, without_suffix

DoseGridChoice = Literal["own", "image"]


@dataclass(frozen=True, slots=True)
class NiftiOptions:
    """What of the job concerns the tree of files, not the single case.

    Parameters
    ----------
    wanted : StudyModalities
    template : PathTemplate
    masks : MaskContainer
    dose_grid : {"own", "image"}
        Whether RT Doses stay on their own grid or are resampled onto the output grid of their image.

    Raises
    ------
    ConfigError
        ``bad-filename-format``: one file a ROI, and the template cannot tell them apart. ``bad-modalities``: doses on
        images, and no image modality.
    """

    wanted: StudyModalities
    template: PathTemplate
    masks: MaskContainer = MaskContainer.SEPARATE
    dose_grid: DoseGridChoice = "own"

    def __post_init__(self) -> None:
        separate = self.wanted.segmentations and self.masks is MaskContainer.SEPARATE
        if separate and not self.template.tells_files_of_a_case_apart:
            raise ConfigError(
                f"file name format {self.template.text!r} gives all ROIs of a case one name",
                code="bad-filename-format",
                hint="put {ImageID} into it, or use another container: --masks seg.nrrd",
            )
        if self.wanted.doses and self.dose_grid == "image" and not self.wanted.images:
            raise ConfigError(
                "doses shall be on the grid of an image, and no image modality is named",
                code="bad-modalities",
                hint="write, for example, --modalities CT,RTDOSE",
            )


@dataclass(frozen=True, slots=True)
class NiftiResult:
    """Rows of what was asked for, all files that the folder holds (of earlier runs too), and the unusable files."""

    rows: tuple[CaseRow, ...]
    outputs: tuple[Output, ...]
    problems: tuple[FileProblem, ...]


def convert_to_nifti(
    sources: Sources,
    root: Path,
    *,
    case_options: CaseOptions,
    options: NiftiOptions,
    execution: Execution,
) -> NiftiResult:
    """Convert all that is wanted of the sources, resuming what an earlier run left.

    Parameters
    ----------
    sources : Sources
        What there is.
    root : Path
        The output folder.
    case_options : CaseOptions
        What is done to each case.
    options : NiftiOptions
        What is made of them all.
    execution : Execution
        How the job runs.

    Raises
    ------
    ConfigError
        ``bad-crop``: cropping to ROIs leaves no grid for doses, or there are no ROIs to crop to; those of `open_job`.
    OutputError
        Those of `open_job` and `run_cases`.
    """
    crops_to_rois = case_options.transforms.crop.to == "roi"
    on_images = options.wanted.doses and options.dose_grid == "image"
    if crops_to_rois and not options.wanted.segmentations:
        raise ConfigError(
            "there are no ROIs to crop to",
            code="bad-crop",
            hint="add RTSTRUCT or SEG to --modalities, or use another --crop",
        )
    if crops_to_rois and on_images:
        raise ConfigError(
            "a dose cannot be put on images that are cropped to the ROIs of several segmentations",
            code="bad-crop",
            hint="use --dose-grid own, or another --crop",
        )
    plans = plan_study_cases(
        sources.series,
        sources.links,
        options.wanted,
        stacking=case_options.stacking,
        images_with_masks=crops_to_rois,
        doses_on_images=on_images,
    )
    with open_job("nifti", root, plans, sources.problems, execution.resources) as (ledger, placement):
        held = {without_suffix(o.path).lower(): row.case for row in ledger.rows().values() for o in row.outputs}
        images, masks = name_files(plans, options, case_options.stacking, held)
        writer = StudyWriter(
            root,
            images,
            masks,
            container=options.masks,
            layout=options.template.text,
            suffix=options.template.suffix,
            held=held,
            threads=placement.threads,
        )
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
    planned = {p.case for p in plans}
    return NiftiResult(
        tuple(row for case, row in rows.items() if case in planned),
        tuple(o for row in rows.values() if row.status == "done" for o in row.outputs if (root / o.path).exists()),
        sources.problems,
    )


def name_files(
    plans: Sequence[CasePlan | FailedPlan], options: NiftiOptions, stacking: Stacking, held: Mapping[str, str]
) -> tuple[dict[str, NamedFile], dict[str, NamedFile]]:
    """Give each case the place of its image or dose, and that of its mask: none twice, none that another case holds."""
    images, masks = [], []
    for plan in plans:
        if isinstance(plan, FailedPlan):
            continue
        reference = plan.channels[0].instances if plan.channels else ()
        if plan.writes_images:
            channel = plan.channels[0]
            image = channel.modality + (f"_{safe_name(channel.stack.label)}" if channel.stack else "")
            first = channel.instances[0]
            path = options.template.fill(first, case=plan.case, image=image)
            images.append(NamedFile(plan.case, path, first))
        if plan.dose is not None:
            path = options.template.fill(plan.dose, case=plan.case, image=plan.dose.modality)
            images.append(NamedFile(plan.case, path, plan.dose, reference))
        for segmentation in plan.segmentations:
            image = ROI_PLACE if options.masks is MaskContainer.SEPARATE else segmentation.modality
            path = options.template.fill(segmentation, case=plan.case, image=image)
            made_on = choose_images(plan, stacking) if options.masks is MaskContainer.DICOM_SEG else reference
            masks.append(NamedFile(plan.case, path, segmentation, made_on))
    apart = tell_apart([*images, *masks], held)
    return {f.case: f for f in apart[: len(images)]}, {f.case: f for f in apart[len(images) :]}
