"""Names, axes, types and values of MedSegPy's files, against values written down by hand, read with h5py."""

import json

import h5py
import numpy as np
import pytest

from gpuprep.errors import ConfigError, GpuprepError
from gpuprep.geometry import VolumeGeometry
from gpuprep.masks import Roi, RoiMask
from gpuprep.volume import Volume
from gpuprep.writers.atomic import PART_SUFFIX
from gpuprep.writers.colours import choose_colours
from gpuprep.writers.hdf5 import write_slices
from gpuprep.writers.medsegpy import (
    Collation,
    MedsegpyWriter,
    Numbering,
    assign_splits,
    check_output,
    extend_numbering,
    parse_shares,
    read_numbering,
    read_split_file,
    write_dataset_json,
    write_numbering,
)

#: 2 slices of 3 rows and 4 columns; rows 2 mm, columns 1 mm, slices 5 mm apart.
GRID = VolumeGeometry.from_axes(
    (2, 3, 4),
    origin_lps_mm=(10, 20, 30),
    directions_dhw=[[0, 0, 1], [0, 1, 0], [1, 0, 0]],
    spacing_dhw_mm=(5, 2, 1),
)
#: Value = 100 slice + 10 row + column.
IMAGE = np.fromfunction(lambda d, h, w: 100 * d + 10 * h + w, (2, 3, 4)).astype(np.int16) - 50
#: Codes: 1 = dog, 2 = dog and cat; a tree is nowhere.
CODES = np.zeros((2, 3, 4), np.uint8)
CODES[0, 1, 2] = 1
CODES[1, 2, 3] = 2
MASK = RoiMask(CODES, np.array([[0], [1], [3]], np.uint32), [Roi(1, "dog"), Roi(2, "cat"), Roi(3, "tree")], GRID)


def write_case(root, layout, case="a", mask=MASK, image=IMAGE, geometry=GRID):
    writer = MedsegpyWriter(root, layout, {"a": "0000007_V01", "b": "0000008_V00"}, {"a": "train", "b": "val"}, 2)
    record = {}
    outputs = [*writer.write_mask(case, mask, record)]
    outputs += writer.write_image(case, 0, Volume(image, geometry))
    return writer, outputs, record


def files(root):
    return sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file())


def code_of(call, *args):
    with pytest.raises(GpuprepError) as caught:
        call(*args)
    return caught.value.code


def test_two_dimensional_files(tmp_path):
    _, outputs, record = write_case(tmp_path, "2d")
    names = [f"train/0000007_V01-Aug00_00{n}{suffix}" for n in (1, 2) for suffix in (".im", ".seg")]
    assert files(tmp_path) == names == sorted(o.path for o in outputs)
    for d in range(2):
        with h5py.File(tmp_path / f"train/0000007_V01-Aug00_00{d + 1}.im") as file:
            image = file["data"]
            assert (image.shape, image.dtype) == ((3, 4, 1), np.float32)
            assert np.array_equal(image[..., 0], IMAGE[d])
            # index (row, column, slice) → mm: columns step along x, rows along y
            expected = [[0, 1, 0, 10], [2, 0, 0, 20], [0, 0, 5, 30 + 5 * d], [0, 0, 0, 1]]
            assert np.array_equal(image.attrs["index_hwd_to_lps_mm"], expected)
            assert np.array_equal(image.attrs["spacing_hwd_mm"], [2, 1, 5])
        with h5py.File(tmp_path / f"train/0000007_V01-Aug00_00{d + 1}.seg") as file:
            mask = file["data"]
            assert (mask.shape, mask.dtype) == ((3, 4, 1, 3), np.uint8)
            hits = [[1, 2, 0, 0]] if d == 0 else [[2, 3, 0, 0], [2, 3, 0, 1]]
            assert np.argwhere(mask[()]).tolist() == hits
            assert list(mask.attrs["classes"]) == ["dog", "cat", "tree"]
    assert record["overlaps"] == [["dog", "cat", 1]]
    assert record["combinations"] == [[["dog"], 1], [["dog", "cat"], 1]]


def test_three_dimensional_files(tmp_path):
    _, outputs, _ = write_case(tmp_path, "3d")
    assert files(tmp_path) == ["train/0000007_V01.h5"] == [o.path for o in outputs]
    with h5py.File(tmp_path / "train/0000007_V01.h5") as file:
        image, mask = file["volume"], file["seg"]
        assert (image.shape, image.dtype, image.chunks) == ((3, 4, 2), np.int16, (3, 4, 1))
        assert (mask.shape, mask.dtype, mask.chunks) == ((3, 4, 2, 3), np.uint8, (3, 4, 1, 3))
        assert np.array_equal(image[()], IMAGE.transpose(1, 2, 0))
        assert np.argwhere(mask[()]).tolist() == [[1, 2, 0, 0], [2, 3, 1, 0], [2, 3, 1, 1]]
        assert image.compression == mask.compression == "gzip"


def test_masks_of_a_volume_wait_under_an_unfinished_name_until_its_image_comes(tmp_path):
    writer = MedsegpyWriter(tmp_path, "3d", {"a": "0000007_V01"}, {"a": "train"})
    assert writer.write_mask("a", MASK, {}) == ()
    (waiting,) = files(tmp_path)
    assert waiting.startswith("train/.") and waiting.endswith(".gpuprep-part")
    writer.discard("a")
    assert files(tmp_path) == []


@pytest.mark.parametrize("layout", ["2d", "3d"])
def test_a_case_written_again_leaves_no_slice_of_before_and_none_of_others_goes(tmp_path, layout):
    write_case(tmp_path, layout, "b")
    write_case(tmp_path, "2d")
    write_case(tmp_path, "3d")
    grid = GRID.crop((0, 0, 0), (1, 3, 4))
    small = RoiMask(CODES[:1], MASK.table, MASK.rois, grid)
    writer, outputs, _ = write_case(tmp_path, layout, mask=small, image=IMAGE[:1], geometry=grid)
    assert [p for p in files(tmp_path) if p.startswith("train")] == sorted(o.path for o in outputs)
    writer.discard("a")
    assert {p.split("/")[0] for p in files(tmp_path)} == {"val"}


def test_more_slices_than_three_digits_are_refused_before_any_file(tmp_path):
    grid = VolumeGeometry((1000, 1, 1), np.eye(4))
    mask = RoiMask(np.zeros((1000, 1, 1), np.uint8), np.zeros((1, 1), np.uint32), (), grid)
    writer = MedsegpyWriter(tmp_path, "2d", {"a": "0000001_V00"}, {"a": "train"})
    assert code_of(writer.write_mask, "a", mask, {}) == "too-many-slices"
    assert files(tmp_path) == []


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "float32"])
def test_chunks_are_what_hdf5_itself_reads_and_zeros_take_no_space(tmp_path, dtype):
    array = np.random.default_rng(0).integers(0, 100, (5, 6, 7)).astype(dtype)
    array[2] = 0
    contents = []
    for threads in (1, 3):
        path = tmp_path / f"{threads}.h5"
        with h5py.File(path, "w") as file:
            write_slices(file, "x", lambda n: array[n], 5, level=3, threads=threads, attributes={})
        with h5py.File(path) as file:
            assert np.array_equal(file["x"][()], array.transpose(1, 2, 0))
            assert file["x"].dtype == dtype
            assert file["x"].id.get_num_chunks() == 4
        contents.append(path.read_bytes())
    assert contents[0] == contents[1]


def test_numbers_stay_whatever_comes_later(tmp_path):
    first = extend_numbering(Numbering({}, {}), [("z1", "Zoe", "20200101"), ("b2", "Bob", "20210101")])
    assert first.scan_ids() == {"z1": "0000002_V00", "b2": "0000001_V00"}
    path = tmp_path / "subjects.json"
    write_numbering(path, first)
    later = [("a1", "Abe", "20190101"), ("b1", "Bob", "20200101"), ("b2", "Bob", "20210101"), ("b3", "Bob", "20200101")]
    assert extend_numbering(read_numbering(path), later).scan_ids() == {
        **first.scan_ids(),
        "a1": "0000003_V00",
        "b1": "0000001_V01",
        "b3": "0000001_V02",
    }
    assert extend_numbering(Numbering({}, {}), later).scan_ids()["b2"] == "0000002_V02"  # by date when all are new


def test_numbers_that_do_not_fit_or_cannot_be_read_are_refused(tmp_path):
    many = [(f"c{n:03d}", "one", "") for n in range(101)] + [("d", "two", "")]
    assert code_of(extend_numbering, Numbering({}, {}), many) == "too-many-scans"
    assert extend_numbering(Numbering({}, {}), many[1:]).scan_ids()["c100"] == "0000001_V99"
    assert code_of(extend_numbering, Numbering({"x": 9_999_999}, {}), many[:1]) == "too-many-scans"
    broken = tmp_path / "subjects.json"
    broken.write_text('{"subjects": [')
    assert code_of(read_numbering, broken) == "numbering-unreadable"


@pytest.mark.parametrize(
    "text", ["", "train", "train=1,dev=0", "train=.5", "train=.5,train=.5", "train=2,val=-1", "train=x", "train=nan"]
)
def test_bad_shares(text):
    assert code_of(parse_shares, text) == "bad-splits"


def test_splits_take_whole_patients_in_the_shares_asked_for():
    patients = [f"P{n}" for n in range(20)]
    shares = parse_shares("train=.7, val=.15, test=.15")
    splits = assign_splits(patients, shares, 1)
    assert [list(splits.values()).count(s) for s in ("train", "val", "test")] == [14, 3, 3]
    assert splits == assign_splits(patients[::-1] * 2, shares, 1) != assign_splits(patients, shares, 2)
    assert assign_splits(["only"], shares, 1) == {"only": "train"}
    assert set(assign_splits(patients, parse_shares("train=.1,val=.2,test=.7"), 1)) == set(patients)


def test_splits_from_a_file(tmp_path):
    path = tmp_path / "splits.yaml"
    path.write_text("train: [A, 12, 0012, 2020-01-05, on]\ntest: [B]\nval:\n")
    assert read_split_file(path) == dict.fromkeys(["A", "12", "0012", "2020-01-05", "on"], "train") | {"B": "test"}
    for bad, reason in (
        ("train: [A]\ntest: [A]", "'A' occurs twice"),
        ("dev: [A]", "not a map"),
        ("- A", "not a map"),
        ("train: 3", "train is no list"),
        ("train: [[A]]", "train is no list"),
        ("train: [A]\ntrain: [B]", "'train' occurs twice"),
        ("test: PATIENT", "test is no list"),
        ("train: [", "no YAML"),
        ("{{", "no YAML"),
        (None, "No such file"),
    ):
        path.write_text(bad) if bad else path.unlink()
        with pytest.raises(ConfigError, match=reason) as caught:
            read_split_file(path)
        assert caught.value.code == "bad-splits"


def test_collations_are_unions_of_known_labels():
    labels = ["dog", "human", "cat"]
    assert Collation.parse("pet = dog, cat", labels) == Collation("pet", ("dog", "cat"))
    assert Collation.parse("any=dog,human,cat", labels).members == tuple(labels)
    for bad in ("pet", "pet=dog", "pet=dog,dog", "pet=dog,bird", "dog=human,cat", "=dog,cat"):
        assert code_of(Collation.parse, bad, labels) == "bad-collation"


def test_overlaps_of_a_collated_class_are_those_among_its_members(tmp_path):
    details = {
        "colours": {"dog": [1, 2, 3]},
        "overlaps": [["dog", "cat", 5], ["dog", "tree", 6], ["tree", "cat", 7]],
        "combinations": [[["dog", "cat"], 5]],
        "grid": {"shape_dhw": [2, 3, 4], "index_dhw_to_lps_mm": GRID.index_to_lps, "frame_of_reference_uid": "2.25.1"},
        "study_instance_uid": "2.25.2",
        "series": ["2.25.3"],
        "segmentations": [],
        "voxels": {},
        "labels": [],
    }
    warnings = write_dataset_json(
        tmp_path,
        name="zoo",
        layout="3d",
        labels=["tree", "cat", "dog"],
        collations=[Collation("pet", ("dog", "cat"))],
        scans={"0000001_V00": ("val", details)},
    )
    assert warnings == ["0000001_V00: members of 'pet' overlap, and MedSegPy sums them: 'dog' and 'cat' (5 voxels)"]
    content = json.loads((tmp_path / "dataset.json").read_text())
    assert content["collated"] == [{"id": [2, 1], "name": "pet", "color": [1, 2, 3]}]
    overlap = {"scan": "0000001_V00", "class": "pet", "members": ["dog", "cat"], "voxels": 5}
    assert content["collation_overlaps"] == [overlap]
    assert content["scans"]["0000001_V00"]["shape_hwd"] == [3, 4, 2]


@pytest.mark.parametrize(("layout", "folder"), [("2d", "0000001_V00-Aug00_001"), ("3d", "site_12_V3")])
def test_paths_that_break_medsegpys_parser_are_refused(tmp_path, layout, folder):
    assert code_of(check_output, tmp_path / folder / "out", layout) == "path-breaks-reader"
    if layout == "3d":
        check_output(tmp_path / folder, "2d")
    (tmp_path / folder).mkdir()
    (tmp_path / "innocent").symlink_to(tmp_path / folder)
    assert code_of(check_output, tmp_path / "innocent", layout) == "path-breaks-reader"


@pytest.mark.parametrize("name", ["notes.txt", "scan.h5", "1_V1.h5", "0000001_V00-Aug00_001.im.bak"])
def test_files_of_others_in_a_split_are_refused(tmp_path, name):
    write_case(tmp_path, "2d")
    write_case(tmp_path, "3d", "b")
    (tmp_path / "val" / f".a.h5.1{PART_SUFFIX}").touch()  # of a run that was killed
    check_output(tmp_path, "3d")
    (tmp_path / "val" / name).touch()
    assert code_of(check_output, tmp_path, "3d") == "foreign-files"


def test_colours_come_from_the_first_case_that_has_one():
    seen = [{"a": None, "b": (1, 2, 3)}, {"a": [4, 5, 6], "b": (7, 8, 9)}]
    assert choose_colours(["b", "a"], seen) == ((1, 2, 3), (4, 5, 6))
    made = choose_colours([f"x{n}" for n in range(40)], [])
    assert len(set(made)) == 40
    assert all(0 <= value <= 255 for rgb in made for value in rgb)
