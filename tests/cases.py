"""Studies whose cases take every turn of `process_case`, and a writer that keeps what it is given."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gpuprep.config import MultipleSegmentations, OnMissing, RoiOptions, RoiStrategy, Stacking, Transforms
from gpuprep.dicom import synth
from gpuprep.geometry import VolumeGeometry
from gpuprep.run.case import CaseOptions, process_case
from gpuprep.run.plan import plan_segmented_cases
from gpuprep.run.sources import open_sources


@dataclass
class MemoryWriter:
    """Keeps what a case writes."""

    images: dict[tuple[str, int], Any] = field(default_factory=dict)
    masks: dict[str, Any] = field(default_factory=dict)
    config = ""

    def write_image(self, case, channel, volume):
        assert type(volume.array) is np.ndarray
        self.images[case, channel] = volume
        return ()

    def write_mask(self, case, mask, record):
        assert type(mask.codes) is np.ndarray
        self.masks[case] = mask
        return ()

    def discard(self, case):
        self.masks.pop(case, None)


def write_sources(folder):
    """SYNTH-001: CT, PET, RTSTRUCT, SEG and RTDOSE on three grids; TILTED: an oblique CT that lacks a slice."""
    patient = synth.write_study(folder, with_seg=True)[0]
    random = np.random.default_rng(0)
    grid = synth.axial_geometry((20, 40, 40), spacing_xyz_mm=(6.0, 6.0, 5.5), origin_lps_mm=(-125.0, -120.0, -57.0))
    synth.write_pet_series(folder / "PT", grid, random.random(grid.shape) * 1e4, patient_id=patient.series.patient_id)
    synth.write_rtdose(folder / "dose.dcm", patient.series, grid, random.random(grid.shape) * 60)
    cos, sin = np.cos(0.2), np.sin(0.2)
    oblique = VolumeGeometry.from_axes(
        (40, 64, 64),
        origin_lps_mm=(-60.0, -60.0, 0.0),
        directions_dhw=[[0, -sin, cos], [0, cos, sin], [1, 0, 0]],
        spacing_dhw_mm=(3.0, 2.0, 2.0),
        frame_of_reference_uid=synth.derive_uid("tilted"),
    )
    series = synth.write_ct_series(
        folder / "tilted", oblique, random.integers(-1000, 2000, oblique.shape), patient_id="TILTED"
    )
    box = [oblique.to_lps([(d, h, w) for h, w in ((9.5, 9.5), (9.5, 50.5), (40.5, 50.5))]) for d in range(5, 30)]
    synth.write_rtstruct(folder / "tilted" / "RS.dcm", series, [synth.RoiSpec(1, "wedge", box)])
    series.paths[7].unlink()
    return open_sources([folder], index_path=None, workers=1)


def make_options(**transforms):
    rois = RoiOptions(labels=(), strategy=RoiStrategy.SEPARATE, on_missing=OnMissing.WARN)
    return CaseOptions(Transforms(**transforms), Stacking("resample"), rois)


def plan_case(sources, patient="SYNTH-001", images=("CT",), segmentation="RTSTRUCT"):
    plans = plan_segmented_cases(
        sources.series,
        sources.links,
        images=images,
        segmentations=[segmentation],
        multiple=MultipleSegmentations.ERROR,
    )
    (plan,) = [p for p in plans if p.patient == patient]
    return plan


def run_case(plan, case_options, backend):
    writer = MemoryWriter()
    row = process_case(plan, case_options, backend, writer, 2)
    assert (row.status, row.message) == ("done", "")
    return row, writer


def assert_equal(found, expected):
    assert found.images.keys() == expected.images.keys()
    assert found.masks.keys() == expected.masks.keys()
    for key, volume in found.images.items():
        other = expected.images[key]
        assert (volume.array.dtype, volume.steps) == (other.array.dtype, other.steps)
        assert volume.array.tobytes() == other.array.tobytes()
        assert volume.geometry.same_grid(other.geometry)
    for key, mask in found.masks.items():
        assert mask.codes.tobytes() == expected.masks[key].codes.tobytes()
        assert mask.table.tobytes() == expected.masks[key].table.tobytes()
