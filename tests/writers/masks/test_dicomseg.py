"""DICOM SEG as highdicom and dcmqi see it, and as we read it back."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import highdicom
import nibabel
import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mask_sets import AWKWARD_NAMES, COUNTS, check_same, coded_roi, random_mask

from gpuprep.backends import select
from gpuprep.config import Stacking
from gpuprep.dicom.header import read_headers
from gpuprep.dicom.synth import axial_geometry, write_ct_series
from gpuprep.errors import ConfigError, OverlapError, WriteError
from gpuprep.geometry import VolumeGeometry
from gpuprep.masks import Code, Roi, from_planes, let_last_win
from gpuprep.run.masks import open_mask
from gpuprep.writers.masks import dicomseg

SHAPE = (6, 5, 9)  # 45 pixels a frame: packed bits of frames share bytes


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ct")
    geometry = axial_geometry(SHAPE, spacing_xyz_mm=(0.7, 0.9, 2.5))
    write_ct_series(folder, geometry, np.zeros(SHAPE, np.int16), patient_id="P", seed=1)
    return read_headers([str(p) for p in sorted(folder.iterdir())])


@pytest.fixture(scope="module")
def grid(images):
    geometry = axial_geometry(SHAPE, spacing_xyz_mm=(0.7, 0.9, 2.5))
    return dataclasses.replace(geometry, frame_of_reference_uid=images[0].frame_of_reference_uid)


def read(path, image=None):
    opened = open_mask(path, image=image, stacking=Stacking(), backend=select("cpu"))
    assert opened.problems == ()
    return opened.mask


@pytest.mark.parametrize("kind", ["labelmap", "binary"])
@pytest.mark.parametrize("count", COUNTS)
def test_round_trip(kind, count, images, grid, tmp_path):
    deflated = count % 2 == 1
    mask = random_mask(count, count, density=0.01, geometry=grid)
    if kind == "labelmap":
        mask, _ = let_last_win(mask)
    dicomseg.write(mask, tmp_path / "m.dcm", sources=images, kind=kind, deflated=deflated)
    check_same(mask, read(tmp_path / "m.dcm"))
    check_same(mask, read(tmp_path / "m.dcm", Path(images[0].path).parent))


@pytest.mark.parametrize("kind", ["labelmap", "binary"])
@settings(max_examples=12, deadline=None, database=None)
@given(
    count=st.integers(1, 40),
    seed=st.integers(0, 2**32 - 1),
    density=st.sampled_from([0.0, 0.005, 0.1, 0.5, 1.0]),
    deflated=st.booleans(),
)
def test_round_trip_of_random_overlaps(kind, images, grid, count, seed, density, deflated):
    mask = random_mask(count, seed, density=density, geometry=grid)
    if kind == "labelmap":
        mask, _ = let_last_win(mask)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.dcm"
        dicomseg.write(mask, path, sources=images, kind=kind, deflated=deflated)
        check_same(mask, read(path))


def test_empty_slices_at_the_ends_come_back(images, grid, tmp_path):
    planes = random_mask(3, density=0.5, geometry=grid).to_planes()
    planes[:, [0, 1, 5]] = 0
    mask = from_planes(planes, [Roi(n, f"r{n}") for n in range(3)], grid)
    dicomseg.write(mask, tmp_path / "m.dcm", sources=images, kind="binary")
    check_same(mask, read(tmp_path / "m.dcm"))


def test_a_mask_without_voxels(images, grid, tmp_path):
    mask = random_mask(3, density=0, geometry=grid)
    for kind in ("labelmap", "binary"):
        dicomseg.write(mask, tmp_path / "m.dcm", sources=images, kind=kind)
        check_same(mask, read(tmp_path / "m.dcm"))


def test_a_label_map_only_where_nothing_overlaps(images, grid, tmp_path):
    mask = random_mask(9, density=0.3, geometry=grid)
    for of, kind in ((mask, "BINARY"), (let_last_win(mask)[0], "LABELMAP")):
        dicomseg.write(of, tmp_path / "m.dcm", sources=images)
        assert pydicom.dcmread(tmp_path / "m.dcm").SegmentationType == kind
    with pytest.raises(OverlapError) as caught:
        dicomseg.write(mask, tmp_path / "x.dcm", sources=images, kind="labelmap")
    assert caught.value.code == "labels-overlap" and not (tmp_path / "x.dcm").exists()


def on_grid(array, found, target):
    """Voxels of an array (D, H, W) on grid `found`, all of which are voxels of `target`; 0 elsewhere."""
    out = np.zeros(target.shape, array.dtype)
    index = np.argwhere(array)
    place = np.rint(target.to_index(found.to_lps(index))).astype(int)
    out[tuple(place.T)] = array[tuple(index.T)]
    return out


@pytest.mark.parametrize("kind", ["labelmap", "binary"])
@pytest.mark.parametrize("deflated", [False, True])
def test_highdicom_reads_the_same_voxels_and_words(kind, deflated, images, grid, tmp_path):
    rois = [coded_roi(n + 20, f"läsion {n}") for n in range(9)]
    rois[3] = Roi(1, "long " * 20)
    mask = random_mask(9, 4, density=0.3, geometry=grid, rois=rois)
    if kind == "labelmap":
        mask, _ = let_last_win(mask)
    dicomseg.write(mask, tmp_path / "m.dcm", sources=images, kind=kind, deflated=deflated)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        segmentation = highdicom.seg.segread(tmp_path / "m.dcm")
        volume = segmentation.get_volume()
    found = VolumeGeometry(volume.array.shape[:3], volume.affine)
    assert list(segmentation.segment_numbers) == list(range(1, 10))
    for n in range(9):
        assert np.array_equal(on_grid(volume.array[..., n], found, grid), mask.binary(n))
    described = segmentation.get_segment_description(2)
    assert described.segment_label == "läsion 1"
    assert described.segmented_property_type.value == "86049000"
    assert described.anatomic_regions[0].value == "39607008"
    assert described.AnatomicRegionSequence[0].AnatomicRegionModifierSequence[0].CodeMeaning == "Left"
    assert described.tracking_uid == "1.2.840.99"
    assert described.SegmentAlgorithmType == "SEMIAUTOMATIC"
    long = segmentation.get_segment_description(4)
    assert long.segment_label == ("long " * 20)[:64].strip() and long.SegmentDescription == ("long " * 20).strip()


def test_each_frame_refers_to_its_image(images, grid, tmp_path):
    mask = random_mask(9, density=0.3, geometry=grid)
    dicomseg.write(mask, tmp_path / "m.dcm", sources=images)
    data = pydicom.dcmread(tmp_path / "m.dcm")
    position = {i.sop_instance_uid: i.image_position_lps_mm[2] for i in images}
    assert data.StudyInstanceUID == images[0].study_instance_uid and data.PatientID == "P"
    referenced = data.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    assert {r.ReferencedSOPInstanceUID for r in referenced} == set(position)
    indices = []
    for item in data.PerFrameFunctionalGroupsSequence:
        source = item.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        z = float(item.PlanePositionSequence[0].ImagePositionPatient[2])
        assert abs(position[source] - z) < 1e-3
        indices.append((*item.FrameContentSequence[0].DimensionIndexValues, z))
        assert indices[-1][0] == item.SegmentIdentificationSequence[0].ReferencedSegmentNumber
    assert indices == sorted(indices)
    assert data.SegmentsOverlap == "YES"


@pytest.mark.parametrize("kind", ["labelmap", "binary"])
def test_dcmqi_reads_the_same_voxels(kind, images, grid, tmp_path):
    pytest.importorskip("dcmqi")
    mask = random_mask(5, density=0.3, geometry=grid)
    if kind == "labelmap":
        mask, _ = let_last_win(mask)
    dicomseg.write(mask, tmp_path / "m.dcm", sources=images, kind=kind)
    (tmp_path / "out").mkdir()
    command = [str(Path(sys.executable).parent / "segimage2itkimage"), "--inputDICOM", str(tmp_path / "m.dcm"),
               "--outputDirectory", str(tmp_path / "out"), "-t", "nii", "--prefix", "s"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = {}
    for path in (tmp_path / "out").glob("*.nii.gz"):
        image = nibabel.load(path)
        affine = (np.diag([-1.0, -1, 1, 1]) @ image.affine)[:, [2, 1, 0, 3]]
        array = np.asarray(image.dataobj).T
        found[path.name] = on_grid(array, VolumeGeometry(array.shape, affine), grid)
    for n in range(5):
        if kind == "labelmap":
            theirs = found["s-1.nii.gz"] == n + 1
        else:
            theirs = found.get(f"s-{n + 1}.nii.gz", np.zeros(SHAPE)) > 0
        assert np.array_equal(theirs, mask.binary(n) > 0)


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy (dicom3tools) is not installed")
@pytest.mark.parametrize(("count", "density"), [(1, 0.5), (5, 0.3), (40, 0.01), (3, 0.0)])
def test_binary_segments_are_as_the_standard_says(count, density, images, grid, tmp_path):
    """Its release of 2022 knows no label maps."""
    rois = [coded_roi(n, f"roi {n}") if n % 2 else Roi(n, f"roi {n}") for n in range(count)]
    mask = random_mask(count, density=density, geometry=grid, rois=rois)
    dicomseg.write(mask, tmp_path / "m.dcm", sources=images, kind="binary")
    found = subprocess.run(["dciodvfy", "-new", tmp_path / "m.dcm"], capture_output=True, text=True, check=False)
    lines = (found.stdout + found.stderr).splitlines()
    assert "Segmentation" in lines
    assert [line for line in lines if line.startswith("Error")] == []


def test_images_from_which_names_and_dates_were_removed(images, grid, tmp_path):
    gone = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID",
            "AccessionNumber")  # fmt: skip
    for header in images:
        data = pydicom.dcmread(header.path)
        for keyword in gone:
            if keyword in data:
                delattr(data, keyword)
        data.save_as(tmp_path / Path(header.path).name)
    sources = read_headers([str(p) for p in sorted(tmp_path.iterdir())])
    mask = random_mask(3, geometry=grid)
    dicomseg.write(mask, tmp_path / "m.dcm", sources=sources)
    check_same(mask, read(tmp_path / "m.dcm"))
    written = pydicom.dcmread(tmp_path / "m.dcm")
    assert written.StudyInstanceUID == images[0].study_instance_uid
    assert all(not written[keyword].value for keyword in gone)


def test_patient_and_study_are_those_of_the_images_to_the_letter(images, grid, tmp_path):
    stated = {"PatientName": "Müller^Jörg", "PatientSex": "U", "PatientBirthDate": "XXXXXXXX", "StudyID": "7",
              "StudyDate": "2020.01.31", "StudyTime": "12:30", "AccessionNumber": "", "PatientID": "P"}  # fmt: skip
    for header in images:
        data = pydicom.dcmread(header.path)
        data.SpecificCharacterSet = "ISO_IR 100"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for keyword, value in stated.items():
                setattr(data, keyword, value)
            data.save_as(tmp_path / Path(header.path).name)
    sources = read_headers([str(p) for p in sorted(tmp_path.iterdir())])
    dicomseg.write(random_mask(3, geometry=grid), tmp_path / "m.dcm", sources=sources)
    written = pydicom.dcmread(tmp_path / "m.dcm")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert {keyword: str(written[keyword].value) for keyword in stated} == stated


def test_equal_masks_get_equal_uids(images, grid, tmp_path):
    mask = random_mask(3, geometry=grid)
    uids = []
    for of in (mask, mask, random_mask(3, 1, geometry=grid)):
        dicomseg.write(of, tmp_path / "m.dcm", sources=images)
        uids.append(pydicom.dcmread(tmp_path / "m.dcm").SOPInstanceUID)
    assert uids[0] == uids[1] != uids[2]


def test_segments_that_another_program_changed_are_what_it_says(images, grid, tmp_path):
    rois = [dataclasses.replace(coded_roi(n + 5, f"roi {n}"), tracking_uid="") for n in range(4)]
    mask, _ = let_last_win(random_mask(4, geometry=grid, rois=rois))
    dicomseg.write(mask, tmp_path / "m.dcm", sources=images)
    data = pydicom.dcmread(tmp_path / "m.dcm")
    _, renamed, recoloured, recoded = data.SegmentSequence[-4:]
    renamed.SegmentLabel = "tumour"
    recoloured.RecommendedDisplayCIELabValue = list(highdicom.color.CIELabColor.from_rgb(255, 0, 0).value)
    recoded.AnatomicRegionSequence[0].CodeValue, recoded.AnatomicRegionSequence[0].CodeMeaning = "80891009", "Heart"
    data.save_as(tmp_path / "m.dcm")
    kept, *changed = read(tmp_path / "m.dcm").rois
    assert kept == rois[0]
    assert [(r.number, r.name) for r in changed] == [(2, "tumour"), (3, "roi 2"), (4, "roi 3")]
    assert changed[1].rgb == (255, 0, 0) and changed[2].region.meaning == "Heart"


def test_awkward_words_come_back(images, grid, tmp_path):
    rois = [Roi(n, name) for n, name in enumerate(AWKWARD_NAMES)]
    long = Code("99LONG", "c" * 40, "m" * 100)
    odd = Code("99ODD", "1", " left\\right\n")
    rois += [
        dataclasses.replace(coded_roi(77, "x"), category=long, type=long, region=odd, region_modifiers=(long, odd))
    ]
    mask = random_mask(len(rois), density=0.2, geometry=grid, rois=rois)
    dicomseg.write(mask, tmp_path / "m.dcm", sources=images)
    check_same(mask, read(tmp_path / "m.dcm"))


@pytest.mark.parametrize(
    ("case", "kind", "code"),
    [("no sources", ConfigError, "no-sources"), ("no rois", WriteError, "no-rois"),
     ("too many", WriteError, "too-many-rois"), ("sheared", WriteError, "not-orthogonal"),
     ("beside", WriteError, "images-elsewhere"), ("before", WriteError, "images-elsewhere"),
     ("other frame of reference", WriteError, "source-refused")],
)  # fmt: skip
def test_what_cannot_be_a_seg_is_refused(case, kind, code, images, grid, tmp_path, monkeypatch):
    sources = () if case == "no sources" else images
    geometry = grid
    if case == "sheared":
        affine = grid.index_to_lps.copy()
        affine[0, 0] += 1
        geometry = dataclasses.replace(grid, index_to_lps=affine)
    if case in ("beside", "before"):
        geometry = grid.crop((0, SHAPE[1] if case == "beside" else -SHAPE[1], 0), SHAPE)
    if case == "too many":
        monkeypatch.setattr(dicomseg, "_LABELMAP_LIMIT", 1)
    if case == "other frame of reference":
        geometry = dataclasses.replace(grid, frame_of_reference_uid="1.2.3")
    mask = random_mask(0 if case == "no rois" else 2, geometry=geometry)
    with pytest.raises(kind) as caught:
        dicomseg.write(mask, tmp_path / "m.dcm", sources=sources)
    assert caught.value.code == code and not list(tmp_path.iterdir())
