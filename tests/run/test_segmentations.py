"""Which of several segmentations is meant."""

from dataclasses import replace

import pytest

from gpuprep.config import LabelPatterns, MultipleSegmentations, RoiOptions
from gpuprep.dicom import synth
from gpuprep.dicom.header import read_headers
from gpuprep.errors import RoiError
from gpuprep.run.segmentations import select_segmentations

LATEST = MultipleSegmentations.LATEST


def read_versions(folder, *changes):
    """Return the header of a structure set once for each of the changes."""
    (patient,) = synth.write_study(folder, slices=2, size=8)
    (header,) = read_headers([str(patient.rtstruct)])
    return [replace(header, **change) for change in changes]


def of_structure_set(date, time):
    return {"structure_set_date": date, "structure_set_time": time}


def of_content(date, time):
    return of_structure_set("", "") | {"content_date": date, "content_time": time}


@pytest.mark.parametrize("dated", [of_structure_set, of_content])
@pytest.mark.parametrize("later", [("20200102", "080000"), ("20200101", "170001")])
def test_the_latest_is_of_the_last_day_and_its_last_hour(tmp_path, dated, later):
    versions = read_versions(tmp_path, dated(*later), dated("20200101", "170000") | {"sop_instance_uid": "9"})
    options = RoiOptions((LabelPatterns("GTV", ("gtv.*",)),))
    for order in (versions, versions[::-1]):
        selected = select_segmentations(order, ["", ""], options, LATEST, {"warnings": []})
        assert [source.header for source in selected.sources] == [versions[0]]


def test_several_that_all_lack_the_labels_fail_as_one_does(tmp_path):
    options = RoiOptions((LabelPatterns("Heart", ("heart",)),))
    with pytest.raises(RoiError) as caught:
        select_segmentations(read_versions(tmp_path, {}, {}), ["", ""], options, LATEST, {"warnings": []})
    assert caught.value.code == "no-roi-matched"
