"""One X-ray of 3000 × 2500 pixels, 12 of 16 bits, on one thread.

Crop, resize and pad against Pillow; file to array against pydicom and Pillow; TIFFs by compressor: decoding and sizes.

``python benchmarks/bench_tiff.py [--rounds 7]``
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import tifffile
from peers import pillow
from peers import pydicom as peer
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid
from timing import OURS, Call, Report

from gpuprep.backends.cpu import CpuBackend
from gpuprep.dicom.header import read_headers
from gpuprep.ops.region import CropOptions
from gpuprep.run.tiff_fit import fit_planes
from gpuprep.run.tiff_image import make_image
from gpuprep.run.tiff_options import TiffOptions
from gpuprep.writers.tiff import TiffStyle, write_tiff

WIDTH, HEIGHT, SIZE = 2500, 3000, (384, 512)
CPU = CpuBackend(1)
#: Images of a run.
IMAGES = 5
COMPRESSORS = ("uncompressed", "packbits", "lzw", "lzw+predictor", "deflate+predictor", "zstd+predictor")
RESIZE_AT_LEAST, ARRAY_AT_LEAST, PACKBITS_AT_LEAST = 3.0, 6.0, 3.0
#: Of the size by packbits.
LZW_AT_MOST = 0.7
#: Grey levels between ours and Pillow's float resize.
TOLERANCE_GREY = 1.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    report = Report("tiff")
    plane = make_plane()
    for name in pillow.FILTERS:
        rows = report.contest(
            f"crop + resize to 384 × 512 + pad, {name}",
            {
                OURS: repeat(lambda n=name: fit(plane, n)),
                "Pillow": repeat(lambda n=name: pillow.fit(plane, n, *SIZE)),
            },
            rounds,
            scale=IMAGES,
        )
        report.demand(f"resize, {name}, CPU ratio", rows["Pillow"]["cpu_s_ratio"], at_least=RESIZE_AT_LEAST)
        oracle = np.clip(pillow.fit(plane, name, *SIZE), 0, 65535)
        difference = float(np.abs(fit(plane, name) - oracle).max())
        report.demand(f"resize, {name}, largest difference", difference, at_most=TOLERANCE_GREY)
    with tempfile.TemporaryDirectory() as folder:
        path = write_dicom(plane, Path(folder) / "a.dcm")
        for name, window, read in (
            ("stored values", "none", peer.read_stored),
            ("window", "voi", peer.read_windowed),
        ):
            rows = report.contest(
                f"file → array, {name}",
                {
                    OURS: repeat(lambda w=window: convert(path, w)),
                    "pydicom + Pillow": repeat(lambda r=read: pillow.fit(r(path), "triangle", *SIZE)),
                },
                rounds,
                scale=IMAGES,
            )
            ratio = rows["pydicom + Pillow"]["cpu_s_ratio"]
            report.demand(f"file → array, {name}, CPU ratio", ratio, at_least=ARRAY_AT_LEAST)
        compare_compressors(report, path, Path(folder), rounds)
    return report.close()


def repeat(work: Callable[[], object]) -> Call:
    """Return `IMAGES` images in a row, as in a folder of them: the first alone pays for memory that is cold."""

    def work_through() -> None:
        for _ in range(IMAGES):
            work()

    return Call(work_through)


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


def convert(path: Path, window: str) -> np.ndarray:
    (header,) = read_headers([str(path)])
    options = TiffOptions(crop=CropOptions(), size=SIZE, padding="bottom-right", window=window)
    return make_image(header, options, CPU, 1).frames


def compare_compressors(report: Report, path: Path, folder: Path, rounds: int) -> None:
    (header,) = read_headers([str(path)])
    image = make_image(header, TiffOptions(), CPU, 1)
    readers, sizes = {}, {}
    for name in COMPRESSORS:
        compressor, _, predictor = name.partition("+")
        target = folder / f"{name}.tiff"
        write_tiff(target, image.frames, image.origin, TiffStyle(compressor, bool(predictor)), root=folder)  # type: ignore[arg-type]
        readers[name] = repeat(lambda t=target: tifffile.imread(t))
        sizes[name] = target.stat().st_size
    rows = report.contest("decode by tifffile", readers, rounds, ours="packbits", scale=IMAGES)
    report.demand("LZW : packbits, CPU ratio", rows["lzw"]["cpu_s_ratio"], at_least=PACKBITS_AT_LEAST)
    for name, size in sizes.items():
        report.figure(f"{name}, size : packbits", round(size / sizes["packbits"], 3))
    ratio = sizes["lzw+predictor"] / sizes["packbits"]
    report.demand("LZW with predictor : packbits, size", ratio, at_most=LZW_AT_MOST)


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
    sys.exit(main())
