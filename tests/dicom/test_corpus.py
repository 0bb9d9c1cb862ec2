"""The index of all real files, held against the manifest beside them, which was made with pydicom and by hand."""

import csv
from collections import Counter
from pathlib import Path

import pytest

from gpuprep.dicom.index import build_index
from gpuprep.dicom.link import link

#: Of these the manifest says less than the header does, or the file ends within the header.
TOO_SHORT = "emri_small_jpeg_2k_lossless_too_short.dcm"
TRUNCATED = "rtplan_truncated.dcm"
#: Longer than any column, or the manifest, keeps.
OVERLONG = ("TC0191_seriesinstanceuid_over_1MB.dcm", "TC0335_pi_256chars.dcm")
#: A private character that stands for a backslash in two file names; the manifest has a question mark.
BACKSLASH = "\uf05c"


@pytest.fixture(scope="module")
def index(data_dir):
    return build_index([data_dir], workers=2)


@pytest.fixture(scope="module")
def rows(index, data_dir):
    return {Path(row.path).relative_to(data_dir).as_posix(): row for row in index.instances}


@pytest.fixture(scope="module")
def manifest(data_dir):
    with (data_dir / "manifest.csv").open(newline="") as stream:
        return {line["path"].replace("?", BACKSLASH): line for line in csv.DictReader(stream)}


def test_every_file_is_a_row(rows, data_dir):
    assert rows.keys() == {p.relative_to(data_dir).as_posix() for p in data_dir.rglob("*") if p.is_file()}


def test_files_that_are_not_dicom_are_called_so(rows, manifest):
    assert {row.error_code for path, row in rows.items() if path not in manifest} == {"not-dicom"}


def test_a_file_is_usable_where_pydicom_finds_a_series(rows, manifest):
    expected = {
        path
        for path, line in manifest.items()
        if (line["series_uid"] and not path.endswith((".gz", TRUNCATED))) or path.endswith(TOO_SHORT)
    }
    assert {path for path, row in rows.items() if not row.error_code} == expected


def test_usable_files_are_as_many_a_theme_as_pydicom_says(rows, manifest):
    counts = Counter(path.split("/")[0] for path, row in rows.items() if not row.error_code)
    assert counts == {
        "colour": 36,
        "ct-rtstruct": 286,
        "ct-seg": 57,
        "dcm2niix-reference": 45,
        "enhanced": 18,
        "malformed": 80,
        "mr": 125,
        "syntaxes": 74,
        "xray-mammo": 9,
    }


@pytest.mark.parametrize(
    ("column", "attribute"),
    [
        ("modality", "modality"),
        ("series_uid", "series_instance_uid"),
        ("transfer_syntax", "transfer_syntax_uid"),
        ("rows", "rows"),
        ("cols", "columns"),
        ("samples", "samples_per_pixel"),
        ("photometric", "photometric_interpretation"),
    ],
)
def test_rows_agree_with_the_manifest(rows, manifest, column, attribute):
    differing = {
        path: (line[column], getattr(rows[path], attribute))
        for path, line in manifest.items()
        if line[column]
        and not rows[path].error_code
        and not path.endswith(OVERLONG)
        and line[column] != str(getattr(rows[path], attribute) or 0)
    }
    assert differing == {}


def test_series_hold_every_usable_file_once(index):
    series = index.series()
    held = [row.path for one in series for row in (*one.instances, *one.copies)]
    assert sorted(held) == [row.path for row in index.instances if not row.error_code]


def test_every_segmentation_is_linked_to_an_image_series_that_is_there(index, manifest):
    series = index.series()
    result = link(series)
    assert result.problems == ()
    wanted = Counter(line["modality"] for line in manifest.values() if line["modality"] in ("SEG", "RTSTRUCT"))
    copies = Counter(row.modality for one in series for row in one.copies)
    linked = Counter(found.segmentation.modality for found in result.links)
    assert {modality: linked[modality] + copies[modality] for modality in wanted} == wanted
    images = {one.series_instance_uid for one in series if one.is_image}
    assert {found.image_series_uid for found in result.links} <= images
