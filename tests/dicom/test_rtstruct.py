from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from dicom_bytes import EXPLICIT, IMPLICIT, element, part10, sequence

from gpuprep.dicom import rtstruct
from gpuprep.dicom.header import RTSTRUCT_UID, read_headers
from gpuprep.dicom.rtstruct import NO_ROI_NUMBER, StructureSet, read_structure_set
from gpuprep.errors import HeaderError
from gpuprep.masks import Code, Roi

SQUARE = "0\\0\\5\\10\\0\\5\\10\\10\\5\\0\\10\\5"


def roi(number: str, name: str | bytes, *, implicit: bool = False) -> bytes:
    return (
        element(0x30060022, "IS", number, implicit=implicit)
        + element(0x30060024, "UI", "1.8", implicit=implicit)
        + element(0x30060026, "LO", name, implicit=implicit)
    )


def contour(
    data: str, *, points: str | None = None, kind: str = "CLOSED_PLANAR", vr: str = "DS", implicit: bool = False
) -> bytes:
    count = str((data.count("\\") + 1) // 3) if points is None else points
    return (
        element(0x30060042, "CS", kind, implicit=implicit)
        + element(0x30060046, "IS", count, implicit=implicit)
        + element(0x30060050, vr, data, implicit=implicit)
    )


def contours(number: str, *items: bytes, colour: str = "255\\0\\1", implicit: bool = False) -> bytes:
    return (
        element(0x3006002A, "IS", colour, implicit=implicit)
        + sequence(0x30060040, list(items), implicit=implicit, undefined=True)
        + element(0x30060084, "IS", number, implicit=implicit)
    )


def code(scheme: str, value: str, meaning: str | bytes, nested: bytes = b"", *, implicit: bool = False) -> bytes:
    """A coded concept; a value that SH cannot hold goes to Long Code Value, a URN to URN Code Value."""
    tag, vr = (
        (0x00080120, "UR")
        if value.startswith("urn:")
        else (0x00080119, "UC")
        if len(value) > 16
        else (0x00080100, "SH")
    )
    texts = {0x00080102: ("SH", scheme), 0x00080104: ("LO", meaning), tag: (vr, value)}
    return b"".join(element(t, *texts[t], implicit=implicit) for t in sorted(texts)) + nested


def observation(number: str, *, implicit: bool = False, **codes: list[bytes]) -> bytes:
    tags = {"region": 0x00082218, "category": 0x00620003, "type": 0x30060086}
    found = {tags[name]: sequence(tags[name], items, implicit=implicit) for name, items in codes.items()}
    found[0x30060084] = element(0x30060084, "IS", number, implicit=implicit)
    return b"".join(found[tag] for tag in sorted(found))


def structure_set(
    rois: list[bytes],
    items: list[bytes],
    observations: Sequence[bytes] = (),
    *,
    implicit: bool = False,
    character_set: str = "ISO_IR 192",
) -> bytes:
    return (
        element(0x00080005, "CS", character_set, implicit=implicit)
        + element(0x00080016, "UI", RTSTRUCT_UID, implicit=implicit)
        + element(0x00080018, "UI", "1.7.1", implicit=implicit)
        + element(0x30060002, "SH", "plan", implicit=implicit)
        + sequence(0x30060020, rois, implicit=implicit)
        + sequence(0x30060039, items, implicit=implicit)
        + (sequence(0x30060080, list(observations), implicit=implicit) if observations else b"")
    )


def read(folder: Path, data_set: bytes, transfer_syntax: str = EXPLICIT) -> StructureSet:
    """Read by both readers; they have to agree."""
    path = folder / "rs"
    path.write_bytes(part10(data_set, transfer_syntax))
    native = rtstruct._tokenise(np.fromfile(path, np.uint8))
    assert native is not None, "declined"
    result = rtstruct._assemble(native, str(path))
    assert_equal(result, rtstruct._assemble(rtstruct._tokenise_by_pydicom(str(path)), str(path)))
    return result


def assert_equal(a: StructureSet, b: StructureSet) -> None:
    assert (a.sop_instance_uid, a.label, a.frame_of_reference_uid) == (
        b.sop_instance_uid,
        b.label,
        b.frame_of_reference_uid,
    )
    assert [str(problem) for problem in a.problems] == [str(problem) for problem in b.problems]
    assert [roi.roi for roi in a.rois] == [roi.roi for roi in b.rois]
    for one, other in zip(a.rois, b.rois, strict=True):
        assert one.frame_of_reference_uid == other.frame_of_reference_uid
        assert [str(problem) for problem in one.problems] == [str(problem) for problem in other.problems]
        assert [c.geometric_type for c in one.contours] == [c.geometric_type for c in other.contours]
        for c, d in zip(one.contours, other.contours, strict=True):
            np.testing.assert_array_equal(c.points_lps_mm, d.points_lps_mm)


@pytest.mark.parametrize("implicit", [False, True])
def test_rois_are_tied_by_number_not_by_position(tmp_path: Path, implicit: bool) -> None:
    rois = [
        roi(number, name, implicit=implicit)
        for number, name in [("7", "Lung"), (" 2 ", "GTV"), ("3", "GTV"), ("4", "")]
    ]
    items = [
        contours("2", contour("1\\2\\3", kind="POINT", implicit=implicit), implicit=implicit),
        contours("7", contour(SQUARE, implicit=implicit), contour(SQUARE, implicit=implicit), implicit=implicit),
    ]
    result = read(tmp_path, structure_set(rois, items, implicit=implicit), IMPLICIT if implicit else EXPLICIT)
    assert (result.sop_instance_uid, result.label, result.frame_of_reference_uid) == ("1.7.1", "plan", "1.8")
    assert [one.roi for one in result.rois] == [
        Roi(7, "Lung", (255, 0, 1)),
        Roi(2, "GTV", (255, 0, 1)),
        Roi(3, "GTV"),
        Roi(4, ""),
    ]
    assert [len(one.contours) for one in result.rois] == [2, 1, 0, 0]
    assert result.rois[1].contours[0].geometric_type == "POINT"
    np.testing.assert_array_equal(result.rois[1].contours[0].points_lps_mm, [[1, 2, 3]])
    np.testing.assert_array_equal(
        result.rois[0].contours[0].points_lps_mm, [[0, 0, 5], [10, 0, 5], [10, 10, 5], [0, 10, 5]]
    )
    assert not result.problems
    assert not any(one.problems for one in result.rois)


@pytest.mark.parametrize(
    "data",
    [
        "-1.5\\+2e1\\.25",
        " -1.5 \\ 20.00000000\\2.5E-1",
        "-1.5\\20\\0.25\0",
        "-1.50000000000000000000000\\20.\\  0.25  ",
        "-1.5\r\n\\\t20\0\\0.25\n",
    ],
)
def test_decimal_strings_in_all_their_spellings(tmp_path: Path, data: str) -> None:
    result = read(tmp_path, structure_set([roi("1", "a")], [contours("1", contour(data))]))
    np.testing.assert_array_equal(result.rois[0].contours[0].points_lps_mm, [[-1.5, 20, 0.25]])


@pytest.mark.parametrize(
    ("data", "points"),
    [
        ("1\\2", "1"),
        ("1\\2\\x", "1"),
        ("1\\\\3", "1"),
        ("1\\2\\3\\", "1"),
        ("1 2\\3\\4", "1"),
        ("1\\2\\nan", "1"),
        ("1\\2\\1e999", "1"),
        ("1,5\\2\\3", "1"),
        ("1\\2\\+-3", "1"),
        ("0x1\\2\\3", "1"),
        ("1\\2\\3", "2"),
        ("1\\2\\3", "many"),
    ],
)
def test_a_bad_contour_costs_itself_alone(tmp_path: Path, data: str, points: str) -> None:
    items = [
        contours("1", contour(SQUARE), contour(data, points=points), contour("7\\8\\9", kind="POINT")),
        contours("2", contour(SQUARE)),
    ]
    result = read(tmp_path, structure_set([roi("1", "a"), roi("2", "b")], items))
    damaged, whole = result.rois
    assert [problem.code for problem in damaged.problems] == ["contour-data-invalid"]
    assert "contour 1" in damaged.problems[0].message
    np.testing.assert_array_equal(damaged.contours[1].points_lps_mm, [[7, 8, 9]])
    assert (len(damaged.contours), len(whole.contours), whole.problems) == (2, 1, ())


def test_an_absent_point_count_is_no_problem_and_an_empty_contour_has_no_points(tmp_path: Path) -> None:
    items = [contours("1", contour(SQUARE, points=""), contour("", points="0"))]
    [one] = read(tmp_path, structure_set([roi("1", "a")], items)).rois
    assert [c.points_lps_mm.shape for c in one.contours] == [(4, 3), (0, 3)]
    assert one.problems == ()


def test_contours_without_roi_and_numbers_without_sense_are_problems(tmp_path: Path) -> None:
    rois = [roi("1", "a"), roi("x", "b"), roi("5", "c"), roi("5", "d")]
    items = [contours("9", contour(SQUARE)), contours("5", contour(SQUARE)), contours("1", contour(SQUARE))]
    result = read(tmp_path, structure_set(rois, items))
    assert [problem.code for problem in result.problems] == ["contours-without-roi"]
    assert [one.roi.number for one in result.rois] == [1, NO_ROI_NUMBER, 5, 5]
    assert [[problem.code for problem in one.problems] for one in result.rois] == [
        [],
        ["roi-number-missing"],
        ["roi-number-repeated"],
        ["roi-number-repeated"],
    ]
    assert [len(one.contours) for one in result.rois] == [1, 0, 0, 0]


def test_rois_in_another_frame_of_reference_than_the_image_lose_their_contours(tmp_path: Path) -> None:
    rois = [roi("1", "a"), roi("2", "b").replace(b"1.8\0", b"1.9\0"), roi("3", "c").replace(b"1.8\0", b"\0\0\0\0")]
    result = read(tmp_path, structure_set(rois, [contours(number, contour(SQUARE)) for number in "123"]))
    assert [one.frame_of_reference_uid for one in result.rois] == ["1.8", "1.9", ""]
    kept = result.in_frame("1.8")
    assert [len(one.contours) for one in kept.rois] == [1, 0, 1]
    assert [[problem.code for problem in one.problems] for one in kept.rois] == [[], ["roi-in-other-frame"], []]
    for judged_by_linking in ("1.7", ""):
        assert result.in_frame(judged_by_linking) is result


@pytest.mark.parametrize(("stated", "expected"), [(b"1.8\0", "1.8"), (b"\0\0\0\0", "1.5")])
def test_frame_of_reference_of_a_roi_else_of_the_whole(tmp_path: Path, stated: bytes, expected: str) -> None:
    frames = sequence(0x30060010, [b"", element(0x00200052, "UI", "1.5")])
    whole = structure_set([roi("1", "a").replace(b"1.8\0", stated)], [])
    before, rois = whole.split(b"\x06\x30\x20\0", 1)  # where the Structure Set ROI Sequence begins
    assert read(tmp_path, before + frames + b"\x06\x30\x20\0" + rois).frame_of_reference_uid == expected


def test_two_items_of_one_roi_are_joined(tmp_path: Path) -> None:
    items = [contours("1", contour(SQUARE)), contours("1", contour("1\\2\\3"))]
    [one] = read(tmp_path, structure_set([roi("1", "a")], items)).rois
    assert [len(c.points_lps_mm) for c in one.contours] == [4, 1]


@pytest.mark.parametrize("implicit", [False, True])
def test_observations_give_category_type_and_region(tmp_path: Path, implicit: bool) -> None:
    left = code("SCT", "7771000", "Left", implicit=implicit)
    upper = code("SCT", "261183002", "Upper", implicit=implicit)
    lung = code("SCT", "39607008", "Lung", sequence(0x00082220, [left, upper], implicit=implicit), implicit=implicit)
    tumour = code("SCT", "86049000", "Tumour", sequence(0x00620011, [left], implicit=implicit), implicit=implicit)
    abnormal = code("SCT", "49755003", "Morphologically Abnormal Structure", implicit=implicit)
    observations = [
        observation("2", implicit=implicit),
        observation("2", region=[lung], category=[abnormal], type=[tumour], implicit=implicit),
        observation("2", type=[left], implicit=implicit),
        observation("9", type=[left], implicit=implicit),
        observation("3", type=[abnormal], implicit=implicit),
    ]
    rois = [roi(number, name, implicit=implicit) for number, name in (("1", "cord"), ("2", "GTV"), ("3", "node"))]
    data_set = structure_set(rois, [], observations, implicit=implicit)
    cord, gtv, node = (one.roi for one in read(tmp_path, data_set, IMPLICIT if implicit else EXPLICIT).rois)
    assert cord == Roi(1, "cord")
    assert node == Roi(3, "node", type=Code("SCT", "49755003", "Morphologically Abnormal Structure"))
    assert gtv == Roi(
        2,
        "GTV",
        category=Code("SCT", "49755003", "Morphologically Abnormal Structure"),
        type=Code("SCT", "86049000", "Tumour"),
        type_modifiers=(Code("SCT", "7771000", "Left"),),
        region=Code("SCT", "39607008", "Lung"),
        region_modifiers=(Code("SCT", "7771000", "Left"), Code("SCT", "261183002", "Upper")),
    )


def test_of_several_regions_the_first_counts_with_its_own_modifiers(tmp_path: Path) -> None:
    left = sequence(0x00082220, [code("SCT", "7771000", "Left")])
    empty = code("SCT", "", "nameless", left)
    regions = [empty, code("SCT", "39607008", "Lung"), code("SCT", "80891009", "Heart", left)]
    [one] = read(tmp_path, structure_set([roi("1", "a")], [], [observation("1", region=regions)])).rois
    assert (one.roi.region, one.roi.region_modifiers) == (Code("SCT", "39607008", "Lung"), ())


@pytest.mark.parametrize("value", ["urn:oid:1.2.3.4", "a code value of more than sixteen"])
def test_code_values_have_three_places(tmp_path: Path, value: str) -> None:
    coded = code("99X", value, b"Sch\xe4del")
    data_set = structure_set([roi("1", "a")], [], [observation("1", type=[coded])], character_set="ISO_IR 100")
    assert read(tmp_path, data_set).rois[0].roi.type == Code("99X", value, "Schädel")


@pytest.mark.parametrize("colour", ["1\\2", "1\\2\\256", "red", "", "1\\2\\3\\4", "1\\\\2\\3"])
def test_a_bad_colour_is_no_colour(tmp_path: Path, colour: str) -> None:
    [one] = read(tmp_path, structure_set([roi("1", "a")], [contours("1", contour(SQUARE), colour=colour)])).rois
    assert one.roi.rgb is None


def test_names_are_decoded_by_character_set(tmp_path: Path) -> None:
    data_set = structure_set([roi("1", b"Sch\xe4del")], [], character_set="ISO_IR 100")
    assert read(tmp_path, data_set).rois[0].roi.name == "Schädel"


def test_long_contours_in_un_are_read(tmp_path: Path) -> None:
    data = "\\".join(["1.25\\2.5\\3"] * 20_000)
    [one] = read(tmp_path, structure_set([roi("1", "a")], [contours("1", contour(data, vr="UN"))])).rois
    assert one.contours[0].points_lps_mm.shape == (20_000, 3)
    assert (one.contours[0].points_lps_mm == [1.25, 2.5, 3]).all()


def test_points_are_read_only(tmp_path: Path) -> None:
    [one] = read(tmp_path, structure_set([roi("1", "a")], [contours("1", contour(SQUARE))])).rois
    with pytest.raises(ValueError, match="read-only"):
        one.contours[0].points_lps_mm[0] = 1


def test_big_endian_goes_through_pydicom(tmp_path: Path) -> None:
    path = tmp_path / "rs"
    path.write_bytes(part10(structure_set([roi("1", "a")], [contours("1", contour(SQUARE))])))
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRBigEndian
    pydicom.dcmwrite(tmp_path / "big", dataset, implicit_vr=False, little_endian=False)
    assert rtstruct._tokenise(np.fromfile(tmp_path / "big", np.uint8)) is None
    assert_equal(read_structure_set(str(tmp_path / "big")), read_structure_set(str(path)))


def test_a_file_that_goes_while_it_is_read_is_unreadable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "rs"
    path.write_bytes(part10(structure_set([roi("1", "a")], [contours("1", contour(SQUARE))])))
    monkeypatch.setattr(rtstruct, "_tokenise", lambda data: path.unlink())  # None: declined
    with pytest.raises(HeaderError) as caught:
        read_structure_set(str(path))
    assert (caught.value.code, caught.value.subject) == ("unreadable", str(path))


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (None, "unreadable"),
        (b"", "not-rtstruct"),
        (b"no DICOM at all", "not-rtstruct"),
        (part10(element(0x00080016, "UI", "1.2.840.10008.5.1.4.1.1.2")), "not-rtstruct"),
        (part10(b"\x08\x00\x05\x00" * 9, "1.2.840.10008.1.2.1.99"), "header-unreadable"),
    ],
)
def test_what_is_no_structure_set_is_refused(tmp_path: Path, content: bytes | None, code: str) -> None:
    path = tmp_path / "file"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(HeaderError) as caught:
        read_structure_set(str(path))
    assert caught.value.code == code


@pytest.mark.parametrize("undefined", [False, True])
@pytest.mark.parametrize("implicit", [False, True])
def test_a_structure_set_that_was_cut_is_refused_wherever_it_was(
    tmp_path: Path, implicit: bool, undefined: bool
) -> None:
    """What is left of it reads as ROIs with fewer contours, or none."""
    items = [contours(number, contour(SQUARE, implicit=implicit), implicit=implicit) for number in ("1", "2")]
    rois = [roi(number, "a", implicit=implicit) for number in ("1", "2")]
    whole = part10(
        element(0x00080016, "UI", RTSTRUCT_UID, implicit=implicit)
        + sequence(0x30060020, rois, implicit=implicit, undefined=undefined)
        + sequence(0x30060039, items, implicit=implicit, undefined=undefined),
        IMPLICIT if implicit else EXPLICIT,
    )
    path = tmp_path / "cut"
    path.write_bytes(whole)
    assert [len(one.contours) for one in read_structure_set(str(path)).rois] == [1, 1]
    for size in range(len(whole) - 1, whole.index(SQUARE.encode()), -3):
        path.write_bytes(whole[:size])
        with pytest.raises(HeaderError) as caught:
            read_structure_set(str(path))
        assert caught.value.code in ("header-truncated", "header-unreadable"), size
        assert caught.value.hint


@pytest.mark.filterwarnings("ignore::UserWarning")  # pydicom's, on oddities of the files
def test_real_structure_sets_equal_pydicom(data_dir: Path) -> None:
    files = [path for path in (data_dir / "ct-rtstruct").rglob("*") if path.is_file()]
    paths = [row.path for row in read_headers([str(f) for f in sorted(files)]) if row.sop_class_uid == RTSTRUCT_UID]
    assert len(paths) >= 10
    for path in paths:
        result, oracle = read_structure_set(path), pydicom.dcmread(path)
        assert not result.problems
        assert [(one.roi.number, one.roi.name) for one in result.rois] == [
            (int(item.ROINumber), str(item.ROIName)) for item in oracle.StructureSetROISequence
        ]
        items: dict[int, Any] = {int(item.ReferencedROINumber): item for item in oracle.ROIContourSequence}
        for one in result.rois:
            assert one.problems == ()
            item = items.get(one.roi.number)
            expected = getattr(item, "ContourSequence", [])
            assert len(one.contours) == len(expected)
            if item is not None and "ROIDisplayColor" in item:
                assert one.roi.rgb == tuple(map(int, item.ROIDisplayColor))
            for c, e in zip(one.contours, expected, strict=True):
                assert c.geometric_type == e.ContourGeometricType
                np.testing.assert_array_equal(c.points_lps_mm.ravel(), np.array(e.ContourData, float))
