"""Which volume of a series is meant, and how much of the output a further channel shows."""

from dataclasses import replace

import numpy as np
import pytest

from gpuprep.config import Stacking
from gpuprep.dicom import synth
from gpuprep.dicom.header import read_headers
from gpuprep.dicom.stack import BrokenVolume, build_stacks
from gpuprep.errors import GeometryError
from gpuprep.run import volumes
from gpuprep.run.plan import CasePlan, Channel

GRID = synth.axial_geometry((10, 4, 4), spacing_xyz_mm=(1, 1, 2))


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    series = synth.write_ct_series(tmp_path_factory.mktemp("ct"), GRID, np.zeros(GRID.shape))
    (found,) = build_stacks(read_headers([str(path) for path in series.paths]))
    return found


def moved(stack):
    return replace(stack, geometry=stack.geometry.crop((0, 1, 0), stack.geometry.shape))


def irregular(stack):
    return replace(stack, is_irregular=True)


def broken(stack):
    return BrokenVolume("", stack.instances, GeometryError("a gap", code="missing-slice"))


@pytest.mark.parametrize("other", [moved, irregular, broken])
def test_a_mask_needs_a_choice_among_volumes_that_share_no_grid(stack, monkeypatch, other):
    channel = Channel("CT", "2.25.1", stack.instances)
    plan = CasePlan("a", "a", (channel,), (), (), (), "", writes_images=False)
    found = [stack, stack]
    monkeypatch.setattr(volumes, "build_volumes", lambda *_, **__: found)
    assert volumes.choose_stack(channel, plan, Stacking(), needs_image=False) is stack
    found[1] = other(stack)
    with pytest.raises(GeometryError) as caught:
        volumes.choose_stack(channel, plan, Stacking(), needs_image=False)
    assert (caught.value.code, caught.value.subject) == ("several-volumes", "2.25.1")


def test_the_volume_is_meant_of_which_a_segmentation_names_an_image(stack, monkeypatch):
    header = stack.instances[0]
    others = tuple(
        replace(frame, instance=replace(frame.instance, sop_instance_uid=f"2.25.{n}"))
        for n, frame in enumerate(stack.frames)
    )
    channel = Channel("CT", "2.25.1", stack.instances)
    segmentation = replace(header, referenced_sop_instance_uids=("2.25.3",))
    plan = CasePlan("a", "a", (channel,), (segmentation,), (), (), "")
    found = [stack, replace(stack, frames=others)]
    monkeypatch.setattr(volumes, "build_volumes", lambda *_, **__: found)
    assert volumes.choose_stack(channel, plan, Stacking()) is found[1]


def test_steps_between_slices_are_judged_as_asked_for(stack):
    *first, last = stack.instances
    last = replace(last, image_position_lps_mm=(-1.5, -1.5, last.image_position_lps_mm[2] + 0.3))  # 2.3 instead of 2
    channel = Channel("CT", "2.25.1", (*first, last))
    plan = CasePlan("a", "a", (channel,), (), (), (), "")
    with pytest.raises(GeometryError) as caught:
        volumes.choose_stack(channel, plan, Stacking())
    assert caught.value.code == "variable-spacing"
    assert not volumes.choose_stack(channel, plan, Stacking(spacing_tolerance=0.2)).is_irregular
    assert volumes.choose_stack(channel, plan, Stacking("resample")).is_irregular


@pytest.mark.parametrize(
    ("modality", "slope", "intercept", "lacks"),
    [
        ("CT", None, None, "Rescale Slope and Rescale Intercept"),
        ("CT", 1.0, None, "Rescale Intercept"),
        ("MR", None, 0.0, "Rescale Slope"),
        ("MR", None, None, ""),
        ("CT", 1.0, 0.0, ""),
    ],
)
def test_units_are_in_doubt_without_rescaling_where_it_is_usual_or_half_there(stack, modality, slope, intercept, lacks):
    frames = tuple(
        replace(f, instance=replace(f.instance, rescale_slope=slope, rescale_intercept=intercept)) for f in stack.frames
    )
    doubts = volumes._doubt_values(Channel(modality, "2.25.1", stack.instances), replace(stack, frames=frames))
    assert doubts == [f"rescale: without {lacks} values need not be in the units of their modality"] * bool(lacks)


@pytest.mark.parametrize(("slices", "warned"), [(0, False), (1, False), (2, True), (9, True)])
def test_a_channel_that_ends_before_the_grid_is_warned_of(stack, slices, warned):
    record = {"warnings": []}
    channel = Channel("MR", "2.25.2", stack.instances)
    volumes.check_coverage(channel, GRID.crop((0, 0, 0), (10 - slices, 4, 4)), GRID, record)
    assert record["channel_coverage"] == {"MR": (10 - slices) / 10}
    assert record["warnings"] == [f"the MR channel covers {100 - 10 * slices}% of the grid"] * warned


def test_a_channel_beside_the_grid_is_refused(stack):
    with pytest.raises(GeometryError) as caught:
        volumes.check_coverage(
            Channel("MR", "2.25.2", stack.instances), GRID.crop((10, 0, 0), GRID.shape), GRID, {"warnings": []}
        )
    assert (caught.value.code, caught.value.subject) == ("channel-elsewhere", "2.25.2")
