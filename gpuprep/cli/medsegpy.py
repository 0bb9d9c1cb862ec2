"""``gpuprep medsegpy``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from gpuprep.cli import options


@click.command(short_help="Studies with RTSTRUCT or SEG → HDF5 for MedSegPy.")
@click.argument("source", type=options.PATH, nargs=-1, required=True)
@click.argument("output", type=options.PATH)
@options.label_options
@options.apply(
    click.option("--format", "layout", type=click.Choice(["2d", "3d"]), required=True,
                 help="2d: .im and .seg for each slice; 3d: one .h5 for each scan."),
    click.option("--splits", metavar="SHARES", default="train=.7,val=.15,test=.15", show_default=True,
                 help="Shares of the patients. They are drawn again when patients are added, and some may change "
                      "sides; --split-file pins them."),
    click.option("--split-file", type=options.PATH, metavar="FILE.yaml",
                 help="Splits by list instead: a map of train, val, test to patient IDs."),
    click.option("--random-seed", type=int, default=42, show_default=True, help="Of the splits."),
    click.option("--collate", "collated", multiple=True, metavar="NAME=LABEL,LABEL",
                 help="Offer the union of labels as one more class; where they overlap, which MedSegPy would sum, "
                      "is reported. May be given several times."),
    click.option("--dataset-name", metavar="NAME", help="By default the name of the output folder."),
)  # fmt: skip
@options.transform_options
@options.run_options
def medsegpy(
    source: tuple[Path, ...],
    output: Path,
    modalities: str,
    layout: str,
    splits: str,
    split_file: Path | None,
    random_seed: int,
    collated: tuple[str, ...],
    dataset_name: str | None,
    run: options.RunOptions,
    **shared: Any,
) -> int:
    """Convert CT, MR or PET studies with RTSTRUCT or SEG into HDF5 files that MedSegPy's loaders read.

    SOURCE is one or more folders, or an index written by `gpuprep index`. Images have one channel, so --modalities
    names one image modality. OUTPUT gets train, val and test with the data; dataset.json with classes, spacings,
    affines and source UIDs; register_medsegpy.py, which registers the splits with MedSegPy; and gpuprep with the
    ledger, the report and subjects.json, which says whose numbers are whose and keeps them for later runs.

    gpuprep.data reads the files back without MedSegPy. Run the same command again to resume, or to add new studies.

    \b
    gpuprep medsegpy -m CT,RTSTRUCT -ryaml rois.yaml --format 3d /data/dicoms /data/msp
    gpuprep medsegpy -m CT,SEG -ryaml rois.yaml --format 2d --collate lungs=Lung_L,Lung_R /data/dicoms /data/msp2d
    """
    from gpuprep.cli.jobs import finish, open_run
    from gpuprep.run.labelled import labels_of
    from gpuprep.run.medsegpy import MedsegpyOptions, convert_to_medsegpy
    from gpuprep.run.plan import parse_modalities
    from gpuprep.writers.atomic import SIDECARS
    from gpuprep.writers.medsegpy import Collation, parse_shares, read_split_file
    from gpuprep.writers.names import safe_name

    images, segmentations = parse_modalities(modalities)
    case_options = options.parse_case_options(**shared)
    labels = [label.name for label in labels_of(case_options)]
    job = MedsegpyOptions(
        name=safe_name(dataset_name or output.resolve().name, "gpuprep"),
        images=images,
        segmentations=segmentations,
        layout=layout,  # type: ignore[arg-type]
        shares=parse_shares(splits),
        listed=read_split_file(split_file) if split_file else None,
        seed=random_seed,
        collations=tuple(Collation.parse(text, labels) for text in collated),
    )
    options.warn_of_unused(dict.fromkeys(["splits", "random_seed"], (split_file is None, "--split-file says it all")))
    with open_run(source, output, run) as (sources, execution):
        result, overlaps = convert_to_medsegpy(
            sources, output, case_options=case_options, options=job, execution=execution
        )
    for line in overlaps:
        click.echo(f"warning: {line}", err=True)
    return finish(output, output / SIDECARS, result.rows, result.problems, result.unlabelled)
