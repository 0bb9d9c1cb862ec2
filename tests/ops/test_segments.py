import json
import warnings
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuprep.backends import select
from gpuprep.codecs.segframes import decode_segmentation_frames
from gpuprep.dicom import synth
from gpuprep.dicom.header import read_headers
from gpuprep.dicom.seg import read_segmentation
from gpuprep.dicom.stack import build_stacks
from gpuprep.errors import RoiError
from gpuprep.geometry import VolumeGeometry
from gpuprep.ops.rasterize import SliceGrid
from gpuprep.ops.segments import embed_segmentation

RAS = np.array([-1.0, -1.0, 1.0])
LIVER_ENCODINGS = [
    "liver_deflate",
    "liver_expb",
    "liver_j2k",
    "liver_rle",
    "liver_nonbyte_aligned",
    "liver_nonbyte_aligned_deflate",
    "liver_nonbyte_aligned_j2k",
    "liver_nonbyte_aligned_rle",
]


def image_geometry(folder: Path) -> VolumeGeometry:
    """Grid of a regular series."""
    (stack,) = build_stacks(read_headers([str(p) for p in folder.iterdir() if p.is_file()]))
    assert not stack.is_irregular
    return stack.geometry


def embed(path, image, *, planes=None, backend="cpu", **options):
    """Embed a file into an image whose planes are those of the grid `image`, or lie at `planes`."""
    segmentation = read_segmentation(path)
    frames = decode_segmentation_frames(segmentation)
    return embed_segmentation(segmentation, frames, SliceGrid(image, planes), backend=select(backend), **options)


def nifti_on_grid(path: Path, target: VolumeGeometry) -> np.ndarray:
    """Values of a NIfTI whose voxels all lie on voxels of `target`; 0 elsewhere."""
    image = nibabel.load(path)
    array = np.asarray(image.dataobj)
    index = np.argwhere(array)
    lps = nibabel.affines.apply_affine(image.affine, index) * RAS
    place = target.to_index(lps)
    assert np.abs(place - np.rint(place)).max(initial=0) < 0.02
    out = np.zeros(target.shape, array.dtype)
    out[tuple(np.rint(place).astype(int).T)] = array[tuple(index.T)]
    return out


def check_canonical(mask):
    as_integers = [sum(int(word) << 32 * p for p, word in enumerate(row)) for row in mask.table]
    assert as_integers == sorted(set(as_integers)) and as_integers[0] == 0
    assert (mask.code_counts[1:] > 0).all()


@pytest.fixture
def sts(data_dir):
    return data_dir / "ct-seg/generated_on_sts_002_CT"


@pytest.fixture
def sts_grid(data_dir):
    return image_geometry(data_dir / "ct-rtstruct/ibsi_sts_002/dicom/STS_002/CT/image")


@pytest.mark.parametrize(
    "name", ["binary_sparse_single", "binary_all_frames", "labelmap", "labelmap_rle", "labelmap_j2k"]
)
def test_one_segment_equals_the_truth(sts, sts_grid, name):
    mask, problems = embed(sts / f"{name}.dcm", sts_grid)
    assert not problems
    assert [roi.name for roi in mask.rois] == ["GTV_Mass"]
    assert np.array_equal(mask.binary(0), nifti_on_grid(sts / "truth/GTV_Mass.nii.gz", sts_grid))


def test_overlapping_segments_equal_the_truth(sts, sts_grid):
    mask, problems = embed(sts / "binary_overlap.dcm", sts_grid)
    assert not problems
    check_canonical(mask)
    assert len(mask.table) == 4
    for n, name in enumerate(("GTV_Mass", "overlap_box")):
        assert np.array_equal(mask.binary(n), nifti_on_grid(sts / f"truth/{name}.nii.gz", sts_grid))


@pytest.mark.parametrize("threshold", [0.0, 0.25, 0.5, 0.75])
@pytest.mark.parametrize(("name", "maximum"), [("fractional_probability", 255), ("fractional_rle", 100)])
def test_fractional_equals_the_thresholded_truth(sts, sts_grid, name, maximum, threshold):
    mask, _ = embed(sts / f"{name}.dcm", sts_grid, fractional_threshold=threshold)
    truth = nifti_on_grid(sts / "truth/fractional_255.nii.gz", sts_grid)
    quantised = np.rint(truth / 255 * maximum)
    assert np.array_equal(mask.binary(0), quantised > threshold * maximum)


@pytest.mark.parametrize(
    ("seg", "reference", "image"),
    [
        ("dcmqi_segmentations/liver.dcm", "liver", "dcmqi_segmentations/ct-3slice"),
        ("dcmqi_segmentations/partial_overlaps.dcm", "partial_overlaps", "dcmqi_segmentations/ct-3slice"),
        ("dcmqi_segmentations/23x38x3/seg/label.seg", "23x38x3", "dcmqi_segmentations/23x38x3/image"),
        ("dcmqi_segmentations/24x38x3/seg/label.seg", "24x38x3", "dcmqi_segmentations/24x38x3/image"),
        ("dcmqi_segmentations/sparse-labelmap-ppv5.dcm", "sparse-labelmap-ppv5", "dcmqi_segmentations/24x38x3/image"),
        ("dcmqi_segmentations/sparse-labelmap-noppv.dcm", "sparse-labelmap-noppv", "dcmqi_segmentations/24x38x3/image"),
        ("pydicom_data_liver/liver.dcm", "pydicom_liver", "dcmqi_segmentations/ct-3slice"),
        ("pydicom_data_liver/liver_expb.dcm", "pydicom_liver_expb", "dcmqi_segmentations/ct-3slice"),
        (
            "pydicom_data_liver/liver_nonbyte_aligned.dcm",
            "pydicom_liver_nonbyte_aligned",
            "dcmqi_segmentations/ct-3slice",
        ),
    ],
)
def test_equals_dcmqi(data_dir, seg, reference, image):
    root = data_dir / "ct-seg"
    grid = image_geometry(root / image)
    mask, problems = embed(root / seg, grid)
    assert not problems
    check_canonical(mask)
    meta = json.loads((root / "reference-dcmqi" / reference / "seg-meta.json").read_text())
    labels = [s for group in meta["segmentAttributes"] for s in group]
    names = {s["labelID"]: s["SegmentLabel"] for s in labels if s["SegmentLabel"] != "Background"}
    for n, roi in enumerate(mask.rois):
        assert roi.name == names[roi.number]
        expected = nifti_on_grid(root / "reference-dcmqi" / reference / f"seg-{roi.number}.nii.gz", grid)
        assert expected.any()
        is_labelmap = "labelmap" in reference  # dcmqi then writes all values into each file, padding included
        assert np.array_equal(mask.binary(n), expected == roi.number if is_labelmap else expected > 0)


@pytest.mark.parametrize(
    ("name", "threshold"),
    [
        ("seg_image_ct_binary", 0),
        ("seg_image_ct_binary_overlap", 0),
        ("seg_image_ct_binary_fractional", 127.5),
        ("seg_image_ct_true_fractional", 127.5),
    ],
)
def test_series_with_a_gap_equals_dcmqi(data_dir, name, threshold):
    root = data_dir / "ct-seg"
    headers = [pydicom.dcmread(p) for p in sorted((root / "highdicom_sources/77654033/CT2").iterdir())]
    planes = np.array([h.ImagePositionPatient for h in headers], float)
    acquired = np.rint((planes[:, 2] - planes[0, 2]) / 1.25).astype(int)
    assert acquired.tolist() == [0, 162, 163, 164]
    grid = VolumeGeometry.from_axes(
        (165, 16, 16),
        origin_lps_mm=planes[0],
        directions_dhw=np.eye(3)[::-1],
        spacing_dhw_mm=(1.25, *headers[0].PixelSpacing),
    )
    mask, problems = embed(root / f"highdicom/{name}.dcm", grid, planes=planes)
    assert not problems
    for n, roi in enumerate(mask.rois):
        expected = nifti_on_grid(root / "reference-dcmqi" / name / f"seg-{roi.number}.nii.gz", grid)
        assert np.array_equal(mask.binary(n)[acquired], expected[acquired] > threshold)


def test_single_frame_equals_dcmqi(data_dir):
    root = data_dir / "ct-seg"
    header = pydicom.dcmread(root / "highdicom/ct_image.dcm")
    grid = VolumeGeometry.from_axes(
        (1, header.Rows, header.Columns),
        origin_lps_mm=header.ImagePositionPatient,
        directions_dhw=np.eye(3)[::-1],
        spacing_dhw_mm=(5.0, *header.PixelSpacing),
    )
    mask, _ = embed(root / "highdicom/seg_image_ct_binary_single_frame.dcm", grid)
    expected = nifti_on_grid(root / "reference-dcmqi/seg_image_ct_binary_single_frame/seg-1.nii.gz", grid)
    assert np.array_equal(mask.binary(0), expected)


@pytest.mark.parametrize("name", LIVER_ENCODINGS)
def test_every_encoding_of_the_liver_is_the_same_liver(data_dir, name):
    root = data_dir / "ct-seg"
    grid = image_geometry(root / "dcmqi_segmentations/ct-3slice")
    plain = "liver_nonbyte_aligned" if "nonbyte" in name else "liver"
    expected = pydicom.dcmread(root / f"pydicom_data_liver/{plain}.dcm").pixel_array
    mask, problems = embed(root / f"pydicom_data_liver/{name}.dcm", grid)
    rows, columns = expected.shape[1:]
    assert not problems
    assert np.array_equal(mask.binary(0)[:, :rows, :columns], expected)
    assert mask.voxel_counts.tolist() == [expected.sum()]


@pytest.mark.parametrize("name", ["binary_sparse_single", "binary_overlap", "labelmap", "fractional_rle"])
def test_equals_highdicom(sts, sts_grid, name):
    import highdicom

    mask, _ = embed(sts / f"{name}.dcm", sts_grid)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reader = highdicom.seg.segread(sts / f"{name}.dcm")
        volume = reader.get_volume()
    # highdicom's volume is the slab with segments alone, its slices from head to feet
    found = VolumeGeometry(volume.array.shape[:3], volume.affine)
    for n, roi in enumerate(mask.rois):
        array = volume.array[..., list(reader.segment_numbers).index(roi.number)] > 0.5
        assert array.any()
        assert np.array_equal(mask.binary(n), same_voxels(array, found, sts_grid))


def test_ibsi_phantom_equals_its_nifti(data_dir):
    root = data_dir / "ct-seg/ibsi1_digital_phantom"
    image = nibabel.load(root / "nifti/mask/mask.nii.gz")
    expected = np.asarray(image.dataobj)
    frames = pydicom.dcmread(root / "dicom/image/phantom.dcm")
    groups = frames.PerFrameFunctionalGroupsSequence
    shared = frames.SharedFunctionalGroupsSequence[0]
    group = groups[0] if "PlaneOrientationSequence" in groups[0] else shared
    orientation = np.array(group.PlaneOrientationSequence[0].ImageOrientationPatient, float)
    positions = np.array([g.PlanePositionSequence[0].ImagePositionPatient for g in groups], float)
    grid = VolumeGeometry.from_axes(
        (len(groups), frames.Rows, frames.Columns),
        origin_lps_mm=positions[0],
        directions_dhw=(positions[1] - positions[0], orientation[3:], orientation[:3]),
        spacing_dhw_mm=(1, 1, 1),
    )
    mask, problems = embed(root / "dicom/mask/mask.dcm", grid)
    assert not problems
    assert mask.voxel_counts.tolist() == [expected.sum()] == [74]
    image_values = frames.pixel_array[mask.binary(0).astype(bool)]
    nifti_values = np.asarray(nibabel.load(root / "nifti/image/phantom.nii.gz").dataobj)[expected.astype(bool)]
    assert sorted(image_values) == sorted(nifti_values)
    for target in (
        grid,
        grid.reoriented((2, 0, 1), (False, True, True)),
        grid.reoriented((1, 2, 0), (True, False, False)),
    ):
        on_target, _ = embed(root / "dicom/mask/mask.dcm", target)
        assert np.array_equal(on_target.binary(0), same_voxels(mask.binary(0), grid, target))


def same_voxels(array, source, target):
    """Move the voxels of `array` on `source` to where they lie on `target`."""
    index = np.argwhere(array)
    place = np.rint(target.to_index(source.to_lps(index))).astype(int)
    out = np.zeros(target.shape, array.dtype)
    inside = ((place >= 0) & (place < target.shape)).all(axis=1)
    out[tuple(place[inside].T)] = array[tuple(index[inside].T)]
    return out


AXES = np.array([[0.0, -0.6, 0.8], [0.0, 0.8, 0.6], [1.0, 0.0, 0.0]])


def make_grid(shape=(6, 9, 7), axes=AXES, spacing_dhw_mm=(2.5, 0.9, 1.1), origin=(-10.5, 20.25, 3.125)):
    return VolumeGeometry.from_axes(shape, origin_lps_mm=origin, directions_dhw=axes, spacing_dhw_mm=spacing_dhw_mm)


def make_masks(shape, count=3, seed=0, fill=0.3):
    return np.random.default_rng(seed).random((count, *shape)) < fill


def write(tmp_path, grid, masks, seg_grid=None, numbers=None, change=None, **options):
    series = synth.plan_series(grid)
    numbers = numbers or range(1, len(masks) + 1)
    segments = [synth.SegmentSpec(n, "same", m) for n, m in zip(numbers, masks, strict=True)]
    data = synth.build_segmentation(series, segments, geometry=seg_grid, **options)
    if change:
        change(data)
    synth.write_dataset(data, tmp_path / "seg.dcm")
    return tmp_path / "seg.dcm", series.geometry


@pytest.mark.parametrize(
    ("axes", "flips"),
    [
        ((0, 1, 2), (False, True, False)),
        ((0, 1, 2), (True, False, True)),
        ((0, 2, 1), (False, False, True)),
        ((2, 1, 0), (False, True, False)),
        ((1, 0, 2), (True, True, True)),
    ],
)
@pytest.mark.parametrize("box", [((0, 0, 0), (6, 9, 7)), ((1, 2, 3), (4, 5, 4)), ((-1, -2, -1), (9, 12, 9))])
def test_flipped_swapped_and_cropped_frames_are_copied(tmp_path, axes, flips, box):
    image = make_grid()
    seg_grid = image.crop(*box).reoriented(axes, flips)
    masks = make_masks(seg_grid.shape)
    path, target = write(tmp_path, image, masks, seg_grid)
    mask, _ = embed(path, target)
    check_canonical(mask)
    for n in range(3):
        assert np.array_equal(mask.binary(n), same_voxels(masks[n], seg_grid, target))


def test_sagittal_frames_on_axial_slices_are_copied(tmp_path):
    image = make_grid(axes=np.eye(3)[::-1])
    seg_grid = image.reoriented((2, 0, 1), (True, True, False))
    masks = make_masks(seg_grid.shape)
    path, target = write(tmp_path, image, masks, seg_grid)
    mask, problems = embed(path, target)
    assert not problems
    for n in range(3):
        assert np.array_equal(mask.binary(n), same_voxels(masks[n], seg_grid, target))


@pytest.mark.parametrize("kind", ["BINARY", "FRACTIONAL", "LABELMAP"])
def test_order_of_frames_does_not_matter_and_absent_ones_are_empty(tmp_path, kind):
    image = make_grid()
    masks = make_masks(image.shape)
    masks[1] &= ~masks[0]
    masks[2] &= ~(masks[0] | masks[1])
    path, target = write(tmp_path, image, masks, kind=kind, slices=(4, 0, 3))
    mask, problems = embed(path, target)
    assert not problems
    masks[:, [1, 2, 5]] = False
    assert np.array_equal([mask.binary(n) for n in range(3)], masks)


@pytest.mark.parametrize("start", [(0, 9, 0), (0, 0, -7), (0, -9, 7)])
def test_frames_beside_the_image_leave_nothing(tmp_path, start):
    image = make_grid()
    seg_grid = image.crop(start, image.shape)
    path, target = write(tmp_path, image, make_masks(seg_grid.shape), seg_grid)
    mask, _ = embed(path, target)
    assert mask.voxel_counts.tolist() == [0, 0, 0]


def test_many_segments_numbers_labels_and_empty_ones_keep_their_place(tmp_path):
    image = make_grid()
    masks = make_masks(image.shape, count=40, fill=0.1)
    masks[[0, 17, 39]] = False
    numbers = [100 + 3 * n for n in range(40)]
    path, target = write(tmp_path, image, masks, numbers=numbers)
    mask, _ = embed(path, target)
    check_canonical(mask)
    assert [roi.number for roi in mask.rois] == numbers
    assert {roi.name for roi in mask.rois} == {"same"}
    assert np.array_equal([mask.binary(n) for n in range(40)], masks)


def test_segmentation_without_frames_is_empty(tmp_path):
    image = make_grid()
    path, target = write(tmp_path, image, np.zeros((2, *image.shape), bool))
    mask, problems = embed(path, target)
    assert not problems and len(mask.rois) == 2
    assert mask.table.tolist() == [[0]] and not mask.codes.any()


def nearest_by_simpleitk(masks, seg_grid, target):
    resampled = []
    for mask in masks:
        image = SimpleITK.GetImageFromArray(mask.astype(np.uint8))
        image.SetOrigin(seg_grid.origin_lps_mm.tolist())
        image.SetSpacing(seg_grid.spacing_dhw_mm[::-1].tolist())
        image.SetDirection(seg_grid.directions_dhw[::-1].T.ravel().tolist())
        reference = SimpleITK.Image([int(n) for n in target.shape[::-1]], SimpleITK.sitkUInt8)
        reference.SetOrigin(target.origin_lps_mm.tolist())
        reference.SetSpacing(target.spacing_dhw_mm[::-1].tolist())
        reference.SetDirection(target.directions_dhw[::-1].T.ravel().tolist())
        out = SimpleITK.Resample(image, reference, SimpleITK.Transform(), SimpleITK.sitkNearestNeighbor, 0)
        resampled.append(SimpleITK.GetArrayFromImage(out))
    return np.array(resampled)


@pytest.mark.parametrize(
    ("spacing", "origin"),
    [
        ((1.1, 0.4, 0.6), (-11.0, 19.9, 2.2)),
        ((7.3, 0.9, 1.1), (-10.5, 20.25, 3.0)),
        ((3.3, 1.7, 2.3), (-9.1, 21.3, 4.0)),
    ],
)
def test_another_grid_of_parallel_slices_is_nearest_neighbour(tmp_path, spacing, origin):
    target = make_grid((12, 30, 20), axes=np.eye(3)[::-1])
    seg_grid = make_grid((8, 25, 16), axes=np.eye(3)[::-1], spacing_dhw_mm=spacing, origin=origin)
    masks = make_masks(seg_grid.shape)
    path, target = write(tmp_path, target, masks, seg_grid)
    mask, _ = embed(path, target)
    expected = nearest_by_simpleitk(masks, seg_grid, target)
    assert expected.any()
    assert np.array_equal([mask.binary(n) for n in range(3)], expected)


@settings(max_examples=60, deadline=None)
@given(
    spacing=st.sampled_from([0.3, 1.0, 1.5, 2.1, 3.0, 3.9, 9.3]),
    shift=st.integers(-14, 14).map(lambda n: n / 10 + 0.0037),  # no ties
    filled=st.sets(st.integers(0, 11), min_size=1, max_size=4),
)
def test_slices_of_another_distance_are_nearest_neighbour_however_few_have_a_frame(
    tmp_path_factory, spacing, shift, filled
):
    image = make_grid((7, 9, 7), axes=np.eye(3)[::-1], spacing_dhw_mm=(3.0, 0.9, 1.1))
    origin = (-10.5, 20.25, 3.125 + shift)
    seg_grid = make_grid((12, 9, 7), axes=np.eye(3)[::-1], spacing_dhw_mm=(spacing, 0.9, 1.1), origin=origin)
    masks = np.zeros((1, *seg_grid.shape), bool)
    masks[0, sorted(filled), 2:6, 3:5] = True
    path, image = write(tmp_path_factory.mktemp("seg"), image, masks, seg_grid)
    mask, _ = embed(path, image)
    assert np.array_equal([mask.binary(0)], nearest_by_simpleitk(masks, seg_grid, image))


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_oblique_frames_are_nearest_neighbour(tmp_path, backend):
    target = make_grid((12, 30, 20), axes=np.eye(3)[::-1])
    seg_grid = make_grid((14, 25, 26), spacing_dhw_mm=(1.7, 0.8, 1.3), origin=(-12.01, 30.02, -3.03))
    masks = make_masks(seg_grid.shape)
    path, target = write(tmp_path, target, masks, seg_grid)
    mask, _ = embed(path, target, backend=backend)
    check_canonical(mask)
    expected = nearest_by_simpleitk(masks, seg_grid, target)
    assert expected.any()
    assert np.array_equal([mask.binary(n) for n in range(3)], expected)


def test_finer_output_grid_shows_the_nearest_image_plane(tmp_path):
    image = make_grid((6, 9, 7), axes=np.eye(3)[::-1])
    masks = make_masks(image.shape)

    def drop_spacing(data):
        del data.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SpacingBetweenSlices

    path, image = write(tmp_path, image, masks, slices=(0, 3, 5), change=drop_spacing)
    masks[:, [1, 2, 4]] = False
    target = image.with_spacing((0.8, 0.5, 0.5))
    mask, _ = embed(path, image, target=target)
    assert np.array_equal([mask.binary(n) for n in range(3)], nearest_by_simpleitk(masks, image, target))


def test_irregular_planes_are_matched_by_position(tmp_path):
    regular = make_grid((9, 9, 7), axes=np.eye(3)[::-1])
    acquired = [0, 1, 2, 5, 6, 8]
    masks = make_masks(regular.shape)
    path, target = write(tmp_path, regular, masks, slices=acquired[::-1])
    mask, problems = embed(path, target, planes=[regular.to_lps((d, 0, 0)) for d in acquired])
    assert not problems
    assert np.array_equal([mask.binary(n)[acquired] for n in range(3)], masks[:, acquired])
    nearest = [0, 1, 2, 2, 5, 5, 6, 8, 8]  # halfway between 6 and 8 goes up
    assert np.array_equal([mask.binary(n) for n in range(3)], masks[:, nearest])


def test_a_small_shift_along_the_normal_goes_to_the_nearest_slice(tmp_path):
    image = make_grid(axes=np.eye(3)[::-1])
    shifted = make_grid(axes=np.eye(3)[::-1], origin=(-10.5, 20.25, 3.125 + 1.0))
    masks = make_masks(image.shape)
    path, target = write(tmp_path, image, masks, shifted)
    mask, problems = embed(path, target)
    assert not problems
    assert np.array_equal([mask.binary(n) for n in range(3)], masks)


def test_frames_off_all_slices_are_a_problem(tmp_path):
    image = make_grid(axes=np.eye(3)[::-1])
    taller = image.crop((-2, 0, 0), (10, 9, 7))
    masks = make_masks(taller.shape, count=2)
    masks[1, :3] = masks[1, 8:] = False
    path, target = write(tmp_path, image, masks, taller)
    mask, problems = embed(path, target)
    assert [p.code for p in problems] == ["frame-off-slices"]
    assert "4 frames of segment 1" in problems[0].message and "5.00 mm" in problems[0].message
    assert np.array_equal([mask.binary(n) for n in range(2)], masks[:, 2:8])


@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
def test_pixels_of_an_undescribed_segment_are_a_problem(tmp_path, kind):
    image = make_grid()
    masks = make_masks(image.shape, count=2)
    masks[1] &= ~masks[0]

    def forget_second(data):
        del data.SegmentSequence[1]

    path, target = write(tmp_path, image, masks, kind=kind, change=forget_second)
    mask, problems = embed(path, target)
    assert [p.code for p in problems] == ["unknown-segment"]
    assert f"{masks[1].sum()} pixels of segment 2" in problems[0].message
    assert np.array_equal(mask.binary(0), masks[0])


@pytest.mark.parametrize("kind", ["BINARY", "FRACTIONAL", "LABELMAP"])
def test_segments_that_are_not_wanted_stay_empty_and_their_frames_are_not_decoded(tmp_path, kind):
    class Decoded(list):
        def __getitem__(self, index):
            decoded.append(segmentation.frames[index].segment_number)
            return super().__getitem__(index)

    decoded = []
    image = make_grid(axes=np.eye(3)[::-1])
    taller = image.crop((-2, 0, 0), (10, 9, 7))  # frames off all slices, too, are of interest where they are wanted
    masks = make_masks(taller.shape)
    masks[1] &= ~masks[0]
    masks[2] &= ~(masks[0] | masks[1])
    path, target = write(tmp_path, image, masks, taller, kind=kind, change=lambda data: data.SegmentSequence.pop())
    segmentation = read_segmentation(path)
    frames = Decoded(decode_segmentation_frames(segmentation))
    mask, problems = embed_segmentation(segmentation, frames, SliceGrid(target), backend=select("cpu"), wanted=[2])
    assert [roi.number for roi in mask.rois] == [1, 2]
    assert not mask.binary(0).any()
    assert np.array_equal(mask.binary(1), masks[1, 2:8])
    assert "unknown-segment" in {problem.code for problem in problems}
    assert set(decoded) == ({None} if kind == "LABELMAP" else {2, 3})
    assert not any("of segment 1" in problem.message for problem in problems)


def test_another_frame_of_reference_is_refused(tmp_path):
    image = make_grid()
    path, _ = write(tmp_path, image, make_masks(image.shape))
    other = VolumeGeometry(image.shape, image.index_to_lps, "1.2.3")
    with pytest.raises(RoiError) as caught:
        embed(path, other)
    assert caught.value.code == "frame-of-reference-mismatch"


def test_oblique_frames_without_a_grid_are_refused(tmp_path):
    def push(data):
        position = data.PerFrameFunctionalGroupsSequence[1].PlanePositionSequence[0]
        position.ImagePositionPatient = [float(v) + 3.3 for v in position.ImagePositionPatient]

    target = make_grid((12, 30, 20), axes=np.eye(3)[::-1])
    seg_grid = make_grid()
    path, target = write(tmp_path, target, make_masks(seg_grid.shape), seg_grid, change=push)
    with pytest.raises(RoiError) as caught:
        embed(path, target)
    assert caught.value.code == "irregular-frames"
