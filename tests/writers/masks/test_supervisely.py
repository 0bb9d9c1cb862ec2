"""Folders of Supervisely's import read back: made by hand with nibabel as its documentation shows them, and ours."""

import nibabel
import numpy as np
import pytest
from mask_sets import check_same

from gpuprep.errors import GpuprepError
from gpuprep.geometry import VolumeGeometry
from gpuprep.masks import Roi, RoiMask, merge_same_names
from gpuprep.writers.masks import supervisely
from gpuprep.writers.supervisely import PlaneWriter, VolumeWriter, write_dataset_json

#: Columns to the left, rows to the front, slices downwards, in mm: nothing like RAS.
AFFINE = np.array([[-1, 0, 0, 10], [0, 2, 0, -20], [0, 0, -5, 30], [0, 0, 0, 1.0]])
SHAPE = (4, 3, 2)
#: The same grid, as (slice, row, column) to LPS mm.
INDEX_TO_LPS = np.array([[0, 0, 1, -10], [0, -2, 0, 20], [-5, 0, 0, 30], [0, 0, 0, 1.0]])


def save(path, values, affine=AFFINE):
    """Write a volume of `SHAPE` with a value at some (i, j, k)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.zeros(SHAPE, np.uint8)
    for place, value in values.items():
        array[place] = value
    nibabel.save(nibabel.Nifti1Image(array, affine), path)


def rois(mask):
    """Name, colour and voxels (i, j, k) of each ROI."""
    return [(r.name, r.rgb, [tuple(p[::-1]) for p in np.argwhere(mask.binary(n)).tolist()])
            for n, r in enumerate(mask.rois)]  # fmt: skip


def code_of(*arguments):
    with pytest.raises(GpuprepError) as caught:
        supervisely.read(*arguments)
    return caught.value.code


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_by_volume_name_each_object_is_a_roi(tmp_path, suffix):
    save(tmp_path / f"CTChest{suffix}", {(0, 0, 0): 77})
    save(tmp_path / "CTChest" / f"lung{suffix}", {(0, 0, 0): 1, (3, 2, 1): 5, (3, 1, 1): 5})
    save(tmp_path / "CTChest" / f"a tumor{suffix}", {(3, 2, 1): 1})
    (tmp_path / "CTChest" / f"._lung{suffix}").write_bytes(b"what macOS leaves beside a file")
    assert supervisely.is_case(tmp_path / "CTChest")
    mask = supervisely.read(tmp_path / "CTChest")
    assert rois(mask) == [
        ("a tumor", None, [(3, 2, 1)]),
        ("lung", None, [(0, 0, 0)]),
        ("lung", None, [(3, 1, 1), (3, 2, 1)]),
    ]
    assert [roi.number for roi in mask.rois] == [1, 2, 3]
    assert np.array_equal(mask.geometry.index_to_lps, INDEX_TO_LPS)
    assert rois(merge_same_names(mask)) == [
        ("a tumor", None, [(3, 2, 1)]),
        ("lung", None, [(0, 0, 0), (3, 1, 1), (3, 2, 1)]),
    ]


def test_by_plane_a_label_map_has_the_classes_of_the_colour_map(tmp_path):
    save(tmp_path / "item" / "axl_anatomic.nii", {})
    save(tmp_path / "item" / "axl_inference.nii", {(0, 0, 0): 2, (1, 0, 0): 9})
    (tmp_path / "cls_color_map.txt").write_text("1 Femur 255 0 0\n2 Femoral cartilage 0 255 0\n")
    assert supervisely.is_case(tmp_path / "item")
    assert rois(supervisely.read(tmp_path / "item")) == [
        ("Femur", (255, 0, 0), []),
        ("Femoral cartilage", (0, 255, 0), [(0, 0, 0)]),
        ("Segment_9", None, [(1, 0, 0)]),
    ]
    (tmp_path / "item" / "notes.txt").write_text("anything")
    assert code_of(tmp_path / "item") == "colours-unreadable"


def test_by_plane_instance_files_are_classes_by_number(tmp_path):
    save(tmp_path / "cor_inference_3.nii.gz", {(0, 0, 0): 1, (1, 1, 1): 2})
    save(tmp_path / "cor_inference_1.nii.gz", {(0, 0, 0): 1})
    save(tmp_path / "cor_mask_other.nii.gz", {(3, 2, 1): 1})
    for name in ("cor_anatomic", "cor_anatomic_mask", "cor_other", "mask"):  # volumes, neither, of no plane
        save(tmp_path / f"{name}.nii.gz", {(2, 2, 0): 1})
    (tmp_path / "colours.txt").write_text("1 Femur 255 0 0\n3 Tibia 0 0 255\n")
    for name in ("._colours.txt", "._cor_inference_3.nii.gz"):
        (tmp_path / name).write_bytes(b"what macOS leaves beside a file")
    assert rois(supervisely.read(tmp_path)) == [
        ("Femur", (255, 0, 0), [(0, 0, 0)]),
        ("Tibia", (0, 0, 255), [(0, 0, 0)]),
        ("Tibia", (0, 0, 255), [(1, 1, 1)]),
        ("cor_mask_other", None, [(3, 2, 1)]),
    ]


def test_planes_that_differ_are_told_apart(tmp_path):
    save(tmp_path / "axl_inference.nii", {(0, 0, 0): 1})
    save(tmp_path / "sag_inference.nii", {(0, 0, 0): 1})
    assert rois(supervisely.read(tmp_path)) == [("Segment_1", None, [(0, 0, 0)])]
    save(tmp_path / "sag_inference.nii", {(1, 0, 0): 1})
    assert code_of(tmp_path) == "planes-differ"
    assert rois(supervisely.read(tmp_path, "sag")) == [("Segment_1", None, [(1, 0, 0)])]
    assert code_of(tmp_path, "cor") == "plane-missing"


def test_refusals(tmp_path):
    save(tmp_path / "a" / "one.nii", {})
    save(tmp_path / "a" / "one" / "liver.nii", {(0, 0, 0): 1})
    assert supervisely.is_case(tmp_path / "a")
    assert code_of(tmp_path / "a") == "several-cases"
    assert code_of(tmp_path / "a" / "one", "axl") == "plane-missing"
    save(tmp_path / "a" / "one" / "spleen.nii", {}, AFFINE + np.diag([0.1, 0, 0, 0]))
    assert code_of(tmp_path / "a" / "one") == "shape-mismatch"
    for case in ("x", "y"):
        save(tmp_path / "b" / case / "axl_inference.nii", {})
    assert code_of(tmp_path / "b") == "several-cases"
    (tmp_path / "c").mkdir()
    assert not supervisely.is_case(tmp_path / "c") and code_of(tmp_path / "c") == "unreadable"
    nibabel.save(nibabel.Nifti1Image(np.full(SHAPE, -1, np.int16), AFFINE), tmp_path / "c" / "axl_mask.nii")
    assert code_of(tmp_path / "c") == "mask-unreadable"


@pytest.mark.parametrize("layout", ["volume", "plane"])
def test_what_we_write_comes_back_with_names_order_colours_and_grid(tmp_path, layout):
    turn = np.array([[0, 0, 1], [0, -1, 0], [-1, 0, 0]])
    grid = VolumeGeometry.from_axes(
        (2, 3, 4), origin_lps_mm=(10 / 3, 20, 30), directions_dhw=turn, spacing_dhw_mm=(5, 2, 0.7),
        frame_of_reference_uid="1.2.3",
    )  # fmt: skip
    codes = np.zeros(grid.shape, np.uint8)
    codes[0, 0, 0], codes[1, 2, 3], codes[1, 1, 1] = 1, 2, 3
    names = (Roi(1, "spinal cord", (1, 2, 3)), Roi(2, "tree", (4, 5, 6)), Roi(3, "a", (7, 8, 9)))
    mask = RoiMask(codes, np.array([[0], [1], [4], [5]], np.uint32), names, grid)
    writer = (
        VolumeWriter(tmp_path, "label")
        if layout == "volume"
        else PlaneWriter(tmp_path, ("axl", "sag"), "instance", "error")
    )
    record = {}
    writer.write_mask("A_cor", mask, record)
    details = {
        **record, "labels": [], "series": [], "segmentations": [], "voxels": {}, "study_instance_uid": "",
        "grid": {"shape_dhw": grid.shape, "index_dhw_to_lps_mm": grid.index_to_lps.tolist(),
                 "frame_of_reference_uid": "1.2.3"},
    }  # fmt: skip
    write_dataset_json(tmp_path, layout=layout, labels=[r.name for r in names], cases={"A_cor": details})
    (case,) = (p for p in (tmp_path / "import").iterdir() if p.is_dir())
    check_same(mask, supervisely.read(case))
