"""Small synthetic studies with known answers: CT and PET series, doses, structure sets and segmentations.

`write_study` makes what the demo converts. The other functions are its building blocks, and those of tests that need a
series, a structure set or a segmentation with one peculiarity: `build_*` return a pydicom data set to be changed at
will, `write_*` write it. Everything is deterministic: equal arguments give equal files.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gpuprep._version import __version__
from gpuprep.errors import ConfigError
from gpuprep.geometry import VolumeGeometry

Float = NDArray[np.float64]
SegmentationKind = Literal["BINARY", "FRACTIONAL", "LABELMAP"]

CT_STORAGE = "1.2.840.10008.5.1.4.1.1.2"
PET_STORAGE = "1.2.840.10008.5.1.4.1.1.128"
RTDOSE_STORAGE = "1.2.840.10008.5.1.4.1.1.481.2"
RTSTRUCT_STORAGE = "1.2.840.10008.5.1.4.1.1.481.3"
SEG_STORAGE = "1.2.840.10008.5.1.4.1.1.66.4"
LABELMAP_SEG_STORAGE = "1.2.840.10008.5.1.4.1.1.66.7"
EXPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"

#: Stored value 0 is this many HU.
CT_INTERCEPT_HU = -1024
#: What a synthetic patient weighs, and was given at `INJECTION_TIME`: 18F, whose half-life this is.
WEIGHT_KG, DOSE_BQ, HALF_LIFE_S = 70.0, 3.5e8, 6586.2
#: One hour before `TIME`.
INJECTION_TIME = "091112"
#: The largest Maximum Fractional Value, for which a fraction fills its byte.
MAXIMUM_FRACTIONAL_VALUE = 255
#: When all synthetic studies were made.
DATE, TIME = "20240102", "101112"
#: Vertices of a synthetic elliptic contour.
ELLIPSE_VERTICES = 72


@dataclass(frozen=True, slots=True)
class RoiSpec:
    """A ROI to be written into a structure set.

    Parameters
    ----------
    number : int
        ROI Number.
    name : str
        ROI Name.
    contours : sequence of arrays of shape (N, 3), or None
        Vertices (x, y, z) LPS mm, one array a contour; written with 6 decimals. Empty: the ROI has an item in the ROI
        Contour Sequence, without contours. None: it has no item there.
    geometric_type : str
        Contour Geometric Type of all its contours.
    rgb : (int, int, int)
        ROI Display Color.
    """

    number: int
    name: str
    contours: Sequence[ArrayLike] | None = ()
    geometric_type: str = "CLOSED_PLANAR"
    rgb: tuple[int, int, int] = (255, 0, 0)


@dataclass(frozen=True, slots=True, eq=False)
class SegmentSpec:
    """A segment to be written into a segmentation.

    Parameters
    ----------
    number : int
        Segment Number.
    label : str
        Segment Label.
    mask : ndarray of shape (D, H, W)
        Boolean; for FRACTIONAL the fractions, 0 to 1.
    cielab : (int, int, int) or None
        Recommended Display CIELab Value, as stored: 0 to 65535 each.
    """

    number: int
    label: str
    mask: NDArray[Any]
    cielab: tuple[int, int, int] | None = None


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


@dataclass(frozen=True, slots=True)
class SyntheticPatient:
    """What `write_study` wrote for one patient.

    Parameters
    ----------
    series : ImageSeries
        The CT.
    rtstruct : Path
        The structure set.
    seg : Path or None
        The segmentation with the same ROIs.
    volumes_mm3 : mapping of str to float
        Exact volume of each ROI, by its *label* in roi_patterns.yaml: area of its polygons × slice distance.
    """

    series: ImageSeries
    rtstruct: Path
    seg: Path | None
    volumes_mm3: Mapping[str, float] = field(default_factory=dict)


def derive_uid(*parts: object) -> str:
    """Return a UID that depends on `parts` alone (a UUID-derived UID, PS3.5 B.2)."""
    return f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, '/'.join(map(str, parts))).int}"


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
    data = _start_slice(series, CT_STORAGE, "CT", index)
    data.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    data.SeriesNumber = 1
    data.KVP = "120"
    data.RescaleIntercept, data.RescaleSlope, data.RescaleType = str(CT_INTERCEPT_HU), "1", "HU"
    data.WindowCenter, data.WindowWidth = "40", "400"
    _set_words(data, stored, "<i2")
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
    folder.mkdir(parents=True, exist_ok=True)
    paths = tuple(folder / f"IM{d + 1:04d}.dcm" for d in range(geometry.shape[0]))
    for d, (path, values) in enumerate(zip(paths, np.asarray(array_hu), strict=True)):
        write_dataset(build_ct_slice(planned, d, values), path)
    return ImageSeries(
        planned.patient_id, planned.study_instance_uid, planned.series_instance_uid, planned.geometry, seed, paths
    )


def build_pet_slice(series: ImageSeries, index: int, activity_bqml: ArrayLike) -> Any:
    """Return the PET Image data set of slice `index` with an activity of shape (H, W), Bq/ml, not negative.

    The largest activity of the slice is stored as 32767, so that each slice has its own slope. Weight, dose, half-life
    and times are those of the constants of this module; decay is corrected to the start of the scan.
    """
    from pydicom.dataset import Dataset

    activity = np.asarray(activity_bqml, np.float64)
    limit = np.iinfo(np.int16).max
    slope = _ds(max(float(activity.max()), 1.0) / limit)
    data = _start_slice(series, PET_STORAGE, "PT", index)
    data.ImageType = ["ORIGINAL", "PRIMARY"]
    data.SeriesNumber = 4
    data.AcquisitionDate, data.AcquisitionTime = DATE, TIME
    data.PatientWeight = _ds(WEIGHT_KG)
    dose = Dataset()
    dose.RadiopharmaceuticalStartTime = INJECTION_TIME
    dose.RadionuclideTotalDose = _ds(DOSE_BQ)
    dose.RadionuclideHalfLife = _ds(HALF_LIFE_S)
    data.RadiopharmaceuticalInformationSequence = [dose]
    data.Units, data.DecayCorrection = "BQML", "START"
    data.CorrectedImage = ["ATTN", "DECY", "SCAT"]
    data.RescaleIntercept, data.RescaleSlope = "0", slope
    _set_words(data, np.clip(np.rint(activity / float(slope)), 0, limit), "<i2")
    return data


def write_pet_series(
    folder: Path,
    geometry: VolumeGeometry,
    activity_bqml: ArrayLike,
    *,
    patient_id: str = "SYNTH-001",
    series: str = "PT",
    seed: int = 0,
) -> ImageSeries:
    """Write a PET series of `build_pet_slice`, as `write_ct_series` does; the array is Bq/ml, shape (D, H, W)."""
    planned = plan_series(geometry, patient_id=patient_id, series=series, seed=seed)
    paths = tuple(folder / f"PT{d + 1:04d}.dcm" for d in range(geometry.shape[0]))
    for d, (path, values) in enumerate(zip(paths, np.asarray(activity_bqml), strict=True)):
        write_dataset(build_pet_slice(planned, d, values), path)
    return ImageSeries(
        planned.patient_id, planned.study_instance_uid, planned.series_instance_uid, planned.geometry, seed, paths
    )


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
    scaling = _ds(max(float(dose.max()), 1e-3) / 2**31)
    series_uid = derive_uid(series.series_instance_uid, "RTDOSE")
    data = _start(series, RTDOSE_STORAGE, derive_uid(series_uid, "instance"), "RTDOSE", series_uid)
    data.SeriesNumber = 5
    data.InstanceNumber = 1
    _set_plane(data, geometry, 0)
    data.FrameOfReferenceUID = series.geometry.frame_of_reference_uid
    data.DoseUnits, data.DoseType, data.DoseSummationType = "GY", "PHYSICAL", "PLAN"
    data.DoseGridScaling = scaling
    data.FrameIncrementPointer = 0x3004000C
    data.GridFrameOffsetVector = _ds_list(np.arange(geometry.shape[0]) * geometry.spacing_dhw_mm[0])
    _set_pixels(data, dose.shape[1:], bits=32, is_signed=False)
    data.NumberOfFrames = len(dose)
    data.PixelData = np.rint(dose / float(scaling)).astype("<u4").tobytes()
    data["PixelData"].VR = "OW"
    return data


def write_rtdose(path: Path, series: ImageSeries, geometry: VolumeGeometry, dose_gy: ArrayLike) -> Path:
    """Write the RT Dose of `build_dose` and return its path."""
    write_dataset(build_dose(series, geometry, dose_gy), path)
    return path


def build_structure_set(
    series: ImageSeries, rois: Sequence[RoiSpec], *, contour_order: Sequence[int] | None = None
) -> Any:
    """Return an RT Structure Set over `series`.

    Parameters
    ----------
    series : ImageSeries
        What it refers to.
    rois : sequence of RoiSpec
        In the order of the Structure Set ROI Sequence.
    contour_order : sequence of int, optional
        Indices into `rois` in the order of the ROI Contour Sequence; that of `rois` by default.
    """
    from pydicom.dataset import Dataset

    series_uid = derive_uid(series.series_instance_uid, "RTSTRUCT")
    data = _start(series, RTSTRUCT_STORAGE, derive_uid(series_uid, "instance"), "RTSTRUCT", series_uid)
    data.SeriesNumber = 2
    data.StructureSetLabel = "synthetic"
    data.StructureSetDate, data.StructureSetTime = DATE, TIME
    frame_uid = series.geometry.frame_of_reference_uid

    referenced_series = Dataset()
    referenced_series.SeriesInstanceUID = series.series_instance_uid
    referenced_series.ContourImageSequence = [_reference(CT_STORAGE, uid) for uid in series.sop_instance_uids]
    referenced_study = _reference("1.2.840.10008.3.1.2.3.1", series.study_instance_uid)
    referenced_study.RTReferencedSeriesSequence = [referenced_series]
    referenced_frame = Dataset()
    referenced_frame.FrameOfReferenceUID = frame_uid
    referenced_frame.RTReferencedStudySequence = [referenced_study]
    data.ReferencedFrameOfReferenceSequence = [referenced_frame]

    data.StructureSetROISequence, data.RTROIObservationsSequence = [], []
    for observation_number, roi in enumerate(rois, start=1):
        item = Dataset()
        item.ROINumber = roi.number
        item.ReferencedFrameOfReferenceUID = frame_uid
        item.ROIName = roi.name
        item.ROIGenerationAlgorithm = ""
        data.StructureSetROISequence.append(item)
        observation = Dataset()
        observation.ObservationNumber = observation_number
        observation.ReferencedROINumber = roi.number
        observation.RTROIInterpretedType = ""
        observation.ROIInterpreter = ""
        data.RTROIObservationsSequence.append(observation)

    ordered = rois if contour_order is None else [rois[i] for i in contour_order]
    data.ROIContourSequence = [_roi_contours(series, roi, roi.contours) for roi in ordered if roi.contours is not None]
    return data


def write_rtstruct(
    path: Path, series: ImageSeries, rois: Sequence[RoiSpec], *, contour_order: Sequence[int] | None = None
) -> Path:
    """Write the structure set of `build_structure_set` and return its path."""
    write_dataset(build_structure_set(series, rois, contour_order=contour_order), path)
    return path


def build_segmentation(
    series: ImageSeries,
    segments: Sequence[SegmentSpec],
    *,
    geometry: VolumeGeometry | None = None,
    kind: SegmentationKind = "BINARY",
    slices: Sequence[int] | None = None,
) -> Any:
    """Return a Segmentation (or Label Map Segmentation) that refers to `series`.

    Parameters
    ----------
    series : ImageSeries
        What it refers to.
    segments : sequence of SegmentSpec
        For LABELMAP a later segment wins where they overlap; its background is 0.
    geometry : VolumeGeometry, optional
        Grid of the masks; that of `series` by default.
    kind : {"BINARY", "FRACTIONAL", "LABELMAP"}
        FRACTIONAL is of type PROBABILITY with a maximum of 255.
    slices : sequence of int, optional
        The slices that get frames, in their order in the file; by default those where the segment (for LABELMAP: any
        segment) is not empty, ascending.
    """
    from pydicom.dataset import Dataset

    grid = geometry or series.geometry
    series_uid = derive_uid(series.series_instance_uid, "SEG")
    is_labelmap = kind == "LABELMAP"
    sop_class = LABELMAP_SEG_STORAGE if is_labelmap else SEG_STORAGE
    data = _start(series, sop_class, derive_uid(series_uid, kind), "SEG", series_uid)
    data.SeriesNumber = 3
    data.InstanceNumber = 1
    data.ImageType = ["DERIVED", "PRIMARY"]
    data.ContentLabel = "SYNTHETIC"
    data.ContentDescription = ""
    data.ContentCreatorName = ""
    data.FrameOfReferenceUID = series.geometry.frame_of_reference_uid
    data.SegmentationType = kind
    data.SegmentsOverlap = "NO" if is_labelmap else "UNDEFINED"
    if kind == "FRACTIONAL":
        data.SegmentationFractionalType = "PROBABILITY"
        data.MaximumFractionalValue = MAXIMUM_FRACTIONAL_VALUE
    referenced_series = Dataset()
    referenced_series.SeriesInstanceUID = series.series_instance_uid
    referenced_series.ReferencedInstanceSequence = [_reference(CT_STORAGE, uid) for uid in series.sop_instance_uids]
    data.ReferencedSeriesSequence = [referenced_series]
    data.SegmentSequence = [_segment_item(s) for s in segments]

    layers = _stored_layers(segments, kind, grid.shape)
    chosen = [
        (number, layer, d)
        for number, layer in layers
        for d in (slices if slices is not None else np.flatnonzero(layer.any(axis=(1, 2))))
    ]
    organization_uid = derive_uid(data.SOPInstanceUID, "dimensions")
    organization = Dataset()
    organization.DimensionOrganizationUID = organization_uid
    data.DimensionOrganizationSequence = [organization]
    pointers = [(0x00200032, 0x00209113)] if is_labelmap else [(0x0062000B, 0x0062000A), (0x00200032, 0x00209113)]
    data.DimensionIndexSequence = [_dimension(organization_uid, *pointer) for pointer in pointers]

    measures = Dataset()
    measures.PixelSpacing = _ds_list(grid.spacing_dhw_mm[1:])
    measures.SliceThickness = measures.SpacingBetweenSlices = _ds(grid.spacing_dhw_mm[0])
    orientation = Dataset()
    orientation.ImageOrientationPatient = _orientation(grid)
    shared = Dataset()
    shared.PixelMeasuresSequence = [measures]
    shared.PlaneOrientationSequence = [orientation]
    data.SharedFunctionalGroupsSequence = [shared]
    data.PerFrameFunctionalGroupsSequence = [_frame_item(grid, number, int(d)) for number, _, d in chosen]

    frames = np.stack([layer[d] for _, layer, d in chosen]) if chosen else np.zeros((0, *grid.shape[1:]), np.uint8)
    bits = 1 if kind == "BINARY" else 8
    _set_pixels(data, grid.shape[1:], bits=bits, is_signed=False)
    data.NumberOfFrames = len(frames)
    data.LossyImageCompression = "00"
    stored = np.packbits(frames.reshape(-1), bitorder="little").tobytes() if bits == 1 else frames.tobytes()
    data.PixelData = stored + b"\0" * (len(stored) % 2)
    data["PixelData"].VR = "OB"
    return data


def write_seg(
    path: Path,
    series: ImageSeries,
    segments: Sequence[SegmentSpec],
    *,
    geometry: VolumeGeometry | None = None,
    kind: SegmentationKind = "BINARY",
    slices: Sequence[int] | None = None,
) -> Path:
    """Write the segmentation of `build_segmentation` and return its path."""
    write_dataset(build_segmentation(series, segments, geometry=geometry, kind=kind, slices=slices), path)
    return path


def write_dataset(data: Any, path: Path) -> None:
    """Write a data set as a DICOM file, folders included."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path, enforce_file_format=True)


@dataclass(frozen=True, slots=True)
class _Ellipsoid:
    """A phantom organ: elliptic in every slice. Lengths are fractions of the half field of view along x, y and z."""

    label: str
    names: tuple[str, str]
    pattern: str
    centre: tuple[float, float, float]
    radii: tuple[float, float, float]
    hu: int
    rgb: tuple[int, int, int]
    hole: float = 0.0


#: GTV lies inside CTV, the lungs touch nothing, Ring has a hole. Each has two names, used by patients in turn.
_ORGANS = (
    _Ellipsoid("GTV", ("GTVp", "gtv_primary"), "gtv.*", (0.0, -0.3, 0.1), (0.09, 0.12, 0.3), 90, (255, 0, 0)),
    _Ellipsoid("CTV", ("CTV_60", "ctv high"), "ctv.*", (0.0, -0.3, 0.1), (0.14, 0.2, 0.5), 60, (255, 128, 0)),
    _Ellipsoid(
        "Lung_L", ("Lung_L", "Left Lung"), "lung.?l|left.?lung", (0.42, 0.0, 0.0), (0.25, 0.4, 0.85), -800, (0, 255, 0)
    ),
    _Ellipsoid(
        "Lung_R",
        ("Lung_R", "Right Lung"),
        "lung.?r|right.?lung",
        (-0.42, 0.0, 0.0),
        (0.25, 0.4, 0.85),
        -800,
        (0, 0, 255),
    ),
    _Ellipsoid("Ring", ("Ring", "PRV ring"), ".*ring", (0.0, 0.35, 0.0), (0.16, 0.16, 0.4), 30, (255, 0, 255), 0.5),
)
_BODY = _Ellipsoid("Body", ("BODY", "BODY"), "body", (0.0, 0.0, 0.0), (0.85, 0.6, 2.0), 20, (128, 128, 128))
#: A structure that was named and never drawn.
_EMPTY_ROI = "Bolus"
_AIR_HU = -1000
_NOISE_HU = 20


def write_study(
    folder: Path,
    *,
    patients: int = 1,
    slices: int = 24,
    size: int = 64,
    spacing_xyz_mm: tuple[float, float, float] = (4.0, 4.0, 5.0),
    seed: int = 0,
    with_seg: bool = False,
) -> tuple[SyntheticPatient, ...]:
    """Write a CT and a structure set for each patient, and ``roi_patterns.yaml`` with the labels they all have.

    The ROIs: GTV inside CTV, two lungs apart, Ring with a hole (two contours a slice) and one without any contour.
    Their names differ from patient to patient, as they do in clinics; patient n is the same whatever `patients` is.

    Parameters
    ----------
    folder : Path
        Gets ``SYNTH-001/CT/IM0001.dcm``, ``SYNTH-001/RTSTRUCT/RS.dcm`` and so on.
    patients : int
        How many.
    slices, size : int
        The CT has shape (slices, size, size).
    spacing_xyz_mm : (float, float, float)
        Voxel size.
    seed : int
        For noise and UIDs.
    with_seg : bool
        Whether to write the same ROIs as a BINARY segmentation too: ``SYNTH-001/SEG/SEG.dcm``.

    Returns
    -------
    tuple of SyntheticPatient
        One a patient.
    """
    import yaml

    folder.mkdir(parents=True, exist_ok=True)
    written = tuple(
        _write_patient(
            folder / f"SYNTH-{n + 1:03d}",
            n,
            axial_geometry((slices, size, size), spacing_xyz_mm=spacing_xyz_mm),
            seed=seed,
            with_seg=with_seg,
        )
        for n in range(patients)
    )
    patterns = {organ.label: [organ.pattern] for organ in _ORGANS}
    (folder / "roi_patterns.yaml").write_text(yaml.safe_dump(patterns, sort_keys=False), encoding="utf-8")
    return written


def ellipse_lps_mm(
    geometry: VolumeGeometry,
    slice_index: float,
    centre_lps_mm: ArrayLike,
    radii_mm: tuple[float, float],
    *,
    vertices: int = ELLIPSE_VERTICES,
) -> Float:
    """Return a polygon inscribed in an ellipse in a slice plane, shape (vertices, 3), LPS mm.

    Parameters
    ----------
    geometry : VolumeGeometry
        Whose slice planes; any orientation.
    slice_index : float
        Where along the slice axis, in slices.
    centre_lps_mm : (x, y, z)
        Centre; moved along the slice axis into the plane.
    radii_mm : (float, float)
        Semi-axes along the rows (to the next column) and down the columns.
    vertices : int
        The polygon's area is ``vertices / 2 * sin(2 pi / vertices) * a * b``.
    """
    angles = 2 * np.pi * np.arange(vertices) / vertices
    _, down, right = geometry.directions_dhw
    centre = geometry.to_index(centre_lps_mm)
    centre[0] = slice_index
    a, b = radii_mm
    return geometry.to_lps(centre) + np.outer(a * np.cos(angles), right) + np.outer(b * np.sin(angles), down)


def _write_patient(
    folder: Path, number: int, geometry: VolumeGeometry, *, seed: int, with_seg: bool
) -> SyntheticPatient:
    rng = np.random.default_rng((seed, number))
    array = np.full(geometry.shape, _AIR_HU, np.int16)
    masks = {organ.label: _voxelize(organ, geometry) for organ in _ORGANS}
    array[_voxelize(_BODY, geometry)] = _BODY.hu
    for organ in reversed(_ORGANS):
        array[masks[organ.label]] = organ.hu
    array += rng.integers(-_NOISE_HU, _NOISE_HU + 1, geometry.shape, dtype=np.int16)
    series = write_ct_series(folder / "CT", geometry, array, patient_id=folder.name, seed=seed)

    rois = []
    volumes_mm3 = {}
    for roi_number, organ in enumerate(_ORGANS, start=1):
        contours, volumes_mm3[organ.label] = _contours(organ, series.geometry)
        rois.append(RoiSpec(roi_number, organ.names[number % 2], contours, rgb=organ.rgb))
    rois.append(RoiSpec(len(rois) + 1, _EMPTY_ROI))
    rtstruct = write_rtstruct(folder / "RTSTRUCT" / "RS.dcm", series, rois)

    segments = [SegmentSpec(r.number, r.name, masks[o.label]) for r, o in zip(rois[:-1], _ORGANS, strict=True)]
    segments.append(SegmentSpec(rois[-1].number, _EMPTY_ROI, np.zeros(geometry.shape, bool)))
    seg = write_seg(folder / "SEG" / "SEG.dcm", series, segments) if with_seg else None
    return SyntheticPatient(series, rtstruct, seg, volumes_mm3)


def _half_extent_mm(geometry: VolumeGeometry) -> Float:
    """Return half the extent along x, y and z of an axial grid, mm."""
    return (np.array(geometry.shape) * geometry.spacing_dhw_mm)[::-1] / 2


def _voxelize(organ: _Ellipsoid, geometry: VolumeGeometry) -> NDArray[np.bool_]:
    """Return which voxel centres of an axial grid centred on (0, 0, 0) lie in the organ, shape (D, H, W)."""
    depth, height, width = geometry.shape
    diagonal = np.arange(max(geometry.shape))[:, None].repeat(3, axis=1)  # each axis has its own coordinate
    unit = (geometry.to_lps(diagonal) / _half_extent_mm(geometry) - organ.centre) / organ.radii
    x, y, z = unit[:width, 0], unit[:height, 1, None], unit[:depth, 2, None, None]
    in_slice = np.square(x) + np.square(y)
    room = 1 - np.square(z)
    inside: NDArray[np.bool_] = (room > 0) & (in_slice <= room) & (in_slice >= organ.hole**2 * room)
    return inside


def _contours(organ: _Ellipsoid, geometry: VolumeGeometry) -> tuple[list[Float], float]:
    """Return the organ's contours in each slice that it meets, and the volume that they enclose, mm³."""
    half = _half_extent_mm(geometry)
    centre = np.array(organ.centre) * half
    contours = []
    area_mm2 = 0.0
    for d in range(geometry.shape[0]):
        z = geometry.to_lps((d, 0, 0))[2]
        room = 1 - ((z - centre[2]) / (organ.radii[2] * half[2])) ** 2
        if room <= 0:
            continue
        a, b = np.array(organ.radii[:2]) * half[:2] * np.sqrt(room)
        contours.append(ellipse_lps_mm(geometry, d, centre, (a, b)))
        if organ.hole:
            contours.append(ellipse_lps_mm(geometry, d, centre, (organ.hole * a, organ.hole * b)))
        area_mm2 += a * b * (1 - organ.hole**2)
    polygon_factor = ELLIPSE_VERTICES / 2 * np.sin(2 * np.pi / ELLIPSE_VERTICES)
    return contours, float(area_mm2 * polygon_factor * geometry.spacing_dhw_mm[0])


def _stored_layers(
    segments: Sequence[SegmentSpec], kind: SegmentationKind, shape: tuple[int, int, int]
) -> list[tuple[int | None, NDArray[np.uint8]]]:
    """Return (segment number or None, stored values of shape (D, H, W)) of each run of frames."""
    if kind == "LABELMAP":
        labels = np.zeros(shape, np.uint8)
        for segment in segments:
            labels[segment.mask.astype(bool)] = segment.number
        return [(None, labels)]
    if kind == "FRACTIONAL":
        scale = MAXIMUM_FRACTIONAL_VALUE
        return [(s.number, np.rint(s.mask.astype(np.float64) * scale).astype(np.uint8)) for s in segments]
    return [(s.number, s.mask.astype(bool).astype(np.uint8)) for s in segments]


def _start(series: ImageSeries, sop_class: str, sop_instance_uid: str, modality: str, series_uid: str) -> Any:
    """Return a data set with its file meta information and the patient, study, series and SOP common modules."""
    from pydicom.dataset import Dataset, FileMetaDataset

    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.MediaStorageSOPClassUID = sop_class
    data.file_meta.MediaStorageSOPInstanceUID = sop_instance_uid
    data.file_meta.TransferSyntaxUID = EXPLICIT_LITTLE_ENDIAN
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


def _start_slice(series: ImageSeries, sop_class: str, modality: str, index: int) -> Any:
    data = _start(series, sop_class, series.sop_instance_uids[index], modality, series.series_instance_uid)
    data.InstanceNumber = index + 1
    _set_plane(data, series.geometry, index)
    return data


def _set_plane(data: Any, geometry: VolumeGeometry, index: int) -> None:
    data.SliceThickness = _ds(geometry.spacing_dhw_mm[0])
    data.FrameOfReferenceUID = geometry.frame_of_reference_uid
    data.ImagePositionPatient = _ds_list(geometry.to_lps((index, 0, 0)))
    data.ImageOrientationPatient = _orientation(geometry)
    data.PixelSpacing = _ds_list(geometry.spacing_dhw_mm[1:])


def _set_words(data: Any, stored: NDArray[Any], dtype: str) -> None:
    _set_pixels(data, stored.shape, bits=16, is_signed=np.dtype(dtype).kind == "i")
    data.PixelData = stored.astype(dtype).tobytes()
    data["PixelData"].VR = "OW"


def _set_pixels(data: Any, shape: Sequence[int], *, bits: int, is_signed: bool) -> None:
    data.SamplesPerPixel = 1
    data.PhotometricInterpretation = "MONOCHROME2"
    data.Rows, data.Columns = (int(n) for n in shape)
    data.BitsAllocated = data.BitsStored = bits
    data.HighBit = bits - 1
    data.PixelRepresentation = int(is_signed)


def _reference(sop_class: str, sop_instance_uid: str) -> Any:
    from pydicom.dataset import Dataset

    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, sop_instance_uid
    return item


def _roi_contours(series: ImageSeries, roi: RoiSpec, contours: Sequence[ArrayLike]) -> Any:
    from pydicom.dataset import Dataset

    item = Dataset()
    item.ROIDisplayColor = list(roi.rgb)
    item.ContourSequence = []
    for points in contours:
        vertices = np.asarray(points, np.float64).reshape(-1, 3)
        contour = Dataset()
        if len(vertices):
            nearest = int(np.clip(np.rint(series.geometry.to_index(vertices[0])[0]), 0, series.geometry.shape[0] - 1))
            contour.ContourImageSequence = [_reference(CT_STORAGE, series.sop_instance_uids[nearest])]
        contour.ContourGeometricType = roi.geometric_type
        contour.NumberOfContourPoints = len(vertices)
        contour.ContourData = [f"{v:.6f}" for v in vertices.reshape(-1)]
        item.ContourSequence.append(contour)
    item.ReferencedROINumber = roi.number
    return item


def _segment_item(segment: SegmentSpec) -> Any:
    from pydicom.dataset import Dataset

    item = Dataset()
    item.SegmentNumber = segment.number
    item.SegmentLabel = segment.label
    item.SegmentAlgorithmType = "MANUAL"
    item.SegmentedPropertyCategoryCodeSequence = [_code("123037004", "Anatomical Structure")]
    item.SegmentedPropertyTypeCodeSequence = [_code("85756007", "Tissue")]
    if segment.cielab is not None:
        item.RecommendedDisplayCIELabValue = list(segment.cielab)
    return item


def _code(value: str, meaning: str) -> Any:
    from pydicom.dataset import Dataset

    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "SCT", meaning
    return item


def _dimension(organization_uid: str, pointer: int, group_pointer: int) -> Any:
    from pydicom.dataset import Dataset

    item = Dataset()
    item.DimensionOrganizationUID = organization_uid
    item.DimensionIndexPointer, item.FunctionalGroupPointer = pointer, group_pointer
    return item


def _frame_item(grid: VolumeGeometry, segment_number: int | None, slice_index: int) -> Any:
    from pydicom.dataset import Dataset

    content, position, item = Dataset(), Dataset(), Dataset()
    content.DimensionIndexValues = ([] if segment_number is None else [segment_number]) + [slice_index + 1]
    position.ImagePositionPatient = _ds_list(grid.to_lps((slice_index, 0, 0)))
    item.FrameContentSequence = [content]
    item.PlanePositionSequence = [position]
    if segment_number is not None:
        identification = Dataset()
        identification.ReferencedSegmentNumber = segment_number
        item.SegmentIdentificationSequence = [identification]
    return item


def _orientation(grid: VolumeGeometry) -> list[str]:
    _, down, right = grid.directions_dhw
    return _ds_list(np.concatenate((right, down)))


def _ds(value: float) -> str:
    """Return a number as a decimal string of at most 16 characters, with all the digits that fit."""
    from pydicom.valuerep import format_number_as_ds

    text: str = format_number_as_ds(float(value) + 0.0)
    return text


def _ds_list(values: Float) -> list[str]:
    return [_ds(v) for v in values]
