"""Bit planes, palettes and the lookups made from them, held to plain per-ROI arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuprep.codes import apply_lut, apply_rows, canonical_order
from gpuprep.errors import GeometryError, OverlapError, RoiError
from gpuprep.geometry import VolumeGeometry
from gpuprep.masks import (
    Roi,
    RoiMask,
    assign_layers,
    from_boxes,
    from_layers,
    from_planes,
    is_exclusive,
    join_masks,
    let_last_win,
    list_labels,
    merge_to_labels,
    select_rois,
    to_label_image,
    to_sparse,
)

SHAPE = (3, 5, 7)


def geometry(shape=SHAPE):
    return VolumeGeometry(shape, np.diag([3.0, 2.0, 1.0, 1.0]))


def rois(count):
    return tuple(Roi(i + 1, f"roi {i}") for i in range(count))


def planes_of(volumes):
    """Boolean volumes (N, D, H, W) → bit planes, by shifts and sums."""
    planes = np.zeros((max(1, -(-len(volumes) // 32)), *volumes.shape[1:]), np.uint32)
    for i, volume in enumerate(volumes):
        planes[i // 32] |= volume.astype(np.uint32) << np.uint32(i % 32)
    return planes


def mask_of(volumes):
    return from_planes(planes_of(volumes), rois(len(volumes)), geometry(volumes.shape[1:]))


def random_volumes(count, seed=0, shape=SHAPE, density=0.2):
    return np.random.default_rng(seed).random((count, *shape)) < density


def check_is_canonical(mask):
    assert not mask.table[0].any()
    assert np.array_equal(canonical_order(mask.table), np.arange(len(mask.table)))
    assert len(np.unique(mask.table, axis=0)) == len(mask.table)
    seen = np.bincount(mask.codes.reshape(-1), minlength=len(mask.table)) > 0
    assert seen[1:].all()
    assert mask.codes.dtype == np.min_scalar_type(len(mask.table) - 1)


@pytest.mark.parametrize("count", [1, 31, 32, 33, 64, 65, 148, 300])
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), density=st.sampled_from([0.0, 0.01, 0.3, 1.0]))
def test_planes_to_palette_and_back(count, seed, density):
    volumes = random_volumes(count, seed, density=density)
    mask = mask_of(volumes)
    check_is_canonical(mask)
    assert np.array_equal(mask.to_planes(), planes_of(volumes))
    assert np.array_equal(mask.voxel_counts, volumes.sum(axis=(1, 2, 3)))
    for i in {0, count // 2, count - 1}:
        assert np.array_equal(mask.binary(i), volumes[i])


def test_masks_one_after_the_other():
    volumes = random_volumes(40, density=0.02)
    volumes[:, :1] = False
    volumes[7] = False
    found = [(volume.copy(), filled) for volume, filled in mask_of(volumes).binaries()]
    assert len(found) == 40
    for volume, (binary, filled) in zip(volumes, found, strict=True):
        assert np.array_equal(binary, volume)
        slices = np.flatnonzero(volume.any(axis=(1, 2)))
        assert list(filled) == (list(range(slices[0], slices[-1] + 1)) if len(slices) else [])


@pytest.mark.parametrize("count", [1, 33, 148, 300])
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), density=st.sampled_from([0.0, 0.01, 0.3, 1.0]))
def test_boxes_of_rois_to_palette(count, seed, density):
    volumes = random_volumes(count, seed, density=density)
    boxes = []
    for volume in volumes:
        at = np.argwhere(volume) if volume.any() else np.zeros((1, 3), int)
        start, stop = at.min(axis=0), at.max(axis=0) + 1
        boxes.append((start, volume[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))]))
    mask, expected = from_boxes(boxes, rois(count), geometry()), mask_of(volumes)
    assert np.array_equal(mask.table, expected.table)
    assert np.array_equal(mask.codes, expected.codes) and mask.codes.dtype == expected.codes.dtype


def test_the_labels_of_an_image():
    labels = np.random.default_rng(0).choice([0, 3, 7, 2**32 - 1], SHAPE).astype(np.uint32)
    assert list_labels(labels) == [3, 7, 2**32 - 1]
    assert list_labels(np.zeros(SHAPE, np.uint8)) == []


def test_more_combinations_than_a_byte_tells_apart():
    volumes = random_volumes(12, shape=(4, 20, 20), density=0.5)
    mask = mask_of(volumes)
    assert len(mask.table) > 256 and mask.codes.dtype == np.uint16
    check_is_canonical(mask)


def test_a_mask_without_rois():
    mask = mask_of(np.zeros((0, *SHAPE), bool))
    assert mask.table.tolist() == [[0]] and not mask.codes.any()
    assert mask.overlaps() == [] and mask.bounding_boxes().shape == (0, 2, 3)
    assert not to_label_image(mask).any()


@pytest.mark.parametrize("planes", [np.zeros((1, 3, 5, 6), np.uint32), np.zeros((2, *SHAPE), np.uint32),
                                    np.zeros((1, 2, 5, 7), np.uint32), np.zeros((1, 4, 5, 7), np.uint32)])  # fmt: skip
def test_planes_that_do_not_fit_are_refused(planes):
    with pytest.raises(GeometryError) as caught:
        from_planes(planes, rois(3), geometry())
    assert caught.value.code == "shape-mismatch"


def test_overlaps_are_counted_by_pair():
    volumes = random_volumes(6, density=0.4)
    expected = [
        (i, j, int((volumes[i] & volumes[j]).sum())) for i in range(6) for j in range(i + 1, 6)
        if (volumes[i] & volumes[j]).any()
    ]  # fmt: skip
    assert mask_of(volumes).overlaps() == expected


def test_bounding_boxes():
    volumes = random_volumes(9, density=0.03)
    volumes[4] = False
    volumes[5] = False
    volumes[5, 2, 4, 6] = True
    boxes = mask_of(volumes).bounding_boxes()
    for volume, (start, stop) in zip(volumes, boxes, strict=True):
        at = np.argwhere(volume)
        assert start.tolist() == (at.min(axis=0).tolist() if len(at) else [0, 0, 0])
        assert stop.tolist() == ((at.max(axis=0) + 1).tolist() if len(at) else [0, 0, 0])
    assert boxes[5].tolist() == [[2, 4, 6], [3, 5, 7]]


def test_merged_labels_are_unions():
    volumes = random_volumes(40, density=0.1)
    members = [(3, 39), (), (0,), (1, 2, 4)]
    merged = merge_to_labels(mask_of(volumes), members, rois(4))
    check_is_canonical(merged)
    for label, of in enumerate(members):
        assert np.array_equal(merged.binary(label), volumes[list(of)].any(axis=0))


def test_single_rois_keep_their_names():
    mask = merge_to_labels(mask_of(random_volumes(4)), [(2,), (0,)])
    assert [roi.name for roi in mask.rois] == ["roi 2", "roi 0"]


def test_joined_masks_hold_all_rois():
    volumes = random_volumes(70, density=0.1)
    joined = join_masks([mask_of(volumes[:33]), mask_of(volumes[33:34]), mask_of(volumes[34:])])
    whole = mask_of(volumes)
    assert np.array_equal(joined.codes, whole.codes) and joined.codes.dtype == whole.codes.dtype
    assert np.array_equal(joined.table, whole.table)
    assert len(joined.rois) == 70


def test_masks_on_different_grids_do_not_join():
    moved = geometry().crop((0, 0, 1), SHAPE)
    volumes = random_volumes(2)
    with pytest.raises(GeometryError) as caught:
        join_masks([mask_of(volumes), from_planes(planes_of(volumes), rois(2), moved)])
    assert caught.value.code == "shape-mismatch"


@pytest.mark.parametrize("count", [3, 300])
def test_label_image(count):
    owner = np.random.default_rng(1).integers(-1, count, SHAPE)
    volumes = owner == np.arange(count)[:, None, None, None]
    labels = to_label_image(mask_of(volumes))
    assert np.array_equal(labels, owner + 1)
    assert labels.dtype == (np.uint8 if count < 256 else np.uint16)


def test_a_label_image_of_overlapping_rois_is_refused_by_name():
    volumes = np.zeros((3, *SHAPE), bool)
    volumes[0, 0], volumes[2, 0, 0], volumes[1, 2] = True, True, True
    with pytest.raises(OverlapError) as caught:
        to_label_image(mask_of(volumes))
    assert caught.value.code == "labels-overlap"
    assert "'roi 0' and 'roi 2' (7 voxels)" in caught.value.message


def test_sparse_the_last_roi_wins():
    volumes = random_volumes(35, density=0.2)
    expected = np.zeros(SHAPE, int)
    for i, volume in enumerate(volumes):
        expected[volume] = i + 1
    sparse, lost = to_sparse(mask_of(volumes))
    assert np.array_equal(sparse, expected)
    assert lost.tolist() == [int((v & (expected != i + 1)).sum()) for i, v in enumerate(volumes)]


def test_a_palette_on_another_grid_is_refused():
    with pytest.raises(GeometryError) as caught:
        RoiMask(np.zeros((1, 1, 1), np.uint8), np.zeros((1, 1), np.uint32), (), geometry())
    assert caught.value.code == "shape-mismatch"


@pytest.mark.parametrize("code", [np.uint8, np.uint16, np.uint32])
@pytest.mark.parametrize("value", [np.uint8, np.uint16, np.uint32])
def test_codes_are_counted_and_looked_up(code, value):
    rng = np.random.default_rng(4)
    runs = np.repeat(rng.integers(0, 200, 90), rng.integers(1, 300, 90))
    codes = np.concatenate([runs, rng.integers(0, 200, 100)])[-7777:].reshape(1, 1, -1).astype(code)
    table = rng.permutation(200).astype(value)
    assert np.array_equal(apply_lut(table, codes), table[codes])
    assert np.array_equal(apply_lut(table, codes[..., ::3]), table[codes[..., ::3]])
    mask = RoiMask(codes, np.zeros((200, 1), np.uint32), (), geometry(codes.shape))
    assert np.array_equal(mask.code_counts, np.bincount(codes.reshape(-1), minlength=200))


@pytest.mark.parametrize("code", [np.uint8, np.uint16, np.uint32])
@pytest.mark.parametrize("width", [1, 3, 148])
def test_codes_become_rows(code, width):
    rng = np.random.default_rng(5)
    runs = np.repeat(rng.integers(0, 200, 30), rng.integers(1, 300, 30))
    codes = np.concatenate([runs, rng.integers(0, 200, 100)])[-3331:].astype(code)
    rows = rng.integers(0, 256, (200, width)).astype(np.uint8)
    out = np.empty((len(codes), width), np.uint8)
    apply_rows(rows, codes, out)
    assert np.array_equal(out, rows[codes])
    with pytest.raises(GeometryError) as caught:
        apply_rows(rows[: codes.max()], codes, out)
    assert caught.value.code == "code-unknown"


def test_a_table_that_changes_nothing_costs_nothing():
    codes = np.arange(5, dtype=np.uint8)
    assert apply_lut(np.arange(9, dtype=np.uint8), codes) is codes


@pytest.mark.parametrize("at", [0, 70])
def test_codes_beyond_their_table_are_refused(at):
    codes = np.zeros((1, 1, 75), np.uint8)
    codes[..., at : at + 64] = 5
    with pytest.raises(GeometryError) as error:
        apply_lut(np.ones(5, np.uint8), codes)
    assert error.value.code == "code-unknown"
    with pytest.raises(GeometryError, match="beyond its table"):
        _ = RoiMask(codes, np.zeros((5, 1), np.uint32), (), geometry(codes.shape)).code_counts


@pytest.mark.parametrize(("count", "limit"), [(0, 255), (1, 255), (12, 255), (40, 3)])
def test_layers_by_first_fit(count, limit):
    volumes = random_volumes(count, density=0.05)
    places = assign_layers(mask_of(volumes), limit)
    layers = {}
    for volume, (layer, label) in zip(volumes, places, strict=True):
        held = layers.setdefault(layer, [])
        assert label == len(held) + 1 <= limit
        assert not any((volume & other).any() for other in held)
        for earlier in range(layer):  # no layer before would have taken it at that time
            full = len(layers[earlier]) == limit
            assert full or any((volume & other).any() for other in layers[earlier])
        held.append(volume)


def test_layers_become_the_same_mask():
    volumes = random_volumes(40, density=0.05)
    mask = mask_of(volumes)
    places = assign_layers(mask, 255)
    layers = np.zeros((1 + max(layer for layer, _ in places), *SHAPE), np.uint8)
    for volume, (layer, label) in zip(volumes, places, strict=True):
        layers[layer][volume] = label
    again = from_layers(np.moveaxis(layers, 0, 3), len(layers), places, mask.rois, mask.geometry)
    check_is_canonical(again)
    assert np.array_equal(again.codes, mask.codes) and np.array_equal(again.table, mask.table)


def test_a_label_that_is_no_roi_is_refused():
    layer = np.zeros((*SHAPE, 1), np.uint8)
    layer[0, 0, 0, 0] = 2
    with pytest.raises(RoiError) as caught:
        from_layers(layer, 1, [(0, 1)], rois(1), geometry())
    assert caught.value.code == "label-unknown"


def test_the_last_roi_wins_and_the_loss_is_counted():
    volumes = random_volumes(35, density=0.2)
    mask, lost = let_last_win(mask_of(volumes))
    sparse, expected = to_sparse(mask_of(volumes))
    check_is_canonical(mask)
    assert is_exclusive(mask) and not is_exclusive(mask_of(volumes))
    assert np.array_equal(to_label_image(mask), sparse) and lost.tolist() == expected.tolist()


def test_rois_are_chosen_by_name():
    volumes = random_volumes(4)
    names = ["GTV", "Lung_L", "lung_r", "[x]*"]
    mask = from_planes(planes_of(volumes), [Roi(n, name) for n, name in enumerate(names)], geometry())
    chosen = select_rois(mask, ["LUNG*", "gtv", "Lung_L"])
    assert [roi.name for roi in chosen.rois] == ["Lung_L", "lung_r", "GTV"]
    assert np.array_equal(chosen.binary(2), volumes[0])
    assert [roi.name for roi in select_rois(mask, ["[x]*"]).rois] == ["[x]*"]
    with pytest.raises(RoiError) as caught:
        select_rois(mask, ["GTV", "heart"])
    assert caught.value.code == "name-unmatched" and "'Lung_L'" in caught.value.hint
