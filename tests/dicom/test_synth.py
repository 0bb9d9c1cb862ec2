import hashlib
import warnings

import numpy as np
import pydicom
import pytest
import SimpleITK
import yaml

from gpuprep.dicom import synth
from gpuprep.errors import ConfigError
from gpuprep.geometry import VolumeGeometry

OBLIQUE_AXES = np.array([[0.0, 0.6, 0.8], [0.0, 0.8, -0.6], [1.0, 0.0, 0.0]])


def _grid(axes):
    return VolumeGeometry.from_axes(
        (5, 7, 6), origin_lps_mm=(-10.5, 20.25, 3.125), directions_dhw=axes, spacing_dhw_mm=(2.5, 0.9, 1.1)
    )


@pytest.mark.parametrize(
    "axes", [((0, 0, 1), (0, 1, 0), (1, 0, 0)), ((1, 0, 0), (0, 0, -1), (0, 1, 0)), OBLIQUE_AXES * [[-1], [1], [1]]]
)
def test_simpleitk_reads_the_series_where_it_was_put(tmp_path, axes):
    geometry = _grid(np.array(axes, float))
    array = np.random.default_rng(1).integers(-1024, 3000, geometry.shape)
    series = synth.write_ct_series(tmp_path, geometry, array)

    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames([str(p) for p in series.paths])
    image = reader.Execute()
    assert np.array_equal(SimpleITK.GetArrayFromImage(image), array)
    for index in [(0, 0, 0), (4, 0, 0), (4, 6, 5)]:
        expected = geometry.to_lps(index)
        assert image.TransformIndexToPhysicalPoint(index[::-1]) == pytest.approx(expected, abs=1e-9)


def test_structure_set_keeps_numbers_order_and_points(tmp_path):
    geometry = _grid(OBLIQUE_AXES)
    series = synth.write_ct_series(tmp_path / "ct", geometry, np.zeros(geometry.shape))
    contour = synth.ellipse_lps_mm(geometry, 2, geometry.to_lps((2, 3, 3)), (2.0, 1.5), vertices=12)
    rois = [
        synth.RoiSpec(7, "second", [contour, contour + 1]),
        synth.RoiSpec(3, "empty"),
        synth.RoiSpec(5, "absent", None),
        synth.RoiSpec(1, "marker", [[(1, 2, 3)]], geometric_type="POINT"),
    ]
    path = synth.write_rtstruct(tmp_path / "rs.dcm", series, rois, contour_order=(3, 1, 0, 2))

    data = pydicom.dcmread(path)
    assert [(r.ROINumber, r.ROIName) for r in data.StructureSetROISequence] == [(r.number, r.name) for r in rois]
    assert [r.ReferencedROINumber for r in data.ROIContourSequence] == [1, 3, 7]
    second = data.ROIContourSequence[2].ContourSequence
    assert np.allclose(np.array(second[1].ContourData, float).reshape(-1, 3), contour + 1, atol=5e-7)
    assert second[0].ContourImageSequence[0].ReferencedSOPInstanceUID == series.sop_instance_uids[2]
    assert len(data.ROIContourSequence[1].ContourSequence) == 0
    assert data.ROIContourSequence[0].ContourSequence[0].ContourGeometricType == "POINT"
    referenced = data.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0].RTReferencedSeriesSequence[0]
    assert referenced.SeriesInstanceUID == pydicom.dcmread(series.paths[0]).SeriesInstanceUID
    assert len(referenced.ContourImageSequence) == 5


@pytest.mark.parametrize("kind", ["BINARY", "FRACTIONAL", "LABELMAP"])
def test_highdicom_reads_the_segmentation(tmp_path, kind):
    import highdicom

    geometry = synth.axial_geometry((5, 7, 6), spacing_xyz_mm=(1.5, 2.0, 3.0))
    series = synth.write_ct_series(tmp_path / "ct", geometry, np.zeros(geometry.shape))
    masks = np.random.default_rng(0).random((2, *geometry.shape)) > 0.5
    masks[1] &= ~masks[0]
    segments = [synth.SegmentSpec(n + 1, f"s{n + 1}", mask) for n, mask in enumerate(masks)]
    path = synth.write_seg(tmp_path / "seg.dcm", series, segments, kind=kind, slices=(3, 0, 1, 4, 2))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        volume = highdicom.seg.segread(path).get_volume(rescale_fractional=False)
        array = volume.match_geometry(
            highdicom.Volume(
                np.zeros(geometry.shape),
                geometry.index_to_lps,
                coordinate_system="PATIENT",
                frame_of_reference_uid=None,
            )
        ).array
    expected = np.moveaxis(masks, 0, -1) * (255 if kind == "FRACTIONAL" else 1)
    if kind == "LABELMAP":
        array = np.stack([array == 1, array == 2], axis=-1) if array.ndim == 3 else array
    assert np.array_equal(array, expected)


def test_study_is_what_it_says(tmp_path):
    first, second = synth.write_study(tmp_path, patients=2, with_seg=True)
    data = pydicom.dcmread(first.rtstruct)
    names = {r.ROINumber: r.ROIName for r in data.StructureSetROISequence}
    assert list(names.values()) == ["GTVp", "CTV_60", "Lung_L", "Lung_R", "Ring", "Bolus"]
    assert pydicom.dcmread(second.rtstruct).StructureSetROISequence[0].ROIName == "gtv_primary"
    patterns = yaml.safe_load((tmp_path / "roi_patterns.yaml").read_text())
    assert list(patterns) == list(first.volumes_mm3) == ["GTV", "CTV", "Lung_L", "Lung_R", "Ring"]

    volumes = []
    for item in data.ROIContourSequence:
        areas = []
        for contour in item.get("ContourSequence", []):
            x, y, _ = np.array(contour.ContourData, float).reshape(-1, 3).T
            areas.append(abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2)
        is_ring = names[item.ReferencedROINumber] == "Ring"
        volumes.append(5.0 * (sum(areas[::2]) - sum(areas[1::2]) if is_ring else sum(areas)))
    assert volumes == pytest.approx([*first.volumes_mm3.values(), 0.0], rel=1e-6)

    seg = pydicom.dcmread(first.seg)
    frame_segments = [
        f.SegmentIdentificationSequence[0].ReferencedSegmentNumber for f in seg.PerFrameFunctionalGroupsSequence
    ]
    voxels = [seg.pixel_array[np.array(frame_segments) == n].sum() for n in range(1, 7)]
    assert np.array(voxels[2:5]) * 80.0 == pytest.approx(
        [first.volumes_mm3[k] for k in ("Lung_L", "Lung_R", "Ring")], rel=0.05
    )
    assert voxels[5] == 0 and voxels[0] < voxels[1]


def test_equal_arguments_give_equal_files(tmp_path):
    digests = []
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        synth.write_study(tmp_path / name, slices=4, size=16, seed=seed, with_seg=True)
        files = sorted(p for p in (tmp_path / name).rglob("*") if p.is_file())
        digests.append([hashlib.sha256(p.read_bytes()).hexdigest() for p in files])
    assert digests[0] == digests[1] != digests[2]


def test_values_that_do_not_fit_are_refused(tmp_path):
    geometry = _grid(OBLIQUE_AXES)
    with pytest.raises(ConfigError) as caught:
        synth.write_ct_series(tmp_path, geometry, np.full(geometry.shape, 32000))
    assert caught.value.code == "value-range"
