"""``gpuprep supervisely``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from gpuprep.cli import options
from gpuprep.config import OnExisting


@click.command(short_help="Studies with RTSTRUCT or SEG → a folder for Supervisely's NIfTI import.")
@click.argument("source", type=options.PATH, nargs=-1, required=True)
@click.argument("output", type=options.PATH)
@options.label_options
@options.apply(
    click.option("--layout", type=click.Choice(["volume", "plane"]), default="volume", show_default=True,
                 help="volume: <case>.nii.gz and <case>/<class>.nii.gz, which keeps overlap; plane: a label map for "
                      "each plane, with cls_color_map.txt."),
    click.option("--instances", type=click.Choice(["label", "component"]), default="label", show_default=True,
                 help="Objects of a class in --layout volume: one, or each connected component."),
    click.option("--planes", default="axl,cor,sag", metavar="PLANES", show_default=True,
                 help="Planes of --layout plane."),
    click.option("--overlap", type=click.Choice(["error", "last"]), default="error", show_default=True,
                 help="Labels that share voxels in --layout plane: fail the case, or let the last label win."),
    click.option("--scores", type=options.PATH, metavar="FILE.csv",
                 help="Scores for --layout plane: columns case (or patient ID), plane, layer (from 1, in the RAS+ "
                      "volume), label, score."),
)  # fmt: skip
@options.transform_options
@options.run_options
def supervisely(
    source: tuple[Path, ...],
    output: Path,
    modalities: str,
    layout: str,
    instances: str,
    planes: str,
    overlap: str,
    scores: Path | None,
    on_existing: str,
    index_path: Path | None,
    backend: str,
    workers: int | None,
    **shared: Any,
) -> int:
    """Convert CT or MR studies with RTSTRUCT or SEG into a folder for Supervisely's NIfTI import.

    OUTPUT gets import, which is what to upload; dataset.json with classes, colours, grids and source UIDs; and gpuprep
    with the ledger and the report. Volumes are RAS+; oblique ones are put onto a grid along the patient's axes,
    because the import tilts their masks the wrong way.
    """
    from gpuprep.cli.jobs import finish
    from gpuprep.hostlib import usable_cores
    from gpuprep.report.progress import Progress
    from gpuprep.run.labelled import labels_of
    from gpuprep.run.plan import parse_modalities
    from gpuprep.run.sources import open_sources
    from gpuprep.run.supervisely import SuperviselyOptions, convert_to_supervisely
    from gpuprep.writers.supervisely import IMPORT_FOLDER, parse_planes, read_scores

    images, segmentations = parse_modalities(modalities)
    case_options = options.parse_case_options(**shared)
    labels = [label.name for label in labels_of(case_options)]
    job = SuperviselyOptions(
        images=images,
        segmentations=segmentations,
        layout=layout,  # type: ignore[arg-type]
        instances=instances,  # type: ignore[arg-type]
        planes=parse_planes(planes),
        overlap=overlap,  # type: ignore[arg-type]
        scores=read_scores(scores, labels) if scores else (),
    )
    sources = open_sources(source, index_path=index_path, workers=workers or usable_cores())
    with Progress() as progress:
        result = convert_to_supervisely(
            sources,
            output,
            case_options=case_options,
            options=job,
            on_existing=OnExisting(on_existing),
            backend=backend,
            workers=workers,
            on_start=progress.start,
            on_row=progress.add,
        )
    click.echo(str(output / IMPORT_FOLDER))
    return finish(output / "gpuprep", result.rows, result.problems, result.unlabelled)
