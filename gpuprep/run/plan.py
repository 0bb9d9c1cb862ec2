"""Series and links → the cases to run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from gpuprep.config import MultipleSegmentations, Stacking, digest
from gpuprep.dicom.header import InstanceHeader
from gpuprep.dicom.index import Series
from gpuprep.dicom.link import Link, LinkResult
from gpuprep.dicom.stack import build_stacks
from gpuprep.errors import CaseError, ConfigError, LinkError
from gpuprep.writers.names import safe_name, text_digest

#: Modalities that hold segmentations.
SEGMENTATION_MODALITIES = ("RTSTRUCT", "SEG")
#: Modalities that can be channels, and what people also call them.
IMAGE_MODALITIES = {"CT": "CT", "MR": "MR", "PT": "PT", "PET": "PT", "MRI": "MR"}


@dataclass(frozen=True, slots=True)
class Channel:
    """One image series of a case; `volume` names the one that is meant where the series holds several."""

    modality: str
    series_instance_uid: str
    instances: tuple[InstanceHeader, ...]
    volume: str | None = None


@dataclass(frozen=True, slots=True)
class CasePlan:
    """One training item, as a worker receives it.

    Parameters
    ----------
    case : str
        Its name on disk: safe, unique in the job, the same in every run.
    patient : str
        What splits keep together: Patient ID, or the study when there is none.
    channels : tuple of Channel
        The first one gives the grid.
    segmentations : tuple of InstanceHeader
        The RTSTRUCT and SEG instances linked to the first channel; empty for image-only jobs.
    link_evidence : tuple of str
        How each of them was linked.
    findings : tuple of str
        What was noticed about series and links, and accepted.
    key : str
        Digest of the input files; with the configuration's it decides whether a finished case still holds.
    """

    case: str
    patient: str
    channels: tuple[Channel, ...]
    segmentations: tuple[InstanceHeader, ...]
    link_evidence: tuple[str, ...]
    findings: tuple[str, ...]
    key: str

    @property
    def input_bytes(self) -> int:
        """Bytes of all input files."""
        return sum(i.size for c in self.channels for i in c.instances) + sum(s.size for s in self.segmentations)


@dataclass(frozen=True, slots=True)
class FailedPlan:
    """A case that cannot even be planned."""

    case: str
    patient: str
    error: CaseError


def parse_modalities(text: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Split ``CT,PET,RTSTRUCT`` into image modalities (in channel order) and segmentation modalities.

    Raises
    ------
    ConfigError
        ``bad-modalities``: an unknown or repeated one.
    """
    names = [part.strip().upper() for part in text.split(",") if part.strip()]
    images = tuple(IMAGE_MODALITIES[n] for n in names if n in IMAGE_MODALITIES)
    segmentations = tuple(n for n in names if n in SEGMENTATION_MODALITIES)
    if len(images) + len(segmentations) < len(names) or len(set(images)) < len(images):
        raise ConfigError(
            f"modalities {text!r} are not understood",
            code="bad-modalities",
            hint="name images (CT, MR, PT) and segmentations (RTSTRUCT, SEG), as in CT,RTSTRUCT",
        )
    return images, segmentations


def plan_segmented_cases(
    series: Sequence[Series],
    links: LinkResult,
    *,
    images: Sequence[str],
    segmentations: Sequence[str],
    multiple: MultipleSegmentations,
) -> list[CasePlan | FailedPlan]:
    """Make one case for each image series of the first modality that has segmentations.

    Further modalities become further channels: of the same study, in the same frame of reference, exactly one.
    With `MultipleSegmentations.ALL` each segmentation is a case of its own (two files that say to be the same
    instance, and differ, are two); otherwise a case gets all of its image and the worker, who reads their ROI names,
    decides. A segmentation without image is a failed case.

    Raises
    ------
    ConfigError
        ``bad-modalities``: no image or no segmentation modality.
    """
    if not images or not segmentations:
        raise ConfigError(
            "a labelled data set needs an image modality and a segmentation modality",
            code="bad-modalities",
            hint="write, for example, --modalities CT,RTSTRUCT",
        )
    by_uid = {s.series_instance_uid: s for s in series if s.is_image}
    linked: dict[str, list[Link]] = {}
    for link in links.links:
        image = by_uid[link.image_series_uid]
        if image.modality == images[0] and link.segmentation.modality in segmentations:
            linked.setdefault(link.image_series_uid, []).append(link)
    plans: list[CasePlan | FailedPlan] = []
    for uid, found in sorted(linked.items()):
        found.sort(key=lambda link: (link.segmentation.sop_instance_uid, link.segmentation.path))
        if multiple is not MultipleSegmentations.ALL:
            plans.append(_plan(by_uid[uid], (uid,), found, images[1:], series))
            continue
        seen: Counter[str] = Counter()
        for link in found:
            segmentation_uid = link.segmentation.sop_instance_uid
            identity = (uid, segmentation_uid, *("again" for _ in range(seen[segmentation_uid])))
            seen[segmentation_uid] += 1
            plans.append(_plan(by_uid[uid], identity, [link], images[1:], series))
    headers = {i.path: i for s in series for i in s.instances}
    for error in links.problems:
        segmentation = headers[error.subject]
        if segmentation.modality in segmentations:
            case = f"{safe_name(segmentation.patient_id, 'anonymous')}_unlinked_{text_digest(error.subject)}"
            plans.append(FailedPlan(case, segmentation.patient_id or segmentation.study_instance_uid, error))
    return plans


def plan_image_cases(
    series: Sequence[Series], modalities: Sequence[str], stacking: Stacking
) -> list[CasePlan | FailedPlan]:
    """Make one case for each volume of each image series of the given modalities."""
    plans: list[CasePlan | FailedPlan] = []
    for image in series:
        if image.modality not in modalities or not image.is_image:
            continue
        whole = _plan(image, (image.series_instance_uid,), (), (), series)
        try:
            stacks = build_stacks(
                image.instances,
                spacing_tolerance=stacking.spacing_tolerance,
                on_irregular=stacking.on_irregular,
            )
        except CaseError as error:
            plans.append(FailedPlan(whole.case, whole.patient, error))
            continue
        if len(stacks) == 1 or isinstance(whole, FailedPlan):
            plans.append(whole)
            continue
        for stack in stacks:
            case = f"{whole.case}_{safe_name(stack.label)}"
            channel = replace(whole.channels[0], volume=stack.label)
            plans.append(replace(whole, case=case, channels=(channel,)))
    return plans


def _plan(
    image: Series,
    identity: Sequence[str],
    links: Sequence[Link],
    further: Sequence[str],
    series: Sequence[Series],
) -> CasePlan | FailedPlan:
    patient = image.patient_id or image.study_instance_uid
    case = f"{safe_name(image.patient_id, 'anonymous')}_{text_digest('/'.join(identity))}"
    try:
        channels = (_channel(image), *(_channel(_find_channel(image, m, series)) for m in further))
    except LinkError as error:
        return FailedPlan(case, patient, error)
    segmentations = tuple(link.segmentation for link in links)
    files = [i for c in channels for i in c.instances] + list(segmentations)
    key = digest(sorted((f.sop_instance_uid, f.path, f.size, f.mtime_ns) for f in files))
    noticed = [*image.findings, *(f for link in links for f in link.findings)]
    findings = tuple(f"{f.code}: {f.message}" for f in noticed)
    return CasePlan(case, patient, channels, segmentations, tuple(link.evidence for link in links), findings, key)


def _channel(series: Series) -> Channel:
    for finding in series.findings:
        if finding.code == "conflicting-patient-ids":
            raise LinkError(finding.message, code=finding.code, subject=series.series_instance_uid)
    return Channel(series.modality, series.series_instance_uid, series.instances)


def _find_channel(image: Series, modality: str, series: Sequence[Series]) -> Series:
    frame = image.instances[0].frame_of_reference_uid
    found = [
        s
        for s in series
        if s.is_image
        and s.modality == modality
        and s.study_instance_uid == image.study_instance_uid
        and s.instances[0].frame_of_reference_uid == frame
    ]
    if len(found) == 1:
        return found[0]
    if not found:
        raise LinkError(
            f"its study has no {modality} series in the same frame of reference",
            code="channel-missing",
            subject=image.series_instance_uid,
            hint=f"leave {modality} out of --modalities, or bring the missing series",
        )
    raise LinkError(
        f"its study has {len(found)} {modality} series in the same frame of reference: "
        + ", ".join(s.series_instance_uid for s in found),
        code="channel-ambiguous",
        subject=image.series_instance_uid,
        hint="put the series that is meant into a folder of its own",
    )
