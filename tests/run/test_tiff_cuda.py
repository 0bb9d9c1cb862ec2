"""The CUDA path of ``gpuprep tiff`` without a GPU: the frames of the CPU, one trip up and one down."""

from __future__ import annotations

import fake_cuda
import numpy as np
import pytest
from tiff_images import CPU, options_of, write_image

from gpuprep.backends import select
from gpuprep.dicom.header import read_headers
from gpuprep.run.tiff_image import make_image

SHAPE = (6, 61, 53)
CHOICES = {
    "as it is": {},
    "least to greatest": {"window": "minmax"},
    "modality values": {"window": "none"},
    "cropped": {"crop": True},
    "cropped modality values": {"window": "none", "crop": True, "crop_max": True, "size": "40,64"},
    "largest component": {"crop": True, "crop_mode": "components"},
    "maximum is background": {"crop": True, "crop_max": True, "border_frac": 0.05},
    "fitted": {"size": "40,64"},
    "nearest": {"size": "40,64", "filter_name": "nearest", "padding": "center"},
    "lanczos": {"spacing": "0.7,0.7,2.5", "filter_name": "lanczos3"},
    "middle frame": {"volume_handler": "central-slice"},
    "brightest": {"volume_handler": "max-intensity", "size": "30,30"},
    "mean": {"volume_handler": "mean"},
    "interpolated": {"volume_handler": "interpolate", "target_frames": 9},
}  # fmt: skip


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    random = np.random.default_rng(5)
    frames = np.zeros(SHAPE, np.uint16)
    frames[:, 8:50, 5:40] = random.integers(200, 4000, (SHAPE[0], 42, 35))
    frames[:, 55:58, 45:50] = 300
    common = {"PixelSpacing": [1, 1], "SpacingBetweenSlices": "5"}
    return {
        "window": write_image(folder / "w.dcm", frames, WindowCenter="1500", WindowWidth="2000", **common),
        "inverted": write_image(folder / "i.dcm", frames, photometric="MONOCHROME1", **common),
        "signed": write_image(folder / "s.dcm", (frames.astype(np.int16) - 1024), RescaleSlope="0.5", **common),
        "padded": write_image(folder / "p.dcm", frames, PixelPaddingValue=0, **common),
        "bytes": write_image(folder / "b.dcm", (frames >> 4).astype(np.uint8), bits=8, **common),
        "wide": write_image(folder / "x.dcm", frames.astype(np.uint32) << 5, bits=20, **common),
    }


@pytest.mark.parametrize("chosen", CHOICES.values(), ids=CHOICES)
@pytest.mark.parametrize("kind", ["window", "inverted", "signed", "padded", "bytes", "wide"])
def test_the_device_gives_the_frames_of_the_cpu(monkeypatch, images, kind, chosen):
    (header,) = read_headers([str(images[kind])])
    expected = make_image(header, options_of(**chosen), CPU, 1)
    device = fake_cuda.install(monkeypatch)
    backend = select("cuda")
    with backend.activate():
        found = make_image(header, options_of(**chosen), backend, 1)
    assert found.frames.dtype == expected.frames.dtype
    assert np.array_equal(found.frames, expected.frames)
    assert found.origin == expected.origin
    stored = np.prod(SHAPE) * (header.bits_allocated // 8)
    if kind != "wide":  # wide pixels are mapped on the host
        assert sum(device.uploads()) < stored * 1.2 + 300_000  # and grey tables
        assert sum(device.downloads()) < found.frames.nbytes + 20_000
