"""MedMask: all ROIs in one archive, a mask each."""

from __future__ import annotations

from pathlib import Path

from medmask import MaskArchive, SegmentationMask
from spacetransformer import Space

from gpuprep.masks import RoiMask


def write(mask: RoiMask, path: Path) -> None:
    """Write an archive."""
    space = Space(shape=mask.geometry.shape)
    archive = MaskArchive(str(path), mode="w", space=space)
    for n, roi in enumerate(mask.rois):
        archive.add_segmask(SegmentationMask(mask.binary(n), {roi.name: 1}, space), roi.name)


def read(path: Path, *names: str) -> list[SegmentationMask]:
    """Read some masks, or all."""
    archive = MaskArchive(str(path), mode="r")
    return [archive.load_segmask(name) for name in names or archive.all_names()]
