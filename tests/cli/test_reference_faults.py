"""What other converters of RTSTRUCT and SEG get wrong, held right here: whole runs on small studies, exact answers.

Most studies go through one run, `ward`: a patient a peculiarity, and all that are well have the same mask.
"""

import gzip
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from conversions import (
    CTV_BOX,
    GRID,
    GTV_BOX,
    PATIENT_NAME,
    RAMP_HU,
    Converted,
    contours_of,
    mask_of,
    read_nifti,
    two_rois,
    write,
    write_images,
    write_map,
    write_structures,
)
from pyarrow import parquet

from gpuprep.dicom.synth import (
    RoiSpec,
    SegmentSpec,
    axial_geometry,
    build_ct_slice,
    build_segmentation,
    derive_uid,
    ellipse_lps_mm,
    plan_series,
)
from gpuprep.errors import ExitStatus
from gpuprep.geometry import VolumeGeometry

MR_STORAGE = "1.2.840.10008.5.1.4.1.1.4"
#: A dataset.json of twenty labels with all their combinations would have 200 MB.
DATASET_JSON_BYTES = 10_000
#: An optional label that no patient has comes first.
LABELS = {"Rare": {"patterns": ["rare.*"], "optional": True}, "GTV": "gtv.*", "CTV": "ctv.*"}
GTV, CTV = 2, 3
TWO_BOXES = GTV * mask_of(GTV_BOX) + CTV * mask_of(CTV_BOX)

# --- Voxels ----------------------------------------------------------------------------------------------------------

#: Voxels of a cylinder against its volume, relative: those on its border fall on either side.
VOLUME_TOLERANCE = 0.05
CYLINDER_VERTICES = 720
BODY_SHAPE = (10, 24, 40)
BODY_BOX = np.s_[2:8, 6:14, 5:13]
CYLINDER_CENTRE, CYLINDER_SLICES, CYLINDER_RADIUS_PX = (12.2, 27.7), range(2, 8), 6.4


def random_geometries():
    """Axial grids as scanners have them, none of them round in binary, and a tilted one."""
    rng = np.random.default_rng(20)
    grids = {
        f"axial-{n}": axial_geometry(
            BODY_SHAPE,
            spacing_xyz_mm=rng.uniform((0.4, 0.4, 1), (1.4, 1.4, 4)).round(6),
            origin_lps_mm=rng.uniform(-300, 300, 3).round(4),
        )
        for n in range(6)
    }
    tilt, turn = np.deg2rad((20, 12))
    right = np.array([np.cos(turn), np.sin(turn), 0])
    down = np.array([-np.sin(turn) * np.cos(tilt), np.cos(turn) * np.cos(tilt), np.sin(tilt)])
    oblique = VolumeGeometry.from_axes(
        BODY_SHAPE,
        origin_lps_mm=(-31.37, 12.11, -209.3),
        directions_dhw=(np.cross(right, down), down, right),
        spacing_dhw_mm=(2.3, 0.683594, 0.742188),
    )
    return grids | {"oblique": oblique}


GEOMETRIES = random_geometries()


@pytest.fixture(scope="module", params=["0,0,0", "0.45,0.4,0.3"])
def bodies(gpuprep, tmp_path_factory, request):
    """A box and a cylinder on every grid, converted as they are or with a finer spacing."""
    folder = tmp_path_factory.mktemp("bodies")
    for patient, grid in GEOMETRIES.items():
        series = write_images(folder / "in" / patient, patient, geometry=grid)
        spacing = grid.spacing_dhw_mm
        circles = [
            ellipse_lps_mm(
                grid,
                d,
                grid.to_lps((d, *CYLINDER_CENTRE)),
                (CYLINDER_RADIUS_PX * spacing[2], CYLINDER_RADIUS_PX * spacing[1]),
                vertices=CYLINDER_VERTICES,
            )
            for d in CYLINDER_SLICES
        ]
        rois = [RoiSpec(1, "Box", contours_of(BODY_BOX, grid)), RoiSpec(2, "Cylinder", circles)]
        write_structures(folder / "in" / patient / "RS", series, rois)
    rois = write_map(folder / "rois.yaml", {"Box": "box", "Cylinder": "cylinder"})
    result = gpuprep(
        "nnunet", "-m", "CT,RTSTRUCT", "-ryaml", rois, "--spacing", request.param, folder / "in", folder / "out"
    )
    assert result.status == ExitStatus.DONE
    return Converted(folder / "out", result)


@pytest.mark.parametrize("patient", GEOMETRIES)
def test_no_boundary_voxel_is_lost(bodies, patient):
    grid = GEOMETRIES[patient]
    labels, affine = bodies.labels(patient)
    to_index = np.linalg.inv(grid.index_to_lps) @ affine
    centres = np.indices(labels.shape).reshape(3, -1).T @ to_index[:3, :3].T + to_index[:3, 3]
    first, end = (np.array([getattr(s, edge) for s in BODY_BOX]) - 0.5 for edge in ("start", "stop"))
    is_in_box = ((centres > first) & (centres < end)).all(axis=1).reshape(labels.shape)
    assert np.array_equal(labels == bodies.dataset["labels"]["Box"], is_in_box)

    voxel_mm3 = abs(np.linalg.det(affine[:3, :3]))
    base_mm2 = CYLINDER_VERTICES / 2 * np.sin(2 * np.pi / CYLINDER_VERTICES) * CYLINDER_RADIUS_PX**2
    base_mm2 *= grid.spacing_dhw_mm[1:].prod()
    volume_mm3 = base_mm2 * len(CYLINDER_SLICES) * grid.spacing_dhw_mm[0]
    measured_mm3 = (labels == bodies.dataset["labels"]["Cylinder"]).sum() * voxel_mm3
    assert measured_mm3 == pytest.approx(volume_mm3, rel=VOLUME_TOLERANCE)


SHAPES_GRID = axial_geometry((25, 32, 96), spacing_xyz_mm=(0.7, 0.7, 3.0), origin_lps_mm=(-111.1, 23.7, 5.3))
#: Inner before outer: the first label does not occur alone anywhere.
SHAPES = ["Inner", "Outer", "Circle", "Ring", "Left", "Right"]
INNER_BOX, OUTER_BOX = np.s_[3:6, 8:12, 82:86], np.s_[2:7, 6:14, 80:88]
CIRCLE_OFFSETS_PX = [(0.1 + 0.2 * i, 0.1 + 0.2 * j) for i in range(5) for j in range(5)]
CIRCLE_AT, CIRCLE_RADIUS_PX = (8, 8), 2.0
RING_AT, RING_RADII_PX, RING_SLICE = (16, 32), (12.2, 6.2), 4
#: Left and Right share an edge that runs through the centres of this column.
SHARED_COLUMN, SHARED_ROWS, SHARED_SLICE = 70, slice(5, 21), 7


def circle(d, centre_px, radius_px):
    """A circle on SHAPES_GRID."""
    radius_mm = radius_px * SHAPES_GRID.spacing_dhw_mm[2]
    return ellipse_lps_mm(
        SHAPES_GRID, d, SHAPES_GRID.to_lps((d, *centre_px)), (radius_mm, radius_mm), vertices=CYLINDER_VERTICES
    )


def count_centres(centre_px, radius_px):
    """Pixel centres within a circle."""
    rows, columns = np.indices((64, 64)) - 16
    return int(((rows - centre_px[0]) ** 2 + (columns - centre_px[1]) ** 2 < radius_px**2).sum())


def rectangle(left, right):
    """A rectangle over SHARED_ROWS on SHAPES_GRID."""
    top, bottom = SHARED_ROWS.start - 0.5, SHARED_ROWS.stop - 0.5
    corners = [(top, left), (top, right), (bottom, right), (bottom, left)]
    return [SHAPES_GRID.to_lps([(SHARED_SLICE, *corner) for corner in corners])]


@pytest.fixture(scope="module")
def shapes(gpuprep, tmp_path_factory):
    folder = tmp_path_factory.mktemp("shapes")
    series = write_images(folder / "in", "shapes", geometry=SHAPES_GRID)
    circles = [circle(d, np.add(CIRCLE_AT, offset), CIRCLE_RADIUS_PX) for d, offset in enumerate(CIRCLE_OFFSETS_PX)]
    contours = {
        "Inner": contours_of(INNER_BOX, SHAPES_GRID),
        "Outer": contours_of(OUTER_BOX, SHAPES_GRID),
        "Circle": circles,
        "Ring": [circle(RING_SLICE, RING_AT, radius) for radius in RING_RADII_PX],
        "Left": rectangle(SHARED_COLUMN - 4.5, SHARED_COLUMN),
        "Right": rectangle(SHARED_COLUMN, SHARED_COLUMN + 5.5),
    }
    write_structures(folder / "in" / "RS", series, [RoiSpec(n, s, contours[s]) for n, s in enumerate(SHAPES, 1)])
    rois = write_map(folder / "rois.yaml", {name: name for name in SHAPES})
    result = gpuprep("nnunet", "-m", "CT,RTSTRUCT", "-ryaml", rois, "-ms", "region_mask", folder / "in", folder / "out")
    assert result.status == ExitStatus.DONE
    return Converted(folder / "out", result)


def test_vertices_are_not_rounded_to_voxels(shapes):
    areas = shapes.mask("shapes", "Circle").sum(axis=(1, 2)).tolist()
    assert areas == [count_centres(offset, CIRCLE_RADIUS_PX) for offset in CIRCLE_OFFSETS_PX]
    assert np.mean(areas) == pytest.approx(np.pi * CIRCLE_RADIUS_PX**2, rel=0.02)
    assert areas[CIRCLE_OFFSETS_PX.index((0.5, 0.5))] == 12  # 4 at distance 0.71 px, 8 at 1.58; the next are at 2.12


def test_a_hole_stays_open(shapes):
    ring = shapes.mask("shapes", "Ring")
    outer, inner = (count_centres((0, 0), radius) for radius in RING_RADII_PX)
    assert ring.sum() == outer - inner == 473 - 121
    assert not ring[(RING_SLICE, *RING_AT)]


def test_an_edge_through_voxel_centres_gives_each_voxel_to_one_side(shapes):
    left, right = shapes.mask("shapes", "Left"), shapes.mask("shapes", "Right")
    column = np.s_[SHARED_SLICE, SHARED_ROWS, SHARED_COLUMN]
    assert not (left & right).any()
    assert (left | right)[column].all()
    assert left.sum() + right.sum() == 10 * (SHARED_ROWS.stop - SHARED_ROWS.start)


def test_nested_rois_with_the_inner_one_first(shapes):
    assert np.array_equal(shapes.mask("shapes", "Inner"), mask_of(INNER_BOX, shape=SHAPES_GRID.shape))
    assert np.array_equal(shapes.mask("shapes", "Outer"), mask_of(OUTER_BOX, shape=SHAPES_GRID.shape))


# --- Cases -----------------------------------------------------------------------------------------------------------

#: Slices that the patient "gap" lacks, and a box a slice, so that its place tells which slice it was drawn on.
LOST_SLICES = (3, 5)
STAIR_BOXES = [np.s_[d : d + 1, 5:9, d : d + 4] for d in range(GRID.shape[0])]
MOVED_BOXES = [(d, slice(h.start + 8, h.stop + 8), w) for d, h, w in (GTV_BOX, CTV_BOX)]
TWO_BOXES_MOVED = GTV * mask_of(MOVED_BOXES[0]) + CTV * mask_of(MOVED_BOXES[1])
WELL = ["one-folder", "two-folders", "no-suffix", "copies", "localizer", "by-instances", "other-order", "missing-item",
        "empty-roi", "equal-names", "bad-contours", "orphans", "one-matches", "a:b", "a?b"]  # fmt: skip
#: Patient → error code.
FAILURES = {
    "cut": "pixel-data-truncated",
    "gap": "missing-slice",
    "no-ctv": "label-missing",
    "never-drawn": "label-empty",
    "two-match": "several-segmentations",
    "alone": "dangling-reference",
}


def move_series(data):
    """Give a structure set that was built for a series an earlier date and UIDs of its own."""
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = derive_uid(data.SOPInstanceUID, "moved")
    data.SeriesInstanceUID = derive_uid(data.SeriesInstanceUID, "moved")
    data.StructureSetLabel, data.StructureSetDate = "draft", "20231231"


def moved_rois():
    """GTV and CTV some rows further down."""
    return [
        RoiSpec(n, name, contours_of(box)) for n, name, box in zip((1, 2), ("gtv", "ctv"), MOVED_BOXES, strict=True)
    ]


def write_layouts(top):
    """Series whose files lie oddly."""
    series = write_images(top / "one-folder", "one-folder")
    write_structures(top / "one-folder" / "IM999.dcm", series, two_rois())

    series = write_images(top / "split", "two-folders", name=lambda d: f"{'odd' if d % 2 else 'even'}/IM{d}.dcm")
    write_structures(top / "split" / "rs.dcm", series, two_rois())

    series = write_images(top / "no-suffix", "no-suffix", name="{:08X}".format)
    write_structures(top / "no-suffix" / "RS", series, two_rois())

    series = write_images(top / "copies", "copies")
    write_structures(top / "copies" / "rs.dcm", series, two_rois())
    for name in ("IM002.dcm", "IM005.dcm"):
        shutil.copy(top / "copies" / name, top / "copies" / f"{name} (1)")

    series = write_images(top / "localizer", "localizer")
    write_structures(top / "localizer" / "rs.dcm", series, two_rois())
    coronal = VolumeGeometry.from_axes(
        (1, 30, 20),
        origin_lps_mm=(-7.3, 20, 9),
        directions_dhw=((0, 1, 0), (0, 0, -1), (1, 0, 0)),
        spacing_dhw_mm=(1, 2, 0.8),
        frame_of_reference_uid=series.geometry.frame_of_reference_uid,
    )
    scout = build_ct_slice(replace(series, geometry=coronal), 0, np.zeros((30, 20)))
    scout.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    scout.SOPInstanceUID = scout.file_meta.MediaStorageSOPInstanceUID = derive_uid(series.series_instance_uid, "scout")
    write(scout, top / "localizer" / "IM000 scout.dcm")


def write_structure_sets(top):
    """Structure sets with oddities that cost nothing."""

    def drop_series_uid(data):
        study = data.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0]
        del study.RTReferencedSeriesSequence[0].SeriesInstanceUID

    series = write_images(top / "by-instances", "by-instances")
    write_structures(top / "by-instances" / "rs.dcm", series, two_rois(), edit=drop_series_uid)

    series = write_images(top / "other-order", "other-order")
    extra = RoiSpec(3, "body", contours_of(np.s_[0:8, 1:23, 1:19]))
    write_structures(top / "other-order" / "rs.dcm", series, [*two_rois(), extra], contour_order=(2, 1, 0))

    series = write_images(top / "missing-item", "missing-item")
    write_structures(
        top / "missing-item" / "rs.dcm",
        series,
        [RoiSpec(7, "gtv never drawn", None), RoiSpec(8, "couch", None), *two_rois()],
    )

    series = write_images(top / "empty-roi", "empty-roi")
    write_structures(
        top / "empty-roi" / "rs.dcm", series, [RoiSpec(9, "gtv empty"), *two_rois(), RoiSpec(4, "ctv none")]
    )

    series = write_images(top / "equal-names", "equal-names")
    depth, rows, columns = GTV_BOX
    halves = (depth, slice(rows.start, 8), columns), (depth, slice(8, rows.stop), columns)
    same = [RoiSpec(n, "gtv", contours_of(half)) for n, half in enumerate(halves, 5)]
    write_structures(top / "equal-names" / "rs.dcm", series, [*same, two_rois()[1]])

    series = write_images(top / "bad-contours", "bad-contours")
    gtv, ctv = two_rois()
    far = np.add(gtv.contours[0], (0, 0, 500))
    sagittal = np.array(gtv.contours[0])[:, [2, 1, 0]]
    bad = [
        replace(gtv, contours=[far, *gtv.contours]),
        replace(ctv, contours=[*ctv.contours, sagittal]),
        RoiSpec(3, "gtv marker", [gtv.contours[0][:1]], "POINT"),
        RoiSpec(4, "ctv line", gtv.contours[:1], "OPEN_PLANAR"),
    ]
    write_structures(top / "bad-contours" / "rs.dcm", series, bad)

    def renumber_last_item(data):
        data.ROIContourSequence[-1].ReferencedROINumber = 99

    series = write_images(top / "orphans", "orphans")
    extra = RoiSpec(3, "body", contours_of(MOVED_BOXES[0]))
    write_structures(top / "orphans" / "rs.dcm", series, [*two_rois(), extra], edit=renumber_last_item)

    series = write_images(top / "one-matches", "one-matches")
    write_structures(top / "one-matches" / "a.dcm", series, two_rois())
    other = [RoiSpec(1, "lung", contours_of(MOVED_BOXES[0])), RoiSpec(2, "ctv", contours_of(MOVED_BOXES[1]))]
    write_structures(top / "one-matches" / "b.dcm", series, other, edit=move_series)

    for n, patient in enumerate(("a:b", "a?b")):
        series = write_images(top / f"same-name-{n}", patient)
        write_structures(top / f"same-name-{n}" / "rs.dcm", series, two_rois())


def write_failures(top):
    """Cases that must fail, and files that are no DICOM."""
    series = write_images(top / "cut", "cut")
    write_structures(top / "cut" / "rs.dcm", series, two_rois())
    slice_path = top / "cut" / "IM004.dcm"
    slice_path.write_bytes(slice_path.read_bytes()[:-300])

    series = write_images(
        top / "gap", "gap", values_hu=RAMP_HU, edit=lambda data: data.InstanceNumber - 1 not in LOST_SLICES
    )
    stair = [contour for d, box in enumerate(STAIR_BOXES) if d not in LOST_SLICES for contour in contours_of(box)]
    write_structures(
        top / "gap" / "rs.dcm",
        series,
        [RoiSpec(1, "gtv", stair), RoiSpec(2, "ctv", contours_of(np.s_[0:1, 15:20, 3:9]))],
    )

    series = write_images(top / "no-ctv", "no-ctv")
    write_structures(top / "no-ctv" / "rs.dcm", series, two_rois()[:1])

    series = write_images(top / "never-drawn", "never-drawn")
    write_structures(top / "never-drawn" / "rs.dcm", series, [two_rois()[0], RoiSpec(2, "ctv")])

    series = write_images(top / "two-match", "two-match")
    write_structures(top / "two-match" / "a.dcm", series, two_rois())
    write_structures(top / "two-match" / "b.dcm", series, moved_rois(), edit=move_series)

    write_structures(top / "alone" / "rs.dcm", plan_series(GRID, patient_id="alone"), two_rois())

    junk = top / "junk"
    junk.mkdir()
    (junk / "junk.dcm").write_bytes(np.random.default_rng(1).bytes(5000))
    (junk / "empty.dcm").touch()
    (junk / "cut.dcm").write_bytes(slice_path.read_bytes()[:300])
    (junk / "notes.txt").write_text("nothing to see")


@pytest.fixture(scope="module")
def ward(gpuprep, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ward")
    source = folder / "in"
    write_layouts(source)
    write_structure_sets(source)
    write_failures(source)
    index = folder / "out" / "index.parquet"
    rois = write_map(folder / "rois.yaml", LABELS)
    result = gpuprep("nnunet", "-m", "CT,RTSTRUCT", "-ryaml", rois, "--index", index, source, folder / "out")
    return Converted(folder / "out", result)


def reconvert(gpuprep, ward, patient, output, *arguments):
    """Convert one patient of the ward, with other options."""
    folder = ward.root.parent
    result = gpuprep(
        "nnunet", "-m", "CT,RTSTRUCT", "-ryaml", folder / "rois.yaml", *arguments, folder / "in" / patient, output
    )
    return Converted(output, result)


@pytest.mark.parametrize("patient", WELL)
def test_oddities_that_cost_nothing(ward, patient):
    assert ward.row(patient)["status"] == "done"
    labels, affine = ward.labels(patient)
    assert np.array_equal(labels, TWO_BOXES)
    assert np.allclose(affine, GRID.index_to_lps, atol=1e-4)


@pytest.mark.parametrize(("patient", "code"), FAILURES.items())
def test_a_case_that_fails_has_its_code(ward, patient, code):
    row = ward.row(patient)
    assert (row["status"], row["code"]) == ("failed", code)
    assert not [path for path in ward.raw.rglob("*.nii.gz") if path.name.startswith(row["case"])]


def test_some_failed_cases_make_exit_status_4(ward):
    assert ward.result.status == ExitStatus.CASES_FAILED
    assert f"{len(WELL)} of {len(WELL) + len(FAILURES)} cases done" in ward.result.stderr
    assert ward.dataset["numTraining"] == len(WELL)


def test_junk_ends_no_run_and_is_listed(ward):
    found = {path.rpartition("/")[2]: code for path, code in unusable(ward)}
    assert found == {
        "junk.dcm": "not-dicom", "empty.dcm": "empty-file", "cut.dcm": "header-truncated", "notes.txt": "not-dicom"
    }  # fmt: skip


def unusable(converted):
    return [(problem["path"], problem["code"]) for problem in converted.report["unusable_files"]]


def test_each_bad_contour_is_named(ward):
    warnings_of_case = ward.row("bad-contours")["details"]["warnings"]
    found = {(text.split("'")[1], text.rpartition("[")[2].rstrip("]")) for text in warnings_of_case}
    assert found == {
        ("gtv", "contour-off-slices"),
        ("ctv", "contour-not-planar"),
        ("gtv marker", "point-contour"),
        ("ctv line", "open-contour"),
    }


def test_contours_of_no_roi_are_named(ward):
    (text,) = ward.row("orphans")["details"]["warnings"]
    assert "[contours-without-roi]" in text


def test_names_that_read_alike_stay_apart(ward):
    cases = {ward.row(patient)["case"] for patient in ("a:b", "a?b")}
    assert {case[:3] for case in cases} == {"a_b"}
    assert len(cases) == 2


def test_several_segmentations_are_refused_by_name(ward):
    message = ward.row("two-match")["message"]
    assert "'synthetic'" in message
    assert "'draft'" in message


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("latest", [TWO_BOXES]),
        ("all", [TWO_BOXES, TWO_BOXES_MOVED]),
        ("merge", [TWO_BOXES + TWO_BOXES_MOVED]),
    ],
)
def test_the_choice_between_segmentations(gpuprep, ward, tmp_path, choice, expected):
    chosen = reconvert(gpuprep, ward, "two-match", tmp_path, "--multiple-segmentations", choice)
    assert chosen.result.status == ExitStatus.DONE
    found = [read_nifti(path)[0] for path in (chosen.raw / "labelsTr").iterdir()]
    assert sorted(array.tobytes() for array in found) == sorted(array.astype(np.uint8).tobytes() for array in expected)


def test_contours_stay_on_their_slices_when_slices_are_missing(gpuprep, ward, tmp_path):
    message = ward.row("gap")["message"]
    assert "2 slices missing" in message
    assert "5.000 mm after slice 3" in message
    resampled = reconvert(gpuprep, ward, "gap", tmp_path, "--on-irregular", "resample")
    assert resampled.result.status == ExitStatus.DONE
    image, affine = resampled.image("gap")
    gtv = resampled.mask("gap", "GTV")
    assert np.allclose(affine, GRID.index_to_lps, atol=1e-4)
    for d in range(GRID.shape[0]):
        if d in LOST_SLICES:
            neighbours = [mask_of(STAIR_BOXES[n])[n] for n in (d - 1, d + 1)]
            assert any(np.array_equal(gtv[d], neighbour) for neighbour in neighbours)
        else:
            assert np.array_equal(gtv[d], mask_of(STAIR_BOXES[d])[d])
            assert np.array_equal(image[d], RAMP_HU[d])


def test_no_patient_name_leaves_the_source(gpuprep, ward):
    parts = [part.encode() for part in PATIENT_NAME.split("^")]

    def holds_name(content):
        return any(part in content for part in parts)

    source = ward.root.parent / "in"
    assert holds_name((source / "gap" / "IM000.dcm").read_bytes())
    shown = gpuprep("show", source)
    assert "two-match" in shown.stdout
    for printed in (ward.result.stdout, ward.result.stderr, shown.stdout, shown.stderr):
        assert not holds_name(printed.encode())
    files = [path for path in ward.root.rglob("*") if path.is_file()]
    assert {"ledger.sqlite", "report.json", "report.csv", "index.parquet", "dataset.json"} <= {p.name for p in files}
    for path in files:
        content = path.read_bytes()
        assert not holds_name(content), path
        if path.suffix == ".gz":
            assert not holds_name(gzip.decompress(content)), path
        if path.suffix == ".parquet":
            assert not holds_name(json.dumps(parquet.read_table(path).to_pylist(), default=repr).encode())


# --- Data sets -------------------------------------------------------------------------------------------------------


def test_a_window_leaves_masks_alone_and_a_rerun_stays_in_its_data_set(gpuprep, tmp_path):
    series = write_images(tmp_path / "in", "one", values_hu=RAMP_HU)
    write_structures(tmp_path / "in" / "rs", series, two_rois())
    rois = write_map(tmp_path / "rois.yaml", LABELS)
    command = ["nnunet", "-m", "CT,RTSTRUCT", "-ryaml", rois, tmp_path / "in", tmp_path / "out"]
    plain = Converted(tmp_path / "out", gpuprep(*command))
    assert np.array_equal(plain.image("one")[0], RAMP_HU)
    windowed = Converted(tmp_path / "out", gpuprep(*command, "--window-level", 90, "--window-width", 150))
    assert np.array_equal(windowed.image("one")[0], RAMP_HU.clip(15, 165))
    assert np.array_equal(windowed.labels("one")[0], TWO_BOXES)
    assert windowed.raw.name == plain.raw.name == "Dataset001_in"


def test_frames_of_a_segmentation_keep_their_orientation(gpuprep, tmp_path):
    upside_down = VolumeGeometry.from_axes(
        GRID.shape,
        origin_lps_mm=GRID.to_lps((0, GRID.shape[1] - 1, 0)),
        directions_dhw=((0, 0, 1), (0, -1, 0), (1, 0, 0)),
        spacing_dhw_mm=GRID.spacing_dhw_mm,
    )
    series = write_images(tmp_path / "in", "one")
    masks = (mask_of(box)[:, ::-1] for box in (GTV_BOX, CTV_BOX))
    segments = [SegmentSpec(n, name, mask) for n, name, mask in zip((1, 2), ("gtv", "ctv"), masks, strict=True)]
    data = build_segmentation(series, segments, geometry=upside_down)
    stored = data.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0].ImageOrientationPatient
    assert list(stored) == [1, 0, 0, 0, -1, 0]
    write(data, tmp_path / "in" / "seg")
    write_structures(tmp_path / "in" / "rs", plan_series(GRID, patient_id="elsewhere"), two_rois())
    rois = write_map(tmp_path / "rois.yaml", LABELS)
    result = gpuprep("nnunet", "-m", "CT,SEG", "-ryaml", rois, tmp_path / "in", tmp_path / "out")
    assert result.status == ExitStatus.DONE  # a structure set without image is nothing to a job of SEG
    assert np.array_equal(Converted(tmp_path / "out", result).labels("one")[0], TWO_BOXES)


def test_rois_drawn_in_another_frame_of_reference_are_left_out_by_name(gpuprep, tmp_path):
    def move_ctv(data):
        data.StructureSetROISequence[1].ReferencedFrameOfReferenceUID = "1.2.3"

    series = write_images(tmp_path / "in", "one")
    write_structures(tmp_path / "in" / "rs", series, two_rois(), edit=move_ctv)
    rois = write_map(tmp_path / "rois.yaml", {"GTV": "gtv", "CTV": {"patterns": "ctv", "optional": True}})
    result = gpuprep("nnunet", "-m", "CT,RTSTRUCT", "-ryaml", rois, tmp_path / "in", tmp_path / "out")
    assert result.status == ExitStatus.DONE, result.stderr
    converted = Converted(tmp_path / "out", result)
    assert np.array_equal(converted.labels("one")[0], mask_of(GTV_BOX))
    assert any("[roi-in-other-frame]" in text for text in converted.row("one")["details"]["warnings"])


@pytest.mark.parametrize(
    "directions", [((0, 0, 1), (0, 1, 0), (1, 0, 0)), ((0, 0, 1), (0.28, 0.96, 0), (0.96, -0.28, 0))]
)
def test_a_segmentation_that_names_the_images_may_name_another_frame_of_reference(gpuprep, tmp_path, directions):
    """As a structure set may: some anonymisers give each file a new one. Frames are parallel, then oblique."""
    series = write_images(tmp_path / "in", "one")
    own = VolumeGeometry.from_axes(
        GRID.shape, origin_lps_mm=GRID.origin_lps_mm, directions_dhw=directions, spacing_dhw_mm=GRID.spacing_dhw_mm
    )
    data = build_segmentation(series, [SegmentSpec(1, "gtv", mask_of(GTV_BOX))], geometry=own)
    data.FrameOfReferenceUID = "1.2.3"
    write(data, tmp_path / "in" / "seg")
    rois = write_map(tmp_path / "rois.yaml", {"GTV": "gtv"})
    result = gpuprep("nnunet", "-m", "CT,SEG", "-ryaml", rois, tmp_path / "in", tmp_path / "out")
    assert result.status == ExitStatus.DONE, result.stderr
    converted = Converted(tmp_path / "out", result)
    assert any(f.startswith("frame-of-reference-mismatch") for f in converted.row("one")["details"]["findings"])
    assert converted.labels("one")[0].any()
    result = gpuprep("masks", "convert", tmp_path / "in" / "seg", tmp_path / "seg.npz", "--image", tmp_path / "in")
    assert result.status == ExitStatus.DONE, result.stderr


def test_twenty_regions_need_no_list_of_all_combinations(gpuprep, tmp_path):
    names = [f"L{n:02d}" for n in range(20)]
    boxes = [np.s_[2:4, 2 * (n % 10) : 2 * (n % 10) + 2, 3 + 6 * (n // 10) : 7 + 6 * (n // 10)] for n in range(20)]
    boxes[1] = np.s_[2:4, 0:4, 3:7]  # around L00
    series = write_images(tmp_path / "in", "one")
    rois = [RoiSpec(n, name, contours_of(box)) for n, (name, box) in enumerate(zip(names, boxes, strict=True), 1)]
    write_structures(tmp_path / "in" / "rs", series, rois)
    patterns = write_map(tmp_path / "rois.yaml", {name: name for name in names})
    result = gpuprep(
        "nnunet", "-m", "CT,RTSTRUCT", "-ms", "region_mask", "-ryaml", patterns, tmp_path / "in", tmp_path / "out"
    )
    assert result.status == ExitStatus.DONE
    converted = Converted(tmp_path / "out", result)
    for name, box in zip(names, boxes, strict=True):
        assert np.array_equal(converted.mask("one", name), mask_of(box))
    assert converted.labels("one")[0].max() == 21  # 20 labels alone, and L00 within L01
    assert (converted.raw / "dataset.json").stat().st_size < DATASET_JSON_BYTES


def test_mr_is_channel_0(gpuprep, tmp_path):
    def make_mr(data):
        data.Modality = "MR"
        data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = MR_STORAGE

    series = write_images(tmp_path / "in", "one", edit=make_mr)
    write_structures(tmp_path / "in" / "rs", series, two_rois())
    rois = write_map(tmp_path / "rois.yaml", LABELS)
    result = gpuprep("nnunet", "-m", "MR,RTSTRUCT", "-ryaml", rois, tmp_path / "in", tmp_path / "out")
    assert result.status == ExitStatus.DONE
    converted = Converted(tmp_path / "out", result)
    assert converted.dataset["channel_names"] == {"0": "MR"}
    assert [path.name[-12:] for path in (converted.raw / "imagesTr").iterdir()] == ["_0000.nii.gz"]
