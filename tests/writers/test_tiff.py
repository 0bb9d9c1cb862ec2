"""TIFF files: tags, types, BigTIFF, and nothing partial."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import tifffile
from PIL import Image
from tiff_images import read_by_libtiff

from gpuprep.coordinates import CoordinateMap
from gpuprep.errors import WriteError
from gpuprep.writers import tiff
from gpuprep.writers.tiff import COMPRESSORS, PREDICTED, TiffOrigin, TiffStyle, write_tiff

MAP = CoordinateMap((20, 10), (False, False), (0, 0, 20, 10), (1.0, 1.0), (0, 0, 0, 0))
ORIGIN = TiffOrigin(MAP, None, False, False, False, (5.03, 1 / 3), {"sop_instance_uid": "1.2.3"})


def frames_of(dtype, *, colour=False):
    shape = (3, 10, 20, 3) if colour else (3, 10, 20)
    return np.random.default_rng(1).integers(0, 120, shape).astype(dtype)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32])
@pytest.mark.parametrize("compressor", COMPRESSORS)
@pytest.mark.parametrize("predictor", [False, True])
def test_pages_come_back(tmp_path, dtype, compressor, predictor):
    frames = frames_of(dtype)
    style = TiffStyle(compressor, predictor and compressor in PREDICTED)
    output = write_tiff(tmp_path / "a" / "b.tiff", frames, ORIGIN, style, root=tmp_path)
    assert (output.path, output.size) == ("a/b.tiff", (tmp_path / "a" / "b.tiff").stat().st_size)
    with tifffile.TiffFile(tmp_path / "a" / "b.tiff") as file:
        np.testing.assert_array_equal(np.stack([page.asarray() for page in file.pages]), frames)
        descriptions = [page.description for page in file.pages]
        tags = file.pages[0].tags
        assert (tags["ResolutionUnit"].value, tags["XResolution"].value) == (3, (503, 10))
    assert descriptions[0].startswith("{")
    assert descriptions[1:] == ["", ""]


STYLES = [TiffStyle(c, p, is_compat=t) for c in COMPRESSORS for p in {False, c in PREDICTED} for t in (False, True)]


@pytest.mark.parametrize("style", STYLES, ids=str)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_pillow_reads_grey(tmp_path, dtype, style):
    frames = frames_of(dtype) * (dtype(2) if dtype == np.uint8 else dtype(500))
    write_tiff(tmp_path / "a.tiff", frames, ORIGIN, style, root=tmp_path)
    with Image.open(tmp_path / "a.tiff") as image:
        for number, frame in enumerate(frames):
            image.seek(number)
            assert image.mode == ("L" if dtype == np.uint8 else "I;16")
            np.testing.assert_array_equal(np.asarray(image), frame)


@pytest.mark.skipif(shutil.which("tiffinfo") is None, reason="tiffinfo (Debian: libtiff-tools) is not installed")
@pytest.mark.parametrize("style", STYLES, ids=str)
@pytest.mark.parametrize("kind", ["uint8", "uint16", "int16", "float32", "uint8 colour", "uint16 colour"])
def test_libtiff_reads_everything(tmp_path, kind, style):
    dtype, _, colour = kind.partition(" ")
    turned = TiffOrigin(replace(MAP, flip=(True, True)), 1.0, True, True, True, (5.03, 1 / 3), {"sop_class_uid": "1.2"})
    write_tiff(tmp_path / "a.tiff", frames_of(dtype, colour=bool(colour)), turned, style, root=tmp_path)
    listing = read_by_libtiff(tmp_path / "a.tiff")
    assert listing.count("TIFF Directory at offset") == 3
    assert "Page Number: 0-3" in listing


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_colour(tmp_path, dtype):
    frames = frames_of(dtype, colour=True)
    write_tiff(tmp_path / "a.tiff", frames, ORIGIN, TiffStyle("lzw", True), root=tmp_path)
    with tifffile.TiffFile(tmp_path / "a.tiff") as file:
        assert file.pages[0].photometric.name == "RGB"
        np.testing.assert_array_equal(file.pages[2].asarray(), frames[2])


def test_published_packbits(tmp_path):
    row = np.frombuffer(b"This st" + b"r" * 48 + b"ing hangs.", np.uint8)
    write_tiff(tmp_path / "a.tiff", row[None, None], ORIGIN, TiffStyle(is_compat=True), root=tmp_path)
    with tifffile.TiffFile(tmp_path / "a.tiff") as file:
        (start,), (length,) = file.pages[0].dataoffsets, file.pages[0].databytecounts
    stored = (tmp_path / "a.tiff").read_bytes()[start : start + length]
    assert stored == b"\x06This st\xd1r\x09ing hangs."


@pytest.mark.parametrize("compat", [False, True])
def test_an_absurd_resolution_is_no_crash(tmp_path, compat):
    origin = TiffOrigin(MAP, None, False, False, False, (1e300, 1e-300), {})
    write_tiff(tmp_path / "a.tiff", frames_of(np.uint8), origin, TiffStyle(is_compat=compat), root=tmp_path)
    with tifffile.TiffFile(tmp_path / "a.tiff") as file:
        assert file.pages[0].tags["XResolution"].value == (0xFFFFFFFF, 1)


@pytest.mark.parametrize("compat", [False, True])
def test_an_image_of_unknown_spacing_has_square_pixels_of_no_unit(tmp_path, compat):
    origin = replace(ORIGIN, pixels_per_mm=None)
    write_tiff(tmp_path / "a.tiff", frames_of(np.uint8), origin, TiffStyle(is_compat=compat), root=tmp_path)
    with tifffile.TiffFile(tmp_path / "a.tiff") as file:
        tags = file.pages[0].tags
        found = [tags[name].value for name in ("ResolutionUnit", "XResolution", "YResolution")]
    assert found == [1, (1, 1), (1, 1)]


@pytest.mark.parametrize(("style", "rows"), [
    (TiffStyle("packbits", is_compat=True), 1),
    (TiffStyle("lzw", is_compat=True), 5),  # a million bytes
    (TiffStyle("packbits"), 9),
])  # fmt: skip
def test_compat_has_strips_as_its_reader_does(tmp_path, style, rows):
    write_tiff(tmp_path / "a.tiff", np.ones((1, 9, 100_000), np.uint16), ORIGIN, style, root=tmp_path)
    with tifffile.TiffFile(tmp_path / "a.tiff") as file:
        assert file.pages[0].rowsperstrip == rows


@pytest.mark.parametrize(
    ("shape", "dtype", "is_page"),
    [
        ((4, 5), "uint8", True), ((4, 5, 3), "uint16", True), ((4, 5), "int16", True), ((4, 5, 3), "float32", True),
        ((4, 5, 4), "uint8", False), ((2, 4, 5, 3), "uint8", False), ((5,), "uint8", False), ((4, 5), "int32", False),
    ],
)  # fmt: skip
def test_what_a_page_can_be(shape, dtype, is_page):
    assert tiff.is_writable(np.zeros(shape, dtype)) == is_page


def test_what_may_pass_four_gib_is_a_bigtiff(tmp_path, monkeypatch):
    frames = frames_of(np.uint16)
    monkeypatch.setattr(tiff, "_CLASSIC_LIMIT", int(frames.nbytes * 1.2))
    for compressor, big in (("uncompressed", False), ("lzw", True)):
        write_tiff(tmp_path / "a.tiff", frames, ORIGIN, TiffStyle(compressor), root=tmp_path)
        with tifffile.TiffFile(tmp_path / "a.tiff") as file:
            assert file.is_bigtiff == big


def test_the_same_image_gives_the_same_bytes(tmp_path):
    for name in "ab":
        write_tiff(tmp_path / name, frames_of(np.uint16), ORIGIN, TiffStyle("zstd", True), root=tmp_path)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_folder_that_cannot_be_is_an_error_and_leaves_nothing(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(WriteError) as caught:
        write_tiff(tmp_path / "file" / "a.tiff", frames_of(np.uint8), ORIGIN, TiffStyle(), root=tmp_path)
    assert caught.value.code == "not-writable"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
