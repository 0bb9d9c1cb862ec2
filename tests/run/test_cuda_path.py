"""The CUDA path of a case without a GPU: `process_case` on a device that is none gives the files of the CPU."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import fake_cuda
import numpy as np
import pytest

from gpuprep.backends import select
from gpuprep.config import Crop, MultipleSegmentations, OnMissing, RoiOptions, RoiStrategy, Stacking, Transforms
from gpuprep.dicom import synth
from gpuprep.dicom.rtstruct import read_structure_set
from gpuprep.errors import KernelError
from gpuprep.geometry import VolumeGeometry
from gpuprep.run.case import CaseOptions, process_case
from gpuprep.run.plan import plan_segmented_cases
from gpuprep.run.slots import BackendChoice, slot_backend
from gpuprep.run.sources import open_sources

#: Boxes, tables and ranges have fewer bytes than this, volumes more.
LARGE_BYTES = 20_000


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


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """SYNTH-001: CT, PET, RTSTRUCT, SEG and RTDOSE on three grids; TILTED: an oblique CT that lacks a slice."""
    folder = tmp_path_factory.mktemp("studies")
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


@pytest.fixture
def device(monkeypatch):
    return fake_cuda.install(monkeypatch)


def options(**transforms):
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


def run(plan, case_options, backend):
    writer = MemoryWriter()
    row = process_case(plan, case_options, backend, writer, 2)
    assert (row.status, row.message) == ("done", "")
    return row, writer


def structures(plan):
    return read_structure_set(plan.segmentations[0].path)


def count_trips(backend):
    """Return the list that the bytes of each large array will be added to, as it goes up or down."""
    trips = []

    def counted(way, move):
        def call(array):
            if array.nbytes > LARGE_BYTES:
                trips.append((way, array.nbytes))
            return move(array)

        return call

    backend.upload, backend.download = counted("up", backend.upload), counted("down", backend.download)
    return trips


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


CASES = {
    "as it is": {},
    "resampled": {"spacing_xyz_mm": (2.0, 2.0, 2.5)},
    "window": {"window_level": 40.0, "window_width": 400.0},
    "window to a range": {
        "spacing_xyz_mm": (2.0, 2.0, 2.0), "window_level": 40.0, "window_width": 400.0, "rescale_intensity": (0.0, 1.0),
    },
    "window with half bounds": {"spacing_xyz_mm": (2.0, 2.0, 2.0), "window_level": 40.5, "window_width": 400.0},
    "cropped to the foreground": {"crop": Crop("foreground", 5.0)},
    "cropped to ROIs": {"crop": Crop("roi", 5.0), "spacing_xyz_mm": (2.0, 2.0, 2.0)},
    "turned": {"orientation": "SPL", "spacing_xyz_mm": (2.0, 2.0, 2.0)},
    "axis-aligned": {"is_axis_aligned": True, "orientation": "RAS"},
    "cubic": {"spacing_xyz_mm": (2.0, 2.0, 4.0), "interpolation": "cubic"},
    "antialiased": {"spacing_xyz_mm": (4.0, 4.0, 4.0), "antialias": True},
    "nearest": {"spacing_xyz_mm": (2.0, 2.0, 2.0), "interpolation": "nearest"},
}  # fmt: skip


@pytest.mark.parametrize("transforms", CASES.values(), ids=CASES)
@pytest.mark.parametrize("patient", ["SYNTH-001", "TILTED"])
def test_the_device_gives_the_bytes_of_the_cpu(sources, device, patient, transforms):
    plan = plan_case(sources, patient)
    expected_row, expected = run(plan, options(**transforms), select("cpu", 1))
    row, found = run(plan, options(**transforms), select("cuda"))
    assert_equal(found, expected)
    assert row.backend == "cuda no device"
    assert row.details == {**expected_row.details, "backend_reason": "asked for"}
    assert not device.busy


def test_an_image_makes_one_trip_up_and_one_down_and_a_mask_one_down(sources, device):
    backend = select("cuda")
    trips = count_trips(backend)
    plan = plan_case(sources, images=("CT", "PT"))
    transforms = {"spacing_xyz_mm": (3.0, 3.0, 3.0), "window_level": 40.0, "window_width": 400.0, "orientation": "PIR"}
    _, found = run(plan, options(**transforms), backend)
    (mask,) = found.masks.values()
    ct, pet = (found.images[plan.case, channel].array for channel in (0, 1))
    words = [np.prod([len(c.instances), c.instances[0].rows, c.instances[0].columns]) * 2 for c in plan.channels]
    points = 3 * 8 * sum(len(c.points_lps_mm) for r in structures(plan).rois for c in r.contours)
    assert trips == [
        ("up", words[0]), ("up", points), ("down", mask.codes.nbytes), ("down", ct.nbytes), ("up", words[1]),
        ("down", pet.nbytes),
    ]  # fmt: skip


@pytest.mark.parametrize("images", [("CT", "PT"), ("PT", "CT")])
def test_several_channels(sources, device, images):
    plan = replace(plan_case(sources), channels=plan_case(sources, images=("CT", "PT")).channels)
    if images[0] == "PT":
        plan = replace(plan, channels=plan.channels[::-1], segmentations=(), link_evidence=())
    assert_equal(*(run(plan, options(), select(name))[1] for name in ("cuda", "cpu")))


def test_slots_share_a_device_without_disturbing_each_other(sources, device):
    plans = [plan_case(sources), plan_case(sources, "TILTED")] * 3
    transforms = options(spacing_xyz_mm=(2.0, 2.0, 2.0), orientation="RAS")
    expected = [run(plan, transforms, select("cpu", 1))[1] for plan in plans[:2]] * 3
    choice = BackendChoice("cuda", threads=1, slots=3)

    def work(plan):
        return run(plan, transforms, slot_backend(choice))[1]

    with ThreadPoolExecutor(3) as pool:
        for found, wanted in zip(pool.map(work, plans), expected, strict=True):
            assert_equal(found, wanted)
    assert len({stream for kind, stream in device.log if kind == "record"}) == 3
    assert not device.busy


def test_segments_and_doses(sources, device):
    (dose,) = [s for s in sources.series if s.modality == "RTDOSE"]
    plan = replace(plan_case(sources, segmentation="SEG"), dose=dose.instances[0], writes_images=False)
    for transforms in ({}, {"spacing_xyz_mm": (3.0, 3.0, 3.0), "orientation": "RAS"}):
        assert_equal(*(run(plan, options(**transforms), select(name))[1] for name in ("cuda", "cpu")))


def test_the_device_refuses_what_crosses_unnoticed(device):
    backend = select("cuda")
    there = backend.upload(np.arange(6.0))
    with pytest.raises(TypeError, match="Implicit conversion"):
        np.asarray(there)
    for mix in (lambda: there + np.ones(6), lambda: there[np.array([1])], lambda: backend.xp.stack([np.ones(6)])):
        with pytest.raises(TypeError, match="Unsupported type"):
            mix()
    with pytest.raises(KernelError) as error:
        backend.launch("clamp_f32", (1,), (1,), (np.ones(6, "f4"), np.ones(6, "f4"), np.int64(6), *np.ones(2, "f4")))
    assert error.value.code == "bad-argument"
