"""From a folder of DICOM to a data set, through the command line, on synthetic studies with known answers."""

import csv
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel
import numpy as np
import pytest

from gpuprep.dicom.synth import write_study
from gpuprep.errors import ExitStatus

#: A polygon's voxel count differs from its volume by boundary voxels that fall on either side: relative tolerance.
VOLUME_TOLERANCE = 0.06
LABELS = ["GTV", "CTV", "Lung_L", "Lung_R", "Ring"]


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    folder = tmp_path_factory.mktemp("studies")
    patients = write_study(folder, patients=3)
    return folder, patients


def convert(gpuprep, source, output, *extra, strategy="region_mask"):
    return gpuprep(
        "nnunet", "-m", "CT,RTSTRUCT", "-ryaml", source / "roi_patterns.yaml", "-ms", strategy,
        "--dataset-name", "Synth", *extra, source, output,
    )  # fmt: skip


def digests(folder: Path) -> dict[str, str]:
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def label_members(raw: Path) -> dict[str, list[int]]:
    labels = json.loads((raw / "dataset.json").read_text())["labels"]
    return {name: v if isinstance(v, list) else [v] for name, v in labels.items() if name != "background"}


@pytest.mark.parametrize("codes", ["compact", "bitmask"])
def test_region_masks_keep_every_roi_in_its_volume(gpuprep, studies, tmp_path, codes):
    source, patients = studies
    assert convert(gpuprep, source, tmp_path, "--region-codes", codes).status == ExitStatus.DONE
    raw = tmp_path / "nnUNet_raw" / "Dataset001_Synth"
    content = json.loads((raw / "dataset.json").read_text())
    members = label_members(raw)
    assert list(members) == LABELS
    assert content["numTraining"] == len(patients)
    assert content["channel_names"] == {"0": "CT"}
    assert all(code in members[name] for name, code in zip(LABELS, content["regions_class_order"], strict=True))
    for patient in patients:
        (path,) = (raw / "labelsTr").glob(f"{patient.series.patient_id}_*.nii.gz")
        image = nibabel.load(raw / "imagesTr" / path.name.replace(".nii.gz", "_0000.nii.gz"))
        label = nibabel.load(path)
        assert np.array_equal(image.affine, label.affine)
        assert np.allclose(image.affine, np.diag([-1, -1, 1, 1]) @ ras_order(patient.series.geometry))
        voxels = np.asanyarray(label.dataobj)
        volume = abs(np.linalg.det(label.affine[:3, :3]))
        for name in LABELS:
            measured = np.isin(voxels, members[name]).sum() * volume
            assert measured == pytest.approx(patient.volumes_mm3[name], rel=VOLUME_TOLERANCE)


def ras_order(geometry):
    return geometry.index_to_lps[:, [2, 1, 0, 3]]


def test_label_image_refuses_overlap_and_names_it(gpuprep, studies, tmp_path):
    result = convert(gpuprep, studies[0], tmp_path, strategy="label_image")
    assert result.status == ExitStatus.CASES_FAILED
    rows = list(csv.DictReader((tmp_path / "gpuprep" / "Dataset001_Synth" / "report.csv").read_text().splitlines()))
    assert {r["code"] for r in rows} == {"labels-overlap"}
    assert all("GTV" in r["message"] and "CTV" in r["message"] and "region_mask" in r["hint"] for r in rows)
    assert not list((tmp_path / "nnUNet_raw").rglob("*.nii.gz"))


def test_sparse_mask_lets_the_last_label_win_and_counts_the_loss(gpuprep, studies, tmp_path):
    assert convert(gpuprep, studies[0], tmp_path, strategy="sparse_mask").status == ExitStatus.DONE
    report = json.loads((tmp_path / "gpuprep" / "Dataset001_Synth" / "report.json").read_text())
    for row in report["cases"]:
        lost, voxels = row["details"]["lost_voxels"], row["details"]["voxels"]
        assert lost["GTV"] == voxels["GTV"] > 0  # all of it lies in the CTV, which comes later
        assert lost["CTV"] == 0


def test_the_report_says_which_roi_matched_and_which_stayed_over(gpuprep, studies, tmp_path):
    convert(gpuprep, studies[0], tmp_path)
    report = json.loads((tmp_path / "gpuprep" / "Dataset001_Synth" / "report.json").read_text())
    first = report["cases"][0]["details"]
    assert first["labels"][0] == {"name": "GTV", "rois": ["GTVp"], "patterns": ["gtv.*"]}
    assert len(first["unmatched_rois"]) == 1


def test_a_rerun_computes_nothing_and_changes_nothing(gpuprep, studies, tmp_path):
    convert(gpuprep, studies[0], tmp_path)
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "nnUNet_raw").rglob("*.nii.gz")}
    result = convert(gpuprep, studies[0], tmp_path)
    assert "3 cases are done already" in result.stderr
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "nnUNet_raw").rglob("*.nii.gz")} == before
    assert [p.name for p in (tmp_path / "nnUNet_raw").iterdir()] == ["Dataset001_Synth"]


def test_a_changed_option_makes_the_cases_anew(gpuprep, studies, tmp_path):
    convert(gpuprep, studies[0], tmp_path)
    result = convert(gpuprep, studies[0], tmp_path, "--spacing", "2,2,5")
    assert "done already" not in result.stderr
    shapes = {nibabel.load(p).shape for p in (tmp_path / "nnUNet_raw").rglob("*.nii.gz")}
    assert shapes == {(127, 127, 24)}


def test_on_existing_fail_stops_before_work(gpuprep, studies, tmp_path):
    convert(gpuprep, studies[0], tmp_path)
    result = convert(gpuprep, studies[0], tmp_path, "--on-existing", "fail")
    assert result.status == ExitStatus.OUTPUT
    assert "[exists]" in result.stderr


@pytest.mark.parametrize("delay_s", [0.45, 0.6, 0.75, 0.9])
def test_a_killed_run_resumes_to_the_same_bytes(gpuprep, studies, tmp_path, delay_s):
    source, _ = studies
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    convert(gpuprep, source, whole)
    command = [
        sys.executable, "-m", "gpuprep", "nnunet", "-m", "CT,RTSTRUCT", "-ryaml", str(source / "roi_patterns.yaml"),
        "-ms", "region_mask", "--dataset-name", "Synth", "-j", "1", str(source), str(broken),
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(delay_s)
    process.send_signal(signal.SIGKILL)
    process.wait()
    for path in broken.rglob("*.nii.gz"):
        if not path.name.startswith("."):
            nibabel.load(path).get_fdata()
    assert convert(gpuprep, source, broken).status == ExitStatus.DONE
    assert digests(broken / "nnUNet_raw") == digests(whole / "nnUNet_raw")
    assert not [p for p in broken.rglob(".*") if p.is_file()]


def test_a_damaged_palette_is_named_and_made_anew_when_it_is_removed(gpuprep, studies, tmp_path):
    convert(gpuprep, studies[0], tmp_path)
    labels = digests(tmp_path / "nnUNet_raw")
    path = min((tmp_path / "gpuprep").rglob("*.npy.gz"))
    content = bytearray(path.read_bytes())
    content[30] ^= 0x55
    path.write_bytes(content)
    result = convert(gpuprep, studies[0], tmp_path)
    assert result.status == ExitStatus.OUTPUT
    assert f"{path}: " in result.stderr and "[palette-unreadable]" in result.stderr
    path.unlink()
    assert convert(gpuprep, studies[0], tmp_path).status == ExitStatus.DONE
    assert digests(tmp_path / "nnUNet_raw") == labels


def test_the_test_set_takes_whole_patients_and_moves_with_the_ratio(gpuprep, studies, tmp_path):
    convert(gpuprep, studies[0], tmp_path, "--test-set-ratio", "0.3")
    raw = tmp_path / "nnUNet_raw" / "Dataset001_Synth"
    assert len(list((raw / "labelsTs").glob("*.nii.gz"))) == 1
    assert json.loads((raw / "dataset.json").read_text())["numTraining"] == 2
    result = convert(gpuprep, studies[0], tmp_path)
    assert "3 cases are done already" in result.stderr
    assert len(list((raw / "labelsTr").glob("*.nii.gz"))) == 3
    assert not list((raw / "labelsTs").glob("*.nii.gz"))


def test_test_cases_by_list(gpuprep, studies, tmp_path):
    chosen = tmp_path / "test.txt"
    chosen.write_text("SYNTH-002\r\n", encoding="utf-8-sig")  # as Windows writes it
    convert(gpuprep, studies[0], tmp_path / "out", "--test-cases", chosen)
    (label,) = (tmp_path / "out").rglob("labelsTs/*.nii.gz")
    assert label.name.startswith("SYNTH-002_")
    both = convert(gpuprep, studies[0], tmp_path / "out2", "--test-cases", chosen, "--test-set-ratio", "0.2")
    assert both.status == ExitStatus.CONFIG and "a ratio and a list of the test set [bad-test-set]" in both.stderr
    for content in (b"nobody\n", b"\xff\xfeS\x00"):
        chosen.write_bytes(content)
        result = convert(gpuprep, studies[0], tmp_path / "out2", "--test-cases", chosen)
        assert result.status == ExitStatus.CONFIG
        assert "[bad-test-set]" in result.stderr


def test_new_studies_join_the_data_set_and_shift_the_codes_of_all(gpuprep, tmp_path):
    source, out = tmp_path / "in", tmp_path / "out"
    write_study(source, patients=2)
    (source / "SYNTH-002").rename(tmp_path / "later")
    convert(gpuprep, source, out)
    (tmp_path / "later").rename(source / "SYNTH-002")
    result = convert(gpuprep, source, out)
    assert "1 case is done already" in result.stderr
    fresh = tmp_path / "fresh"
    convert(gpuprep, source, fresh)
    assert digests(out / "nnUNet_raw") == digests(fresh / "nnUNet_raw")


@pytest.mark.parametrize(
    ("arguments", "status", "code"),
    [
        (["--spacing", "1,1"], ExitStatus.CONFIG, "bad-spacing"),
        (["--spacing", "1,1,-1"], ExitStatus.CONFIG, "bad-spacing"),
        (["--spacing", "1,1,1e-6"], ExitStatus.CONFIG, "bad-spacing"),
        (["--window-level", "40"], ExitStatus.CONFIG, "bad-window"),
        (["--window-level", "nan", "--window-width", "400"], ExitStatus.CONFIG, "bad-window"),
        (["--crop", "moon"], ExitStatus.CONFIG, "bad-crop"),
        (["--crop", "roi:inf"], ExitStatus.CONFIG, "bad-crop"),
        (["--orientation", "RAR"], ExitStatus.CONFIG, "bad-orientation"),
        (["--test-set-ratio", "2"], ExitStatus.CONFIG, "bad-test-set"),
        (["--fractional-threshold", "1.5"], ExitStatus.CONFIG, "bad-threshold"),
        (["--backend", "cuda"], ExitStatus.NO_BACKEND, ""),
        (["-m", "CT"], ExitStatus.CONFIG, "bad-modalities"),
        (["-m", "CT,XYZ"], ExitStatus.CONFIG, "bad-modalities"),
        (["--nonsense"], ExitStatus.CONFIG, ""),
    ],
)
def test_wrong_options_stop_before_work(gpuprep, studies, tmp_path, arguments, status, code):
    if "cuda" in arguments and os.environ.get("CUDA_VISIBLE_DEVICES"):
        pytest.skip("there may be a CUDA device here")
    result = convert(gpuprep, studies[0], tmp_path, *arguments)
    assert result.status == status
    assert code in result.stderr
    assert not list(tmp_path.rglob("*.nii.gz"))


def test_no_input_has_its_own_status(gpuprep, studies, tmp_path):
    (tmp_path / "empty").mkdir()
    rois = studies[0] / "roi_patterns.yaml"
    for source in (tmp_path / "empty", tmp_path / "missing"):
        result = gpuprep("nnunet", "-m", "CT,RTSTRUCT", "-ryaml", rois, source, tmp_path / "out")
        assert result.status == ExitStatus.NO_INPUT
