"""``gpuprep nnunet``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from gpuprep.cli import options
from gpuprep.config import MaskStrategy
from gpuprep.texts import read_text


@click.command(short_help="Studies with RTSTRUCT or SEG → an nnU-Net data set.")
@click.argument("source", type=options.PATH, nargs=-1, required=True)
@click.argument("output", type=options.PATH)
@options.label_options
@options.apply(
    click.option("-ms", "--mask-saving-strategy", "strategy", type=click.Choice([m.value for m in MaskStrategy]),
                 default="label_image", show_default=True,
                 help="label_image refuses overlap; sparse_mask: the last label wins; region_mask keeps all, "
                      "as nnU-Net regions."),
    click.option("--region-codes", type=click.Choice(["compact", "bitmask"]), default="compact", show_default=True,
                 help="Codes of region_mask: those that occur, numbered; or 2^i sums, at most 15 labels."),
    click.option("--dataset-id", type=click.IntRange(1, 999), help="nnU-Net data set id; by default that of the "
                 "data set of this name, or the smallest free one."),
    click.option("--dataset-name", metavar="NAME", help="By default the name of the first source folder."),
    click.option("--test-set-ratio", type=float, default=0.0, show_default=True,
                 help="Share of the patients, rounded up, that become the test set. It is drawn again when patients "
                      "are added, and some may change sides; --test-cases pins it."),
    click.option("--test-cases", type=options.PATH, metavar="FILE",
                 help="Test set by list: one case name or patient ID a line."),
    click.option("--random-seed", type=int, default=42, show_default=True, help="Of test set and folds."),
)  # fmt: skip
@options.transform_options
@options.run_options
def nnunet(
    source: tuple[Path, ...],
    output: Path,
    modalities: str,
    strategy: str,
    region_codes: str,
    dataset_id: int | None,
    dataset_name: str | None,
    test_set_ratio: float,
    test_cases: Path | None,
    random_seed: int,
    run: options.RunOptions,
    **shared: Any,
) -> int:
    """Convert CT, MR or PET studies with RTSTRUCT or SEG into an nnU-Net v2 data set.

    SOURCE is one or more folders (DICOM is found by content), or an index written by `gpuprep index`. OUTPUT
    gets nnUNet_raw/DatasetNNN_Name with images, labels, dataset.json and splits; the scripts nnunet_preprocess.sh and
    nnunet_train.sh, for the data set that was converted last; and gpuprep/DatasetNNN_Name with the ledger, the report
    and the table of region codes.

    \b
    The ROI map:
        GTV: ["gtv.*", "gross.*volume"]
        Cord: spinal.*cord
        Parotid_L: {patterns: [parotid.*l(eft)?], optional: true}

    Run the same command again to resume, or to add new studies.

    \b
    gpuprep nnunet -m CT,RTSTRUCT -ryaml rois.yaml -ms region_mask /data/dicoms /data/nnunet_ready
    gpuprep nnunet -m CT,PT,SEG -ryaml rois.yaml --spacing 2,2,3 --crop roi:20 /data/dicoms /data/nnunet_pet
    """
    from gpuprep.cli.jobs import finish, open_run
    from gpuprep.run.nnunet import NnunetOptions, convert_to_nnunet
    from gpuprep.run.plan import parse_modalities
    from gpuprep.writers.nnunet import find_dataset

    images, segmentations = parse_modalities(modalities)
    case_options = options.parse_case_options(**shared)
    job = NnunetOptions(
        images=images,
        segmentations=segmentations,
        strategy=MaskStrategy(strategy),
        region_codes=region_codes,  # type: ignore[arg-type]
        test_ratio=test_set_ratio,
        test_cases=_read_list(test_cases) if test_cases else None,
        seed=random_seed,
    )
    options.warn_of_unused(
        {"region_codes": (job.strategy is MaskStrategy.REGION_MASK, "it needs --mask-saving-strategy region_mask")}
    )
    first = source[0].resolve()
    name = dataset_name or (first.stem if first.is_file() else first.name)
    with open_run(source, output, run) as (sources, execution):
        folder = find_dataset(output, name=name, number=dataset_id)
        result = convert_to_nnunet(sources, folder, case_options=case_options, options=job, execution=execution)
    return finish(folder.raw, folder.sidecars, result.rows, result.problems, result.unlabelled)


def _read_list(path: Path) -> frozenset[str]:
    hint = "--test-cases takes a text file with one case name or patient ID a line"
    lines = read_text(path, code="bad-test-set", hint=hint).splitlines()
    return frozenset(line.strip() for line in lines if line.strip())
