"""Bit planes → palette by the kernels, held to the plain form."""

from __future__ import annotations

import numpy as np
import pytest
from mask_sets import COUNTS, check_same, oblique_geometry, random_mask

from gpuprep.backends import select
from gpuprep.errors import GeometryError
from gpuprep.ops.palette import palette_of_planes

BACKENDS = [select("cpu", workers=1), select("reference")]


@pytest.mark.parametrize("backend", BACKENDS, ids=lambda b: b.name)
@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("shape", [(3, 5, 7), (2, 33, 130)])
def test_equals_the_palette_that_made_the_planes(count, shape, backend):
    mask = random_mask(count, density=0.05, geometry=oblique_geometry(shape))
    check_same(mask, palette_of_planes(mask.to_planes(), mask.rois, mask.geometry, backend=backend))


@pytest.mark.parametrize("sets", [5000, 100_000])
def test_more_sets_than_the_first_table_holds(sets):
    geometry = oblique_geometry((4, 200, 200))
    planes = np.random.default_rng(0).integers(0, sets, (1, 4, 200, 200), np.uint32)
    rois = random_mask(20).rois
    ours, plain = (palette_of_planes(planes, rois, geometry, backend=backend) for backend in BACKENDS)
    check_same(plain, ours)
    assert np.array_equal(ours.to_planes(), planes)


@pytest.mark.parametrize("shape", [(2, 3, 5, 7), (1, 3, 5, 8)])
def test_planes_that_do_not_fit_are_refused(shape):
    with pytest.raises(GeometryError) as caught:
        palette_of_planes(np.zeros(shape, np.uint32), random_mask(3).rois, oblique_geometry(), backend=BACKENDS[0])
    assert caught.value.code == "shape-mismatch"
