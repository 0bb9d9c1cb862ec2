import numpy as np
import pytest
from scipy import ndimage

from gpuprep.components import label_components


@pytest.mark.parametrize("share", [0.02, 0.05, 0.1, 0.3, 0.9])
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 40), (1, 40, 1), (9, 1, 1), (7, 11, 13), (20, 30, 40)])
def test_components_are_those_of_scipy(shape, share):
    mask = np.random.default_rng([*shape, int(100 * share)]).random(shape) < share
    labels, count = label_components(mask)
    expected, expected_count = ndimage.label(mask, np.ones((3, 3, 3)))
    assert count == expected_count
    assert np.array_equal(labels, expected)  # both number by the first voxel in reading order


def test_a_spiral_is_one_component_and_the_ends_of_rows_do_not_touch():
    mask = np.zeros((3, 9, 9), np.uint8)
    mask[1, ::2, :] = 1
    mask[1, 1::4, -1] = mask[1, 3::4, 0] = 7
    labels, count = label_components(mask)
    assert count == 1 and np.array_equal(labels > 0, mask > 0)
    mask[:] = 0
    mask[0, 2, 8] = mask[0, 3, 0] = mask[0, 8, 4] = mask[1, 0, 4] = 1
    assert label_components(mask)[1] == 4


def test_an_empty_mask_has_none():
    labels, count = label_components(np.zeros((2, 3, 4)))
    assert count == 0 and labels.dtype == np.uint32 and not labels.any()
