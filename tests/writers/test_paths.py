"""File names of DICOM fields: what is filled in, and what is refused."""

import pytest

from gpuprep.dicom.header import InstanceHeader
from gpuprep.errors import ConfigError
from gpuprep.writers.paths import DEFAULT_TEMPLATE, PathTemplate

HEADER = InstanceHeader(path="a.dcm", patient_id="../A b*", modality="CT", series_instance_uid="1.2.3", series_number=7)


@pytest.mark.parametrize(
    ("text", "path"),
    [
        (DEFAULT_TEMPLATE, "A_b/CT_1_2_3/IMG"),
        ("{CaseID}.nii", "case-1"),
        ("x/{SeriesNumber}_{SeriesDescription}-{ImageID}.nii.gz", "x/7_none-IMG"),
        ("plain.nii.gz", "plain"),
    ],
)
def test_fill(text, path):
    template = PathTemplate(text)
    assert template.fill(HEADER, case="case-1", image="IMG") == path
    assert text.endswith(template.suffix)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("{PatientName}/{ImageID}.nii.gz", "unknown-field"),
        ("{}.nii.gz", "unknown-field"),
        ("{PatientID.x}.nii.gz", "unknown-field"),
        ("{PatientID:>10}.nii.gz", "bad-filename-format"),
        ("{PatientID!r}.nii.gz", "bad-filename-format"),
        ("{PatientID.nii.gz", "bad-filename-format"),
        ("{ImageID}.nrrd", "bad-filename-format"),
        (".nii.gz", "bad-filename-format"),
        ("/{ImageID}.nii.gz", "bad-filename-format"),
        ("../{ImageID}.nii.gz", "bad-filename-format"),
        ("a//{ImageID}.nii.gz", "bad-filename-format"),
        ("a\\{ImageID}.nii.gz", "bad-filename-format"),
    ],
)
def test_what_is_no_template(text, code):
    with pytest.raises(ConfigError) as caught:
        PathTemplate(text)
    assert caught.value.code == code
