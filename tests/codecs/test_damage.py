"""Damaged bytes end in a `DecodeError` or in pixels, never otherwise; also run under AddressSanitizer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from codestreams import encode_rle
from pydicom.encaps import encapsulate, encapsulate_extended

from gpuprep.codecs.cpu import RLE
from gpuprep.codecs.encapsulated import read_frames
from gpuprep.dicom.framespec import FrameSpec
from gpuprep.dicom.header import InstanceHeader
from gpuprep.dicom.synth import axial_geometry, build_ct_slice, plan_series, write_dataset
from gpuprep.errors import DecodeError

RLE_LOSSLESS = "1.2.840.10008.1.2.5"
MUTATIONS = 1500


def mutate(seed: bytes, *, first: int = 0) -> Iterator[bytes]:
    """Yield damaged copies: bits and bytes changed, cut off, inserted, from byte `first` on. Always the same ones."""
    random = np.random.default_rng(20240102)
    for _ in range(MUTATIONS):
        data = bytearray(seed)
        for at in random.integers(first, len(seed), random.integers(1, 5)):
            match random.integers(5):
                case 0:
                    data[at : at + 1] = bytes([random.integers(256)])
                case 1:
                    data[at : at + 1] = b"\xff"
                case 2:
                    data[at : at + 4] = bytes(4)
                case 3:
                    del data[at:]
                case _:
                    data[at:at] = b"\xff" * 4
        yield bytes(data)


@pytest.mark.parametrize(("dtype", "samples"), [("u1", 1), ("u2", 1), ("u1", 3), ("u4", 1)])
def test_rle_segments(dtype: str, samples: int) -> None:
    bits = 8 * np.dtype(dtype).itemsize
    spec = FrameSpec(RLE_LOSSLESS, 13, 11, bits, bits, bits - 1, is_signed=False, samples_per_pixel=samples)
    shape = (13, 11, samples) if samples > 1 else (13, 11)
    seed = encode_rle(np.random.default_rng(1).integers(0, 255, shape).astype(dtype), samples)
    refused = 0
    for data in mutate(seed):
        try:
            RLE.decode_frame(data, spec, np.empty(shape, dtype))
        except DecodeError as error:
            assert error.code == "corrupt-frame"
            refused += 1
    assert 0 < refused < MUTATIONS


@pytest.mark.parametrize("offset_table", ["basic", "empty", "extended"])
def test_encapsulated_files(offset_table: str, tmp_path: Path) -> None:
    frames = [bytes([n]) * 40 for n in range(3)]
    dataset = build_ct_slice(plan_series(axial_geometry((1, 4, 4), spacing_xyz_mm=(1, 1, 1))), 0, np.zeros((4, 4)))
    if offset_table == "extended":
        dataset.PixelData, dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths = encapsulate_extended(
            frames
        )
    else:
        dataset.PixelData = encapsulate(frames, has_bot=offset_table == "basic")
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = RLE_LOSSLESS
    write_dataset(dataset, tmp_path / "seed")
    seed = (tmp_path / "seed").read_bytes()
    header = InstanceHeader(path=str(tmp_path / "mutant"), size=len(seed))
    spec = FrameSpec(RLE_LOSSLESS, 4, 4, 16, 16, 15, is_signed=False, number_of_frames=3)
    found = 0
    for data in mutate(seed, first=len(seed) - 300):
        Path(header.path).write_bytes(data)
        try:
            found += read_frames(header, spec) == frames
        except DecodeError as error:
            assert error.code in {"pixel-data-missing", "pixel-data-truncated"}
            assert error.subject == header.path
    assert found > 0
