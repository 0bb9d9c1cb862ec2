"""Mask containers on 148 overlapping ROIs in 512 × 512 × 300: size, CPU seconds, and what each can hold; with MedMask.

``python benchmarks/bench_masks.py [--set FILE.npz] [--reps 3]``. CPU seconds of this process, all threads together,
the best of the repetitions; files go to the folder for temporary files. The set is made at the first run, which takes
minutes. What is demanded is printed beside what was measured; the exit status is 1 where it is missed.
Needs ``pip install gpuprep[masks] nibabel medmask``.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as the command has it; its threads would spin, and be counted

import mask_sets
import numpy as np

from gpuprep.backends import select
from gpuprep.dicom.header import read_headers
from gpuprep.dicom.synth import axial_geometry, write_ct_series
from gpuprep.masks import RoiMask, merge_to_labels
from gpuprep.ops.palette import palette_of_planes
from gpuprep.writers.masks import MASK_READERS, MASK_WRITERS, npz, zarr

SUFFIX = {"seg.nrrd": ".seg.nrrd", "zarr": ".zarr", "hdf5": ".h5", "npz": ".npz", "separate": ""}
#: ROIs that nibabel writes; its time for all is in proportion.
NIBABEL_SAMPLE = 12
PATCH = ((100, 200, 200), (128, 128, 128))
#: What is demanded of each figure: the most, or for a ratio the least.
DEMANDS = {
    "bit planes to palette, CPU s": 0.2,
    "seg.nrrd, MB": 3.0,
    "seg.nrrd, write, CPU s": 0.3,
    "zarr, MB": 1.0,
    "zarr, 128³ patch, CPU s": 0.015,
    "zarr, one ROI, CPU s": 0.2,
    "separate, times as fast as nibabel": 8.0,
}


def best(reps, call):
    times, result = [], None
    for _ in range(reps):
        start = time.process_time()
        result = call()
        times.append(time.process_time() - start)
    return min(times), result


def size_of(path):
    files = [p for p in path.rglob("*") if p.is_file()] if path.is_dir() else [path]
    return sum(p.stat().st_size for p in files), len(files)


def show(name, path, write_s, read_s=None, roi_s=None, patch_s=None, note=""):
    size, files = size_of(path)
    cells = ["-" if s is None else f"{s:.3f}" for s in (write_s, read_s, roi_s, patch_s)]
    print(f"{name:26s}{size / 1e6:9.2f} MB{files:5d} files" + "".join(f"{c:>10s}" for c in cells) + f"  {note}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--set", type=Path, default=Path(tempfile.gettempdir()) / "gpuprep-148-rois.npz")
    parser.add_argument("--reps", type=int, default=3)
    options = parser.parse_args()
    if not options.set.exists():
        npz.write(mask_sets.make(), options.set)
    mask = npz.read(options.set)
    roi = [r.name for r in mask.rois].index("lesion_03")
    share = (mask.codes > 0).mean()
    print(f"{len(mask.rois)} ROIs, {len(mask.table)} sets, {100 * share:.1f} % of {mask.codes.size / 1e6:.1f} M voxels")
    print(f"{'':54s}{'write':>10s}{'read':>10s}{'one ROI':>10s}{'128³':>10s}   CPU s")
    measured = {"bit planes to palette, CPU s": bench_palette(mask, options.reps)}
    with tempfile.TemporaryDirectory() as folder:
        for name, suffix in SUFFIX.items():
            measured |= bench_container(name, mask, Path(folder) / f"mask{suffix}", roi, options.reps)
        bench_organs(mask, Path(folder))
        nibabel_s = bench_nibabel(mask, Path(folder) / "nibabel")
        bench_medmask(mask, Path(folder), roi, options.reps)
    measured["separate, times as fast as nibabel"] = nibabel_s / measured["separate, write, CPU s"]
    missed = 0
    for figure, demanded in DEMANDS.items():
        is_ratio = "times as fast" in figure
        is_met = measured[figure] >= demanded if is_ratio else measured[figure] <= demanded
        missed += not is_met
        limit = f"{'≥' if is_ratio else '≤'} {demanded:g}"
        print(f"{figure:40s}{measured[figure]:10.4f}   demanded {limit:10s}{'met' if is_met else 'MISSED'}")
    return int(missed > 0)


def bench_palette(mask, reps):
    planes = mask.to_planes()
    backend = select("cpu", workers=1)
    seconds, again = best(reps, lambda: palette_of_planes(planes, mask.rois, mask.geometry, backend=backend))
    assert np.array_equal(again.codes, mask.codes) and np.array_equal(again.table, mask.table)
    return seconds


def bench_container(name, mask, path, roi, reps):
    once = 1 if name == "separate" else reps
    write_s, _ = best(once, lambda: MASK_WRITERS.load(name)(mask, path))
    read_s, again = best(once, lambda: MASK_READERS.load(name)(path))
    assert np.array_equal(again.codes, mask.codes) and np.array_equal(again.table, mask.table)
    roi_s = patch_s = None
    if name == "zarr":
        roi_s, binary = best(reps, lambda: zarr.read_binary(path, roi))
        assert np.array_equal(binary, mask.binary(roi))
        patch_s, _ = best(reps, lambda: zarr.read_patch(path, *PATCH))
    show(name, path, write_s, read_s, roi_s, patch_s)
    figures = {"MB": size_of(path)[0] / 1e6, "write, CPU s": write_s}
    if name == "zarr":
        figures |= {"one ROI, CPU s": roi_s, "128³ patch, CPU s": patch_s}
    return {f"{name}, {figure}": value for figure, value in figures.items()}


def bench_organs(mask, folder):
    """The organs alone, which share no voxel."""
    organs = merge_to_labels(mask, [(n,) for n in range(mask_sets.ORGANS)])
    path = folder / "organs.nii.gz"
    write_s, _ = best(3, lambda: MASK_WRITERS.load("label")(organs, path))
    read_s, _ = best(3, lambda: MASK_READERS.load("label")(path))
    show("label, 104 organs", path, write_s, read_s)
    write_ct_series(folder / "ct", axial_geometry((1, 8, 8), spacing_xyz_mm=(1, 1, 1)), np.zeros((1, 8, 8), np.int16),
                    patient_id="P", seed=0)  # fmt: skip
    sources = read_headers([str(p) for p in (folder / "ct").iterdir()])
    organs = dataclasses.replace(
        organs, geometry=dataclasses.replace(organs.geometry, frame_of_reference_uid=sources[0].frame_of_reference_uid)
    )
    path = folder / "organs.dcm"
    for name, deflated in (("RLE", False), ("deflated", True)):
        write = partial(MASK_WRITERS.load("dicomseg"), organs, path, sources=sources, deflated=deflated)
        write_s, _ = best(1, write)
        show(f"dicomseg {name}, 104 organs", path, write_s)


def bench_nibabel(mask: RoiMask, folder):
    """Write some ROIs by nibabel's defaults; return the seconds that all would take."""
    import nibabel

    chosen = list(range(0, len(mask.rois), len(mask.rois) // NIBABEL_SAMPLE))[:NIBABEL_SAMPLE]
    affine = np.diag([-1.0, -1, 1, 1]) @ mask.geometry.index_to_lps[:, [2, 1, 0, 3]]
    arrays = [mask.binary(n) for n in chosen]
    folder.mkdir()

    def write_all():
        for n, array in zip(chosen, arrays, strict=True):
            nibabel.save(nibabel.Nifti1Image(array.T, affine), folder / f"{n}.nii.gz")

    seconds, _ = best(1, write_all)
    of_all = seconds * len(mask.rois) / len(chosen)
    show(f"nibabel, {NIBABEL_SAMPLE} ROIs", folder, seconds, note=f"in proportion {of_all:.1f} for all")
    return of_all


def bench_medmask(mask, folder, roi, reps):
    from medmask import MaskArchive, SegmentationMask
    from spacetransformer import Space

    space = Space(shape=mask.geometry.shape)
    path = folder / "mask.mska"

    def write_all():
        archive = MaskArchive(str(path), mode="w", space=space)
        for n, item in enumerate(mask.rois):
            archive.add_segmask(SegmentationMask(mask.binary(n), {item.name: 1}, space), item.name)

    write_s, _ = best(1, write_all)
    archive = MaskArchive(str(path), mode="r")
    read_s, _ = best(1, lambda: [archive.load_segmask(name) for name in archive.all_names()])
    roi_s, _ = best(reps, lambda: archive.load_segmask(mask.rois[roi].name))
    show("MedMask 0.1.3 archive", path, write_s, read_s, roi_s)


if __name__ == "__main__":
    sys.exit(main())
