"""DICOM SEG through highdicom: a label map when ROIs share no voxel, else one binary segment a ROI.

`gpuprep.run.masks` reads it back, by where its frames lie; a private element keeps what the standard has no room for.
"""

from __future__ import annotations

import copy
import re
import warnings
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gpuprep._version import __version__
from gpuprep.codecs.rle import encode_rle
from gpuprep.codes import apply_lut
from gpuprep.dicom.header import InstanceHeader
from gpuprep.dicom.seg import PRIVATE_CREATOR, PRIVATE_GROUP, PRIVATE_OFFSET
from gpuprep.dicom.stack import planes_of
from gpuprep.errors import ConfigError, WriteError
from gpuprep.extras import load_extra
from gpuprep.geometry import VolumeGeometry
from gpuprep.masks import TISSUE, Code, Roi, RoiMask, assign_layers, is_exclusive, to_label_image
from gpuprep.writers.atomic import replacing
from gpuprep.writers.masks.description import describe

SegKind = Literal["auto", "labelmap", "binary"]

#: Longest Segment Label (LO) and Segment Description (ST), characters.
_LABEL_LENGTH, _DESCRIPTION_LENGTH = 64, 1024
#: Largest pixel value of a label map.
_LABELMAP_LIMIT = 65535
#: ROIs of a layer on the way to binary segments.
_LAYER_LIMIT = 255
#: Added to the Series Number of the images.
_SERIES_STEP = 1000
#: Segment Algorithm Types that come with a Segment Algorithm Name.
_NAMED_ALGORITHMS = ("AUTOMATIC", "SEMIAUTOMATIC")
#: What a segmentation takes from its first image as it is, must hold, and may leave empty (PS3.3 C.7.1.1, C.7.2.1: type
#: 2). Whoever removed names and dates may have removed the elements, or written what is no date and no sex, which
#: highdicom refuses; an archive wants patient and study alike in all files.
_OF_PATIENT_AND_STUDY = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "AccessionNumber",
)
_NOT_IN_LO = re.compile(r"[\x00-\x1f\x7f\\]+")


def write(
    mask: RoiMask, path: Path, *, sources: Sequence[InstanceHeader], kind: SegKind = "auto", deflated: bool = False
) -> None:
    """Write a mask.

    Parameters
    ----------
    mask : RoiMask
    path : Path
    sources : sequence of InstanceHeader
        The images it was made on, of one series: patient and study are theirs, and each is referenced.
    kind : {"auto", "labelmap", "binary"}
        ``labelmap`` (2024d) is small and one value a voxel; ``binary`` holds overlaps and is read by older programs.
    deflated : bool
        Compress the whole data set: small for binary too, but not every archive takes it. Otherwise a label map is
        compressed by RLE, and binary segments are not.

    Raises
    ------
    ConfigError
        ``extra-missing``; ``no-sources``: there is no image to refer to.
    OverlapError
        ``labels-overlap``: a label map was asked for.
    WriteError
        ``no-rois``, ``too-many-rois``; ``not-orthogonal``: a sheared grid; ``images-elsewhere``: the source images lie
        outside the grid; ``source-refused``: highdicom refuses them; and what `replacing` raises.
    GeometryError
        What `planes_of` raises: the source images do not say where they lie.
    """
    if not sources:
        raise ConfigError("a DICOM SEG refers to the images it was made on", code="no-sources", subject=str(path))
    if not mask.rois:
        raise WriteError("a DICOM SEG has at least one segment", code="no-rois", subject=str(path))
    if len(mask.rois) > _LABELMAP_LIMIT:
        raise WriteError(f"{len(mask.rois)} ROIs, over {_LABELMAP_LIMIT}", code="too-many-rois", subject=str(path))
    if not mask.geometry.is_orthogonal():
        raise WriteError("a sheared grid does not fit into a DICOM SEG", code="not-orthogonal", subject=str(path))
    if not _meets(mask.geometry, sources):
        raise WriteError(
            "the mask has nothing in common with its images",
            code="images-elsewhere",
            subject=str(path),
            hint="are they the images that it was made on? gpuprep masks info tells where it lies",
        )
    load_extra("highdicom", "masks")
    import pydicom

    images = [pydicom.dcmread(header.path, stop_before_pixels=True) for header in sources]
    use_labelmap = kind == "labelmap" or (kind == "auto" and is_exclusive(mask))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of values in the source images that break their VR, and of empty segments
        stated = [copy.copy(images[0][keyword]) for keyword in _OF_PATIENT_AND_STUDY if keyword in images[0]]
        for keyword in _OF_PATIENT_AND_STUDY:
            setattr(images[0], keyword, "")
        try:
            data = _build_labelmap(mask, images, deflated) if use_labelmap else _build_binary(mask, images)
        except (ValueError, AttributeError, KeyError, TypeError) as error:
            raise WriteError(f"highdicom: {error}", code="source-refused", subject=str(path)) from error
        for element in stated:
            data.add(element)
        if deflated:
            data.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
        block = data.private_block(PRIVATE_GROUP, PRIVATE_CREATOR, create=True)
        block.add_new(PRIVATE_OFFSET, "UT", describe(mask))
        with replacing(path) as part:
            data.save_as(part)


def _meets(geometry: VolumeGeometry, images: Sequence[InstanceHeader]) -> bool:
    """Whether the box around the images, along the axes of a grid, and the grid have something in common."""
    corners_mm = np.concatenate([plane.corners_lps_mm for image in images for plane in planes_of(image)])
    index = geometry.to_index(corners_mm)
    return bool((index.max(axis=0) > -0.5).all() and (index.min(axis=0) < np.array(geometry.shape) - 0.5).all())


def _build_labelmap(mask: RoiMask, images: Sequence[Any], deflated: bool) -> Any:
    labels = to_label_image(mask, hint="binary segments keep overlaps: --seg-kind binary")
    data = _build(labels, mask, mask.rois, images, "LABELMAP")
    if not deflated:
        from pydicom.encaps import encapsulate
        from pydicom.uid import RLELossless

        # highdicom would leave this to whatever RLE encoder is installed; GDCM's aborts on frames of odd width
        frames = np.frombuffer(data.PixelData, labels.dtype, labels.size).reshape(labels.shape)
        data.PixelData = encapsulate([encode_rle(frame) for frame in frames])
        data["PixelData"].VR = "OB"
        data["PixelData"].is_undefined_length = True
        data.file_meta.TransferSyntaxUID = RLELossless
    return data


def _build_binary(mask: RoiMask, images: Sequence[Any]) -> Any:
    """Build the segments layer by layer, for an array with an axis of segments can be a hundred times the image."""
    places = assign_layers(mask, _LAYER_LIMIT)
    parts = []
    for layer in range(1 + max(of for of, _ in places)):
        held = [roi for roi, (of, _) in enumerate(places) if of == layer]
        lut = np.zeros(len(mask.table), np.uint8)
        for label, roi in enumerate(held, 1):
            lut[mask.members[:, roi]] = label
        rois = [mask.rois[roi] for roi in held]
        parts.append((held, _build(apply_lut(lut, mask.codes), mask, rois, images, "BINARY")))
    return parts[0][1] if len(parts) == 1 else _merge_binary(parts)


def _build(
    labels: NDArray[np.unsignedinteger],
    mask: RoiMask,
    rois: Sequence[Roi],
    images: Sequence[Any],
    kind: str,
) -> Any:
    """Build a segmentation of ROIs that share no voxel; a label map has all slices, so that readers see the grid."""
    import highdicom as hd
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    geometry = mask.geometry
    checksums = [str(zlib.crc32(array.tobytes())) for array in (mask.codes, mask.table)]
    identity = [kind, describe(mask), *checksums]
    identity += [str(image.SOPInstanceUID) for image in images]
    data = hd.seg.Segmentation(
        source_images=images,
        pixel_array=hd.Volume(
            labels,
            geometry.index_to_lps,
            "PATIENT",
            frame_of_reference_uid=geometry.frame_of_reference_uid or images[0].get("FrameOfReferenceUID"),
        ),
        segmentation_type=kind,
        segment_descriptions=[_describe_segment(n, roi) for n, roi in enumerate(rois, 1)],
        series_instance_uid=generate_uid(entropy_srcs=["series", *identity]),
        series_number=int(images[0].get("SeriesNumber") or 0) + _SERIES_STEP,
        sop_instance_uid=generate_uid(entropy_srcs=identity),
        instance_number=1,
        manufacturer="gpuprep",
        manufacturer_model_name="gpuprep",
        software_versions=__version__,
        device_serial_number="0",
        specific_character_set="ISO_IR 192",
        transfer_syntax_uid=ExplicitVRLittleEndian,
        omit_empty_frames=kind == "BINARY" and bool(labels.any()),
    )
    for segment, roi in zip(data.SegmentSequence[-len(rois) :], rois, strict=True):
        if roi.algorithm in _NAMED_ALGORITHMS:  # highdicom wants more of them than is known
            segment.SegmentAlgorithmType = roi.algorithm
            segment.SegmentAlgorithmName = "unknown"
    return data


def segment_of(number: int, roi: Roi) -> Roi:
    """Return what the Segment Sequence says of a ROI that is segment `number`: its name cut to what fits, and so on."""

    def fit(code: Code) -> Code:
        return replace(code, meaning=_plain(code.meaning)[:_LABEL_LENGTH].strip())

    return replace(
        roi,
        number=number,
        name=_plain(roi.name)[:_LABEL_LENGTH].strip() or "unnamed",
        category=fit(roi.category or TISSUE),
        type=fit(roi.type or TISSUE),
        type_modifiers=tuple(map(fit, roi.type_modifiers)),
        region=fit(roi.region) if roi.region else None,
        region_modifiers=tuple(map(fit, roi.region_modifiers)) if roi.region else (),
        algorithm=roi.algorithm if roi.algorithm in _NAMED_ALGORITHMS else "MANUAL",
    )


def _describe_segment(number: int, roi: Roi) -> Any:
    import highdicom as hd

    said = segment_of(number, roi)
    segment = hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=said.name,
        segmented_property_category=_concept(said.category or TISSUE),
        segmented_property_type=_concept(said.type or TISSUE),
        algorithm_type="MANUAL",
        tracking_uid=said.tracking_uid or None,
        tracking_id=said.name if said.tracking_uid else None,
        anatomic_regions=[_concept(said.region)] if said.region else None,
        display_color=hd.color.CIELabColor.from_rgb(*said.rgb) if said.rgb else None,
    )
    if len(full := _plain(roi.name)) > _LABEL_LENGTH:
        segment.SegmentDescription = full[:_DESCRIPTION_LENGTH]
    if said.type_modifiers:
        coded = segment.SegmentedPropertyTypeCodeSequence[0]
        coded.SegmentedPropertyTypeModifierCodeSequence = [_concept(code) for code in said.type_modifiers]
    if said.region_modifiers:
        coded = segment.AnatomicRegionSequence[0]
        coded.AnatomicRegionModifierSequence = [_concept(code) for code in said.region_modifiers]
    return segment


def _concept(code: Code) -> Any:
    import highdicom as hd

    return hd.sr.CodedConcept(code.value, code.scheme, code.meaning)


def _plain(text: str) -> str:
    """Return a text without what LO cannot hold: control characters and the backslash, which separates values."""
    return _NOT_IN_LO.sub(" ", text).encode("utf-8", "replace").decode().strip()


def _merge_binary(parts: Sequence[tuple[Sequence[int], Any]]) -> Any:
    """Return one data set with the segments of all, each given with the ROIs that its segments are."""
    merged = parts[0][1]
    segments: dict[int, Any] = {}
    frames: list[tuple[int, float, Any, NDArray[np.uint8], int]] = []
    orientation = merged.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0].ImageOrientationPatient
    normal = np.cross(orientation[:3], orientation[3:])
    for held, part in parts:
        _unshare(part)
        packed = np.frombuffer(part.PixelData, np.uint8)
        for roi, segment in zip(held, part.SegmentSequence, strict=True):
            segment.SegmentNumber = roi + 1
            segments[roi] = segment
        for n, item in enumerate(part.PerFrameFunctionalGroupsSequence):
            identification = item.SegmentIdentificationSequence[0]
            identification.ReferencedSegmentNumber = held[identification.ReferencedSegmentNumber - 1] + 1
            offset_mm = float(np.dot(item.PlanePositionSequence[0].ImagePositionPatient, normal))
            frames.append((identification.ReferencedSegmentNumber, offset_mm, item, packed, n))
    frames.sort(key=lambda frame: frame[:2])
    places = {offset: n for n, offset in enumerate(sorted({offset for _, offset, *_ in frames}), 1)}
    for segment_number, offset_mm, item, _, _ in frames:
        item.FrameContentSequence[0].DimensionIndexValues = [segment_number, places[offset_mm]]
    merged.SegmentSequence = [segments[roi] for roi in sorted(segments)]
    merged.PerFrameFunctionalGroupsSequence = [item for _, _, item, _, _ in frames]
    merged.NumberOfFrames = len(frames)
    merged.SegmentsOverlap = "YES"
    pixels = merged.Rows * merged.Columns
    groups = (frames[at : at + 8] for at in range(0, len(frames), 8))  # eight frames fill whole bytes
    data = b"".join(
        np.packbits(
            np.concatenate([_unpack(packed, n, pixels) for *_, packed, n in group]), bitorder="little"
        ).tobytes()
        for group in groups
    )
    merged.PixelData = data + b"\0" * (len(data) % 2)
    return merged


def _unshare(data: Any) -> None:
    """Give every frame its own copy of what all frames of a part share and those of the others do not."""
    shared = data.SharedFunctionalGroupsSequence[0]
    for keyword in ("SegmentIdentificationSequence", "PlanePositionSequence", "DerivationImageSequence"):
        if keyword in shared:
            for item in data.PerFrameFunctionalGroupsSequence:
                setattr(item, keyword, copy.deepcopy(shared[keyword].value))
            delattr(shared, keyword)


def _unpack(packed: NDArray[np.uint8], frame: int, pixels: int) -> NDArray[np.uint8]:
    first = frame * pixels
    bits = np.unpackbits(packed[first // 8 : -(-(first + pixels) // 8)], bitorder="little")
    return bits[first % 8 :][:pixels]
