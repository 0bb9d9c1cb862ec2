"""From DICOM to MedSegPy's files, through the command line."""

import importlib.util
import json
import subprocess
import sys
import time
import types

import h5py
import nibabel
import numpy as np
import pytest

from gpuprep.data import list_scans, read_scan
from gpuprep.dicom.synth import write_study
from gpuprep.errors import ConfigError, DecodeError, ExitStatus, InputNotFoundError

LABELS = ["GTV", "CTV", "Lung_L", "Lung_R", "Ring"]
#: A polygon's voxel count differs from its volume by boundary voxels that fall on either side: relative tolerance.
VOLUME_TOLERANCE = 0.06


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    folder = tmp_path_factory.mktemp("studies")
    return folder, {p.series.patient_id: p for p in write_study(folder, patients=3)}


def convert(gpuprep, source, output, layout, *extra):
    roi_map = source / "roi_patterns.yaml"
    return gpuprep("medsegpy", "-m", "CT,RTSTRUCT", "-ryaml", roi_map, "--format", layout, *extra, source, output)


def stamps(root):
    return {p: p.stat().st_mtime_ns for split in ("train", "val", "test") for p in (root / split).iterdir()}


@pytest.fixture(scope="module")
def converted(gpuprep, studies, tmp_path_factory):
    root = tmp_path_factory.mktemp("out")
    for layout in ("2d", "3d"):
        assert convert(gpuprep, studies[0], root / layout, layout).status == ExitStatus.DONE
    return root


@pytest.mark.parametrize("layout", ["2d", "3d"])
def test_volumes_and_places_survive(studies, converted, layout):
    subjects = json.loads((converted / layout / "gpuprep" / "subjects.json").read_text())["subjects"]
    scans = {s.scan_id: s for s in list_scans(converted / layout)}
    assert len(scans) == len(studies[1]) == 3
    for patient, study in studies[1].items():
        entry = scans[f"{subjects[patient]:07d}_V00"]
        scan = read_scan(entry)
        grid = study.series.geometry
        depth, height, width = grid.shape
        assert scan.image.shape == (height, width, depth)
        assert scan.image.dtype == (np.float32 if layout == "2d" else np.int16)
        assert scan.masks.shape == (height, width, depth, 5) and scan.masks.dtype == np.uint8
        assert entry.classes == tuple(LABELS)
        assert np.allclose(entry.spacing_hwd_mm, grid.spacing_dhw_mm[[1, 2, 0]])
        corner = np.array([height - 1, 2, 3])
        ours = np.array(entry.index_hwd_to_lps_mm) @ [*corner, 1]
        assert np.allclose(ours[:3], grid.to_lps((3, height - 1, 2)))
        for number, name in enumerate(LABELS):
            measured = scan.masks[..., number].sum() * np.prod(entry.spacing_hwd_mm)
            assert measured == pytest.approx(study.volumes_mm3[name], rel=VOLUME_TOLERANCE)


def test_both_formats_hold_the_same(converted):
    for flat, deep in zip(list_scans(converted / "2d"), list_scans(converted / "3d"), strict=True):
        assert (flat.scan_id, flat.split) == (deep.scan_id, deep.split)
        assert np.array_equal(read_scan(flat).image, read_scan(deep).image)
        assert np.array_equal(read_scan(flat).masks, read_scan(deep).masks)


def test_nothing_that_is_shared_names_a_patient(studies, converted):
    for root in (converted / "2d", converted / "3d"):
        shared = [p for p in root.rglob("*") if p.is_file() and p.parent.name != "gpuprep"]
        for patient in studies[1]:
            assert not any(patient in str(p.relative_to(root)) or patient.encode() in p.read_bytes() for p in shared)


@pytest.mark.parametrize("layout", ["2d", "3d"])
def test_a_rerun_computes_nothing(gpuprep, studies, converted, layout):
    before = stamps(converted / layout)
    result = convert(gpuprep, studies[0], converted / layout, layout)
    assert "3 cases are done already" in result.stderr
    assert stamps(converted / layout) == before


def test_a_killed_run_resumes_to_the_same_bytes(gpuprep, studies, converted, tmp_path):
    source, _ = studies
    roi_map = source / "roi_patterns.yaml"
    arguments = ["-m", "CT,RTSTRUCT", "-ryaml", roi_map, "--format", "2d", "--dataset-name", "2d", source, tmp_path]
    process = subprocess.Popen(
        [sys.executable, "-m", "gpuprep", "medsegpy", "-j", "1", *map(str, arguments)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    time.sleep(0.5)
    process.kill()
    process.wait()
    assert gpuprep("medsegpy", *arguments).status == ExitStatus.DONE
    for split in ("train", "val", "test"):
        names = sorted(p.name for p in (tmp_path / split).iterdir())
        assert names == sorted(p.name for p in (converted / "2d" / split).iterdir())
        for name in names:
            assert (tmp_path / split / name).read_bytes() == (converted / "2d" / split / name).read_bytes()
    assert (tmp_path / "dataset.json").read_bytes() == (converted / "2d" / "dataset.json").read_bytes()


def test_patients_that_come_later_leave_the_numbers_and_move_the_splits(gpuprep, tmp_path):
    source, out = tmp_path / "in", tmp_path / "out"
    write_study(source, patients=3)
    (source / "SYNTH-001").rename(tmp_path / "later")
    convert(gpuprep, source, out, "2d", "--splits", "train=.5,test=.5")
    known = json.loads((out / "gpuprep" / "subjects.json").read_text())["subjects"]
    (tmp_path / "later").rename(source / "SYNTH-001")
    result = convert(gpuprep, source, out, "2d", "--splits", "train=.34,val=.33,test=.33")
    assert "2 cases are done already" in result.stderr
    subjects = json.loads((out / "gpuprep" / "subjects.json").read_text())["subjects"]
    assert subjects == {**known, "SYNTH-001": 3}
    assert sorted(s.split for s in list_scans(out)) == ["test", "train", "val"]
    for entry in list_scans(out):
        assert all(image.is_file() and mask.is_file() for image, mask in entry.files)
    assert len(stamps(out)) == 2 * sum(len(e.files) for e in list_scans(out))


def test_a_split_file_decides(gpuprep, studies, tmp_path):
    chosen = tmp_path / "splits.yaml"
    chosen.write_text("train: [SYNTH-001, SYNTH-003]\ntest: [SYNTH-002]\n")
    assert convert(gpuprep, studies[0], tmp_path / "out", "3d", "--split-file", chosen).status == ExitStatus.DONE
    assert [s.split for s in list_scans(tmp_path / "out")] == ["train", "test", "train"]
    assert [s.scan_id for s in list_scans(tmp_path / "out", "test")] == ["0000002_V00"]
    chosen.write_text("train: [SYNTH-001]\n")
    result = convert(gpuprep, studies[0], tmp_path / "out", "3d", "--split-file", chosen)
    assert result.status == ExitStatus.CONFIG and "[bad-splits]" in result.stderr


def test_overlap_of_collated_classes_is_reported(gpuprep, studies, tmp_path):
    result = convert(
        gpuprep, studies[0], tmp_path, "3d", "--collate", "gross=GTV,CTV", "--collate", "lungs=Lung_L,Lung_R"
    )
    assert result.status == ExitStatus.DONE
    assert result.stderr.count("members of 'gross' overlap") == 3
    content = json.loads((tmp_path / "dataset.json").read_text())
    assert [(c["name"], c["id"]) for c in content["collated"]] == [("gross", [0, 1]), ("lungs", [2, 3])]
    for found in content["collation_overlaps"]:
        with h5py.File(tmp_path / content["scans"][found["scan"]]["split"] / f"{found['scan']}.h5") as file:
            summed = file["seg"][..., 0] + file["seg"][..., 1]
        assert found["class"] == "gross" and found["voxels"] == (summed > 1).sum() > 0


@pytest.fixture
def catalogs(monkeypatch):
    """Stand-ins of MedSegPy's two catalogues, which keep what they are given."""
    kept = types.SimpleNamespace(dicts={}, metadata={})
    module = types.ModuleType("medsegpy.data.catalog")
    module.DatasetCatalog = types.SimpleNamespace(register=kept.dicts.__setitem__)
    module.MetadataCatalog = types.SimpleNamespace(
        get=lambda name: types.SimpleNamespace(set=lambda **values: kept.metadata.__setitem__(name, values))
    )
    for name in ("medsegpy", "medsegpy.data"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, "medsegpy.data.catalog", module)
    return kept


def run_script(path):
    spec = importlib.util.spec_from_file_location("register_medsegpy", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("layout", ["2d", "3d"])
def test_the_script_registers_every_split(gpuprep, studies, tmp_path, catalogs, layout):
    collate = ["--collate", "lungs=Lung_L,Lung_R", "--dataset-name", "thorax"]
    convert(gpuprep, studies[0], tmp_path, layout, "--splits", "train=.6,val=0,test=.4", *collate)
    names = run_script(tmp_path / "register_medsegpy.py").register()
    assert names == ["thorax_train", "thorax_test"] == list(catalogs.dicts) == list(catalogs.metadata)
    dicts = [d for name in names for d in catalogs.dicts[name]()]
    assert len(dicts) == (3 if layout == "3d" else sum(len(s.files) for s in list_scans(tmp_path)))
    first = dicts[0]
    with h5py.File(first["file_name"]) as file:
        shape = file["volume" if layout == "3d" else "data"].shape
    if layout == "3d":
        assert first["image_size"] == shape and first["sem_seg_file"] == first["file_name"]
    else:
        assert shape[2] == 1 and first["sem_seg_file"] == first["file_name"].replace(".im", ".seg")
        slices = [d["slice_id"] for d in dicts if d["scan_id"] == first["scan_id"]]
        assert slices == list(range(1, first["scan_num_slices"] + 1))
    meta = catalogs.metadata["thorax_train"]
    assert meta["categories"] == [*LABELS, "lungs"]
    assert meta["category_ids"] == [0, 1, 2, 3, 4, (2, 3)]
    expected = {0: 0, 1: 1, 2: 2, 3: 3, 4: 4, (2, 3): 5}
    assert meta["category_id_to_contiguous_id"] == {"segmentation": expected, "": expected}
    assert meta["evaluator_type"] == "SemSegEvaluator"
    assert meta["category_colors"][0] == (255, 0, 0)
    assert np.allclose(meta["spacing"], first["scan_spacing"])


def test_a_real_structure_set(gpuprep, data_dir, tmp_path):
    study = data_dir / "ct-rtstruct" / "ibsi_sts_002"
    roi_map = tmp_path / "map.yaml"
    roi_map.write_text("GTV: gtv.*\n")
    result = gpuprep(
        "medsegpy", "-m", "CT,RTSTRUCT", "-ryaml", roi_map, "--format", "2d", study / "dicom", tmp_path / "out"
    )
    assert result.status == ExitStatus.DONE
    (entry,) = list_scans(tmp_path / "out")
    scan = read_scan(entry)
    image = nibabel.load(study / "reference-masks" / "CT" / "exact-pixel-centre" / "GTV_Mass_CT.nii.gz")
    wanted = {tuple(v) for v in np.argwhere(np.asanyarray(image.dataobj))}
    to_reference = np.linalg.inv(image.affine) @ np.diag([-1, -1, 1, 1]) @ np.array(entry.index_hwd_to_lps_mm)
    places = np.argwhere(scan.masks[..., 0]) @ to_reference[:3, :3].T + to_reference[:3, 3]
    assert {tuple(v) for v in places.round().astype(int)} == wanted


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--splits", "train=2"], "bad-splits"),
        (["--collate", "x=GTV"], "bad-collation"),
        (["--collate", "x=GTV,CTV", "--collate", "x=GTV,Ring"], "bad-collation"),
        (["-m", "CT,PT,RTSTRUCT"], "bad-modalities"),
        (["--format", "4d"], ""),
    ],
)
def test_wrong_options_stop_before_work(gpuprep, studies, tmp_path, arguments, code):
    result = convert(gpuprep, studies[0], tmp_path / "out", "3d", *arguments)
    assert result.status == ExitStatus.CONFIG
    assert code in result.stderr
    assert not (tmp_path / "out").exists()


def test_the_reader_says_what_is_wrong(converted, tmp_path):
    with pytest.raises(InputNotFoundError) as caught:
        list_scans(tmp_path)
    assert caught.value.code == "no-dataset"
    for change in ({"scans": []}, {"scans": {"0000001_V00": {"split": "train"}}}, {"splits": None}):
        content = json.loads((converted / "3d" / "dataset.json").read_text()) | change
        (tmp_path / "dataset.json").write_text(json.dumps(content))
        with pytest.raises(InputNotFoundError) as caught:
            list_scans(tmp_path)
        assert caught.value.code == "no-dataset"
    with pytest.raises(ConfigError) as caught:
        list_scans(converted / "3d", "holdout")
    assert caught.value.code == "unknown-split"
    entry = list_scans(converted / "3d")[0]
    damaged = tmp_path / "damaged.h5"
    damaged.write_bytes(entry.files[0][0].read_bytes()[:900])
    with pytest.raises(DecodeError) as caught:
        read_scan(type(entry)(entry.scan_id, "train", ((damaged, damaged),), (), (1, 1, 1), ()))
    assert caught.value.code == "file-unreadable"


def test_the_extra_is_named_where_it_is_missing(monkeypatch, converted):
    entry = list_scans(converted / "3d")[0]
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ConfigError) as caught:
        read_scan(entry)
    assert caught.value.code == "extra-missing"
    assert "gpuprep[medsegpy]" in caught.value.hint
