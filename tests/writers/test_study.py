"""Trees of NIfTI files: places that never meet, and fingerprints against NumPy."""

import zlib

import nibabel
import numpy as np
import pytest

from gpuprep.config import MaskContainer
from gpuprep.dicom.header import InstanceHeader
from gpuprep.dicom.synth import axial_geometry
from gpuprep.errors import OverlapError, WriteError
from gpuprep.masks import Roi, from_planes
from gpuprep.volume import Volume
from gpuprep.writers.masks import MASK_WRITERS
from gpuprep.writers.study import (
    ROI_PLACE,
    NamedFile,
    StudyWriter,
    describe_rois,
    measure_values,
    tell_apart,
    without_suffix,
)

#: Relative: sums are taken in float64 slice by slice, NumPy's pairwise over all.
STATISTICS_TOLERANCE = 1e-12
GRID = axial_geometry((4, 5, 6), spacing_xyz_mm=(1, 2, 3))
SERIES = InstanceHeader(path="a.dcm", modality="CT", series_instance_uid="1.2", sop_instance_uid="1.2.1")
STRUCTURES = InstanceHeader(path="b.dcm", modality="RTSTRUCT", series_instance_uid="1.3", sop_instance_uid="1.3.1")


def named(case, path, source=SERIES):
    return NamedFile(case, path, source)


@pytest.mark.parametrize(
    ("paths", "changed"),
    [
        (["p/CT", "p/MR"], []),
        (["p/CT", "P/ct", "p/MR"], [0, 1]),
        ([f"p/{ROI_PLACE}", f"p/{ROI_PLACE}", "q/x"], [0, 1]),
        # a ROI "B_C" of the first and a ROI "C" of the second would both be A_B_C
        ([f"A_{ROI_PLACE}", f"A_B_{ROI_PLACE}", f"C_{ROI_PLACE}"], [0]),
        ([f"{ROI_PLACE}_plan", f"{ROI_PLACE}_old_plan", f"{ROI_PLACE}_plan_b"], [0]),  # likewise, with a ROI "C_old"
        ([f"A/{ROI_PLACE}", f"B/{ROI_PLACE}"], []),
    ],
)
def test_equal_places_are_told_apart(paths, changed):
    files = [named(f"case{n}", path) for n, path in enumerate(paths)]
    apart = [f.path for f in tell_apart(files, {})]
    assert [n for n, (old, new) in enumerate(zip(paths, apart, strict=True)) if old != new] == changed
    assert len({path.lower() for path in apart}) == len(paths)
    assert all(new.startswith(old) for old, new in zip(paths, apart, strict=True))


def test_places_of_earlier_runs_are_left_alone(tmp_path):
    held = {"p/ct": "older", "p/mr": "case1", "out/a": "older", "out/b": "c"}
    ct, mr = tell_apart([named("case0", "p/CT"), named("case1", "p/MR")], held)
    assert ct.path.startswith("p/CT_")
    assert mr.path == "p/MR"
    first, second = make_writer(tmp_path, held=held).write_mask("c", make_mask(["empty", "a", "b"]), {})
    assert first.path.startswith("out/a_")
    assert second.path == "out/b.nii.gz"
    assert without_suffix(second.path) == "out/b"


def make_mask(names):
    """Return a mask whose ROI n covers one more voxel than ROI n-1, ROI 0 none; all overlap."""
    planes = np.zeros((1, *GRID.shape), np.uint32)
    for n in range(len(names)):
        planes.reshape(-1)[40 : 40 + n] |= np.uint32(1 << n)
    return from_planes(planes, [Roi(n, name) for n, name in enumerate(names, 1)], GRID)


def make_writer(root, container=MaskContainer.SEPARATE, image="out/CT", held=None):
    mask = f"out/{ROI_PLACE}" if container is MaskContainer.SEPARATE else "out/mask"
    return StudyWriter(
        root,
        {"c": named("c", image)},
        {"c": named("c", mask, STRUCTURES)},
        container,
        "layout",
        ".nii.gz",
        held or {},
        1,
    )


def test_one_file_a_roi(tmp_path):
    names = ["empty", "GTV", "GTV", "gtv", "CT", "../etc", "Ä?"]
    mask = make_mask(names)
    record = {}
    outputs = make_writer(tmp_path).write_mask("c", mask, record)
    assert len({o.path.lower() for o in outputs} | {"out/ct.nii.gz"}) == len(names)
    assert outputs[0].path == "out/GTV.nii.gz"
    for index, output in enumerate(outputs, 1):
        voxels = np.asarray(nibabel.load(tmp_path / output.path).dataobj).T
        np.testing.assert_array_equal(voxels, mask.binary(index))
        assert output.content["rois"][0]["name"] == names[index]
        assert output.content["sop_instance_uid"] == "1.3.1"
    assert len(record["overlaps"]) == 15


def test_a_mask_without_voxels_is_refused(tmp_path):
    with pytest.raises(WriteError) as caught:
        make_writer(tmp_path).write_mask("c", make_mask(["empty"]), {})
    assert caught.value.code == "mask-empty"


def test_one_label_image(tmp_path):
    planes = np.zeros((1, *GRID.shape), np.uint32)
    planes[0, 1], planes[0, 2] = 1, 4
    mask = from_planes(planes, [Roi(n, f"roi {n}") for n in range(3)], GRID)
    (output,) = make_writer(tmp_path, MaskContainer.LABEL).write_mask("c", mask, {})
    labels = np.asarray(nibabel.load(tmp_path / output.path).dataobj).T
    assert [int((labels == value).sum()) for value in (0, 1, 2, 3)] == [60, 30, 0, 30]
    assert output.content["voxels_crc32"] == zlib.crc32(np.ascontiguousarray(labels))  # not that of the palette's codes
    assert [(r["name"], r["value"], r["voxels"]) for r in output.content["rois"]] == [
        ("roi 0", 1, 30),
        ("roi 1", 2, 0),
        ("roi 2", 3, 30),
    ]


def test_every_container_is_a_choice():
    assert {container.value for container in MaskContainer} == set(MASK_WRITERS)


def test_overlap_in_a_label_image_names_the_way_out(tmp_path):
    with pytest.raises(OverlapError) as caught:
        make_writer(tmp_path, MaskContainer.LABEL).write_mask("c", make_mask(["a", "b", "c"]), {})
    assert caught.value.code == "labels-overlap"
    assert "--masks separate" in caught.value.hint


def test_discard_leaves_nothing(tmp_path):
    writer = make_writer(tmp_path)
    writer.write_mask("c", make_mask(["empty", "a", "b"]), {})
    writer.write_image("c", 0, Volume(np.zeros(GRID.shape, np.int16), GRID, "CT"))
    assert len(list(tmp_path.rglob("*.nii.gz"))) == 3
    writer.discard("c")
    writer.discard("unknown")
    assert not list(tmp_path.rglob("*.nii.gz"))


def test_discard_leaves_folders_of_others_alone(tmp_path):
    writer = make_writer(tmp_path, MaskContainer.ZARR)
    (output,) = writer.write_mask("c", make_mask(["a", "b"]), {})
    writer.discard("c")
    folder = tmp_path / output.path
    assert not folder.exists()
    (folder / "codes").mkdir(parents=True)
    with pytest.raises(WriteError) as caught:
        writer.write_mask("c", make_mask(["a", "b"]), {})
    writer.discard("c")
    assert caught.value.code == "folder-occupied" and (folder / "codes").is_dir()


@pytest.mark.parametrize("dtype", ["int16", "float32", "uint8"])
def test_statistics(dtype):
    array = (np.random.default_rng(0).normal(0, 20, (3, 40, 50)) + 100).astype(dtype)
    found = measure_values(array)
    exact = array.astype(np.float64)
    for name, value in (
        ("minimum", exact.min()),
        ("maximum", exact.max()),
        ("mean", exact.mean()),
        ("std", exact.std()),
    ):
        assert found[name] == pytest.approx(value, rel=STATISTICS_TOLERANCE), name


def test_statistics_of_the_largest_values_are_exact():
    array = np.full((2, 300, 301), -32768, np.int16)
    assert measure_values(array) == {"minimum": -32768, "maximum": -32768, "mean": -32768, "std": 0}


def test_statistics_of_large_close_values():
    assert measure_values(np.full((2, 3, 4), 2**30 + 1, np.int32))["std"] == 0.0


def test_rois_have_volume_and_box():
    planes = np.zeros((1, *GRID.shape), np.uint32)
    planes[0, 1:3, 2:5, 3:4] = 1
    (roi, empty) = describe_rois(from_planes(planes, [Roi(1, "a"), Roi(2, "b")], GRID))
    assert roi == {"name": "a", "voxels": 6, "volume_mm3": 36.0, "box": [[3, 2, 1], [3, 4, 2]]}
    assert empty["box"] is None
