"""Series of a case → volumes: which stack is meant, decoded into modality values, SUV or Gy on its own grid."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from gpuprep.backends.base import Backend
from gpuprep.codecs.batch import decode_instance, fold_offset, narrow_words
from gpuprep.codecs.load import load_stack
from gpuprep.codecs.native import frame_bits
from gpuprep.config import Stacking, Transforms
from gpuprep.dicom.dose import describe_dose, read_dose_grid, scale_to_gray
from gpuprep.dicom.framespec import FrameSpec
from gpuprep.dicom.header import InstanceHeader
from gpuprep.dicom.index import list_some
from gpuprep.dicom.pet import read_suv_scale
from gpuprep.dicom.stack import BrokenVolume, Stack, build_volumes
from gpuprep.errors import CaseError, GeometryError
from gpuprep.geometry import VolumeGeometry
from gpuprep.ops.intensity import to_modality
from gpuprep.ops.resample import regularize
from gpuprep.run.plan import CasePlan, Channel
from gpuprep.run.stopwatch import Stopwatch
from gpuprep.volume import Step, Volume
from gpuprep.writers.record import CaseRecord

#: A further channel that covers less than this share of the grid is warned of.
LOW_COVERAGE = 0.9


def choose_stack(channel: Channel, plan: CasePlan, stacking: Stacking, *, needs_image: bool = True) -> Stack:
    """Return the one volume of a series that the case is about.

    A series may hold several (echoes, time points, a localizer); the segmentation's references decide, to instances or
    to frames of them, else the only one that is neither stray frames nor a single slice. Where only a grid is needed,
    no image, the first of several that share theirs will do.

    Raises
    ------
    GeometryError
        ``several-volumes``: that does not settle it; and what `build_volumes` raises, or says of the volume.
    HeaderError
        As `gpuprep.dicom.seg.read_source_frames`.
    """
    if channel.stack is not None:
        return channel.stack
    volumes = build_volumes(
        channel.instances, spacing_tolerance=stacking.spacing_tolerance, on_irregular=stacking.on_irregular
    )
    for candidates in _narrow_down(volumes, plan):
        if len(candidates) == 1 or (not needs_image and _share_a_grid(candidates)):
            chosen = candidates[0]
            if isinstance(chosen, BrokenVolume):
                raise chosen.error
            return chosen
    hint = "give the volume that is meant as the only source, or let the segmentation refer to its instances"
    if len({i.path for v in volumes for i in v.instances}) < len(volumes):
        hint = "let the frames of the segmentation refer to frames of one volume alone, in Source Image Sequence"
        if _share_a_grid(volumes):
            hint += "; gpuprep nifti needs no choice: it writes every volume, and the mask on their grid"
    raise GeometryError(
        f"the series holds {len(volumes)} volumes ({list_some([v.label or 'unnamed' for v in volumes])}) "
        "and nothing says which one is meant",
        code="several-volumes",
        subject=channel.series_instance_uid,
        hint=hint,
    )


def _narrow_down(volumes: Sequence[Stack | BrokenVolume], plan: CasePlan) -> Iterator[list[Stack | BrokenVolume]]:
    """Yield the volumes that may be meant: all, then by one thing after the other that may tell."""
    yield [*volumes]
    referenced = {uid for s in plan.segmentations for uid in s.referenced_sop_instance_uids}
    yield [v for v in volumes if any(i.sop_instance_uid in referenced for i in v.instances)]
    yield [*_derived_from(volumes, plan.segmentations)]
    yield [v for v in volumes if len(v.instances) > 1 and not (isinstance(v, Stack) and v.is_stray)]


def _derived_from(volumes: Sequence[Stack | BrokenVolume], segmentations: Sequence[InstanceHeader]) -> list[Stack]:
    """Return the volumes that hold every frame of their series which a frame of a segmentation was derived from."""
    from gpuprep.dicom.seg import read_source_frames

    instances = {i.sop_instance_uid: i for v in volumes for i in v.instances}
    sources = {
        (uid, frame)
        for segmentation in segmentations
        if segmentation.modality == "SEG"
        for uid, number in read_source_frames(segmentation.path)
        if uid in instances
        for frame in (range(instances[uid].number_of_frames or 1) if number is None else (number - 1,))
    }
    stacks = [volume for volume in volumes if isinstance(volume, Stack)] if sources else []
    return [s for s in stacks if sources <= {(f.instance.sop_instance_uid, f.index) for f in s.frames}]


def _share_a_grid(volumes: Sequence[Stack | BrokenVolume]) -> bool:
    stacks = [volume for volume in volumes if isinstance(volume, Stack) and not volume.is_irregular]
    return 0 < len(stacks) == len(volumes) and all(s.geometry.same_grid(stacks[0].geometry) for s in stacks)


def choose_images(plan: CasePlan, stacking: Stacking) -> tuple[InstanceHeader, ...]:
    """Return the images that the mask of a case is made on: no localizer, nor another echo, of the first channel.

    All of the channel where nothing says which of its volumes is meant, or that one is broken.
    """
    try:
        stack = choose_stack(plan.channels[0], plan, stacking, needs_image=plan.writes_images)
    except CaseError:
        return plan.channels[0].instances
    return tuple(dict.fromkeys(stack.instances))


def load_volume(
    channel: Channel,
    stack: Stack,
    transforms: Transforms,
    backend: Backend,
    workers: int,
    clock: Stopwatch,
    record: CaseRecord,
) -> tuple[Volume, str]:
    """Decode a stack into modality values on its regular grid; return it with the decoder's name.

    PET becomes SUVbw unless `transforms` says otherwise; `record` gets ``warnings`` of times and values that are in
    doubt, and on a device ``loader``: what brought the frames there.

    Raises
    ------
    HeaderError
        Those of `read_suv_scale`.
    GeometryError
        ``not-an-image``: its frames are coloured.
    CaseError
        Those of `load_stack` and `to_modality`.
    """
    is_suv = channel.modality == "PT" and transforms.pet == "suvbw"
    scale = read_suv_scale(stack.instances, channel.instances) if is_suv else None
    with clock.stage("decode"):
        decoded = load_stack(stack, backend, workers=workers)
    if decoded.array.ndim != 3:
        raise GeometryError(
            f"{decoded.array.shape[-1]} samples a pixel do not make an image volume",
            code="not-an-image",
            subject=channel.series_instance_uid,
            hint="gpuprep tiff converts images in colour",
        )
    record["warnings"] += _doubt_values(channel, stack)
    factor = scale.factor if scale else 1.0
    with clock.stage("rescale"):
        slopes = np.array([f.slope * factor for f in stack.frames])
        decoded, intercepts = fold_offset(decoded, slopes, np.array([f.intercept * factor for f in stack.frames]))
        decoded = narrow_words(decoded)
        array = to_modality(decoded.array, decoded.spec, slopes, intercepts, backend=backend)
    if decoded.loader:
        record["loader"] = decoded.loader
    steps = [Step("decode", {"series": channel.series_instance_uid, "decoder": decoded.decoder})]
    if scale:
        steps.append(Step("suvbw", {"factor": scale.factor, **scale.basis}))
        record["warnings"] += [f"{f.code}: {f.message}" for f in scale.findings]
    if stack.is_irregular:
        offsets = np.array(stack.plane_offsets_lps_mm)
        with clock.stage("resample"):
            lowest = float(array.min())
            array = regularize(array, offsets, stack.geometry, interpolation="linear", fill=lowest, backend=backend)
        steps.append(Step("regularize", {"plane_offsets_lps_mm": offsets.round(4).tolist()}))
    return Volume(array, stack.geometry, channel.modality, tuple(steps)), decoded.decoder


def _doubt_values(channel: Channel, stack: Stack) -> list[str]:
    """Return warnings of voxels that need not be what their modality says."""
    warnings = []
    if stack.spec.photometric_interpretation == "PALETTE COLOR":
        warnings.append("palette: voxels are numbers of colours, which need not rise with what was measured")
    if any(instance.has_modality_lut for instance in stack.instances):
        warnings.append("modality-lut: voxels are stored values, to which a Modality LUT was to be applied")
    images = list({instance.path: instance for instance in stack.instances}.values())
    if longer := sum(map(_has_further_frames, images)):
        warnings.append(
            f"pixel-data: {longer} of {len(images)} files hold more frames than they say: size or bits may be wrong"
        )
    first = images[0]
    rescale = {"Rescale Slope": first.rescale_slope, "Rescale Intercept": first.rescale_intercept}
    lacking = [name for name, value in rescale.items() if value is None]
    if not (first.has_frame_groups or first.has_shared_groups) and (
        len(lacking) == 1 or (lacking and channel.modality == "CT")
    ):
        warnings.append(f"rescale: without {' and '.join(lacking)} values need not be in the units of their modality")
    return warnings


def _has_further_frames(instance: InstanceHeader) -> bool:
    """Whether native pixel data goes on for at least a whole frame after those that the header announces."""
    spec = FrameSpec.from_header(instance)
    return 8 * instance.pixel_length >= (spec.number_of_frames + 1) * frame_bits(spec)


def check_coverage(channel: Channel, source: VolumeGeometry, target: VolumeGeometry, record: CaseRecord) -> None:
    """Note which share of the output grid a further channel covers; the rest gets the channel's lowest value.

    Parameters
    ----------
    channel : Channel
        The channel.
    source, target : VolumeGeometry
        Its own grid, and that of the output.
    record : CaseRecord
        Gets ``channel_coverage`` by modality, and a warning below `LOW_COVERAGE`.

    Raises
    ------
    GeometryError
        ``channel-elsewhere``: it covers nothing.
    """
    share = target.share_within(source)
    record.setdefault("channel_coverage", {})[channel.modality] = round(share, 4)
    if share == 0:
        raise GeometryError(
            f"the {channel.modality} series shows no part of what the output shows",
            code="channel-elsewhere",
            subject=channel.series_instance_uid,
            hint=f"leave {channel.modality} out of --modalities, or look which series belong together: gpuprep show",
        )
    if share < LOW_COVERAGE:
        record["warnings"].append(f"the {channel.modality} channel covers {share:.0%} of the grid")


def load_dose(header: InstanceHeader, backend: Backend, workers: int, record: CaseRecord) -> Volume:
    """Decode an RT Dose into Gy, float32, on its own grid; `record` gets ``dose``.

    Raises
    ------
    HeaderError, GeometryError, DecodeError
        Those of `read_dose_grid` and `decode_instance`.
    """
    dose = read_dose_grid(header)
    gray = scale_to_gray(decode_instance(header, dose.spec, workers=workers).array, dose)
    record["dose"] = describe_dose(dose)
    step = Step("dose", {"frames": list(dose.frames), "gray_a_step": dose.gray_a_step})
    return Volume(backend.upload(gray), dose.geometry, header.modality, (step,))
