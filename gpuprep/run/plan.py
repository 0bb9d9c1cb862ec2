"""Series and links → the cases to run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from gpuprep.config import MultipleSegmentations, Stacking, digest
from gpuprep.dicom.findings import Finding
from gpuprep.dicom.header import InstanceHeader
from gpuprep.dicom.index import Series, SeriesKey
from gpuprep.dicom.link import PATIENTS_APART, Link, LinkResult
from gpuprep.dicom.pet import ATTENUATION, corrections_of
from gpuprep.dicom.stack import BrokenVolume, Stack, build_volumes
from gpuprep.errors import CaseError, ConfigError, LinkError
from gpuprep.writers.names import safe_name, text_digest

#: Modalities that hold segmentations.
SEGMENTATION_MODALITIES = ("RTSTRUCT", "SEG")
#: That of RT Doses.
DOSE_MODALITY = "RTDOSE"
#: Modalities that can be channels, by what people call them too.
IMAGE_MODALITIES = {"CT": "CT", "MR": "MR", "PT": "PT", "PET": "PT", "MRI": "MR"}


@dataclass(frozen=True, slots=True)
class Channel:
    """One image series of a case.

    Parameters
    ----------
    modality, series_instance_uid : str
    instances : tuple of InstanceHeader
        Its images, in the order of their paths; with `stack` those of that volume, but for PET all, since SUV depends
        on when the first was acquired.
    stack : Stack or None
        The volume that is meant where the series holds several, so that no case has to sort out the whole series.
    """

    modality: str
    series_instance_uid: str
    instances: tuple[InstanceHeader, ...]
    stack: Stack | None = None


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
    dose : InstanceHeader or None
        RT Dose to be written: on the grid of the first channel, or on its own when there is no channel.
    writes_images : bool
        Whether the channels are written, or only give the grid.
    """

    case: str
    patient: str
    channels: tuple[Channel, ...]
    segmentations: tuple[InstanceHeader, ...]
    link_evidence: tuple[str, ...]
    findings: tuple[str, ...]
    key: str
    dose: InstanceHeader | None = None
    writes_images: bool = True

    @property
    def files(self) -> tuple[InstanceHeader, ...]:
        """All input files."""
        images = (i for c in self.channels for i in c.instances)
        return (*images, *self.segmentations, *([self.dose] if self.dose else []))

    @property
    def input_bytes(self) -> int:
        """Bytes of all input files."""
        return sum(i.size for i in self.files)

    @property
    def subject(self) -> str:
        """What messages name: the first channel's series, or the dose."""
        return self.channels[0].series_instance_uid if self.channels else self.files[0].sop_instance_uid


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


@dataclass(frozen=True, slots=True)
class StudyModalities:
    """What of a study is wanted.

    Parameters
    ----------
    images, segmentations : tuple of str
        Modalities.
    doses : bool
        Whether RT Doses are.

    Raises
    ------
    ConfigError
        ``bad-modalities``: segmentations without an image modality, or nothing at all.
    """

    images: tuple[str, ...]
    segmentations: tuple[str, ...] = ()
    doses: bool = False

    def __post_init__(self) -> None:
        if not self.images and (self.segmentations or not self.doses):
            raise ConfigError(
                "masks are drawn on the grid of an image, and no image modality is named",
                code="bad-modalities",
                hint="write, for example, --modalities CT,RTSTRUCT",
            )

    @classmethod
    def parse(cls, text: str) -> StudyModalities:
        """Read ``CT,PT,RTSTRUCT,RTDOSE``; errors as `parse_modalities`."""
        names = [part.strip().upper() for part in text.split(",")]
        images, segmentations = parse_modalities(",".join(n for n in names if n != DOSE_MODALITY))
        return cls(images, segmentations, DOSE_MODALITY in names)


def plan_segmented_cases(
    series: Sequence[Series],
    links: LinkResult,
    *,
    images: Sequence[str],
    segmentations: Sequence[str],
    multiple: MultipleSegmentations,
) -> list[CasePlan | FailedPlan]:
    """Make one case for each image series of the first modality that has segmentations.

    Further modalities become further channels: of the same study, in the same frame of reference, exactly one; of
    several PET series the one that is corrected for attenuation, and the case says so.
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
    linked: dict[SeriesKey, list[Link]] = {}
    for link in links.links:
        if link.image_modality == images[0] and link.segmentation.modality in segmentations:
            linked.setdefault(link.image_key, []).append(link)
    by_key = {s.key: s for s in series if s.key in linked}
    plans: list[CasePlan | FailedPlan] = []
    for key, found in sorted(linked.items()):
        if multiple is MultipleSegmentations.ALL:
            plans += _plan_each(by_key[key], found, images[1:], series)
        else:
            plans.append(_plan(by_key[key], (), sorted(found, key=_file_order), images[1:], series))
    return _tell_apart(plans + _plan_unlinked(links.problems, segmentations, series))


def plan_study_cases(
    series: Sequence[Series],
    links: LinkResult,
    wanted: StudyModalities,
    *,
    stacking: Stacking,
    images_with_masks: bool,
    doses_on_images: bool,
) -> list[CasePlan | FailedPlan]:
    """Make one case for each image volume, each segmentation on its image, and each RT Dose.

    Parameters
    ----------
    series, links
        What there is.
    wanted : StudyModalities
        Series of other modalities are left out, and segmentations of their images.
    stacking : Stacking
        How images become volumes.
    images_with_masks : bool
        Whether an image is written by the cases of its segmentations, each with its own image, rather than by its own:
        where the output grid depends on the mask.
    doses_on_images : bool
        Whether a dose goes onto the grid of the only image of the first modality in its study and frame of reference.
    """
    by_image: dict[SeriesKey, list[Link]] = {}
    for link in links.links:
        if link.segmentation.modality in wanted.segmentations:
            by_image.setdefault(link.image_key, []).append(link)
    plans: list[CasePlan | FailedPlan] = []
    for one in series:
        if one.is_image and one.modality in wanted.images:
            linked = by_image.get(one.key, [])
            if not (images_with_masks and linked):
                plans += _plan_volumes(one, series, stacking)
            plans += [
                replace(plan, writes_images=images_with_masks) if isinstance(plan, CasePlan) else plan
                for plan in _plan_each(one, linked, (), series)
            ]
        elif one.modality == DOSE_MODALITY and wanted.doses:
            reference = wanted.images[0] if doses_on_images else None
            seen: Counter[str] = Counter()
            for dose in one.instances:
                identity = (dose.series_instance_uid, dose.sop_instance_uid, seen[dose.sop_instance_uid])
                seen[dose.sop_instance_uid] += 1
                plans.append(_plan_dose(one, dose, identity, reference, series))
    return _tell_apart(plans + _plan_unlinked(links.problems, wanted.segmentations, series))


def _tell_apart(plans: Sequence[CasePlan | FailedPlan]) -> list[CasePlan | FailedPlan]:
    """Lengthen names that are the same by chance: of 50 000 cases of no patient, one in four times two are."""
    count = Counter(plan.case for plan in plans)
    return [
        replace(plan, case=f"{plan.case}_{text_digest(_spell_out(plan))}") if count[plan.case] > 1 else plan
        for plan in plans
    ]


def _spell_out(plan: CasePlan | FailedPlan) -> str:
    if isinstance(plan, FailedPlan):
        return f"{plan.error.subject}/{plan.error.message}"
    return "/".join(file.sop_instance_uid for file in plan.files)


def _file_order(link: Link) -> tuple[str, str]:
    return link.segmentation.sop_instance_uid, link.segmentation.path


def _plan_each(
    image: Series, links: Iterable[Link], further: Sequence[str], series: Sequence[Series]
) -> list[CasePlan | FailedPlan]:
    """Make a case for each segmentation of an image."""
    plans = []
    seen: Counter[str] = Counter()
    for link in sorted(links, key=_file_order):
        uid = link.segmentation.sop_instance_uid
        identity = (uid, *("again" for _ in range(seen[uid])))
        seen[uid] += 1
        plans.append(_plan(image, identity, [link], further, series))
    return plans


def _plan_unlinked(
    problems: Iterable[LinkError], segmentations: Sequence[str], series: Sequence[Series]
) -> list[CasePlan | FailedPlan]:
    headers = {i.path: i for s in series for i in s.instances}
    plans: list[CasePlan | FailedPlan] = []
    for error in problems:
        segmentation = headers[error.subject]
        if segmentation.modality in segmentations:
            case = f"{safe_name(segmentation.patient_id, 'anonymous')}_unlinked_{text_digest(error.subject)}"
            plans.append(FailedPlan(case, segmentation.patient_id or segmentation.study_instance_uid, error))
    return plans


def _plan_volumes(image: Series, series: Sequence[Series], stacking: Stacking) -> list[CasePlan | FailedPlan]:
    whole = _plan(image, (), (), (), series)
    if isinstance(whole, FailedPlan):
        return [whole]
    try:
        volumes = build_volumes(
            image.instances, spacing_tolerance=stacking.spacing_tolerance, on_irregular=stacking.on_irregular
        )
    except CaseError as error:
        return [FailedPlan(whole.case, whole.patient, error)]
    if len(volumes) == 1:
        return [whole]
    plans: list[CasePlan | FailedPlan] = []
    names = [safe_name(volume.label) for volume in volumes]
    for volume, name in zip(volumes, names, strict=True):
        suffix = name if names.count(name) == 1 else f"{name}_{text_digest(volume.label)}"
        case = f"{whole.case}_{suffix}"
        if isinstance(volume, BrokenVolume):
            plans.append(FailedPlan(case, whole.patient, volume.error))
        else:
            plans.append(replace(whole, case=case, channels=(_of_volume(whole.channels[0], volume),)))
    return plans


def _of_volume(channel: Channel, stack: Stack) -> Channel:
    if channel.modality == "PT":
        return replace(channel, stack=stack)
    by_path = {instance.path: instance for instance in stack.instances}
    return replace(channel, instances=tuple(by_path[path] for path in sorted(by_path)), stack=stack)


def _plan_dose(
    series_of_dose: Series,
    dose: InstanceHeader,
    identity: Sequence[object],
    reference: str | None,
    series: Sequence[Series],
) -> CasePlan | FailedPlan:
    patient = dose.patient_id or dose.study_instance_uid
    case = f"{safe_name(dose.patient_id, 'anonymous')}_{text_digest('/'.join(map(str, identity)))}"
    try:
        found = [_find_channel(series_of_dose, reference, series)] if reference else []
        channels = tuple(_channel(one) for one, _ in found)
    except LinkError as error:
        return FailedPlan(case, patient, error)
    noticed = [*series_of_dose.findings, *(f for _, aside in found for f in aside)]
    findings = tuple(f"{f.code}: {f.message}" for f in noticed)
    key = _digest_files([i for c in channels for i in c.instances] + [dose])
    return CasePlan(case, patient, channels, (), (), findings, key, dose, writes_images=False)


def _plan(
    image: Series,
    identity: Sequence[str],
    links: Sequence[Link],
    further: Sequence[str],
    series: Sequence[Series],
) -> CasePlan | FailedPlan:
    patient = image.patient_id or image.study_instance_uid
    identity = (*_identify(image, series), *identity)
    case = f"{safe_name(image.patient_id, 'anonymous')}_{text_digest('/'.join(identity))}"
    try:
        found = [_find_channel(image, modality, series) for modality in further]
        channels = (_channel(image), *(_channel(one) for one, _ in found))
    except LinkError as error:
        return FailedPlan(case, patient, error)
    segmentations = tuple(link.segmentation for link in links)
    files = [i for c in channels for i in c.instances] + list(segmentations)
    key = _digest_files(files)
    noticed = [
        *image.findings,
        *(f for link in links for f in link.findings),
        *(f for _, aside in found for f in aside),
    ]
    findings = tuple(f"{f.code}: {f.message}" for f in noticed)
    return CasePlan(case, patient, channels, segmentations, tuple(link.evidence for link in links), findings, key)


def _identify(image: Series, series: Sequence[Series]) -> tuple[str, ...]:
    """Return what tells an image series from all others: its UID, and its modality if another image has this UID."""
    is_shared = any(f.code == "shared-series-uid" for f in image.findings) and any(
        s.is_image and s.series_instance_uid == image.series_instance_uid and s.modality != image.modality
        for s in series
    )
    return image.key if is_shared else (image.series_instance_uid,)


def _digest_files(files: Iterable[InstanceHeader]) -> str:
    return digest(sorted((f.sop_instance_uid, f.path, f.size, f.mtime_ns) for f in files))


def _channel(series: Series) -> Channel:
    for finding in series.findings:
        if finding.code == "conflicting-patient-ids":
            raise LinkError(finding.message, code=finding.code, subject=series.series_instance_uid, hint=PATIENTS_APART)
    return Channel(series.modality, series.series_instance_uid, series.instances)


def _find_channel(image: Series, modality: str, series: Sequence[Series]) -> tuple[Series, tuple[Finding, ...]]:
    """Return the series of a further channel, and what was set aside to find it."""
    frame = image.instances[0].frame_of_reference_uid
    found = [
        s
        for s in series
        if s.study_instance_uid == image.study_instance_uid
        and s.modality == modality
        and s.is_image
        and s.instances[0].frame_of_reference_uid == frame
    ]
    aside: tuple[Finding, ...] = ()
    corrected = [s for s in found if ATTENUATION in corrections_of(s.instances[0])]
    if modality == "PT" and 0 < len(corrected) < len(found):
        others = ", ".join(s.series_instance_uid for s in found if s not in corrected)
        aside = (Finding("pet-set-aside", f"PET series not corrected for attenuation: {others}"),)
        found = corrected
    if len(found) == 1:
        return found[0], aside
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
