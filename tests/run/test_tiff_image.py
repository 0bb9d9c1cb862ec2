"""Multi-frame order, spacing along z, turned projections, where pixels go, and what is refused."""

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from tiff_images import CPU, options_of, write_image

from gpuprep.backends.reference import ReferenceBackend
from gpuprep.coordinates import CoordinateMap
from gpuprep.dicom.display import BREAST_TOMOSYNTHESIS_UID
from gpuprep.dicom.header import read_headers
from gpuprep.errors import CaseError
from gpuprep.run.stopwatch import Stopwatch
from gpuprep.run.tiff_image import load_image, make_image
from gpuprep.writers.tiff import write_tiff


def convert(path, backend=CPU, **chosen):
    (header,) = read_headers([str(path)])
    return make_image(header, options_of(**chosen), backend, 1)


def ramp(count, shape=(5, 7)):
    return np.repeat(np.arange(1, count + 1, dtype=np.uint16), np.prod(shape)).reshape(count, *shape)


def item(**elements):
    ds = Dataset()
    for name, value in elements.items():
        setattr(ds, name, value)
    return ds


@pytest.mark.parametrize(("spacing", "expected"), [("1,1,10", 6), ("1,1,4", 12), ("1,1,2.5", 19)])
def test_v26_frames_at_another_distance(tmp_path, spacing, expected):
    path = write_image(tmp_path / "a.dcm", ramp(10), PixelSpacing=[1, 1], SpacingBetweenSlices="5")
    assert len(convert(path, spacing=spacing).frames) == expected


def test_v26_between_three_frames(tmp_path):
    frames = np.array([100, 200, 300], np.uint16).reshape(3, 1, 1) * np.ones((1, 4, 4), np.uint16)
    path = write_image(tmp_path / "a.dcm", frames, PixelSpacing=[1, 1], SpacingBetweenSlices="1")
    assert convert(path, spacing="1,1,.5", window="none").frames[:, 0, 0].tolist() == [100, 150, 200, 250, 300]


def test_frames_that_were_interpolated_keep_their_extent(tmp_path):
    frames = np.arange(0, 1000, 100, np.uint16).reshape(10, 1, 1) * np.ones((1, 4, 4), np.uint16)
    path = write_image(tmp_path / "a.dcm", frames, PixelSpacing=[1, 1], SpacingBetweenSlices="5")
    found = convert(path, spacing="1,1,15", volume_handler="interpolate", target_frames=19, window="none").frames
    assert found[:, 0, 0].tolist() == [0, 300, 600, 900]  # 45 mm


@pytest.mark.parametrize(
    "chosen", [{"volume_handler": "interpolate", "target_frames": 30}, {"spacing": "1,1,5"}], ids=str
)
def test_as_many_frames_as_there_are_stay_as_they_are(tmp_path, chosen):
    frames = np.random.default_rng(3).integers(0, 4096, (30, 4, 4)).astype(np.uint16)
    path = write_image(tmp_path / "a.dcm", frames, PixelSpacing=[1, 1], SpacingBetweenSlices="5")
    np.testing.assert_array_equal(convert(path, window="none", **chosen).frames, frames)


@pytest.mark.parametrize("window", ["none", "minmax"])
def test_max_intensity_is_the_brightest(tmp_path, window):
    frames = np.array([[[10, 20, 30]], [[30, 10, 20]]], np.uint16)
    path = write_image(tmp_path / "a.dcm", frames, photometric="MONOCHROME1", PixelPaddingValue=30)
    for backend in (CPU, ReferenceBackend()):
        found = convert(path, backend, volume_handler="max-intensity", window=window).frames.ravel().tolist()
        assert found == ([10, 10, 20] if window == "none" else [65535, 65535, 0])


@pytest.mark.parametrize(
    ("allocated", "stored", "samples", "expected"),
    [
        (np.uint8, 8, [0, 7, 255], [0, 7, 255]),
        (np.uint16, 8, [0, 7, 255], [0, 7, 255]),
        (np.uint16, 12, [0, 819, 4095], [0, 13107, 65535]),
        (np.uint16, 16, [0, 7, 65535], [0, 7, 65535]),
        (np.uint32, 12, [0, 819, 4095], [0, 13107, 65535]),
        (np.uint32, 20, [0, 112, 1048575], [0, 7, 65535]),
    ],
)
def test_colour_takes_the_whole_range(tmp_path, allocated, stored, samples, expected):
    frames = np.array(samples, allocated).reshape(1, 1, 3)
    path = write_image(
        tmp_path / "a.dcm", frames, bits=stored, photometric="RGB", Columns=1, SamplesPerPixel=3, PlanarConfiguration=0
    )
    for backend in (CPU, ReferenceBackend()):
        found = convert(path, backend).frames
        assert (found.dtype.itemsize, found.ravel().tolist()) == (1 if stored <= 8 else 2, expected)


@pytest.mark.parametrize("dtype", [np.int8, np.int16])
def test_signed_colour_is_refused(tmp_path, dtype):
    path = write_image(
        tmp_path / "a.dcm", np.zeros((1, 2, 6), dtype), bits=8 * np.dtype(dtype).itemsize, photometric="RGB", Columns=2,
        SamplesPerPixel=3, PlanarConfiguration=0,
    )  # fmt: skip
    with pytest.raises(CaseError) as caught:
        convert(path, crop=True)
    assert caught.value.code == "unsupported-pixels"


@pytest.mark.parametrize(("dtype", "bits"), [(np.int8, 8), (np.int16, 16), (np.uint32, 32), (np.uint32, 8)])
def test_palettes_of_signed_or_wide_indices_are_refused(tmp_path, dtype, bits):
    palette = {f"{colour}PaletteColorLookupTable{part}": value for colour in ("Red", "Green", "Blue")
               for part, value in (("Descriptor", [256, 0, 8]), ("Data", bytes(range(256))))}  # fmt: skip
    path = write_image(
        tmp_path / "a.dcm", np.zeros((1, 2, 2), dtype), bits=bits, photometric="PALETTE COLOR", **palette
    )
    with pytest.raises(CaseError) as caught:
        convert(path)
    assert caught.value.code == "attribute-invalid"


@pytest.mark.parametrize(
    ("handling", "expected"),
    [("keep", [1, 2, 3, 4]), ("central-slice", [3]), ("max-intensity", [4]), ("mean", [2]), ("interpolate", [1, 2, 4])],
)
def test_volume_handlers(tmp_path, handling, expected):
    path = write_image(tmp_path / "a.dcm", ramp(4))
    for backend in (CPU, ReferenceBackend()):
        found = convert(path, backend, volume_handler=handling, target_frames=3, window="none")
        assert found.frames[:, 0, 0].tolist() == expected


def test_frames_follow_their_dimension_indices(tmp_path):
    groups = Sequence([item(FrameContentSequence=[item(DimensionIndexValues=[1, i])]) for i in (3, 1, 2)])
    path = write_image(tmp_path / "a.dcm", ramp(3), PerFrameFunctionalGroupsSequence=groups)
    result = convert(path, window="none")
    assert result.frames[:, 0, 0].tolist() == [2, 3, 1]
    assert result.origin.description["frames"]["ordered_by"] == "dimension-index"
    (header,) = read_headers([str(path)])
    ends = load_image(header, 1, Stopwatch()).ends
    assert ends is not None
    assert ends.tolist() == [[2, 2], [3, 3], [1, 1]]


@pytest.mark.parametrize(("z", "expected"), [((9, 1, 5), [2, 3, 1]), ((9, 5, 1), [1, 2, 3]), ((1, 5, 9), [1, 2, 3])])
def test_frames_follow_their_positions(tmp_path, z, expected):
    groups = Sequence([item(PlanePositionSequence=[item(ImagePositionPatient=[0, 0, v])]) for v in z])
    shared = Sequence([item(PlaneOrientationSequence=[item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])])])
    path = write_image(
        tmp_path / "a.dcm", ramp(3), PerFrameFunctionalGroupsSequence=groups, SharedFunctionalGroupsSequence=shared
    )
    result = convert(path, window="none")
    assert result.frames[:, 0, 0].tolist() == expected
    assert result.origin.description["source_spacing_xyz_mm"][2] == 4


def test_each_frame_has_its_own_window(tmp_path):
    groups = Sequence([item(FrameVOILUTSequence=[item(WindowCenter=c, WindowWidth=2)]) for c in (1, 100)])
    path = write_image(tmp_path / "a.dcm", ramp(2), PerFrameFunctionalGroupsSequence=groups)
    assert convert(path).frames[:, 0, 0].tolist() == [65535, 0]


@pytest.mark.parametrize(
    ("laterality", "view", "orientation", "turned"),
    [("L", "CC", ["P", "L"], True), ("R", "CC", ["P", "R"], True), ("L", "MLO", ["P", "HL"], True),
     ("R", "MLO", ["P", "HR"], True), ("R", "CC", ["A", "L"], False), ("L", "CC", ["A", "R"], False)],
)  # fmt: skip
def test_turned_tomosynthesis_is_turned_back(tmp_path, laterality, view, orientation, turned):
    frames = ramp(2)
    frames[:, 0, 0] = 0
    path = write_image(
        tmp_path / "a.dcm", frames, sop_class=BREAST_TOMOSYNTHESIS_UID, ImageLaterality=laterality,
        ViewPosition=view, PatientOrientation=orientation,
    )  # fmt: skip
    result = convert(path, window="none")
    assert (result.frames[0, -1, -1] == 0) == turned
    assert result.origin.coordinates.flip == (turned, turned)
    if turned:
        assert result.origin.coordinates.to_output([[0, 0]]).tolist() == [[7, 5]]


def test_padding_values_are_background(tmp_path):
    frames = np.full((1, 6, 6), 4095, np.uint16)
    frames[0, 2:4, 1:5] = [[10, 20, 30, 40]]
    path = write_image(tmp_path / "a.dcm", frames, photometric="MONOCHROME1", PixelPaddingValue=4095)
    result = convert(path, crop=True)
    assert result.origin.coordinates.crop == (1, 2, 3, 2)  # 40 is the least grey of MONOCHROME1: black
    assert result.frames[0, 0].tolist() == [65535, 42598, 20753]


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("backend", [CPU, ReferenceBackend()])
def test_modality_values_are_cropped_and_padded_by_what_is_shown_black(tmp_path, photometric, backend):
    black, white = (4000, 10) if photometric == "MONOCHROME1" else (10, 4000)
    frames = np.full((1, 30, 40), black, np.uint16)
    frames[0, 4:14, 6:26] = 500
    frames[0, 28, 38] = white
    path = write_image(tmp_path / "a.dcm", frames, photometric=photometric)
    chosen = {"crop": True, "crop_max": True, "window": "none", "size": "20,20", "padding": "bottom-right"}
    result = convert(path, backend, **chosen)
    assert result.origin.coordinates.crop == (6, 4, 20, 10)
    assert result.origin.coordinates.pad == (0, 0, 0, 10)
    assert result.origin.description["background"] == black
    assert (result.frames[0, :10] == 500).all()
    assert (result.frames[0, 10:] == black).all()
    marked = convert(path, backend, crop=True, window="none")
    assert marked.origin.coordinates.crop == (6, 4, 33, 25)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_looks_for_black_ends_of_modality_values(tmp_path, photometric):
    frames = np.full((1, 10, 20), 500, np.uint16)
    frames[0, -1] = 4000 if photometric == "MONOCHROME1" else 10  # black, at the bottom
    path = write_image(tmp_path / "a.dcm", frames, photometric=photometric)
    assert convert(path, window="none", size="20,20").origin.coordinates.pad == (0, 0, 0, 10)


@pytest.mark.parametrize("compat", [False, True])
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(
    "chosen",
    [
        {},
        {"crop": True, "size": "64,64", "padding": "center"},
        {"crop": True, "size": "200,90", "padding": "top-left", "filter_name": "lanczos3"},
        {"size": "33,47", "padding": "bottom-right", "filter_name": "gaussian"},
        {"crop": True, "spacing": "0.31,0.17", "filter_name": "catmull-rom"},
        {"crop": True, "border_frac": 0.05, "size": "50,50", "filter_name": "nearest"},
    ],
    ids=str,
)
def test_pixels_lie_where_their_coordinates_say(tmp_path, chosen, turned, compat):
    rows, columns = np.mgrid[0:120, 0:90]
    ramps = np.stack([columns, rows]).astype(np.uint16) + 100  # the value of a pixel tells where it is
    frames = np.zeros((2, 150, 130), np.uint16)
    frames[:, 11:131, 23:113] = ramps
    upside_down = {"sop_class": BREAST_TOMOSYNTHESIS_UID, "ImageLaterality": "L", "ViewPosition": "CC",
                   "PatientOrientation": ["P", "L"]}  # fmt: skip
    path = write_image(tmp_path / "a.dcm", frames, PixelSpacing=[0.2, 0.1], **(upside_down if turned else {}))
    options = options_of(window="none", **chosen, **({"compat": "dicom-preprocessing"} if compat else {}))
    (header,) = read_headers([str(path)])
    image = make_image(header, options, CPU, 1)
    write_tiff(tmp_path / "a.tiff", image.frames, image.origin, options.style, root=tmp_path)
    coordinates = CoordinateMap.from_tiff(tmp_path / "a.tiff")

    height, width = image.frames.shape[1:]
    centres = np.stack(np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5), axis=-1)
    source = coordinates.to_source(centres)
    scale = np.array(coordinates.scale)
    reach = 3 / np.minimum(scale, 1)  # of the widest filter
    low, high = np.array([23, 11]) + reach, np.array([113, 131]) - reach
    inside = ((source > low) & (source < high)).all(axis=-1)
    assert inside.sum() > 50
    told = image.frames.astype(float).transpose(1, 2, 0) - 100 + np.array([23, 11]) + 0.5
    # values are rounded; nearest takes a neighbour; compat tells one scale for axes that were rounded each
    tolerance = 0.51 + (chosen.get("filter_name") == "nearest") * 0.5 / np.minimum(scale, 1) + compat * 0.5 / scale
    assert (np.abs(told - source)[inside] <= tolerance).all()


@pytest.mark.parametrize("bits", range(1, 17))
def test_every_depth_takes_the_whole_range(tmp_path, bits):
    frames = np.array([[[0, (1 << bits) - 1]]], np.uint16)
    frames = convert(write_image(tmp_path / "a.dcm", frames, bits=bits)).frames
    white = 255 if bits <= 8 else 65535
    assert (frames.dtype.itemsize, frames.ravel().tolist()) == (1 if bits <= 8 else 2, [0, white])


def test_sixteen_bits_survive_every_step(tmp_path):
    rng = np.random.default_rng(2)
    path = write_image(tmp_path / "a.dcm", rng.integers(0, 65536, (1, 300, 400)).astype(np.uint16), bits=16)
    for chosen in ({"size": "200,200"}, {"size": "200,200", "filter_name": "nearest"}, {"volume_handler": "mean"}):
        assert len(np.unique(convert(path, crop=True, **chosen).frames)) > 256


def test_reference_backend_gives_the_same_image(tmp_path):
    rng = np.random.default_rng(2)
    path = write_image(tmp_path / "a.dcm", rng.integers(0, 4096, (2, 90, 70)).astype(np.uint16))
    fast, plain = (convert(path, backend, crop=True, size="64,48") for backend in (CPU, ReferenceBackend()))
    assert np.abs(fast.frames.astype(int) - plain.frames).max() <= 1
    assert fast.origin == plain.origin


def test_spacing_of_a_file_without_any_is_refused(tmp_path):
    path = write_image(tmp_path / "a.dcm", ramp(1))
    with pytest.raises(CaseError) as caught:
        convert(path, spacing="1,1")
    assert caught.value.code == "spacing-unknown"


def test_distance_of_frames_without_any_is_refused(tmp_path):
    path = write_image(tmp_path / "a.dcm", ramp(3), PixelSpacing=[1, 1])
    with pytest.raises(CaseError) as caught:
        convert(path, spacing="1,1,1")
    assert caught.value.code == "spacing-unknown"


@pytest.mark.parametrize("spacing", ["1e-6,1", "1,1,1e-6"])
def test_a_spacing_that_makes_too_many_pixels_is_refused(tmp_path, spacing):
    path = write_image(tmp_path / "a.dcm", ramp(3), PixelSpacing=[1, 1], SpacingBetweenSlices="1")
    with pytest.raises(CaseError) as caught:
        convert(path, spacing=spacing)
    assert caught.value.code == "too-large"


def test_a_garbled_table_is_refused(tmp_path):
    lut = item(LUTDescriptor=[10, 0, 16], LUTData=bytes(6))
    path = write_image(tmp_path / "a.dcm", ramp(1), VOILUTSequence=[lut])
    with pytest.raises(CaseError) as caught:
        convert(path)
    assert caught.value.code == "attribute-invalid"


@pytest.mark.parametrize("slope", [b"1,5 ", b"0.0 "])
def test_a_garbled_rescale_is_refused(tmp_path, slope):
    path = write_image(tmp_path / "a.dcm", ramp(1), RescaleSlope=1.5, RescaleIntercept=0)
    content = path.read_bytes()
    path.write_bytes(content.replace(b"1.5 ", slope))
    with pytest.raises(CaseError) as caught:
        convert(path)
    assert caught.value.code == "attribute-invalid"
