import re
from dataclasses import replace

import numpy as np
import pydicom
import pytest

from gpuprep.dicom import synth
from gpuprep.dicom.index import Index, build_index
from gpuprep.dicom.link import link
from gpuprep.report.tree import WIDTH, format_tree

GRID = synth.axial_geometry((4, 6, 5), spacing_xyz_mm=(1.0, 1.0, 2.5))


def _write_ct(folder, patient_id="P1"):
    return synth.write_ct_series(folder, GRID, np.zeros(GRID.shape, np.int16), patient_id=patient_id)


def _format(*folders):
    return _format_index(build_index(folders))


def _format_index(index):
    return format_tree(index, link(index.series()))


def test_patients_studies_series_and_segmentations_are_nested(tmp_path):
    first, second = _write_ct(tmp_path / "a", "P1"), _write_ct(tmp_path / "b", "P2")
    rtstruct = synth.write_rtstruct(tmp_path / "rs", second, [synth.RoiSpec(1, "roi")])
    uid = pydicom.dcmread(rtstruct).SOPInstanceUID

    assert _format(tmp_path).splitlines() == [
        "patient P1",
        f"  study {first.study_instance_uid}",
        f"    CT {first.series_instance_uid}  4 instances",
        "patient P2",
        f"  study {second.study_instance_uid}",
        f"    CT {second.series_instance_uid}  4 instances",
        f"      RTSTRUCT {uid}  by series-uid",
        "2 patients, 2 studies, 3 series; 1 segmentation linked, 0 not",
        "9 paths: 9 instances, 0 copies, 0 with problems",
    ]


def test_all_that_is_wrong_is_shown_with_counts_and_an_example(tmp_path, monkeypatch):
    monkeypatch.setattr("gpuprep.report.tree.WIDTH", 1000)  # whatever the length of tmp_path
    series = _write_ct(tmp_path / "ct")
    (tmp_path / "copy").write_bytes(series.paths[0].read_bytes())
    for name in ("junk1", "junk2"):
        (tmp_path / name).write_text("no DICOM")
    (tmp_path / "none").touch()
    elsewhere = synth.plan_series(GRID, patient_id="P9")
    lost = synth.write_rtstruct(tmp_path / "lost", elsewhere, [synth.RoiSpec(1, "roi")])
    linked = synth.build_structure_set(series, [synth.RoiSpec(1, "roi")])
    linked.PatientID = "P7"
    synth.write_dataset(linked, tmp_path / "foreign")

    assert _format(tmp_path).splitlines() == [
        "patient P1",
        f"  study {series.study_instance_uid}",
        f"    CT {series.series_instance_uid}  4 instances and 1 copy",
        "      ! duplicate-instance",
        f"      RTSTRUCT {linked.SOPInstanceUID}  by series-uid",
        "        ! patient-id-mismatch",
        "patient P7",
        f"  study {series.study_instance_uid}",
        "patient P9",
        f"  study {elsewhere.study_instance_uid}",
        f"    RTSTRUCT {pydicom.dcmread(lost).SOPInstanceUID}  no image",
        "      ! dangling-reference",
        "problems",
        f"        2 not-dicom                        e.g. {tmp_path / 'junk1'}",
        f"        1 empty-file                       e.g. {tmp_path / 'none'}",
        "segmentations without image",
        f"        1 dangling-reference               e.g. {lost}",
        "remarks",
        f"        1 duplicate-instance               e.g. {tmp_path / 'copy'}",
        f"        1 patient-id-mismatch              e.g. {tmp_path / 'foreign'}",
        "3 patients, 3 studies, 3 series; 1 segmentation linked, 1 not",
        "10 paths: 6 instances, 1 copy, 3 with problems",
    ]


def test_an_empty_index_has_a_summary():
    assert format_tree(Index(()), link(())).splitlines() == [
        "0 patients, 0 studies, 0 series; 0 segmentations linked, 0 not",
        "0 paths: 0 instances, 0 copies, 0 with problems",
    ]


def test_hostile_texts_do_not_reach_the_terminal(tmp_path):
    _write_ct(tmp_path / "ct")
    hostile = "\x1b[2J\u202e\udcff" + "9" * 300
    columns = ("patient_id", "study_instance_uid", "series_instance_uid", "sop_instance_uid", "modality")
    rows = build_index([tmp_path]).instances
    rows = (*rows, *(replace(row, path=hostile + row.path, **dict.fromkeys(columns, hostile)) for row in rows))
    rows = (*rows, replace(rows[0], path=hostile, error_code="not-dicom"))
    text = _format_index(Index(rows))
    assert all(c.isprintable() for c in text.replace("\n", ""))
    assert max(map(len, text.splitlines())) <= WIDTH


def test_no_patient_name_is_shown(tmp_path):
    series = _write_ct(tmp_path / "ct")
    for path in series.paths:
        data = pydicom.dcmread(path)
        data.PatientName = "Doe^Jane"
        data.save_as(path)
    assert "Doe" not in _format(tmp_path)


@pytest.fixture(scope="module")
def corpus(data_dir):
    index = build_index([data_dir], workers=2)
    links = link(index.series())
    return index, links, format_tree(index, links)


def test_real_data_fits_the_terminal(corpus):
    _, _, text = corpus
    assert max(map(len, text.splitlines())) <= WIDTH
    assert all(c.isprintable() for c in text.replace("\n", ""))


def test_everything_is_in_the_tree_or_among_the_problems(corpus):
    index, links, text = corpus
    in_series = sum(int(n) for n in re.findall(r"^    \S.*  (\d+) instances?\b", text, re.M))
    copies = sum(int(n) for n in re.findall(r"^    \S.* and (\d+) cop(?:y|ies)$", text, re.M))
    segmentations = len(re.findall(r"^ {4,6}\S+ \S+  (?:by|no image)", text, re.M))
    problems = text[text.index("\nproblems\n") : text.index("\nremarks\n")]
    unusable = sum(int(n) for n in re.findall(r"^ +(\d+) \S+ +e\.g\.", problems, re.M))
    segmentation_copies = sum(len(s.copies) for s in index.series() if s.modality in ("SEG", "RTSTRUCT"))

    assert segmentations == len(links.links) + len(links.problems)
    assert in_series + copies + segmentations + segmentation_copies + unusable == len(index.instances)


def test_paths_show_their_end(tmp_path):
    deep = tmp_path / ("d" * 100) / "the_file"
    deep.parent.mkdir()
    deep.write_text("no DICOM")
    line = next(line for line in _format(tmp_path).splitlines() if "not-dicom" in line)
    assert line.endswith("d/the_file")
    assert "…" in line
    assert len(line) == WIDTH
