"""RT Dose grids and values against pydicom × scaling and hand-computed geometry."""

import numpy as np
import pydicom
import pytest

from gpuprep.codecs.batch import decode_instance
from gpuprep.dicom.dose import describe_dose, read_dose_grid, scale_to_gray
from gpuprep.dicom.header import read_headers
from gpuprep.dicom.synth import axial_geometry, build_dose, plan_series, write_dataset
from gpuprep.errors import GeometryError, HeaderError
from gpuprep.geometry import VolumeGeometry

GRID = axial_geometry((5, 6, 7), spacing_xyz_mm=(2.5, 3.0, 4.0), origin_lps_mm=(-10.0, -20.0, 30.0))
SERIES = plan_series(axial_geometry((4, 8, 8), spacing_xyz_mm=(3, 3, 3)))
DOSE_GY = np.random.default_rng(1).uniform(0, 60, GRID.shape)
#: Distance of grid points, mm.
PLACE_TOLERANCE_MM = 1e-9


def read(folder, change=lambda data: None, grid=GRID):
    data = build_dose(SERIES, grid, DOSE_GY)
    change(data)
    path = folder / "dose.dcm"
    write_dataset(data, path)
    return read_dose_grid(read_headers([str(path)])[0]), path


def test_values_are_pydicoms_times_scaling(tmp_path):
    dose, path = read(tmp_path)
    gray = scale_to_gray(decode_instance(dose.header, dose.spec).array, dose)
    data = pydicom.dcmread(path)
    np.testing.assert_array_equal(gray, (data.pixel_array * float(data.DoseGridScaling)).astype(np.float32))
    np.testing.assert_allclose(gray, DOSE_GY, atol=1e-6)
    assert describe_dose(dose) == {
        "sop_instance_uid": data.SOPInstanceUID,
        "units": "GY",
        "dose_type": "PHYSICAL",
        "summation_type": "PLAN",
        "dose_grid_scaling": float(data.DoseGridScaling),
    }
    assert dose.geometry.same_grid(GRID, PLACE_TOLERANCE_MM)
    assert dose.geometry.frame_of_reference_uid == SERIES.geometry.frame_of_reference_uid


def test_direction_cosines_of_three_decimals_keep_spacing_and_right_angles(tmp_path):
    def change(data):
        data.ImageOrientationPatient = [0.577, 0.577, 0.577, -0.707, 0.707, 0.0]

    geometry = read(tmp_path, change)[0].geometry
    np.testing.assert_allclose(geometry.spacing_dhw_mm, (4.0, 3.0, 2.5), rtol=1e-12)
    np.testing.assert_allclose(geometry.directions_dhw @ geometry.directions_dhw.T, np.eye(3), atol=1e-12)


@pytest.mark.parametrize("first_mm", [0.0, 30.0, 29.991, 30.009])
def test_offsets_may_be_coordinates(tmp_path, first_mm):
    def change(data):
        data.GridFrameOffsetVector = [first_mm + 4.0 * n for n in range(5)]
        data.SliceThickness = 9  # has no say where there are offsets

    assert read(tmp_path, change)[0].geometry.same_grid(GRID, PLACE_TOLERANCE_MM)


def test_coordinates_of_planes_that_look_down(tmp_path):
    # feet-first prone: rows run along +y, columns along +x seen from below, so that the normal is -z
    down = VolumeGeometry.from_axes(
        GRID.shape,
        origin_lps_mm=(-10, 20, 30),
        directions_dhw=((0, 0, -1), (0, -1, 0), (1, 0, 0)),
        spacing_dhw_mm=(4.0, 3.0, 2.5),
    )

    def change(data):
        data.GridFrameOffsetVector = [30.0 - 4.0 * n for n in range(5)]

    assert read(tmp_path, change, down)[0].geometry.same_grid(down, PLACE_TOLERANCE_MM)


def test_descending_offsets_are_sorted(tmp_path):
    def change(data):
        data.GridFrameOffsetVector = [-4.0 * n for n in range(5)]
        data.ImagePositionPatient[2] = 46.0

    dose, _ = read(tmp_path, change)
    assert dose.geometry.same_grid(GRID, PLACE_TOLERANCE_MM)
    gray = scale_to_gray(decode_instance(dose.header, dose.spec).array, dose)
    np.testing.assert_allclose(gray, DOSE_GY[::-1], atol=1e-6)


@pytest.mark.parametrize("offsets", [None, [0], [30]])
def test_a_single_plane(tmp_path, offsets):
    def change(data):
        data.GridFrameOffsetVector = offsets
        data.NumberOfFrames = 1
        data.PixelData = data.PixelData[: 4 * 6 * 7]

    dose, _ = read(tmp_path, change)
    assert dose.geometry.shape == (1, 6, 7)
    assert dose.geometry.spacing_dhw_mm[0] == 4.0
    assert dose.geometry.origin_lps_mm.tolist() == [-10, -20, 30]


@pytest.mark.parametrize(
    ("attribute", "value", "error", "code"),
    [
        ("DoseUnits", "RELATIVE", HeaderError, "dose-not-gray"),
        ("DoseUnits", None, HeaderError, "dose-not-gray"),
        ("DoseGridScaling", "0", HeaderError, "dose-scaling-missing"),
        ("DoseGridScaling", None, HeaderError, "dose-scaling-missing"),
        ("GridFrameOffsetVector", None, GeometryError, "geometry-missing"),
        ("GridFrameOffsetVector", [7, 11, 15, 19, 23], GeometryError, "geometry-missing"),
        ("GridFrameOffsetVector", [30.011, 34.011, 38.011, 42.011, 46.011], GeometryError, "geometry-missing"),
        ("GridFrameOffsetVector", [0, 4, 8, 12], GeometryError, "frame-count"),
        ("GridFrameOffsetVector", [0, 4, 8, 13, 17], GeometryError, "variable-spacing"),
        ("GridFrameOffsetVector", [0, 4, 4, 8, 12], GeometryError, "duplicate-position"),
        ("ImagePositionPatient", None, GeometryError, "geometry-missing"),
    ],
)
def test_what_makes_no_dose_is_refused(tmp_path, attribute, value, error, code):
    def change(data):
        if value is None:
            delattr(data, attribute)
        else:
            setattr(data, attribute, value)

    with pytest.raises(error) as caught:
        read(tmp_path, change)
    assert caught.value.code == code
