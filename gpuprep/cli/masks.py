"""``gpuprep masks``: what is in mask files, and from one kind to another."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gpuprep.cli import options
from gpuprep.errors import ConfigError, ExitStatus
from gpuprep.writers.masks import MASK_WRITERS, container_of

if TYPE_CHECKING:
    from gpuprep.run.masks import OpenedMask


def _source_options(command: options.Command) -> options.Command:
    return options.apply(
        click.option("--image", type=options.PATH, metavar="FOLDER",
                     help="The images of the mask: an RTSTRUCT is drawn on them, a SEG put on their grid; a SEG that "
                          "is written names them."),
        click.option("--plane", type=click.Choice(["axl", "cor", "sag"]),
                     help="Of a case of Supervisely's import by plane, where planes differ."),
        click.option("--merge-names", is_flag=True,
                     help="Make ROIs of one name one, such as the objects of a class in Supervisely's import."),
        options.stacking_options,
    )(command)  # fmt: skip


def _output_options(command: options.Command) -> options.Command:
    return options.apply(
        click.option("--to", "container", type=click.Choice(list(MASK_WRITERS)),
                     help="By default what OUTPUT ends in."),
        click.option("--on-overlap", type=click.Choice(["keep", "last-wins"]), default="keep", show_default=True,
                     help="last-wins: a voxel goes to its last ROI alone, and what others lose is told. With keep, a "
                          "container that holds one label a voxel refuses ROIs that overlap."),
        click.option("--seg-kind", type=click.Choice(["auto", "labelmap", "binary"]), default="auto", show_default=True,
                     help="Of a DICOM SEG; auto: a label map unless ROIs overlap."),
        click.option("--deflated", is_flag=True, help="Compress a DICOM SEG as a whole."),
        click.option("--ome-labels", is_flag=True, help="Add OME-Zarr labels to a Zarr mask."),
    )(command)  # fmt: skip


@click.group(short_help="Show, convert and pick from mask files: any number of overlapping ROIs in one file.")
def masks() -> None:
    """Work with mask files.

    \b
    name.seg.nrrd   layers with names, colours and codes; 3D Slicer, ITK
    name.dcm        DICOM SEG: a label map, or binary segments when ROIs overlap
    name.zarr       palette in chunks: patches and single ROIs without the rest
    name.nii.gz     one label image with a label table; no overlaps
    name/           one NIfTI file a ROI
    name.h5 .npz    palette

    Read as well: RTSTRUCT with its images; SEG, seg.nrrd and NIfTI of other programs; and the folder of a case in
    Supervisely's import, by volume name or by plane: each object a ROI, named as its class.
    """


@masks.command(short_help="Print the ROIs of a mask and their overlaps.")
@click.argument("source", type=options.PATH)
@_source_options
def info(source: Path, **how: Any) -> int:
    """Print grid, ROIs and overlaps of SOURCE.

    \b
    gpuprep masks info rois.seg.nrrd
    gpuprep masks info RS.dcm --image /data/ct
    """
    from gpuprep.report.masks import format_mask

    opened = _open(source, **how)
    click.echo(format_mask(opened.mask))
    return _finish(opened)


@masks.command(short_help="Write a mask in another container.")
@click.argument("source", type=options.PATH)
@click.argument("output", type=options.PATH)
@_source_options
@_output_options
def convert(
    source: Path, output: Path, container: str | None, on_overlap: str, seg_kind: str, deflated: bool, ome_labels: bool,
    **how: Any,
) -> int:  # fmt: skip
    """Write the mask SOURCE as OUTPUT, with all its ROIs, names, codes and geometry.

    \b
    gpuprep masks convert RS.dcm rois.seg.nrrd --image /data/ct
    gpuprep masks convert rois.seg.nrrd rois.dcm --image /data/ct
    """
    opened = _open(source, **how)
    _check_output(output, source, opened)
    _write(opened, output, container, on_overlap, seg_kind, deflated, ome_labels)
    return _finish(opened)


@masks.command(short_help="Write some of the ROIs of a mask.")
@click.argument("source", type=options.PATH)
@click.argument("output", type=options.PATH)
@click.option("--roi", "patterns", multiple=True, required=True, metavar="NAME",
              help="Name of a ROI, case ignored, * and ? allowed; can be given again.")  # fmt: skip
@_source_options
@_output_options
def extract(
    source: Path, output: Path, patterns: tuple[str, ...], container: str | None, on_overlap: str, seg_kind: str,
    deflated: bool, ome_labels: bool, **how: Any,
) -> int:  # fmt: skip
    """Write the ROIs of SOURCE that a NAME fits as OUTPUT, in the order of the names given.

    \b
    gpuprep masks extract rois.dcm gtv.nii.gz --roi 'gtv*'
    """
    from gpuprep.masks import select_rois

    opened = _open(source, **how)
    _check_output(output, source, opened)
    chosen = replace(opened, mask=select_rois(opened.mask, patterns))
    _write(chosen, output, container, on_overlap, seg_kind, deflated, ome_labels)
    return _finish(chosen)


def _open(
    source: Path, *, image: Path | None, plane: str | None, merge_names: bool, on_irregular: str,
    spacing_tolerance: float,
) -> OpenedMask:  # fmt: skip
    from gpuprep.backends import select
    from gpuprep.masks import merge_same_names
    from gpuprep.run.masks import open_mask

    opened = open_mask(
        source,
        image=image,
        stacking=options.parse_stacking(on_irregular, spacing_tolerance),
        backend=select("cpu"),
        plane=plane,  # type: ignore[arg-type]
    )
    return replace(opened, mask=merge_same_names(opened.mask)) if merge_names else opened


def _check_output(output: Path, source: Path, opened: OpenedMask) -> None:
    from gpuprep.run.sources import refuse_as_output

    refuse_as_output((source, *(Path(image.path) for image in opened.images)), output)


def _write(
    opened: OpenedMask, output: Path, container: str | None, on_overlap: str, seg_kind: str, deflated: bool,
    ome_labels: bool,
) -> None:  # fmt: skip
    from gpuprep.masks import let_last_win

    container = container or container_of(output)
    for option, is_given, of in (
        ("--seg-kind", seg_kind != "auto", "dicomseg"),
        ("--deflated", deflated, "dicomseg"),
        ("--ome-labels", ome_labels, "zarr"),
    ):
        if is_given and container != of:
            raise ConfigError(
                f"{option} is of {of} alone, not of {container}",
                code="option-without-use",
                hint="leave it out, or choose the container with --to",
            )
    mask = opened.mask
    if on_overlap == "last-wins":
        mask, lost = let_last_win(mask)
        for roi, voxels in zip(mask.rois, lost.tolist(), strict=True):
            if voxels:
                click.echo(f"{roi.name!r} lost {voxels} voxels to later ROIs", err=True)
    own: dict[str, Any] = {}
    if container == "dicomseg":
        if not opened.images:
            raise ConfigError(
                "a DICOM SEG refers to its images", code="image-needed", subject=str(output), hint="add --image FOLDER"
            )
        own = {"sources": opened.images, "kind": seg_kind, "deflated": deflated}
    elif container == "zarr":
        own = {"ome_labels": ome_labels}
    MASK_WRITERS.load(container)(mask, output, **own)
    click.echo(str(output))


def _finish(opened: OpenedMask) -> int:
    """Print what could not be read, or kept; a mask is a failed case when ROIs that it holds are not whole."""
    names = {roi.name for roi in opened.mask.rois}
    problems = [p.message for p in opened.problems if p.roi is None or p.roi.name in names]
    for note in opened.notes:
        click.echo(f"note: {note}", err=True)
    for problem in problems:
        click.echo(f"warning: {problem}", err=True)
    return ExitStatus.CASES_FAILED if problems else ExitStatus.DONE
