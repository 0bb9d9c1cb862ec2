"""The table of images: UIDs of the file or of the path, one row for what cannot be read, sorted, in flat memory."""

import csv
import gc
import io
import json
import random
import shutil
import struct
import tracemalloc

import numpy as np
import pydicom
import pytest
import tifffile
from pyarrow import parquet
from pydicom.uid import MediaStorageDirectoryStorage
from tiff_images import write_image

from gpuprep.errors import ConfigError, ExitStatus, InputNotFoundError, OutputError
from gpuprep.run.manifest import COLUMNS, write_manifest

PLANES = np.arange(3 * 8 * 6, dtype=np.uint16).reshape(3, 8, 6)


def write_pages(path, **options):
    tifffile.imwrite(path, PLANES, photometric="minisblack", **options)


def rows_of(folder, **options):
    stream = io.StringIO()
    counts = write_manifest(folder, stream, workers=2, **options)
    rows = list(csv.DictReader(io.StringIO(stream.getvalue())))
    assert counts.rows == len(rows)
    return rows, counts


def tell(row, *columns):
    return tuple(row[c] for c in columns)


UIDS = COLUMNS[:3]
SIZE = ("width", "height", "channels", "num_frames", "bits", "compression", "error")


def test_files_of_gpuprep_tiff_tell_their_uids(gpuprep, tmp_path):
    (tmp_path / "in").mkdir()
    source = write_image(tmp_path / "in" / "a.dcm", PLANES)
    for compat in ((), ("--compat", "dicom-preprocessing")):
        out = tmp_path / f"out{len(compat)}"
        assert gpuprep("tiff", "-z", "lzw", *compat, source.parent, out).status == ExitStatus.DONE
        (row,), counts = rows_of(out)
        sop = pydicom.dcmread(source).SOPInstanceUID
        assert tell(row, *UIDS) == ("1.2.3", "1.2.3.4", sop)  # compat files tell none, their path does
        assert tell(row, *SIZE) == ("6", "8", "1", "3", "16", "lzw", "")
        assert (out / row["path"]).stat().st_ino == int(row["inode"])
        assert counts.others == 3  # ledger and reports
    moved = tmp_path / "moved"
    moved.mkdir()
    shutil.copy(next((tmp_path / "out0").rglob("*.tiff")), moved / "anything.tif")
    (row,), _ = rows_of(moved)
    assert tell(row, *UIDS, "path") == ("1.2.3", "1.2.3.4", sop, "anything.tif")


def test_dicom_files_are_rows_too(tmp_path):
    write_image(tmp_path / "no suffix", PLANES)
    (row,), _ = rows_of(tmp_path)
    assert tell(row, *UIDS[:2], "path") == ("1.2.3", "1.2.3.4", "no suffix")
    assert tell(row, *SIZE) == ("6", "8", "1", "3", "12", "1.2.840.10008.1.2.1", "")


@pytest.mark.parametrize(
    ("path", "uids"),
    [
        ("1.2/3.4.tiff", ("1.2", "", "3.4")),
        ("1.2/1.2.9/3.4.TIF", ("1.2", "1.2.9", "3.4")),
        ("train/1.2/3.4.tiff", ("1.2", "", "3.4")),
        ("train/1.2/1.2.9/3.4.tiff", ("1.2", "1.2.9", "3.4")),
        ("3.4.tiff", ("", "", "3.4")),
    ],
)
def test_uids_of_paths(tmp_path, path, uids):
    (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(tmp_path / path, np.zeros((4, 5, 3), np.uint8), photometric="rgb")
    (row,), _ = rows_of(tmp_path)
    assert tell(row, *UIDS) == uids
    assert tell(row, *SIZE) == ("5", "4", "3", "1", "8", "uncompressed", "")


def test_a_uid_has_no_suffix(tmp_path):
    (tmp_path / "1.2").mkdir()
    write_pages(tmp_path / "1.2" / "3.4.567.tiff")
    (tmp_path / "1.2" / "3.4.567.tiff").rename(tmp_path / "1.2" / "3.4.567")
    (row,), _ = rows_of(tmp_path)
    assert tell(row, *UIDS) == ("1.2", "", "3.4.567")


@pytest.mark.parametrize("frames", ["-1", "99999999999"])
def test_numbers_that_no_image_has_are_errors(tmp_path, frames):
    write_image(tmp_path / "a.dcm", PLANES, NumberOfFrames=frames)
    (row,), counts = rows_of(tmp_path)
    assert (row["num_frames"], row["error"], counts.errors) == ("0", "attribute-invalid", 1)
    write_manifest(tmp_path, tmp_path / "table.parquet", workers=1)
    assert parquet.read_table(tmp_path / "table.parquet")["error"].to_pylist() == ["attribute-invalid"]


def test_a_width_that_no_column_holds_is_damage(tmp_path):
    write_pages(tmp_path / "a.tiff", bigtiff=True, metadata=None)
    whole = (tmp_path / "a.tiff").read_bytes()
    width = struct.pack("<HHQQ", 256, 4, 1, 6)  # tag ImageWidth, LONG
    assert whole.count(width) == 3
    (tmp_path / "a.tiff").write_bytes(whole.replace(width, struct.pack("<HHQQ", 256, 16, 1, 1 << 40), 1))
    (row,), _ = rows_of(tmp_path)
    assert tell(row, "width", "error") == ("0", "tiff-damaged")
    write_manifest(tmp_path, tmp_path / "table.parquet", workers=1)


def test_uids_that_are_no_text_are_not_taken(tmp_path):
    (tmp_path / "1.2").mkdir()
    description = json.dumps({"study_instance_uid": "\ud800", "sop_instance_uid": "1.2.3"})
    write_pages(tmp_path / "1.2" / "9.tiff", description=description, metadata=None)
    (row,), _ = rows_of(tmp_path)
    assert tell(row, *UIDS) == ("1.2", "", "1.2.3")


def test_rows_are_sorted_by_uids(tmp_path):
    names = [
        f"{study}/{study}.{series}/{sop}.tiff"
        for study in ("1.2", "1.10", "2.1")
        for series in (1, 2)
        for sop in (7, 8)
    ]
    random.Random(3).shuffle(names)
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        write_pages(tmp_path / name)
    rows, _ = rows_of(tmp_path)
    keys = [tell(row, *UIDS) for row in rows]
    assert len(keys) == 12
    assert keys == sorted(keys)
    assert {row["num_frames"] for row in rows} == {"3"}  # counted: no PageNumber


def test_what_cannot_be_read_is_a_row_with_a_code(gpuprep, tmp_path):
    write_pages(tmp_path / "good.tiff")
    whole = (tmp_path / "good.tiff").read_bytes()
    (tmp_path / "empty.tiff").write_bytes(b"")
    (tmp_path / "text.tif").write_text("no TIFF at all")
    (tmp_path / "cut.tiff").write_bytes(whole[:300])  # within the first page
    (tmp_path / "lost.tiff").write_bytes(whole[:8])
    (tmp_path / "text.dcm").write_text("no DICOM at all")
    (tmp_path / "notes.md").write_text("left out")
    (tmp_path / "link.tiff").symlink_to(tmp_path / "nowhere")
    dual = bytearray(write_image(tmp_path / "dual.dcm", PLANES).read_bytes())
    dual[:4] = b"II*\0"  # DICOM may have any preamble
    (tmp_path / "dual.dcm").write_bytes(dual)
    no_image = pydicom.dcmread(write_image(tmp_path / "plan", PLANES))
    del no_image.Rows, no_image.Columns
    no_image.save_as(tmp_path / "plan")
    no_image.file_meta.MediaStorageSOPClassUID = MediaStorageDirectoryStorage
    del no_image.SOPClassUID
    no_image.save_as(tmp_path / "DICOMDIR", enforce_file_format=True)
    result = gpuprep("manifest", tmp_path)
    assert result.status == ExitStatus.CASES_FAILED
    assert result.stderr.strip() == "9 images, 7 of them with an error, 2 other files left out"
    errors = {row["path"]: row["error"] for row in csv.DictReader(io.StringIO(result.stdout))}
    assert errors == {
        "good.tiff": "",
        "dual.dcm": "",
        "empty.tiff": "empty-file",
        "text.tif": "not-tiff",
        "cut.tiff": "pixel-data-truncated",
        "lost.tiff": "tiff-damaged",
        "text.dcm": "not-dicom",
        "plan": "not-an-image",
        "link.tiff": "broken-symlink",
    }


def test_a_folder_that_may_not_be_listed_is_a_row(monkeypatch, tmp_path):
    def refuse(_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("os.scandir", refuse)
    ((row,), _) = rows_of(tmp_path)
    assert (row["path"], row["error"]) == (".", "unreadable-folder")


def test_names_that_are_no_utf8(tmp_path):
    name = b"caf\xe9.tiff".decode("utf-8", "surrogateescape")
    write_pages(tmp_path / name)
    (row,), _ = rows_of(tmp_path)
    assert tell(row, "path", "error") == ("caf\\udce9.tiff", "name-not-utf8")


def test_damaged_tiffs_never_stop_it(tmp_path):
    write_pages(tmp_path / "0.tiff", compression="lzw", predictor=True, description='{"a": 1}')
    whole = (tmp_path / "0.tiff").read_bytes()
    generator = np.random.default_rng(5)
    for number in range(1, 300):
        damaged = np.frombuffer(whole, np.uint8).copy()
        places = generator.integers(0, len(damaged), 6)
        damaged[places] = generator.integers(0, 256, 6)
        (tmp_path / f"{number}.tiff").write_bytes(damaged.tobytes())
    rows, _ = rows_of(tmp_path)
    assert len(rows) == 300


@pytest.mark.parametrize("name", ["table.csv", "table.parquet"])
def test_tables_hold_the_same(gpuprep, tmp_path, name):
    write_pages(tmp_path / "a,b.tiff")
    table = tmp_path / "tables" / name
    assert gpuprep("manifest", tmp_path, table).status == ExitStatus.DONE
    printed = list(csv.DictReader(io.StringIO(gpuprep("manifest", tmp_path).stdout)))
    if name.endswith("csv"):
        assert list(csv.DictReader(io.StringIO(table.read_text()))) == printed
    else:
        read = parquet.read_table(table)
        assert tuple(read.column_names) == COLUMNS
        assert str(read.schema.field("inode").type) == "uint64"
        assert [{k: str(v) for k, v in row.items()} for row in read.to_pylist()] == printed


def test_memory_does_not_grow_with_files(tmp_path, monkeypatch):
    monkeypatch.setattr("gpuprep.run.manifest._BATCH", 100)
    monkeypatch.setattr("gpuprep.run.manifest._SORT_MEMORY_KIB", 100)
    peaks: dict[int, list[int]] = {500: [], 3000: []}
    for count in (500, 500, 3000, 3000):  # the first one imports; in one the interpreter's table of names may grow
        for number in range(count):
            path = tmp_path / str(count) / str(number // 100) / f"{number:060d}.tiff"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        gc.collect()
        tracemalloc.start()
        write_manifest(tmp_path / str(count), tmp_path / "table.csv", workers=1)
        peaks[count].append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert min(peaks[3000]) < min(peaks[500]) + 600_000  # 2500 rows of some 800 bytes would be 2 MB


def test_refusals(tmp_path, monkeypatch):
    write_pages(tmp_path / "a.tiff")
    (tmp_path / "none").mkdir()
    for source, output, kind, code in (
        (tmp_path, tmp_path / "table.xlsx", ConfigError, "bad-table"),
        (tmp_path / "a.tiff", tmp_path / "t.csv", ConfigError, "not-a-folder"),
        (tmp_path / "nowhere", tmp_path / "t.csv", InputNotFoundError, "path-missing"),
        (tmp_path / "none", tmp_path / "t.csv", InputNotFoundError, "no-image-found"),
        (tmp_path, tmp_path / "a.tiff" / "t.csv", OutputError, "not-writable"),
    ):
        with pytest.raises(kind) as caught:
            write_manifest(source, output, workers=1)
        assert caught.value.code == code
    monkeypatch.setattr("gpuprep.run.manifest._SORT_MEMORY_KIB", "x; garbage")
    with pytest.raises(OutputError) as caught:
        write_manifest(tmp_path, tmp_path / "t.csv", workers=1)
    assert caught.value.code == "sort-failed"
    assert not (tmp_path / "t.csv").exists()
