"""A written nnU-Net data set, read back with SimpleITK and the standard library alone."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

#: NIfTI keeps its affine in float32: at a metre from the origin that is 6e-5 mm.
AFFINE_TOLERANCE_MM = 1e-3


@dataclass(frozen=True)
class Case:
    """One case: its channels, its label volume (x, y, z in LPS, as SimpleITK has them) and its row of the report."""

    images: list[sitk.Image]
    label: sitk.Image
    details: dict

    @property
    def image(self) -> sitk.Image:
        return self.images[0]


@dataclass(frozen=True)
class Dataset:
    """`labels` maps each label to its integers; `cases` are by name."""

    raw: Path
    labels: dict[str, list[int]]
    channels: dict[str, str]
    cases: dict[str, Case]

    @property
    def only_case(self) -> Case:
        (case,) = self.cases.values()
        return case

    def case_of(self, patient: str) -> Case:
        (case,) = (c for name, c in self.cases.items() if name.startswith(f"{patient}_"))
        return case

    def mask(self, case: Case, label: str) -> np.ndarray:
        return np.isin(sitk.GetArrayViewFromImage(case.label), self.labels[label])


def read_dataset(output: Path) -> Dataset:
    """Read the only data set below an output folder; its image and label grids must be equal."""
    (raw,) = (output / "nnUNet_raw").iterdir()
    content = json.loads((raw / "dataset.json").read_text())
    report = json.loads((output / "gpuprep" / raw.name / "report.json").read_text())
    cases = {}
    for row in (r for r in report["cases"] if r["status"] == "done"):
        name = row["case"]
        paths = sorted(p for p in raw.glob(f"images*/{name}_????.nii.gz"))
        (label,) = raw.glob(f"labels*/{name}.nii.gz")
        case = Case([sitk.ReadImage(p) for p in paths], sitk.ReadImage(label), row["details"])
        assert len(case.images) == len(content["channel_names"])
        for image in case.images:
            assert_same_grid(image, case.label, tolerance_mm=0)
        cases[name] = case
    labels = {k: v if isinstance(v, list) else [v] for k, v in content["labels"].items() if k != "background"}
    return Dataset(raw, labels, content["channel_names"], cases)


def affine(image: sitk.Image) -> np.ndarray:
    """Affine from (x, y, z) index to LPS mm."""
    result = np.eye(4)
    result[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * np.array(image.GetSpacing())
    result[:3, 3] = image.GetOrigin()
    return result


def assert_same_grid(one: sitk.Image, other: sitk.Image, tolerance_mm: float = AFFINE_TOLERANCE_MM) -> None:
    """Assert equal sizes, and world coordinates of all corners within a tolerance."""
    assert one.GetSize() == other.GetSize()
    corners = np.array([[x, y, z, 1] for x in (0, 1) for y in (0, 1) for z in (0, 1)]) * [*one.GetSize(), 1]
    assert np.abs(corners @ (affine(one) - affine(other)).T).max() <= tolerance_mm


def place_mask(mask: sitk.Image, grid: sitk.Image) -> np.ndarray:
    """Put the foreground voxels of a mask onto another grid by their world coordinates, which must hit its voxels."""
    index = np.argwhere(sitk.GetArrayViewFromImage(mask))[:, ::-1]
    points = np.c_[index, np.ones(len(index))] @ affine(mask).T
    found = (points @ np.linalg.inv(affine(grid)).T)[:, :3]
    assert np.abs(found - found.round()).max(initial=0) < 0.01
    result = np.zeros(grid.GetSize()[::-1], bool)
    result[tuple(found.round().astype(int).T[::-1])] = True
    return result
