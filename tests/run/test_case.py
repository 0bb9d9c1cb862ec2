import numpy as np

from gpuprep.backends import select
from gpuprep.codes import pack_bits
from gpuprep.geometry import VolumeGeometry
from gpuprep.masks import Roi, RoiMask, recode
from gpuprep.run.case import align_mask


def test_an_aligned_mask_counts_the_labels_as_before_equal_names_and_members_apart():
    turn = 0.2
    directions = [[0, 0, 1], [-np.sin(turn), np.cos(turn), 0], [np.cos(turn), np.sin(turn), 0]]
    grid = VolumeGeometry.from_axes(
        (4, 30, 30), origin_lps_mm=(0.0, 0.0, 0.0), directions_dhw=directions, spacing_dhw_mm=(1.0, 1.0, 1.0)
    )
    codes = np.zeros(grid.shape, np.uint8)
    codes[:, 5:15, 5:15], codes[:, 15:25, 5:25] = 1, 2
    labels = [Roi(1, "GTV"), Roi(2, "GTV"), Roi(1, "a member of the first")]
    sets = pack_bits(np.array([[0, 0, 0], [1, 0, 1], [0, 1, 0]], np.bool_))
    mask = recode(RoiMask(codes, sets, labels, grid), sets, labels)
    record = {"voxels": {"GTV (label 1)": 400, "GTV (label 2)": 800}, "warnings": []}

    aligned = align_mask(mask, select("cpu"), record)

    first, second, _ = (int(aligned.binary(roi).sum()) for roi in range(3))
    assert record["voxels"] == {"GTV (label 1)": first, "GTV (label 2)": second}
    assert 350 < first < 450 and 750 < second < 850
