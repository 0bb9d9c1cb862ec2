"""Coordinates there and back, from files of both kinds."""

import json
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
import tifffile
from tiff_images import options_of

from gpuprep import CoordinateMap
from gpuprep.errors import ConfigError
from gpuprep.writers.tiff import TiffOrigin, write_tiff

#: How far a source coordinate may be from where it was, pixels.
HALF_A_PIXEL = 0.5
BOXES = 10_000


def random_map(rng):
    size = tuple(int(n) for n in rng.integers(2, 5000, 2))
    left, top = (int(rng.integers(0, n - 1)) for n in size)
    width, height = (int(rng.integers(1, n - start + 1)) for n, start in zip(size, (left, top), strict=True))
    target = rng.integers(1, 600, 2)
    scale = float(np.float32(min(target[0] / width, target[1] / height)))
    content = [max(1, round(n * scale)) for n in (width, height)]
    pad = tuple(int(n) for n in rng.integers(0, 50, 4))
    flip = tuple(bool(b) for b in rng.integers(0, 2, 2))
    crop = (left, top, width, height)
    return CoordinateMap(size, flip, crop, (content[0] / width, content[1] / height), pad), scale, content


def save(path, coordinates, scale, content, *, compat):
    left, top, right, bottom = coordinates.pad
    frames = np.zeros((1, content[1] + top + bottom, content[0] + left + right), np.uint8)
    origin = TiffOrigin(coordinates, scale, True, True, True, (3.3, 3.3), {})
    options = options_of(**({"compat": "dicom-preprocessing"} if compat else {}))
    write_tiff(path, frames, origin, options.style, root=path.parent)


@pytest.mark.parametrize("compat", [True, False], ids=["compat", "standard"])
def test_boxes_come_back(tmp_path, compat):
    rng = np.random.default_rng(9)
    maps, worst = 20, 0.0
    for _ in range(maps):
        coordinates, scale, content = random_map(rng)
        save(tmp_path / "a.tiff", coordinates, scale, content, compat=compat)
        read = CoordinateMap.from_tiff(tmp_path / "a.tiff")
        assert (read.source_size if any(read.flip) else coordinates.source_size) == coordinates.source_size
        assert (read.crop, read.pad, read.flip) == (coordinates.crop, coordinates.pad, coordinates.flip)
        corners = rng.random((BOXES // maps, 2, 2)) * coordinates.source_size
        worst = max(worst, np.abs(read.to_source(read.to_output(corners)) - corners).max())
        if not compat:
            assert read == coordinates
    assert worst <= 1e-6 < HALF_A_PIXEL


def documented_inverse(tags, points):
    """What the reader of dicom-preprocessing does, without truncation: unpad, unscale, uncrop, unflip."""
    left, top, _, _ = tags["ActiveArea"]
    centre, size = np.array(tags["DefaultCropOrigin"]), np.array(tags["DefaultCropSize"])
    source = (points - (left, top)) / tags["DefaultScale"] + (centre - size // 2)
    if "65000" in tags:
        width, height, horizontal, vertical = tags["65000"]
        source = np.where((horizontal, vertical), (width, height) - source, source)
    return source


def test_compat_files_read_by_the_documented_inverse(tmp_path):
    rng = np.random.default_rng(10)
    for _ in range(20):
        coordinates, scale, content = random_map(rng)
        save(tmp_path / "a.tiff", coordinates, scale, content, compat=True)
        with tifffile.TiffFile(tmp_path / "a.tiff") as file:
            tags = {tag.name: tag.value for tag in file.pages[0].tags}
        corners = rng.random((BOXES // 20, 2, 2)) * coordinates.source_size
        mapped = CoordinateMap.from_tiff(tmp_path / "a.tiff").to_output(corners)
        assert np.abs(documented_inverse(tags, mapped) - corners).max() <= HALF_A_PIXEL


@pytest.mark.parametrize(
    ("flip", "size", "crop", "scale", "pad", "source", "output"),
    [
        ((False, False), (9, 9), (1, 1, 2, 2), 1.0, (0, 0, 0, 0), (3, 3), (2, 2)),
        ((True, False), (100, 80), (70, 20, 20, 20), 2.0, (5, 7, 0, 0), (10, 30), (45, 27)),
        ((True, True), (100, 80), (0, 0, 100, 80), 1.0, (0, 0, 0, 0), (10, 30), (90, 50)),
    ],
)
def test_known_points(flip, size, crop, scale, pad, source, output):
    coordinates = CoordinateMap(size, flip, crop, (scale, scale), pad)
    assert coordinates.to_output(source).tolist() == list(output)
    assert coordinates.to_source(output).tolist() == list(source)


def test_files_of_dicom_preprocessing_are_read(tmp_path):
    """Tags as that tool writes them, of its vector V14: Software is bytes, the origin the centre."""
    software = b"dicom-preprocessing==0.1.2\0"
    tags = [
        (305, 1, len(software), software, False),
        (50718, 11, 2, (0.26947367, 0.26947367), False),
        (50719, 4, 2, (600, 1150), False),
        (50720, 4, 2, (1200, 1900), False),
        (50829, 4, 4, (61, 0, 0, 0), False),
    ]
    pixels = np.zeros((512, 384), np.uint16)
    tifffile.imwrite(tmp_path / "a.tiff", pixels, software=False, metadata=None, extratags=tags)
    read = CoordinateMap.from_tiff(tmp_path / "a.tiff")
    assert (read.crop, read.pad, read.flip) == ((0, 200, 1200, 1900), (61, 0, 0, 0), (False, False))
    np.testing.assert_allclose(read.to_output([[0, 200], [1200, 2100]]), [[61, 0], [384, 512]], atol=0.5)

    flip = (65000, 4, 4, (1914, 2294, 1, 1), False)
    tifffile.imwrite(tmp_path / "b.tiff", pixels, software=False, metadata=None, extratags=[*tags, flip])
    turned = CoordinateMap.from_tiff(tmp_path / "b.tiff")
    assert turned.source_size == (1914, 2294)
    np.testing.assert_allclose(turned.to_output([[1914, 2094], [714, 194]]), [[61, 0], [384, 512]], atol=0.5)


COMPAT_SOFTWARE = (305, 2, 0, "dicom-preprocessing==0.1.2", False)


@pytest.mark.parametrize(
    ("tags", "crop"),
    [
        ([], (0, 0, 6, 4)),
        ([(50718, 11, 2, (0.5, 0.25), False)], (0, 0, 12, 16)),
        ([(50720, 4, 2, (7, 4), False)], (0, 0, 7, 4)),
        ([(50719, 4, 2, (5, 9), False)], (2, 7, 6, 4)),  # around its centre
    ],
)
def test_tags_that_a_file_of_dicom_preprocessing_lacks(tmp_path, tags, crop):
    """That tool writes none for a step that it did not take."""
    pixels = np.zeros((4, 6), np.uint16)
    tifffile.imwrite(tmp_path / "a.tiff", pixels, software=False, metadata=None, extratags=[COMPAT_SOFTWARE, *tags])
    read = CoordinateMap.from_tiff(tmp_path / "a.tiff")
    left, top, width, height = crop
    assert (read.crop, read.pad, read.flip) == (crop, (0, 0, 0, 0), (False, False))
    assert read.source_size == (left + width, top + height)


@pytest.mark.parametrize("scale", [(0.0, 1.0), (1.0, 0.0), (-1.0, 1.0), (np.inf, 1.0), (1.0, np.nan)])
def test_scales_that_are_none_are_refused(tmp_path, scale):
    tags = [COMPAT_SOFTWARE, (50718, 12, 2, scale, False)]
    tifffile.imwrite(tmp_path / "a.tiff", np.zeros((4, 6)), software=False, metadata=None, extratags=tags)
    with pytest.raises(ConfigError) as caught:
        CoordinateMap.from_tiff(tmp_path / "a.tiff")
    assert (caught.value.code, "transform is garbled" in caught.value.message) == ("no-coordinate-map", True)


def test_active_area_is_rounded_to_pixels():
    coordinates = CoordinateMap((20, 20), (False, False), (0, 0, 9, 3), (0.5, 0.4), (5, 7, 1, 1))
    assert coordinates.active_area == (5, 7, 5 + 5, 7 + 1)  # 4.5 and 1.2 pixels
    assert replace(coordinates, scale=(0.01, 0.01)).active_area == (5, 7, 6, 8)


WHOLE = {"source_size": [9, 9], "flip": [0, 0], "crop": [0, 0, 9, 9], "scale": [1, 1], "pad": [0, 0, 0, 0]}
GARBLED = ['{"transform"', '{"transform": 5}', '{"transform": {}}'] + [
    json.dumps({"transform": WHOLE | change})
    for change in ({"pad": [0, 0]}, {"scale": [1, 0]}, {"scale": ["x", 1]}, {"scale": [1, np.inf]})
]


@pytest.mark.parametrize("description", GARBLED)
def test_garbled_transforms_are_refused(tmp_path, description):
    tifffile.imwrite(tmp_path / "a.tiff", np.zeros((4, 4), np.uint8), description=description, metadata=None)
    with pytest.raises(ConfigError) as caught:
        CoordinateMap.from_tiff(tmp_path / "a.tiff")
    assert caught.value.code == "no-coordinate-map"


@pytest.mark.parametrize("compat", [True, False], ids=["compat", "standard"])
def test_damaged_files_are_refused_or_read(tmp_path, compat):
    rng = np.random.default_rng(12)
    save(tmp_path / "a.tiff", *random_map(rng), compat=compat)
    whole = np.frombuffer((tmp_path / "a.tiff").read_bytes(), np.uint8)
    tags = len(whole) - 1200 if compat else 0  # pixels come first
    for _ in range(300):
        damaged = whole.copy()
        damaged[rng.integers(max(tags, 0), len(whole), 4)] = rng.integers(0, 256, 4)
        (tmp_path / "b.tiff").write_bytes(damaged.tobytes()[: rng.integers(8, 2 * len(whole))])
        with suppress(ConfigError):
            assert isinstance(CoordinateMap.from_tiff(tmp_path / "b.tiff"), CoordinateMap)


@pytest.mark.parametrize("content", ["tiff", "text", "nothing"])
def test_files_without_a_map_are_refused(tmp_path, content):
    path = tmp_path / "a.tiff"
    if content == "tiff":
        tifffile.imwrite(path, np.zeros((4, 4), np.uint8))
    elif content == "text":
        path.write_text("no TIFF")
    with pytest.raises(ConfigError) as caught:
        CoordinateMap.from_tiff(path)
    assert caught.value.code == "no-coordinate-map"
