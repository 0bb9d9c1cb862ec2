import os
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pydicom
import pytest

from gpuprep.dicom import index as index_module
from gpuprep.dicom import synth
from gpuprep.dicom.header import InstanceHeader, read_headers
from gpuprep.dicom.index import Index, build_index, read_index, write_index
from gpuprep.errors import ConfigError, InputNotFoundError

GRID = synth.axial_geometry((4, 6, 5), spacing_xyz_mm=(1.0, 1.0, 2.5))
CORONAL_LOCALIZER = ["ORIGINAL", "PRIMARY", "LOCALIZER"]


def _write_ct(folder, **identity):
    return synth.write_ct_series(folder, GRID, np.zeros(GRID.shape, np.int16), **identity)


def _edit(path, target=None, **elements):
    """Write a changed copy of a file, in place by default; None deletes an element."""
    data = pydicom.dcmread(path)
    for keyword, value in elements.items():
        if value is None:
            delattr(data, keyword)
        else:
            setattr(data, keyword, value)
    data.save_as(target or path, enforce_file_format=True)
    return target or path


def _only_series(tmp_path):
    (series,) = build_index([tmp_path]).series()
    return series


def _series_by_modality(tmp_path):
    return {series.modality: series for series in build_index([tmp_path]).series()}


def _codes(series):
    return [finding.code for finding in series.findings]


@pytest.fixture
def read_paths(monkeypatch):
    """Paths whose headers `build_index` reads."""
    paths = []

    def record(asked, *, workers):
        paths.extend(asked)
        return read_headers(asked, workers=workers)

    monkeypatch.setattr(index_module, "read_headers", record)
    return paths


# --- Building --------------------------------------------------------------------------------------------------------


def test_every_file_is_a_row_and_a_bad_one_stops_nothing(tmp_path):
    series = _write_ct(tmp_path / "ct")
    (tmp_path / "junk.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\xff" * 400)
    (tmp_path / "empty.dcm").touch()
    (tmp_path / "notes.txt").write_text("no DICOM")
    series.paths[0].rename(tmp_path / "ct" / "without_suffix")

    index = build_index([tmp_path])

    assert [row.path for row in index.instances] == sorted(str(p) for p in tmp_path.rglob("*") if p.is_file())
    codes = {Path(row.path).name: row.error_code for row in index.problems}
    assert codes.keys() == {"junk.dcm", "empty.dcm", "notes.txt"}
    assert codes["empty.dcm"] == "empty-file"
    assert codes["notes.txt"] == "not-dicom"
    (ct,) = index.series()
    assert len(ct.instances) == 4


def test_what_the_crawl_cannot_enter_is_a_row(tmp_path):
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    (row,) = build_index([tmp_path]).problems
    assert (row.path, row.error_code) == (str(tmp_path / "gone"), "broken-symlink")


def test_a_file_without_series_is_a_problem_that_keeps_its_columns(tmp_path):
    paths = _write_ct(tmp_path).paths
    _edit(paths[0], SeriesInstanceUID=None)

    index = build_index([tmp_path])

    (row,) = index.problems
    assert row.error_code == "no-series-uid"
    assert (row.modality, row.patient_id) == ("CT", "SYNTH-001")
    assert sum(len(s.instances) for s in index.series()) == 3


def test_a_rerun_reads_only_what_is_new_or_changed(tmp_path, read_paths):
    paths = _write_ct(tmp_path / "ct").paths
    (tmp_path / "notes.txt").write_text("no DICOM")
    first = build_index([tmp_path])
    read_paths.clear()

    assert build_index([tmp_path], previous=first) == first
    assert read_paths == []

    os.utime(paths[0], ns=(1, 1))
    paths[1].write_bytes(paths[1].read_bytes() + b"\0\0")
    paths[2].unlink()
    new = tmp_path / "ct" / "new"
    new.hardlink_to(paths[3])
    again = build_index([tmp_path], previous=first)

    assert sorted(read_paths) == sorted(map(str, [*paths[:2], new]))
    assert again == build_index([tmp_path])
    assert str(paths[2]) not in {row.path for row in again.instances}


def test_a_rerun_tries_again_what_the_system_refused(tmp_path, read_paths):
    path = tmp_path / "file"
    path.write_bytes(b"x")
    status = path.stat()
    refused = InstanceHeader(path=str(path), size=status.st_size, mtime_ns=status.st_mtime_ns, error_code="unreadable")
    (row,) = build_index([tmp_path], previous=Index((refused,))).instances
    assert row.error_code == "not-dicom"


def test_chunks_make_no_difference(tmp_path, monkeypatch):
    _write_ct(tmp_path)
    whole = build_index([tmp_path])
    monkeypatch.setattr(index_module, "CHUNK_FILES", 3)
    calls = []
    assert build_index([tmp_path], workers=2, on_progress=calls.append) == whole
    assert calls == [3, 4]


def test_the_order_of_sources_makes_no_difference(tmp_path):
    for name in ("b", "a", "c"):
        _write_ct(tmp_path / name, patient_id=name)
    sources = [tmp_path / name for name in ("c", "a", "b")]
    index = build_index(sources)
    assert index == build_index(sources[::-1])
    assert [s.patient_id for s in index.series()] == ["a", "b", "c"]


def test_a_missing_source_is_refused(tmp_path):
    with pytest.raises(InputNotFoundError) as caught:
        build_index([tmp_path / "nowhere"])
    assert caught.value.code == "path-missing"


def test_the_sources_are_not_written_to(tmp_path):
    _write_ct(tmp_path / "ct")
    before = sorted((str(p), p.stat().st_mtime_ns) for p in tmp_path.rglob("*"))
    build_index([tmp_path])
    assert sorted((str(p), p.stat().st_mtime_ns) for p in tmp_path.rglob("*")) == before


def test_importing_and_building_need_neither_pyarrow_nor_pydicom(tmp_path):
    _write_ct(tmp_path)
    code = (
        "import sys; from pathlib import Path; from gpuprep.dicom.index import build_index; "
        "assert len(build_index([Path(sys.argv[1])]).series()) == 1; "
        "assert not {'pyarrow', 'pydicom'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)


# --- Series ----------------------------------------------------------------------------------------------------------


def test_a_series_may_be_spread_over_folders_and_share_them(tmp_path):
    series = _write_ct(tmp_path / "a")
    (tmp_path / "b").mkdir()
    series.paths[1].rename(tmp_path / "b" / "same_name")
    synth.write_rtstruct(tmp_path / "b" / "rs", series, [synth.RoiSpec(1, "roi")])

    found = _series_by_modality(tmp_path)

    assert found.keys() == {"CT", "RTSTRUCT"}
    ct, rtstruct = found["CT"], found["RTSTRUCT"]
    assert {i.sop_instance_uid for i in ct.instances} == set(series.sop_instance_uids)
    assert ct.study_instance_uid == series.study_instance_uid
    assert ct.series_instance_uid == series.series_instance_uid
    assert ct.findings == ()
    assert ct.is_image
    assert (len(rtstruct.instances), rtstruct.is_image) == (1, False)


def test_copies_of_an_instance_are_left_out_whatever_their_encoding(tmp_path):
    series = _write_ct(tmp_path / "a")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "copy").write_bytes(series.paths[0].read_bytes())
    data = pydicom.dcmread(series.paths[1])
    data.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
    data.save_as(tmp_path / "b" / "implicit", implicit_vr=True, little_endian=True)

    ct = _only_series(tmp_path)

    assert [i.path for i in ct.instances] == [str(p) for p in series.paths]
    assert [i.path for i in ct.copies] == [str(tmp_path / "b" / name) for name in ("copy", "implicit")]
    assert _codes(ct) == ["duplicate-instance"]


def test_different_images_with_one_uid_are_all_kept(tmp_path):
    series = _write_ct(tmp_path)
    _edit(series.paths[0], tmp_path / "moved", ImagePositionPatient=[0, 0, 77])
    ct = _only_series(tmp_path)
    assert len(ct.instances) == 5
    assert ct.copies == ()
    assert _codes(ct) == ["conflicting-instances"]


def test_different_structure_sets_with_one_uid_are_both_kept(tmp_path):
    series = _write_ct(tmp_path)
    contour = synth.ellipse_lps_mm(series.geometry, 1, (0, 0, 0), (1, 1))
    synth.write_rtstruct(tmp_path / "v1", series, [synth.RoiSpec(1, "roi")])
    synth.write_rtstruct(tmp_path / "v2", series, [synth.RoiSpec(1, "roi", [contour])])
    synth.write_rtstruct(tmp_path / "v1_copy", series, [synth.RoiSpec(1, "roi")])
    rtstruct = _series_by_modality(tmp_path)["RTSTRUCT"]
    assert [Path(i.path).name for i in rtstruct.instances] == ["v1", "v2"]
    assert [Path(i.path).name for i in rtstruct.copies] == ["v1_copy"]
    assert _codes(rtstruct) == ["duplicate-instance", "conflicting-instances"]


@pytest.mark.parametrize(
    ("element", "code"),
    [
        ("PatientID", "conflicting-patient-ids"),
        ("StudyInstanceUID", "conflicting-study-uids"),
        ("FrameOfReferenceUID", "conflicting-frames-of-reference"),
    ],
)
def test_what_should_be_one_in_a_series_and_is_not_is_named(tmp_path, element, code):
    series = _write_ct(tmp_path)
    _edit(series.paths[2], **{element: "1.2.3"})
    ct = _only_series(tmp_path)
    assert _codes(ct) == [code]
    assert "1.2.3" in ct.findings[0].message


def test_a_structure_set_with_the_series_uid_of_its_ct_is_a_series_of_its_own(tmp_path):
    series = _write_ct(tmp_path)
    path = synth.write_rtstruct(tmp_path / "rs", series, [synth.RoiSpec(1, "roi")])
    _edit(path, SeriesInstanceUID=series.series_instance_uid)
    ct, rtstruct = build_index([tmp_path]).series()
    assert (ct.modality, len(ct.instances)) == ("CT", 4)
    assert (rtstruct.modality, len(rtstruct.instances)) == ("RTSTRUCT", 1)
    assert _codes(ct) == _codes(rtstruct) == ["shared-series-uid"]


def test_a_series_of_localizers_is_no_image(tmp_path):
    series = _write_ct(tmp_path)
    for path in series.paths:
        _edit(path, ImageType=CORONAL_LOCALIZER)
    assert not _only_series(tmp_path).is_image


def test_one_localizer_leaves_a_series_an_image(tmp_path):
    series = _write_ct(tmp_path)
    _edit(series.paths[0], ImageType=CORONAL_LOCALIZER)
    assert _only_series(tmp_path).is_image


# --- Parquet ---------------------------------------------------------------------------------------------------------


def test_parquet_keeps_every_row_and_column(tmp_path, data_dir):
    index = build_index([data_dir / "ct-rtstruct" / "rt_utils_mock", data_dir / "malformed", data_dir / "ct-seg"])
    write_index(index, tmp_path / "index")
    assert read_index(tmp_path / "index") == index


def test_parquet_columns_are_typed_for_other_tools(tmp_path):
    _write_ct(tmp_path / "ct")
    write_index(build_index([tmp_path / "ct"]), tmp_path / "index")
    table = pa.parquet.read_table(tmp_path / "index")
    assert table.schema.names == [*(f.name for f in fields(InstanceHeader)), "path_bytes"]
    for name, expected in {
        "path": pa.string(),
        "size": pa.int64(),
        "mtime_ns": pa.int64(),
        "pixel_offset": pa.int64(),
        "sop_class_uid": pa.string(),
        "slice_thickness_mm": pa.float64(),
        "rows": pa.int64(),
        "image_position_lps_mm": pa.list_(pa.float64()),
        "referenced_series_uids": pa.list_(pa.string()),
    }.items():
        assert table.schema.field(name).type == expected
    assert table["rows"].to_pylist() == [6] * 4
    assert table["echo_time_ms"].null_count == 4


def test_an_empty_index_is_kept(tmp_path):
    write_index(Index(()), tmp_path / "index")
    assert read_index(tmp_path / "index") == Index(())


def test_paths_that_are_not_utf8_are_kept(tmp_path):
    (tmp_path / "src").mkdir()
    path = os.fsdecode(os.fsencode(tmp_path / "src") + b"/\xe9t\xe9")
    Path(path).write_bytes(b"x")
    index = build_index([tmp_path / "src"])
    write_index(index, tmp_path / "index")
    assert read_index(tmp_path / "index").instances[0].path == path == index.instances[0].path
    assert build_index([tmp_path / "src"], previous=read_index(tmp_path / "index")) == index


def test_a_missing_index_is_refused(tmp_path):
    with pytest.raises(InputNotFoundError) as caught:
        read_index(tmp_path / "nowhere")
    assert caught.value.code == "path-missing"


def test_what_is_no_file_is_no_index(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "pipe", Path("/dev/zero"), tmp_path / "file" / "index"):
        with pytest.raises(InputNotFoundError) as caught:
            read_index(path)
        assert caught.value.code == "index-unreadable"


@pytest.mark.parametrize("content", [b"", b"PAR1", b"no parquet at all, but long enough to look for a footer"])
def test_a_file_that_is_no_parquet_is_refused(tmp_path, content):
    (tmp_path / "index").write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read_index(tmp_path / "index")
    assert caught.value.code == "not-an-index"


def test_a_damaged_index_is_refused(tmp_path):
    _write_ct(tmp_path / "ct")
    write_index(build_index([tmp_path / "ct"]), tmp_path / "index")
    content = bytearray((tmp_path / "index").read_bytes())
    content[len(content) // 3 : len(content) // 3 + 64] = b"\xff" * 64
    (tmp_path / "index").write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read_index(tmp_path / "index")
    assert caught.value.code == "not-an-index"


def test_parquet_of_others_is_refused(tmp_path):
    pa.parquet.write_table(pa.table({"path": ["a"]}), tmp_path / "index")
    with pytest.raises(ConfigError) as caught:
        read_index(tmp_path / "index")
    assert caught.value.code == "not-an-index"


@pytest.mark.parametrize("version", ["0", str(index_module.INDEX_VERSION)])
def test_an_index_of_another_version_is_refused(tmp_path, version):
    metadata = {"gpuprep.index.version": version}
    pa.parquet.write_table(pa.table({"path": ["a"]}).replace_schema_metadata(metadata), tmp_path / "index")
    with pytest.raises(ConfigError) as caught:
        read_index(tmp_path / "index")
    assert caught.value.code == "index-version"


def test_problems_and_series_share_no_row_and_leave_none_out(tmp_path):
    _write_ct(tmp_path / "a")
    _write_ct(tmp_path / "copy")
    rows = build_index([tmp_path]).instances
    index = Index((*rows, replace(rows[0], path="z", error_code="header-truncated")))
    parts = [index.problems, *(s.instances for s in index.series()), *(s.copies for s in index.series())]
    assert sorted(row.path for part in parts for row in part) == [row.path for row in index.instances]
