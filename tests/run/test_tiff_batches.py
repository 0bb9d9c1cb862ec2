"""Images that go to the backend together: each is, to the bit, what it is alone."""

import os
from dataclasses import replace

import fake_cuda
import numpy as np
import pytest
from tiff_images import CPU, options_of, write_image

from gpuprep.backends import select
from gpuprep.backends.cpu import CpuBackend
from gpuprep.backends.reference import ReferenceBackend
from gpuprep.config import OnExisting, Resources
from gpuprep.dicom.index import build_index
from gpuprep.errors import DecodeError
from gpuprep.run import tiff, tiff_image, tiff_plan
from gpuprep.run.job import Batching, Execution, run_plans
from gpuprep.run.ledger import CaseRow, Ledger
from gpuprep.run.slots import BackendChoice, Placement
from gpuprep.run.stopwatch import Stopwatch
from gpuprep.run.tiff import TiffWork, convert_one
from gpuprep.run.tiff_image import estimate_batch_bytes, load_image, make_image, make_images
from gpuprep.run.tiff_plan import batch_key, group_images, plan_images

BACKENDS = [CPU, CpuBackend(row_forms=False), ReferenceBackend()]


def picture(seed, dtype=np.uint16):
    """A noisy box at a place of its own, some marks of the greatest value, on black."""
    rng = np.random.default_rng(seed)
    plane = np.zeros((61, 47), dtype)
    left, top, width, height = rng.integers(1, 12, 2).tolist() + rng.integers(9, 34, 2).tolist()
    plane[top : top + height, left : left + width] = rng.integers(
        1, 250 if dtype == np.uint8 else 4095, (height, width)
    )
    plane[0, -3:] = np.iinfo(dtype).max if dtype == np.uint8 else 4095
    return plane[None]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Six images of a shape: windows of their own, none, inverted, with padding values, and all black."""
    folder = tmp_path_factory.mktemp("images")
    write_image(folder / "a", picture(1), WindowCenter=2000, WindowWidth=3000)
    write_image(folder / "b", picture(2), WindowCenter=1000, WindowWidth=900, PixelSpacing=[0.2, 0.1])
    write_image(folder / "c", picture(3))
    write_image(folder / "d", picture(4), photometric="MONOCHROME1")
    write_image(folder / "e", picture(5), PixelPaddingValue=0)
    write_image(folder / "f", np.zeros((1, 61, 47), np.uint16))
    return folder


def plans_of(folder):
    plans, _ = plan_images(build_index([folder]), "study/sop")
    return plans


CHOICES = [
    {},
    {"crop": True},
    {"crop": True, "padding": "center", "filter_name": "lanczos3"},
    {"crop": True, "padding": "top-left", "filter_name": "nearest"},
    {"crop": True, "padding": "none", "filter_name": "gaussian"},
    {"crop": True, "crop_max": True, "border_frac": 0.05, "filter_name": "catmull-rom"},
    {"crop": True, "crop_mode": "components", "padding": "bottom-right", "filter_name": "box"},
    {"crop": True, "window": "none"},
    {"crop": True, "crop_max": True, "crop_mode": "components", "window": "none"},
    {"crop": True, "window": "minmax"},
    {"size": "47,61"},
    {"crop": True, "size": "400,300"},
    {"crop": True, "compat": "dicom-preprocessing"},
]


@pytest.mark.parametrize("backend", BACKENDS, ids=["rows", "kernels", "reference"])
@pytest.mark.parametrize("chosen", CHOICES, ids=str)
def test_each_is_what_it_is_alone(folder, backend, chosen):
    options = options_of(**({"size": "24,20"} | chosen))
    loaded = [load_image(plan.header, 1, Stopwatch()) for plan in plans_of(folder)]
    together = make_images(loaded, options, backend, Stopwatch())
    for plan, image in zip(plans_of(folder), together, strict=True):
        alone = make_image(plan.header, options, backend, 1)
        assert image.frames.dtype == alone.frames.dtype
        np.testing.assert_array_equal(image.frames, alone.frames)
        assert image.origin == alone.origin
        assert image.decoder == alone.decoder


@pytest.mark.parametrize("chosen", CHOICES, ids=str)
def test_a_device_gives_the_same_and_launches_each_kernel_once(folder, monkeypatch, chosen):
    options = options_of(**({"size": "24,20"} | chosen))
    plans = plans_of(folder)
    loaded = [load_image(plan.header, 1, Stopwatch()) for plan in plans]
    device = fake_cuda.install(monkeypatch)
    backend = select("cuda")
    launched = []
    launch = backend.launch
    monkeypatch.setattr(backend, "launch", lambda name, *rest: (launched.append(name), launch(name, *rest)))
    with backend.activate():
        together = make_images(loaded, options, backend, Stopwatch())
        if chosen.get("crop_mode") == "components" or "compat" in chosen:  # these are looked for one by one
            launched = [name for name in launched if name not in ("gather_u16", "plane_boxes_u8")]
        assert len(launched) == len(set(launched)) <= 5
        assert device.peak_bytes <= estimate_batch_bytes(loaded, options)
        for plan, image in zip(plans, together, strict=True):
            alone = make_image(plan.header, options, backend, 1)
            np.testing.assert_array_equal(image.frames, alone.frames)
            np.testing.assert_array_equal(image.frames, make_image(plan.header, options, CPU, 1).frames)
            assert image.origin == alone.origin


@pytest.mark.parametrize("dtype", [np.uint8, np.int16])
def test_other_types(tmp_path, dtype):
    for seed in range(4):
        write_image(tmp_path / str(seed), picture(seed, dtype), bits=8 if dtype == np.uint8 else 16)
    options = options_of(size="24,20", crop=True)
    plans = plans_of(tmp_path)
    together = make_images([load_image(p.header, 1, Stopwatch()) for p in plans], options, CPU, Stopwatch())
    for plan, image in zip(plans, together, strict=True):
        np.testing.assert_array_equal(image.frames, make_image(plan.header, options, CPU, 1).frames)


def test_only_like_images_go_together(folder, tmp_path, monkeypatch):
    plans = plans_of(folder)
    options = options_of(size="24,20")
    assert [len(batch) for batch in group_images(plans, options)] == [6]
    assert [len(batch) for batch in group_images(plans, options_of())] == [1] * 6
    write_image(tmp_path / "frames", np.concatenate([picture(1), picture(2)]))
    write_image(tmp_path / "wide", picture(1)[:, :, :40])
    write_image(tmp_path / "scaled", picture(1), RescaleSlope=2, RescaleIntercept=0)
    odd = plans_of(tmp_path)
    batches = group_images([*plans, *odd], options)
    assert sorted(len(batch) for batch in batches) == [1, 1, 1, 6]
    assert {plan.case for batch in batches for plan in batch} == {plan.case for plan in [*plans, *odd]}
    header = plans[0].header
    for other in (
        replace(header, photometric_interpretation="PALETTE COLOR"),
        replace(header, samples_per_pixel=3),
        replace(header, bits_allocated=32),
        replace(header, sop_class_uid="1.2.840.10008.5.1.4.1.1.13.1.3"),
    ):
        assert batch_key(other) is None
    assert batch_key(replace(header, number_of_frames=None)) == batch_key(header)
    monkeypatch.setattr(tiff_plan, "BATCH_PIXELS", 61 * 47 * 4)
    assert [len(batch) for batch in group_images(plans, options)] == [4, 2]
    monkeypatch.setattr(tiff_plan, "SMALL_IMAGE_PIXELS", 61 * 47 - 1)
    assert [len(batch) for batch in group_images(plans, options)] == [1] * 6


def work_on(root, **chosen):
    return TiffWork(options_of(**({"size": "24,20", "crop": True} | chosen)), root, BackendChoice("cpu", 1))


def files_below(root):
    return {path.relative_to(root): path.read_bytes() for path in root.rglob("*.tiff")}


def test_files_are_the_same_and_a_broken_one_costs_itself(folder, tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    for path in folder.iterdir():
        (source / path.name).write_bytes(path.read_bytes())
    (source / "c").write_bytes((source / "c").read_bytes()[:-500])
    plans = plans_of(source)
    rows = work_on(tmp_path / "together").convert_together(plans)
    alone = [work_on(tmp_path / "alone")(plan) for plan in plans]
    assert [(row.case, row.status, row.code) for row in rows] == [(row.case, row.status, row.code) for row in alone]
    assert [row.code for row in rows].count("pixel-data-truncated") == 1
    assert files_below(tmp_path / "together") == files_below(tmp_path / "alone")
    assert len(files_below(tmp_path / "alone")) == 5
    done = next(row for row in rows if row.status == "done")
    assert (done.details["batch"], done.decoder) == (5, "native")
    assert done.timings["decode"] > 0


def test_what_is_refused_together_is_done_one_by_one(folder, tmp_path, monkeypatch):
    def refuse(*_):
        raise DecodeError("not like this", code="bad-rescale")

    monkeypatch.setattr(tiff_image, "make_images", refuse)
    rows = work_on(tmp_path).convert_together(plans_of(folder))
    assert [row.status for row in rows] == ["done"] * 6
    assert all("batch" not in row.details for row in rows)


# A device with too little memory


@pytest.fixture
def device(monkeypatch):
    return fake_cuda.install(monkeypatch)


@pytest.fixture
def on_device(folder, tmp_path, device):
    """Return (rows, files) of a batch converted on the device, and the files of the CPU."""
    work_on(tmp_path / "cpu").convert_together(plans_of(folder))

    def convert(count=6):
        choice = BackendChoice("cuda", 1, reason=str(tmp_path))  # a backend of this test's own
        rows = replace(work_on(tmp_path / "cuda"), choice=choice).convert_together(plans_of(folder)[:count])
        assert files_below(tmp_path / "cuda") == files_below(tmp_path / "cpu")
        assert [row.status for row in rows] == ["done"] * count
        return rows

    return convert


def in_batches_of(rows):
    return [row.details.get("batch", 1) for row in rows]


def test_a_batch_that_fits_goes_together(on_device, device):
    rows = on_device()
    assert in_batches_of(rows) == [6] * 6
    assert {row.backend for row in rows} == {"cuda no device"}
    assert not any(row.details["warnings"] for row in rows)


@pytest.mark.parametrize(("together", "batches"), [(5, [3] * 6), (3, [3] * 6), (2, [1, 2, 2, 1, 2, 2]), (1, [1] * 6)])
def test_a_batch_is_halved_before_it_is_uploaded_when_it_will_not_fit(folder, tmp_path, monkeypatch, together, batches):
    loaded = [load_image(plan.header, 1, Stopwatch()) for plan in plans_of(folder)]
    needed = estimate_batch_bytes(loaded[:together], options_of(size="24,20", crop=True))
    device = fake_cuda.install(monkeypatch, memory_bytes=int(needed / 0.8) + 1)
    choice = BackendChoice("cuda", 1, reason=str(tmp_path))
    rows = replace(work_on(tmp_path), choice=choice).convert_together(plans_of(folder))
    assert in_batches_of(rows) == batches
    assert {row.backend for row in rows} == {"cuda no device"}
    assert needed / 10 < device.peak_bytes <= needed  # an upper bound, and not an absurd one


def test_whichever_allocation_fails_the_batch_is_done_in_halves(on_device, device):
    on_device()
    before = device.allocations
    on_device()
    count = device.allocations - before
    assert count > 15
    for failing in range(1, count + 1, 2):
        start = device.allocations
        device.fails = lambda number, nbytes, at=start + failing: number == at
        rows = on_device()
        assert in_batches_of(rows) == [3] * 6
        assert {row.backend for row in rows} == {"cuda no device"}
    assert device.live_bytes == 0
    assert set(device.live_bytes_when_freed) == {0}


def test_images_that_do_not_fit_alone_are_done_by_the_cpu_with_a_warning(on_device, device):
    device.fails = lambda number, nbytes: nbytes > 2000
    rows = [*on_device(), *on_device(1)]
    assert in_batches_of(rows) == [1] * 7
    assert all(row.backend.startswith("cpu ") for row in rows)
    for row in rows:
        (warning,) = row.details["warnings"]
        assert "the CPU did it (the device has too little memory" in warning


def test_a_single_file_does_without_the_device_too(folder, tmp_path, device, monkeypatch):
    plan = plans_of(folder)[0]
    expected = convert_one(plan.header, tmp_path / "cpu.tiff", options_of(), Resources("cpu"))
    backend = select("cuda")
    monkeypatch.setattr(tiff, "slot_backend", lambda choice: backend)
    device.fails = lambda number, nbytes: True
    found = convert_one(plan.header, tmp_path / "cuda.tiff", options_of(), Resources("cpu"))
    assert (found.size, found.crc32) == (expected.size, expected.crc32)


def work_alone(plan):
    if plan.header.path.endswith("c"):
        os._exit(9)
    return CaseRow(plan.case, plan.key, "", plan.patient, status="done")


def work_together(plans):
    return [work_alone(plan) for plan in plans]


def test_a_crash_in_a_batch_costs_one_image(folder, tmp_path):
    ledger, rows = Ledger(tmp_path / "ledger.sqlite", "job"), []
    run_plans(
        plans_of(folder),
        work=work_alone,
        batching=Batching(lambda plans: [tuple(plans[:4]), tuple(plans[4:])], work_together),
        config="",
        discard=lambda case: None,
        root=tmp_path,
        own_folders=[],
        ledger=ledger,
        execution=Execution(OnExisting.SKIP, Resources(), on_row=rows.append),
        placement=Placement(BackendChoice("cpu", 1), 2),
    )
    ledger.close()
    assert sorted(row.status for row in rows) == ["done"] * 5 + ["failed"]
    assert {row.code for row in rows} == {"", "worker-killed"}
