"""Names and files of Supervisely's import, against what its importer is known to do, read with nibabel."""

from uuid import UUID

import nibabel
import numpy as np
import pytest

from gpuprep.errors import GpuprepError
from gpuprep.geometry import VolumeGeometry
from gpuprep.masks import Roi, RoiMask
from gpuprep.volume import Volume
from gpuprep.writers.supervisely import (
    PlaneWriter,
    VolumeWriter,
    check_output,
    class_names,
    escape_stem,
    parse_planes,
    read_scores,
    write_colour_map,
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


def test_by_plane(tmp_path):
    paths, record = write_case(PlaneWriter(tmp_path, ("axl", "sag"), "last"))
    names = [f"import/A_cor_1/{plane}_{kind}.nii.gz" for plane in ("axl", "sag") for kind in ("anatomic", "inference")]
    assert paths == files(tmp_path) == names
    for plane in ("axl", "sag"):
        assert np.array_equal(read(tmp_path / f"import/A_cor_1/{plane}_anatomic.nii.gz"), IMAGE)
        labels = read(tmp_path / f"import/A_cor_1/{plane}_inference.nii.gz")
        assert labels.dtype == np.uint8
        assert {tuple(p): labels[tuple(p)] for p in np.argwhere(labels)} == {(0, 1, 2): 1, (1, 2, 3): 2}
    assert record["lost_voxels"] == {"dog": 1, "spinal cord": 0, "tree": 0}


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
    assert code_of(read_scores, table, ["dog", "cat"]) == "bad-scores"
    table.write_text(lines)
    assert code_of(read_scores, table, ["dog", "cat"]) == "bad-scores"
    assert code_of(read_scores, tmp_path / "missing.csv", ["dog"]) == "bad-scores"


def test_overlap_in_a_label_map_is_refused_before_any_file(tmp_path):
    assert code_of(write_case, PlaneWriter(tmp_path, ("axl",), "error")) == "labels-overlap"
    assert files(tmp_path) == []


def test_a_case_in_the_other_layout_replaces_its_files(tmp_path):
    write_case(VolumeWriter(tmp_path, "label"), "B")
    for writer in (
        VolumeWriter(tmp_path, "label"),
        PlaneWriter(tmp_path, ("axl",), "last"),
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
        ("liver", "liver"),
    ],
)
def test_stems_hold_no_plane(name, stem):
    assert escape_stem(name) == stem


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


def test_the_colour_map_has_no_line_that_would_discard_it(tmp_path):
    write_colour_map(tmp_path, ["liver", "tumor_core"], [(255, 0, 1), (7, 8, 9)])
    assert (tmp_path / "import" / "cls_color_map.txt").read_bytes() == b"1 liver 255 0 1\n2 tumor_core 7 8 9\n"


def test_paths_that_the_importer_skips_are_refused(tmp_path):
    assert code_of(check_output, tmp_path / "converted") == "path-breaks-reader"
    assert code_of(check_output, tmp_path / "unconverted_data" / "out") == "path-breaks-reader"
    (tmp_path / "converted").mkdir()
    (tmp_path / "fine").symlink_to(tmp_path / "converted")
    assert code_of(check_output, tmp_path / "fine") == "path-breaks-reader"
    check_output(tmp_path / "Converted")


@pytest.mark.parametrize("name", ["README.txt", "meta.json", "scores.csv", "brain.mgz", "a/b/notes.txt", "scan.nii"])
def test_files_with_a_meaning_of_their_own_are_refused(tmp_path, name):
    write_case(VolumeWriter(tmp_path, "label"))
    (tmp_path / "import" / "cls_color_map.txt").touch()
    (tmp_path / "dataset.json").touch()
    check_output(tmp_path)
    path = tmp_path / "import" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    assert code_of(check_output, tmp_path) == "foreign-files"


def test_planes():
    assert parse_planes("sag, axl") == ("axl", "sag")
    for bad in ("", "axial", "axl,axl", "AXL"):
        assert code_of(parse_planes, bad) == "bad-planes"
