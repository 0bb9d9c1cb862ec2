"""Options that make no sense, and those that the command offers without the imports that they would cost."""

from typing import get_args

import pytest
from tiff_images import options_of

from gpuprep.cli.tiff import tiff
from gpuprep.errors import ConfigError
from gpuprep.ops.frames import FrameHandling
from gpuprep.ops.region import CropMode
from gpuprep.ops.resize import FILTERS
from gpuprep.run.tiff_options import Layout, Padding
from gpuprep.writers.tiff import Compressor


@pytest.mark.parametrize(
    ("chosen", "code"),
    [
        ({"size": "0,5"}, "bad-size"), ({"size": "5"}, "bad-size"), ({"size": "5,x"}, "bad-size"),
        ({"size": "5,5.5"}, "bad-size"), ({"size": "5,5", "spacing": "1,1"}, "bad-size"),
        ({"spacing": "0,1"}, "bad-spacing"), ({"spacing": "nan,1"}, "bad-spacing"), ({"spacing": "1"}, "bad-spacing"),
        ({"spacing": "inf,1"}, "bad-spacing"), ({"window": "40"}, "bad-window"), ({"window": "40,0"}, "bad-window"),
        ({"window": "soft"}, "bad-window"), ({"target_frames": 0}, "bad-frames"),
        ({"filter_name": "sinc"}, "unknown-filter"), ({"border_frac": float("nan")}, "bad-border"),
        ({"crop_mode": "components", "no_components": True}, "bad-crop"),
        ({"predictor": True, "compressor": "packbits"}, "bad-predictor"),
    ],
)  # fmt: skip
def test_options_that_make_no_sense_are_refused(chosen, code):
    with pytest.raises(ConfigError) as caught:
        options_of(**chosen)
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("option", "choices"),
    [
        ("crop_mode", get_args(CropMode)), ("filter_name", FILTERS), ("padding", get_args(Padding)),
        ("compressor", get_args(Compressor)), ("volume_handler", get_args(FrameHandling)), ("layout", get_args(Layout)),
    ],
)  # fmt: skip
def test_the_command_offers_all_there_is(option, choices):
    (found,) = (parameter for parameter in tiff.params if parameter.name == option)
    assert tuple(found.type.choices) == tuple(choices)
