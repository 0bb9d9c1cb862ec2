"""Mask containers on 148 overlapping ROIs in 512 × 512 × 300: size and CPU seconds, beside nibabel's and MedMask's.

``python benchmarks/bench_masks.py [--set FILE.npz] [--rounds 5]``. Files go to the folder for temporary files. The set
is made at the first run, which takes minutes. Needs ``pip install gpuprep[bench,masks]``.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as the command has it; its threads would spin, and be counted

import mask_sets
import numpy as np
from peers import medmask, nibabel
from timing import Call, Report

from gpuprep.backends import select
from gpuprep.dicom.header import read_headers
from gpuprep.dicom.synth import write_ct_series
from gpuprep.masks import RoiMask, merge_to_labels
from gpuprep.ops.palette import palette_of_planes
from gpuprep.writers.masks import MASK_READERS, MASK_WRITERS, npz, zarr

SUFFIX = {"seg.nrrd": ".seg.nrrd", "zarr": ".zarr", "hdf5": ".h5", "npz": ".npz", "separate": ""}
#: ROIs that nibabel writes; its time for all is in proportion.
NIBABEL_SAMPLE = 12
PATCH = ((100, 200, 200), (128, 128, 128))
#: CPU seconds, of a patch those that one waits, or MB, at most.
PALETTE_S, NRRD_S, NRRD_MB, ZARR_MB, PATCH_S, ROI_S = 0.2, 0.3, 3.0, 1.0, 0.015, 0.2
NIBABEL_AT_LEAST = 8.0


class Masks:
    """The set, and a report that takes the times of calls."""

    def __init__(self, mask: RoiMask, report: Report, folder: Path, rounds: int) -> None:
        self.mask, self.report, self.folder, self.rounds = mask, report, folder, rounds

    def time(self, what: str, work: Callable[[], Any], *, is_long: bool = False) -> dict[str, float]:
        """Return the medians of a call; one that takes long is made once."""
        rounds = 1 if is_long else self.rounds
        return self.report.contest(what, {what: Call(work)}, rounds, ours=what, warm_up=not is_long)[what]

    def size(self, what: str, path: Path) -> float:
        """Return MB of a file or folder."""
        files = [p for p in path.rglob("*") if p.is_file()] if path.is_dir() else [path]
        size = sum(p.stat().st_size for p in files) / 1e6
        self.report.figure(f"{what}, MB", round(size, 2))
        return size


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--set", type=Path, default=Path(tempfile.gettempdir()) / "gpuprep-148-rois.npz")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    if not options.set.exists():
        npz.write(mask_sets.make(), options.set)
    mask = npz.read(options.set)
    report = Report("masks")
    report.figure("ROIs", len(mask.rois))
    report.figure("combinations", len(mask.table))
    report.figure("covered share", round(float((mask.codes > 0).mean()), 4))
    with tempfile.TemporaryDirectory() as folder:
        masks = Masks(mask, report, Path(folder), options.rounds)
        bench_palette(masks)
        bench_containers(masks)
        bench_organs(masks)
        bench_medmask(masks)
    return report.close()


def bench_palette(masks: Masks) -> None:
    mask, backend = masks.mask, select("cpu", workers=1)
    planes = mask.to_planes()
    again = palette_of_planes(planes, mask.rois, mask.geometry, backend=backend)
    assert np.array_equal(again.codes, mask.codes) and np.array_equal(again.table, mask.table)
    palette = masks.time(
        "bit planes to palette", lambda: palette_of_planes(planes, mask.rois, mask.geometry, backend=backend)
    )
    masks.report.demand("bit planes to palette, CPU s", palette["cpu_s"], at_most=PALETTE_S)


def bench_containers(masks: Masks) -> None:
    mask, report = masks.mask, masks.report
    roi = [r.name for r in mask.rois].index("lesion_03")
    write_s, size_mb = {}, {}
    for name, suffix in SUFFIX.items():
        path = masks.folder / f"mask{suffix}"
        write_s[name] = masks.time(f"{name}, write", partial(MASK_WRITERS.load(name), mask, path))["cpu_s"]
        masks.time(f"{name}, read", partial(MASK_READERS.load(name), path), is_long=name == "separate")
        again = MASK_READERS.load(name)(path)
        assert np.array_equal(again.codes, mask.codes) and np.array_equal(again.table, mask.table)
        size_mb[name] = masks.size(name, path)
    path = masks.folder / "mask.zarr"
    assert np.array_equal(zarr.read_binary(path, roi), mask.binary(roi))
    roi_s = masks.time("zarr, one ROI", lambda: zarr.read_binary(path, roi))["cpu_s"]
    patch_s = masks.time("zarr, 128³ patch", lambda: zarr.read_patch(path, *PATCH))["wall_s"]
    chosen = range(0, len(mask.rois), len(mask.rois) // NIBABEL_SAMPLE)[:NIBABEL_SAMPLE]
    arrays = {str(n): mask.binary(n) for n in chosen}
    sample = masks.time("nibabel, write a sample", lambda: nibabel.write(arrays, mask.geometry, masks.folder / "nib"))
    all_s = sample["cpu_s"] * len(mask.rois) / len(arrays)
    report.figure("nibabel, write, in proportion, CPU s", round(all_s, 2))
    report.demand("seg.nrrd, MB", size_mb["seg.nrrd"], at_most=NRRD_MB)
    report.demand("seg.nrrd, write, CPU s", write_s["seg.nrrd"], at_most=NRRD_S)
    report.demand("zarr, MB", size_mb["zarr"], at_most=ZARR_MB)
    report.demand("zarr, 128³ patch, wall s", patch_s, at_most=PATCH_S)
    report.demand("zarr, one ROI, CPU s", roi_s, at_most=ROI_S)
    report.demand("separate, times as fast as nibabel", all_s / write_s["separate"], at_least=NIBABEL_AT_LEAST)


def bench_organs(masks: Masks) -> None:
    """The organs alone, which share no voxel."""
    organs = merge_to_labels(masks.mask, [(n,) for n in range(mask_sets.ORGANS)])
    path = masks.folder / "organs.nii.gz"
    masks.time("label, 104 organs, write", partial(MASK_WRITERS.load("label"), organs, path))
    masks.time("label, 104 organs, read", partial(MASK_READERS.load("label"), path))
    masks.size("label, 104 organs", path)
    corner = organs.geometry.crop((0, 0, 0), (1, 8, 8))
    write_ct_series(masks.folder / "ct", corner, np.zeros(corner.shape, np.int16), patient_id="P", seed=0)
    sources = read_headers([str(p) for p in (masks.folder / "ct").iterdir()])
    frame_of_reference = sources[0].frame_of_reference_uid
    organs = dataclasses.replace(
        organs, geometry=dataclasses.replace(organs.geometry, frame_of_reference_uid=frame_of_reference)
    )
    path = masks.folder / "organs.dcm"
    for name, deflated in (("RLE", False), ("deflated", True)):
        write = partial(MASK_WRITERS.load("dicomseg"), organs, path, sources=sources, deflated=deflated)
        masks.time(f"dicomseg {name}, 104 organs, write", write, is_long=True)
        masks.size(f"dicomseg {name}, 104 organs", path)


def bench_medmask(masks: Masks) -> None:
    path = masks.folder / "mask.mska"
    masks.time("MedMask, write", lambda: medmask.write(masks.mask, path), is_long=True)
    masks.time("MedMask, read", lambda: medmask.read(path), is_long=True)
    masks.time("MedMask, one ROI", lambda: medmask.read(path, "lesion_03"))
    masks.size("MedMask", path)


if __name__ == "__main__":
    sys.exit(main())
