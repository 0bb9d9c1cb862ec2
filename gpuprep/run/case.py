"""One case, from headers to files: the straight line everything that runs cases maps."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from gpuprep.backends.base import Backend
from gpuprep.config import CT_FOREGROUND_HU, MultipleSegmentations, RoiOptions, Stacking, Transforms, digest
from gpuprep.dicom.header import InstanceHeader, check_unchanged
from gpuprep.errors import CaseError, DeviceMemoryError, GeometryError
from gpuprep.geometry import VolumeGeometry
from gpuprep.masks import RoiMask, recode
from gpuprep.ops.crop import Box, crop_or_pad, foreground_box, with_margin
from gpuprep.ops.intensity import Window, apply_window
from gpuprep.ops.orient import plan_orientation, reorient, reorient_array
from gpuprep.ops.rasterize import SliceGrid
from gpuprep.ops.resample import (
    are_parallel,
    resample_and_window,
    resample_in_slabs,
    resample_labels,
    resample_to_grid,
    resample_volume,
)
from gpuprep.run.ledger import CaseRow
from gpuprep.run.memory import SLABS_TRIED, check_room, describe_shortage, estimate_bytes
from gpuprep.run.plan import CasePlan, Channel
from gpuprep.run.stopwatch import Stopwatch
from gpuprep.run.volumes import check_coverage, choose_stack, load_dose, load_volume
from gpuprep.volume import Volume
from gpuprep.writers.base import CaseWriter, Output
from gpuprep.writers.record import CaseRecord, GridRecord

if TYPE_CHECKING:
    from gpuprep.run.segmentations import SelectedRois


@dataclass(frozen=True, slots=True)
class CaseOptions:
    """What is done to every case of a job; `rois` is None for a job without masks."""

    transforms: Transforms
    stacking: Stacking
    rois: RoiOptions | None = None
    multiple: MultipleSegmentations = MultipleSegmentations.ERROR


def process_case(plan: CasePlan, options: CaseOptions, backend: Backend, writer: CaseWriter, workers: int) -> CaseRow:
    """Convert one case and return its row; a `CaseError` becomes a failed row and leaves no file of the case.

    What a device has no memory for is tried again with less of it there, and the row gets a warning: see
    `gpuprep.run.memory`.

    Parameters
    ----------
    plan : CasePlan
    options : CaseOptions
    backend : Backend
    writer : CaseWriter
    workers : int
        Threads this case may use for reading and decoding.
    """
    clock = Stopwatch()
    start = time.perf_counter()
    row = CaseRow(
        case=plan.case,
        key=plan.key,
        config=digest(options, writer.config),
        patient=plan.patient,
        status="done",
        input_bytes=plan.input_bytes,
        timings=clock.seconds,
    )
    shortage = ""
    for slabs in SLABS_TRIED:
        used = backend if slabs else backend.host
        record: CaseRecord = {"warnings": [], "backend_reason": backend.reason}
        row = replace(row, backend=f"{used.name} {used.device}".strip(), details=record)
        if shortage:
            record["warnings"].append(describe_shortage(slabs, shortage))
        try:
            with used.activate():
                outputs, decoder = _convert(plan, options, used, slabs, writer, workers, clock, record)
        except DeviceMemoryError as error:
            shortage = shortage or error.message
        except CaseError as error:
            writer.discard(plan.case)
            failed = row.failed(error)
            return replace(failed, subject=failed.subject or plan.subject, seconds=_since(start))
        else:
            return replace(row, outputs=tuple(outputs), decoder=decoder, seconds=_since(start))
        used.free_memory()  # here, where the error is gone, and with it the frames that held arrays
    raise AssertionError("the host needs no memory of a device")


def _convert(
    plan: CasePlan,
    options: CaseOptions,
    backend: Backend,
    slabs: int,
    writer: CaseWriter,
    workers: int,
    clock: Stopwatch,
    record: CaseRecord,
) -> tuple[list[Output], str]:
    transforms = options.transforms
    outputs: list[Output] = []
    device, backend = backend, backend if slabs == 1 else backend.host
    with clock.stage("headers"):
        check_unchanged(plan.files)
    if not plan.channels and plan.dose is not None:
        return [*_write_dose(plan, plan.dose, None, options, backend, writer, workers, clock, record)], ""
    needs_image = plan.writes_images or transforms.crop.to == "foreground"
    with clock.stage("headers"):
        stack = choose_stack(plan.channels[0], plan, options.stacking, needs_image=needs_image)
        if device.memory_bytes is not None:
            check_room(estimate_case(plan, stack.geometry, options, slabs), device.memory_bytes)
        record["study_instance_uid"] = plan.channels[0].instances[0].study_instance_uid
        record["series"] = [channel.series_instance_uid for channel in plan.channels]
        record["volume"] = stack.label
        record["findings"] = [*plan.findings, *(f"{f.code}: {f.message}" for f in stack.findings)]
        rois = None
        if options.rois and plan.segmentations:
            from gpuprep.run.segmentations import select_segmentations

            rois = select_segmentations(plan.segmentations, plan.link_evidence, options.rois, options.multiple, record)
    image, decoder = None, ""
    if needs_image:
        image, decoder = load_volume(plan.channels[0], stack, transforms, backend, workers, clock, record)
    with clock.stage("crop"):
        grid = SliceGrid.of_stack(stack)
        box = find_box(image, grid, rois, options, backend)
        target = stack.geometry.crop(*box).with_spacing(transforms.spacing_xyz_mm[::-1])
    if rois is not None and options.rois is not None:
        with clock.stage("rasterize"):
            mask = rois.draw(grid, target, options.rois, backend, record)
            if transforms.is_axis_aligned:
                mask = align_mask(mask, backend.host, record)
            mask = orient_mask(mask, transforms.orientation, backend.host)
            record["grid"] = describe_grid(mask.geometry)
        with clock.stage("write"):
            outputs += writer.write_mask(plan.case, mask, record)
        del mask
    if transforms.is_axis_aligned:
        target = target.axis_aligned()
    if plan.dose is not None:
        outputs += _write_dose(plan, plan.dose, target, options, backend, writer, workers, clock, record)
    for number, channel in enumerate(plan.channels if plan.writes_images else ()):
        if image is None:
            with clock.stage("headers"):
                other = choose_stack(channel, plan, options.stacking)
                record["findings"] += [f"{channel.modality}: {f.code}: {f.message}" for f in other.findings]
                check_coverage(channel, other.geometry, target, record)
            image, _ = load_volume(channel, other, transforms, backend, workers, clock, record)
        window = choose_window(channel.modality, plan, transforms)
        with clock.stage("resample"):
            volume = onto_grid(image, target, box, transforms, window, backend, device, slabs)
            image = None
        with clock.stage("intensity"):
            if window is not None and volume.steps[-1].name != "window":
                volume = apply_window(volume, window, backend)
            if transforms.orientation != "keep":
                volume = reorient(volume, transforms.orientation, backend)
            volume = replace(volume, array=backend.download(volume.array))
        with clock.stage("write"):
            outputs += writer.write_image(plan.case, number, volume)
        _record_steps(volume, record)
        del volume
    return outputs, decoder


def estimate_case(plan: CasePlan, source: VolumeGeometry, options: CaseOptions, slabs: int) -> int:
    """Return the bytes of a device that the largest channel of a case may take; see `estimate_bytes`."""
    transforms = options.transforms
    target = source.with_spacing(transforms.spacing_xyz_mm[::-1]).shape
    modalities = [channel.modality for channel in plan.channels]
    needed = 0
    for channel in plan.channels:
        first = channel.instances[0]
        frames = sum(i.number_of_frames or 1 for i in channel.instances)
        acquired = channel.stack.frames_shape if channel.stack else (frames, first.rows or 0, first.columns or 0)
        value_bytes = 4 if channel.modality == "PT" else 2
        is_mapped = transforms.rescale_intensity is not None and transforms.is_windowed(channel.modality, modalities)
        needed = max(
            needed,
            estimate_bytes(
                acquired,
                target,
                slabs,
                value_bytes=value_bytes,
                output_bytes=4 if is_mapped else value_bytes,
                has_mask=options.rois is not None,
            ),
        )
    return needed


def _write_dose(
    plan: CasePlan,
    header: InstanceHeader,
    target: VolumeGeometry | None,
    options: CaseOptions,
    backend: Backend,
    writer: CaseWriter,
    workers: int,
    clock: Stopwatch,
    record: CaseRecord,
) -> Sequence[Output]:
    """Write an RT Dose on `target`, or on its own grid; outside its grid there is no dose."""
    with clock.stage("decode"):
        volume = load_dose(header, backend, workers, record)
    if target is not None:
        noted: CaseRecord = {"warnings": []}  # a dose rarely covers its image: worth a note, no warning
        check_coverage(Channel(volume.modality, header.series_instance_uid, (header,)), volume.geometry, target, noted)
        record["dose"] |= {"coverage": noted["channel_coverage"]}
        with clock.stage("resample"):
            volume = resample_to_grid(volume, target, interpolation="linear", fill=0.0, backend=backend)
    if options.transforms.orientation != "keep":
        volume = reorient(volume, options.transforms.orientation, backend)
    volume = replace(volume, array=backend.download(volume.array))
    with clock.stage("write"):
        outputs = writer.write_image(plan.case, 0, volume)
    _record_steps(volume, record)
    return outputs


def _record_steps(volume: Volume, record: CaseRecord) -> None:
    record.setdefault("steps", []).append([{"step": s.name, **s.parameters} for s in volume.steps])
    record["grid"] = describe_grid(volume.geometry)


def find_box(
    image: Volume | None, grid: SliceGrid, rois: SelectedRois | None, options: CaseOptions, backend: Backend
) -> Box:
    """Return the (start, shape) of the box that the output covers, in voxels of `grid`; a foreground needs `image`.

    Raises
    ------
    GeometryError
        ``nothing-to-crop-to``.
    """
    crop = options.transforms.crop
    whole: Box = ((0, 0, 0), grid.geometry.shape)
    if crop.to == "none":
        return whole
    if crop.to == "foreground" and image is not None:
        threshold = CT_FOREGROUND_HU if image.modality == "CT" else 0.0
        found = foreground_box(image.array, threshold, backend)
        subject = f"a voxel above {threshold:g}"
    else:
        found = None
        if rois is not None and options.rois is not None:
            mask = rois.draw(grid, grid.geometry, options.rois, backend, {"warnings": []})
            found = foreground_box(mask.codes, 0, backend.host)
        subject = "a ROI voxel"
    if found is None:
        raise GeometryError(
            f"there is nothing to crop to: no slice holds {subject}",
            code="nothing-to-crop-to",
            hint="convert it by itself with --crop none",
        )
    return with_margin(found, grid.geometry, crop.margin_mm)


def onto_grid(
    image: Volume,
    target: VolumeGeometry,
    box: Box,
    transforms: Transforms,
    window: Window | None,
    backend: Backend,
    device: Backend,
    slabs: int,
) -> Volume:
    """Bring an image onto the output grid: untouched or cut where the voxels allow it, resampled where not.

    What is resampled whole is windowed too, as its steps tell; else the `window` is left to the caller. The image lies
    on `backend`. With more than one of the `slabs` that is the host, and `device` resamples a slab at a time where the
    axes are parallel.
    """
    if image.geometry.same_grid(target):
        return image
    cut = image.geometry.crop(*box)
    if cut.same_grid(target):
        return crop_or_pad(image, *box, 0, backend)
    fill = float(image.array.min())
    how: dict[str, Any] = {"interpolation": transforms.interpolation, "antialias": transforms.antialias, "fill": fill}
    if are_parallel(image.geometry, target):
        if slabs > 1:
            return resample_in_slabs(image, target, slabs=slabs, backend=device, **how)
        if window is not None:
            return resample_and_window(image, target, window, backend=backend, **how)
    if transforms.interpolation in ("linear", "nearest") and not transforms.antialias:
        return resample_to_grid(image, target, interpolation=transforms.interpolation, fill=fill, backend=backend)
    return resample_volume(image, target, backend=backend, **how)


def choose_window(modality: str, plan: CasePlan, transforms: Transforms) -> Window | None:
    """Return the window of a channel; None for those that `Transforms.is_windowed` leaves out. Masks have none."""
    if transforms.window_level is None or transforms.window_width is None:
        return None
    if not transforms.is_windowed(modality, [c.modality for c in plan.channels]):
        return None
    return Window(transforms.window_level, transforms.window_width, transforms.rescale_intensity)


def align_mask(mask: RoiMask, backend: Backend, record: CaseRecord) -> RoiMask:
    """Put the mask of an oblique volume onto the grid along the patient's axes, by nearest voxel; keep others.

    `record` gets a warning with the voxels of each label before and after.
    """
    target = mask.geometry.axis_aligned()
    if target is mask.geometry:
        return mask
    codes = backend.download(resample_labels(backend.upload(mask.codes), mask.geometry, target, backend=backend))
    aligned = recode(RoiMask(codes, mask.table, mask.rois, target), mask.table, mask.rois)
    counts = zip(mask.rois, mask.voxel_counts.tolist(), aligned.voxel_counts.tolist(), strict=True)
    listed = ", ".join(f"{roi.name!r} {before} → {after} voxels" for roi, before, after in counts)
    record["warnings"].append(f"oblique: image and labels were resampled to the patient's axes: {listed}")
    record["voxels"] = dict(zip(record["voxels"], aligned.voxel_counts.tolist(), strict=False))  # members come last
    return aligned


def orient_mask(mask: RoiMask, orientation: str, backend: Backend) -> RoiMask:
    """Reorient a mask as `reorient` does volumes."""
    if orientation == "keep":
        return mask
    axes, flips = plan_orientation(mask.geometry, orientation)
    codes = backend.download(reorient_array(backend.upload(mask.codes), axes, flips, backend))
    return RoiMask(codes, mask.table, mask.rois, mask.geometry.reoriented(axes, flips))


def describe_grid(geometry: VolumeGeometry) -> GridRecord:
    """Return a grid as JSON: how an output voxel (slice, row, column) maps to the patient."""
    return {
        "shape_dhw": list(geometry.shape),
        "index_dhw_to_lps_mm": geometry.index_to_lps.round(9).tolist(),
        "frame_of_reference_uid": geometry.frame_of_reference_uid,
    }


def _since(start: float) -> float:
    return round(time.perf_counter() - start, 6)
