"""The 27 conformance vectors of crop, scale and padding, in both modes, and published pixel values of real files."""

from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import tifffile
from pydicom.data import get_testdata_file
from tiff_images import CPU, options_of

from gpuprep.coordinates import CoordinateMap
from gpuprep.dicom.header import read_headers
from gpuprep.run.tiff_fit import fit_planes
from gpuprep.run.tiff_image import make_image
from gpuprep.writers.tiff import TiffOrigin, write_tiff

COMPAT = {"compat": "dicom-preprocessing"}
CROP = {"crop": True}


def image(width, height, *parts, dtype=np.uint16, fill=0):
    plane = np.full((height, width), fill, dtype)
    for value, (left, right), (top, bottom) in parts:
        plane[top : bottom + 1, left : right + 1] = value
    return plane[None]


@dataclass(frozen=True)
class Vector:
    """Planes and options; crop as left, top, width, height; scale; content and padding (left, top, right, bottom).

    `standard` is what differs without ``--compat``.
    """

    name: str
    planes: np.ndarray
    chosen: dict
    crop: tuple
    scale: float | None
    content: tuple
    pad: tuple = (0, 0, 0, 0)
    standard: dict = field(default_factory=dict)


def lit(width, height, **dark):
    """An image without zeros but for one row or column at the end."""
    plane = np.full((1, height, width), 20000, np.uint16)
    if "row" in dark:
        plane[:, -8:] = 0
    if "column" in dark:
        plane[:, :, -8:] = 0
    return plane


V13 = image(1914, 2294, (20000, (0, 1199), (200, 2099)), (65535, (1700, 1799), (100, 179)))
V17 = image(400, 300, (5000, (50, 249), (40, 239)), (5000, (390, 394), (5, 9)))
V18 = image(6, 6, (1, (0, 0), (0, 5)), (5, (2, 3), (2, 3)), dtype=np.uint8)
V19 = image(120, 100, (300, (20, 79), (10, 89)), (65535, (100, 119), (95, 99)))
V20 = np.concatenate([image(50, 40, (1000, (10, 19), (10, 19))), image(50, 40, (1000, (30, 39), (5, 14)))])
V21 = np.concatenate([V20, np.zeros((1, 40, 50), np.uint16)])
V23 = image(400, 300, (5000, (50, 249), (40, 239)))
WIDE = {"size": "512,384"}
UPPER_LEFT, LOWER_RIGHT, MIDDLE = ({"padding": p} for p in ("top-left", "bottom-right", "center"))
BOX, PARTS = CROP | {"no_components": True}, CROP | {"crop_mode": "components"}
VECTORS = [
    Vector("V2", lit(1000, 700), WIDE | UPPER_LEFT, (0, 0, 1000, 700), 0.512, (512, 358), (0, 26, 0, 0)),
    Vector("V3", lit(1000, 700), WIDE | LOWER_RIGHT, (0, 0, 1000, 700), 0.512, (512, 358), (0, 0, 0, 26)),
    Vector("V4", lit(1000, 700), WIDE | MIDDLE, (0, 0, 1000, 700), 0.512, (512, 358), (0, 13, 0, 13)),
    Vector("V5", lit(1000, 700, row=1), WIDE, (0, 0, 1000, 700), 0.512, (512, 358), (0, 0, 0, 26)),
    Vector("V6", lit(700, 1000), WIDE | UPPER_LEFT, (0, 0, 700, 1000), 0.384, (269, 384), (243, 0, 0, 0)),
    Vector("V7", lit(700, 1000), WIDE | MIDDLE, (0, 0, 700, 1000), 0.384, (269, 384), (121, 0, 122, 0)),
    Vector("V8", lit(700, 1000, column=1), WIDE, (0, 0, 700, 1000), 0.384, (269, 384), (0, 0, 243, 0)),
    Vector("V9", lit(700, 1000), WIDE, (0, 0, 700, 1000), 0.384, (269, 384), (243, 0, 0, 0)),
    Vector("V10", lit(700, 1000), WIDE | {"no_padding": True}, (0, 0, 700, 1000), 0.384, (269, 384)),
    Vector("V11", lit(100, 50), MIDDLE | {"size": "512,512"},
           (0, 0, 100, 50), 5.12, (512, 256), (0, 128, 0, 128)),
    Vector("V12", image(40, 30), CROP | {"size": "20,20"}, (0, 0, 40, 30), 0.5, (20, 15), (0, 5, 0, 0)),
    Vector("V13", V13, BOX, (0, 100, 1800, 2000), None, (1800, 2000)),
    Vector("V14", V13, BOX | {"crop_max": True, "size": "384,512"},
           (0, 200, 1200, 1900), 0.26947367, (323, 512), (61, 0, 0, 0)),
    Vector("V15", V13, PARTS, (0, 201, 1199, 1899), None, (1199, 1899)),
    Vector("V16", image(1024, 1024, (1000, (101, 900), (83, 910))), PARTS, (101, 83, 800, 828), None, (800, 828)),
    Vector("V17", V17, PARTS, (50, 40, 200, 200), None, (200, 200)),
    Vector("V17 box", V17, BOX, (50, 5, 345, 235), None, (345, 235)),
    Vector("V18", V18, PARTS, (2, 2, 2, 2), None, (2, 2)),
    Vector("V18 box", V18, BOX, (0, 0, 4, 6), None, (4, 6)),
    Vector("V19", V19, PARTS, (100, 95, 20, 5), None, (20, 5)),
    Vector("V19 max", V19, PARTS | {"crop_max": True}, (20, 10, 60, 80), None, (60, 80)),
    Vector("V19 box", V19, BOX, (20, 10, 100, 90), None, (100, 90)),
    Vector("V20", V20, CROP | LOWER_RIGHT | {"size": "64,64"},
           (10, 5, 30, 15), 2.1333334, (64, 32), (0, 0, 0, 32)),
    Vector("V21", V21, CROP, (0, 0, 50, 40), None, (50, 40), standard={"crop": (10, 5, 30, 15), "content": (30, 15)}),
    Vector("V22", image(20, 20, (9, (3, 7), (7, 15))), BOX, (3, 7, 5, 9), None, (5, 9)),
    Vector("V23 .05", V23, BOX | {"border_frac": 0.05}, (30, 25, 240, 230), None, (240, 230)),
    Vector("V23 .1", V23, BOX | {"border_frac": 0.1}, (10, 10, 280, 260), None, (280, 260)),
    Vector("V23 parts .05", V23, PARTS | {"border_frac": 0.05}, (50, 40, 200, 200), None, (200, 200)),
    Vector("V23 parts .1", V23, PARTS | {"border_frac": 0.1}, (50, 40, 200, 200), None, (200, 200)),
    Vector("V24", lit(3328, 4096), LOWER_RIGHT | {"size": "384,512"},
           (0, 0, 3328, 4096), 0.115384616, (384, 473), (0, 0, 0, 39)),
    Vector("V27", lit(101, 67), UPPER_LEFT | {"size": "50,50"},
           (0, 0, 101, 67), 0.4950495, (50, 33), (0, 17, 0, 0)),
]  # fmt: skip


def write(planes, options, path):
    fitted, fit = fit_planes(planes, 0, None, options, backend=CPU)
    height, width = planes.shape[1:]
    scale = (fit.size[0] / fit.crop[2], fit.size[1] / fit.crop[3])
    origin = TiffOrigin(
        CoordinateMap((width, height), (False, False), fit.crop, scale, fit.pad),
        fit.nominal_scale,
        was_cropped=options.crop is not None,
        was_resized=options.size is not None,
        was_padded=options.size is not None and options.padding != "none",
        pixels_per_mm=None,
        description={},
    )
    write_tiff(path, fitted, origin, options.style, root=path.parent)
    return fit


@pytest.mark.parametrize("compat", [True, False], ids=["compat", "standard"])
@pytest.mark.parametrize("vector", VECTORS, ids=[v.name for v in VECTORS])
def test_vectors(vector, compat, tmp_path):
    expected = vector if compat else replace(vector, **vector.standard)
    options = options_of(**vector.chosen, **(COMPAT if compat else {}))
    fit = write(vector.planes, options, tmp_path / "a.tiff")
    assert (fit.crop, fit.size, fit.pad) == (expected.crop, expected.content, expected.pad)
    with tifffile.TiffFile(tmp_path / "a.tiff") as file:
        pages = [{tag.name: tag.value for tag in page.tags} for page in file.pages]
    (left, top, width, height), pad = expected.crop, expected.pad
    out = (expected.content[0] + pad[0] + pad[2], expected.content[1] + pad[1] + pad[3])
    assert len(pages) == len(vector.planes)
    for page in pages:
        assert (page["ImageWidth"], page["ImageLength"]) == out
        assert page["PageNumber"] == (0, len(pages))
        if compat:
            cropped, padded = "crop" in vector.chosen, "size" in vector.chosen and not vector.chosen.get("no_padding")
            assert page.get("DefaultCropOrigin") == ((left + width // 2, top + height // 2) if cropped else None)
            assert page.get("DefaultCropSize") == ((width, height) if cropped else None)
            assert page.get("ActiveArea") == (pad if padded else None)
            scale = None if vector.scale is None else (np.float32(vector.scale),) * 2
            assert page.get("DefaultScale") == scale
        else:
            assert page["DefaultCropOrigin"] == (left, top)
            assert page["DefaultCropSize"] == (width, height)
            assert page["ActiveArea"] == (pad[0], pad[1], pad[0] + expected.content[0], pad[1] + expected.content[1])
            assert page["DefaultScale"] == pytest.approx((expected.content[0] / width, expected.content[1] / height))


def ct_small(**chosen):
    (header,) = read_headers([get_testdata_file("CT_small.dcm")])
    return make_image(header, options_of(**chosen), CPU, 1)


def test_v1_and_its_resolution(tmp_path):
    result = ct_small(crop=True, size="64,64", **COMPAT)
    write_tiff(tmp_path / "a.tiff", result.frames, result.origin, options_of(**COMPAT).style, root=tmp_path)
    with tifffile.TiffFile(tmp_path / "a.tiff") as file:
        page = file.pages[0]
        tags = {tag.name: tag.value for tag in page.tags}
        assert page.dtype == np.uint16
    assert tags["ActiveArea"] == (0, 0, 0, 0)
    assert (tags["DefaultCropOrigin"], tags["DefaultCropSize"]) == ((64, 64), (128, 128))
    assert (tags["DefaultScale"], tags["XResolution"], tags["YResolution"]) == ((0.5, 0.5), (7, 1), (7, 1))
    assert tags["ResolutionUnit"] == 3
    assert "ImageDescription" not in tags
    exact = ct_small(crop=True, size="64,64").origin.pixels_per_mm
    assert exact == pytest.approx((1.5117888 / 2, 1.5117888 / 2))


@pytest.mark.parametrize(
    ("spacing", "size", "per_cm"),
    [("1,1", (85, 85), 10), ("0.5,0.5", (169, 169), 19), ("2,2", (42, 42), 4), ("1,.5", (85, 169), 10)],
)
def test_v25(spacing, size, per_cm):
    result = ct_small(spacing=spacing)
    assert result.frames.shape[2:0:-1] == size
    assert result.origin.coordinates.scale == (size[0] / 128, size[1] / 128)
    assert result.origin.coordinates.pad == (0, 0, 0, 0)
    assert int(result.origin.pixels_per_mm[0] * 10) == per_cm


def test_published_pixels_of_a_ct_without_window():
    grey = ct_small().frames[0]
    (header,) = read_headers([get_testdata_file("CT_small.dcm")])
    raw = ct_small(window="none").frames[0] + 1024
    assert grey.sum(dtype=np.int64) == 404617233
    assert [int(grey[raw == value][0]) for value in (175, 180, 166, 143)] == [1508, 1667, 1223, 492]
    assert (grey[5, 118], grey[64, 61]) == (0, 65535)
    assert header.window_center == ()


RESIZED = {
    "nearest": (101270765, [1763, 619, 937, 2080], 56942),
    "triangle": (101155486, [1621, 1004, 948, 1717], 55057),
    "catmull-rom": (101154610, [1698, 916, 768, 1653], 56388),
    "gaussian": (101155923, [1587, 1039, 1013, 1745], 54572),
    "lanczos3": (101154176, [1760, 939, 683, 1636], 56665),
}


@pytest.mark.parametrize(("name", "expected"), RESIZED.items())
def test_published_pixels_of_a_resized_ct(name, expected):
    total, corner, middle = expected
    grey = ct_small(size="64,64", filter_name=name).frames[0].astype(np.int64)
    assert abs(grey.sum() - total) <= grey.size  # one level a pixel
    assert np.abs(grey[0, :4] - corner).max() <= 1
    assert abs(grey[32, 32] - middle) <= 1


def test_signed_values_without_window_are_not_lost(data_dir):
    (header,) = read_headers([str(data_dir / "syntaxes/pylibjpeg_data/JPEG2000/JPEG2000.dcm")])
    assert header.pixel_representation == 1
    grey = make_image(header, options_of(), CPU, 1).frames
    assert (grey.min(), grey.max()) == (0, 65535)


def test_frames_share_one_window(data_dir):
    (header,) = read_headers([str(data_dir / "enhanced/pydicom_data_enhanced/emri_small.dcm")])
    result = make_image(header, options_of(window="minmax"), CPU, 1)
    values = make_image(header, options_of(window="none"), CPU, 1).frames
    assert len(result.frames) == 10
    assert result.frames.max() == 65535
    order = np.argsort(values.ravel(), kind="stable")
    assert (np.diff(result.frames.ravel()[order].astype(int)) >= 0).all()


@pytest.mark.parametrize(("edge", "pad"), [(128, (0, 0, 2, 0)), (129, (2, 0, 0, 0))])
def test_an_edge_is_black_where_8_bits_would_make_it_0(edge, pad):
    planes = lit(6, 4)
    planes[:, :, -1] = edge  # 128 / 257 rounds to 0, 129 / 257 to 1
    _, fit = fit_planes(planes, 0, None, options_of(size="8,4"), backend=CPU)
    assert (fit.size, fit.pad) == ((6, 4), pad)
