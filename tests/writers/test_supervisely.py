"""Names and files of Supervisely's import, against what its importer is known to do, read with nibabel."""

import json
from uuid import UUID

import nibabel
import numpy as np
import pytest

from gpuprep.codes import pack_bits
from gpuprep.errors import ConfigError, GpuprepError
from gpuprep.geometry import VolumeGeometry
from gpuprep.masks import Roi, RoiMask
from gpuprep.volume import Volume
from gpuprep.writers.masks.label import read as read_mask
from gpuprep.writers.supervisely import (
    AnnotationWriter,
    PlaneWriter,
    VolumeWriter,
    case_name,
    check_output,
    class_names,
    escape_stem,
    parse_planes,
    uuid_prefix,
)
from gpuprep.writers.supervisely_tables import (
    TargetVolume,
    read_colour_map,
    read_scores,
    read_targets,
    write_colour_map,
    write_mapping,
    write_scores,
)

#: RAS+: columns grow to the right (x = -LPS x), rows to the front, slices upwards.
GRID = VolumeGeometry.from_axes(
    (2, 3, 4),
    origin_lps_mm=(10, 20, 30),
    directions_dhw=[[0, 0, 1], [0, -1, 0], [-1, 0, 0]],
    spacing_dhw_mm=(5, 2, 1),
)
AFFINE = np.array([[1, 0, 0, -10], [0, 2, 0, -20], [0, 0, 5, 30], [0, 0, 0, 1.0]])
IMAGE = np.fromfunction(lambda d, h, w: 100 * d + 10 * h + w, (2, 3, 4)).astype(np.int16) - 50
#: Codes: 1 = dog, 2 = dog and cat; there is no voxel of a tree.
CODES = np.zeros((2, 3, 4), np.uint8)
CODES[0, 1, 2] = 1
CODES[1, 2, 3] = 2
ROIS = (Roi(1, "dog"), Roi(2, "spinal cord"), Roi(3, "tree"))
MASK = RoiMask(CODES, np.array([[0], [1], [3]], np.uint32), ROIS, GRID)


def files(root):
    return sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file())


def write_case(writer, case="A_cor_1"):
    record = {}
    outputs = [*writer.write_mask(case, MASK, record), *writer.write_image(case, 0, Volume(IMAGE, GRID))]
    return sorted(o.path for o in outputs), record


def code_of(call, *args):
    with pytest.raises(GpuprepError) as caught:
        call(*args)
    return caught.value.code


def read(path):
    image = nibabel.load(path)
    assert np.array_equal(image.affine, AFFINE)
    assert (image.header["sform_code"], image.header["qform_code"]) == (1, 1)
    assert image.header.get_slope_inter() in [(None, None), (1, 0)]
    return np.asanyarray(image.dataobj).transpose(2, 1, 0)


def test_by_volume_name(tmp_path):
    paths, record = write_case(VolumeWriter(tmp_path, "label"))
    assert paths == files(tmp_path) == [
        "import/A_Cor_1.nii.gz",
        "import/A_Cor_1/dog.nii.gz",
        "import/A_Cor_1/spinal_Cord.nii.gz",
    ]  # fmt: skip
    image = read(tmp_path / "import/A_Cor_1.nii.gz")
    assert image.dtype == np.int16 and np.array_equal(image, IMAGE)
    dog, cord = (read(tmp_path / "import/A_Cor_1" / name) for name in ("dog.nii.gz", "spinal_Cord.nii.gz"))
    assert dog.dtype == cord.dtype == np.uint8
    assert np.argwhere(dog).tolist() == [[0, 1, 2], [1, 2, 3]] and dog.max() == 1
    assert np.argwhere(cord).tolist() == [[1, 2, 3]]
    assert record["overlaps"] == [["dog", "spinal cord", 1]]


def test_objects_by_connected_component(tmp_path):
    codes = np.zeros((2, 3, 4), np.uint8)
    codes[0, 0, :2] = codes[1, 1, 2] = codes[0, 2, 0] = 1  # the second touches the first by a corner
    mask = RoiMask(codes, np.array([[0], [1]], np.uint32), (Roi(1, "dog"),), GRID)
    record = {}
    VolumeWriter(tmp_path, "component").write_mask("a", mask, record)
    dog = read(tmp_path / "import/a/dog.nii.gz")
    assert dog.dtype == np.uint8
    assert dog[0, 0].tolist() == [1, 1, 0, 0] and dog[1, 1, 2] == 1 and dog[0, 2, 0] == 2 and (dog > 0).sum() == 4
    assert record["objects"] == {"dog": 2}


#: Labels dog and cat, and the ROIs that make them: three for the dog, one without voxels, and one for both.
MEMBERS = (Roi(1, "dog"), Roi(2, "cat"), Roi(1, "ear"), Roi(1, "none"), Roi(1, "paw"), Roi(2, "paw"))


@pytest.mark.parametrize("layout", ["volume", "plane"])
def test_objects_by_roi(tmp_path, layout):
    codes = np.zeros((2, 3, 4), np.uint8)
    codes[0, 0, :2], codes[0, 0, 2:] = 1, 2  # they touch, and are one component
    mask = RoiMask(codes, np.array([[0], [0b000101], [0b110011]], np.uint32), MEMBERS, GRID)
    writer = (
        VolumeWriter(tmp_path, "roi")
        if layout == "volume"
        else PlaneWriter(tmp_path, ("axl",), "instance", "error", "roi")
    )
    record = {}
    writer.write_mask("a", mask, record)
    stems = ("dog", "cat") if layout == "volume" else ("axl_inference_1", "axl_inference_2")
    dog, cat = (read(next(tmp_path.rglob(f"*{stem}.nii.gz"))) for stem in stems)
    assert dog[0, 0].tolist() == [1, 1, 2, 2] and (dog > 0).sum() == 4
    assert cat[0, 0].tolist() == [0, 0, 1, 1] and (cat > 0).sum() == 2
    assert record["objects"] == {"dog": 2, "cat": 1} and record["voxels"] == {"dog": 4, "cat": 2}
    assert record["overlaps"] == [["dog", "cat", 2]]


def test_rois_of_a_label_that_share_voxels_are_no_objects(tmp_path):
    codes = np.zeros((2, 3, 4), np.uint8)
    codes[0, 0, 0] = 1
    mask = RoiMask(codes, np.array([[0], [0b010101]], np.uint32), MEMBERS, GRID)
    assert code_of(VolumeWriter(tmp_path, "roi").write_mask, "a", mask, {}) == "objects-overlap"
    assert files(tmp_path) == []


@pytest.mark.parametrize(("count", "outcome"), [(255, np.uint8), (256, np.uint16), (65535, np.uint16), (65536, None)])
def test_as_many_objects_as_the_type_holds(tmp_path, count, outcome):
    codes = np.zeros((3, 512, 512), np.uint8)
    apart = np.zeros((2, 256, 256), np.uint8)
    apart.reshape(-1)[:count] = 1
    codes[::2, ::2, ::2] = apart
    grid = VolumeGeometry(codes.shape, GRID.index_to_lps)
    mask = RoiMask(codes, np.array([[0], [1]], np.uint32), (Roi(1, "dots"),), grid)
    writer = VolumeWriter(tmp_path, "component")
    if outcome is None:
        assert code_of(writer.write_mask, "a", mask, {}) == "too-many-objects"
    else:
        writer.write_mask("a", mask, {})
        values = np.asanyarray(nibabel.load(tmp_path / "import/a/dots.nii.gz").dataobj)
        assert values.dtype == outcome and values.max() == count == len(np.unique(values)) - 1


@pytest.mark.parametrize("count", [255, 256])
def test_as_many_rois_as_the_type_holds(tmp_path, count):
    codes = np.zeros((1, 2, 256), np.uint16)
    codes.reshape(-1)[:count] = np.arange(1, count + 1)
    rois = [Roi(1, "dog"), *(Roi(1, str(n)) for n in range(count))]
    sets = np.eye(count + 1, dtype=np.bool_)
    sets[:, 0] = np.arange(count + 1) > 0
    mask = RoiMask(codes, pack_bits(sets), rois, VolumeGeometry(codes.shape, GRID.index_to_lps))
    VolumeWriter(tmp_path, "roi").write_mask("a", mask, {})
    assert np.array_equal(read(tmp_path / "import/a/dog.nii.gz"), codes)


def test_by_plane(tmp_path):
    paths, record = write_case(PlaneWriter(tmp_path, ("axl", "sag"), "semantic", "last"))
    names = [f"import/A_cor_1/{plane}_{kind}.nii.gz" for plane in ("axl", "sag") for kind in ("anatomic", "inference")]
    assert paths == files(tmp_path) == names
    for plane in ("axl", "sag"):
        assert np.array_equal(read(tmp_path / f"import/A_cor_1/{plane}_anatomic.nii.gz"), IMAGE)
        path = tmp_path / f"import/A_cor_1/{plane}_inference.nii.gz"
        labels = read(path)
        assert labels.dtype == np.uint8
        assert read_mask(path).rois == ROIS
        assert {tuple(p): labels[tuple(p)] for p in np.argwhere(labels)} == {(0, 1, 2): 1, (1, 2, 3): 2}
    assert record["lost_voxels"] == {"dog": 1, "spinal cord": 0, "tree": 0}


def instance_files(root, plane):
    """Files of a plane's instances in the order in which any walk from the root downwards meets them."""
    return sorted(root.rglob(f"*_{plane}_inference_*.nii.gz"), key=lambda p: len(p.parts))


def test_instance_files_lie_in_the_order_of_the_labels_whatever_walks_through_them(tmp_path):
    writer = PlaneWriter(tmp_path, ("axl", "cor"), "instance", "error")
    paths, record = write_case(writer)
    assert paths == files(tmp_path)
    for plane in ("axl", "cor"):
        found = instance_files(tmp_path / "import", plane)
        assert [p.parent.relative_to(tmp_path / "import" / "A_cor_1").as_posix() for p in found] == [".", "2"]
        assert [p.name[74:] for p in found] == [f"{plane}_inference_1.nii.gz", f"{plane}_inference_2.nii.gz"]
        assert {p.name[:74] for p in found} == {uuid_prefix("A_cor_1")}
        dog, cord = map(read, found)
        assert np.argwhere(dog).tolist() == [[0, 1, 2], [1, 2, 3]] and np.argwhere(cord).tolist() == [[1, 2, 3]]
    assert record["objects"] == {"dog": 1, "spinal cord": 1}
    writer.discard("A_cor_1")
    assert not [*(tmp_path / "import").iterdir()]


@pytest.mark.parametrize(("bits", "by_place", "by_suffix"), [(1, "12", "12"), (4, "123", "34"), (5, "123", "13")])
def test_no_instance_file_takes_the_place_of_another_or_is_alone(tmp_path, bits, by_place, by_suffix):
    codes = np.zeros((2, 3, 4), np.uint8)
    codes[0, 0, 0] = codes[1, 2, 3] = 1  # two objects of each label
    mask = RoiMask(codes, np.array([[0], [bits]], np.uint32), ROIS, GRID)
    plane = PlaneWriter(tmp_path / "p", ("axl",), "instance", "error", "component")
    alone = AnnotationWriter(tmp_path / "a", {"x": (("axl", ""),)}, "instance", "error", "component")
    for writer, numbers in ((plane, by_place), (alone, by_suffix)):
        writer.write_mask("x", mask, {})
        found = {p.name[-8]: p for p in writer.root.rglob("*.nii.gz")}
        assert "".join(sorted(found)) == numbers
        for number, path in found.items():
            assert read(path).max() == (2 if bits & 1 << int(number) - 1 else 0)


def test_no_label_no_instance_file(tmp_path):
    mask = RoiMask(np.zeros((2, 3, 4), np.uint8), np.zeros((1, 1), np.uint32), ROIS, GRID)
    assert PlaneWriter(tmp_path, ("axl",), "instance", "error").write_mask("x", mask, {}) == []


def test_annotations_alone(tmp_path):
    places = {"x": (("axl", "first"), ("cor", "second")), "y": (("sag", "first"),)}
    writer = AnnotationWriter(tmp_path, places, "semantic", "last")
    for case in places:
        writer.write_mask(case, MASK, {})
    prefix = uuid_prefix("x")
    ours = [f"import/first/{prefix}axl_inference.nii.gz", f"import/second/{prefix}cor_inference.nii.gz"]
    assert files(tmp_path) == sorted([*ours, f"import/first/{uuid_prefix('y')}sag_inference.nii.gz"])
    labels = read(tmp_path / ours[1])
    assert {tuple(p): labels[tuple(p)] for p in np.argwhere(labels)} == {(0, 1, 2): 1, (1, 2, 3): 2}
    writer.discard("x")
    assert files(tmp_path) == [f"import/first/{uuid_prefix('y')}sag_inference.nii.gz"]


def test_volumes_that_masks_are_for(tmp_path):
    table = tmp_path / "volumes.csv"
    table.write_text("case, plane, volume_id\nA, axl, 7\nA, sag, 9\n")
    assert read_targets(table) == (TargetVolume("A", "axl", 7), TargetVolume("A", "sag", 9))
    table.write_text("dataset,case,plane,volume_id\nfirst one,A,axl,7\n")
    assert read_targets(table) == (TargetVolume("A", "axl", 7, "first one"),)
    write_mapping(tmp_path, {"b/y_axl_inference.nii.gz": 2, "a/x_axl_inference.nii.gz": 1})
    assert json.loads((tmp_path / "import" / "mapping.json").read_text()) == {
        "a/x_axl_inference.nii.gz": 1,
        "b/y_axl_inference.nii.gz": 2,
    }


@pytest.mark.parametrize(
    "lines",
    [
        "",
        "A,axial,1,",
        "A,axl,,",
        "A,axl,x,",
        "A,axl,0,",
        "A,axl,1,\nB,axl,1,",
        "A,axl,1,\nA,axl,2,",
        "A,axl,1,a\nB,axl,2,",
        "A,axl,1,a/b",
        "A,axl,1,..",
        "A,axl,1,anatomical",
    ],
)
def test_bad_volumes(tmp_path, lines):
    table = tmp_path / "volumes.csv"
    table.write_text(f"case,plane,volume_id,dataset\n{lines}\n")
    assert code_of(read_targets, table) == "bad-volumes"
    assert code_of(read_targets, tmp_path / "missing.csv") == "bad-volumes"


def test_a_colour_map_is_read_as_it_was_written(tmp_path):
    write_colour_map(tmp_path, ["liver", "tumor_core"], [(255, 0, 1), (7, 8, 9)])
    path = tmp_path / "import" / "cls_color_map.txt"
    assert read_colour_map(path) == {1: ("liver", (255, 0, 1)), 2: ("tumor_core", (7, 8, 9))}
    path.write_text("2 Femoral cartilage 0 255 0\n")
    assert read_colour_map(path) == {2: ("Femoral cartilage", (0, 255, 0))}


@pytest.mark.parametrize(
    "line", ["", "1, liver, 1, 2, 3", "1 liver 1 2", "liver 1 2 3", "1 liver 1 2 256", "1 2 3", "1 2 3 4"]
)
def test_a_line_that_discards_a_colour_map_is_refused(tmp_path, line):
    path = tmp_path / "colours.txt"
    path.write_text(f"1 dog 1 2 3\n{line}\n2 cat 1 2 3\n")
    assert code_of(read_colour_map, path) == "colours-unreadable"
    assert code_of(read_colour_map, tmp_path / "missing.txt") == "colours-unreadable"


def test_scores(tmp_path):
    table = tmp_path / "scores.csv"
    table.write_text(
        "case, plane, layer, label, score\nA,axl,2,tree,0.5\nA,axl,1,tree,1\nA,axl,1,dog,0.126\nA,axl,2,dog,-3e-1\n"
        "A,sag,4,dog,0\nB,cor,9,dog,1\n"
    )
    labels = ["dog", "spinal cord", "tree"]
    scores = read_scores(table, labels)
    write_scores(tmp_path, "x", ("axl", "cor", "sag"), labels, GRID, [s for s in scores if s.case == "A"])
    found = {p.name[74:]: p.read_bytes() for p in (tmp_path / "import" / "x").iterdir()}
    assert found == {
        "axl_score.csv": b"Layer,Label-1,Label-3\n1,0.126,1.0\n2,-0.3,0.5\n",
        "cor_score.csv": b"Layer\n",  # else the importer takes the table of another case
        "sag_score.csv": b"Layer,Label-1\n4,0.0\n",
    }
    (first, second) = {tuple(p.name.split("_")[:2]) for p in (tmp_path / "import" / "x").iterdir()}.pop()
    assert str(UUID(first)) == first != str(UUID(second)) == second
    others = [s for s in scores if s.case == "B"]  # rows 9 of 3
    assert code_of(write_scores, tmp_path, "x", ("cor",), labels, GRID, others) == "bad-scores"


@pytest.mark.parametrize(
    "lines",
    [
        "A,axl,1,dog",
        "A,axial,1,dog,1",
        "A,axl,0,dog,1",
        "A,axl,1.5,dog,1",
        "A,axl,1,bird,1",
        "A,axl,1,dog,nan",
        "A,axl,1,dog,\n",
        "A,axl,1,dog,1\nA,axl,1,dog,2",
        "A,axl,1,dog,1\nA,axl,2,cat,1",
    ],
)
def test_bad_scores(tmp_path, lines):
    table = tmp_path / "scores.csv"
    table.write_text(f"case,plane,layer,label,score\n{lines}\n")
    with pytest.raises(ConfigError) as caught:
        read_scores(table, ["dog", "cat"])
    last = 1 + len(lines.splitlines())
    assert caught.value.message.startswith((f"line {last} does not say a score", "layer 1 of axl of A lacks"))
    assert caught.value.code == "bad-scores"
    table.write_text(lines)
    assert code_of(read_scores, table, ["dog", "cat"]) == "bad-scores"
    assert code_of(read_scores, tmp_path / "missing.csv", ["dog"]) == "bad-scores"


def test_overlap_in_a_label_map_is_refused_before_any_file(tmp_path):
    assert code_of(write_case, PlaneWriter(tmp_path, ("axl",), "semantic", "error")) == "labels-overlap"
    assert files(tmp_path) == []


def test_a_case_in_the_other_layout_replaces_its_files(tmp_path):
    write_case(VolumeWriter(tmp_path, "label"), "B")
    for writer in (
        VolumeWriter(tmp_path, "label"),
        PlaneWriter(tmp_path, ("axl",), "semantic", "last"),
        VolumeWriter(tmp_path, "label"),
    ):
        paths, _ = write_case(writer)
        assert [p for p in files(tmp_path) if "/B" not in p] == paths
    writer.discard("A_cor_1")
    assert {p.split("/")[1] for p in files(tmp_path)} == {"B", "B.nii.gz"}


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("spinal_cord", "spinal_Cord"),
        ("coronary_corpus", "Coronary_Corpus"),
        ("sagittal", "Sagittal"),
        ("axl", "Axl"),
        ("SpinalCord", "SpinalCord"),
        ("Cor_mask", "Cor-mask"),
        ("SAG_anatomical_1", "SAG-anatomical-1"),
        ("cor_left", "Cor_left"),
        ("brain_mask", "brain_mask"),
        ("liver", "liver"),
    ],
)
def test_stems_hold_no_plane(name, stem):
    assert escape_stem(name) == stem


@pytest.mark.parametrize("case", ["converted_1", "unconverted_cor_2"])
@pytest.mark.parametrize("layout", ["volume", "plane"])
def test_no_case_lies_where_the_importer_does_not_look(tmp_path, case, layout):
    writers = {"volume": VolumeWriter(tmp_path, "label"), "plane": PlaneWriter(tmp_path, ("axl",), "semantic", "last")}
    paths, _ = write_case(writers[layout], case)
    assert files(tmp_path) == paths
    assert all("Converted" in path and "converted" not in path for path in paths)
    assert case_name(case, layout) in {path.split("/")[1] for path in paths}
    writers[layout].discard(case)
    assert not files(tmp_path)


def test_class_names_are_unique_words_whatever_labels_say():
    labels = ["liver", "Liver", "tumor core", "../../etc", "a/b", "", "con", "x" * 300, "Lésion\n1"]
    for layout in ("volume", "plane"):
        names = class_names(labels, layout)
        assert len({n.lower() for n in names}) == len(labels)
        assert all(
            n and len(n) < 100 and set(n) <= set("_-") | {c for c in n if c.isascii() and c.isalnum()} for n in names
        )
    assert class_names(labels, "volume")[:3] == ("liver", "Liver_2", "tumor_Core")
    assert class_names(labels, "plane")[2] == "tumor_core"


def test_classes_that_only_differ_in_what_is_escaped_stay_apart():
    assert class_names(["cor_mask", "cor-mask", "axl", "Axl"], "volume") == ("Cor-mask", "Cor-mask_2", "Axl", "Axl_2")


def test_the_colour_map_has_no_line_that_would_discard_it(tmp_path):
    write_colour_map(tmp_path, ["liver", "tumor_core"], [(255, 0, 1), (7, 8, 9)])
    assert (tmp_path / "import" / "cls_color_map.txt").read_bytes() == b"1 liver 255 0 1\n2 tumor_core 7 8 9\n"


def test_paths_that_the_importer_skips_are_refused(tmp_path):
    assert code_of(check_output, tmp_path / "converted", "volume") == "path-breaks-reader"
    assert code_of(check_output, tmp_path / "unconverted_data" / "out", "plane") == "path-breaks-reader"
    (tmp_path / "converted").mkdir()
    (tmp_path / "fine").symlink_to(tmp_path / "converted")
    assert code_of(check_output, tmp_path / "fine", "volume") == "path-breaks-reader"
    check_output(tmp_path / "Converted", "volume")
    assert code_of(check_output, tmp_path / "anatomical", "annotations") == "path-breaks-reader"
    check_output(tmp_path / "anatomical", "plane")


@pytest.mark.parametrize(
    "name", ["README.txt", "meta.json", "scores.csv", "axial_score.csv", "brain.mgz", "a/b/notes.txt", "scan.nii"]
)
def test_files_with_a_meaning_of_their_own_are_refused(tmp_path, name):
    write_case(VolumeWriter(tmp_path, "label"))
    (tmp_path / "import" / "cls_color_map.txt").touch()
    (tmp_path / "dataset.json").touch()
    check_output(tmp_path, "volume")
    path = tmp_path / "import" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    assert code_of(check_output, tmp_path, "volume") == "foreign-files"


@pytest.mark.parametrize("name", ["axl_anatomic.nii.gz", "liver.nii.gz", "a/axl_score.csv", "b.json", "README.txt"])
def test_files_that_keep_annotations_from_being_taken_alone_are_refused(tmp_path, name):
    folder = tmp_path / "import"
    (folder / "a").mkdir(parents=True)
    for own in ("mapping.json", "cls_color_map.txt", "a/axl_inference_2.nii.gz"):
        (folder / own).touch()
    check_output(tmp_path, "annotations")
    (folder / name).touch()
    assert code_of(check_output, tmp_path, "annotations") == "foreign-files"


def test_planes():
    assert parse_planes("sag, axl") == ("axl", "sag")
    for bad in ("", "axial", "axl,axl", "AXL"):
        assert code_of(parse_planes, bad) == "bad-planes"
