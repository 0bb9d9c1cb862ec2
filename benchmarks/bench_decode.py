"""Decoding against pydicom: 512 × 512 frames of 16 bits, one thread each.

``python benchmarks/bench_decode.py [--rounds 5] [--slices 20]`` writes a CT-like series in each transfer syntax, and
decodes it by gpuprep from file to volume and by pydicom's `pixel_array` file by file; times are of a frame.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
from peers import pydicom as peer
from pydicom.encaps import encapsulate
from timing import OURS, Call, Report

from gpuprep.codecs.batch import decode_stack
from gpuprep.dicom.header import read_headers
from gpuprep.dicom.stack import Stack, build_stacks
from gpuprep.dicom.synth import CT_INTERCEPT_HU, axial_geometry, build_ct_slice, plan_series, write_dataset

SIZE = 512
NATIVE_SLICES = 200
EXPLICIT, RLE = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.5"
#: name → transfer syntax, pydicom's plugin, the least ratio of CPU times.
CONTESTS = {
    "JPEG lossless": ("1.2.840.10008.1.2.4.70", "gdcm", 2.2),
    "JPEG-LS": ("1.2.840.10008.1.2.4.80", "gdcm", 1.3),
    "JPEG 2000": ("1.2.840.10008.1.2.4.90", "gdcm", 0.9),
    "RLE": (RLE, "pydicom", 8.0),
    "native": (EXPLICIT, "", 8.0),
}


def make_volume(slices: int) -> np.ndarray[Any, Any]:
    """Stored values of a body of smooth organs and noise, which compress about 2.4 times, as real CT does."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[-1 : 1 : SIZE * 1j, -1 : 1 : SIZE * 1j]
    body = np.where(x**2 + 1.5 * y**2 < 0.7, 1040 + 60 * np.sin(9 * x) * np.cos(7 * y), 24)
    return np.stack([body + random.normal(0, 12, body.shape) for _ in range(slices)]).clip(0, 4095).astype(np.int16)


def write_series(folder: Path, volume: np.ndarray[Any, Any], syntax: str) -> Stack:
    series = plan_series(axial_geometry(volume.shape, spacing_xyz_mm=(0.8, 0.8, 2.5)))
    encoders: dict[str, Callable[[Any], Any]] = {
        CONTESTS["JPEG lossless"][0]: lambda a: imagecodecs.jpeg8_encode(a, lossless=True, bitspersample=16),
        CONTESTS["JPEG-LS"][0]: imagecodecs.jpegls_encode,
        CONTESTS["JPEG 2000"][0]: lambda a: imagecodecs.jpeg2k_encode(a, codecformat="j2k", reversible=True),
    }
    for index, pixels in enumerate(volume):
        dataset = build_ct_slice(series, index, pixels + CT_INTERCEPT_HU)
        dataset.PixelRepresentation = 0
        if syntax == RLE:
            dataset.compress(RLE, encoding_plugin="pydicom", generate_instance_uid=False)
        elif syntax != EXPLICIT:
            dataset.PixelData = encapsulate([bytes(encoders[syntax](pixels.view(np.uint16)))])
            dataset["PixelData"].VR, dataset["PixelData"].is_undefined_length = "OB", True
            dataset.file_meta.TransferSyntaxUID = syntax
        write_dataset(dataset, folder / f"{index:04d}.dcm")
    (stack,) = build_stacks(read_headers([str(path) for path in sorted(folder.iterdir())]))
    return stack


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--slices", type=int, default=20, help="of the compressed series")
    options = parser.parse_args()
    report = Report("decode")
    for name, (syntax, plugin, at_least) in CONTESTS.items():
        volume = make_volume(NATIVE_SLICES if syntax == EXPLICIT else options.slices)
        with tempfile.TemporaryDirectory() as folder:
            stack = write_series(Path(folder), volume, syntax)
            paths = [frame.instance.path for frame in stack.frames]

            def ours(stack: Stack = stack) -> np.ndarray[Any, Any]:
                return decode_stack(stack, workers=1).array

            def theirs(paths: list[str] = paths, plugin: str = plugin) -> np.ndarray[Any, Any]:
                return peer.decode(paths, plugin)

            np.testing.assert_array_equal(ours(), volume)
            np.testing.assert_array_equal(theirs(), volume)
            by_peer = f"pydicom {plugin}".rstrip()
            rows = report.contest(name, {OURS: Call(ours), by_peer: Call(theirs)}, options.rounds, scale=len(volume))
        report.demand(f"{name}, CPU ratio", rows[by_peer]["cpu_s_ratio"], at_least=at_least)
    return report.close()


if __name__ == "__main__":
    sys.exit(main())
