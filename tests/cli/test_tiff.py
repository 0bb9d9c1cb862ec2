"""``gpuprep tiff`` on real and synthetic images, as a user calls it."""

import csv
import json
import shutil

import numpy as np
import pydicom
import pytest
import tifffile
from PIL import Image
from pydicom.pixels import apply_modality_lut, apply_voi_lut
from pydicom.pixels.processing import apply_color_lut
from pydicom.uid import ImplicitVRLittleEndian, JPEGBaseline8Bit, JPEGExtended12Bit
from tiff_images import CPU, options_of, read_by_libtiff, write_image

from gpuprep.dicom.header import read_headers
from gpuprep.errors import ExitStatus
from gpuprep.run.tiff_image import make_image
from gpuprep.writers.tiff import COMPRESSORS, write_tiff

#: pydicom rounds, we truncate; JPEG decoders differ by rounding.
ORACLE_LEVELS = 1
JPEG_LEVELS, JPEG_SYNTAXES = 2, (JPEGBaseline8Bit,)


def convert_file(path, target, **chosen):
    (header,) = read_headers([str(path)])
    options = options_of(**chosen)
    image = make_image(header, options, CPU, 1)
    write_tiff(target, image.frames, image.origin, options.style, root=target.parent)
    return image.frames


def list_images(folder):
    paths = sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix != ".md")
    assert paths
    return paths


@pytest.mark.parametrize("theme", ["xray-mammo", "colour"])
def test_every_real_image_becomes_a_tiff_that_others_read(data_dir, tmp_path, theme):
    paths = list_images(data_dir / theme)
    for number, path in enumerate(paths):
        compressor = COMPRESSORS[number % len(COMPRESSORS)]
        frames = convert_file(path, tmp_path / "a.tiff", size="384,512", compressor=compressor)
        assert frames.shape[1:3] == (512, 384)
        with tifffile.TiffFile(tmp_path / "a.tiff") as file:
            assert len(file.pages) == len(frames)
            np.testing.assert_array_equal(np.stack([page.asarray() for page in file.pages]), frames)
        if shutil.which("tiffinfo"):
            assert read_by_libtiff(tmp_path / "a.tiff").count("TIFF Directory at offset") == len(frames)
        if frames.ndim == 4 and frames.dtype == np.uint16:
            continue  # Pillow has no 48-bit colour
        with Image.open(tmp_path / "a.tiff") as image:
            for index in {0, len(frames) - 1}:
                image.seek(index)
                np.testing.assert_array_equal(np.asarray(image), frames[index])
    assert len(paths) == {"xray-mammo": 9, "colour": 36}[theme]


@pytest.mark.parametrize(("theme", "images"), [("xray-mammo", 8), ("colour", 36)])
def test_grey_levels_and_colours_are_those_of_pydicom_and_numpy(data_dir, tmp_path, theme, images):
    compared = 0
    for path in list_images(data_dir / theme):
        ds = pydicom.dcmread(path, force=True)
        syntax = ds.file_meta.setdefault("TransferSyntaxUID", ImplicitVRLittleEndian).value
        if syntax == JPEGExtended12Bit:
            continue  # pydicom cannot decode it
        found = convert_file(path, tmp_path / "a.tiff")
        expected = expected_colours(ds) if is_colour(ds) else expected_grey(ds, np.iinfo(found.dtype).max)
        if ds.get("PatientOrientation") == ["P", "L"]:  # a tomosynthesis of the left breast upside down
            expected = expected[:, ::-1, ::-1]
        tolerance = JPEG_LEVELS if syntax in JPEG_SYNTAXES else ORACLE_LEVELS
        assert np.abs(found.reshape(expected.shape).astype(float) - expected).max() <= tolerance, path.name
        compared += 1
    assert compared == images


def is_colour(ds):
    return ds.SamplesPerPixel == 3 or ds.PhotometricInterpretation == "PALETTE COLOR"


def expected_colours(ds):
    if ds.SamplesPerPixel == 3:
        return ds.pixel_array >> max(0, ds.BitsAllocated - 16)  # RGB: pydicom has converted it
    return apply_color_lut(ds.pixel_array, ds)


def expected_grey(ds, white):
    """Return grey levels up to `white`, in floats: VOI LUT, window, or least to greatest of what is no padding."""
    stored = ds.pixel_array.reshape(int(ds.get("NumberOfFrames", 1)), ds.Rows, ds.Columns)
    padding = stored == ds.PixelPaddingValue if "PixelPaddingValue" in ds else np.zeros(stored.shape, bool)
    values = apply_modality_lut(stored, ds)
    if "VOILUTSequence" in ds or "WindowCenter" in ds:
        low, high = scale_of(ds)
        values = apply_voi_lut(values, ds)
    elif "SharedFunctionalGroupsSequence" in ds:
        voi = ds.SharedFunctionalGroupsSequence[0].FrameVOILUTSequence[0]
        low, high = scale_of(ds)
        ds.WindowCenter, ds.WindowWidth = voi.WindowCenter, voi.WindowWidth
        values = apply_voi_lut(values, ds)
    else:
        low, high = values[~padding].min(), values[~padding].max()
    grey = (values.astype(float) - low) / (high - low) * white
    if ds.PhotometricInterpretation == "MONOCHROME1":
        grey = white - grey
    return np.where(padding, 0, grey)


def scale_of(ds):
    """Return what black and white are in pydicom's VOI output."""
    if "VOILUTSequence" in ds:
        return 0, (1 << ds.VOILUTSequence[0].LUTDescriptor[2]) - 1
    ends = np.array([0, (1 << ds.BitsStored) - 1])
    return tuple(ends * float(ds.get("RescaleSlope", 1)) + float(ds.get("RescaleIntercept", 0)))


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(12)
    for name in "abc":
        frames = np.zeros((1, 120, 90), np.uint16)
        frames[0, 20:100, 10:70] = rng.integers(1, 4096, (80, 60))
        write_image(folder / name, frames, PixelSpacing=[0.2, 0.1])
    (folder / "notes.txt").write_text("not DICOM")
    return folder


def rows_of(output):
    return list(csv.DictReader((output / "gpuprep" / "report.csv").read_text().splitlines()))


def test_a_folder_becomes_a_tree_of_uids(gpuprep, images, tmp_path):
    result = gpuprep("tiff", "-c", "-s", "64,64", images, tmp_path / "out")
    assert result.status == ExitStatus.DONE
    assert "3 of 3 cases done" in result.stderr
    assert "not-dicom" in result.stderr
    assert {row["decoder"] for row in rows_of(tmp_path / "out")} == {"native"}
    files = sorted((tmp_path / "out").rglob("*.tiff"))
    uids = sorted(pydicom.dcmread(images / name).SOPInstanceUID for name in "abc")
    assert [f.relative_to(tmp_path / "out").as_posix() for f in files] == [f"1.2.3/{uid}.tiff" for uid in uids]
    with tifffile.TiffFile(files[0]) as file:
        page = file.pages[0]
        assert page.tags["Compression"].value == 32773
        description = json.loads(page.description)
    assert description["transform"] == {
        "source_size": [90, 120], "flip": [False, False], "crop": [10, 20, 60, 80], "scale": [0.8, 0.8],
        "pad": [16, 0, 0, 0],
    }  # fmt: skip
    assert description["source_spacing_xyz_mm"] == [0.1, 0.2, None]
    assert "Doe" not in files[0].read_bytes().decode("latin-1")
    assert b"P1" not in files[0].read_bytes()


def test_resolution_is_exact(gpuprep, images, tmp_path):
    assert gpuprep("tiff", "-s", "37,37", images / "a", tmp_path / "a.tiff").status == ExitStatus.DONE
    with tifffile.TiffFile(tmp_path / "a.tiff") as file:
        tags = file.pages[0].tags
        x, y = (tags[name].value for name in ("XResolution", "YResolution"))
    assert x[0] / x[1] == pytest.approx(100 * 28 / 90, rel=1e-6)
    assert y[0] / y[1] == pytest.approx(50 * 37 / 120, rel=1e-6)


def test_a_rerun_resumes_and_a_changed_option_does_not_lie(gpuprep, images, tmp_path):
    gpuprep("tiff", "-s", "64,64", images, tmp_path)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.tiff")}
    assert "3 cases are done already" in gpuprep("tiff", "-s", "64,64", images, tmp_path).stderr
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.tiff")} == before
    assert "done already" not in gpuprep("tiff", "-s", "32,32", images, tmp_path).stderr
    assert gpuprep("tiff", "-s", "32,32", "--on-existing", "fail", images, tmp_path).status == ExitStatus.OUTPUT


def test_another_layout_leaves_no_file_of_the_one_before(gpuprep, images, tmp_path):
    for layout, depth in (("study/sop", 2), ("study/series/sop", 3), ("study/sop", 2)):
        assert gpuprep("tiff", "--layout", layout, images, tmp_path).status == ExitStatus.DONE
        assert [len(p.relative_to(tmp_path).parts) for p in tmp_path.rglob("*.tiff")] == [depth] * 3


def test_one_broken_file_costs_itself(gpuprep, images, tmp_path):
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    (source / "good").write_bytes((images / "a").read_bytes())
    (source / "short").write_bytes((images / "b").read_bytes()[:-1000])
    result = gpuprep("tiff", source, out)
    assert result.status == ExitStatus.CASES_FAILED
    assert {row["status"]: row["code"] for row in rows_of(out)} == {"done": "", "failed": "pixel-data-truncated"}
    assert f"failed: {source / 'short'}: " in result.stderr and "hint: copy" in result.stderr
    assert len([p for p in out.rglob("*") if "tif" in p.name]) == 1


@pytest.mark.parametrize("in_the_way", ["file", "folder"])
def test_what_is_in_the_way_of_one_image_costs_that_image(gpuprep, images, tmp_path, in_the_way):
    (tmp_path / "in").mkdir()
    for name, study in (("a", "1.2.3"), ("b", "1.2.4")):
        ds = pydicom.dcmread(images / name)
        ds.StudyInstanceUID = study
        ds.save_as(tmp_path / "in" / name)
    out, blocked = tmp_path / "out", f"1.2.4/{ds.SOPInstanceUID}.tiff"
    (out / blocked).mkdir(parents=True)
    if in_the_way == "file":
        shutil.rmtree(out / "1.2.4")
        (out / "1.2.4").write_text("precious")
    result = gpuprep("tiff", tmp_path / "in", out)
    assert result.status == ExitStatus.CASES_FAILED
    code = "not-writable" if in_the_way == "file" else "write-failed"
    assert {row["status"]: row["code"] for row in rows_of(out)} == {"done": "", "failed": code}
    assert (out / "1.2.4").is_file() if in_the_way == "file" else (out / blocked).is_dir()


def test_strict_stops_at_the_first_error(gpuprep, images, tmp_path):
    listed = gpuprep("tiff", "--strict", images, tmp_path / "out")
    assert listed.status == ExitStatus.CASES_FAILED
    assert "[not-dicom]" in listed.stderr
    assert not list((tmp_path / "out").rglob("*.tiff"))
    (tmp_path / "short").write_bytes((images / "b").read_bytes()[:-1000])
    failed = gpuprep("tiff", "--strict", tmp_path / "short", tmp_path / "out")
    assert failed.status == ExitStatus.CASES_FAILED
    assert "error: " in failed.stderr
    assert not list((tmp_path / "out").rglob("*.tiff"))


def test_an_output_inside_the_source_is_no_input(gpuprep, tmp_path):
    write_image(tmp_path / "a", np.ones((1, 4, 4), np.uint16))
    for said in ("1 of 1 cases done", "1 case is done already"):
        result = gpuprep("tiff", "--strict", tmp_path, tmp_path / "out")
        assert result.status == ExitStatus.DONE, result.stderr
        assert said in result.stderr and "unusable" not in result.stderr


def test_a_listed_file_that_is_lost_is_a_failure(gpuprep, images, tmp_path):
    (tmp_path / "list.txt").write_text(f"{images / 'a'}\n{images / 'lost.dcm'}\n")
    result = gpuprep("tiff", tmp_path / "list.txt", tmp_path / "out")
    assert result.status == ExitStatus.CASES_FAILED
    assert {row["status"]: row["code"] for row in rows_of(tmp_path / "out")} == {"done": "", "failed": "unreadable"}
    assert "lost_dcm" in result.stderr


def test_a_single_tiff_is_not_overwritten_when_asked(gpuprep, images, tmp_path):
    (tmp_path / "a.tiff").write_text("precious")
    result = gpuprep("tiff", "--on-existing", "fail", images / "a", tmp_path / "a.tiff")
    assert result.status == ExitStatus.OUTPUT
    assert "[exists]" in result.stderr
    assert (tmp_path / "a.tiff").read_text() == "precious"


def test_version_as_the_reference_tool_prints_it(gpuprep):
    result = gpuprep("tiff", "-V")
    assert (result.status, result.stdout.split()[0]) == (ExitStatus.DONE, "gpuprep,")


def test_a_folder_is_no_single_tiff(gpuprep, images, tmp_path):
    result = gpuprep("tiff", images, tmp_path / "a.tiff")
    assert result.status == ExitStatus.CONFIG
    assert "[bad-output]" in result.stderr


def test_a_folder_with_one_image_may_become_a_single_tiff(gpuprep, images, tmp_path):
    (tmp_path / "in").mkdir()
    shutil.copy(images / "a", tmp_path / "in")
    (tmp_path / "in" / "notes.txt").write_text("not DICOM")
    assert gpuprep("tiff", tmp_path / "in", tmp_path / "b.tiff").status == ExitStatus.DONE
    assert tifffile.imread(tmp_path / "b.tiff").shape == (120, 90)


def test_option_names_of_dicom_preprocess_work(gpuprep, images, tmp_path):
    result = gpuprep(
        "tiff", "--compat", "dicom-preprocessing", "-c", "-m", "-n", "-b", "0.1", "--size", "64,64",
        "--filter", "lanczos3",
        "--padding", "bottom-right", "--compressor", "lzw", "--volume-handler", "keep", "--target-frames", "8",
        "--window", "2048,4096", "--threads", "1", images, tmp_path,
    )  # fmt: skip
    assert result.status == ExitStatus.DONE
    first = sorted(tmp_path.rglob("*.tiff"))[0]
    assert first.parent.relative_to(tmp_path).as_posix() == "1.2.3/1.2.3.4"
    with tifffile.TiffFile(first) as file:
        tags = {tag.name: (tag.dtype.name, tag.value) for tag in file.pages[0].tags}
    assert "ImageDescription" not in tags
    assert "Predictor" not in tags
    assert tags["DefaultScale"][0] == "FLOAT"
    assert {tags[name][0] for name in ("DefaultCropOrigin", "DefaultCropSize", "ActiveArea")} == {"LONG"}


def test_modality_values(gpuprep, images, tmp_path):
    assert gpuprep("tiff", "-w", "none", "-z", "zstd", images / "a", tmp_path / "a.tif").status == ExitStatus.DONE
    expected = pydicom.dcmread(images / "a").pixel_array
    found = tifffile.imread(tmp_path / "a.tif")
    assert found.dtype == np.int16
    np.testing.assert_array_equal(found, expected)
