"""MedSegPy's own catalogue and loaders on what `gpuprep medsegpy` writes; needs a Python that has medsegpy."""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pydicom
import pytest
from conversions import write_map

from gpuprep.data import list_scans, read_scan
from gpuprep.dicom.synth import write_study
from gpuprep.errors import ExitStatus

MEDSEGPY_VARIABLE = "GPUPREP_MEDSEGPY_PYTHON"
SCRIPT = Path(__file__).resolve().parents[1] / "medsegpy_loaders.py"
#: Loaders cast to float32 slice by slice, and sums are of some million values.
SUM_RELATIVE = 1e-6

LIVER = {"Liver": "liver"}
OVERLAPPING = {name: name for name in ("GREEN", "ORANGE", "PURPLE", "LIGHT_BLUE", "DARK_BLUE")}
DCMQI = "ct-seg/dcmqi_segmentations"
STS = ["ct-rtstruct/ibsi_sts_002/dicom", "ct-rtstruct/ibsi_sts_025/dicom"]
ALL = ("--multiple-segmentations", "all")
#: Study → modalities, labels, sources, cases, further options. Labels are None for one a ROI.
STUDIES = {
    **{f"sts {m}": (f"{m},RTSTRUCT", {"GTV": "gtv.*"}, STS, 2, ()) for m in ("CT", "MR", "PT")},
    "104 rois": ("CT,RTSTRUCT", None, ["ct-rtstruct/totalsegmentator_aide"], 1,
                 ("--on-irregular", "resample", "--on-missing", "warn")),
    "several structure sets": ("CT,RTSTRUCT", {"ROI": "roi.*"}, ["ct-rtstruct/rt_utils_mock/mock_data"], 3, ALL),
    "23x38x3": ("CT,SEG", LIVER, [f"{DCMQI}/23x38x3/image", f"{DCMQI}/23x38x3/seg"], 1, ()),
    "24x38x3": ("CT,SEG", LIVER, [f"{DCMQI}/24x38x3/image", f"{DCMQI}/24x38x3/seg"], 1, ()),
    "multi-frame": ("CT,SEG", LIVER, [f"{DCMQI}/24x38x3/multiframe", f"{DCMQI}/24x38x3/seg"], 1, ()),
    "sparse label maps": ("CT,SEG", LIVER, [f"{DCMQI}/24x38x3/image", f"{DCMQI}/sparse-labelmap-noppv.dcm",
                          f"{DCMQI}/sparse-labelmap-ppv5.dcm"], 2, ALL),
    "dcmqi liver": ("CT,SEG", LIVER, [f"{DCMQI}/ct-3slice", f"{DCMQI}/liver.dcm"], 1, ()),
    "overlaps": ("CT,SEG", OVERLAPPING, [f"{DCMQI}/ct-3slice", f"{DCMQI}/partial_overlaps.dcm"], 1,
                 ("--collate", "all=GREEN,ORANGE,PURPLE,LIGHT_BLUE,DARK_BLUE")),
    "nine encodings": ("CT,SEG", LIVER, [f"{DCMQI}/ct-3slice", "ct-seg/pydicom_data_liver"], 8, ALL),  # two share a UID
    "made on sts": ("CT,SEG", {"GTV": "gtv_mass", "Box": {"patterns": "overlap_box", "optional": True}},
                    ["ct-rtstruct/ibsi_sts_002/dicom/STS_002/CT/image", "ct-seg/generated_on_sts_002_CT"], 8, ALL),
    "one slice": ("CT,SEG", {"First": "first segment"}, ["ct-seg/highdicom/ct_image.dcm",
                  "ct-seg/highdicom/seg_image_ct_binary_single_frame.dcm"], 1, ()),
    "coronal multi-frame": ("MR,SEG", {"ROI": "roi"}, ["ct-seg/ibsi1_digital_phantom/dicom"], 1, ()),
}  # fmt: skip


@pytest.fixture(scope="module")
def load():
    """Give a data set to MedSegPy, in an environment of its own; return what its loaders read."""
    python = os.environ.get(MEDSEGPY_VARIABLE)
    if not python:
        pytest.skip(f"set {MEDSEGPY_VARIABLE} to a Python that has medsegpy")

    def run(root: Path) -> dict:
        command = [python, str(SCRIPT), str(root)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


def roi_names(folder: Path) -> dict[str, str]:
    (path,) = (folder / "rtstruct").iterdir()
    names = [str(roi.ROIName) for roi in pydicom.dcmread(path).StructureSetROISequence]
    return {name: name for name in names}


def convert(gpuprep, root, layout, modalities, labels, sources, *extra):
    rois = write_map(root.parent / "rois.yaml", labels)
    result = gpuprep("medsegpy", "-m", modalities, "-ryaml", rois, "--format", layout, *extra, *sources, root)
    assert result.status == ExitStatus.DONE, result.stderr


def assert_loaded_as_meant(found: dict, root: Path) -> None:
    """Loaders see the classes, shapes, voxels and overlaps that the run counted, and the values of our own reader."""
    content = json.loads((root / "dataset.json").read_text())
    scans = {scan: read for split in found.values() for scan, read in split["scans"].items()}
    assert scans.keys() == content["scans"].keys()
    entries = {entry.scan_id: entry for entry in list_scans(root)}
    totals = {c["name"]: 0 for c in content["classes"]}
    for scan, read in scans.items():
        ours = read_scan(entries[scan])
        assert tuple(read["shape"]) == ours.image.shape == tuple(content["scans"][scan]["shape_hwd"])
        assert read["sum"] == pytest.approx(float(ours.image.sum(dtype=np.float64)), rel=SUM_RELATIVE)
        assert read["voxels"][: len(totals)] == np.count_nonzero(ours.masks, axis=(0, 1, 2)).tolist()
        assert not any(read["more_than_one"][: len(totals)])
        for name, voxels in zip(totals, read["voxels"], strict=False):
            totals[name] += voxels
    expected = dict.fromkeys(totals, 0)
    for combination in content["combinations"]:
        for name in combination["classes"]:
            expected[name] += combination["voxels"]
    assert totals == expected and any(totals.values())
    for split in found.values():
        assert split["categories"] == [c["name"] for c in (*content["classes"], *content["collated"])]
    for number, collated in enumerate(content["collated"], len(totals)):
        for scan, read in scans.items():
            members = read_scan(entries[scan]).masks[..., collated["id"]].sum(axis=3)
            assert read["voxels"][number] == np.count_nonzero(members)
            assert read["more_than_one"][number] == np.count_nonzero(members > 1)
            reported = [o for o in content["collation_overlaps"] if (o["scan"], o["class"]) == (scan, collated["name"])]
            assert bool(reported) == bool(read["more_than_one"][number])


@pytest.mark.parametrize("layout", ["2d", "3d"])
@pytest.mark.parametrize("study", STUDIES)
def test_medsegpy_loads_real_studies(gpuprep, load, data_dir, tmp_path, study, layout):
    modalities, labels, sources, cases, extra = STUDIES[study]
    root = tmp_path / "out"
    labels = labels or roi_names(data_dir / sources[0])
    convert(gpuprep, root, layout, modalities, labels, [data_dir / s for s in sources], *extra)
    assert len(list_scans(root)) == cases
    assert_loaded_as_meant(load(root), root)


@pytest.mark.parametrize("layout", ["2d", "3d"])
def test_medsegpy_loads_every_split_with_overlapping_labels(gpuprep, load, tmp_path, layout):
    write_study(tmp_path / "dicom", patients=3)
    labels = {"GTV": "gtv.*", "CTV": "ctv.*", "Ring": ".*ring"}
    extra = ["--splits", "train=.34,val=.33,test=.33", "--collate", "targets=GTV,CTV", "--dataset-name", "thorax"]
    convert(gpuprep, tmp_path / "out", layout, "CT,RTSTRUCT", labels, [tmp_path / "dicom"], *extra)
    found = load(tmp_path / "out")
    assert list(found) == ["thorax_train", "thorax_val", "thorax_test"]
    assert_loaded_as_meant(found, tmp_path / "out")
    overlaps = [n for split in found.values() for scan in split["scans"].values() for n in scan["more_than_one"]]
    assert max(overlaps) > 0
