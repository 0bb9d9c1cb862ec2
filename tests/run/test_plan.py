"""What is planned for a series of several volumes."""

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from cases import make_options

from gpuprep.config import MultipleSegmentations, Stacking
from gpuprep.dicom import synth
from gpuprep.errors import ConfigError, GeometryError
from gpuprep.run import plan as plan_module
from gpuprep.run import volumes
from gpuprep.run.case import estimate_case
from gpuprep.run.plan import StudyModalities, plan_segmented_cases, plan_study_cases
from gpuprep.run.sources import open_sources
from gpuprep.writers.names import text_digest

TIMES, SLICES = 4, 3


def plan_study(folders, modalities):
    """Return the plans of all images and doses, each by itself."""
    sources = open_sources(folders, index_path=None, workers=1)
    return plan_study_cases(
        sources.series,
        sources.links,
        modalities,
        stacking=Stacking(),
        images_with_masks=False,
        doses_on_images=False,
    )


def plan(folder, modality):
    """Return the plans of a series of `TIMES` volumes, as a worker gets them."""
    grid = synth.axial_geometry((SLICES, 8, 8), spacing_xyz_mm=(1, 1, 2))
    write = synth.write_ct_series if modality == "CT" else synth.write_pet_series
    series = write(folder, grid, np.zeros(grid.shape))
    for path in series.paths:
        data = pydicom.dcmread(path)
        for time in range(TIMES):
            data.TemporalPositionIdentifier = time + 1
            data.SOPInstanceUID = synth.derive_uid(path.name, time)
            data.save_as(path.with_name(f"{time}-{path.name}"))
        path.unlink()
    return pickle.loads(pickle.dumps(plan_study([folder], StudyModalities((modality,)))))


def test_each_case_has_its_own_volume_and_sorts_out_no_series(tmp_path, monkeypatch):
    plans = plan(tmp_path, "CT")
    assert len(plans) == TIMES
    monkeypatch.setattr(volumes, "build_volumes", None)
    for time, one in enumerate(plans):
        (channel,) = one.channels
        names = sorted(Path(image.path).name for image in channel.instances)
        assert names == sorted(f"{time}-IM{n:04d}.dcm" for n in range(1, SLICES + 1))
        chosen = volumes.choose_stack(channel, one, Stacking())
        assert chosen.label == f"time {time + 1}"
        assert set(chosen.instances) == set(channel.instances)
    assert len({one.key for one in plans}) == 1  # the volumes of a series change with any of its files


def test_names_that_are_the_same_by_chance_are_told_apart(tmp_path, monkeypatch):
    def digest_badly(text):
        return "00000000" if text in uids else text_digest(text)

    grid = synth.axial_geometry((SLICES, 8, 8), spacing_xyz_mm=(1, 1, 2))
    folders = [tmp_path / name for name in "abc"]
    uids = [synth.write_ct_series(f, grid, np.zeros(grid.shape), series=f.name).series_instance_uid for f in folders]
    uids.pop()
    monkeypatch.setattr(plan_module, "text_digest", digest_badly)
    names = [one.case for one in plan_study(folders, StudyModalities(("CT",)))]
    assert len(set(names)) == 3
    assert sum("_00000000_" in name for name in names) == 2


def test_without_a_patient_id_splits_keep_studies_together(tmp_path):
    grid = synth.axial_geometry((SLICES, 8, 8), spacing_xyz_mm=(1, 1, 2))
    series = synth.write_ct_series(tmp_path, grid, np.zeros(grid.shape), patient_id="")
    synth.write_rtdose(tmp_path / "dose.dcm", series, grid, np.zeros(grid.shape))
    plans = plan_study([tmp_path], StudyModalities(("CT",), doses=True))
    assert [one.patient for one in plans] == [series.study_instance_uid] * 2
    assert all(one.case.startswith("anonymous_") for one in plans)


@pytest.mark.parametrize(
    ("edit", "code"),
    [
        (lambda data, number: setattr(data, "PatientID", f"SYNTH-00{number + 1}"), "conflicting-patient-ids"),
        (lambda data, _: delattr(data, "ImagePositionPatient"), "geometry-missing"),
    ],
)
def test_a_series_that_is_no_volume_is_a_failed_case_of_its_patient(tmp_path, edit, code):
    grid = synth.axial_geometry((SLICES, 8, 8), spacing_xyz_mm=(1, 1, 2))
    for number, path in enumerate(synth.write_ct_series(tmp_path, grid, np.zeros(grid.shape)).paths):
        data = pydicom.dcmread(path)
        edit(data, number)
        data.save_as(path)
    (failed,) = plan_study([tmp_path], StudyModalities(("CT",)))
    assert (failed.error.code, failed.patient) == (code, "SYNTH-001")
    assert failed.case.startswith("SYNTH-001_")


def test_memory_is_estimated_for_the_volume_not_for_its_series(tmp_path):
    several, *_ = plan(tmp_path, "PT")
    (channel,) = several.channels
    alone = replace(several, channels=(replace(channel, instances=channel.stack.instances, stack=None),))
    options = make_options(spacing_xyz_mm=(0.5, 0.5, 0.5))
    estimates = {estimate_case(one, channel.stack.geometry, options, 1) for one in (several, alone)}
    assert len(estimates) == 1


def test_volumes_among_which_nothing_chooses_are_named_in_few_words(tmp_path):
    one, *others = plan(tmp_path, "CT")
    series = tuple(image for case in (one, *others) for image in case.channels[0].instances)
    whole = replace(one, channels=(replace(one.channels[0], instances=series, stack=None),))
    with pytest.raises(GeometryError, match=r"4 volumes \(time 1, time 2, time 3 and 1 more\)") as caught:
        volumes.choose_stack(whole.channels[0], whole, Stacking())
    assert caught.value.code == "several-volumes"


@pytest.mark.parametrize("time", range(TIMES))
def test_pet_knows_its_whole_series(tmp_path, time):
    (channel,) = plan(tmp_path, "PT")[time].channels
    assert len(channel.instances) == TIMES * SLICES  # SUV depends on when the first image was acquired
    assert len(channel.stack.instances) == SLICES


def plan_pet_ct(folder, corrections):
    """Return the plan of a CT with structure set, beside a PET series with each of the values of Corrected Image."""
    synth.write_study(folder, slices=6, size=16)
    grid = synth.axial_geometry((SLICES, 8, 8), spacing_xyz_mm=(8, 8, 8))
    for number, corrected in enumerate(corrections):
        for path in synth.write_pet_series(folder / str(number), grid, np.zeros(grid.shape)).paths:
            data = pydicom.dcmread(path)
            data.SeriesInstanceUID = f"2.25.{number}"
            data.SOPInstanceUID = synth.derive_uid(path.name, number)
            data.CorrectedImage = corrected
            data.save_as(path)
    sources = open_sources([folder], index_path=None, workers=1)
    (found,) = plan_segmented_cases(
        sources.series,
        sources.links,
        images=("CT", "PT"),
        segmentations=("RTSTRUCT",),
        multiple=MultipleSegmentations.ERROR,
    )
    return found


AC, NAC = ["DECY", " ATTN ", "SCAT"], ["DECY", "DTIM"]  # blanks around a value mean nothing, PS3.5 6.2


def test_pet_that_is_not_corrected_for_attenuation_stands_back(tmp_path):
    found = plan_pet_ct(tmp_path, [NAC, AC, NAC])
    assert [channel.series_instance_uid for channel in found.channels[1:]] == ["2.25.1"]
    assert found.findings == ("pet-set-aside: PET series not corrected for attenuation: 2.25.0, 2.25.2",)


@pytest.mark.parametrize("corrections", [[AC, AC, NAC], [NAC, NAC]])
def test_pet_that_corrections_do_not_tell_apart_is_ambiguous(tmp_path, corrections):
    assert plan_pet_ct(tmp_path, corrections).error.code == "channel-ambiguous"


@pytest.mark.parametrize("text", ["CT,PET,PT", "CT,XYZ,RTSTRUCT", "SEG,RTDOSE", ""])
def test_modalities_that_are_repeated_unknown_or_without_image_are_refused(text):
    with pytest.raises(ConfigError) as caught:
        StudyModalities.parse(text)
    assert caught.value.code == "bad-modalities"


def test_one_pet_is_taken_as_it_is(tmp_path):
    found = plan_pet_ct(tmp_path, [NAC])
    assert (len(found.channels), found.findings) == (2, ())


def write_enhanced(folder):
    """Write `TIMES` volumes as the frames of one CT image; frame f, from 0, is slice f // TIMES at time f % TIMES."""
    grid = synth.axial_geometry((SLICES, 8, 8), spacing_xyz_mm=(1, 1, 2))
    series = synth.write_ct_series(folder, grid, np.zeros(grid.shape))
    images = [pydicom.dcmread(path) for path in series.paths]
    data = images[0]
    frames = []
    for number in range(TIMES * SLICES):
        frame, position, content = pydicom.Dataset(), pydicom.Dataset(), pydicom.Dataset()
        position.ImagePositionPatient = images[number // TIMES].ImagePositionPatient
        content.TemporalPositionIndex = number % TIMES + 1
        frame.PlanePositionSequence, frame.FrameContentSequence = [position], [content]
        frames.append(frame)
    shared, measures, orientation = pydicom.Dataset(), pydicom.Dataset(), pydicom.Dataset()
    measures.PixelSpacing, measures.SpacingBetweenSlices = data.PixelSpacing, 2
    orientation.ImageOrientationPatient = data.ImageOrientationPatient
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [orientation]
    data.SharedFunctionalGroupsSequence, data.PerFrameFunctionalGroupsSequence = [shared], frames
    data.NumberOfFrames = len(frames)
    data.PixelData = len(frames) * data.PixelData
    for element in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
        del data[element]
    for path in series.paths:
        path.unlink()
    data.save_as(series.paths[0])
    return series, data.SOPInstanceUID


def write_derived_seg(folder, series, sources, *listed):
    """Write a SEG of a series whose frames were derived from `sources` of their slice: UIDs and frame numbers.

    As a whole it refers to the instances of the series, or those that are `listed`.
    """
    mask = np.ones((SLICES, 8, 8), bool)
    data = synth.build_segmentation(series, [synth.SegmentSpec(1, "all", mask)])
    for number, frame in enumerate(data.PerFrameFunctionalGroupsSequence):
        derivation = pydicom.Dataset()
        derivation.SourceImageSequence = []
        for uid, frames in sources(number):
            item = pydicom.Dataset()
            item.ReferencedSOPInstanceUID = uid
            if frames:
                item.ReferencedFrameNumber = frames
            derivation.SourceImageSequence.append(item)
        frame.DerivationImageSequence = [derivation]
    if listed:
        (referenced,) = data.ReferencedSeriesSequence
        referenced.ReferencedInstanceSequence = [pydicom.Dataset() for _ in listed]
        for item, uid in zip(referenced.ReferencedInstanceSequence, listed, strict=True):
            item.ReferencedSOPInstanceUID = uid
    synth.write_dataset(data, folder / "seg.dcm")


def choose_volume_of_seg(folder):
    sources = open_sources([folder], index_path=None, workers=1)
    (one,) = plan_segmented_cases(
        sources.series,
        sources.links,
        images=("CT",),
        segmentations=("SEG",),
        multiple=MultipleSegmentations.ERROR,
    )
    return volumes.choose_stack(one.channels[0], one, Stacking())


def test_a_segmentation_tells_the_volume_among_the_frames_of_one_image(tmp_path):
    series, uid = write_enhanced(tmp_path)
    write_derived_seg(tmp_path, series, lambda d: [(uid, TIMES * d + 3)])
    chosen = choose_volume_of_seg(tmp_path)
    assert chosen.label == "time 3"
    assert [frame.index for frame in chosen.frames] == [2, 6, 10]


@pytest.mark.parametrize(
    "frames_of",
    [
        lambda d: [[TIMES * d + 1], [TIMES * d + 2]],  # as highdicom refers to all frames at one place
        lambda d: [[TIMES * d + 1, TIMES * d + 2]],
        lambda d: [[TIMES * d + 1 + d % 2]],
        lambda d: [None],
        lambda d: [],
    ],
)
def test_a_segmentation_of_several_volumes_of_one_image_does_not_choose(tmp_path, frames_of):
    series, uid = write_enhanced(tmp_path)
    write_derived_seg(tmp_path, series, lambda d: [(uid, frames) for frames in frames_of(d)])
    with pytest.raises(GeometryError) as caught:
        choose_volume_of_seg(tmp_path)
    assert caught.value.code == "several-volumes"
    assert "Source Image Sequence" in caught.value.hint
    assert "gpuprep nifti" in caught.value.hint


def test_what_frames_were_derived_from_tells_more_than_a_list_of_the_whole_series(tmp_path):
    plans = plan(tmp_path, "CT")
    uids = [[i.sop_instance_uid for i in one.channels[0].stack.instances] for one in plans]
    series = synth.plan_series(synth.axial_geometry((SLICES, 8, 8), spacing_xyz_mm=(1, 1, 2)))
    write_derived_seg(tmp_path, series, lambda d: [(uids[2][d], None)], *(uid for time in uids for uid in time))
    assert choose_volume_of_seg(tmp_path).label == "time 3"
