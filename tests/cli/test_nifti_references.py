"""`gpuprep nifti` on real series, against the NIfTI files that dcm2niix makes of them."""

import hashlib
import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from nibabel.orientations import apply_orientation, io_orientation, ornt_transform

from gpuprep.errors import ExitStatus

#: Numbers of the reference affines are rounded to this.
REFERENCE_ROUNDING = 5e-6
AFFINE_TOLERANCE_MM = 1e-3
#: Scaled values are float32 here and, after a slope in float32, in the references; of the largest value.
SCALED_TOLERANCE = 2e-5

#: Folder → why an output of dcm2niix has no twin here.
FOLDERS = {
    "dcm2niix-reference/12bit": {},
    "dcm2niix-reference/ct_ge_tilt_varspacing": {
        "2_": "gantry tilt and uneven spacing, left uncorrected",
        "2__Tilt_Eq_1": "resampled by dcm2niix",
    },
    "dcm2niix-reference/mosaic": {},
    "dcm2niix-reference/nih_siemens_ge": {},
    "enhanced/dcm_qa_enh": {"801_B0_NS_e1": "dcm2niix takes Philips' private scale instead of Rescale Slope"},
    "enhanced/dicom2nifti_enhanced": {
        "501_": "its DICOM is not in the data",
        "701_": "dcm2niix takes Spacing Between Slices, 3.313 mm, where the positions say 3.3125 mm",
    },
    "enhanced/heudiconv_xa_4d": {"1006_BOLD_MOSAIC_64_resting": "an interrupted volume with gaps, left uncorrected"},
    "enhanced/pydicom_data_enhanced": {
        "1_": "a parametric map of modality OT",
        "1_a": "a parametric map of modality OT",
    },
    "mr/dicom2nifti_ge": {},
    "mr/dicom2nifti_generic": {"747197466_T1_WM_AX": "colour"},
    "mr/dicom2nifti_geometry_faults": {
        "4_a": "gantry tilt, left uncorrected",
        "4_a_Tilt_1": "resampled by dcm2niix",
        "202_": "two orientations in one series, which is refused",
        "501_": "two orientations in one series, which is refused",
    },
    "mr/dicom2nifti_misc": {},
    "mr/torchio_ct17": {},
}


@pytest.mark.parametrize("folder", FOLDERS)
def test_each_output_of_dcm2niix_has_its_twin(gpuprep, data_dir, tmp_path, folder):
    result = gpuprep("nifti", "-f", "{CaseID}.nii.gz", data_dir / folder, tmp_path)
    assert result.status in (ExitStatus.DONE, ExitStatus.CASES_FAILED), result.stderr
    series = read_series(tmp_path)
    (path,) = (data_dir / folder / "reference-dcm2niix").rglob("dcm2niix-reference.json")
    without = set()
    for name, reference in json.loads(path.read_text())["images"].items():
        if not any(is_twin(volumes, reference, path.parent / name) for volumes in candidates(series)):
            without.add(name.removesuffix(".nii.gz"))
    assert without == FOLDERS[folder].keys()


def read_series(output: Path) -> dict[str, list[nibabel.Nifti1Image]]:
    """The volumes that were written, in the order of their time points, by series."""
    rows = json.loads((output / "gpuprep" / "report.json").read_text())["cases"]
    series: dict[str, list[nibabel.Nifti1Image]] = {}
    for row in (r for r in rows if r["status"] == "done"):
        (uid,) = {step["series"] for steps in row["details"]["steps"] for step in steps if step["step"] == "decode"}
        (file,) = row["outputs"]
        series.setdefault(uid, []).append(nibabel.load(output / file["path"]))
    return series


def candidates(series):
    """Volumes of each series together, as time points, and each by itself."""
    for volumes in series.values():
        if len(volumes) > 1:
            yield volumes
        yield from ([volume] for volume in volumes)


def is_twin(volumes, reference, stored: Path) -> bool:
    times = reference["shape"][3:] or [1]
    if times != [len(volumes)]:
        return False
    turned = [turn_like(volume, reference) for volume in volumes]
    if any(t is None for t in turned):
        return False
    values = np.stack(turned, axis=-1)
    if stored.exists():
        expected = nibabel.load(stored).get_fdata().reshape(values.shape)
        return np.abs(values - expected).max() <= SCALED_TOLERANCE * np.abs(expected).max()
    digest = hashlib.sha256(values.astype(reference["dtype"]).tobytes("F")).hexdigest()
    return digest == reference["sha256_raw_voxels_F_order"]


def turn_like(volume, reference) -> np.ndarray | None:
    """The voxels in the axis order of the reference; None where the grids are not the same."""
    affine = np.array(reference["affine"])
    turn = ornt_transform(io_orientation(volume.affine), io_orientation(affine))
    turned = volume.as_reoriented(turn)
    shape = np.array(reference["shape"][:3])
    if turned.shape != tuple(shape):
        return None
    corners = np.array([[x, y, z, 1] for x in (0, 1) for y in (0, 1) for z in (0, 1)]) * [*(shape - 1), 1]
    tolerance_mm = AFFINE_TOLERANCE_MM + REFERENCE_ROUNDING * shape.sum()
    if np.abs(corners @ (turned.affine - affine)[:3].T).max() > tolerance_mm:
        return None
    return apply_orientation(np.asanyarray(volume.dataobj), turn)
