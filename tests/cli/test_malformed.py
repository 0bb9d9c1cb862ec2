"""Broken and hostile files: each is a row with a code, none costs a good case, and none is slow or large."""

import json
import resource
import subprocess
import sys

import numpy as np
import pyarrow.parquet
import pytest
from conversions import Converted

from gpuprep.dicom.synth import write_study
from gpuprep.errors import ExitStatus

#: What one malformed file may cost.
LIMIT_S, LIMIT_BYTES = 5, 1 << 30
#: Files that lie about how much there is: frames, rows, lengths, nesting, compressed pixels.
GREEDY = ["TC0339_mf_nf_million", "TC0347_deflate_truncated", "TC0327_mono2_spp3", "too_short", "rtplan_truncated",
          "meta_missing_tsyntax", "invalid-vr-length"]  # fmt: skip


@pytest.fixture(scope="module")
def malformed(data_dir):
    return data_dir / "malformed"


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """Two studies that must not suffer."""
    folder = tmp_path_factory.mktemp("good")
    write_study(folder, patients=2, slices=6, size=32, spacing_xyz_mm=(8.0, 8.0, 20.0))
    return folder


def test_every_file_is_a_row_with_a_code_or_a_series(gpuprep, malformed, tmp_path):
    result = gpuprep("index", malformed, "-o", tmp_path / "index.parquet")
    assert result.status == ExitStatus.DONE
    rows = pyarrow.parquet.read_table(tmp_path / "index.parquet").to_pylist()
    files = sorted(str(p) for p in malformed.rglob("*") if p.is_file())
    assert sorted(row["path"] for row in rows) == files
    assert all(row["error_code"] or row["series_instance_uid"] for row in rows)
    assert all(row["error_detail"] for row in rows if row["error_code"])
    broken = [row for row in rows if row["error_code"]]
    assert 0 < len(broken) < len(rows)
    assert f"{len(rows)} files, {len(broken)} of them unusable" in result.stderr


def test_the_tree_counts_every_file(gpuprep, malformed):
    result = gpuprep("show", malformed)
    assert result.status == ExitStatus.DONE
    assert f"{sum(p.is_file() for p in malformed.rglob('*'))} paths: " in result.stdout


def test_good_studies_become_a_data_set_beside_malformed_files(gpuprep, malformed, good, tmp_path):
    rois = good / "roi_patterns.yaml"
    command = ("nnunet", "-m", "CT,RTSTRUCT", "-ryaml", rois, "-ms", "region_mask", "--dataset-name", "M")
    result = gpuprep(*command, malformed, good, tmp_path / "both")
    assert result.status == ExitStatus.DONE, result.stderr
    alone = gpuprep(*command, good, tmp_path / "alone")
    assert alone.status == ExitStatus.DONE
    both, alone = Converted(tmp_path / "both", result), Converted(tmp_path / "alone", alone)
    assert both.dataset["numTraining"] == 2
    for path in alone.raw.rglob("*.nii.gz"):
        assert (both.raw / path.relative_to(alone.raw)).read_bytes() == path.read_bytes()
    unusable = {problem["code"] for problem in both.report["unusable_files"]}
    assert {"not-dicom", "header-truncated", "no-sop-class"} <= unusable


def test_good_series_become_volumes_and_every_bad_series_gets_a_code(gpuprep, malformed, good, tmp_path):
    result = gpuprep("nifti", "-f", "{CaseID}.nii.gz", malformed, good, tmp_path)
    assert result.status == ExitStatus.CASES_FAILED
    rows = json.loads((tmp_path / "gpuprep" / "report.json").read_text())["cases"]
    done = [row for row in rows if row["status"] == "done"]
    failed = [row for row in rows if row["status"] == "failed"]
    assert {"SYNTH-001", "SYNTH-002"} <= {row["patient"] for row in done}
    assert failed
    for row in failed:
        assert row["code"] not in ("", "internal", "worker-killed"), row
        assert row["message"]
    assert len(list(tmp_path.glob("*.nii.gz"))) == len(done)


@pytest.mark.parametrize("name", GREEDY)
def test_a_malformed_file_alone_costs_little_time_and_memory(malformed, tmp_path, name):
    (path,) = (p for p in malformed.rglob("*") if name in p.name)
    command = [sys.executable, "-m", "gpuprep", "nifti", "-j", "1", str(path), str(tmp_path)]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (LIMIT_BYTES, LIMIT_BYTES)),
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode in (ExitStatus.DONE, ExitStatus.NO_INPUT, ExitStatus.CASES_FAILED), done.stderr
    assert "Traceback" not in done.stderr
    assert "[internal]" not in done.stderr
    assert "[worker-killed]" not in done.stderr
    assert np.subtract(after[:2], before[:2]).sum() < LIMIT_S  # CPU seconds, whatever else runs here
