"""What must not end a run, or leave anything behind: hostile names, Ctrl-C, a killed worker, missing permissions."""

import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conversions import (
    GRID,
    GTV_BOX,
    Converted,
    contours_of,
    mask_of,
    read_nifti,
    write,
    write_images,
    write_map,
    write_structures,
)

from gpuprep.dicom.synth import RoiSpec, axial_geometry, build_ct_slice, plan_series, write_study
from gpuprep.errors import ExitStatus
from gpuprep.writers.atomic import PART_SUFFIX

#: Longest wait for something that takes a fraction of a second on an idle machine.
PATIENCE_S = 60.0
#: Slows the cases of `write_study` down, so that there is time to interrupt them: 256 × 256 × 120 voxels.
FINE_SPACING = "1,1,1"
#: So many that a busy machine does not do all of them before it lets the test interrupt the run.
PATIENTS = 7


def tree(folder: Path) -> dict[str, tuple[int, str]]:
    """Time of modification and digest of all files."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest())
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def digests(folder: Path) -> dict[str, str]:
    return {name: digest for name, (_, digest) in tree(folder).items()}


# --- Names -----------------------------------------------------------------------------------------------------------

HOSTILE_IDS = ["../../../escape", "/absolute", "..", "CON", "-rf", "пациент 日本", "i" * 300, "a\0b", "%s{0}$(x)`x`"]
HOSTILE_ROI_NAMES = ["gtv/../../../x", "gtv\0", "gtv" * 100, "gtv \x1b[31m", "gtv 日本"]
SAFE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
def test_hostile_names_stay_in_the_output_folder(gpuprep, tmp_path):
    source, output = tmp_path / "in", tmp_path / "deep" / "er" / "out"
    for n, patient in enumerate(HOSTILE_IDS):
        series = replace(plan_series(GRID, patient_id=patient, seed=n), series_instance_uid=f"../../../uid/{n}")
        for d in range(GRID.shape[0]):
            write(build_ct_slice(series, d, np.zeros(GRID.shape[1:])), source / f"{n}" / f"{d}")
        contours = contours_of(GTV_BOX)
        name = HOSTILE_ROI_NAMES[n % len(HOSTILE_ROI_NAMES)]
        rois = [RoiSpec(1, name, contours), RoiSpec(2, "../../../../tmp/roi", contours)]
        write_structures(source / f"{n}" / "rs", series, rois)
    rois = write_map(tmp_path / "rois.yaml", {"GTV": "(?s)gtv.*"})
    result = gpuprep("nnunet", "-m", "CT,RTSTRUCT", "-ryaml", rois, "--dataset-name", "../../x", source, output)
    assert result.status == ExitStatus.DONE
    assert "\x1b" not in result.stdout + result.stderr
    converted = Converted(output, result)
    labels = list((converted.raw / "labelsTr").iterdir())
    assert len(labels) == len(HOSTILE_IDS)
    assert all(np.array_equal(read_nifti(path)[0], mask_of(GTV_BOX)) for path in labels)
    assert {path.name for path in tmp_path.iterdir()} == {"in", "rois.yaml", "deep"}
    assert [path.name for path in (tmp_path / "deep" / "er").iterdir()] == ["out"]
    for path in output.rglob("*"):
        assert SAFE_NAME.fullmatch(path.name), path
        assert len(path.name) < 120


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are bytes on Linux alone")
@pytest.mark.parametrize(
    "command", [("nnunet",), ("supervisely",), ("medsegpy", "--format", "3d"), ("nifti",), ("tiff",)]
)
def test_names_that_are_no_utf_8_are_as_good_as_others(gpuprep, tmp_path, command):
    source, output = tmp_path / "in", tmp_path / "out"
    series = write_images(source / "p", "p")
    write_structures(source / "p" / "rs", series, [RoiSpec(1, "gtv", contours_of(GTV_BOX))])
    lost = write_images(tmp_path / "elsewhere", "q")
    write_structures(source / "q", lost, [RoiSpec(1, "gtv", contours_of(GTV_BOX))])
    for name, latin_1 in (("p", b"patient-\xe9"), ("q", b"\xe9")):
        (source / name).rename(os.fsdecode(os.fsencode(source) + b"/" + latin_1))
    Path(os.fsdecode(os.fsencode(source) + b"/\xff.txt")).write_text("no DICOM")
    rois = write_map(tmp_path / "rois.yaml", {"GTV": "gtv"})
    options = {"nifti": ["-m", "CT,RTSTRUCT"], "tiff": []}.get(command[0], ["-m", "CT,RTSTRUCT", "-ryaml", rois])
    result = gpuprep(*command, *options, source, output)
    assert "Traceback" not in result.stderr
    (report,) = output.rglob("report.json")
    content = json.loads(report.read_text(encoding="utf-8"))
    codes = {row["code"] for row in content["cases"]}
    assert codes == ({""} if command[0] == "tiff" else {"", "dangling-reference"})
    assert {problem["path"].rpartition("/")[2] for problem in content["unusable_files"]} >= {"\udcff.txt"}
    (table,) = output.rglob("report.csv")
    assert table.read_text(encoding="utf-8")


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are bytes on Linux alone")
@pytest.mark.parametrize("encoding", ["utf-8:strict", "latin-1"])
def test_tables_may_lie_where_names_are_no_utf_8(gpuprep, tmp_path, monkeypatch, encoding):
    monkeypatch.setenv("PYTHONIOENCODING", encoding)
    series = write_images(tmp_path / "in", "p")
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/patient-\xe9"))
    boxes = odd / "boxes.csv"
    for command in (
        ["index", tmp_path / "in", "-o", odd / "index.parquet"],
        ["show", odd / "index.parquet"],
        ["nifti", tmp_path / "in", odd / "files", "--index-format", "parquet"],
        ["manifest", tmp_path / "in", odd / "manifest.parquet"],
        ["tiff", tmp_path / "in", odd / "tiffs"],
        ["traces", odd / "tiffs", boxes, odd / "mapped.parquet"],
        ["traces", odd / "tiffs", odd / "mapped.parquet", odd / "mapped.csv"],
    ):
        if boxes in command:
            boxes.write_text(f"sop_instance_uid,x_min,y_min,x_max,y_max\n{series.sop_instance_uids[0]},1,2,3,4\n")
        result = gpuprep(*command)
        assert result.status == 0, (command[0], result.stderr)
    assert (odd / "mapped.csv").read_text().splitlines()[1].endswith("1,2,3,4")


# --- Signals ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    folder = tmp_path_factory.mktemp("studies")
    write_study(folder, patients=PATIENTS)
    return folder


def arguments(studies, output):
    return [
        "nnunet", "-m", "CT,RTSTRUCT", "-ms", "region_mask", "-ryaml", studies / "roi_patterns.yaml",
        "--spacing", FINE_SPACING, "--dataset-name", "Synth", "--backend", "cpu", "-j", 1, studies, output,
    ]  # fmt: skip


#: Starts the command line so that Ctrl-C reaches it, even where the tests run in the background of a shell.
LISTENING = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv(sys.executable, [sys.executable, "-m", "gpuprep", *sys.argv[1:]])
"""


@contextlib.contextmanager
def started(studies, output):
    """A run in a process group of its own, as a terminal's."""
    command = [sys.executable, "-c", LISTENING, *map(str, arguments(studies, output))]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        yield process


@pytest.fixture(scope="module")
def undisturbed(gpuprep, studies, tmp_path_factory):
    """Digests of what a run writes that nobody disturbs."""
    output = tmp_path_factory.mktemp("undisturbed")
    assert gpuprep(*arguments(studies, output)).status == ExitStatus.DONE
    return digests(output / "nnUNet_raw")


def assert_completes(gpuprep, studies, output, undisturbed):
    result = gpuprep(*arguments(studies, output))
    assert result.status == ExitStatus.DONE, result.stderr
    assert digests(output / "nnUNet_raw") == undisturbed


def hidden_files(folder):
    return [path for path in folder.rglob(".*") if path.is_file()]


def test_ctrl_c_ends_cleanly_and_a_rerun_completes(gpuprep, studies, undisturbed, tmp_path):
    with started(studies, tmp_path) as process:
        assert process.stderr.readline().startswith(f"[1/{PATIENTS}]")
        os.killpg(process.pid, signal.SIGINT)
        _, messages = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == ExitStatus.INTERRUPTED
    assert "interrupted; what is finished is kept" in messages
    assert "Traceback" not in messages
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
    images = list((tmp_path / "nnUNet_raw").rglob("*.nii.gz"))
    assert 1 <= len(images) < PATIENTS
    for path in images:
        read_nifti(path)
    assert not hidden_files(tmp_path)
    assert_completes(gpuprep, studies, tmp_path, undisturbed)


def wait_for_child(pid):
    """The first child of a process, as soon as there is one."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        for path in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                if int(path.read_text().rpartition(")")[2].split()[1]) == pid:
                    return int(path.parent.name)
    raise TimeoutError


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc to find the worker")
def test_a_killed_worker_costs_one_case(gpuprep, studies, undisturbed, tmp_path):
    with started(studies, tmp_path) as process:
        os.kill(wait_for_child(process.pid), signal.SIGKILL)
        _, messages = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == ExitStatus.CASES_FAILED
    converted = Converted(tmp_path, messages)
    assert sorted(row["code"] for row in converted.report["cases"]) == [""] * (PATIENTS - 1) + ["worker-killed"]
    (failed,) = (row for row in converted.report["cases"] if row["status"] == "failed")
    assert "SIGKILL" in failed["message"]
    assert not list(tmp_path.rglob(f"*{failed['case']}*"))
    assert not hidden_files(tmp_path)
    assert_completes(gpuprep, studies, tmp_path, undisturbed)


def test_a_run_clears_up_after_a_killed_one_and_leaves_others_alone(gpuprep, tmp_path):
    series = write_images(tmp_path / "in", "one")
    write_structures(tmp_path / "in" / "rs", series, [RoiSpec(1, "gtv", contours_of(GTV_BOX))])
    rois = write_map(tmp_path / "rois.yaml", {"GTV": "gtv"})
    raw = tmp_path / "out" / "nnUNet_raw"
    left, in_use = (raw / name / "imagesTr" / f".x.1{PART_SUFFIX}" for name in ("Dataset001_in", "Dataset002_Other"))
    for part in (left, in_use):
        part.parent.mkdir(parents=True)
        part.touch()
    result = gpuprep("nnunet", "-m", "CT,RTSTRUCT", "-ryaml", rois, tmp_path / "in", tmp_path / "out")
    assert result.status == ExitStatus.DONE
    assert hidden_files(tmp_path / "out") == [in_use]


# --- Permissions -----------------------------------------------------------------------------------------------------

#: Root without CAP_DAC_OVERRIDE (1) and CAP_DAC_READ_SEARCH (2), dropped by PR_CAPBSET_DROP (24): permissions bind it.
BOUND_BY_PERMISSIONS = """
import ctypes, os, sys
if os.geteuid() == 0 and any(ctypes.CDLL(None).prctl(24, capability, 0, 0, 0) for capability in (1, 2)):
    sys.exit(99)
os.execv(sys.executable, [sys.executable, "-m", "gpuprep", *sys.argv[1:]])
"""


def run_bound(*arguments):
    """Run the command line in a process that may do what the permissions of files say, and no more."""
    command = [sys.executable, "-c", BOUND_BY_PERMISSIONS, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE_S)
    if done.returncode == 99:
        pytest.skip("the tests run as root, which cannot give up its capabilities here")
    return done


@pytest.fixture
def permit():
    """Change the mode of a path until the test is over."""
    changed = []

    def change(path, mode):
        changed.append((path, path.stat().st_mode))
        path.chmod(mode)

    yield change
    for path, mode in reversed(changed):
        path.chmod(mode)


def test_sources_may_be_read_only_and_partly_unreadable(tmp_path, permit):
    source, output = tmp_path / "in", tmp_path / "out"
    series = write_images(source / "good", "good")
    write_structures(source / "good" / "rs", series, [RoiSpec(1, "gtv", contours_of(GTV_BOX))])
    write_images(source / "locked", "locked")
    shutil.copy(source / "good" / "rs", source / "secret")
    rois = write_map(tmp_path / "rois.yaml", {"GTV": "gtv"})
    before = tree(source)
    permit(source / "locked", 0)
    permit(source / "secret", 0)
    permit(source / "good", 0o555)
    permit(source, 0o555)
    result = run_bound("nnunet", "-m", "CT,RTSTRUCT", "-ryaml", rois, source, output)
    assert result.returncode == ExitStatus.DONE
    converted = Converted(output, result)
    assert np.array_equal(converted.labels("good")[0], mask_of(GTV_BOX))
    unusable = {Path(problem["path"]).name: problem["code"] for problem in converted.report["unusable_files"]}
    assert unusable == {"locked": "unreadable-folder", "secret": "unreadable"}
    permit(source / "locked", 0o555)
    permit(source / "secret", 0o444)
    assert tree(source) == before


@pytest.mark.parametrize("output", ["closed/out", "file/out"])
@pytest.mark.parametrize("command", ["nnunet", "nifti", "index"])
def test_an_output_that_cannot_be_written_has_its_status_and_code(tmp_path, permit, command, output):
    series = write_images(tmp_path / "in", "good")
    write_structures(tmp_path / "in" / "rs", series, [RoiSpec(1, "gtv", contours_of(GTV_BOX))])
    rois = write_map(tmp_path / "rois.yaml", {"GTV": "gtv"})
    (tmp_path / "closed").mkdir()
    (tmp_path / "file").touch()
    permit(tmp_path / "closed", 0o555)
    source, target = tmp_path / "in", tmp_path / output
    arguments = {
        "nnunet": ("-m", "CT,RTSTRUCT", "-ryaml", rois, source, target),
        "nifti": (source, target),
        "index": (source, "-o", target.with_suffix(".parquet")),
    }
    result = run_bound(command, *arguments[command])
    assert result.returncode == ExitStatus.OUTPUT
    assert re.search(r"^error: .*\[[a-z-]+\]$", result.stderr, re.MULTILINE)
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("command", [("nnunet",), ("supervisely",), ("medsegpy", "--format", "2d"), ("nifti",)])
def test_files_that_are_protected_stay_and_end_the_run(tmp_path, permit, command):
    series = write_images(tmp_path / "in", "good")
    write_structures(tmp_path / "in" / "rs", series, [RoiSpec(1, "gtv", contours_of(GTV_BOX))])
    rois = write_map(tmp_path / "rois.yaml", {"GTV": "gtv"})
    arguments = [*command, "-m", "CT,RTSTRUCT", "-ryaml", rois, tmp_path / "in", tmp_path / "out"]
    assert run_bound(*arguments).returncode == ExitStatus.DONE
    before = {p: p.read_bytes() for p in (tmp_path / "out").rglob("*.*") if p.suffix in (".gz", ".im", ".seg")}
    for folder in {path.parent for path in before}:
        permit(folder, 0o555)
    result = run_bound(*arguments, "--spacing", "2,2,2")
    assert result.returncode == ExitStatus.OUTPUT
    assert "[not-writable]" in result.stderr and "Traceback" not in result.stderr
    assert {path: path.read_bytes() for path in before} == before


# --- Room ------------------------------------------------------------------------------------------------------------

#: Starts the command line with files of at most the first argument's bytes.
WITH_SMALL_FILES = """
import os, resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
os.execv(sys.executable, [sys.executable, "-m", "gpuprep", *sys.argv[2:]])
"""
MOST_FILE_BYTES = 256 << 10
#: Ends of files that are about all cases.
TABLES = (".json", ".csv", ".sqlite", ".py", ".sh")
#: Noise of this shape needs more than that, even compressed.
NOISE_SHAPE = (12, 160, 160)


@pytest.mark.parametrize(
    "command",
    [
        ("nnunet",),
        ("supervisely",),
        ("medsegpy", "--format", "3d"),
        ("medsegpy", "--format", "2d", "--spacing", "0.2,0.2,0"),
    ],
)
def test_an_image_that_cannot_be_written_costs_its_case(tmp_path, command):
    noise = np.random.default_rng(0).integers(-1000, 1000, NOISE_SHAPE)
    geometry = axial_geometry(NOISE_SHAPE, spacing_xyz_mm=(1, 1, 1))
    for patient, values_hu in (("blank", np.zeros(NOISE_SHAPE)), ("noise", noise)):
        series = write_images(tmp_path / "in" / patient, patient, geometry=geometry, values_hu=values_hu)
        write_structures(tmp_path / "in" / patient / "rs", series, [RoiSpec(1, "gtv", contours_of(GTV_BOX, geometry))])
    rois = write_map(tmp_path / "rois.yaml", {"GTV": "gtv"})
    output = tmp_path / "out"
    limited = [sys.executable, "-c", WITH_SMALL_FILES, MOST_FILE_BYTES, *command, "-m", "CT,RTSTRUCT", "-ryaml", rois]
    result = subprocess.run(
        [*map(str, limited), tmp_path / "in", output], capture_output=True, text=True, check=False, timeout=PATIENCE_S
    )
    assert result.returncode == ExitStatus.CASES_FAILED, result.stderr
    (report,) = output.rglob("report.json")
    rows = {row["patient"]: row for row in json.loads(report.read_text())["cases"]}
    assert rows["blank"]["status"] == "done"
    assert (rows["noise"]["code"], rows["noise"]["message"]) == ("write-failed", "cannot write: File too large")
    files = {path.relative_to(output).as_posix() for path in output.rglob("*.*") if path.suffix not in TABLES}
    kept = {path for path in files if "/masks/" in path}  # of region masks
    assert files - kept == {written["path"] for written in rows["blank"]["outputs"]} - kept
    assert not hidden_files(output)
