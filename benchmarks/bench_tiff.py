"""One X-ray of 3000 × 2500 pixels, 12 of 16 bits, on one thread; contestants in turn, medians of CPU time.

Crop, resize and pad against Pillow; file to array against pydicom and Pillow; TIFFs by compression: decoding, sizes.

Usage: bench_tiff.py [ROUNDS]
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pydicom
import tifffile
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels import apply_modality_lut, apply_voi_lut
from pydicom.uid import ExplicitVRLittleEndian, generate_uid
from timing import describe_machine

from gpuprep.backends.cpu import CpuBackend
from gpuprep.dicom.header import read_headers
from gpuprep.ops.region import CropOptions
from gpuprep.run.tiff_image import TiffOptions, fit_planes, make_image
from gpuprep.writers.tiff import TiffStyle, write_tiff

WIDTH, HEIGHT, SIZE = 2500, 3000, (384, 512)
CPU = CpuBackend(1)
PILLOW = {"triangle": Image.Resampling.BILINEAR, "lanczos3": Image.Resampling.LANCZOS}
COMPRESSORS = ("uncompressed", "packbits", "lzw", "lzw+predictor", "deflate+predictor", "zstd+predictor")


def main(rounds: int) -> None:
    print(describe_machine())
    plane = make_plane()
    for name in PILLOW:
        compare(
            f"crop + resize to 384 × 512 + pad, {name}",
            {"gpuprep": lambda n=name: fit(plane, n), "Pillow": lambda n=name: fit_by_pillow(plane, n)},
            rounds,
        )
        ours, oracle = fit(plane, name).astype(float), np.clip(fit_by_pillow(plane, name), 0, 65535)
        print(f"  largest difference {np.abs(ours - oracle).max():.3f} grey levels")
    with tempfile.TemporaryDirectory() as folder:
        path = write_dicom(plane, Path(folder) / "a.dcm")
        for name, window in (("stored values", "none"), ("window", "voi")):
            compare(
                f"file → array, {name}",
                {
                    "gpuprep": lambda w=window: convert(path, w),
                    "pydicom + Pillow": lambda w=window: convert_by_pydicom(path, windowed=w == "voi"),
                },
                rounds,
            )
        compare_compressors(path, Path(folder), rounds)


def make_plane() -> np.ndarray:
    """Return a body with 12-bit detail and noise on black."""
    rng = np.random.default_rng(1)
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    body = ((x - 1000) / 1000.0) ** 2 + ((y - 1500) / 1350.0) ** 2 < 1
    detail = 2000 + 900 * np.sin(x / 150) * np.cos(y / 210) + rng.normal(0, 25, x.shape)
    return np.where(body, np.clip(detail, 1, 4095), 0).astype(np.uint16)


def fit(plane: np.ndarray, name: str) -> np.ndarray:
    options = TiffOptions(crop=CropOptions(), size=SIZE, filter_name=name, padding="bottom-right")
    return fit_planes(plane[None], 0, None, options, backend=CPU)[0][0]


def fit_by_pillow(plane: np.ndarray, name: str) -> np.ndarray:
    rows, columns = np.flatnonzero(plane.any(axis=1)), np.flatnonzero(plane.any(axis=0))
    part = plane[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    scale = min(SIZE[0] / part.shape[1], SIZE[1] / part.shape[0])
    size = (round(part.shape[1] * scale), round(part.shape[0] * scale))
    resized = np.asarray(Image.fromarray(part.astype(np.float32)).resize(size, PILLOW[name]))
    return np.pad(resized, ((0, SIZE[1] - size[1]), (0, SIZE[0] - size[0])))


def convert(path: Path, window: str) -> np.ndarray:
    (header,) = read_headers([str(path)])
    options = TiffOptions(crop=CropOptions(), size=SIZE, padding="bottom-right", window=window)
    return make_image(header, options, CPU, 1).frames


def convert_by_pydicom(path: Path, *, windowed: bool) -> np.ndarray:
    ds = pydicom.dcmread(path)
    pixels = ds.pixel_array
    if windowed:
        pixels = apply_voi_lut(apply_modality_lut(pixels, ds), ds)
    return fit_by_pillow(pixels, "triangle")


def compare_compressors(path: Path, folder: Path, rounds: int) -> None:
    (header,) = read_headers([str(path)])
    image = make_image(header, TiffOptions(), CPU, 1)
    readers: dict[str, Callable[[], np.ndarray]] = {}
    sizes = {}
    for name in COMPRESSORS:
        compressor, _, predictor = name.partition("+")
        target = folder / f"{name}.tiff"
        write_tiff(target, image.frames, image.origin, TiffStyle(compressor, bool(predictor)), root=folder)  # type: ignore[arg-type]
        readers[name] = lambda t=target: tifffile.imread(t)
        sizes[name] = target.stat().st_size
    compare("decode, tifffile", readers, rounds, ours="packbits")
    for name, size in sizes.items():
        print(f"  {name:24s}{size / 1e6:8.2f} MB  {size / sizes['packbits']:.3f} of packbits")


def compare(title: str, contestants: Mapping[str, Callable[[], object]], rounds: int, ours: str = "gpuprep") -> None:
    taken: dict[str, list[float]] = {name: [] for name in contestants}
    names = list(contestants)
    for number in range(rounds + 1):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            start = time.process_time()
            contestants[name]()
            if number:  # the first round warms up
                taken[name].append(time.process_time() - start)
    print(title)
    for name, seconds in taken.items():
        ratio = statistics.median(s / base for s, base in zip(seconds, taken[ours], strict=True))
        print(f"  {name:24s}{statistics.median(seconds) * 1e3:8.2f} ms  {ratio:.2f} times {ours}")


def write_dicom(plane: np.ndarray, path: Path) -> Path:
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID, ds.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.1.1", generate_uid()
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.Modality = generate_uid(), generate_uid(), "DX"
    ds.Rows, ds.Columns = plane.shape
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.WindowCenter, ds.WindowWidth, ds.RescaleSlope, ds.RescaleIntercept = 2048, 4096, 1, 0
    ds.PixelData = plane.tobytes()
    pydicom.dcmwrite(path, ds, enforce_file_format=True)
    return path


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 7)
