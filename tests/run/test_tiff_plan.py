"""Sources to plans: names, copies, lists of paths, and what is broken."""

import sys
from dataclasses import replace

import numpy as np
import pydicom
import pytest
from tiff_images import write_image

from gpuprep.dicom.header import read_headers
from gpuprep.dicom.index import build_index
from gpuprep.errors import CaseError, ConfigError, InputNotFoundError
from gpuprep.run.plan import FailedPlan
from gpuprep.run.sources import load_index
from gpuprep.run.stopwatch import Stopwatch
from gpuprep.run.tiff_image import load_image
from gpuprep.run.tiff_plan import ImagePlan, name_output, only_image, plan_images, read_sources

IMAGE = np.ones((1, 5, 7), np.uint16)


def test_names_are_uids(tmp_path):
    (header,) = read_headers([str(write_image(tmp_path / "a.dcm", IMAGE))])
    assert name_output(header, "study/series/sop") == f"1.2.3/1.2.3.4/{header.sop_instance_uid}"
    for change, code in (({"study_instance_uid": ""}, "attribute-missing"),
                         ({"sop_instance_uid": "../../etc"}, "attribute-invalid"),
                         ({"sop_instance_uid": ".."}, "attribute-invalid")):  # fmt: skip
        with pytest.raises(CaseError) as caught:
            name_output(replace(header, **change), "study/sop")
        assert caught.value.code == code


def test_copies_are_left_out_and_conflicts_refused(tmp_path):
    first = write_image(tmp_path / "a.dcm", IMAGE)
    (tmp_path / "copy.dcm").write_bytes(first.read_bytes())
    (tmp_path / "note.txt").write_text("not DICOM")
    plans, problems = plan_images(build_index([tmp_path]), "study/sop")
    assert [type(p) for p in plans] == [ImagePlan]
    assert [p.code for p in problems] == ["not-dicom", "duplicate-instance"]
    ds = pydicom.dcmread(first)
    ds.Rows, ds.Columns = 7, 5
    ds.save_as(tmp_path / "other.dcm")
    plans, _ = plan_images(build_index([tmp_path]), "study/sop")
    assert [type(p) for p in plans] == [FailedPlan] * 2
    assert {p.error.code for p in plans} == {"conflicting-instances"}


def test_a_list_of_paths_is_a_source(tmp_path):
    paths = [write_image(tmp_path / f"{n}.dcm", IMAGE) for n in "ab"]
    listing = tmp_path / "list.txt"
    listing.write_text("\n".join([*map(str, paths), "", str(tmp_path / "lost.dcm"), ""]))
    index = read_sources(listing, tmp_path / "out", workers=1)
    assert [row.path for row in index.instances] == [*map(str, paths), str(tmp_path / "lost.dcm")]
    plans, problems = plan_images(index, "study/sop")
    assert [plan.error.code for plan in plans if isinstance(plan, FailedPlan)] == ["unreadable"]
    assert (len(plans), problems) == (3, ())


def test_an_index_is_a_source_and_its_files_must_be_as_they_were(tmp_path):
    paths = [write_image(tmp_path / f"{n}.dcm", IMAGE) for n in "ab"]
    index = tmp_path / "index.parquet"
    load_index(paths, index_path=index, workers=1)
    headers = read_sources(index, tmp_path / "out", workers=1).instances
    assert [row.path for row in headers] == [str(path) for path in paths]
    load_image(headers[0], 1, Stopwatch())
    write_image(paths[0], IMAGE[:, :, :5])
    with pytest.raises(CaseError) as caught:
        load_image(headers[0], 1, Stopwatch())
    assert caught.value.code == "file-changed"


def test_broken_files_are_failures_and_others_are_no_images(tmp_path):
    whole = write_image(tmp_path / "a.dcm", IMAGE).read_bytes()
    (tmp_path / "cut.dcm").write_bytes(whole[:400])
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "note.txt").write_text("not DICOM")
    plans, problems = plan_images(build_index([tmp_path]), "study/sop")
    (failed,) = (plan for plan in plans if isinstance(plan, FailedPlan))
    assert (failed.error.code, failed.error.subject) == ("header-truncated", str(tmp_path / "cut.dcm"))
    assert "copy" in failed.error.hint
    assert failed.case.startswith("unnamed/cut_dcm_")
    assert sorted(problem.code for problem in problems) == ["empty-file", "not-dicom"]


def test_files_that_cannot_be_named_are_failures(tmp_path):
    bad = write_image(tmp_path / "b.dcm", IMAGE, StudyInstanceUID="")
    write_image(tmp_path / "a.dcm", IMAGE)
    plans, problems = plan_images(build_index([tmp_path]), "study/sop")
    (failed,) = (plan for plan in plans if isinstance(plan, FailedPlan))
    assert (failed.error.code, failed.error.subject, failed.patient) == ("attribute-missing", str(bad), "P1")
    assert failed.case.startswith("unnamed/b_dcm_")
    assert (len(plans), problems) == (2, ())


def test_a_source_of_broken_files_alone_says_what_is_wrong(tmp_path):
    path = tmp_path / "cut.dcm"
    path.write_bytes(write_image(tmp_path / "a.dcm", IMAGE).read_bytes()[:400])
    index = read_sources(path, tmp_path / "out", workers=1)
    (failed,), _ = plan_images(index, "study/sop")
    assert failed.error.code == "header-truncated"
    with pytest.raises(CaseError) as caught:
        only_image(index, tmp_path / "b.tiff")
    assert (caught.value.code, caught.value.subject) == ("header-truncated", str(path))


def test_a_list_may_come_from_windows_but_must_be_text(tmp_path):
    path = write_image(tmp_path / "ä.dcm", IMAGE)
    listing = tmp_path / "list.txt"
    listing.write_bytes(f"\ufeff{path}\r\n\r\n".encode())
    assert [row.path for row in read_sources(listing, tmp_path / "out", workers=1).instances] == [str(path)]
    listing.write_bytes(str(path).encode("latin-1"))
    with pytest.raises(ConfigError) as caught:
        read_sources(listing, tmp_path / "out", workers=1)
    assert caught.value.code == "bad-list"


@pytest.mark.skipif(sys.platform != "linux", reason="needs a file that opens and cannot be read")
def test_a_list_that_cannot_be_read_is_refused(tmp_path):
    listing = tmp_path / "list.txt"
    listing.symlink_to("/proc/self/mem")
    with pytest.raises(ConfigError, match="cannot read: Input/output error") as caught:
        read_sources(listing, tmp_path / "out", workers=1)
    assert caught.value.code == "bad-list"


def test_lines_that_are_no_names_are_lost_files(tmp_path):
    path = write_image(tmp_path / "a.dcm", IMAGE)
    listing = tmp_path / "list.txt"
    listing.write_text(f"{path}\n{'x' * 300}\na\0b\n")
    plans, _ = plan_images(read_sources(listing, tmp_path / "out", workers=1), "study/sop")
    assert sorted(plan.error.code for plan in plans if isinstance(plan, FailedPlan)) == ["unreadable"] * 2
    assert len(plans) == 3


def test_a_broken_file_beside_the_image_is_not_passed_over(tmp_path):
    path = write_image(tmp_path / "a.dcm", IMAGE)
    listing = tmp_path / "list.txt"
    listing.write_text(f"{path}\n{tmp_path / 'lost.dcm'}\n")
    with pytest.raises(CaseError) as caught:
        only_image(read_sources(listing, tmp_path / "b.tiff", workers=1), tmp_path / "b.tiff")
    assert (caught.value.code, caught.value.subject) == ("unreadable", str(tmp_path / "lost.dcm"))


def test_a_source_is_never_overwritten(tmp_path):
    (tmp_path / "in").mkdir()
    source = write_image(tmp_path / "in" / "a.tiff", IMAGE)
    for given in (source, source.parent):
        with pytest.raises(ConfigError) as caught:
            only_image(read_sources(given, source, workers=1), source)
        assert caught.value.code == "output-is-source"


def test_sources_without_dicom_are_refused(tmp_path):
    (tmp_path / "a.dcm").write_text("no")
    with pytest.raises(InputNotFoundError) as caught:
        read_sources(tmp_path, tmp_path / "out", workers=1)
    assert caught.value.code == "no-dicom-found"
