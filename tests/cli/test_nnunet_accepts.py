"""nnU-Net's own verification of what `gpuprep nnunet` writes; needs a Python that has nnunetv2."""

import os
import subprocess
from pathlib import Path

import pytest
from conversions import write_map

from gpuprep.dicom.synth import write_study
from gpuprep.errors import ExitStatus

NNUNET_VARIABLE = "GPUPREP_NNUNET_PYTHON"
SCRIPT = Path(__file__).resolve().parents[1] / "nnunet_verify.py"
#: Labels without and with voxels in common.
APART = {"Lung_L": "lung.?l|left.?lung", "Lung_R": "lung.?r|right.?lung", "Ring": ".*ring"}
NESTED = {"GTV": "gtv.*", "CTV": "ctv.*", **APART}


@pytest.fixture(scope="module")
def verify():
    """Give a data set to nnU-Net, in an environment of its own."""
    python = os.environ.get(NNUNET_VARIABLE)
    if not python:
        pytest.skip(f"set {NNUNET_VARIABLE} to a Python that has nnunetv2")

    def run(raw: Path) -> subprocess.CompletedProcess:
        command = [python, str(SCRIPT), str(raw)]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)

    return run


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    folder = tmp_path_factory.mktemp("nnunet") / "dicom"
    write_study(folder, patients=2)
    return folder


@pytest.mark.parametrize(
    ("labels", "options"),
    [
        (APART, ("-ms", "label_image")),
        (APART, ("-ms", "sparse_mask")),
        (APART, ("-ms", "region_mask")),
        (APART, ("-ms", "region_mask", "--region-codes", "bitmask")),
        (NESTED, ("-ms", "sparse_mask")),
        (NESTED, ("-ms", "region_mask")),
        (NESTED, ("-ms", "region_mask", "--region-codes", "bitmask")),
        (NESTED, ("-ms", "region_mask", "--spacing", "2,2,3", "--orientation", "RAS", "--crop", "roi:10")),
    ],
)
def test_nnunet_accepts_synthetic_studies(gpuprep, verify, studies, tmp_path, labels, options):
    rois = write_map(tmp_path / "rois.yaml", labels)
    convert(gpuprep, rois, tmp_path / "out", "-m", "CT,RTSTRUCT", *options, studies)
    assert_accepted(verify, tmp_path / "out")


@pytest.mark.parametrize("modalities", ["CT,RTSTRUCT", "CT,PT,RTSTRUCT", "PT,CT,MR,RTSTRUCT"])
def test_nnunet_accepts_real_studies(gpuprep, verify, data_dir, tmp_path, modalities):
    rois = write_map(tmp_path / "rois.yaml", {"GTV": "gtv.*"})
    sources = [data_dir / f"ct-rtstruct/ibsi_sts_{n}/dicom" for n in ("002", "025")]
    convert(gpuprep, rois, tmp_path / "out", "-m", modalities, *sources)
    assert_accepted(verify, tmp_path / "out")


def test_nnunet_refuses_a_broken_data_set(gpuprep, verify, studies, tmp_path):
    rois = write_map(tmp_path / "rois.yaml", APART)
    convert(gpuprep, rois, tmp_path / "out", "-m", "CT,RTSTRUCT", studies)
    next((tmp_path / "out").rglob("labelsTr/*.nii.gz")).unlink()
    (raw,) = (tmp_path / "out" / "nnUNet_raw").iterdir()
    assert verify(raw).returncode != 0


def convert(gpuprep, rois, output, *options) -> None:
    result = gpuprep("nnunet", "-ryaml", rois, "--dataset-name", "Verified", *options, output)
    assert result.status == ExitStatus.DONE, result.stderr


def assert_accepted(verify, output) -> None:
    (raw,) = (output / "nnUNet_raw").iterdir()
    result = verify(raw)
    assert result.returncode == 0, result.stderr
    assert "verify_dataset_integrity Done" in result.stdout
