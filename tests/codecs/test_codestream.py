"""Headers of codestreams put together by hand (ITU-T T.81, T.800), and encoders' own."""

import struct

import imagecodecs
import numpy as np
import pytest

from gpuprep.codecs.codestream import clear_sign, has_end, read_jpeg, read_jpeg2000
from gpuprep.errors import DecodeError


def segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, 2 + len(content)) + content


def start_of_frame(ids: bytes, marker: int = 0xC0) -> bytes:
    return segment(marker, struct.pack(">BHHB", 12, 20, 30, len(ids)) + b"".join(bytes([i, 0x11, 0]) for i in ids))


SCAN = segment(0xDA, b"\1\1\0\0\x3f\0") + b"data\xff\xd9"
JFIF = segment(0xE0, b"JFIF\0\1\2\0\0\1\0\1\0\0")
EXIF = segment(0xE1, b"Exif\0\0" + start_of_frame(b"\1"))


def adobe(transform: int) -> bytes:
    return segment(0xEE, b"Adobe\0\x64\0\0\0\0" + bytes([transform]))


@pytest.mark.parametrize(
    ("segments", "says_rgb", "says_ybr"),
    [
        (start_of_frame(b"\1\2\3"), False, False),
        (JFIF + start_of_frame(b"\1\2\3"), False, True),
        (EXIF + b"\xff" + start_of_frame(b"\1\2\3", 0xC3), False, False),  # a fill byte before the marker
        (start_of_frame(b"RGB", 0xF7), True, False),
        (segment(0xC4, bytes(20)) + start_of_frame(b"rgb", 0xC1), True, False),
        (adobe(0) + start_of_frame(b"\1\2\3"), True, False),
        (adobe(1) + start_of_frame(b"\1\2\3"), False, True),
        (segment(0xEE, b"Adobe") + start_of_frame(b"\1\2\3"), False, False),
    ],
)
def test_jpeg(segments, says_rgb, says_ybr):
    found = read_jpeg(b"\xff\xd8" + segments + SCAN)
    assert (found.rows, found.columns, found.samples, found.precision) == (20, 30, 3, 12)
    assert (found.says_rgb, found.says_ybr, found.is_complete) == (says_rgb, says_ybr, True)
    assert not read_jpeg(b"\xff\xd8" + segments + SCAN[:-1]).is_complete


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xd8",
        b"\xff\xd9" + start_of_frame(b"\1"),
        b"\xff\xd8" + JFIF + SCAN,
        b"\xff\xd8"
        + start_of_frame(b"\1")
        + b"\x44"
        + segment(0xC4, bytes(20))
        + SCAN,  # no marker where one should be
        b"\xff\xd8" + start_of_frame(b"\1") + b"\xff\xd9",
    ],
)
def test_jpeg_without_a_header_is_refused(data):
    with pytest.raises(DecodeError) as caught:
        read_jpeg(data)
    assert caught.value.code == "corrupt-frame"


@pytest.mark.parametrize(("depth", "precision", "is_signed"), [(11, 12, False), (0x8F, 16, True)])
@pytest.mark.parametrize("box", [b"", b"\0\0\0\x0cjP  "])
def test_jpeg_2000_image_that_is_not_at_the_origin(depth, precision, is_signed, box):
    size = struct.pack(">HH8IHBBB", 41, 0, 37, 25, 7, 5, 37, 25, 0, 0, 1, depth, 1, 1)
    found = read_jpeg2000(box + b"\xff\x4f\xff\x51" + size)
    assert (found.rows, found.columns, found.samples) == (20, 30, 1)
    assert (found.precision, found.is_signed, found.starts_at) == (precision, is_signed, len(box))


@pytest.mark.parametrize("data", [b"", b"\xff\x4f\xff\x51" + bytes(38)])
def test_jpeg_2000_without_a_header_is_refused(data):
    with pytest.raises(DecodeError) as caught:
        read_jpeg2000(data)
    assert caught.value.code == "corrupt-frame"


@pytest.mark.parametrize("padding", [b"\0", b"\xff"])
def test_end_marker_before_at_most_eight_bytes_of_padding(padding):
    assert has_end(b"data\xff\xd9") and has_end(b"data\xff\xd9" + 8 * padding)
    assert not has_end(b"data\xff\xd9" + 9 * padding) and not has_end(b"data\xff\xd9data")


def test_unsigned_codestream_is_half_the_range_above_the_signed_one():
    values = np.random.default_rng(3).integers(-(2**15), 2**15, (20, 30)).astype(np.int16)
    data = imagecodecs.jpeg2k_encode(values, level=0, codecformat="j2k", reversible=True)
    assert np.array_equal(imagecodecs.jpeg2k_decode(data), values)
    assert np.array_equal(imagecodecs.jpeg2k_decode(clear_sign(data)), (values.astype(int) + 2**15).astype(np.uint16))
