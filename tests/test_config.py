"""What a job can be asked to do, and what it cannot."""

from __future__ import annotations

import math

import pytest

from gpuprep.config import MAX_SPACING_MM, Crop, Stacking, Transforms
from gpuprep.errors import ConfigError

WINDOW = {"window_level": 40.0, "window_width": 400.0}


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"spacing_xyz_mm": (1, 1, -0.1)}, "bad-spacing"),
        ({"spacing_xyz_mm": (MAX_SPACING_MM * 1.01, 1, 1)}, "bad-spacing"),
        ({"spacing_xyz_mm": (1, math.nan, 1)}, "bad-spacing"),
        ({"window_level": math.inf, "window_width": 400.0}, "bad-window"),
        ({"window_level": 40.0, "window_width": 0.0}, "bad-window"),
        ({"window_width": 400.0}, "bad-window"),
        ({"rescale_intensity": (0.0, 1.0)}, "bad-window"),
        ({"rescale_intensity": (1.0, 1.0), **WINDOW}, "bad-window"),
        ({"antialias": True, "interpolation": "nearest"}, "antialias-nearest"),
        ({"orientation": "RA"}, "bad-orientation"),
        ({"orientation": "RAX"}, "bad-orientation"),
    ],
)
def test_refuses_transforms(options, code):
    with pytest.raises(ConfigError) as error:
        Transforms(**options)
    assert error.value.code == code


def test_transforms_at_their_limits():
    Transforms(spacing_xyz_mm=(0, MAX_SPACING_MM, 1), rescale_intensity=(-1.0, 0.0), orientation="SLA", **WINDOW)
    assert Stacking(spacing_tolerance=0.0).spacing_tolerance == 0
    with pytest.raises(ConfigError) as error:
        Stacking(spacing_tolerance=1.0)
    assert error.value.code == "bad-tolerance"


def test_a_window_is_for_ct_or_for_all_without_ct():
    windowed = Transforms(**WINDOW)
    assert windowed.is_windowed("CT", {"CT", "PT"})
    assert not windowed.is_windowed("PT", {"CT", "PT"})
    assert windowed.is_windowed("MR", {"MR", "PT"})
    assert not Transforms().is_windowed("CT", {"CT"})


@pytest.mark.parametrize(
    ("text", "crop"),
    [
        ("none", Crop()),
        ("foreground", Crop("foreground", 0.0)),
        ("foreground:2.5", Crop("foreground", 2.5)),
        ("roi:0", Crop("roi", 0.0)),
    ],
)
def test_crops(text, crop):
    assert Crop.parse(text) == crop


@pytest.mark.parametrize("text", ["none:1", "roi:-1", "roi:nan", "roi:x", "moon", ""])
def test_refuses_crops(text):
    with pytest.raises(ConfigError) as error:
        Crop.parse(text)
    assert error.value.code == "bad-crop"
