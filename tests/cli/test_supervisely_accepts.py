"""Supervisely's own import code on what gpuprep writes for it; needs a Python that has supervisely and nibabel."""

import json
import os
import subprocess
from collections import Counter
from pathlib import Path

import nibabel
import numpy as np
import pytest
from conversions import GTV_BOX, RAMP_HU, contours_of, write_images, write_map, write_structures

from gpuprep.dicom.synth import RoiSpec, write_study
from gpuprep.errors import ExitStatus

SUPERVISELY_VARIABLE = "GPUPREP_SUPERVISELY_PYTHON"
SCRIPT = Path(__file__).resolve().parents[1] / "supervisely_import.py"
#: Labels in the order of the map; GTV lies in CTV, and there is no tree.
LABELS = {
    "GTV": "gtv.*",
    "spinal cord": {"patterns": ".*ring", "optional": True},
    "CTV": "ctv.*",
    "tree": {"patterns": "tree", "optional": True},
}
#: Headers hold affines in float32, mm.
HEADER_TOLERANCE_MM = 0.01
#: Planes of Supervisely's scores: the axis that layers count along.
SCORE_PLANES = {"axl": "0-0-1", "cor": "0-1-0", "sag": "1-0-0"}


@pytest.fixture(scope="module")
def importer():
    """Give a folder to Supervisely's importer, in an environment of its own."""
    python = os.environ.get(SUPERVISELY_VARIABLE)
    if not python:
        pytest.skip(f"set {SUPERVISELY_VARIABLE} to a Python that has supervisely and nibabel")

    def run(folder: Path) -> dict:
        done = subprocess.run([python, SCRIPT, folder], capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    folder = tmp_path_factory.mktemp("supervisely") / "dicom"
    write_study(folder, patients=2)
    return folder


def convert(gpuprep, output, *arguments, command="supervisely", labels=LABELS, modalities="CT,RTSTRUCT"):
    rois = write_map(output.parent / "rois.yaml", labels)
    result = gpuprep(command, "-m", modalities, "-ryaml", rois, *arguments, output)
    assert result.status in (ExitStatus.DONE, ExitStatus.CASES_FAILED), result.stderr
    return json.loads((output / "dataset.json").read_text())


def check(found, dataset, *, items_a_case, lossy=False):
    """Assert that the importer makes of a folder what its sidecar says; return its items by case."""
    assert not found["warnings"]
    by_volume = {entry["volume"]: [] for entry in dataset["cases"].values()}
    for item in found["items"]:
        by_volume[item["path"].split("/")[0].removesuffix(".nii.gz")].append(item)
    classes = {c["class"]: c for c in dataset["classes"]}
    for entry in dataset["cases"].values():
        items = by_volume[entry["volume"]]
        assert len(items) == items_a_case
        affine = np.diag([-1, -1, 1, 1]) @ np.array(entry["index_dhw_to_lps_mm"])[:, [2, 1, 0, 3]]
        for item in items:
            directions = np.reshape(item["directions"], (3, 3)).T * item["spacing"]
            assert np.allclose(directions, affine[:3, :3], atol=HEADER_TOLERANCE_MM)
            assert np.allclose(item["origin"], affine[:3, 3], atol=HEADER_TOLERANCE_MM)
            assert item["shape"] == entry["shape_dhw"][::-1]
            voxels = Counter()
            for one in item["objects"]:
                assert one["shape"] == item["shape"]
                assert np.allclose(np.transpose(one["directions"]), affine[:3, :3], atol=HEADER_TOLERANCE_MM)
                voxels[one["class"]] += one["voxels"]
                if found["format"] == "nii_custom":
                    assert one["colour"] == classes[one["class"]]["color"]
            expected = {name: entry["voxels"][c["name"]] for name, c in classes.items() if entry["voxels"][c["name"]]}
            if lossy:  # the last label is whole, others may have given voxels to it
                assert all(voxels[name] <= expected[name] for name in voxels)
                assert expected.keys() >= voxels.keys() and (not expected or [*expected][-1] in voxels)
            else:
                assert voxels == expected
    return by_volume


def test_by_volume_name(gpuprep, importer, studies, tmp_path):
    dataset = convert(gpuprep, tmp_path / "out", studies)
    found = importer(tmp_path / "out" / "import")
    assert found["format"] == "nii"
    check(found, dataset, items_a_case=1)
    for item in found["items"]:
        image = nibabel.load(tmp_path / "out" / "import" / item["path"])
        assert item["sum"] == np.asanyarray(image.dataobj).sum(dtype=float)


def test_names_that_would_be_taken_for_files_by_plane(gpuprep, importer, studies, tmp_path):
    labels = {"Cor_mask": "gtv.*", "anatomic SAG": "ctv.*", "axl": ".*ring", "coronary": "lung.*"}
    dataset = convert(gpuprep, tmp_path / "out", studies, labels=labels)
    found = importer(tmp_path / "out" / "import")
    assert found["format"] == "nii"
    check(found, dataset, items_a_case=1)


@pytest.mark.parametrize("options", [[], ["--layout", "plane", "--overlap", "last", "--planes", "axl"]])
def test_patients_whose_names_would_be_skipped_or_taken_for_planes(gpuprep, importer, tmp_path, options):
    for patient in ("converted", "cor axl_mask", "sag_anatomic", "liver", "import"):
        series = write_images(tmp_path / "in" / patient, patient, values_hu=RAMP_HU)
        write_structures(tmp_path / "in" / patient / "rs", series, [RoiSpec(1, "gtv", contours_of(GTV_BOX))])
    dataset = convert(gpuprep, tmp_path / "out", *options, tmp_path / "in", labels={"liver": "gtv"})
    assert len(dataset["cases"]) == 5
    check(importer(tmp_path / "out" / "import"), dataset, items_a_case=1)


def test_by_plane(gpuprep, importer, studies, tmp_path):
    dataset = convert(gpuprep, tmp_path / "out", "--layout", "plane", "--overlap", "last", studies)
    found = importer(tmp_path / "out" / "import")
    assert found["format"] == "nii_custom"
    check(found, dataset, items_a_case=3, lossy=True)


@pytest.mark.parametrize("labels", [LABELS, {"GTV": "gtv.*"}, {"tree": LABELS["tree"], "CTV": "ctv.*"}])
@pytest.mark.parametrize("instances", ["label", "component", "roi"])
def test_by_plane_with_instance_files_classes_are_those_of_the_labels(
    gpuprep, importer, studies, tmp_path, labels, instances
):
    options = ["--layout", "plane", "--plane-masks", "instance", "--instances", instances, "--planes", "sag,axl"]
    dataset = convert(gpuprep, tmp_path / "out", *options, studies, labels=labels)
    found = importer(tmp_path / "out" / "import")
    assert found["format"] == "nii_custom"
    check(found, dataset, items_a_case=2)


@pytest.mark.parametrize("masks", ["semantic", "instance"])
def test_scores_reach_their_case_plane_layer_and_class(gpuprep, importer, studies, tmp_path, masks):
    table = tmp_path / "scores.csv"
    table.write_text(
        "case,plane,layer,label,score\nSYNTH-001,cor,7,CTV,0.85\nSYNTH-001,axl,2,GTV,0.126\nSYNTH-001,axl,2,CTV,1\n"
        "SYNTH-002,cor,1,spinal cord,0\n"
    )
    options = ["--layout", "plane", "--plane-masks", masks, "--overlap", "last", "--scores", table]
    dataset = convert(gpuprep, tmp_path / "out", *options, studies)
    by_volume = check(importer(tmp_path / "out" / "import"), dataset, items_a_case=3, lossy=masks == "semantic")
    expected = {
        ("SYNTH-001", "cor", "CTV"): {"6": "0.85"},
        ("SYNTH-001", "axl", "GTV"): {"1": "0.13"},
        ("SYNTH-001", "axl", "CTV"): {"1": "1.00"},
        ("SYNTH-002", "cor", "spinal_cord"): {"0": "0.00"},
    }
    found = {}
    for case, items in by_volume.items():
        for item in items:
            plane = next(p for p in SCORE_PLANES if f"_{p}_" in item["path"])
            for one in item["objects"]:
                for axis, layers in one["scores"].items():
                    assert axis == SCORE_PLANES[plane]
                    values = {layer: s["score"] for layer, s in layers.items()}
                    found[case.split("_")[0], plane, one["class"]] = values
    if masks == "semantic":  # CTV takes all of the GTV
        del expected["SYNTH-001", "axl", "GTV"]
    assert found == expected


@pytest.mark.parametrize("masks", ["semantic", "instance"])
@pytest.mark.parametrize("is_project", [False, True])
@pytest.mark.parametrize("labels", [LABELS, {"tree": LABELS["tree"], "CTV": "ctv.*"}])
def test_annotations_alone_belong_to_the_volumes_of_the_mapping(
    gpuprep, importer, studies, tmp_path, masks, is_project, labels
):
    rows = [("SYNTH-001", "axl", 11, "first"), ("SYNTH-001", "sag", 12, "first"), ("SYNTH-002", "axl", 13, "other one")]
    table = tmp_path / "volumes.csv"
    table.write_text(
        "case,plane,volume_id,dataset\n" + "".join(f"{c},{p},{i},{d if is_project else ''}\n" for c, p, i, d in rows)
    )
    options = ["--volumes", table, "--plane-masks", masks, "--instances", "component", "--overlap", "last"]
    dataset = convert(gpuprep, tmp_path / "out", *options, studies, command="supervisely-annotations", labels=labels)
    found = importer(tmp_path / "out" / "import")
    assert (found["format"], found["warnings"]) == ("nii_custom_ann", [])
    paths = [path for item in found["items"] for path in item["masks"]]
    assert sorted(found["mapping"]) == sorted(paths)
    assert {Path(p).parent.as_posix() for p in paths} == ({"first", "other one"} if is_project else {"."})
    of_volume = {i: Counter() for _, _, i, _ in rows}
    for item in found["items"]:
        for one in item["objects"]:
            of_volume[item["volume_id"]][one["class"]] += one["voxels"]
    cases = {case.split("_")[0]: entry for case, entry in dataset["cases"].items()}
    for case, _, i, _ in rows:
        expected = {c["class"]: cases[case]["voxels"][c["name"]] for c in dataset["classes"]}
        expected = {name: voxels for name, voxels in expected.items() if voxels}
        if masks == "semantic":
            assert of_volume[i]["CTV"] == expected["CTV"] and of_volume[i].keys() <= expected.keys()
        else:
            assert of_volume[i] == expected


@pytest.mark.parametrize(
    "options",
    [
        ["--instances", "component"],
        ["--layout", "plane", "--overlap", "last"],
        ["--layout", "plane", "--plane-masks", "instance", "--planes", "axl"],
    ],
)
@pytest.mark.parametrize("modalities", ["CT,RTSTRUCT", "MR,RTSTRUCT", "PT,RTSTRUCT", "CT,SEG", "MR,SEG"])
def test_real_studies(gpuprep, importer, data_dir, tmp_path, modalities, options):
    labels = {"Any": ".*", "spinal cord": {"patterns": ["gtv.*", "liver.*", "rib.*"], "optional": True}}
    sources = [data_dir / "ct-rtstruct", *([data_dir / "ct-seg"] if modalities.endswith("SEG") else [])]
    shared = ["--multiple-segmentations", "all", "--on-missing", "ignore", "--on-irregular", "resample"]
    dataset = convert(gpuprep, tmp_path / "out", *shared, *options, *sources, labels=labels, modalities=modalities)
    assert dataset["cases"]
    planes = 1 if "plane" not in options or "axl" in options else 3
    found = importer(tmp_path / "out" / "import")
    check(found, dataset, items_a_case=planes, lossy="last" in options)
