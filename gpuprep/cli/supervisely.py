"""``gpuprep supervisely`` and ``gpuprep supervisely-annotations``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from gpuprep.cli import options


def _plane_options(command: options.Command) -> options.Command:
    """Add what the masks of a plane are."""
    return options.apply(
        click.option("--plane-masks", type=click.Choice(["semantic", "instance"]), default="semantic",
                     show_default=True,
                     help="By plane: semantic, a label map; instance, a file a class, for overlap and objects."),
        click.option("--instances", type=click.Choice(["label", "component", "roi"]), default="label",
                     show_default=True,
                     help="Objects of a class where it has a file of its own: one, each connected component, or each "
                          "ROI of the label."),
        click.option("--overlap", type=click.Choice(["error", "last"]), default="error", show_default=True,
                     help="Labels that share voxels in a label map: fail the case, or let the last label win."),
    )(command)  # fmt: skip


@click.command(short_help="Studies with RTSTRUCT or SEG → a folder for Supervisely's NIfTI import.")
@click.argument("source", type=options.PATH, nargs=-1, required=True)
@click.argument("output", type=options.PATH)
@options.label_options
@click.option("--layout", type=click.Choice(["volume", "plane"]), default="volume", show_default=True,
              help="volume: <case>.nii.gz and <case>/<class>.nii.gz, which keeps overlap; plane: axl_anatomic, "
                   "axl_inference and so on, with cls_color_map.txt.")  # fmt: skip
@_plane_options
@options.apply(
    click.option("--planes", default="axl,cor,sag", metavar="PLANES", show_default=True,
                 help="Planes of --layout plane."),
    click.option("--scores", type=options.PATH, metavar="FILE.csv",
                 help="Scores for --layout plane: columns case (or patient ID), plane, layer (from 1, in the RAS+ "
                      "volume), label, score."),
)  # fmt: skip
@options.transform_options
@options.run_options
def supervisely(**given: Any) -> int:
    """Convert CT, MR or PET studies with RTSTRUCT or SEG into a folder for Supervisely's NIfTI import.

    SOURCE is one or more folders, or an index written by `gpuprep index`. Volumes have one channel, so --modalities
    names one image modality. OUTPUT gets import, which is what to upload; dataset.json with classes, colours, grids and
    source UIDs; and gpuprep with the ledger and the report. Volumes are RAS+; oblique ones are put onto a grid along
    the patient's axes, because the import tilts their masks the wrong way.

    Run the same command again to resume, or to add new studies.

    \b
    gpuprep supervisely -m CT,RTSTRUCT -ryaml rois.yaml /data/dicoms /data/sly
    gpuprep supervisely -m MR,SEG -ryaml rois.yaml --layout plane --plane-masks instance /data/dicoms /data/planes
    """
    return _convert(**given)


@click.command("supervisely-annotations", short_help="The same, masks alone, for volumes that Supervisely has.")
@click.argument("source", type=options.PATH, nargs=-1, required=True)
@click.argument("output", type=options.PATH)
@options.label_options
@click.option("--volumes", type=options.PATH, required=True, metavar="FILE.csv",
              help="The volumes in Supervisely: columns case (or patient ID), plane (axl, cor or sag), volume_id; and "
                   "dataset, its data set's name, to import into a whole project.")  # fmt: skip
@_plane_options
@options.transform_options
@options.run_options
def supervisely_annotations(**given: Any) -> int:
    """Convert RTSTRUCT or SEG into masks for volumes that are in Supervisely already.

    OUTPUT/import gets the masks, by plane, cls_color_map.txt and mapping.json, which says whose they are: to upload
    into one data set, or, with a folder for each data set, into a project. Masks lie on the grid that `gpuprep
    supervisely` writes with the same options. Without options that is the series' own, RAS+, as Supervisely makes it of
    DICOM, unless the series is oblique. The import does not compare grids.

    \b
    gpuprep supervisely-annotations -m CT,RTSTRUCT -ryaml rois.yaml --volumes ids.csv /data/dicoms /data/sly_masks
    """
    return _convert(layout="annotations", **given)


def _convert(
    *,
    source: tuple[Path, ...],
    output: Path,
    modalities: str,
    layout: str,
    plane_masks: str,
    instances: str,
    overlap: str,
    run: options.RunOptions,
    planes: str = "axl,cor,sag",
    scores: Path | None = None,
    volumes: Path | None = None,
    **shared: Any,
) -> int:
    from gpuprep.cli.jobs import finish, open_run
    from gpuprep.run.labelled import labels_of
    from gpuprep.run.plan import parse_modalities
    from gpuprep.run.supervisely import SuperviselyOptions, convert_to_supervisely
    from gpuprep.writers.atomic import SIDECARS
    from gpuprep.writers.supervisely import IMPORT_FOLDER, parse_planes
    from gpuprep.writers.supervisely_tables import read_scores, read_targets

    images, segmentations = parse_modalities(modalities)
    case_options = options.parse_case_options(**shared)
    labels = [label.name for label in labels_of(case_options)]
    job = SuperviselyOptions(
        images=images,
        segmentations=segmentations,
        layout=layout,  # type: ignore[arg-type]
        plane_masks=plane_masks,  # type: ignore[arg-type]
        instances=instances,  # type: ignore[arg-type]
        overlap=overlap,  # type: ignore[arg-type]
        planes=parse_planes(planes),
        scores=read_scores(scores, labels) if scores else (),
        targets=read_targets(volumes) if volumes else (),
    )
    is_by_plane, is_map = layout != "volume", layout != "volume" and plane_masks == "semantic"
    options.warn_of_unused(
        dict.fromkeys(["plane_masks", "planes"], (is_by_plane, "it needs --layout plane"))
        | {"overlap": (is_map, "it needs --layout plane and --plane-masks semantic")}
        | {"instances": (not is_map, "label maps have no objects; use --plane-masks instance")}
    )
    with open_run(source, output, run) as (sources, execution):
        result = convert_to_supervisely(sources, output, case_options=case_options, options=job, execution=execution)
    return finish(output / IMPORT_FOLDER, output / SIDECARS, result.rows, result.problems, result.unlabelled)
