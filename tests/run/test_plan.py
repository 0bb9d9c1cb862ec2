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
from gpuprep.errors import GeometryError
from gpuprep.run import plan as plan_module
from gpuprep.run import volumes
from gpuprep.run.case import estimate_case
from gpuprep.run.plan import StudyModalities, plan_segmented_cases, plan_study_cases
from gpuprep.run.sources import open_sources
from gpuprep.writers.names import text_digest

TIMES, SLICES = 4, 3


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
    sources = open_sources([folder], index_path=None, workers=1)
    plans = plan_study_cases(
        sources.series,
        sources.links,
        StudyModalities((modality,)),
        stacking=Stacking(),
        images_with_masks=False,
        doses_on_images=False,
    )
    return pickle.loads(pickle.dumps(plans))


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
    sources = open_sources(folders, index_path=None, workers=1)
    plans = plan_study_cases(
        sources.series,
        sources.links,
        StudyModalities(("CT",)),
        stacking=Stacking(),
        images_with_masks=False,
        doses_on_images=False,
    )
    names = [one.case for one in plans]
    assert len(set(names)) == 3
    assert sum("_00000000_" in name for name in names) == 2


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


def test_one_pet_is_taken_as_it_is(tmp_path):
    found = plan_pet_ct(tmp_path, [NAC])
    assert (len(found.channels), found.findings) == (2, ())
