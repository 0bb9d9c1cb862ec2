"""What all synthetic data sets share: identity, the patient and study modules, planes and pixels."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuprep._version import __version__
from gpuprep.dicom.datasets import EXPLICIT_LITTLE_UID
from gpuprep.geometry import VolumeGeometry

Float = NDArray[np.float64]

CT_STORAGE = "1.2.840.10008.5.1.4.1.1.2"

#: When all synthetic studies were made.
DATE, TIME = "20240102", "101112"


@dataclass(frozen=True, slots=True)
class ImageSeries:
    """A series that was written, for those who refer to it.

    Parameters
    ----------
    patient_id, study_instance_uid, series_instance_uid : str
        Who and what it belongs to.
    geometry : VolumeGeometry
        Its grid; slice d is instance d. The frame of reference is never empty.
    seed : int
        What its UIDs were derived from.
    paths : tuple of Path
        One file a slice; empty when nothing was written.
    """

    patient_id: str
    study_instance_uid: str
    series_instance_uid: str
    geometry: VolumeGeometry
    seed: int
    paths: tuple[Path, ...] = ()

    @property
    def sop_instance_uids(self) -> tuple[str, ...]:
        """SOP Instance UID of each slice."""
        return tuple(derive_uid(self.series_instance_uid, d) for d in range(self.geometry.shape[0]))


def derive_uid(*parts: object) -> str:
    """Return a UID that depends on `parts` alone (a UUID-derived UID, PS3.5 B.2)."""
    return f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, '/'.join(map(str, parts))).int}"


def write_dataset(data: Any, path: Path) -> None:
    """Write a data set as a DICOM file, folders included."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path, enforce_file_format=True)


def start(series: ImageSeries, sop_class: str, sop_instance_uid: str, modality: str, series_uid: str) -> Any:
    """Return a data set with its file meta information and the patient, study, series and SOP common modules."""
    from pydicom.dataset import Dataset, FileMetaDataset

    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.MediaStorageSOPClassUID = sop_class
    data.file_meta.MediaStorageSOPInstanceUID = sop_instance_uid
    data.file_meta.TransferSyntaxUID = EXPLICIT_LITTLE_UID
    data.file_meta.ImplementationClassUID = derive_uid("gpuprep")
    data.SpecificCharacterSet = "ISO_IR 192"
    data.SOPClassUID, data.SOPInstanceUID = sop_class, sop_instance_uid
    data.StudyDate = data.SeriesDate = data.ContentDate = DATE
    data.StudyTime = data.SeriesTime = data.ContentTime = TIME
    data.AccessionNumber = ""
    data.Modality = modality
    data.Manufacturer = "gpuprep"
    data.ManufacturerModelName = "synthetic"
    data.DeviceSerialNumber = "0"
    data.SoftwareVersions = __version__
    data.ReferringPhysicianName = ""
    data.PatientName = data.PatientID = series.patient_id
    data.PatientBirthDate = data.PatientSex = ""
    data.StudyInstanceUID, data.SeriesInstanceUID = series.study_instance_uid, series_uid
    data.StudyID = "1"
    return data


def start_slice(series: ImageSeries, sop_class: str, modality: str, index: int) -> Any:
    """Return `start` of slice `index`, placed."""
    data = start(series, sop_class, series.sop_instance_uids[index], modality, series.series_instance_uid)
    data.InstanceNumber = index + 1
    set_plane(data, series.geometry, index)
    return data


def set_plane(data: Any, geometry: VolumeGeometry, index: int) -> None:
    """Set position, orientation, spacing and frame of reference of slice `index` of a grid."""
    data.SliceThickness = decimal(geometry.spacing_dhw_mm[0])
    data.FrameOfReferenceUID = geometry.frame_of_reference_uid
    data.ImagePositionPatient = decimals(geometry.to_lps((index, 0, 0)))
    data.ImageOrientationPatient = orientation_of(geometry)
    data.PixelSpacing = decimals(geometry.spacing_dhw_mm[1:])


def set_words(data: Any, stored: NDArray[Any], dtype: str) -> None:
    """Set the pixels of one frame of shape (H, W), in 16 bits."""
    set_pixels(data, stored.shape, bits=16, is_signed=np.dtype(dtype).kind == "i")
    data.PixelData = stored.astype(dtype).tobytes()
    data["PixelData"].VR = "OW"


def set_pixels(data: Any, shape: Sequence[int], *, bits: int, is_signed: bool) -> None:
    """Set the image pixel module of grey frames of `shape` (H, W), without their values."""
    data.SamplesPerPixel = 1
    data.PhotometricInterpretation = "MONOCHROME2"
    data.Rows, data.Columns = (int(n) for n in shape)
    data.BitsAllocated = data.BitsStored = bits
    data.HighBit = bits - 1
    data.PixelRepresentation = int(is_signed)


def reference(sop_class: str, sop_instance_uid: str) -> Any:
    """Return an item that refers to an instance."""
    from pydicom.dataset import Dataset

    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, sop_instance_uid
    return item


def orientation_of(grid: VolumeGeometry) -> list[str]:
    """Return Image Orientation (Patient) of the slices of a grid."""
    _, down, right = grid.directions_dhw
    return decimals(np.concatenate((right, down)))


def decimal(value: float) -> str:
    """Return a number as a decimal string of at most 16 characters, with all the digits that fit."""
    from pydicom.valuerep import format_number_as_ds

    text: str = format_number_as_ds(float(value) + 0.0)
    return text


def decimals(values: Float) -> list[str]:
    """Return `decimal` of each number."""
    return [decimal(v) for v in values]
