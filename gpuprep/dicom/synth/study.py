"""A phantom with organs of known volume, as studies of several patients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gpuprep.dicom.synth.elements import Float, ImageSeries
from gpuprep.dicom.synth.images import axial_geometry, write_ct_series
from gpuprep.dicom.synth.segmentations import SegmentSpec, write_seg
from gpuprep.dicom.synth.structures import RoiSpec, write_rtstruct
from gpuprep.geometry import VolumeGeometry

#: Vertices of a synthetic elliptic contour.
ELLIPSE_VERTICES = 72


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
