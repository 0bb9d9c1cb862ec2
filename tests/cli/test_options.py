"""Texts of the command line become configuration: each its own."""

from __future__ import annotations

import pytest

from gpuprep.cli.options import parse_case_options, parse_numbers, parse_resources
from gpuprep.config import (
    Crop,
    LabelPatterns,
    MultipleSegmentations,
    OnMissing,
    Resources,
    RoiOptions,
    RoiStrategy,
    Stacking,
    Transforms,
)
from gpuprep.errors import ConfigError
from gpuprep.run.case import CaseOptions


def test_every_option_of_a_case_reaches_its_place(tmp_path):
    roi_map = tmp_path / "rois.yaml"
    roi_map.write_text("GTV: gtv.*\n")
    options = parse_case_options(
        roi_match_yaml=roi_map,
        roi_strategy="KEEP_FIRST",
        roi_ignore_case=False,
        roi_allow_multi_matches=False,
        on_missing="ignore",
        multiple_segmentations="latest",
        contour_overlap="union",
        fractional_threshold=0.25,
        on_irregular="resample",
        spacing_tolerance=0.0,
        spacing="1,2,3.5",
        interpolation="cubic",
        antialias=True,
        window_level=40.0,
        window_width=400.0,
        rescale_intensity="-1,2",
        crop="roi:10",
        orientation="ras",
        pet="stored",
    )
    assert options == CaseOptions(
        Transforms((1.0, 2.0, 3.5), "cubic", True, 40.0, 400.0, (-1.0, 2.0), Crop("roi", 10.0), "RAS", "stored"),
        Stacking("resample", 0.0),
        RoiOptions(
            (LabelPatterns("GTV", ("gtv.*",)),),
            ignore_case=False,
            strategy=RoiStrategy.KEEP_FIRST,
            allow_multiple_matches=False,
            on_missing=OnMissing.IGNORE,
            contour_overlap="union",
            fractional_threshold=0.25,
        ),
        MultipleSegmentations.LATEST,
    )


def test_resources():
    assert parse_resources("cuda", "0,2", 5) == Resources("cuda", (0, 2), 5)
    for devices in ("", "0,0", "-1", "a"):
        with pytest.raises(ConfigError) as error:
            parse_resources("cuda", devices, None)
        assert error.value.code == "bad-devices"


@pytest.mark.parametrize("text", ["1", "1,2,3,4", "1,x", "1,inf", "nan,1", ""])
def test_refuses_what_are_not_so_many_finite_numbers(text):
    assert parse_numbers("1,-2.5", (2, 3), "bad-size", "") == [1.0, -2.5]
    with pytest.raises(ConfigError) as error:
        parse_numbers(text, (2, 3), "bad-size", "")
    assert error.value.code == "bad-size"
