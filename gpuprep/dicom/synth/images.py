"""Synthetic CT and PET series, and doses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from gpuprep.dicom.header import RTDOSE_UID
from gpuprep.dicom.synth.elements import (
    CT_STORAGE,
    DATE,
    TIME,
    ImageSeries,
    decimal,
    decimals,
    derive_uid,
    set_pixels,
    set_plane,
    set_words,
    start,
    start_slice,
    write_dataset,
)
from gpuprep.errors import ConfigError
from gpuprep.geometry import VolumeGeometry

PET_STORAGE = "1.2.840.10008.5.1.4.1.1.128"

#: Stored value 0 is this many HU.
CT_INTERCEPT_HU = -1024
#: What a synthetic patient weighs, and was given at `INJECTION_TIME`: 18F, whose half-life this is.
WEIGHT_KG, DOSE_BQ, HALF_LIFE_S = 70.0, 3.5e8, 6586.2
#: One hour before `TIME`.
INJECTION_TIME = "091112"


def axial_geometry(
    shape: Sequence[int], *, spacing_xyz_mm: Sequence[float], origin_lps_mm: ArrayLike | None = None
) -> VolumeGeometry:
    """Return an axial head-first supine grid (D, H, W), slices from feet to head; centred on (0, 0, 0) by default."""
    spacing_dhw_mm = np.array(spacing_xyz_mm, np.float64)[::-1]
    if origin_lps_mm is None:
        origin_lps_mm = (-(np.array(shape) - 1) / 2 * spacing_dhw_mm)[::-1]
    return VolumeGeometry.from_axes(
        shape,
        origin_lps_mm=origin_lps_mm,
        directions_dhw=((0, 0, 1), (0, 1, 0), (1, 0, 0)),
        spacing_dhw_mm=spacing_dhw_mm,
    )


def plan_series(
    geometry: VolumeGeometry, *, patient_id: str = "SYNTH-001", series: str = "CT", seed: int = 0
) -> ImageSeries:
    """Return the identity of a series on `geometry`; series of a patient and seed share study and frame of reference.

    A frame of reference that `geometry` names is kept.
    """
    study_uid = derive_uid(seed, patient_id, "study")
    frame_uid = geometry.frame_of_reference_uid or derive_uid(seed, patient_id, "frame of reference")
    grid = VolumeGeometry(geometry.shape, geometry.index_to_lps, frame_uid)
    return ImageSeries(patient_id, study_uid, derive_uid(study_uid, series), grid, seed)


def build_ct_slice(series: ImageSeries, index: int, values_hu: ArrayLike) -> Any:
    """Return the CT Image data set of slice `index` with `values_hu` of shape (H, W).

    Raises
    ------
    ConfigError
        ``value-range``: a value does not fit 16 signed bits after the intercept of -1024 HU.
    """
    stored = np.asarray(values_hu).astype(np.int32) - CT_INTERCEPT_HU
    limits = np.iinfo(np.int16)
    if stored.min() < limits.min or stored.max() > limits.max:
        raise ConfigError(f"stored values {stored.min()} to {stored.max()}", code="value-range")
    data = start_slice(series, CT_STORAGE, "CT", index)
    data.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    data.SeriesNumber = 1
    data.KVP = "120"
    data.RescaleIntercept, data.RescaleSlope, data.RescaleType = str(CT_INTERCEPT_HU), "1", "HU"
    data.WindowCenter, data.WindowWidth = "40", "400"
    set_words(data, stored, "<i2")
    return data


def write_ct_series(
    folder: Path,
    geometry: VolumeGeometry,
    array_hu: ArrayLike,
    *,
    patient_id: str = "SYNTH-001",
    series: str = "CT",
    seed: int = 0,
) -> ImageSeries:
    """Write a CT series, explicit little endian, one file a slice: ``IM0001.dcm`` is slice 0.

    Parameters
    ----------
    folder : Path
        Made when missing.
    geometry : VolumeGeometry
        Any orientation; a sheared grid gives a tilted gantry's slices.
    array_hu : array of shape (D, H, W)
        HU, integers.
    patient_id, series, seed : str, str, int
        What the UIDs are derived from.

    Raises
    ------
    ConfigError
        ``value-range``, as `build_ct_slice`.
    """
    planned = plan_series(geometry, patient_id=patient_id, series=series, seed=seed)
    return _write_slices(folder, "IM", planned, array_hu, build_ct_slice)


def build_pet_slice(series: ImageSeries, index: int, activity_bqml: ArrayLike) -> Any:
    """Return the PET Image data set of slice `index` with an activity of shape (H, W), Bq/ml, not negative.

    The largest activity of the slice is stored as 32767, so that each slice has its own slope. Weight, dose, half-life
    and times are those of the constants of this module; decay is corrected to the start of the scan.
    """
    from pydicom.dataset import Dataset

    activity = np.asarray(activity_bqml, np.float64)
    limit = np.iinfo(np.int16).max
    slope = decimal(max(float(activity.max()), 1.0) / limit)
    data = start_slice(series, PET_STORAGE, "PT", index)
    data.ImageType = ["ORIGINAL", "PRIMARY"]
    data.SeriesNumber = 4
    data.AcquisitionDate, data.AcquisitionTime = DATE, TIME
    data.PatientWeight = decimal(WEIGHT_KG)
    dose = Dataset()
    dose.RadiopharmaceuticalStartTime = INJECTION_TIME
    dose.RadionuclideTotalDose = decimal(DOSE_BQ)
    dose.RadionuclideHalfLife = decimal(HALF_LIFE_S)
    data.RadiopharmaceuticalInformationSequence = [dose]
    data.Units, data.DecayCorrection = "BQML", "START"
    data.CorrectedImage = ["ATTN", "DECY", "SCAT"]
    data.RescaleIntercept, data.RescaleSlope = "0", slope
    set_words(data, np.clip(np.rint(activity / float(slope)), 0, limit), "<i2")
    return data


def write_pet_series(
    folder: Path, geometry: VolumeGeometry, activity_bqml: ArrayLike, *, patient_id: str = "SYNTH-001"
) -> ImageSeries:
    """Write a PET series of `build_pet_slice`, as `write_ct_series` does; the array is Bq/ml, shape (D, H, W)."""
    planned = plan_series(geometry, patient_id=patient_id, series="PT")
    return _write_slices(folder, "PT", planned, activity_bqml, build_pet_slice)


def build_dose(series: ImageSeries, geometry: VolumeGeometry, dose_gy: ArrayLike) -> Any:
    """Return an RT Dose in the study and frame of reference of `series`.

    Parameters
    ----------
    series : ImageSeries
        The image it belongs to.
    geometry : VolumeGeometry
        Its own grid.
    dose_gy : array of shape (D, H, W)
        Gy, not negative; stored in 32 bits, the largest as 2^31.
    """
    dose = np.asarray(dose_gy, np.float64)
    scaling = decimal(max(float(dose.max()), 1e-3) / 2**31)
    series_uid = derive_uid(series.series_instance_uid, "RTDOSE")
    data = start(series, RTDOSE_UID, derive_uid(series_uid, "instance"), "RTDOSE", series_uid)
    data.SeriesNumber = 5
    data.InstanceNumber = 1
    set_plane(data, geometry, 0)
    data.FrameOfReferenceUID = series.geometry.frame_of_reference_uid
    data.DoseUnits, data.DoseType, data.DoseSummationType = "GY", "PHYSICAL", "PLAN"
    data.DoseGridScaling = scaling
    data.FrameIncrementPointer = 0x3004000C
    data.GridFrameOffsetVector = decimals(np.arange(geometry.shape[0]) * geometry.spacing_dhw_mm[0])
    set_pixels(data, dose.shape[1:], bits=32, is_signed=False)
    data.NumberOfFrames = len(dose)
    data.PixelData = np.rint(dose / float(scaling)).astype("<u4").tobytes()
    data["PixelData"].VR = "OW"
    return data


def write_rtdose(path: Path, series: ImageSeries, geometry: VolumeGeometry, dose_gy: ArrayLike) -> Path:
    """Write the RT Dose of `build_dose` and return its path."""
    write_dataset(build_dose(series, geometry, dose_gy), path)
    return path


def _write_slices(
    folder: Path,
    prefix: str,
    series: ImageSeries,
    array: ArrayLike,
    build: Callable[[ImageSeries, int, ArrayLike], Any],
) -> ImageSeries:
    paths = tuple(folder / f"{prefix}{d + 1:04d}.dcm" for d in range(series.geometry.shape[0]))
    for d, (path, values) in enumerate(zip(paths, np.asarray(array), strict=True)):
        write_dataset(build(series, d, values), path)
    return replace(series, paths=paths)
