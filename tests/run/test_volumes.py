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
