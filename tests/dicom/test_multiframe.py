"""Functional groups written by highdicom and by hand."""

from __future__ import annotations

import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from dicom_bytes import part10
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from gpuprep.dicom.datasets import DEFLATED_UID
from gpuprep.dicom.header import InstanceHeader
from gpuprep.dicom.multiframe import planes_of_multiframe
from gpuprep.dicom.stack import build_stacks
from gpuprep.errors import CaseError, HeaderError

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def item(**elements: Any) -> Sequence:
    dataset = Dataset()
    for name, value in elements.items():
        setattr(dataset, name, value)
    return Sequence([dataset])


def frame(z: float, **groups: Sequence) -> Dataset:
    """Return the functional groups of a frame at a height."""
    return item(PlanePositionSequence=item(ImagePositionPatient=[-10, -20, z]), **groups)[0]


SHARED = {
    "PlaneOrientationSequence": item(ImageOrientationPatient=list(AXIAL)),
    "PixelMeasuresSequence": item(PixelSpacing=[0.5, 0.75], SliceThickness=3),
    "PixelValueTransformationSequence": item(RescaleSlope=2, RescaleIntercept=-7),
}


def enhanced(folder: Path, frames: list[Dataset], *, number_of_frames: int | None = None, **shared: Sequence):
    """Write an enhanced CT of 20 × 30 pixels without pixel data and return its row."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SharedFunctionalGroupsSequence = item(**(SHARED | shared))
    dataset.PerFrameFunctionalGroupsSequence = Sequence(frames)
    path = folder / "enhanced"
    dataset.save_as(path, enforce_file_format=False)
    return InstanceHeader(
        path=str(path),
        transfer_syntax_uid=ExplicitVRLittleEndian,
        sop_class_uid="1.2.840.10008.5.1.4.1.1.2.1",
        sop_instance_uid="1.2.5",
        series_instance_uid="1.2.3",
        modality="CT",
        rows=20,
        columns=30,
        bits_allocated=16,
        bits_stored=12,
        high_bit=11,
        pixel_representation=0,
        samples_per_pixel=1,
        photometric_interpretation="MONOCHROME2",
        number_of_frames=len(frames) if number_of_frames is None else number_of_frames,
    )


def test_shared_and_per_frame_groups(tmp_path: Path):
    own = item(RescaleSlope=5, RescaleIntercept=0)
    (stack,) = build_stacks([enhanced(tmp_path, [frame(6, PixelValueTransformationSequence=own), frame(2), frame(4)])])
    assert [f.index for f in stack.frames] == [1, 2, 0]
    assert [f.position_mm for f in stack.frames] == [2, 4, 6]
    assert [(f.slope, f.intercept) for f in stack.frames] == [(2, -7), (2, -7), (5, 0)]
    np.testing.assert_allclose(stack.geometry.spacing_dhw_mm, [2, 0.5, 0.75])
    np.testing.assert_allclose(stack.geometry.origin_lps_mm, [-10, -20, 2])
    assert stack.spec.number_of_frames == 3


def test_a_rescale_of_the_whole_file_serves_frames_without_one(tmp_path: Path):
    own = item(RescaleSlope=5, RescaleIntercept=1)
    instance = enhanced(
        tmp_path,
        [frame(2, PixelValueTransformationSequence=own), frame(4)],
        PixelValueTransformationSequence=Sequence(),
    )
    (stack,) = build_stacks([replace(instance, rescale_slope=3.0, rescale_intercept=-9.0)])
    assert [(f.slope, f.intercept) for f in stack.frames] == [(5, 1), (3, -9)]


@pytest.mark.parametrize(
    ("measures", "of_file", "spacing_mm"),
    [
        ({"SpacingBetweenSlices": 4, "SliceThickness": 3}, 5, 4),
        ({"SliceThickness": 3}, 5, 5),
        ({"SliceThickness": 3}, None, 3),
    ],
)
def test_spacing_of_a_single_frame(
    tmp_path: Path, measures: dict[str, float], of_file: float | None, spacing_mm: float
):
    instance = enhanced(tmp_path, [frame(1)], PixelMeasuresSequence=item(PixelSpacing=[0.5, 0.75], **measures))
    (stack,) = build_stacks([replace(instance, spacing_between_slices_mm=of_file)])
    assert stack.geometry.spacing_dhw_mm.tolist() == [spacing_mm, 0.5, 0.75]


ORIGINAL = ["ORIGINAL", "PRIMARY", "VOLUME"]


@pytest.mark.parametrize(
    ("group", "attribute", "values", "labels"),
    [
        ("FrameContentSequence", "TemporalPositionIndex", (1, 2), ["time 1", "time 2"]),
        ("FrameContentSequence", "FrameAcquisitionNumber", (3, 4), ["acquisition 3", "acquisition 4"]),
        ("FrameContentSequence", "StackID", ("A", "B"), ["stack A", "stack B"]),
        ("MREchoSequence", "EffectiveEchoTime", (2.5, 5.0), ["echo time 2.5", "echo time 5.0"]),
        ("MRDiffusionSequence", "DiffusionBValue", (0.0, 9.5), ["b-value 0.0", "b-value 9.5"]),
        *(
            (f"{modality}FrameTypeSequence", "FrameType", ([*ORIGINAL, "A"], [*ORIGINAL, "B"]), ["type A", "type B"])
            for modality in ("MRImage", "CTImage", "PET", "ParametricMap", "XRay3D")
        ),
        (
            "CardiacSynchronizationSequence",
            "NominalCardiacTriggerDelayTime",
            (0.0, 50.0),
            ["trigger time #1", "trigger time #2"],
        ),
        ("FrameContentSequence", "FrameComments", ("no", "trait"), ["frame #1", "frame #2"]),
    ],
)
def test_dimensions_split_frames(
    tmp_path: Path, group: str, attribute: str, values: tuple[Any, Any], labels: list[str]
):
    frames = [frame(z, **{group: item(**{attribute: value})}) for value in values for z in (1, 2, 3)]
    stacks = build_stacks([enhanced(tmp_path, frames)])
    assert [stack.label for stack in stacks] == labels
    assert [[f.index for f in stack.frames] for stack in stacks] == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize("index_of", [lambda phase, z: [1, z, phase], lambda phase, z: phase])
def test_dimension_indices_tell_frames_apart_in_any_order(tmp_path: Path, index_of: Any):
    frames = [
        frame(z, FrameContentSequence=item(DimensionIndexValues=index_of(phase, z)))
        for phase, z in [(2, 1), (1, 2), (1, 1), (2, 3), (2, 2), (1, 3)]
    ]
    stacks = build_stacks([enhanced(tmp_path, frames)])
    assert [[f.index for f in stack.frames] for stack in stacks] == [[2, 1, 5], [0, 4, 3]]
    assert [stack.label for stack in stacks] == ["dimensions #1", "dimensions #2"]


def test_gradient_directions_are_named_in_three_decimals_where_that_tells_them_apart(tmp_path: Path):
    def labels(*directions: tuple[float, ...]) -> list[str]:
        frames = [
            frame(
                z,
                MRDiffusionSequence=item(
                    DiffusionGradientDirectionSequence=item(DiffusionGradientOrientation=list(direction))
                ),
            )
            for direction in directions
            for z in (1, 2)
        ]
        return [stack.label for stack in build_stacks([enhanced(tmp_path, frames)])]

    assert labels((0.36353653, 0.86429948, 0.34760238), (-0.6, 0.8, 0.0)) == [
        "direction -0.600 0.800 0.000",
        "direction 0.364 0.864 0.348",
    ]
    assert labels((0.6, 0.80001, 0.0), (0.6, 0.8, 0.0)) == [
        "direction (0.6, 0.8, 0.0)",
        "direction (0.6, 0.80001, 0.0)",
    ]


def test_interrupted_time_point_is_named(tmp_path: Path):
    frames = [frame(z, FrameContentSequence=item(TemporalPositionIndex=1)) for z in (1, 2, 3)]
    frames += [frame(z, FrameContentSequence=item(TemporalPositionIndex=2)) for z in (1, 2)]
    full, partial = build_stacks([enhanced(tmp_path, frames)])
    assert full.findings == ()
    assert [finding.code for finding in partial.findings] == ["incomplete-volume"]


@pytest.mark.parametrize(
    ("frames", "changes", "code"),
    [
        ([], {"number_of_frames": 4}, "geometry-missing"),
        ([frame(1), frame(2)], {"number_of_frames": 3}, "frame-count"),
        ([frame(1), Dataset()], {}, "geometry-missing"),
        ([frame(1), frame(2)], {"PixelMeasuresSequence": Sequence([])}, "geometry-missing"),
        ([frame(1), frame(2)], {"PixelMeasuresSequence": item(PixelSpacing=[0.5, -1])}, "attribute-invalid"),
    ],
)
def test_refused(tmp_path: Path, frames: list[Dataset], changes: dict[str, Any], code: str):
    with pytest.raises(CaseError) as caught:
        build_stacks([enhanced(tmp_path, frames, **changes)])
    assert caught.value.code == code


def test_garbled_numbers_are_refused(tmp_path: Path):
    instance = enhanced(tmp_path, [frame(1), frame(2)])
    data = Path(instance.path).read_bytes()
    assert b"-20.0" in data
    Path(instance.path).write_bytes(data.replace(b"-20.0", b"x20.0"))
    with pytest.raises(CaseError) as caught:
        planes_of_multiframe(instance)
    assert caught.value.code == "attribute-invalid"


def test_damaged_groups_are_refused(tmp_path: Path):
    instance = enhanced(tmp_path, [frame(1), frame(2)])
    data = Path(instance.path).read_bytes()
    length = len(data) - data.rindex(b"\xfe\xff\x00\xe0", 0, data.rindex(b"\x20\x00\x13\x91"))
    garbled = data.replace(b"DS\x08\x000.5", b"D2\x08\x000.5")
    for damaged, code in ((garbled, "attribute-invalid"), (data[: 4 - length], "unreadable")):
        assert damaged != data
        Path(instance.path).write_bytes(damaged)
        with pytest.raises(CaseError) as caught:
            planes_of_multiframe(instance)
        assert caught.value.code == code


def test_a_deflated_file_that_ends_too_early_is_refused(tmp_path: Path):
    instance = enhanced(tmp_path, [frame(1), frame(2)])
    deflated = zlib.compress(Path(instance.path).read_bytes(), wbits=-15)
    Path(instance.path).write_bytes(part10(deflated, DEFLATED_UID)[:-2])
    with pytest.raises(HeaderError) as caught:
        planes_of_multiframe(instance)
    assert caught.value.code == "unreadable"


def test_legacy_converted_equals_the_classic_series(tmp_path: Path):
    from highdicom.legacy import LegacyConvertedEnhancedCTImage

    slices = [classic(n, z) for n, z in enumerate((30.0, 32.5, 35.0, 37.5), 1)]
    converted = LegacyConvertedEnhancedCTImage(slices, generate_uid(), 7, generate_uid(), 1)
    path = tmp_path / "legacy"
    converted.save_as(path)
    instance = InstanceHeader(
        path=str(path),
        transfer_syntax_uid=converted.file_meta.TransferSyntaxUID,
        sop_instance_uid=converted.SOPInstanceUID,
        modality="CT",
        rows=20,
        columns=30,
        bits_allocated=16,
        bits_stored=12,
        high_bit=11,
        pixel_representation=0,
        samples_per_pixel=1,
        photometric_interpretation="MONOCHROME2",
        number_of_frames=int(converted.NumberOfFrames),
    )
    (stack,) = build_stacks([instance])
    assert [f.position_mm for f in stack.frames] == [30, 32.5, 35, 37.5]
    assert {(f.slope, f.intercept) for f in stack.frames} == {(1, -1024)}
    np.testing.assert_allclose(stack.geometry.spacing_dhw_mm, [2.5, 0.5, 0.75])
    values = [int(converted.pixel_array[f.index, 0, 0]) for f in stack.frames]
    assert values == [1, 2, 3, 4]


def classic(number: int, z: float) -> Dataset:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = pydicom.uid.CTImageStorage
    dataset.SOPInstanceUID = generate_uid(entropy_srcs=[str(number)])
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.FrameOfReferenceUID = "1.2.1", "1.2.3", "1.2.4"
    dataset.Modality, dataset.InstanceNumber, dataset.AcquisitionNumber = "CT", number, 1
    dataset.PatientID, dataset.PatientName, dataset.PatientBirthDate, dataset.PatientSex = "p", "", "", ""
    dataset.StudyID, dataset.StudyDate, dataset.StudyTime = "1", "20200101", "120000"
    dataset.AccessionNumber, dataset.ReferringPhysicianName = "", ""
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.Manufacturer = ""
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = 20, 30, 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
    dataset.ImagePositionPatient, dataset.ImageOrientationPatient = [-10, -20, z], list(AXIAL)
    dataset.PixelSpacing, dataset.SliceThickness = [0.5, 0.75], 2.5
    dataset.RescaleSlope, dataset.RescaleIntercept, dataset.RescaleType = 1, -1024, "HU"
    dataset.PixelData = np.full((20, 30), number, np.uint16).tobytes()
    return dataset
