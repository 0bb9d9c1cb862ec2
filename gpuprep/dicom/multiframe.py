"""Planes of enhanced multi-frame instances, from their functional groups (PS3.3 C.7.6.16)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from gpuprep.dicom.datasets import find_truncation, parse_file, pydicom_errors, quiet_pydicom
from gpuprep.dicom.groups import PER_FRAME, SHARED, read_groups
from gpuprep.dicom.header import InstanceHeader
from gpuprep.dicom.planes import Plane, place, traits_of, usable_spacing
from gpuprep.errors import GeometryError, HeaderError

#: Functional groups that carry a Frame Type, one a modality (PS3.3 C.8.13, C.8.15, C.8.22, C.8.32).
_FRAME_TYPE_GROUPS = (
    "MRImageFrameTypeSequence",
    "CTImageFrameTypeSequence",
    "PETFrameTypeSequence",
    "ParametricMapFrameTypeSequence",
    "XRay3DFrameTypeSequence",
)
#: Everything that this module needs of the functional groups.
_PATHS = (
    "PlanePositionSequence.ImagePositionPatient",
    "PlaneOrientationSequence.ImageOrientationPatient",
    *(f"PixelMeasuresSequence.{name}" for name in ("PixelSpacing", "SpacingBetweenSlices", "SliceThickness")),
    *(f"PixelValueTransformationSequence.{name}" for name in ("RescaleSlope", "RescaleIntercept")),
    *(f"{name}.FrameType" for name in _FRAME_TYPE_GROUPS),
    "MREchoSequence.EffectiveEchoTime",
    "MRDiffusionSequence.DiffusionBValue",
    "MRDiffusionSequence.DiffusionGradientDirectionSequence.DiffusionGradientOrientation",
    "CardiacSynchronizationSequence.NominalCardiacTriggerDelayTime",
    *(
        f"FrameContentSequence.{name}"
        for name in (
            "StackID",
            "TemporalPositionIndex",
            "FrameAcquisitionNumber",
            "FrameAcquisitionDateTime",
            "DimensionIndexValues",
        )
    ),
)


@quiet_pydicom()
def planes_of_multiframe(instance: InstanceHeader) -> tuple[Plane, ...]:
    """Return the planes of an enhanced multi-frame file, in the order of its frames.

    A frame's own functional group wins over the shared one, and both over a rescale of the file as a whole.

    Raises
    ------
    GeometryError
        ``geometry-missing``: there are no functional groups, or they do not place the frames. ``frame-count``: the
        groups describe more or fewer frames than the file has. ``attribute-invalid`` as `planes.place`.
    HeaderError
        ``unreadable``: pydicom cannot read the file.
    """
    try:
        with Path(instance.path).open("rb") as file:
            groups: Any = read_groups(file, _PATHS)
    except OSError as error:
        raise HeaderError(f"cannot be read: {error.strerror}", code="unreadable", subject=instance.path) from error
    if groups is None:
        groups = read_dataset(instance, (SHARED, PER_FRAME))
    try:
        return _planes(instance, groups.get(PER_FRAME), (groups.get(SHARED) or [None])[0])
    except GeometryError:
        raise
    except pydicom_errors() as error:
        raise GeometryError(
            f"functional groups are garbled: {error}", code="attribute-invalid", subject=instance.path
        ) from error


def _planes(instance: InstanceHeader, per_frame: Any, shared: Any) -> tuple[Plane, ...]:
    if not per_frame:
        raise GeometryError(
            f"{instance.number_of_frames or 1} frames without functional groups that place them",
            code="geometry-missing",
            subject=instance.path,
            hint="such a file is a loop or a stack of unknown spacing; it cannot be a volume",
        )
    if len(per_frame) != (instance.number_of_frames or 1):
        raise GeometryError(
            f"{instance.number_of_frames or 1} frames, but functional groups for {len(per_frame)}",
            code="frame-count",
            subject=instance.path,
        )
    return tuple(_plane(instance, n, (group, shared)) for n, group in enumerate(per_frame))


def read_dataset(instance: InstanceHeader, elements: tuple[str | int, ...]) -> Any:
    """Read some top-level elements of a file as a pydicom data set, never its pixels.

    Raises
    ------
    HeaderError
        ``unreadable``: pydicom cannot read the file.
    """
    try:
        with Path(instance.path).open("rb") as file:
            parsed = parse_file(file, os.fstat(file.fileno()).st_size, _tags_of(elements))
        if len(parsed.dataset) and (cut := find_truncation(parsed)):
            raise EOFError(cut)
    except pydicom_errors() as error:
        raise HeaderError(f"cannot be read: {error}", code="unreadable", subject=instance.path) from error
    return parsed.dataset


@cache
def _tags_of(elements: tuple[str | int, ...]) -> list[Any]:
    """Return elements as pydicom's tags: to look names up takes as long as to read a short file."""
    from pydicom.tag import Tag

    return [Tag(element) for element in elements]


def _plane(instance: InstanceHeader, index: int, groups: Sequence[Any]) -> Plane:
    measures = group_item(groups, "PixelMeasuresSequence")
    rescale = group_item(groups, "PixelValueTransformationSequence")
    return place(
        instance,
        index,
        position=_numbers(group_item(groups, "PlanePositionSequence").get("ImagePositionPatient")),
        orientation=_numbers(group_item(groups, "PlaneOrientationSequence").get("ImageOrientationPatient")),
        pixel_spacing=_numbers(measures.get("PixelSpacing")),
        slice_spacing_mm=usable_spacing(
            _number(measures.get("SpacingBetweenSlices")),
            instance.spacing_between_slices_mm,
            _number(measures.get("SliceThickness")),
        ),
        rescale=(
            _number(rescale.get("RescaleSlope", instance.rescale_slope)),
            _number(rescale.get("RescaleIntercept", instance.rescale_intercept)),
        ),
        traits=_traits(instance, index, groups),
    )


def _traits(instance: InstanceHeader, index: int, groups: Sequence[Any]) -> dict[str, Any]:
    content = group_item(groups, "FrameContentSequence")
    diffusion = group_item(groups, "MRDiffusionSequence")
    frame_type = next(
        (value for name in _FRAME_TYPE_GROUPS if (value := group_item(groups, name).get("FrameType"))), None
    )
    gradient = next(iter(diffusion.get("DiffusionGradientDirectionSequence") or ()), None)
    return traits_of(instance) | {
        "type": "\\".join(frame_type) if frame_type else instance.image_type,
        "echo time": _number(group_item(groups, "MREchoSequence").get("EffectiveEchoTime")),
        "b-value": _number(diffusion.get("DiffusionBValue")),
        "direction": _numbers(gradient.get("DiffusionGradientOrientation")) if gradient is not None else None,
        "stack": content.get("StackID"),
        "time": content.get("TemporalPositionIndex") or instance.temporal_position,
        "acquisition": content.get("FrameAcquisitionNumber") or instance.acquisition_number,
        "trigger time": _number(
            group_item(groups, "CardiacSynchronizationSequence").get("NominalCardiacTriggerDelayTime")
        ),
        "acquisition time": _text(content.get("FrameAcquisitionDateTime")),
        "dimensions": _indices(content.get("DimensionIndexValues")),
        "frame": index,
    }


def group_item(groups: Sequence[Any], name: str) -> Any:
    """Return the one item of a functional group, the frame's own before the shared one; an empty mapping if none.

    `groups` are those of the frame and the shared ones; None where a file has none.
    """
    for group in groups:
        items = group.get(name) if group is not None else None
        if items:
            return items[0]
    return {}


def _numbers(values: Any) -> tuple[float, ...]:
    return () if values is None else tuple(float(value) for value in values)


def _indices(values: Any) -> tuple[int, ...] | None:
    """Return the values of an element of integers, which pydicom gives as one number where there is but one."""
    if values is None:
        return None
    return (int(values),) if isinstance(values, int) else tuple(int(value) for value in values)


def _number(value: Any) -> float | None:
    return None if value is None or value == "" else float(value)


def _text(value: Any) -> str | None:
    return str(value) if value else None
