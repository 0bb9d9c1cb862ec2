"""How far each kernel is from the rate at which its memory copies.

A kernel that reads its input once and writes its output once cannot be faster than a copy of as many bytes. The share
of the copy rate that it attains says what is left to gain; work in place exceeds the rate of a CPU, whose copies also
load what they overwrite. Times are those of kernels alone, by CUDA events on a device that is kept busy while the host
starts them; on the CPU they include the page faults of fresh memory, as jobs have them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpuprep.backends.base import Backend
from gpuprep.backends.metered import MeteredBackend, time_call
from gpuprep.dicom.framespec import FrameSpec
from gpuprep.dicom.rtstruct import Contour, RoiContours
from gpuprep.geometry import VolumeGeometry
from gpuprep.hostlib import usable_cores
from gpuprep.masks import Roi
from gpuprep.ops.crop import crop_or_pad_array, foreground_box
from gpuprep.ops.grey import look_up
from gpuprep.ops.intensity import Window, apply_window_array, to_modality
from gpuprep.ops.orient import reorient_array
from gpuprep.ops.palette import palette_of_planes
from gpuprep.ops.rasterize import SliceGrid, rasterize
from gpuprep.ops.resample import resample_and_window, resample_labels, resample_volume
from gpuprep.ops.resize import resize_planes
from gpuprep.volume import Volume

Shape = tuple[int, int, int]

#: A chest CT (slices, rows, columns), its spacing in mm, and what it is resampled to.
CT_SHAPES: dict[str, Shape] = {"cuda": (300, 512, 512), "cpu": (200, 512, 512)}
CT_SPACING_DHW_MM = (1.5, 0.7, 0.7)
TARGET_SPACING_MM = (1.0, 1.0, 1.0)
_SOFT_TISSUE = Window(40, 400, (0.0, 1.0))
_ROIS, _VERTICES = 20, 150
#: Runs of which the fastest counts, since what else the machine does only adds to the others.
REPETITIONS = 7
#: Bytes of a copy: more than caches hold.
COPY_BYTES = {"cuda": 1 << 30, "cpu": 1 << 28}
#: How often a device writes as much as a CT before each kernel: it takes some 0.3 ms, the host less to start a kernel,
#: and leaves nothing of the kernel's input in its caches.
_FILLS = 6
#: Seconds for which a device is kept busy before it is timed: one that has had nothing to do runs at a low clock.
WARM_UP_S = 0.2
#: Kernels that read and write the array they are given once.
_REWRITING = ("roi_scan", "palette_relabel")


@dataclass(frozen=True, slots=True)
class CopyRates:
    """Measured copy bandwidth, bytes/s.

    Parameters
    ----------
    memory : float
        Within the memory of the backend, bytes read and bytes written counted.
    upload, download : float or None
        Between page-locked host memory and the device; None where there is no device.
    """

    memory: float
    upload: float | None = None
    download: float | None = None


@dataclass(frozen=True, slots=True)
class KernelRate:
    """What a piece of work attains.

    Parameters
    ----------
    work : str
        What is done to what.
    kernels : tuple of str
        The kernels whose time it is.
    seconds : float
        Time of the kernels, the least of `REPETITIONS`.
    bytes : int
        What has to be read and written, each byte once.
    share : float
        ``bytes / seconds`` as a share of `CopyRates.memory`.
    """

    work: str
    kernels: tuple[str, ...]
    seconds: float
    bytes: int
    share: float


@dataclass(frozen=True, slots=True)
class Workload:
    """Work for the kernels whose names begin with `kernel`.

    `prepare` takes a backend and the shape of a CT, and returns the bytes of the input and the work, whose result is
    the output; where only some kernels count, their arrays count instead.
    """

    name: str
    prepare: Callable[[Backend, Shape], tuple[int, Callable[[Backend], Any]]]
    kernel: str = ""


def measure_copies(backend: Backend, size: int | None = None) -> CopyRates:
    """Measure how fast memory copies; `size` is that of a copy in bytes, `COPY_BYTES` by default."""
    size = size or COPY_BYTES[backend.name]
    if backend.name == "cuda":
        xp = backend.xp
        source, target = xp.zeros(size, np.uint8), xp.empty(size, np.uint8)
        locked, stream = np.frombuffer(xp.cuda.alloc_pinned_memory(size), np.uint8, size), xp.cuda.get_current_stream()
        _warm_up(backend, lambda: xp.copyto(target, source))
        return CopyRates(
            memory=2 * size / _least_seconds(backend, lambda: xp.copyto(target, source)),
            upload=size / _least_seconds(backend, lambda: target.set(locked, stream)),
            download=size / _least_seconds(backend, lambda: source.get(stream, out=locked, blocking=False)),
        )
    threads = usable_cores()
    # ones, for np.empty and np.zeros have no pages of their own yet
    targets, parts = (np.array_split(np.ones(size, np.uint8), threads) for _ in range(2))
    with ThreadPoolExecutor(threads) as pool:
        seconds = _least_seconds(backend, lambda: list(pool.map(np.copyto, targets, parts)))
    return CopyRates(memory=2 * size / seconds)


def measure_kernels(backend: Backend, rates: CopyRates, shape: Shape | None = None) -> list[KernelRate]:
    """Time the kernels of the main path on a CT of `shape`, by default of the size in `CT_SHAPES`."""
    shape = shape or CT_SHAPES[backend.name]
    keep_busy = _keep_busy(backend, shape)
    return [_measure(workload, backend, rates, shape, keep_busy) for workload in WORKLOADS]


def _keep_busy(backend: Backend, shape: Shape) -> Callable[[], None]:
    """Return a function that gives a device other work, so that a kernel begins when the one before it ends."""
    if backend.name != "cuda":
        return lambda: None
    other = backend.xp.empty(shape, np.int16)

    def fill() -> None:
        for _ in range(_FILLS):
            other.fill(0)

    return fill


def _measure(
    workload: Workload, backend: Backend, rates: CopyRates, shape: Shape, keep_busy: Callable[[], None]
) -> KernelRate:
    input_bytes, work = workload.prepare(backend, shape)
    if backend.name == "cuda":
        _warm_up(backend, keep_busy)
    taken: list[float] = []
    for _ in range(REPETITIONS):
        metered = MeteredBackend(backend, before_launch=keep_busy)
        result = work(metered)
        counted = {k: tally for k, tally in metered.kernels.items() if k.startswith(workload.kernel)}
        taken.append(sum(tally.seconds for tally in counted.values()))
    seconds = min(taken)
    if workload.kernel:
        moved = sum(tally.bytes * (2 if k.startswith(_REWRITING) else 1) for k, tally in counted.items())
    else:
        moved = input_bytes + getattr(result, "nbytes", 0)
    return KernelRate(workload.name, tuple(counted), seconds, moved, moved / seconds / rates.memory)


def _warm_up(backend: Backend, call: Callable[[], object]) -> None:
    """Keep a device busy until its clocks are up."""
    end = time.perf_counter() + WARM_UP_S
    while time.perf_counter() < end:
        call()
        backend.synchronize()


def _least_seconds(backend: Backend, call: Callable[[], object]) -> float:
    return min(time_call(backend, call) for _ in range(REPETITIONS))


# Workloads


def _grid(shape: Shape) -> VolumeGeometry:
    return VolumeGeometry.from_axes(
        shape, origin_lps_mm=(0, 0, 0), directions_dhw=np.eye(3)[::-1], spacing_dhw_mm=CT_SPACING_DHW_MM
    )


def _image(shape: Shape) -> np.ndarray[Any, np.dtype[np.int16]]:
    """HU of soft tissue, which neighbours share but for some noise: places in a table lie together, as in images."""
    noise = np.random.default_rng(0).integers(-30, 30, shape[1:], np.int16)
    plane = np.linspace(-200, 200, shape[2]).astype(np.int16) + noise
    return np.stack([np.roll(plane, d) for d in range(shape[0])])


def _on_image(op: Callable[[Any, Backend], Any]) -> Callable[[Backend, Shape], tuple[int, Callable[[Backend], Any]]]:
    def prepare(backend: Backend, shape: Shape) -> tuple[int, Callable[[Backend], Any]]:
        image = backend.upload(_image(shape))
        return image.nbytes, lambda metered: op(image, metered)

    return prepare


def _modality(image: Any, backend: Backend) -> Any:
    depth, rows, columns = image.shape
    spec = FrameSpec("", rows, columns, 16, 12, 11, is_signed=False)
    slopes = np.ones(depth)
    return to_modality(image, spec, slopes, -1024 * slopes, backend=backend)


def _grey(image: Any, backend: Backend) -> Any:
    return look_up(image.view(np.uint16), (np.arange(1 << 16) >> 8).astype(np.uint8), backend=backend)


def _resample(image: Any, backend: Backend) -> Any:
    grid = _grid(image.shape)
    return resample_volume(
        Volume(image, grid),
        grid.with_spacing(TARGET_SPACING_MM),
        interpolation="linear",
        antialias=False,
        fill=-1024,
        backend=backend,
    ).array


def _resample_and_window(image: Any, backend: Backend) -> Any:
    grid = _grid(image.shape)
    return resample_and_window(
        Volume(image, grid),
        grid.with_spacing(TARGET_SPACING_MM),
        _SOFT_TISSUE,
        interpolation="linear",
        antialias=False,
        fill=-1024,
        backend=backend,
    ).array


def _labels(image: Any, backend: Backend) -> Any:
    codes = image.view(np.uint8)[:, :, : image.shape[2]]
    grid = _grid(codes.shape)
    target = grid.with_spacing(TARGET_SPACING_MM)
    return resample_labels(backend.xp.ascontiguousarray(codes), grid, target, backend=backend)


def _pad(image: Any, backend: Backend) -> Any:
    return crop_or_pad_array(image, (-4, -16, -16), [n + m for n, m in zip(image.shape, (8, 32, 32), strict=True)],
                             -1024, backend)  # fmt: skip


def _prepare_planes(backend: Backend, shape: Shape) -> tuple[int, Callable[[Backend], Any]]:
    """Bit planes with ROIs that are squares side by side: runs of equal sets, as organs make them."""
    rows, columns = np.indices(shape[1:]) // 64
    plane = np.left_shift(1, (rows * 5 + columns) % _ROIS).astype(np.uint32)
    planes = backend.upload(np.ascontiguousarray(np.broadcast_to(plane, (1, *shape))))
    rois = [Roi(number, f"ROI {number}") for number in range(_ROIS)]
    return planes.nbytes, lambda metered: palette_of_planes(planes, rois, _grid(shape), backend=metered).codes


def _prepare_contours(backend: Backend, shape: Shape) -> tuple[int, Callable[[Backend], Any]]:
    """Circles in all slices, five a row."""
    grid = _grid(shape)
    depth, height, width = shape
    angles = 2 * np.pi * np.arange(_VERTICES) / _VERTICES
    ring = np.stack([np.zeros(_VERTICES), np.sin(angles), np.cos(angles)], axis=1) * min(height, width) / 11
    rois = []
    for number in range(_ROIS):
        row, column = divmod(number, 5)
        centre = np.array([0, (row + 0.5) * height / 4, (column + 0.5) * width / 5])
        contours = tuple(Contour("CLOSED_PLANAR", grid.to_lps(ring + centre + (d, 0, 0))) for d in range(depth))
        rois.append(RoiContours(Roi(number, f"ROI {number}"), contours))
    points = sum(contour.points_lps_mm.nbytes for roi in rois for contour in roi.contours)
    return points, lambda metered: rasterize(rois, SliceGrid(grid), overlap="xor", backend=metered).mask.codes


def _prepare_mammogram(backend: Backend, shape: Shape) -> tuple[int, Callable[[Backend], Any]]:
    """A plane of about as many pixels as 50 slices, to a quarter of its size along each axis."""
    rows, columns = shape[1] * 8, shape[2] * 13 // 2
    plane = backend.upload(np.random.default_rng(0).integers(0, 4096, (1, rows, columns), np.uint16))
    return plane.nbytes, lambda metered: resize_planes(
        plane, rows // 4, columns // 4, filter_name="triangle", backend=metered
    )


#: What a case may need, and the kernels of rasterising one by one.
WORKLOADS: Sequence[Workload] = (
    Workload("modality values of uint16 words", _on_image(lambda i, b: _modality(i.view(np.uint16), b))),
    Workload("grey levels uint16 → uint8, by table", _on_image(_grey)),
    Workload("window int16 → float32", _on_image(lambda i, b: apply_window_array(i, _SOFT_TISSUE, b))),
    Workload("clamp int16", _on_image(lambda i, b: apply_window_array(i, Window(40, 400), b))),
    Workload("resample int16 → 1 mm", _on_image(_resample)),
    Workload("resample and window → 1 mm", _on_image(_resample_and_window)),
    Workload("labels uint8 → 1 mm", _on_image(_labels), "gather"),
    Workload("transpose int16", _on_image(lambda i, b: reorient_array(i, (2, 0, 1), (False, True, False), b))),
    Workload("pad int16", _on_image(_pad)),
    Workload("foreground box int16", _on_image(lambda i, b: foreground_box(i, 3000, b))),
    Workload("resize uint16 plane to a quarter", _prepare_mammogram),
    Workload("ROI planes → codes", _prepare_planes, "palette_encode"),
    Workload("codes → codes", _prepare_planes, "palette_relabel"),
    Workload("contours → planes: scan", _prepare_contours, "roi_scan"),
    Workload("contours → codes, all kernels", _prepare_contours),
)
