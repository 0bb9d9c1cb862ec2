"""From DICOM to Supervisely's import folder, through the command line."""

import json
import subprocess
import sys
import time

import conversions
import nibabel
import numpy as np
import pytest

from gpuprep.dicom.synth import RoiSpec, SegmentSpec, write_ct_series, write_seg, write_study
from gpuprep.errors import ExitStatus
from gpuprep.geometry import VolumeGeometry
from gpuprep.writers.masks import read_mask

CLASSES = ["GTV", "CTV", "Lung_L", "Lung_R", "Ring"]
#: A polygon's voxel count differs from its volume by boundary voxels that fall on either side: relative tolerance.
VOLUME_TOLERANCE = 0.06
#: A solid of some hundred voxels, taken by nearest voxel onto another grid, keeps its volume within this, relative.
RESAMPLED_VOLUME_TOLERANCE = 0.03
#: ... and its centre, in mm; voxels are 2 to 3 mm wide.
CENTRE_TOLERANCE_MM = 0.3


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    folder = tmp_path_factory.mktemp("studies")
    return folder, {p.series.patient_id: p for p in write_study(folder, patients=2)}


def convert(gpuprep, source, output, *extra, roi_map=None):
    roi_map = roi_map or source / "roi_patterns.yaml"
    return gpuprep("supervisely", "-m", "CT,RTSTRUCT", "-ryaml", roi_map, *extra, source, output)


def snapshot(root):
    return {p.relative_to(root): (p.read_bytes(), p.stat().st_mtime_ns) for p in root.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def converted(gpuprep, studies, tmp_path_factory):
    root = tmp_path_factory.mktemp("out")
    assert convert(gpuprep, studies[0], root / "volume").status == ExitStatus.DONE
    assert (
        convert(gpuprep, studies[0], root / "plane", "--layout", "plane", "--overlap", "last").status == ExitStatus.DONE
    )
    return root


def test_by_volume_name_every_roi_has_its_volume(studies, converted):
    root = converted / "volume" / "import"
    volumes = sorted(root.glob("*.nii.gz"))
    assert len(volumes) == len(studies[1])
    assert not {p.name.removesuffix(".nii.gz") for p in volumes} & {*CLASSES, root.name}
    for path in volumes:
        study = studies[1][path.name.split("_")[0]]
        image = nibabel.load(path)
        assert nibabel.aff2axcodes(image.affine) == ("R", "A", "S")
        masks = sorted((root / path.name.removesuffix(".nii.gz")).iterdir())
        assert {m.name for m in masks} == {f"{name}.nii.gz" for name in CLASSES}
        for mask in map(nibabel.load, masks):
            assert np.array_equal(mask.affine, image.affine) and mask.shape == image.shape
            name = mask.get_filename().rsplit("/", 1)[1].removesuffix(".nii.gz")
            measured = np.asanyarray(mask.dataobj).sum() * abs(np.linalg.det(mask.affine[:3, :3]))
            assert measured == pytest.approx(study.volumes_mm3[name], rel=VOLUME_TOLERANCE)


def test_by_plane_values_are_those_of_the_colour_map(studies, converted):
    root = converted / "plane" / "import"
    lines = (root / "cls_color_map.txt").read_text().splitlines()
    assert [line.split()[:2] for line in lines] == [[str(n), name] for n, name in enumerate(CLASSES, 1)]
    assert lines[0] == "1 GTV 255 0 0"  # the structure set's colour
    for case in (p for p in root.iterdir() if p.is_dir()):
        names = {f"{plane}_{kind}.nii.gz" for plane in ("axl", "cor", "sag") for kind in ("anatomic", "inference")}
        assert {p.name for p in case.iterdir()} == names
        by_name = converted / "volume" / "import" / case.name
        labels = np.asanyarray(nibabel.load(case / "cor_inference.nii.gz").dataobj)
        for value, name in enumerate(CLASSES, 1):
            mask = np.asanyarray(nibabel.load(by_name / f"{name}.nii.gz").dataobj)
            later = [np.asanyarray(nibabel.load(by_name / f"{n}.nii.gz").dataobj) for n in CLASSES[value:]]
            assert np.array_equal(
                labels == value, (mask > 0) & ~np.any([m > 0 for m in later], axis=0) if later else mask > 0
            )


@pytest.mark.parametrize("layout", ["volume", "plane"])
def test_what_is_imported_goes_on_to_other_programs(gpuprep, studies, converted, tmp_path, layout):
    """Masks of the import folder as a label image equal nnU-Net's, and as DICOM SEG those of the structure set."""
    options = ["-m", "CT,RTSTRUCT", "-ryaml", studies[0] / "roi_patterns.yaml", "-ms", "sparse_mask"]
    assert gpuprep("nnunet", *options, "--orientation", "RAS", studies[0], tmp_path / "n").status == ExitStatus.DONE
    for case in (p for p in (converted / layout / "import").iterdir() if p.is_dir()):
        labels = tmp_path / f"{case.name}.nii.gz"
        assert gpuprep("masks", "convert", case, labels, "--on-overlap", "last-wins").status == ExitStatus.DONE
        (reference,) = (tmp_path / "n").rglob(f"labelsTr/{case.name}.nii.gz")
        ours, theirs = nibabel.load(labels), nibabel.load(reference)
        assert np.array_equal(ours.affine, theirs.affine)
        assert np.array_equal(np.asanyarray(ours.dataobj), np.asanyarray(theirs.dataobj))
        patient = case.name.split("_")[0]
        image = studies[0] / patient
        (structures,) = (p for p in image.rglob("*.dcm") if "RTSTRUCT" in str(p))
        for source, output in ((case, "seg.dcm"), (structures, "drawn.npz")):
            assert gpuprep("masks", "convert", source, tmp_path / output, "--image", image).status == ExitStatus.DONE
        back = gpuprep("masks", "convert", tmp_path / "seg.dcm", tmp_path / "back.npz", "--image", image)
        assert back.status == ExitStatus.DONE
        back, drawn = read_mask(tmp_path / "back.npz"), read_mask(tmp_path / "drawn.npz")
        assert back.geometry.same_grid(drawn.geometry) and [roi.name for roi in back.rois] == CLASSES
        by_name = {roi.name: n for n, roi in enumerate(drawn.rois)}
        entry = json.loads((converted / layout / "dataset.json").read_text())["cases"][case.name]
        for n, name in enumerate(CLASSES):
            (roi,) = entry["rois"][name]
            expected = drawn.binary(by_name[roi])
            if (layout, name) == ("plane", "GTV"):  # which lies in the CTV, and a label map holds one label a voxel
                expected = 0 * expected
            assert np.array_equal(back.binary(n), expected)


@pytest.mark.parametrize("instances", ["component", "roi"])
def test_objects_come_back_as_rois_of_one_name_or_merged(gpuprep, tmp_path, instances):
    study = tmp_path / "in"
    grid = conversions.GRID
    series = conversions.write_images(study, "P1")
    boxes = np.s_[1:3, 2:5, 2:5], np.s_[5:7, 12:16, 10:14]
    contours = [conversions.contours_of(box) for box in boxes]
    rois = [RoiSpec(1, "met", contours[0] + contours[1])]
    if instances == "roi":
        rois = [RoiSpec(n, f"met {n}", of) for n, of in enumerate(contours, 1)]
    conversions.write_structures(study / "rs.dcm", series, rois)
    roi_map = conversions.write_map(tmp_path / "map.yaml", {"Met": "met.*"})
    for options in ([], ["--layout", "plane", "--plane-masks", "instance", "--planes", "sag"]):
        out = tmp_path / f"out{len(options)}"
        result = convert(gpuprep, study, out, "--instances", instances, *options, roi_map=roi_map)
        assert result.status == ExitStatus.DONE
        (case,) = (p for p in (out / "import").iterdir() if p.is_dir())
        assert gpuprep("masks", "convert", case, tmp_path / "m.npz").status == ExitStatus.DONE
        mask = read_mask(tmp_path / "m.npz")
        assert [roi.name for roi in mask.rois] == ["Met", "Met"]
        sizes = [int(np.prod([s.stop - s.start for s in box])) for box in boxes]
        assert mask.voxel_counts.tolist() == sizes and mask.geometry.shape == grid.shape
        assert gpuprep("masks", "convert", case, tmp_path / "m.npz", "--merge-names").status == ExitStatus.DONE
        assert read_mask(tmp_path / "m.npz").voxel_counts.tolist() == [sum(sizes)]
    assert "plane-missing" in gpuprep("masks", "info", case, "--plane", "axl").stderr
    assert "plane-missing" in gpuprep("masks", "info", tmp_path / "m.npz", "--plane", "axl").stderr


def test_labels_that_share_voxels_fail_a_label_map(gpuprep, studies, tmp_path):
    result = convert(gpuprep, studies[0], tmp_path, "--layout", "plane")
    assert result.status == ExitStatus.CASES_FAILED
    assert "[labels-overlap]" in result.stderr and "--overlap last" in result.stderr
    assert not list(tmp_path.rglob("*.nii.gz"))


def test_scores_go_beside_the_planes_and_leave_with_the_option(gpuprep, studies, tmp_path):
    table = tmp_path / "scores.csv"
    table.write_text("case,plane,layer,label,score\nSYNTH-001,cor,7,CTV,0.8\n")
    out = tmp_path / "out"
    extra = ["--layout", "plane", "--planes", "cor", "--overlap", "last"]
    assert convert(gpuprep, studies[0], out, *extra, "--scores", table).status == ExitStatus.DONE
    for folder in (p for p in (out / "import").iterdir() if p.is_dir()):
        names = sorted(p.name[74:] for p in folder.iterdir())
        assert names == ["cor_anatomic.nii.gz", "cor_inference.nii.gz", "cor_score.csv"]
        expected = "Layer,Label-2\n7,0.8\n" if folder.name.startswith("SYNTH-001") else "Layer\n"
        assert next(folder.glob("*.csv")).read_text() == expected
    table.write_text("case,plane,layer,label,score\nSYNTH-001,cor,7,CTV,0.9\n")
    result = convert(gpuprep, studies[0], out, *extra, "--scores", table)
    assert "2 cases are done already" in result.stderr
    table_of_case = next((out / "import").glob("SYNTH-001*/*.csv"))
    assert "7,0.9" in table_of_case.read_text()
    opened = gpuprep("masks", "info", table_of_case.parent)
    assert opened.status == ExitStatus.DONE and "1 score tables are left out" in opened.stderr
    assert convert(gpuprep, studies[0], out, *extra).status == ExitStatus.DONE
    assert {p.name for p in (out / "import").glob("*/*")} == {"cor_anatomic.nii.gz", "cor_inference.nii.gz"}


@pytest.mark.parametrize(
    ("line", "extra"),
    [
        ("nobody,axl,1,CTV,1", ["--layout", "plane"]),
        ("SYNTH-001,axl,1,CTV,1", []),
        ("SYNTH-001,axl,1,CTV,1", ["--layout", "plane", "--planes", "sag"]),
    ],
)
def test_scores_that_have_no_place_are_refused(gpuprep, studies, tmp_path, line, extra):
    table = tmp_path / "scores.csv"
    table.write_text(f"case,plane,layer,label,score\n{line}\n")
    result = convert(gpuprep, studies[0], tmp_path / "out", "--overlap", "last", "--scores", table, *extra)
    assert result.status == ExitStatus.CONFIG and "[bad-scores]" in result.stderr
    assert not list(tmp_path.rglob("*.nii.gz"))


def test_annotations_alone_are_mapped_to_their_volumes(gpuprep, studies, converted, tmp_path):
    table = tmp_path / "volumes.csv"
    table.write_text("case,plane,volume_id\nSYNTH-001,cor,31\nSYNTH-002,axl,32\nSYNTH-002,sag,33\n")
    options = ["-m", "CT,RTSTRUCT", "-ryaml", studies[0] / "roi_patterns.yaml", "--volumes", table]
    options += ["--plane-masks", "instance", studies[0], tmp_path / "out"]
    assert gpuprep("supervisely-annotations", *options).status == ExitStatus.DONE
    root = tmp_path / "out" / "import"
    mapping = json.loads((root / "mapping.json").read_text())
    masks = {p.name for p in root.glob("*.nii.gz")}
    assert set(mapping) == masks and len(masks) == 3 * len(CLASSES)
    assert {p.name for p in root.iterdir()} == {*masks, "mapping.json", "cls_color_map.txt"}
    cases = {p.name.split("_")[0]: p for p in (converted / "volume" / "import").iterdir() if p.is_dir()}
    planes = {31: ("SYNTH-001", "cor"), 32: ("SYNTH-002", "axl"), 33: ("SYNTH-002", "sag")}
    for name, volume in mapping.items():
        patient, plane = planes[volume]
        assert f"_{plane}_" in name
        ours = nibabel.load(root / name)
        number = int(name.removesuffix(".nii.gz").rsplit("_", 1)[1])
        other = nibabel.load(cases[patient] / f"{CLASSES[number - 1]}.nii.gz")
        assert np.array_equal(ours.affine, other.affine)
        assert np.array_equal(np.asanyarray(ours.dataobj), np.asanyarray(other.dataobj))
    assert "2 cases are done already" in gpuprep("supervisely-annotations", *options).stderr
    assert json.loads((root / "mapping.json").read_text()) == mapping


@pytest.mark.parametrize(
    "rows",
    ["SYNTH-001,axl,1", "SYNTH-001,axl,1\nSYNTH-002,axl,2\nnobody,axl,3"],
)
def test_volumes_that_do_not_fit_the_cases_are_refused(gpuprep, studies, tmp_path, rows):
    table = tmp_path / "volumes.csv"
    table.write_text(f"case,plane,volume_id\n{rows}\n")
    options = ["-m", "CT,RTSTRUCT", "-ryaml", studies[0] / "roi_patterns.yaml", "--volumes", table]
    result = gpuprep("supervisely-annotations", *options, studies[0], tmp_path / "out")
    assert result.status == ExitStatus.CONFIG and "[bad-volumes]" in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_volume_is_not_given_the_masks_of_two_cases(gpuprep, studies, converted, tmp_path):
    case = next(p.name for p in (converted / "volume" / "import").iterdir() if p.name.startswith("SYNTH-001"))
    table = tmp_path / "volumes.csv"
    table.write_text(f"case,plane,volume_id\n{case},axl,1\nSYNTH-001,axl,2\nSYNTH-002,axl,3\n")
    options = ["-m", "CT,RTSTRUCT", "-ryaml", studies[0] / "roi_patterns.yaml", "--volumes", table]
    result = gpuprep("supervisely-annotations", *options, studies[0], tmp_path / "out")
    assert result.status == ExitStatus.CONFIG and "two volumes are given for one plane" in result.stderr


@pytest.mark.parametrize("layout", ["volume", "plane"])
def test_a_rerun_computes_nothing(gpuprep, studies, converted, layout):
    before = snapshot(converted / layout / "import")
    extra = ["--layout", "plane", "--overlap", "last"] if layout == "plane" else []
    result = convert(gpuprep, studies[0], converted / layout, *extra)
    assert "2 cases are done already" in result.stderr
    after = snapshot(converted / layout / "import")
    assert {p: v for p, v in after.items() if p.suffix == ".gz"} == {
        p: v for p, v in before.items() if p.suffix == ".gz"
    }


def test_a_killed_run_resumes_to_the_same_bytes(gpuprep, studies, converted, tmp_path):
    source, _ = studies
    arguments = ["-m", "CT,RTSTRUCT", "-ryaml", source / "roi_patterns.yaml", source, tmp_path]
    process = subprocess.Popen(
        [sys.executable, "-m", "gpuprep", "supervisely", "-j", "1", *map(str, arguments)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    time.sleep(0.5)
    process.kill()
    process.wait()
    assert gpuprep("supervisely", *arguments).status == ExitStatus.DONE
    bytes_of = lambda root: {p: content for p, (content, _) in snapshot(root / "import").items()}  # noqa: E731
    assert bytes_of(tmp_path) == bytes_of(converted / "volume")


def test_the_import_folder_holds_nothing_else_and_the_rest_lies_beside(studies, converted):
    root = converted / "volume"
    assert {p.name for p in root.iterdir()} == {"import", "dataset.json", "gpuprep"}
    assert all(p.name.endswith(".nii.gz") for p in (root / "import").rglob("*") if p.is_file())
    content = json.loads((root / "dataset.json").read_text())
    assert [(c["value"], c["name"], c["class"]) for c in content["classes"]] == [
        (n, name, name) for n, name in enumerate(CLASSES, 1)
    ]
    assert content["classes"][0]["color"] == [255, 0, 0]
    (case, *_) = content["cases"].values()
    image = nibabel.load(root / "import" / f"{case['volume']}.nii.gz")
    affine = np.diag([-1, -1, 1, 1]) @ np.array(case["index_dhw_to_lps_mm"])[:, [2, 1, 0, 3]]
    assert np.allclose(affine, image.affine)


def test_names_of_labels_are_escaped_and_recorded(gpuprep, studies, tmp_path):
    roi_map = tmp_path / "map.yaml"
    roi_map.write_text('"spinal cord": .*ring\n"tumour/../core": gtv.*\n')
    assert convert(gpuprep, studies[0], tmp_path / "out", roi_map=roi_map).status == ExitStatus.DONE
    assert {p.parent.parent.name for p in (tmp_path / "out" / "import").glob("*/*.nii.gz")} == {"import"}
    assert {p.name for p in (tmp_path / "out" / "import").glob("*/*.nii.gz")} == {
        "spinal_Cord.nii.gz",
        "tumour_Core.nii.gz",
    }
    content = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert [(c["name"], c["class"]) for c in content["classes"]] == [
        ("spinal cord", "spinal_Cord"),
        ("tumour/../core", "tumour_Core"),
    ]


def test_a_class_that_bears_the_name_of_a_volume_is_refused(gpuprep, studies, converted, tmp_path):
    case = next(p.name for p in (converted / "volume" / "import").iterdir() if p.is_dir())
    roi_map = tmp_path / "map.yaml"
    roi_map.write_text(f"{case}: gtv.*\n")
    result = convert(gpuprep, studies[0], tmp_path / "out", roi_map=roi_map)
    assert result.status == ExitStatus.OUTPUT
    assert "[name-collision]" in result.stderr
    roi_map.write_text("import: gtv.*\n")  # the folder that all volumes lie in
    assert "[name-collision]" in convert(gpuprep, studies[0], tmp_path / "out", roi_map=roi_map).stderr


def test_an_oblique_volume_and_its_mask_come_onto_one_straight_grid(gpuprep, tmp_path):
    tilt = np.radians(20)
    grid = VolumeGeometry.from_axes(
        (24, 40, 44),
        origin_lps_mm=(-40, -30, 5),
        directions_dhw=[
            [0, -np.sin(tilt), np.cos(tilt)],
            [0, np.cos(tilt), np.sin(tilt)],
            [1, 0, 0],
        ],
        spacing_dhw_mm=(3, 2, 2),
    )
    centre, radii = np.array([3.0, 4.0, 45.0]), np.array([20.0, 16.0, 14.0])
    index = np.moveaxis(np.indices(grid.shape), 0, -1)
    inside = (((grid.to_lps(index) - centre) / radii) ** 2).sum(axis=-1) <= 1
    series = write_ct_series(tmp_path / "in" / "CT", grid, np.where(inside, 500, -500))
    write_seg(tmp_path / "in" / "seg.dcm", series, [SegmentSpec(1, "Ball", inside)])
    roi_map = tmp_path / "map.yaml"
    roi_map.write_text("Ball: ball\n")
    out = tmp_path / "out"
    result = gpuprep("supervisely", "-m", "CT,SEG", "-ryaml", roi_map, tmp_path / "in", out)
    assert result.status == ExitStatus.DONE
    (path,) = (out / "import").glob("*.nii.gz")
    (mask_path,) = (out / "import").glob("*/Ball.nii.gz")
    image, mask = nibabel.load(path), nibabel.load(mask_path)
    assert np.array_equal(image.affine, mask.affine) and image.shape == mask.shape
    assert np.array_equal(image.affine[:3, :3], np.diag([2, 2, 3]))
    for voxels in (np.asanyarray(mask.dataobj) > 0, np.asanyarray(image.dataobj) > 0):
        assert voxels.sum() == pytest.approx(inside.sum(), rel=RESAMPLED_VOLUME_TOLERANCE)
        found = np.argwhere(voxels).mean(axis=0) @ image.affine[:3, :3].T + image.affine[:3, 3]
        assert np.abs(found * [-1, -1, 1] - centre).max() < CENTRE_TOLERANCE_MM
    report = json.loads((out / "gpuprep" / "report.json").read_text())
    (warning,) = (w for w in report["cases"][0]["details"]["warnings"] if w.startswith("oblique"))
    assert f"'Ball' {inside.sum()} → {report['cases'][0]['details']['voxels']['Ball']} voxels" in warning


def test_a_real_structure_set(gpuprep, data_dir, tmp_path):
    study = data_dir / "ct-rtstruct" / "ibsi_sts_002"
    roi_map = tmp_path / "map.yaml"
    roi_map.write_text("GTV: gtv.*\n")
    assert convert(gpuprep, study / "dicom", tmp_path / "out", roi_map=roi_map).status == ExitStatus.DONE
    (path,) = (tmp_path / "out" / "import").glob("*/GTV.nii.gz")
    ours = nibabel.load(path)
    reference = nibabel.load(study / "reference-masks" / "CT" / "exact-pixel-centre" / "GTV_Mass_CT.nii.gz")
    straight = nibabel.as_closest_canonical(reference)
    assert np.allclose(ours.affine, straight.affine, atol=1e-3)
    assert np.array_equal(np.asanyarray(ours.dataobj) > 0, np.asanyarray(straight.dataobj) > 0)
    image = study / "dicom" / "STS_002" / "CT" / "image"
    for source, output in ((path.parent, tmp_path / "seg.dcm"), (tmp_path / "seg.dcm", tmp_path / "back.nii.gz")):
        assert gpuprep("masks", "convert", source, output, "--image", image).status == ExitStatus.DONE
    back = nibabel.as_closest_canonical(nibabel.load(tmp_path / "back.nii.gz"))
    assert np.allclose(back.affine, straight.affine, atol=1e-3)
    assert np.array_equal(np.asanyarray(back.dataobj) > 0, np.asanyarray(straight.dataobj) > 0)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--orientation", "LPS"], "bad-orientation"),
        (["--layout", "plane", "--planes", "axial"], "bad-planes"),
        (["-m", "CT,PT,RTSTRUCT"], "bad-modalities"),
        (["--layout", "slices"], ""),
    ],
)
def test_wrong_options_stop_before_work(gpuprep, studies, tmp_path, arguments, code):
    result = convert(gpuprep, studies[0], tmp_path / "out", *arguments)
    assert result.status == ExitStatus.CONFIG
    assert code in result.stderr
    assert not (tmp_path / "out").exists()


def test_an_output_folder_that_the_import_skips_is_refused(gpuprep, studies, tmp_path):
    result = convert(gpuprep, studies[0], tmp_path / "converted")
    assert result.status == ExitStatus.CONFIG
    assert "[path-breaks-reader]" in result.stderr
