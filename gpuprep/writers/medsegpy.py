"""MedSegPy data sets: HDF5 slices or volumes, ``dataset.json``, ``register_medsegpy.py``.

What MedSegPy's own loaders do is the contract here: they parse the full path of a file with a regular expression,
rebuild names as ``%07d_V%02d-Aug%02d_%03d``, count slices from 1, read ``data`` of an image (H, W, 1) and its mask
(H, W, 1, C) or ``volume`` (H, W, D) and ``seg`` (H, W, D, C) of one file, and *sum* the channels of a collated class.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from gpuprep.codes import apply_rows
from gpuprep.errors import ConfigError, OutputError, WriteError
from gpuprep.geometry import VolumeGeometry
from gpuprep.masks import RoiMask
from gpuprep.texts import read_yaml
from gpuprep.volume import Volume
from gpuprep.writers.atomic import PART_SUFFIX, remove_file, replacing, write_text
from gpuprep.writers.base import Output
from gpuprep.writers.colours import choose_colours
from gpuprep.writers.hdf5 import open_hdf5, write_slices
from gpuprep.writers.nifti import IMAGE_LEVEL, LABEL_LEVEL
from gpuprep.writers.record import CaseRecord
from gpuprep.writers.sidecar import count_combinations, describe_labels, describe_sources, parse_grid, write_json
from gpuprep.writers.splits import SHARE_TOLERANCE, draw_order

Layout = Literal["2d", "3d"]
Split = Literal["train", "val", "test"]

SPLITS: tuple[Split, ...] = get_args(Split)
_SPLIT_FILE_HINT = 'write YAML: {train: ["P1", "P2"], test: ["P3"]}'
#: Digits of a slice number in MedSegPy's names; with more, files would not sort.
MAX_SLICES = 999
MAX_TIME_POINT = 99
MAX_SUBJECT = 9_999_999

#: What MedSegPy splits full paths with: a folder that matches breaks it.
_PATH_PATTERNS: dict[Layout, str] = {"2d": r"\d+_V\d+-Aug\d+_\d+", "3d": r"\d+_V\d+"}
_FILE_PATTERN = r"\d{7}_V\d{2}(-Aug\d{2}_\d{3}\.(im|seg)|\.h5)"
#: (slice, row, column) → (row, column, slice), homogeneous.
_TO_HWD = [1, 2, 0, 3]


@dataclass(frozen=True, slots=True)
class MedsegpyWriter:
    """Writes cases into ``train/``, ``val/`` and ``test/``.

    Parameters
    ----------
    root : Path
        The output folder.
    layout : {"2d", "3d"}
    scan_ids : dict
        Case → ``%07d_V%02d``.
    splits : dict
        Case → split.
    threads : int
        Compression threads.
    """

    root: Path
    layout: Layout
    scan_ids: dict[str, str]
    splits: dict[str, Split]
    threads: int = 1

    @property
    def config(self) -> str:
        """The layout."""
        return self.layout

    def write_mask(self, case: str, mask: RoiMask, record: CaseRecord) -> Sequence[Output]:
        """Write the ``.seg`` of each slice; in 3-D keep ``seg`` ready for `write_image`, which completes the file.

        `record` gets what `describe_labels` says.

        Raises
        ------
        WriteError
            ``too-many-slices``: more than 999 in 2-D.
        """
        record |= describe_labels(mask)
        self.discard(case)
        lut = mask.members.astype(np.uint8)
        attributes = {"classes": [roi.name for roi in mask.rois]}

        def channels(number: int) -> NDArray[np.uint8]:
            chosen = np.empty((*mask.codes.shape[1:], len(mask.rois)), np.uint8)
            apply_rows(lut, mask.codes[number], chosen)
            return chosen

        depth = mask.geometry.shape[0]
        if self.layout == "2d":
            if depth > MAX_SLICES:
                raise WriteError(
                    f"{depth} slices do not fit into MedSegPy's three digits",
                    code="too-many-slices",
                    subject=case,
                    hint="use --format 3d, crop, or a coarser spacing along the slices",
                )
            return [self._write_slice(case, n, ".seg", channels(n), LABEL_LEVEL, attributes) for n in range(depth)]
        waiting = self._waiting(self.scan_ids[case], self.splits[case])
        with replacing(waiting) as part, open_hdf5(part, "w", extra="medsegpy") as file:
            write_slices(file, "seg", channels, depth, level=LABEL_LEVEL, threads=self.threads, attributes=attributes)
        return ()

    def write_image(self, case: str, channel: int, volume: Volume) -> Sequence[Output]:
        """Write the ``.im`` of each slice as float32, or ``volume`` and with it the file."""
        array, geometry = volume.array, volume.geometry
        depth = geometry.shape[0]
        if self.layout == "2d":
            return [
                self._write_slice(
                    case,
                    n,
                    ".im",
                    array[n].astype(np.float32, copy=False),
                    IMAGE_LEVEL,
                    _describe(geometry.crop((n, 0, 0), (1, *geometry.shape[1:]))),
                )
                for n in range(depth)
            ]
        path = self._volume(case)
        with replacing(path) as part:
            self._waiting(self.scan_ids[case], self.splits[case]).replace(part)
            with open_hdf5(part, "r+", extra="medsegpy") as file:
                write_slices(
                    file,
                    "volume",
                    lambda n: array[n],
                    depth,
                    level=IMAGE_LEVEL,
                    threads=self.threads,
                    attributes=_describe(geometry),
                )
        return [self._output(path)]

    def discard(self, case: str) -> None:
        """Remove the files of a case, whatever its split and layout."""
        scan = self.scan_ids.get(case)
        if scan is None:
            return
        for split in SPLITS:
            remove_file(self._waiting(scan, split))
            remove_file(self.root / split / f"{scan}.h5")
            stem = self.root / split / f"{scan}-Aug00_"
            for path in [p for suffix in (".im", ".seg") for p in reversed(list(_numbered(stem, suffix)))]:
                remove_file(path)

    def _volume(self, case: str) -> Path:
        return self.root / self.splits[case] / f"{self.scan_ids[case]}.h5"

    def _waiting(self, scan: str, split: Split) -> Path:
        """Where the masks of a scan in 3-D wait for its image."""
        return self.root / split / f".{scan}.seg{PART_SUFFIX}"

    def _write_slice(
        self, case: str, number: int, suffix: str, array: NDArray[Any], level: int, attributes: Mapping[str, Any]
    ) -> Output:
        path = self.root / self.splits[case] / f"{self.scan_ids[case]}-Aug00_{number + 1:03d}{suffix}"
        with replacing(path) as part, open_hdf5(part, "w", extra="medsegpy") as file:
            write_slices(file, "data", lambda _: array, 1, level=level, threads=1, attributes=attributes)
        return self._output(path)

    def _output(self, path: Path) -> Output:
        return Output(path.relative_to(self.root).as_posix(), path.stat().st_size, 0)


def _numbered(stem: Path, suffix: str) -> Iterator[Path]:
    """Yield the slices 1, 2, … that are there, up to the first that is not."""
    for number in range(1, MAX_SLICES + 1):
        path = stem.with_name(f"{stem.name}{number:03d}{suffix}")
        if not path.exists():
            return
        yield path


def _describe(geometry: VolumeGeometry) -> dict[str, Any]:
    return {
        "spacing_hwd_mm": geometry.spacing_dhw_mm[[1, 2, 0]],
        "index_hwd_to_lps_mm": geometry.index_to_lps[:, _TO_HWD],
    }


@dataclass(frozen=True, slots=True)
class Numbering:
    """Which numbers stand for patients and their scans; kept beside the data set, so that they never change.

    Parameters
    ----------
    subjects : dict
        Patient → subject number, from 1.
    scans : dict
        Case → (patient, time point), time points from 0 for each patient.
    """

    subjects: dict[str, int]
    scans: dict[str, tuple[str, int]]

    def scan_ids(self) -> dict[str, str]:
        """Return case → ``%07d_V%02d``."""
        return {
            case: f"{self.subjects[patient]:07d}_V{time_point:02d}"
            for case, (patient, time_point) in self.scans.items()
        }


def extend_numbering(known: Numbering, cases: Iterable[tuple[str, str, str]]) -> Numbering:
    """Return a numbering with all `cases`; what `known` says stays.

    Parameters
    ----------
    known : Numbering
    cases : iterable of (case, patient, study date)
        New patients are numbered in the order of their names, new cases of a patient by date and then by name. A time
        point is one scan: two scans of one day are two.

    Raises
    ------
    OutputError
        ``too-many-scans``: more than 9 999 999 patients, or 100 scans of one.
    """
    subjects, scans = dict(known.subjects), dict(known.scans)
    next_subject = max(subjects.values(), default=0) + 1
    next_time_point: dict[str, int] = {}
    for patient, time_point in scans.values():
        next_time_point[patient] = max(next_time_point.get(patient, 0), time_point + 1)
    for patient, _, case in sorted((patient, date, case) for case, patient, date in cases if case not in scans):
        if patient not in subjects:
            subjects[patient] = next_subject
            next_subject += 1
        scans[case] = patient, next_time_point.get(patient, 0)
        next_time_point[patient] = scans[case][1] + 1
    if next_subject > MAX_SUBJECT + 1 or max(next_time_point.values(), default=0) > MAX_TIME_POINT + 1:
        raise OutputError(
            "MedSegPy's names hold 7 digits of subjects and 2 of time points",
            code="too-many-scans",
            hint="convert some of the patients, or studies, into another output folder",
        )
    return Numbering(subjects, scans)


def read_numbering(path: Path) -> Numbering:
    """Read what `write_numbering` wrote; empty when there is no file.

    Raises
    ------
    OutputError
        ``numbering-unreadable``: guessing would give numbers to other patients.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        scans = {case: (scan["patient"], int(scan["time_point"])) for case, scan in content["scans"].items()}
        return Numbering({patient: int(n) for patient, n in content["subjects"].items()}, scans)
    except FileNotFoundError:
        return Numbering({}, {})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise OutputError(
            f"the numbers of patients cannot be read: {type(error).__name__}",
            code="numbering-unreadable",
            subject=str(path),
            hint="restore the file, or choose another output folder",
        ) from error


def write_numbering(path: Path, numbering: Numbering) -> None:
    """Write ``subjects.json``; it names patients, and is not part of what is shared."""
    scans = {case: {"patient": p, "time_point": t} for case, (p, t) in sorted(numbering.scans.items())}
    write_json(path, {"subjects": numbering.subjects, "scans": scans})


@dataclass(frozen=True, slots=True)
class Collation:
    """A class that is the union of others; MedSegPy sums their channels."""

    name: str
    members: tuple[str, ...]

    @classmethod
    def parse(cls, text: str, labels: Sequence[str]) -> Collation:
        """Read ``pet=dog,cat``.

        Raises
        ------
        ConfigError
            ``bad-collation``.
        """
        name, _, rest = text.partition("=")
        name, members = name.strip(), tuple(part.strip() for part in rest.split(","))
        if not name or name in labels or len(set(members)) < max(2, len(members)) or not set(members) <= set(labels):
            raise ConfigError(
                f"collated class {text!r} is not understood",
                code="bad-collation",
                hint=f"write NAME=LABEL,LABEL with a new name and two or more of: {', '.join(labels)}",
            )
        return cls(name, members)


def parse_shares(text: str) -> dict[Split, float]:
    """Read ``train=.7,val=.15,test=.15``.

    Raises
    ------
    ConfigError
        ``bad-splits``: another name, a name twice, or shares that are negative or do not sum up to 1.
    """
    shares: dict[Split, float] = {}
    try:
        for part in text.split(","):
            name, _, share = part.partition("=")
            (split,) = (s for s in SPLITS if s == name.strip() and s not in shares)
            shares[split] = float(share)
    except ValueError:
        shares = {}
    if not all(share >= 0 for share in shares.values()) or abs(sum(shares.values()) - 1) > SHARE_TOLERANCE:
        raise ConfigError(
            f"splits {text!r} are not understood",
            code="bad-splits",
            hint="write shares that sum up to 1, as in train=.7,val=.15,test=.15",
        )
    return shares


def assign_splits(patients: Iterable[str], shares: Mapping[Split, float], seed: int) -> dict[str, Split]:
    """Assign whole patients: in drawn order, the first to the first split, with cumulative counts rounded half up."""
    order = draw_order(patients, seed)
    assigned: dict[str, Split] = {}
    total = 0.0
    for split, share in shares.items():
        total += share
        for patient in order[len(assigned) : int(total * len(order) + 0.5 + SHARE_TOLERANCE)]:
            assigned[patient] = split
    return assigned


def read_split_file(path: Path) -> dict[str, Split]:
    """Read a YAML or JSON map split → list of patient IDs.

    Raises
    ------
    ConfigError
        ``bad-splits``: it cannot be read, is not such a map, or has a patient twice.
    """
    content = read_yaml(path, code="bad-splits", repeated="bad-splits", hint=_SPLIT_FILE_HINT, texts=True)
    if not isinstance(content, dict) or not content.keys() <= set(SPLITS):
        raise _bad_split_file(path, "not a map of train, val and test")
    listed: dict[str, Split] = {}
    for split in SPLITS:
        patients = content.get(split) or []
        if not isinstance(patients, list) or not all(isinstance(patient, str) for patient in patients):
            raise _bad_split_file(path, f"{split} is no list of patient IDs")
        for patient in patients:
            if patient in listed:
                raise _bad_split_file(path, f"patient {patient!r} occurs twice")
            listed[patient] = split
    return listed


def _bad_split_file(path: Path, reason: str) -> ConfigError:
    return ConfigError(reason, code="bad-splits", subject=str(path), hint=_SPLIT_FILE_HINT)


def check_output(root: Path, layout: Layout) -> None:
    """Refuse an output folder that MedSegPy's loaders would stumble over.

    Raises
    ------
    ConfigError
        ``path-breaks-reader``: its path matches the pattern by which MedSegPy finds numbers in full paths.
    OutputError
        ``foreign-files``: a split folder holds other files, which MedSegPy would parse.
    """
    for path in {root.absolute(), root.resolve()}:
        found = re.search(_PATH_PATTERNS[layout], str(path))
        if found:
            raise ConfigError(
                f"MedSegPy would take {found[0]!r} in the path for the number of a scan",
                code="path-breaks-reader",
                subject=str(path),
                hint="choose an output folder without such a name above it",
            )
    for split in SPLITS:
        folder = root / split
        for entry in sorted(folder.iterdir()) if folder.is_dir() else ():
            if not re.fullmatch(_FILE_PATTERN, entry.name) and not entry.name.endswith(PART_SUFFIX):
                raise OutputError(
                    "the folder holds files of others, which MedSegPy would take for scans",
                    code="foreign-files",
                    subject=str(entry),
                    hint="move them away, or choose another output folder",
                )


def write_dataset_json(
    root: Path,
    *,
    name: str,
    layout: Layout,
    labels: Sequence[str],
    collations: Sequence[Collation],
    scans: Mapping[str, tuple[Split, Mapping[str, Any]]],
) -> list[str]:
    """Write ``dataset.json``, which the readers and ``register_medsegpy.py`` rely on.

    Parameters
    ----------
    root : Path
        The output folder.
    name : str
        Under which the script registers the data set.
    layout : {"2d", "3d"}
    labels : sequence of str
        Classes in channel order.
    collations : sequence of Collation
        Classes that are unions of others.
    scans : mapping
        Scan id → split, and the details of its case (`CaseRow.details`).

    Returns
    -------
    list of str
        Warnings: scans and collated classes whose members overlap, where MedSegPy's sum exceeds 1; slices of several
        sizes, of which MedSegPy makes no batches.
    """
    colours = choose_colours(labels, [details["colours"] for _, details in scans.values()])
    overlaps = {
        (scan, c.name): found
        for scan, (_, details) in scans.items()
        for c in collations
        if (found := [o for o in details["overlaps"] if o[0] in c.members and o[1] in c.members])
    }
    content = {
        "name": name,
        "format": layout,
        "axes": {"image": "HWD", "masks": "HWDC", "H": "rows", "W": "columns", "D": "slices", "C": "classes"},
        "splits": list(SPLITS),
        "classes": [{"id": i, "name": n, "color": list(colours[i])} for i, n in enumerate(labels)],
        "collated": [
            {
                "id": [labels.index(m) for m in c.members],
                "name": c.name,
                "color": list(colours[labels.index(c.members[0])]),
            }
            for c in collations
        ],
        "collation_overlaps": [
            {"scan": scan, "class": of, "members": [a, b], "voxels": voxels}
            for (scan, of), found in overlaps.items()
            for a, b, voxels in found
        ],
        "combinations": count_combinations(details for _, details in scans.values()),
        "scans": {
            scan: {"split": split, **_describe_scan(details)} for scan, (split, details) in sorted(scans.items())
        },
    }
    write_json(root / "dataset.json", content)
    sizes = {tuple(d["grid"]["shape_dhw"][1:]) for _, d in scans.values()}
    warnings = [
        f"{scan}: members of {of!r} overlap, and MedSegPy sums them: "
        + ", ".join(f"{a!r} and {b!r} ({voxels} voxels)" for a, b, voxels in found)
        for (scan, of), found in overlaps.items()
    ]
    if len(sizes) > 1:
        listed = ", ".join(f"{height} × {width}" for height, width in sorted(sizes)[:5])
        warnings.append(f"slices have {len(sizes)} sizes ({listed}, …), and MedSegPy makes batches of one size only")
    return warnings


def _describe_scan(details: Mapping[str, Any]) -> dict[str, Any]:
    geometry = parse_grid(details["grid"])
    depth, height, width = geometry.shape
    return {
        "shape_hwd": [height, width, depth],
        **{key: value.tolist() for key, value in _describe(geometry).items()},
        **describe_sources(details),
    }


def write_register_script(root: Path) -> None:
    """Write ``register_medsegpy.py``: the data set functions and metadata that MedSegPy wants from its users."""
    write_text(root / "register_medsegpy.py", _REGISTER_SCRIPT)


_REGISTER_SCRIPT = '''"""Registers this data set with MedSegPy. Before building a loader:

    import register_medsegpy
    names = register_medsegpy.register()    # one data set for each split that has scans
"""

import json
from pathlib import Path

ROOT = Path(__file__).resolve().parent
CONTENT = json.loads((ROOT / "dataset.json").read_text(encoding="utf-8"))
CATEGORIES = [*CONTENT["classes"], *CONTENT["collated"]]
#: MedSegPy looks metadata up by cfg.PRIMARY_TASK, which is empty by default.
TASKS = ("segmentation", "")


def get_dicts(split):
    """Return MedSegPy's data set dicts of a split: one a slice (2d) or one a scan (3d)."""
    dicts = []
    for scan_id, scan in CONTENT["scans"].items():
        if scan["split"] != split:
            continue
        subject, time_point = scan_id.split("_V")
        height, width, depth = scan["shape_hwd"]
        common = {
            "scan_id": scan_id,
            "subject_id": int(subject),
            "time_point": int(time_point),
            "scan_num_slices": depth,
            "scan_spacing": tuple(scan["spacing_hwd_mm"]),
        }
        folder = ROOT / split
        if CONTENT["format"] == "3d":
            path = str(folder / f"{scan_id}.h5")
            dicts.append({**common, "file_name": path, "sem_seg_file": path, "image_size": (height, width, depth)})
            continue
        for number in range(1, depth + 1):
            stem = str(folder / f"{scan_id}-Aug00_{number:03d}")
            dicts.append(
                {**common, "file_name": stem + ".im", "sem_seg_file": stem + ".seg", "slice_id": number}
            )
    return dicts


def metadata(split):
    """Return MedSegPy's metadata of a split."""
    ids = [tuple(c["id"]) if isinstance(c["id"], list) else c["id"] for c in CATEGORIES]
    spacings = {tuple(s["spacing_hwd_mm"]) for s in CONTENT["scans"].values() if s["split"] == split}
    return {
        "scan_root": str(ROOT / split),
        "category_ids": ids,
        "categories": [c["name"] for c in CATEGORIES],
        "category_id_to_contiguous_id": {task: {id_: n for n, id_ in enumerate(ids)} for task in TASKS},
        "category_colors": [tuple(c["color"]) for c in CATEGORIES],
        "evaluator_type": "SemSegEvaluator",
        "spacing": spacings.pop() if len(spacings) == 1 else None,  # else each dict has its own, scan_spacing
    }


def register(name=CONTENT["name"]):
    """Register each split that has scans as NAME_SPLIT; return these names."""
    from medsegpy.data.catalog import DatasetCatalog, MetadataCatalog

    names = []
    for split in CONTENT["splits"]:
        if any(scan["split"] == split for scan in CONTENT["scans"].values()):
            names.append(f"{name}_{split}")
            DatasetCatalog.register(names[-1], lambda split=split: get_dicts(split))
            MetadataCatalog.get(names[-1]).set(**metadata(split))
    return names
'''
