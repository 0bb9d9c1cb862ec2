"""Every container gives back the mask that went in; what is none is refused."""

from __future__ import annotations

import dataclasses
import json
import sys
import tempfile
from pathlib import Path

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mask_sets import AWKWARD_NAMES, COUNTS, check_same, coded_roi, oblique_geometry, random_mask

from gpuprep.errors import CaseError, ConfigError, HeaderError, OverlapError, RoiError, WriteError
from gpuprep.masks import Roi, let_last_win
from gpuprep.writers.masks import MASK_READERS, MASK_WRITERS, SUFFIXES, container_of, description, read_mask

SUFFIX = {"seg.nrrd": ".seg.nrrd", "zarr": ".zarr", "label": ".nii.gz", "separate": "", "hdf5": ".h5", "npz": ".npz"}
ONE_LABEL_A_VOXEL = {"label"}


def test_every_container_is_tested_and_has_a_suffix():
    assert set(SUFFIX) == set(MASK_READERS)
    assert set(MASK_WRITERS) - set(MASK_READERS) == {"dicomseg"}
    for name, suffix in SUFFIX.items():
        assert container_of(Path(f"mask{suffix}")) == name


def there_and_back(mask, container, folder):
    path = Path(folder) / f"mask{SUFFIX[container]}"
    MASK_WRITERS.load(container)(mask, path)
    return read_mask(path)


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("container", SUFFIX)
@settings(max_examples=2, deadline=None, database=None)
@given(seed=st.integers(0, 2**32 - 1), density=st.sampled_from([0.0, 0.01, 0.1, 0.5]))
def test_round_trip_of_random_overlaps(container, count, seed, density):
    mask = random_mask(count, seed, density=density)
    if container in ONE_LABEL_A_VOXEL:
        mask, _ = let_last_win(mask)
    with tempfile.TemporaryDirectory() as folder:
        check_same(mask, there_and_back(mask, container, folder))


@pytest.mark.parametrize("container", SUFFIX)
def test_names_codes_and_colours_survive(container, tmp_path):
    rois = [dataclasses.replace(coded_roi(n, name), tracking_uid="") for n, name in enumerate(AWKWARD_NAMES)]
    rois += [coded_roi(99), Roi(100, "bare"), Roi(-1, "black", (0, 0, 0))]
    mask, _ = let_last_win(random_mask(len(rois), rois=rois))
    check_same(mask, there_and_back(mask, container, tmp_path))


@pytest.mark.parametrize("container", SUFFIX)
def test_no_roi_at_all(container, tmp_path):
    mask = random_mask(0)
    check_same(mask, there_and_back(mask, container, tmp_path))


@pytest.mark.parametrize("container", SUFFIX)
def test_codes_wider_than_a_byte(container, tmp_path):
    geometry = oblique_geometry((4, 20, 20))
    mask = random_mask(12, density=0.5, geometry=geometry)
    assert mask.codes.dtype == np.uint16
    if container in ONE_LABEL_A_VOXEL:
        mask, _ = let_last_win(random_mask(400, density=0.01, geometry=geometry))
        assert mask.codes.dtype == np.uint16
    check_same(mask, there_and_back(mask, container, tmp_path))


@pytest.mark.parametrize("container", sorted(set(SUFFIX) - {"hdf5"}))
def test_equal_masks_give_equal_bytes(container, tmp_path):
    mask, _ = let_last_win(random_mask(9))
    for name in "ab":
        MASK_WRITERS.load(container)(mask, tmp_path / name / f"mask{SUFFIX[container]}")
    first = {p.relative_to(tmp_path / "a"): p.read_bytes() for p in (tmp_path / "a").rglob("*") if p.is_file()}
    second = {p.relative_to(tmp_path / "b"): p.read_bytes() for p in (tmp_path / "b").rglob("*") if p.is_file()}
    assert first == second


@pytest.mark.parametrize("container", SUFFIX)
def test_an_older_mask_is_replaced_whole(container, tmp_path):
    there_and_back(let_last_win(random_mask(9))[0], container, tmp_path)
    mask = random_mask(1)
    check_same(mask, there_and_back(mask, container, tmp_path))
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("container", SUFFIX)
def test_a_folder_of_something_else_is_never_replaced(container, tmp_path):
    path = tmp_path / f"mask{SUFFIX[container]}"
    (path / "codes").mkdir(parents=True)
    (path / "codes" / "thesis.txt").write_text("years of work")
    with pytest.raises(WriteError) as caught:
        MASK_WRITERS.load(container)(random_mask(1), path)
    assert caught.value.code == ("folder-occupied" if container in ("separate", "zarr") else "write-failed")
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["thesis.txt"]


@pytest.mark.parametrize("container", ["separate", "zarr"])
def test_a_mask_with_something_beside_is_never_replaced(container, tmp_path):
    path = tmp_path / f"mask{SUFFIX[container]}"
    MASK_WRITERS.load(container)(random_mask(2), path)
    (path / "thesis.txt").write_text("years of work")
    with pytest.raises(WriteError) as caught:
        MASK_WRITERS.load(container)(random_mask(1), path)
    assert caught.value.code == "folder-occupied" and (path / "thesis.txt").is_file()
    (path / "thesis.txt").unlink()
    check_same(random_mask(1), there_and_back(random_mask(1), container, tmp_path))


def test_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "mask").mkdir()
    check_same(random_mask(2), there_and_back(random_mask(2), "separate", tmp_path))


def test_upper_case_suffixes(tmp_path):
    mask, _ = let_last_win(random_mask(3))
    path = tmp_path / "M.NII.GZ"
    MASK_WRITERS.load(container_of(path))(mask, path)
    assert path.read_bytes()[:2] == b"\x1f\x8b"
    check_same(mask, read_mask(path))


@pytest.mark.parametrize("container", sorted(set(SUFFIX) - {"separate", "zarr"}))
@pytest.mark.parametrize("damage", ["empty", "text", "cut"])
def test_damaged_files_are_refused(container, damage, tmp_path):
    path = tmp_path / f"mask{SUFFIX[container]}"
    MASK_WRITERS.load(container)(random_mask(1), path)
    whole = path.read_bytes()
    path.write_bytes({"empty": b"", "text": b"no mask at all" * 50, "cut": whole[: len(whole) * 2 // 3]}[damage])
    with pytest.raises(HeaderError) as caught:
        read_mask(path)
    assert caught.value.code == "mask-unreadable"


@pytest.mark.parametrize("container", SUFFIX)
def test_a_few_bits_flipped_are_refused_or_change_no_voxel(container, tmp_path):
    mask, _ = let_last_win(random_mask(5, geometry=oblique_geometry((8, 30, 30))))
    path = tmp_path / f"mask{SUFFIX[container]}"
    MASK_WRITERS.load(container)(mask, path)
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    rng = np.random.default_rng(3)
    for _ in range(40):
        file = files[rng.integers(len(files))]
        whole = file.read_bytes()
        damaged = bytearray(whole)
        for at in rng.integers(len(whole), size=3):
            damaged[at] ^= 1 << rng.integers(8)
        file.write_bytes(damaged)
        try:
            read = read_mask(path)
        except CaseError as error:
            assert error.subject
        else:
            assert np.array_equal(read.table[read.codes], mask.table[mask.codes])
        file.write_bytes(whole)


@pytest.mark.parametrize("container", SUFFIX)
def test_a_missing_file_is_refused(container, tmp_path):
    with pytest.raises(HeaderError) as caught:
        read_mask(tmp_path / f"mask{SUFFIX[container]}")
    assert caught.value.code == "unreadable"


@pytest.mark.parametrize("container", sorted(ONE_LABEL_A_VOXEL))
def test_overlap_is_refused_where_a_voxel_has_one_label(container, tmp_path):
    path = tmp_path / f"mask{SUFFIX[container]}"
    with pytest.raises(OverlapError) as caught:
        MASK_WRITERS.load(container)(random_mask(9), path)
    assert caught.value.code == "labels-overlap" and not list(tmp_path.iterdir())


def test_other_names_of_containers(tmp_path):
    (tmp_path / "case.1").mkdir()
    found = {name: container_of(tmp_path / name) for name in ("a.nrrd", "a.nii", "a.hdf5", "case", "case.1")}
    assert found == {"a.nrrd": "seg.nrrd", "a.nii": "label", "a.hdf5": "hdf5", "case": "separate", "case.1": "separate"}


def test_an_unknown_suffix_is_refused():
    with pytest.raises(ConfigError) as caught:
        container_of(Path("mask.msk"))
    assert caught.value.code == "unknown-suffix"
    assert set(SUFFIXES.values()) | {"separate"} == set(MASK_WRITERS)


@pytest.mark.parametrize(("container", "module"), [("zarr", "zarr"), ("hdf5", "h5py")])
def test_a_missing_library_is_named_with_its_extra(container, module, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError) as caught:
        MASK_WRITERS.load(container)(random_mask(1), tmp_path / "mask")
    assert caught.value.code == "extra-missing" and "gpuprep[masks]" in caught.value.hint


def test_a_description_of_another_version_is_refused():
    content = json.loads(description.describe(random_mask(1))) | {"version": 2}
    with pytest.raises(HeaderError) as caught:
        description.parse_rois(json.dumps(content))
    assert caught.value.code == "mask-version"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda mask: {"codes": mask.codes.astype(np.int64)}, "mask-unreadable"),
        (lambda mask: {"codes": mask.codes + np.uint8(200)}, "code-unknown"),
        (lambda mask: {"codes": mask.codes[1:]}, "shape-mismatch"),
        (lambda mask: {"table": mask.table[:, 0]}, "mask-unreadable"),
        (lambda mask: {"table": np.repeat(mask.table, 2, axis=1)}, "mask-unreadable"),
        (lambda mask: {"table": mask.table.astype(np.int8)}, "mask-unreadable"),
    ],
)
def test_a_palette_that_is_none_is_refused(change, code, tmp_path):
    mask = random_mask(9)
    parts = {"codes": mask.codes, "table": mask.table, description.KEY: description.describe(mask)} | change(mask)
    np.savez(tmp_path / "m.npz", **parts)
    with pytest.raises(CaseError) as caught:
        read_mask(tmp_path / "m.npz")
    assert caught.value.code == code and caught.value.subject == str(tmp_path / "m.npz")


def test_a_folder_of_masks_without_our_list(tmp_path):
    """What TotalSegmentator writes: a file a ROI, named as it."""
    mask = random_mask(3, rois=[Roi(1, "aorta"), Roi(2, "liver"), Roi(3, "spleen")])
    MASK_WRITERS.load("separate")(mask, tmp_path / "s")
    (tmp_path / "s" / "rois.json").unlink()
    (tmp_path / "s" / "._aorta.nii.gz").write_bytes(b"what macOS leaves beside a file")
    (tmp_path / "s" / "spleen.nii.gz").rename(tmp_path / "s" / "spleen.nii of old.nii.gz")
    read = read_mask(tmp_path / "s")
    assert [(r.number, r.name) for r in read.rois] == [(1, "aorta"), (2, "liver"), (3, "spleen.nii of old")]
    assert np.array_equal(read.to_planes(), mask.to_planes())
    assert read.geometry.same_grid(mask.geometry)


def test_files_of_one_folder_on_different_grids_are_refused(tmp_path):
    write = MASK_WRITERS.load("separate")
    write(random_mask(1, rois=[Roi(1, "a")]), tmp_path / "s")
    write(random_mask(1, rois=[Roi(1, "b")], geometry=oblique_geometry((3, 5, 8))), tmp_path / "t")
    (tmp_path / "t" / "b.nii.gz").rename(tmp_path / "s" / "b.nii.gz")
    (tmp_path / "s" / "rois.json").unlink()
    with pytest.raises(Exception) as caught:
        read_mask(tmp_path / "s")
    assert caught.value.code == "shape-mismatch"


@pytest.mark.parametrize("values", [[0, 1, 2], [-1000, 40], [0, 0.25, 0.5], [0, np.nan]])
def test_a_file_that_is_no_mask_of_one_roi_is_refused(tmp_path, values):
    """A CT, a label image or a probability map beside the masks."""
    MASK_WRITERS.load("separate")(random_mask(1, rois=[Roi(1, "a")]), tmp_path / "s")
    (tmp_path / "s" / "rois.json").unlink()
    image = nibabel.load(tmp_path / "s" / "a.nii.gz")
    array = np.resize(values, image.shape).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(array, image.affine), tmp_path / "s" / "b.nii.gz")
    with pytest.raises(HeaderError, match=r"b\.nii\.gz is no mask of one ROI"):
        read_mask(tmp_path / "s")


@pytest.mark.parametrize("dtype", [">i2", "<f8", "u1"])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_masks_of_others_in_any_type(dtype, suffix, tmp_path):
    mask = random_mask(4, 1, rois=[Roi(n, f"r{n}") for n in range(1, 5)])
    affine = np.diag([-1.0, -1, 1, 1]) @ mask.geometry.index_to_lps[:, [2, 1, 0, 3]]
    for n, roi in enumerate(mask.rois):
        header = nibabel.Nifti1Header(endianness=dtype[0] if dtype[0] in "<>" else "<")
        header.set_data_dtype(dtype)
        array = mask.binary(n).T.astype(dtype) * (n + 1)
        nibabel.save(nibabel.Nifti1Image(array, affine, header), tmp_path / f"{roi.name}{suffix}")
    read = read_mask(tmp_path)
    assert read.rois == mask.rois and read.geometry.same_grid(mask.geometry)
    assert np.array_equal(read.to_planes(), mask.to_planes())


def test_labels_that_the_table_lacks_are_refused(tmp_path):
    mask = random_mask(2)
    mask = dataclasses.replace(let_last_win(mask)[0], rois=(mask.rois[0],))
    path = tmp_path / "mask.seg.nrrd"
    MASK_WRITERS.load("seg.nrrd")(let_last_win(random_mask(2))[0], path)
    content = path.read_bytes().replace(b"Segment1_ID", b"Segment9_ID")
    path.write_bytes(content)
    with pytest.raises(RoiError) as caught:
        read_mask(path)
    assert caught.value.code == "label-unknown"


def test_a_file_that_the_folder_lacks_is_named(tmp_path):
    MASK_WRITERS.load("separate")(random_mask(2), tmp_path / "s")
    lost = sorted((tmp_path / "s").glob("*.nii.gz"))[1]
    lost.unlink()
    with pytest.raises(HeaderError) as caught:
        read_mask(tmp_path / "s")
    assert (caught.value.code, caught.value.subject) == ("unreadable", str(lost))
