"""The CUDA path of a case without a GPU: `process_case` on a device that is none gives the files of the CPU."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import fake_cuda
import numpy as np
import pytest
from cases import assert_equal, make_options, plan_case, run_case, write_sources

from gpuprep.backends import select
from gpuprep.config import Crop, MaskStrategy, OnExisting, Resources
from gpuprep.dicom.rtstruct import read_structure_set
from gpuprep.errors import KernelError
from gpuprep.run.job import Execution, run_cases
from gpuprep.run.ledger import Ledger
from gpuprep.run.slots import BackendChoice, Placement, slot_backend
from gpuprep.writers.nnunet import DatasetFolder, NnunetWriter

#: Boxes, tables and ranges have fewer bytes than this, volumes more.
LARGE_BYTES = 20_000


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    return write_sources(tmp_path_factory.mktemp("studies"))


@pytest.fixture
def device(monkeypatch):
    return fake_cuda.install(monkeypatch)


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
    expected_row, expected = run_case(plan, make_options(**transforms), select("cpu", 1))
    row, found = run_case(plan, make_options(**transforms), select("cuda"))
    assert_equal(found, expected)
    assert row.backend == "cuda no device"
    device_only = {"backend_reason": "asked for", "loader": fake_cuda.NO_DALI}
    assert row.details == {**expected_row.details, **device_only}
    assert not device.busy


def test_an_image_makes_one_trip_up_and_one_down_and_a_mask_one_down(sources, device):
    backend = select("cuda")
    trips = count_trips(backend)
    plan = plan_case(sources, images=("CT", "PT"))
    transforms = {"spacing_xyz_mm": (3.0, 3.0, 3.0), "window_level": 40.0, "window_width": 400.0, "orientation": "PIR"}
    _, found = run_case(plan, make_options(**transforms), backend)
    (mask,) = found.masks.values()
    ct, pet = (found.images[plan.case, channel].array for channel in (0, 1))
    words = [np.prod([len(c.instances), c.instances[0].rows, c.instances[0].columns]) * 2 for c in plan.channels]
    points = 3 * 8 * sum(len(c.points_lps_mm) for r in structures(plan).rois for c in r.contours)
    for way, nbytes in [("up", words[0]), ("up", words[1]), ("down", ct.nbytes), ("down", pet.nbytes)]:
        assert (way, nbytes) in device.crossings  # in one piece, from where it was decoded and to where it is written
    assert trips == [
        ("up", words[0]), ("up", points), ("down", mask.codes.nbytes), ("down", ct.nbytes), ("up", words[1]),
        ("down", pet.nbytes),
    ]  # fmt: skip


@pytest.mark.parametrize("images", [("CT", "PT"), ("PT", "CT")])
def test_several_channels(sources, device, images):
    plan = replace(plan_case(sources), channels=plan_case(sources, images=("CT", "PT")).channels)
    if images[0] == "PT":
        plan = replace(plan, channels=plan.channels[::-1], segmentations=(), link_evidence=())
    assert_equal(*(run_case(plan, make_options(), select(name))[1] for name in ("cuda", "cpu")))


def test_slots_share_a_device_without_disturbing_each_other(sources, device):
    plans = [plan_case(sources), plan_case(sources, "TILTED")] * 3
    transforms = make_options(spacing_xyz_mm=(2.0, 2.0, 2.0), orientation="RAS")
    expected = [run_case(plan, transforms, select("cpu", 1))[1] for plan in plans[:2]] * 3
    choice = BackendChoice("cuda", threads=1, slots=3)

    def work(plan):
        return run_case(plan, transforms, slot_backend(choice))[1]

    with ThreadPoolExecutor(3) as pool:
        for found, wanted in zip(pool.map(work, plans), expected, strict=True):
            assert_equal(found, wanted)
    assert len({stream for kind, stream in device.log if kind == "record"}) == 3
    assert not device.busy


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_whole_job_in_slots_writes_the_files_of_the_cpu(sources, device, tmp_path):
    def convert(root, backend):
        ledger = Ledger(root / "ledger.sqlite", "job")
        plans = [plan_case(sources), plan_case(sources, "TILTED")]
        run_cases(
            plans,
            options=make_options(spacing_xyz_mm=(2.0, 2.0, 2.0), orientation="RAS"),
            writer=NnunetWriter(
                DatasetFolder(root, 1, "Slots"),
                dict.fromkeys((p.case for p in plans), "Tr"),
                MaskStrategy.REGION_MASK,
                ("CT",),
            ),
            root=root,
            own_folders=(),
            ledger=ledger,
            execution=Execution(OnExisting.SKIP, Resources()),
            placement=Placement(BackendChoice(backend, threads=1, slots=2), processes=1, start_by="fork"),
        )
        rows = ledger.rows()
        ledger.close()
        return rows, {p.relative_to(root): p.read_bytes() for p in sorted(root.rglob("*.gz"))}

    rows, files = convert(tmp_path / "cuda", "cuda")
    _, expected = convert(tmp_path / "cpu", "cpu")
    assert {(row.status, row.backend) for row in rows.values()} == {("done", "cuda no device")}
    assert len(files) == 4
    assert files == expected


def test_segments_and_doses(sources, device):
    (dose,) = [s for s in sources.series if s.modality == "RTDOSE"]
    plan = replace(plan_case(sources, segmentation="SEG"), dose=dose.instances[0], writes_images=False)
    for transforms in ({}, {"spacing_xyz_mm": (3.0, 3.0, 3.0), "orientation": "RAS"}):
        assert_equal(*(run_case(plan, make_options(**transforms), select(name))[1] for name in ("cuda", "cpu")))


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
