"""The nnU-Net v2 raw data set: folders, names, ``dataset.json``, splits, scripts and region codes.

What nnU-Net's own checks accept, and what they miss, is the contract here: labels must be consecutive from 0, channel
files and keys count from ``_0000``, a code of ``regions_class_order`` must lie in its region, and preprocessed
segmentations are int16.
"""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from gpuprep.codes import apply_lut, canonical_order, code_dtype, pack_bits, unpack_bits
from gpuprep.config import LabelPatterns, MaskStrategy
from gpuprep.errors import ConfigError, HeaderError, OutputError
from gpuprep.geometry import VolumeGeometry
from gpuprep.masks import RoiMask, to_label_image, to_sparse
from gpuprep.volume import Volume
from gpuprep.writers.atomic import LEDGER, SIDECARS, make_folder, remove_file, replacing, write_text
from gpuprep.writers.base import Output
from gpuprep.writers.block_gzip import write_gzip
from gpuprep.writers.names import safe_name
from gpuprep.writers.nifti import IMAGE_LEVEL, LABEL_LEVEL, read_to_end, write_nifti
from gpuprep.writers.record import CaseRecord
from gpuprep.writers.splits import SHARE_TOLERANCE, draw_order

Split = Literal["Tr", "Ts"]
RegionCodes = Literal["compact", "bitmask"]

#: nnU-Net stores preprocessed segmentations as int16; larger labels wrap without a word.
MAX_LABEL = 32767
#: Most ROIs whose 2^n - 1 combinations stay within `MAX_LABEL`.
MAX_BITMASK_LABELS = 15
#: The label of voxels that nnU-Net leaves out of its loss.
IGNORE_LABEL = "ignore"
_OVERLAP_HINT = "--mask-saving-strategy region_mask keeps overlaps, sparse_mask lets the last label win"
#: Folds of nnU-Net's cross-validation.
FOLDS = 5


@dataclass(frozen=True, slots=True)
class DatasetFolder:
    """Where one data set lives below the output folder.

    Parameters
    ----------
    root : Path
        The output folder.
    number : int
        nnU-Net's data set id, 1 to 999.
    name : str
        The part after ``DatasetNNN_``.
    """

    root: Path
    number: int
    name: str

    @property
    def full_name(self) -> str:
        """``DatasetNNN_Name``."""
        return f"Dataset{self.number:03d}_{self.name}"

    @property
    def raw(self) -> Path:
        """Folder that nnU-Net reads."""
        return self.root / "nnUNet_raw" / self.full_name

    @property
    def sidecars(self) -> Path:
        """Folder for what nnU-Net must not see: ledger, reports, region table."""
        return self.root / SIDECARS / self.full_name

    @property
    def ledger(self) -> Path:
        """Path of the ledger."""
        return self.sidecars / LEDGER

    def image(self, case: str, channel: int, split: Split) -> Path:
        """Path of one channel of a case."""
        return self.raw / f"images{split}" / f"{case}_{channel:04d}.nii.gz"

    def label(self, case: str, split: Split) -> Path:
        """Path of the label volume of a case."""
        return self.raw / f"labels{split}" / f"{case}.nii.gz"

    def palette(self, case: str) -> Path:
        """Path of the lossless mask of a case, from which its region codes are made."""
        return self.sidecars / "masks" / f"{case}.npy.gz"


def find_dataset(root: Path, *, name: str, number: int | None) -> DatasetFolder:
    """Return the data set of this name below `root`, or a new one with the smallest free id.

    Raises
    ------
    ConfigError
        ``bad-dataset-id``: not in 1 to 999, or taken by a data set of another name.
    """
    name = safe_name(name, "gpuprep")
    raw = root / "nnUNet_raw"
    entries = sorted(raw.iterdir()) if raw.is_dir() else []
    found = [re.fullmatch(r"Dataset(\d{3})_(.+)", p.name) for p in entries if p.is_dir()]
    taken = {int(m[1]): m[2] for m in found if m}
    if number is None:
        same = [n for n, other in taken.items() if other == name]
        number = same[0] if same else min(set(range(1, 1000)) - taken.keys(), default=0)
    if not 1 <= number <= 999 or taken.get(number, name) != name:
        raise ConfigError(
            f"data set id {number} cannot be used for {name!r}"
            + (f": it is {taken[number]!r} already" if number in taken else ""),
            code="bad-dataset-id",
            hint="choose another --dataset-id (1 to 999), or the --dataset-name that it belongs to",
        )
    return DatasetFolder(root, number, name)


def assign_splits(patients: Iterable[str], *, test_ratio: float, seed: int) -> dict[str, Split]:
    """Assign patients to training or test: ``ceil(ratio × n)`` test patients, drawn by a keyed hash.

    Whole patients only, so that no patient is on both sides; independent of the order of the input.
    """
    unique = draw_order(patients, seed)
    count = math.ceil(test_ratio * len(unique) - SHARE_TOLERANCE)
    return {p: "Ts" if i < count else "Tr" for i, p in enumerate(unique)}


def make_folds(cases: dict[str, str], *, seed: int) -> list[dict[str, list[str]]]:
    """Return ``splits_final.json``: folds over training cases, patients kept together.

    Parameters
    ----------
    cases : dict
        Case → patient.
    seed : int

    Returns
    -------
    list of {"train": cases, "val": cases}
        `FOLDS` folds, fewer with fewer patients; empty with a single patient, which cannot be split.
    """
    patients = draw_order(cases.values(), seed)
    folds = min(FOLDS, len(patients))
    if folds < 2:
        return []
    fold_of = {p: i % folds for i, p in enumerate(patients)}
    return [
        {
            "train": sorted(c for c, p in cases.items() if fold_of[p] != fold),
            "val": sorted(c for c, p in cases.items() if fold_of[p] == fold),
        }
        for fold in range(folds)
    ]


@dataclass(frozen=True, slots=True)
class RegionTable:
    """The integers of a region mask and the sets of labels they stand for.

    Parameters
    ----------
    labels : tuple of str
        Label names in bit order.
    sets : tuple of tuple of int
        ``sets[code]``: indices of the labels present; ``sets[0]`` is empty.
    coding : {"compact", "bitmask"}
        Consecutive codes for the sets that occur, or ``2^i`` for label i with every sum declared.
    """

    labels: tuple[str, ...]
    sets: tuple[tuple[int, ...], ...]
    coding: RegionCodes

    def lut(self, table: NDArray[np.uint32]) -> NDArray[Any]:
        """Return the data set's code for each row of a case's palette table (K, P)."""
        codes = {members: code for code, members in enumerate(self.sets)}
        rows = unpack_bits(table, len(self.labels))
        return np.array([codes[tuple(np.flatnonzero(row).tolist())] for row in rows], code_dtype(len(self.sets)))

    def dataset_labels(self) -> dict[str, int | list[int]]:
        """Return ``labels`` of dataset.json: lists of codes, or plain integers when no two labels share a voxel."""
        codes = [[c for c, s in enumerate(self.sets) if i in s] for i in range(len(self.labels))]
        values = codes if self.has_overlap else [c for (c,) in codes]
        return {"background": 0, **dict(zip(self.labels, values, strict=True))}

    @property
    def has_overlap(self) -> bool:
        """Whether any code stands for more than one label."""
        return any(len(s) > 1 for s in self.sets)

    def regions_class_order(self) -> list[int]:
        """Return the code that nnU-Net's export writes for each label: that of the label alone."""
        return [self.sets.index((i,)) for i in range(len(self.labels))]


def make_region_table(labels: Sequence[str], tables: Iterable[NDArray[np.uint32]], coding: RegionCodes) -> RegionTable:
    """Collect the label sets that occur anywhere in a data set and number them.

    Compact coding numbers the single labels first, in label order, then the other sets that occur, ascending as
    integers of their bits: the result does not depend on the order of the cases.

    Raises
    ------
    OutputError
        ``too-many-regions``: more codes than nnU-Net's int16 holds, or more labels than bitmask coding can.
    """
    count = len(labels)
    if coding == "bitmask":
        if count > MAX_BITMASK_LABELS:
            raise OutputError(
                f"bitmask codes of {count} labels do not fit into nnU-Net's int16",
                code="too-many-regions",
                hint=f"use --region-codes compact, or at most {MAX_BITMASK_LABELS} labels",
            )
        sets = tuple(tuple(i for i in range(count) if code >> i & 1) for code in range(1 << count))
        return RegionTable(tuple(labels), sets, coding)
    singles = np.eye(count, dtype=bool)
    rows = np.unique(np.concatenate([pack_bits(singles), *tables]), axis=0)
    rows = rows[canonical_order(rows)]
    seen = [tuple(np.flatnonzero(row).tolist()) for row in unpack_bits(rows, count)]
    sets = ((), *((i,) for i in range(count)), *(s for s in seen if len(s) > 1))
    if len(sets) - 1 > MAX_LABEL:
        raise OutputError(
            f"{len(sets) - 1} combinations of labels do not fit into nnU-Net's int16",
            code="too-many-regions",
            hint="drop labels, or use --mask-saving-strategy sparse_mask",
        )
    return RegionTable(tuple(labels), sets, coding)


@dataclass(frozen=True, slots=True)
class NnunetWriter:
    """Writes cases into a data set.

    Region masks are written as lossless palettes first: the codes of a data set are known only when all its cases are.
    `write_region_labels` makes the label volumes.

    Parameters
    ----------
    folder : DatasetFolder
    splits : dict
        Case → split.
    strategy : MaskStrategy
    channels : tuple of str
        Modality of channel 0, 1, …
    threads : int
        Compression threads.
    """

    folder: DatasetFolder
    splits: dict[str, Split]
    strategy: MaskStrategy
    channels: tuple[str, ...]
    threads: int = 1

    @property
    def config(self) -> str:
        """The mask strategy and the channels, which are the same in all cases of a data set."""
        return f"{self.strategy} {','.join(self.channels)}"

    def write_image(self, case: str, channel: int, volume: Volume) -> tuple[Output]:
        """Write ``images??/case_000N.nii.gz``."""
        path = self.folder.image(case, channel, self.splits[case])
        return (self._write(path, volume.array, volume.geometry, IMAGE_LEVEL),)

    def write_mask(self, case: str, mask: RoiMask, record: CaseRecord) -> tuple[Output]:
        """Write ``labels??/case.nii.gz``, or the palette from which it will be made.

        `record` gets ``overlaps``, and with sparse masks ``lost_voxels`` by label.
        """
        names = [roi.name for roi in mask.rois]
        record["overlaps"] = [[names[i], names[j], voxels] for i, j, voxels in mask.overlaps()]
        match self.strategy:
            case MaskStrategy.REGION_MASK:
                return (write_palette(self.folder.palette(case), mask, self.folder.root),)
            case MaskStrategy.LABEL_IMAGE:
                labels = to_label_image(mask, hint=_OVERLAP_HINT)
            case MaskStrategy.SPARSE_MASK:
                labels, lost = to_sparse(mask)
                record["lost_voxels"] = dict(zip(names, lost.tolist(), strict=True))
        return (self._write(self.folder.label(case, self.splits[case]), labels, mask.geometry, LABEL_LEVEL),)

    def write_region_labels(self, case: str, regions: RegionTable) -> Output:
        """Write ``labels??/case.nii.gz`` from the case's palette, in the codes of the data set."""
        table, codes, geometry = read_palette(self.folder.palette(case))
        labels = apply_lut(regions.lut(table), codes)
        return self._write(self.folder.label(case, self.splits[case]), labels, geometry, LABEL_LEVEL)

    def discard(self, case: str) -> None:
        """Remove the files of a case, whatever its split."""
        for split in get_args(Split):
            remove_file(self.folder.label(case, split))
            for image in (self.folder.raw / f"images{split}").glob(f"{case}_[0-9][0-9][0-9][0-9].nii.gz"):
                remove_file(image)
        remove_file(self.folder.palette(case))

    def _write(self, path: Path, array: NDArray[Any], geometry: VolumeGeometry, level: int) -> Output:
        return write_nifti(path, array, geometry, level=level, threads=self.threads, root=self.folder.root)


def write_palette(path: Path, mask: RoiMask, root: Path) -> Output:
    """Write table, affine and codes of a mask, one after the other, as gzipped ``.npy`` streams."""
    codes = np.ascontiguousarray(mask.codes)
    head = io.BytesIO()
    for array in (mask.table, mask.geometry.index_to_lps):
        np.lib.format.write_array(head, np.ascontiguousarray(array), allow_pickle=False)
    np.lib.format.write_array_header_1_0(head, np.lib.format.header_data_from_array_1_0(codes))
    with replacing(path) as part:
        with part.open("wb") as file:
            crc = write_gzip(file, head.getvalue(), codes.data.cast("B"), level=LABEL_LEVEL)
        size = part.stat().st_size
    return Output(path.relative_to(root).as_posix(), size, crc)


def read_palette_table(path: Path) -> NDArray[np.uint32]:
    """Return the table of a palette file without reading its codes.

    Raises
    ------
    OutputError
        ``palette-unreadable``: it is missing or damaged.
    """
    with _open_palette(path) as file:
        table: NDArray[np.uint32] = np.lib.format.read_array(file, allow_pickle=False)
        return table


def read_palette(path: Path) -> tuple[NDArray[np.uint32], NDArray[Any], VolumeGeometry]:
    """Return table, codes and geometry of a palette file; errors as `read_palette_table`."""
    with _open_palette(path) as file:
        table, affine, codes = (np.lib.format.read_array(file, allow_pickle=False) for _ in range(3))
        read_to_end(file)
    return table, codes, VolumeGeometry(codes.shape, affine)


@contextmanager
def _open_palette(path: Path) -> Iterator[IO[bytes]]:
    from isal import igzip

    from gpuprep.writers.masks.description import reading

    try:
        with reading(path), igzip.open(path, "rb") as file:
            yield file
    except HeaderError as error:
        raise OutputError(
            f"the mask that region codes are made of: {error.message}",
            code="palette-unreadable",
            subject=str(path),
            hint="remove it and run again: its case is done anew",
        ) from error


def channel_name(modality: str, *, rescaled: bool) -> str:
    """Return the channel name, by which nnU-Net chooses its normalisation: none for mapped intensities."""
    return "noNorm" if rescaled else modality


def write_dataset_json(
    folder: DatasetFolder,
    *,
    labels: Sequence[LabelPatterns],
    channels: Sequence[str],
    training_cases: int,
    regions: RegionTable | None,
) -> Path:
    """Write ``dataset.json``; return its path."""
    content: dict[str, Any] = {
        "channel_names": {str(i): name for i, name in enumerate(channels)},
        "labels": regions.dataset_labels()
        if regions
        else {"background": 0, **{label.name: i for i, label in enumerate(labels, 1)}},
        "numTraining": training_cases,
        "file_ending": ".nii.gz",
        "name": folder.full_name,
    }
    if regions and regions.has_overlap:
        content["regions_class_order"] = regions.regions_class_order()
    path = folder.raw / "dataset.json"
    write_text(path, json.dumps(content, indent=1) + "\n")
    return path


def write_region_table(folder: DatasetFolder, regions: RegionTable | None) -> None:
    """Write ``regions.json``, the table code ↔ set of labels, beside the ledger; none without regions."""
    path = folder.sidecars / "regions.json"
    if regions is None:
        remove_file(path)
        return
    content = {
        "coding": regions.coding,
        "labels": list(regions.labels),
        "codes": {str(code): [regions.labels[i] for i in members] for code, members in enumerate(regions.sets)},
    }
    write_text(path, json.dumps(content, indent=1) + "\n")


def write_splits(folder: DatasetFolder, folds: list[dict[str, list[str]]]) -> None:
    """Write ``splits_final.json`` into the raw folder, from where nnU-Net's planning copies it; none without folds."""
    path = folder.raw / "splits_final.json"
    if folds:
        write_text(path, json.dumps(folds, indent=1) + "\n")
    else:
        remove_file(path)


def write_scripts(folder: DatasetFolder, folds: int) -> None:
    """Write ``nnunet_preprocess.sh`` and ``nnunet_train.sh`` into the output folder, relocatable with it.

    Training runs each of `folds` folds, or nnU-Net's fold ``all`` when the patients are too few to split.
    """
    exports = (
        "#!/usr/bin/env bash\n"
        "set -euo pipefail\n"
        'root=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)\n'
        'export nnUNet_raw="$root/nnUNet_raw"\n'
        'export nnUNet_preprocessed="$root/nnUNet_preprocessed"\n'
        'export nnUNet_results="$root/nnUNet_results"\n'
    )
    steps = {
        "nnunet_preprocess.sh": f"nnUNetv2_plan_and_preprocess -d {folder.number} "
        "--verify_dataset_integrity -c 3d_fullres\n",
        "nnunet_train.sh": f"for fold in {' '.join(map(str, range(folds))) or 'all'}; do\n"
        f'    nnUNetv2_train {folder.number} 3d_fullres "$fold"\ndone\n',
    }
    for name, step in steps.items():
        path = folder.root / name
        write_text(path, exports + step)
        path.chmod(0o755)
    for name in ("nnUNet_preprocessed", "nnUNet_results"):
        make_folder(folder.root / name)


def check_strategy(strategy: MaskStrategy, labels: Sequence[LabelPatterns], coding: RegionCodes) -> None:
    """Refuse before work starts what the labels cannot be written as.

    Raises
    ------
    ConfigError
        ``ignore-label``: nnU-Net does not train on the label of this name, and wants it to be the last integer.
    OutputError
        ``too-many-regions``: bitmask coding with too many labels; ``too-many-labels``: beyond int16.
    """
    names = [label.name for label in labels]
    if IGNORE_LABEL in names and (strategy is MaskStrategy.REGION_MASK or names[-1] != IGNORE_LABEL):
        raise ConfigError(
            f"the label {IGNORE_LABEL!r}, on which nnU-Net does not train, has to be its last one, and no region",
            code="ignore-label",
            hint="put it last in the ROI map, without region_mask; or give it another name",
        )
    if len(labels) > MAX_LABEL:
        raise OutputError(
            f"{len(labels)} labels do not fit into nnU-Net's int16",
            code="too-many-labels",
            hint=f"name at most {MAX_LABEL} labels in the ROI map",
        )
    if strategy is MaskStrategy.REGION_MASK and coding == "bitmask":
        make_region_table(names, (), coding)
