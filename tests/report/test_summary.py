import csv
import json
import tracemalloc
from dataclasses import asdict, replace

import pytest

from gpuprep.errors import GeometryError
from gpuprep.report.summary import describe_failure, format_summary, write_reports
from gpuprep.run.ledger import CaseRow, FileProblem

LABELS = {"labels": [{"name": "GTV", "rois": ["gtv1"], "patterns": ["gtv.*"]}, {"name": "Cord", "rois": []}]}
DONE = CaseRow(
    "a", "k", "c", "p", "done", details={**LABELS, "unmatched_rois": ["Skin"], "warnings": ["no ROI for 'Cord'"]}
)
FAILED = CaseRow("b", "k", "c", "p", "failed").failed(
    GeometryError("1 slice missing", code="missing-slice", hint="find it")
)
PROBLEMS = [FileProblem("x.txt", "not-dicom", ""), FileProblem("y.txt", "not-dicom", "")]


def test_the_summary_counts_by_code_and_gives_an_example_and_a_hint():
    assert format_summary([DONE, FAILED, FAILED], PROBLEMS, 2).splitlines() == [
        "1 of 3 cases done",
        "  failed     2  missing-slice            e.g. b: 1 slice missing",
        "               hint: find it",
        "  warnings in 1 case, e.g. a: no ROI for 'Cord'",
        "2 image series without a segmentation were left out",
        "  unusable files     2  not-dicom          e.g. x.txt",
    ]


def test_each_code_has_an_example_of_its_own():
    other = replace(FAILED, case="z", code="gantry-tilt", message="it leans", hint="")
    text = format_summary([FAILED, other, other], [*PROBLEMS, FileProblem("z.txt", "unreadable", "")], 0)
    assert text.splitlines() == [
        "0 of 3 cases done",
        "  failed     2  gantry-tilt              e.g. z: it leans",
        "  failed     1  missing-slice            e.g. b: 1 slice missing",
        "               hint: find it",
        "  unusable files     2  not-dicom          e.g. x.txt",
        "  unusable files     1  unreadable         e.g. z.txt",
    ]


def test_a_failure_names_its_file_in_one_line():
    row = replace(FAILED, subject="/in/a\nb/\x1b[2J", message="it ends before byte 9")
    assert describe_failure(row) == "/in/a\ufffdb/\ufffd[2J: it ends before byte 9"
    assert describe_failure(replace(FAILED, subject="1.2.3")) == "1 slice missing"
    assert "1 image series without a segmentation was left out" in format_summary([row], [], 1)


@pytest.mark.parametrize("rows", [[], [DONE, FAILED]])
@pytest.mark.parametrize("problems", [[], PROBLEMS])
def test_the_report_is_one_json_document(tmp_path, rows, problems):
    path, _ = write_reports(tmp_path, rows, problems)
    whole = {"cases": list(map(asdict, rows)), "unusable_files": list(map(asdict, problems))}
    assert path.read_text() == json.dumps(whole, indent=1, sort_keys=True) + "\n"


def test_reports_need_no_memory_for_every_case(tmp_path):
    rows = [replace(DONE, case=str(i)) for i in range(1000)]
    tracemalloc.start()
    path, _ = write_reports(tmp_path, rows, [])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < path.stat().st_size


def test_the_reports_hold_every_case(tmp_path):
    json_path, csv_path = write_reports(tmp_path, [DONE, FAILED], PROBLEMS)
    report = json.loads(json_path.read_text())
    assert [c["status"] for c in report["cases"]] == ["done", "failed"]
    assert report["unusable_files"][0] == {"path": "x.txt", "code": "not-dicom", "detail": ""}
    first, second = csv.DictReader(csv_path.read_text().splitlines())
    assert first["labels"] == "GTV <- gtv1; Cord <- absent"
    assert (first["unmatched_rois"], first["warnings"]) == ("Skin", "no ROI for 'Cord'")
    assert (second["code"], second["stage"], second["hint"]) == ("missing-slice", "stack", "find it")
