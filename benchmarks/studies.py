"""Full-size synthetic CT + RTSTRUCT studies for benchmarks; the same every time, made once.

Noise of 20 HU, and padding outside the circle that a scanner reconstructs, make the voxels about as compressible as
clinical CT (gzip -6 to 0.46 of the size); the ROIs are disjoint cylinders with wavy walls, so that each contour has
its own vertices at sub-voxel places.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gpuprep.dicom.synth import RoiSpec, axial_geometry, write_ct_series, write_rtstruct

SIZE = 512
SPACING_XYZ_MM = (0.9765625, 0.9765625, 3.0)
NOISE_HU = 20
BODY_HU, AIR_HU, ORGAN_STEP_HU, PADDING_HU = 20, -1000, 15, -1024
#: Centres of the ROIs, five a row, and the height of the waves of their walls, in pixels.
COLUMN_STEP_PX, ROW_STEP_PX, WAVE_PX = 101.0, 124.0, 2.0
#: Radii, in pixels: a large organ, whose surface is what med-imagetools' statistics take long for, and a small one.
LARGE_PX, SMALL_PX = 48, 20
#: Slices that each ROI spans.
ROI_SLICES = 80


def make(folder: Path, *, patients: int, slices: int, rois: int, vertices: int, radius_px: int) -> Path:
    """Write ``in/P001/{CT,RTSTRUCT}``… and ``in/roi_patterns.yaml`` into `folder`, unless there; return ``in``."""
    root = folder / "in"
    stamp = folder / f"{patients}-{slices}-{rois}-{vertices}-{radius_px}.made"
    if not stamp.exists():
        for patient in range(patients):
            _make_patient(root / f"P{patient + 1:03d}", patient, slices, rois, vertices, radius_px)
        labels = "".join(f"ROI_{r:02d}: [ROI_{r:02d}]\n" for r in range(rois))
        (root / "roi_patterns.yaml").write_text(labels)
        stamp.touch()
    return root


def _make_patient(folder: Path, patient: int, slices: int, rois: int, vertices: int, radius_px: int) -> None:
    random = np.random.default_rng(patient)
    geometry = axial_geometry((slices, SIZE, SIZE), spacing_xyz_mm=SPACING_XYZ_MM)
    y, x = np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2
    body = np.where((x / 220) ** 2 + (y / 170) ** 2 < 1, BODY_HU, AIR_HU)
    centres = [(COLUMN_STEP_PX * (r % 5 - 2), ROW_STEP_PX * (r // 5 - 1.5)) for r in range(rois)]
    for r, (cx, cy) in enumerate(centres):
        body[np.hypot(x - cx, y - cy) < radius_px + WAVE_PX] = BODY_HU + ORGAN_STEP_HU * (r + 1)
    volume = body + random.normal(0, NOISE_HU, (slices, SIZE, SIZE)).astype(np.float32)
    volume[:, np.hypot(x, y) > SIZE / 2] = PADDING_HU
    series = write_ct_series(
        folder / "CT", geometry, np.clip(np.rint(volume), PADDING_HU, 3000).astype(np.int16), patient_id=folder.name,
        seed=patient,
    )  # fmt: skip
    angles = 2 * np.pi * np.arange(vertices) / vertices
    first = (slices - min(ROI_SLICES, slices)) // 2
    specs = []
    for r, (cx, cy) in enumerate(centres):
        contours = []
        for d in range(first, first + min(ROI_SLICES, slices)):
            radius = radius_px + WAVE_PX * np.sin(5 * angles + d / 7 + r)
            index = np.stack([np.full(vertices, d), cy + radius * np.sin(angles), cx + radius * np.cos(angles)], 1)
            contours.append(geometry.to_lps(index + np.array([0, 1, 1]) * (SIZE - 1) / 2))
        specs.append(RoiSpec(r + 1, f"ROI_{r:02d}", contours))
    (folder / "RTSTRUCT").mkdir(parents=True, exist_ok=True)
    write_rtstruct(folder / "RTSTRUCT" / "RS.dcm", series, specs)
