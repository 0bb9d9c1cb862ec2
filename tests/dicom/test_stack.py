"""Stacks against hand-computed grids, and against dcm2niix's affines and voxels on real series."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpuprep.dicom.framespec import FrameSpec
from gpuprep.dicom.header import InstanceHeader, read_headers
from gpuprep.dicom.stack import BrokenVolume, Stack, build_stacks, build_volumes, planes_of
from gpuprep.errors import CaseError, GeometryError, HeaderError

#: Voxel centres equal dcm2niix's within this, mm.
AFFINE_TOLERANCE_MM = 1e-3
#: The references give affines with five decimals.
REFERENCE_ROUNDING = 5e-6
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
SAGITTAL = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
CORONAL = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)
STANDARD_NAMES = {
    "image_position_lps_mm": "ImagePositionPatient",
    "image_orientation": "ImageOrientationPatient",
    "pixel_spacing_mm": "PixelSpacing",
}


def image(number: int, position: Sequence[float], **changes: Any) -> InstanceHeader:
    """Return the header of a 20 × 30 CT image with pixels of 0.5 × 0.75 mm."""
    header = InstanceHeader(
        path=f"/ct/{number:04d}",
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
        sop_instance_uid=f"1.2.3.{number}",
        series_instance_uid="1.2.3",
        frame_of_reference_uid="1.2.4",
        modality="CT",
        instance_number=number,
        rows=20,
        columns=30,
        bits_allocated=16,
        bits_stored=12,
        high_bit=11,
        pixel_representation=0,
        samples_per_pixel=1,
        photometric_interpretation="MONOCHROME2",
        image_position_lps_mm=tuple(map(float, position)),
        image_orientation=AXIAL,
        pixel_spacing_mm=(0.5, 0.75),
    )
    return replace(header, **changes)


def axial(heights_mm: Iterable[float], start: int = 1, **changes: Any) -> list[InstanceHeader]:
    return [image(n, (-10, -20, z), **changes) for n, z in enumerate(heights_mm, start)]


def codes(stack: Stack) -> set[str]:
    return {finding.code for finding in stack.findings}


def heights(stack: Stack) -> list[float]:
    return [frame.position_mm for frame in stack.frames]


# One regular volume


def test_axial_grid_by_hand():
    (stack,) = build_stacks(axial([5, 7.5, 10]))
    geometry = stack.geometry
    assert geometry.shape == (3, 20, 30)
    np.testing.assert_allclose(geometry.to_lps([0, 0, 0]), [-10, -20, 5], atol=1e-12)
    np.testing.assert_allclose(geometry.to_lps([2, 4, 8]), [-10 + 8 * 0.75, -20 + 4 * 0.5, 10], atol=1e-12)
    assert geometry.orientation() == "LPS"
    assert geometry.frame_of_reference_uid == "1.2.4"
    assert stack.plane_offsets_lps_mm == ((-10, -20, 5), (-10, -20, 7.5), (-10, -20, 10))
    assert (stack.label, stack.findings, stack.is_irregular, stack.tiles_a_row) == ("", (), False, 0)


@pytest.mark.parametrize("order", list(itertools.permutations(range(4)))[::5])
def test_order_of_files_and_numbers_does_not_matter(order: tuple[int, ...]):
    heights_mm = [3.0, 1.0, 4.0, 2.0]
    images = [replace(image(n + 1, (0, 0, heights_mm[n])), path=f"/x/{order[n]}") for n in order]
    (stack,) = build_stacks(images)
    assert heights(stack) == [1, 2, 3, 4]
    assert [frame.instance.instance_number for frame in stack.frames] == [2, 4, 1, 3]


@pytest.mark.parametrize(
    ("orientation", "step", "anatomical"),
    [
        (AXIAL, (0, 0, 2), "LPS"),
        (SAGITTAL, (-2, 0, 0), "PIR"),
        (CORONAL, (0, 2, 0), "LIP"),
        ((-1.0, 0.0, 0.0, 0.0, 1.0, 0.0), (0, 0, -2), "RPI"),
        ((0.8, 0.6, 0.0, -0.6, 0.8, 0.0), (0, 0, 2), "LPS"),
    ],
)
def test_slice_axis_is_the_right_handed_normal(orientation, step, anatomical):
    images = [image(n, np.multiply(step, n), image_orientation=orientation) for n in (3, 1, 0, 2)]
    (stack,) = build_stacks(images)
    down, right = stack.geometry.directions_dhw[1:]
    np.testing.assert_allclose(stack.geometry.directions_dhw[0], np.cross(right, down), atol=1e-12)
    np.testing.assert_allclose(stack.geometry.to_lps([3, 0, 0]), np.multiply(step, 3), atol=1e-12)
    assert stack.geometry.orientation() == anatomical
    assert stack.geometry.is_orthogonal()


def test_rescale_is_kept_for_each_slice():
    images = [replace(i, rescale_slope=float(n), rescale_intercept=-1.0) for n, i in enumerate(axial([1, 2, 3]))]
    (stack,) = build_stacks(images[::-1])
    assert [(f.slope, f.intercept) for f in stack.frames] == [(0, -1), (1, -1), (2, -1)]


@pytest.mark.parametrize("second_mm", [0.97, 1.03])
def test_jitter_is_accepted_and_recorded(second_mm: float):
    (stack,) = build_stacks(axial([0, second_mm, 2, 3]))
    assert codes(stack) == {"spacing-jitter"}
    assert "0.030 mm" in stack.findings[0].message
    np.testing.assert_allclose(stack.geometry.spacing_dhw_mm, [1, 0.5, 0.75])


@pytest.mark.parametrize("tolerance", [0.05, 0.0])
def test_rounded_numbers_are_no_jitter(tolerance: float):
    (stack,) = build_stacks(axial(np.float32(0.1) * np.arange(50)), spacing_tolerance=tolerance)
    assert stack.findings == ()


def test_spacing_tolerance_is_a_share_of_the_median_step():
    uneven = axial([0, 2, 4, 6.3])
    assert refused(uneven, spacing_tolerance=0.149).code == "variable-spacing"
    assert build_stacks(uneven, spacing_tolerance=0.151)


def test_small_drift_is_accepted_and_recorded():
    (stack,) = build_stacks([image(n, (0, 0.05 * n, n)) for n in range(5)])
    assert codes(stack) == {"slice-drift"}
    assert "0.200 mm" in stack.findings[0].message
    assert stack.geometry.is_orthogonal()


@pytest.mark.parametrize(
    ("positions", "found"),
    [
        ([(0.75 * 0.49, 0, 1)], "slice-drift"),  # pixels are 0.5 × 0.75 mm
        ([(0.75 * 0.51, 0, 1)], "gantry-tilt"),
        ([(0, -0.5 * 0.51, 1)], "gantry-tilt"),
        ([(0, 0, z) for z in (1, 2, 2.009, 3)], "duplicate-position"),
        ([(0, 0, z) for z in (1, 2, 2.011, 3)], "variable-spacing"),
        ([(0, 0, z) for z in (2, 4, 6, 13.8)], "missing-slice"),  # 7.8 mm are four steps of 2 mm, within 5 %
        ([(0, 0, z) for z in (2, 4, 6, 9.2)], "variable-spacing"),  # 3.2 mm are no two steps
        ([(0, 0, z) for z in np.cumsum([1] * 24 + [1.04] * 24)], "spacing-jitter"),  # 0.48 mm off an even grid
        ([(0, 0, z) for z in np.cumsum([1] * 26 + [1.04] * 26)], "variable-spacing"),  # 0.52 mm
    ],
)
def test_limits_of_what_makes_a_grid(positions, found):
    images = [image(n, position) for n, position in enumerate([(0, 0, 0), *positions])]
    if found in ("slice-drift", "spacing-jitter"):
        assert codes(build_stacks(images)[0]) == {found}
    else:
        assert refused(images).code == found


@pytest.mark.parametrize(
    ("changes", "spacing_mm", "found"),
    [
        ({"slice_thickness_mm": 4.0}, 4, set()),
        ({"slice_thickness_mm": 4.0, "spacing_between_slices_mm": -5.0}, 5, set()),
        ({"slice_thickness_mm": 0.0}, 1, {"assumed-spacing"}),
        ({}, 1, {"assumed-spacing"}),
    ],
)
def test_single_slice(changes, spacing_mm, found):
    (stack,) = build_stacks(axial([7], **changes))
    assert stack.geometry.shape == (1, 20, 30)
    assert stack.geometry.index_to_lps[2, 0] == spacing_mm
    assert codes(stack) == found


def test_copies_of_an_instance_are_left_out():
    images = axial([1, 2, 3])
    (stack,) = build_stacks([*images, replace(images[1], path="/copy/2")])
    assert heights(stack) == [1, 2, 3]
    assert stack.frames[1].instance.path == "/copy/2"  # first by path
    assert codes(stack) == {"duplicate-instance"}


def test_different_images_of_one_instance_uid_are_all_kept():
    """Some anonymisers give every slice the same UID."""
    images = [replace(i, sop_instance_uid="1.2.3") for i in axial([1, 2, 3])]
    (stack,) = build_stacks(images)
    assert heights(stack) == [1, 2, 3]
    assert codes(stack) == set()


def test_two_versions_of_a_slice_are_refused():
    images = axial([1, 2, 3])
    assert refused([*images, replace(images[1], path="/edited/2", rescale_intercept=-5.0)]).code == "duplicate-position"


def test_series_numbers_tell_volumes_apart():
    first, second = build_stacks([*axial([1, 2], series_number=3), *axial([1, 2], start=5, series_number=4)])
    assert (first.label, second.label) == ("series 3", "series 4")
    assert heights(first) == heights(second) == [1, 2]


# Irregular series


def refused(images: Sequence[InstanceHeader], **options: Any) -> CaseError:
    with pytest.raises(CaseError) as caught:
        build_stacks(images, **options)
    return caught.value


def test_missing_slice():
    images = axial([0, 2, 4, 8, 10])
    error = refused(images)
    assert isinstance(error, GeometryError)
    assert error.code == "missing-slice"
    assert error.message.startswith("1 slice missing in ")
    assert "4.000 mm after slice 3 of 5 (instance 3, at 4.000 mm)" in error.message
    assert "resample" in error.hint
    (stack,) = build_stacks(images, on_irregular="resample")
    assert stack.is_irregular
    assert codes(stack) == {"missing-slice"}
    assert stack.geometry.same_grid(build_stacks(axial([0, 2, 4, 6, 8, 10]))[0].geometry)
    assert [z for _, _, z in stack.plane_offsets_lps_mm] == [0, 2, 4, 8, 10]


def test_variable_spacing():
    images = axial([0, 2, 4, 7, 10, 13])
    error = refused(images)
    assert error.code == "variable-spacing"
    assert "2 of 5 steps, first 2.000 mm after slice 1 of 6" in error.message
    assert "median step is 3.000 mm" in error.message
    assert "--on-irregular resample" in error.hint
    (stack,) = build_stacks(images, on_irregular="resample")
    assert stack.geometry.shape[0] == 5  # 13 mm in steps nearest to 3 mm
    np.testing.assert_allclose(stack.geometry.to_lps([4, 0, 0]), [-10, -20, 13])


def test_positions_rounded_to_a_tenth_need_a_larger_tolerance():
    images = axial([round(0.625 * n, 1) for n in range(20)])
    assert "--spacing-tolerance" in refused(images).hint
    (stack,) = build_stacks(images, spacing_tolerance=0.2)
    np.testing.assert_allclose(stack.geometry.spacing_dhw_mm[0], 0.625, atol=0.1 / 19)
    assert codes(stack) == {"spacing-jitter"}


def test_small_differences_that_add_up_are_variable_spacing():
    steps = [1.0] * 60 + [1.04] * 60
    assert refused(axial(np.cumsum(steps))).code == "variable-spacing"


def test_gantry_tilt():
    images = [image(n, (0, 3.0 * n, 4.0 * n)) for n in range(4)]
    error = refused(images)
    assert error.code == "gantry-tilt"
    assert "9.000 mm off the normal" in error.message
    assert "36.9 degrees" in error.message
    assert "missing" not in error.hint and "--on-irregular resample" in error.hint
    (stack,) = build_stacks(images, on_irregular="resample")
    assert stack.geometry.shape == (4, 20 + 18, 30)
    assert stack.frames_shape == (4, 20, 30)
    np.testing.assert_allclose(stack.geometry.origin_lps_mm, 0, atol=1e-9)
    np.testing.assert_allclose(stack.geometry.to_lps([3, 18, 0]), [0, 9, 12])  # first pixel of the last frame


def test_gantry_tilt_the_other_way_moves_the_origin():
    images = [image(n, (0, -3.1 * n, 4.0 * n)) for n in range(4)]
    (stack,) = build_stacks(images, on_irregular="resample")
    assert stack.geometry.shape == (4, 20 + 19, 30)
    np.testing.assert_allclose(stack.geometry.origin_lps_mm, [0, -9.5, 0])


def test_gap_that_is_no_gap_of_a_volume_is_refused():
    images = axial([0, 1, 2, 64])  # a grid of 65 slices for 4
    assert refused(images).code == "missing-slice"
    assert refused(images, on_irregular="resample").code == "missing-slice"
    (stack,) = build_stacks(axial([0, 1, 2, 63]), on_irregular="resample")
    assert stack.geometry.shape[0] == 64


# Several volumes in one series


@pytest.mark.parametrize(
    ("trait", "values", "labels"),
    [
        ("echo_time_ms", (2.3, 4.6), ("echo time 2.3", "echo time 4.6")),
        ("echo_numbers", ("1", "2"), ("echo 1", "echo 2")),
        ("temporal_position", (1, 2), ("time 1", "time 2")),
        ("acquisition_number", (3, 4), ("acquisition 3", "acquisition 4")),
        ("diffusion_b_value", (None, 800.0), ("b-value None", "b-value 800.0")),
        ("image_type", ("ORIGINAL\\PRIMARY\\M", "ORIGINAL\\PRIMARY\\P"), ("type M", "type P")),
        ("trigger_time_ms", (10.0, 400.0), ("trigger time #1", "trigger time #2")),
        ("acquisition_time", ("090000", "090500"), ("acquisition time #1", "acquisition time #2")),
    ],
)
def test_repeated_positions_are_split(trait, values, labels):
    first = axial([1, 2, 3], **{trait: values[0]})
    second = axial([1, 2, 3], start=4, **{trait: values[1]})
    stacks = build_stacks([*second, *first])
    assert [stack.label for stack in stacks] == list(labels)
    for stack, number in zip(stacks, (1, 4), strict=True):
        assert heights(stack) == [1, 2, 3]
        assert [frame.instance.instance_number for frame in stack.frames] == [number, number + 1, number + 2]


def test_two_traits_split_in_turn():
    images = []
    for echo, time in itertools.product((1.0, 2.0), (1, 2)):
        images += axial([1, 2], start=len(images) + 1, echo_time_ms=echo, temporal_position=time)
    assert [stack.label for stack in build_stacks(images)] == [
        f"echo time {echo}, time {time}" for echo in (1.0, 2.0) for time in (1, 2)
    ]


def test_times_that_differ_from_slice_to_slice_are_ranked_at_each_place():
    times = [("100000.1", "100000.2", "100000.3"), ("100005.1", "100005.2", "100005.3")]
    images = [
        image(k * 10 + n, (0, 0, n), acquisition_time=times[k][n], acquisition_number=k * 10 + n)
        for k in range(2)
        for n in range(3)
    ]
    first, second = build_stacks(images)
    assert [f.instance.acquisition_time for f in first.frames] == list(times[0])
    assert [f.instance.acquisition_time for f in second.frames] == list(times[1])
    assert codes(first) == {"repeated-positions"}


@pytest.mark.parametrize(
    ("trait", "values"),
    [("echo_time_ms", (2.3, 4.6)), ("diffusion_b_value", (0.0, 800.0)), ("image_type", ("A\\M", "A\\P"))],
)
def test_an_order_that_would_mix_echoes_tells_nothing(trait, values):
    # the second echo comes first at the third place, and one image does not say which it is
    images = [image(n, (0, 0, n), **{trait: values[0]}) for n in (1, 2)]
    images += [image(n + 4, (0, 0, n), **{trait: values[1]}) for n in (1, 2)]
    images += [image(3, (0, 0, 3), **{trait: values[1]}), image(7, (0, 0, 3), **{trait: values[0]})]
    images += [image(4, (0, 0, 4), **{trait: values[0]})]
    unknown = image(8, (0, 0, 4), **{trait: 7.7 if isinstance(values[0], float) else "B"})
    assert refused([*images, unknown]).code == "duplicate-position"
    swapped = [replace(i, instance_number=10 - i.instance_number) if i in images[4:6] else i for i in images]
    assert [stack.label for stack in build_stacks([*swapped, unknown])] == ["instance #1", "instance #2"]


@pytest.mark.parametrize(
    ("trait", "values", "labels"),
    [
        ("acquisition_number", (3, 4), ["acquisition 3", "acquisition 4"]),
        ("echo_time_ms", (2.3, 4.6), ["echo time 2.3", "echo time 4.6"]),
        ("diffusion_b_value", (None, 800.0), ["b-value None", "b-value 800.0"]),
        ("temporal_position", (1, 2), ["time 1", "time 2"]),
    ],
)
@pytest.mark.parametrize("start", [1.02, 1.7, 3.4], ids=["beside", "between", "in part"])
@pytest.mark.parametrize("on_irregular", ["error", "resample"])
def test_volumes_that_reach_into_each_other_are_split(trait, values, labels, start, on_irregular):
    images = axial([1, 2, 3, 4], **{trait: values[0]})
    images += axial([start, start + 1, start + 2, start + 3], start=5, **{trait: values[1]})
    first, second = build_stacks(images, on_irregular=on_irregular)
    assert [first.label, second.label] == labels
    assert heights(first) == [1, 2, 3, 4]
    np.testing.assert_allclose(heights(second), start + np.arange(4))
    assert codes(first) == codes(second) == {"overlapping-volumes"}
    assert not first.is_irregular


@pytest.mark.parametrize("starts", [(1, 3, 4.5), (1, 2.5, 40)], ids=["no place has all", "one lies apart"])
def test_acquisitions_that_share_some_places_and_not_others_are_split(starts):
    images = [
        image(10 * k + n, (0, 0, start + n), acquisition_number=k) for k, start in enumerate(starts) for n in range(5)
    ]
    assert [heights(stack) for stack in build_stacks(images)] == [[start + n for n in range(5)] for start in starts]


@pytest.mark.parametrize(
    "places",
    [((1, 2, 3, 4), (6, 7, 8)), ((1, 3, 7), (2, 4, 6, 8)), ((1, 3, 5), (2, 6))],
    ids=["a gap between", "every other, one lost", "every other of few, one lost"],
)
def test_parts_of_one_volume_stay_together(places):
    images = [
        image(10 * k + n, (0, 0, z), acquisition_number=k)
        for k, heights in enumerate(places)
        for n, z in enumerate(heights)
    ]
    assert refused(images).code == "missing-slice"


def test_traits_do_not_split_where_no_position_repeats():
    images = [replace(i, acquisition_number=n, image_type=f"A\\{n}") for n, i in enumerate(axial([1, 2, 3]))]
    assert len(build_stacks(images)) == 1


def test_interrupted_volume_is_named():
    full = axial([1, 2, 3, 4], temporal_position=1)
    first, second = build_stacks([*full, *axial([1, 2], start=5, temporal_position=2)])
    assert len(first.frames) == 4
    assert len(second.frames) == 2
    assert codes(first) == set()
    assert codes(second) == {"incomplete-volume"}


@pytest.mark.parametrize("trait", ["acquisition_time", "content_time"])
def test_interrupted_volume_is_told_by_its_time(trait):
    images = [
        image(4 * t + n, (0, 0, n), **{trait: f"10000{t}.25"}) for t in range(3) for n in range(4) if (t, n) != (2, 3)
    ]
    *full, partial = build_stacks(images)
    assert [stack.label for stack in (*full, partial)] == [f"{trait.replace('_', ' ')} #{t}" for t in (1, 2, 3)]
    assert [heights(stack) for stack in full] == [[0, 1, 2, 3]] * 2
    assert [frame.instance.instance_number for frame in partial.frames] == [8, 9, 10]
    assert codes(partial) == {"incomplete-volume"}
    images[1:3] = [replace(images[n], echo_time_ms=2.3 * n) for n in (1, 2)]  # then it is no volume
    assert refused(images).code == "duplicate-position"


def test_duplicate_position():
    images = axial([1, 2, 3])
    error = refused([*images, image(9, (-10, -20, 2.001))])
    assert error.code == "duplicate-position"
    assert error.message.startswith("2 of 4 images share 1 position and nothing")
    assert "instance 2 and instance 9" in error.message
    assert "0.001 mm apart" in error.message
    assert all(i.path in error.message for i in (images[1], image(9, (0, 0, 0))))


def test_every_position_twice_with_nothing_to_tell_them_apart():
    copies = [replace(i, sop_instance_uid=f"{i.sop_instance_uid}.9") for i in axial([1, 2, 3])]
    assert refused([*axial([1, 2, 3]), *copies]).code == "duplicate-position"


@pytest.mark.parametrize("numbers", [(4, 5, 3), (4, 5, None)])
def test_an_order_that_some_position_lacks_tells_nothing(numbers):
    second = [replace(i, instance_number=n) for i, n in zip(axial([1, 2, 3], start=11), numbers, strict=True)]
    assert refused([*axial([1, 2, 3]), *second]).code == "duplicate-position"


def test_a_broken_volume_does_not_cost_the_others():
    full = axial([1, 2, 3, 4], temporal_position=1)
    gap = axial([1, 2, 4], start=5, temporal_position=2)
    good, broken = build_volumes([*full, *gap])
    assert isinstance(good, Stack)
    assert isinstance(broken, BrokenVolume)
    assert (good.label, broken.label) == ("time 1", "time 2")
    assert [i.path for i in broken.instances] == [i.path for i in gap]
    assert broken.error.code == refused([*full, *gap]).code == "missing-slice"


# Images that do not belong


def test_localizer_in_an_axial_series_is_set_aside():
    localizer = image(9, (0, 0, 0), image_orientation=SAGITTAL, image_type="ORIGINAL\\PRIMARY\\LOCALIZER")
    volume, stray = build_stacks([*axial([1, 2, 3]), localizer])
    assert heights(volume) == [1, 2, 3]
    assert (volume.label, codes(volume)) == ("", {"mixed-orientation"})
    assert (stray.label, len(stray.frames)) == ("stray 1", 1)
    assert "stray-frames" in codes(stray)


def test_stray_frames_that_make_no_volume_cost_nothing():
    strays = [image(9, (0, 0, 0), image_orientation=SAGITTAL, sop_instance_uid=f"1.9.{n}") for n in range(2)]
    with_gap = [image(20 + n, (0, y, 0), image_orientation=CORONAL) for n, y in enumerate((0, 1, 2, 4))]
    turned = image(30, (0, 0, 0), image_orientation=(0.0, 1.0, 0.0, 1.0, 0.0, 0.0))
    volume, last = build_volumes([*axial(range(14)), *strays, *with_gap, turned])
    assert isinstance(volume, Stack) and isinstance(last, Stack)
    assert heights(volume) == list(range(14))
    assert [f.code for f in volume.findings] == ["mixed-orientation"] * 3
    assert (last.label, len(last.frames)) == ("stray 3", 1)


@pytest.mark.parametrize(("width_mm", "found"), [(0.750067, set()), (0.750083, {"mixed-size"})])
def test_pixel_spacings_are_the_same_within_a_ten_thousandth(width_mm, found):
    images = [*axial([1, 2, 3]), image(9, (-10, -20, 4), pixel_spacing_mm=(0.5, width_mm))]
    assert codes(build_stacks(images)[0]) == found


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"image_orientation": CORONAL}, "mixed-orientation"),
        ({"columns": 31}, "mixed-size"),
        ({"pixel_spacing_mm": (0.5, 0.8)}, "mixed-size"),
        ({"bits_allocated": 32}, "mixed-layout"),
        ({"image_position_lps_mm": ()}, "geometry-missing"),
        ({"rows": None, "columns": None}, "not-an-image"),
    ],
)
def test_images_unlike_the_others(changes, code):
    strays = [image(n, (0, n, 0), **changes) for n in (9, 10)]
    volume, *_ = build_stacks([*axial([1, 2, 3, 4]), *strays])
    assert heights(volume) == [1, 2, 3, 4]
    assert codes(volume) == {code}
    assert refused([*axial([1, 2, 3]), *strays]).code == code


def test_a_radial_series_is_refused_in_a_few_words():
    angles = [math.pi * n / 100 for n in range(100)]
    images = [
        image(n, (0, 0, 0), image_orientation=(math.cos(a), math.sin(a), 0, 0, 0, -1)) for n, a in enumerate(angles)
    ]
    error = refused(images)
    assert error.code == "mixed-orientation"
    assert error.message.endswith("; 96 frames of 96 more kinds set aside")
    assert len(error.message) < 500


@pytest.mark.parametrize("attribute", STANDARD_NAMES)
def test_geometry_missing(attribute):
    error = refused(axial([1, 2], **{attribute: ()}))
    assert error.code == "geometry-missing"
    assert error.message.startswith(f"frame 1 has no {STANDARD_NAMES[attribute]},")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"image_position_lps_mm": ()}, "1 image set aside: /ct/0003: frame 1 has no ImagePositionPatient"),
        ({"pixel_spacing_mm": (0.5, 0.8)}, "1 of 5 frames set aside: 20 × 30 pixels of [0.5, 0.75] mm and"),
        ({"image_orientation": SAGITTAL}, "1 of 5 frames set aside: direction cosines"),
        ({"bits_allocated": 32}, "1 of 5 frames set aside: 1 × 16 bits, MONOCHROME2 and 1 × 32 bits"),
        ({"rows": None, "columns": None}, "1 image set aside: /ct/0003: modality CT without rows"),
    ],
)
def test_a_gap_names_the_frames_that_were_set_aside(changes, said):
    images = axial([1, 2, 3, 4, 5])
    images[2] = replace(images[2], **changes)
    error = refused(images)
    assert error.code == "missing-slice"
    assert said in error.message


def test_not_an_image():
    assert refused([InstanceHeader(path="/rt", modality="RTSTRUCT")]).code == "not-an-image"
    assert refused([]).code == "not-an-image"


def test_unreadable_instance_keeps_its_code():
    assert refused([InstanceHeader(path="/x", error_code="truncated-file")]).code == "truncated-file"


@pytest.mark.parametrize(
    "changes",
    [
        {"image_position_lps_mm": (0.0, 0.0)},
        {"image_position_lps_mm": (0.0, 0.0, float("nan"))},
        {"image_orientation": (1.0, 0.0, 0.0, 1.0, 0.0, 0.0)},
        {"image_orientation": (0.0,) * 6},
        {"image_orientation": (1.011, 0.0, 0.0, 0.0, 1.0, 0.0)},
        {"image_orientation": (1.0, 0.0, 0.0, 0.011, 1.0, 0.0)},
        {"pixel_spacing_mm": (0.5, 0.0)},
        {"rescale_slope": float("inf")},
        {"rescale_intercept": float("nan")},
        {"rows": 0},
        {"rows": 65535, "columns": 65535},
        {"bits_allocated": 12},
        {
            "bits_allocated": 1,
            "bits_stored": 1,
            "high_bit": 0,
            "samples_per_pixel": 3,
            "photometric_interpretation": "RGB",
        },
        {"bits_stored": 17},
        {"high_bit": 16},
        {"high_bit": 10},
        {"samples_per_pixel": 3},
        {"photometric_interpretation": "SEPIA"},
        {"planar_configuration": 2},
        {"pixel_representation": 2},
        {"number_of_frames": 0},
        {"number_of_frames": 2**31 - 1},
    ],
)
def test_attribute_invalid(changes):
    assert refused(axial([1, 2], **changes)).code == "attribute-invalid"


@pytest.mark.parametrize(
    "orientation", [(1.009, 0, 0, 0, 1, 0), (1, 0, 0, 0.009, 1, 0), (0.577, 0.577, 0.577, -0.707, 0.707, 0)]
)
def test_rounded_cosines_make_unit_vectors_at_right_angles(orientation):
    (stack,) = build_stacks(axial([1], image_orientation=tuple(map(float, orientation))))
    np.testing.assert_allclose(stack.geometry.spacing_dhw_mm, [1, 0.5, 0.75], rtol=1e-12)
    assert stack.geometry.directions_dhw @ stack.geometry.directions_dhw.T == pytest.approx(np.eye(3))


@pytest.mark.parametrize(("off", "expected"), [(4e-4, set()), (6e-4, {"mixed-orientation"})])
def test_orientations_differ_by_their_cosines(off, expected):
    turned = image(9, (-10, -20, 4), image_orientation=(1.0, off, 0.0, -off, 1.0, 0.0))
    assert codes(build_stacks([*axial([1, 2, 3]), turned])[0]) == expected


def test_corners_of_a_plane_by_hand():
    (plane,) = planes_of(image(1, (-10, -20, 5), image_orientation=SAGITTAL))  # 30 columns along y, 20 rows down
    far_y, far_z = -20 + 29 * 0.75, 5 - 19 * 0.5
    assert plane.corners_lps_mm.tolist() == [[-10, -20, 5], [-10, far_y, 5], [-10, -20, far_z], [-10, far_y, far_z]]


def test_a_slice_without_the_rescale_that_the_others_have_is_refused():
    slices = axial([1, 2, 3], rescale_slope=1.0, rescale_intercept=-1024.0)
    assert build_stacks([slices[0], replace(slices[1], rescale_slope=None), slices[2]]), "a slope of 1 may be left out"
    error = refused([slices[0], replace(slices[1], rescale_intercept=None), slices[2]])
    assert error.code == "rescale-missing"
    assert "1 of 3 images" in error.message and "instance 2" in error.message
    steep = [replace(s, rescale_slope=slope) for s, slope in zip(slices, (None, 2.0, 2.0), strict=True)]
    assert refused(steep).code == "rescale-missing"


@pytest.mark.parametrize(
    "attribute",
    ["rows", "bits_allocated", "bits_stored", "pixel_representation", "samples_per_pixel"],
)
def test_attribute_missing(attribute):
    error = refused(axial([1, 2], **{attribute: None}))
    assert isinstance(error, HeaderError)
    assert error.code == "attribute-missing"
    assert attribute in error.message


def test_frame_spec_by_hand():
    spec = FrameSpec.from_header(image(1, (0, 0, 0), bits_allocated=16, bits_stored=12, high_bit=None))
    assert spec == FrameSpec("1.2.840.10008.1.2.1", 20, 30, 16, 12, 11, False)


# Real series, against dcm2niix


def read_series(folder: Path) -> dict[tuple[str, int | None], list[InstanceHeader]]:
    """Read the image series under a folder; those of the 12-bit set differ in nothing but the series number."""
    files = sorted(str(path) for path in folder.rglob("*") if path.is_file() and "reference-dcm2niix" not in path.parts)
    series: dict[tuple[str, int | None], list[InstanceHeader]] = {}
    for header in read_headers(files):
        if header.rows and header.modality in ("CT", "MR", "PT", "OT"):
            series.setdefault((header.series_instance_uid, header.series_number), []).append(header)
    return series


def affine_ras(stack: Stack) -> np.ndarray:
    """Return the affine from NIfTI's index order (column, row, slice) to RAS mm."""
    return (LPS_TO_RAS @ stack.geometry.index_to_lps)[:, [2, 1, 0, 3]]


@lru_cache(maxsize=2)
def decode(path: str) -> np.ndarray:
    import pydicom

    return pydicom.dcmread(path).pixel_array


def load(stack: Stack) -> np.ndarray:
    """Decode the stored values of a stack with pydicom, shape (D, H, W)."""
    _, height, width = stack.geometry.shape
    slices = []
    for frame in stack.frames:
        pixels = decode(frame.instance.path)
        if stack.tiles_a_row:
            row, column = divmod(frame.index, stack.tiles_a_row)
            pixels = pixels[row * height : (row + 1) * height, column * width : (column + 1) * width]
        elif stack.spec.number_of_frames > 1:
            pixels = pixels[frame.index]
        slices.append(pixels)
    return np.stack(slices)


def corner_error_mm(stack: Stack, reference: dict[str, Any]) -> float:
    """Return how far the eight corners of two grids are apart at most, whatever the order of their axes."""
    corners = np.array(list(itertools.product((0, 1), repeat=3)), float)
    ours = stack.geometry.to_lps(corners * (np.array(stack.geometry.shape) - 1)) * [-1, -1, 1]
    affine = np.array(reference["affine"])
    theirs = corners * (np.array(reference["shape"][:3]) - 1) @ affine[:3, :3].T + affine[:3, 3]
    distances = np.linalg.norm(ours[:, None] - theirs[None], axis=2)
    return float(max(distances.min(axis=0).max(), distances.min(axis=1).max()))


def matches_voxels(stacks: Sequence[Stack], reference: dict[str, Any]) -> bool:
    """Whether the stacks, as time points, hold the reference's stored values in the reference's order."""
    from nibabel.orientations import apply_orientation, io_orientation, ornt_transform

    turn = ornt_transform(io_orientation(affine_ras(stacks[0])), io_orientation(np.array(reference["affine"])))
    data = np.stack([apply_orientation(load(stack).transpose(2, 1, 0), turn) for stack in stacks], axis=-1)
    stored = data.astype(reference["dtype"]).tobytes("F")
    return hashlib.sha256(stored).hexdigest() == reference["sha256_raw_voxels_F_order"]


#: Folder of references → its outputs that have no equal here, and why.
REFERENCES: dict[str, dict[str, str]] = {
    "ct-rtstruct/ibsi_sts_002/reference-dcm2niix/CT": {},
    "ct-rtstruct/ibsi_sts_002/reference-dcm2niix/MR_T1": {},
    "ct-rtstruct/ibsi_sts_002/reference-dcm2niix/PET": {},
    "ct-rtstruct/ibsi_sts_025/reference-dcm2niix/CT": {},
    "ct-rtstruct/ibsi_sts_025/reference-dcm2niix/MR_T1": {},
    "ct-rtstruct/ibsi_sts_025/reference-dcm2niix/PET": {},
    "ct-seg/dcmqi_segmentations/reference-dcm2niix/23x38x3": {},
    "ct-seg/dcmqi_segmentations/reference-dcm2niix/24x38x3": {},
    "ct-seg/dcmqi_segmentations/reference-dcm2niix/ct-3slice": {},
    "dcm2niix-reference/12bit/reference-dcm2niix": {},
    "dcm2niix-reference/mosaic/reference-dcm2niix": {},
    "dcm2niix-reference/nih_siemens_ge/reference-dcm2niix": {},
    "enhanced/dcm_qa_enh/reference-dcm2niix": {},
    "enhanced/dicom2nifti_enhanced/reference-dcm2niix": {
        "501_": "its DICOM is not in the data",
        "701_": "takes Spacing Between Slices, 3.313 mm, where the positions say 3.3125 mm",
    },
    "enhanced/pydicom_data_enhanced/reference-dcm2niix": {},
    "mr/dicom2nifti_ge/reference-dcm2niix": {},
    "mr/dicom2nifti_generic/reference-dcm2niix": {},
    "mr/dicom2nifti_geometry_faults/reference-dcm2niix": {
        "4_a": "gantry tilt, left uncorrected",
        "4_a_Tilt_1": "gantry tilt, resampled",
    },
    "mr/dicom2nifti_misc/reference-dcm2niix": {},
    "mr/torchio_ct17/reference-dcm2niix": {},
}


@pytest.mark.parametrize("folder", REFERENCES)
def test_grids_and_voxels_equal_dcm2niix(folder: str, data_dir: Path):
    """Each of dcm2niix's outputs has one series here with its grid, its number of volumes and its voxels."""
    reference = json.loads((data_dir / folder / "dcm2niix-reference.json").read_text())
    outputs = {name.removesuffix(".nii.gz"): output for name, output in reference["images"].items()}
    wanted = {name: outputs[name] for name in outputs if name not in REFERENCES[folder]}
    for images in read_series(data_dir / reference["source"]).values():
        try:
            stacks = build_stacks(images)
        except GeometryError as error:
            assert error.code in ("gantry-tilt", "geometry-missing")
            continue
        for volumes in as_outputs(stacks):
            for name in [n for n, output in wanted.items() if is_same(volumes, output)]:
                del wanted[name]
    assert not wanted


def as_outputs(stacks: tuple[Stack, ...]) -> Iterator[tuple[Stack, ...]]:
    """Yield the stacks together, as time points, and each by itself."""
    if len(stacks) > 1:
        yield stacks
    for stack in stacks:
        yield (stack,)


def is_same(stacks: tuple[Stack, ...], output: dict[str, Any]) -> bool:
    width, height, depth, *times = output["shape"]
    if (times or [1]) != [len(stacks)] or sorted((width, height, depth)) != sorted(stacks[0].geometry.shape):
        return False
    rounding_mm = REFERENCE_ROUNDING * (width + height + depth)
    if any(corner_error_mm(stack, output) > AFFINE_TOLERANCE_MM + rounding_mm for stack in stacks):
        return False
    is_rgb = output["dtype"].startswith("[")
    return is_rgb or is_rescaled(stacks, output) or matches_voxels(stacks, output)


def is_rescaled(stacks: tuple[Stack, ...], output: dict[str, Any]) -> bool:
    """Whether dcm2niix applied the rescale, as it does where it differs between slices."""
    return output["dtype"] == "float32" and any(f.slope != 1 for stack in stacks for f in stack.frames)


def test_gantry_tilt_and_variable_spacing_of_a_real_ct(data_dir: Path):
    (images,) = read_series(data_dir / "dcm2niix-reference/ct_ge_tilt_varspacing/In").values()
    error = refused(images)
    assert error.code == "gantry-tilt"
    assert "18.5 degrees" in error.message
    assert "48.211 mm" in error.message
    (stack,) = build_stacks(images, on_irregular="resample")
    assert codes(stack) == {"gantry-tilt", "variable-spacing"}
    reference = load_reference(data_dir / "dcm2niix-reference/ct_ge_tilt_varspacing", "2__Tilt_Eq_1")
    assert stack.geometry.shape[1:] == (reference["shape"][1], reference["shape"][0])
    assert_same_slab(stack, reference)


def test_gantry_tilt_alone_gives_dcm2niix_grid(data_dir: Path):
    (images,) = read_series(data_dir / "mr/dicom2nifti_geometry_faults/failing/gantrytilting").values()
    assert refused(images).code == "gantry-tilt"
    (stack,) = build_stacks(images, on_irregular="resample")
    reference = load_reference(data_dir / "mr/dicom2nifti_geometry_faults", "4_a_Tilt_1")
    assert stack.geometry.shape == tuple(reference["shape"][::-1])
    assert_same_slab(stack, reference)


def load_reference(folder: Path, name: str) -> dict[str, Any]:
    reference = json.loads((folder / "reference-dcm2niix/dcm2niix-reference.json").read_text())
    output: dict[str, Any] = reference["images"][f"{name}.nii.gz"]
    return output


def assert_same_slab(stack: Stack, reference: dict[str, Any]) -> None:
    rounding_mm = REFERENCE_ROUNDING * sum(reference["shape"])
    assert corner_error_mm(stack, reference) <= AFFINE_TOLERANCE_MM + rounding_mm


def test_mixed_orientation_of_a_real_mr(data_dir: Path):
    series = read_series(data_dir / "mr/dicom2nifti_geometry_faults/failing/sliceorientation")
    assert refused([image for images in series.values() for image in images]).code == "mixed-orientation"


def test_missing_slice_of_a_real_ct(data_dir: Path):
    """One of 21 slices is missing: 1.6 mm in a CT of 0.8 mm. dcm2niix makes 22 slices of 0.762 mm of it."""
    (images,) = read_series(data_dir / "ct-rtstruct/totalsegmentator_aide/dcm").values()
    error = refused(images)
    assert error.code == "missing-slice"
    assert "1.600 mm after slice 1 of 20 (instance 81, at -821.001 mm)" in error.message
    (stack,) = build_stacks(images, on_irregular="resample")
    assert stack.geometry.shape == (21, 512, 512)
    np.testing.assert_allclose(stack.geometry.spacing_dhw_mm[0], 0.8, atol=1e-4)
    reference = load_reference(data_dir / "ct-rtstruct/totalsegmentator_aide", "1_Axial_Chest_CT_COVID-19_Eq_1")
    assert_same_slab(stack, reference)


def test_interrupted_enhanced_series(data_dir: Path):
    """The last time point stopped after 26 of 34 slices, taken out of order, so that there are gaps."""
    (images,) = read_series(data_dir / "enhanced/heudiconv_xa_4d/xa_4d_interrupted").values()
    error = refused(images)
    assert error.code == "missing-slice"
    assert "time 21" in error.message
    assert "26 of the 34 positions" in error.message
    full, interrupted = build_stacks(images, on_irregular="resample")
    assert matches_voxels([full], load_reference(data_dir / "enhanced/heudiconv_xa_4d", "6_BOLD_MOSAIC_64_resting"))
    assert interrupted.geometry.same_grid(full.geometry)
    assert len(interrupted.frames) == 26


def test_positions_win_over_spacing_between_slices(data_dir: Path):
    (images,) = read_series(data_dir / "enhanced/dicom2nifti_enhanced/philips_enhanced").values()
    stacks = build_stacks(images)
    assert [stack.label for stack in stacks] == ["time 1", "time 2", "time 3", "time 4"]
    np.testing.assert_allclose(stacks[0].geometry.spacing_dhw_mm, 3.3125, atol=1e-6)


def test_multiframe_without_geometry(data_dir: Path):
    images = read_headers([str(data_dir / "enhanced/pydicom_data_enhanced/emri_small.dcm")])
    assert refused(images).code == "geometry-missing"


def test_classic_series_do_not_import_pydicom():
    source = """
import sys
from gpuprep.dicom.header import InstanceHeader, read_headers
from gpuprep.dicom.stack import build_stacks
header = InstanceHeader(path="a", rows=2, columns=2, bits_allocated=16, bits_stored=16, high_bit=15,
    pixel_representation=1, samples_per_pixel=1, photometric_interpretation="MONOCHROME2",
    image_position_lps_mm=(0., 0., 0.), image_orientation=(1., 0., 0., 0., 1., 0.), pixel_spacing_mm=(1., 1.))
build_stacks([header])
sys.exit("pydicom" in sys.modules)
"""
    subprocess.run([sys.executable, "-c", source], check=True)
