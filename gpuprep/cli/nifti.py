"""``gpuprep nifti``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from gpuprep.cli import options
from gpuprep.config import MaskContainer, OnMissing, RoiStrategy

#: Options that are about masks alone.
_OF_MASKS = ("masks", "roi_match_yaml", "roi_strategy", "on_missing", "roi_ignore_case", "roi_allow_multi_matches",
             "contour_overlap", "fractional_threshold")  # fmt: skip


@click.command(short_help="Images, masks and doses of studies → a tree of NIfTI files.")
@click.argument("source", type=options.PATH, nargs=-1, required=True)
@click.argument("output", type=options.PATH)
@options.apply(
    click.option("-m", "--modalities", default="CT,MR,PT", metavar="CT,MR,PT,…", show_default=True,
                 help="What to convert: images (CT, MR, PT), RTSTRUCT and SEG of these images, RTDOSE."),
    click.option("-f", "--filename-format", default="{PatientID}/{Modality}_{SeriesInstanceUID}/{ImageID}.nii.gz",
                 show_default=True, metavar="TEMPLATE",
                 help="Paths of the files, .nii.gz or .nii, of DICOM fields. ImageID is what of its series a file is: "
                      "the modality, or the name of the ROI; CaseID a short name of its own for each image, mask and "
                      "dose."),
    click.option("--masks", type=click.Choice([m.value for m in MaskContainer]), default="separate", show_default=True,
                 help="One NIfTI file a ROI; one label image, which refuses overlap; or one file of another container, "
                      "which holds it."),
    click.option("-ryaml", "--roi-match-yaml", type=options.PATH, metavar="FILE",
                 help="YAML map from labels to regular expressions that fit whole ROI names; without it every ROI "
                      "is written."),
    click.option("--roi-strategy", type=click.Choice([m.value for m in RoiStrategy], case_sensitive=False),
                 default="separate", show_default=True,
                 help="What several ROIs that match one label become: their union, the first, or label__ROI each."),
    click.option("--on-missing", type=click.Choice([m.value for m in OnMissing]), default="warn", show_default=True,
                 help="A label of the ROI map without a ROI: fail the mask, or go on, with or without a warning."),
    click.option("--dose-grid", type=click.Choice(["own", "image"]), default="own", show_default=True,
                 help="RTDOSE on its own grid, or on that of the image of the first modality."),
    click.option("--index-format", type=click.Choice(["csv", "parquet"]), default="csv", show_default=True,
                 help="The list of files in OUTPUT: index.csv, or index.parquet with typed columns."),
    options.roi_options,
)  # fmt: skip
@options.transform_options
@options.run_options
def nifti(
    source: tuple[Path, ...],
    output: Path,
    modalities: str,
    filename_format: str,
    masks: str,
    dose_grid: str,
    index_format: str,
    run: options.RunOptions,
    **shared: Any,
) -> int:
    """Convert images, masks and doses below SOURCE into NIfTI files in OUTPUT.

    SOURCE is one or more folders (DICOM is found by content), or an index written by `gpuprep index`.

    A series with several volumes (echoes, time points) gives one file each. PET becomes SUVbw, doses are in Gy. Masks
    lie on the grid of their image. OUTPUT/index.csv lists every file with where it comes from, its grid, its values,
    and the volume and box of each ROI.

    TEMPLATE has fields in braces: ImageID, CaseID, PatientID, StudyInstanceUID, SeriesInstanceUID, SOPInstanceUID,
    FrameOfReferenceUID, Modality, Manufacturer, StudyDate, StudyTime, SeriesDate, SeriesTime, SeriesNumber,
    SeriesDescription, AcquisitionNumber, StructureSetLabel. What a header lacks is "none".

    Run the same command again to resume, or to add new studies.

    \b
    gpuprep nifti /data/dicoms /data/files
    gpuprep nifti -m CT,PT,RTSTRUCT,SEG,RTDOSE --masks seg.nrrd --dose-grid image /data/dicoms /data/all
    """
    from gpuprep.cli.jobs import finish, open_run
    from gpuprep.report.contents import write_contents
    from gpuprep.run.nifti import NiftiOptions, convert_to_nifti
    from gpuprep.run.plan import StudyModalities
    from gpuprep.writers.atomic import SIDECARS
    from gpuprep.writers.paths import PathTemplate

    job = NiftiOptions(
        wanted=StudyModalities.parse(modalities),
        template=PathTemplate(filename_format),
        masks=MaskContainer(masks),
        dose_grid=dose_grid,  # type: ignore[arg-type]
    )
    case_options = options.parse_case_options(**shared)
    has_masks = bool(job.wanted.segmentations)
    options.warn_of_unused(
        dict.fromkeys(_OF_MASKS, (has_masks, "it needs RTSTRUCT or SEG among --modalities"))
        | {"dose_grid": (job.wanted.doses, "it needs RTDOSE among --modalities")}
    )
    with open_run(source, output, run) as (sources, execution):
        result = convert_to_nifti(sources, output, case_options=case_options, options=job, execution=execution)
    write_contents(output, result.outputs, index_format)
    return finish(output, output / SIDECARS, result.rows, result.problems)
