"""Small studies with one peculiarity each, and the data sets that come of them, for tests of whole runs.

A *box* is an index expression ``np.s_[d0:d1, h0:h1, w0:w1]`` over voxels: it paints the expected mask, and its contours
are rectangles half a pixel outside the outermost voxel centres, so that no centre is near an edge.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from gpuprep.dicom.synth import (
    ImageSeries,
    RoiSpec,
    axial_geometry,
    build_ct_slice,
    build_structure_set,
    plan_series,
    write_dataset,
)

#: Grid of most studies: 8 slices of 24 rows and 20 columns.
GRID = axial_geometry((8, 24, 20), spacing_xyz_mm=(0.8, 0.9, 2.5), origin_lps_mm=(-7.3, 11.7, -40.9))
#: Two boxes that share a border.
GTV_BOX, CTV_BOX = np.s_[2:6, 5:11, 4:9], np.s_[2:6, 5:11, 9:16]
#: No message, report or file may ever hold it.
PATIENT_NAME = "Zebedee^Quuxworthy"
#: HU of the synthetic images: a ramp, so that no two neighbours are equal.
RAMP_HU = np.arange(np.prod(GRID.shape)).reshape(GRID.shape) % 1500 - 1000

Edit = Callable[[Any], object]


def contours_of(box, geometry=GRID):
    """Contours of a box, one a slice, LPS mm."""
    depth, rows, columns = box
    (top, bottom), (left, right) = ((s.start - 0.5, s.stop - 0.5) for s in (rows, columns))
    corners = [(top, left), (top, right), (bottom, right), (bottom, left)]
    return [geometry.to_lps([(d, *corner) for corner in corners]) for d in range(depth.start, depth.stop)]


def mask_of(*boxes, shape=GRID.shape):
    """The voxels of boxes."""
    mask = np.zeros(shape, bool)
    for box in boxes:
        mask[box] = True
    return mask


def two_rois(geometry=GRID):
    """A GTV and a CTV that touch."""
    return [RoiSpec(1, "gtv", contours_of(GTV_BOX, geometry)), RoiSpec(2, "ctv", contours_of(CTV_BOX, geometry))]


def write_images(
    folder: Path,
    patient: str,
    *,
    geometry=GRID,
    values_hu=None,
    name: Callable[[int], str] = "IM{:03d}.dcm".format,
    edit: Edit = lambda data: None,
) -> ImageSeries:
    """Write a CT series; `edit` may change each data set, and returns False for those that are not to be written."""
    series = plan_series(geometry, patient_id=patient)
    values_hu = np.zeros(geometry.shape) if values_hu is None else values_hu
    for d in range(geometry.shape[0]):
        data = build_ct_slice(series, d, values_hu[d])
        if edit(data) is not False:
            write(data, folder / name(d))
    return series


def write_structures(
    path: Path,
    series: ImageSeries,
    rois: Sequence[RoiSpec],
    *,
    contour_order: Sequence[int] | None = None,
    edit: Edit = lambda data: None,
) -> Path:
    """Write a structure set, changed by `edit`."""
    data = build_structure_set(series, rois, contour_order=contour_order)
    edit(data)
    return write(data, path)


def write(data: Any, path: Path) -> Path:
    """Write a data set under the patient's name."""
    data.PatientName = PATIENT_NAME
    write_dataset(data, path)
    return path


def write_map(path: Path, labels: dict[str, object]) -> Path:
    """Write a ROI map, which is YAML and so may be JSON."""
    path.write_text(json.dumps(labels), encoding="utf-8")
    return path


class Converted:
    """A run and the one data set it made."""

    def __init__(self, root: Path, result: Any) -> None:
        self.root, self.result = root, result
        (self.raw,) = (root / "nnUNet_raw").iterdir()
        self.sidecars = root / "gpuprep" / self.raw.name
        self.report = json.loads((self.sidecars / "report.json").read_text(encoding="utf-8"))
        self.dataset = json.loads((self.raw / "dataset.json").read_text(encoding="utf-8"))

    def rows(self, patient: str) -> list[dict[str, Any]]:
        """Report rows of a patient."""
        return [row for row in self.report["cases"] if row["patient"] == patient]

    def row(self, patient: str) -> dict[str, Any]:
        """The only report row of a patient."""
        (row,) = self.rows(patient)
        return row

    def image(self, patient: str, channel: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Voxels (D, H, W) of a channel and the affine (d, h, w) → LPS mm."""
        return read_nifti(self.raw / "imagesTr" / f"{self.row(patient)['case']}_{channel:04d}.nii.gz")

    def labels(self, patient: str) -> tuple[np.ndarray, np.ndarray]:
        """Labels (D, H, W) of a patient's only case and the affine (d, h, w) → LPS mm."""
        return read_nifti(self.raw / "labelsTr" / f"{self.row(patient)['case']}.nii.gz")

    def mask(self, patient: str, label: str) -> np.ndarray:
        """Voxels of one label."""
        return np.isin(self.labels(patient)[0], self.dataset["labels"][label])


def read_nifti(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Voxels (D, H, W) and the affine (d, h, w) → LPS mm."""
    image = nibabel.load(path)
    affine = (np.diag([-1, -1, 1, 1]) @ image.affine)[:, [2, 1, 0, 3]]
    return np.asanyarray(image.dataobj).transpose(), affine
