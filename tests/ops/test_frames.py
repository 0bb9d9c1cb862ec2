"""Frames combined and interpolated, against answers worked out by hand."""

import numpy as np
import pytest

from gpuprep.backends import select
from gpuprep.ops.frames import combine_frames, interpolate_frames

CPU = select("cpu")


def frames_of(*values, dtype=np.uint16):
    return np.array(values, dtype).reshape(-1, 1, 1)


@pytest.mark.parametrize(("values", "mean"), [((0, 1), 0), ((1, 2), 2), ((1, 1, 0), 1), ((65535, 65534, 65535), 65535)])
def test_the_mean_is_rounded_half_to_even(values, mean):
    found = combine_frames(frames_of(*values), "mean", backend=CPU)
    assert (found.ravel().tolist(), found.dtype) == ([mean], np.uint16)


def test_the_mean_of_fractions_is_kept():
    found = combine_frames(frames_of(0.5, 0.75, dtype=np.float32), "mean", backend=CPU)
    assert (found.ravel().tolist(), found.dtype) == ([0.625], np.float32)


@pytest.mark.parametrize(
    ("count", "expected"), [(1, [10]), (2, [10, 31]), (3, [10, 20, 31]), (5, [10, 17, 20, 22, 31])]
)
def test_frames_are_spread_from_the_first_to_the_last(count, expected):
    planes = frames_of(10, 20, 20, 31)  # of 5: at 0, .75, 1.5, 2.25 and 3, that is 17.5, 20, 22.75
    found = interpolate_frames(planes, count, backend=CPU)
    assert found.ravel().tolist() == expected


def test_samples_of_a_pixel_stay_together():
    colour = np.arange(6, dtype=np.uint8).reshape(6, 1, 1)
    assert combine_frames(colour, "mean", samples=3, backend=CPU).ravel().tolist() == [2, 2, 4]
    assert interpolate_frames(colour, 3, samples=3, backend=CPU).ravel().tolist() == [0, 1, 2, 1, 2, 3, 3, 4, 5]
