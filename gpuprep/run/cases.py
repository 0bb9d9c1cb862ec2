"""Cases in memory: found by their headers, read when they are asked for; no file is written.

>>> import gpuprep
>>> cases = gpuprep.find_cases("/data/dicoms", "CT,RTSTRUCT", transforms=gpuprep.Transforms(spacing_xyz_mm=(1, 1, 3)))
>>> case = cases[0]
>>> case.images[0].array, case.images[0].geometry.index_to_lps, case.mask.binary(0)
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, overload

from gpuprep.config import (
    MultipleSegmentations,
    OnMissing,
    RoiOptions,
    RoiStrategy,
    Stacking,
    Transforms,
    check_choice,
)
from gpuprep.errors import CaseError
from gpuprep.hostlib import usable_cores
from gpuprep.masks import RoiMask
from gpuprep.run.case import CaseOptions, process_case
from gpuprep.run.ledger import FileProblem
from gpuprep.run.plan import CasePlan, FailedPlan, StudyModalities, plan_segmented_cases, plan_study_cases
from gpuprep.run.slots import BackendChoice, slot_backend
from gpuprep.run.sources import open_sources
from gpuprep.volume import Volume
from gpuprep.writers.base import Output

#: Each ROI is a label of its own, and one that holds no voxel an empty one.
EVERY_ROI = RoiOptions(labels=(), strategy=RoiStrategy.SEPARATE, on_missing=OnMissing.WARN)
#: Voxels as they were acquired, and regular series alone.
UNCHANGED = Transforms()
REGULAR = Stacking()


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """One training item.

    Parameters
    ----------
    name : str
        As a job would call it on disk.
    patient : str
        What splits have to keep together: Patient ID, or the study when there is none.
    images : tuple of Volume
        One a channel, on one grid: arrays (D, H, W) of NumPy, int16, int32 or float32, in modality units (HU, SUVbw).
    mask : RoiMask or None
        The labels, on the same grid; None without segmentation.
    record : mapping
        A `CaseRecord`, JSON-ready: what was used and done, and ``warnings``.
    """

    name: str
    patient: str
    images: tuple[Volume, ...]
    mask: RoiMask | None
    record: Mapping[str, Any]


@dataclass(frozen=True, slots=True, eq=False)
class Cases(Sequence[Case]):
    """Cases that are read when they are taken: ``cases[0]``. Picklable, and small: a map-style data set.

    Taking a case raises

    - `CaseError`, with the code and hint that a job would put into its report: of this case alone;
    - `BackendUnavailableError`: the backend that was asked for cannot work here.

    Parameters
    ----------
    plans : tuple of CasePlan or FailedPlan
        ``case`` is the name of each, ``patient`` its patient.
    problems : tuple of FileProblem
        Files that could not be used, and why.
    options : CaseOptions
    choice : BackendChoice
    """

    plans: tuple[CasePlan | FailedPlan, ...]
    problems: tuple[FileProblem, ...]
    options: CaseOptions
    choice: BackendChoice

    def __len__(self) -> int:
        return len(self.plans)

    @overload
    def __getitem__(self, index: int) -> Case: ...
    @overload
    def __getitem__(self, index: slice) -> Cases: ...
    def __getitem__(self, index: int | slice) -> Case | Cases:
        if isinstance(index, slice):
            return replace(self, plans=self.plans[index])
        plan = self.plans[index]
        if isinstance(plan, FailedPlan):
            raise plan.error
        kept = _Kept()
        row = process_case(plan, self.options, slot_backend(self.choice), kept, self.choice.threads)
        if row.status == "failed":
            raise CaseError(row.message, code=row.code, subject=row.subject, hint=row.hint)
        images = tuple(kept.images[channel] for channel in sorted(kept.images))
        return Case(plan.case, plan.patient, images, kept.mask, row.details)


def find_cases(
    sources: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    modalities: str,
    *,
    rois: RoiOptions = EVERY_ROI,
    transforms: Transforms = UNCHANGED,
    stacking: Stacking = REGULAR,
    multiple: MultipleSegmentations = MultipleSegmentations.ERROR,
    backend: str = "cpu",
    threads: int | None = None,
) -> Cases:
    """Read the headers below folders, link what belongs together, and return the cases.

    Parameters
    ----------
    sources : path or sequence of paths
        Folders, where DICOM is found by content, or an index written by ``gpuprep index``.
    modalities : str
        ``CT,RTSTRUCT``: images (CT, MR, PT) and segmentations (RTSTRUCT, SEG). With segmentations, an image of the
        first modality that has some is a case, and further modalities are further channels on its grid; without, each
        volume of an image series is.
    rois : RoiOptions
        How ROIs become labels; by default each is one. `gpuprep.load_roi_patterns` reads a map of labels.
    transforms : Transforms
    stacking : Stacking
    multiple : MultipleSegmentations
        What several segmentations of an image mean.
    backend : {"cpu", "cuda", "auto", "reference"}
        Where the work is done; the arrays are NumPy's on any. A process that uses CUDA must not be forked.
    threads : int, optional
        Of the host, for reading and computing; all cores by default.

    Raises
    ------
    InputNotFoundError
        ``path-missing``, ``no-dicom-found``.
    ConfigError
        ``bad-modalities``; ``unknown-choice``; what is wrong with an index.
    """
    paths = [Path(p) for p in ([sources] if isinstance(sources, str | os.PathLike) else sources)]
    wanted = StudyModalities.parse(modalities)
    check_choice("treatment of several segmentations", multiple, MultipleSegmentations)
    multiple = MultipleSegmentations(multiple)
    threads = threads or usable_cores()
    found = open_sources(paths, index_path=None, workers=threads)
    if wanted.segmentations:
        plans = plan_segmented_cases(
            found.series, found.links, images=wanted.images, segmentations=wanted.segmentations, multiple=multiple
        )
    else:
        plans = plan_study_cases(
            found.series, found.links, wanted, stacking=stacking, images_with_masks=False, doses_on_images=False
        )
    options = CaseOptions(transforms, stacking, rois, multiple)
    return Cases(tuple(plans), found.problems, options, BackendChoice(backend, threads))


@dataclass(slots=True)
class _Kept:
    """A `CaseWriter` that keeps what it is given. What a failed try leaves, the next one replaces."""

    config: str = ""
    images: dict[int, Volume] = field(default_factory=dict)
    mask: RoiMask | None = None

    def write_image(self, case: str, channel: int, volume: Volume) -> Sequence[Output]:
        self.images[channel] = volume
        return ()

    def write_mask(self, case: str, mask: RoiMask, record: object) -> Sequence[Output]:
        self.mask = mask
        return ()

    def discard(self, case: str) -> None:
        pass
