import sqlite3
import threading
from contextlib import closing
from dataclasses import replace

import pytest

from gpuprep.errors import OutputError, RoiError
from gpuprep.run.ledger import CaseRow, FileProblem, Ledger
from gpuprep.writers.base import Output

DONE = CaseRow(
    case="a", key="k", config="c", patient="p", status="done", decoder="native", backend="cpu", input_bytes=3,
    seconds=0.5, timings={"decode": 0.1}, outputs=(Output("x/a.nii.gz", 5, 7),), details={"labels": [{"name": "GTV"}]},
)  # fmt: skip


def test_rows_survive_closing(tmp_path):
    error = RoiError("none", code="no-roi-matched", subject="1.2.3", hint="extend")
    failed = CaseRow(case="b", key="k", config="c", patient="p", status="failed").failed(error)
    ledger = Ledger(tmp_path / "new" / "ledger.sqlite", "job")
    for row in (failed, DONE):
        ledger.put(row)
    ledger.set_file_problems([FileProblem("f", "not-dicom", "junk")])
    ledger.close()
    again = Ledger(tmp_path / "new" / "ledger.sqlite", "job")
    assert again.rows() == {"a": DONE, "b": failed}
    assert failed.stage == "roi"
    again.remove(["b"])
    assert list(again.rows()) == ["a"]
    again.close()
    with closing(sqlite3.connect(tmp_path / "new" / "ledger.sqlite")) as database:
        assert database.execute("SELECT path, code, detail FROM files").fetchall() == [("f", "not-dicom", "junk")]


def test_a_second_writer_is_refused(tmp_path):
    first = Ledger(tmp_path / "l.sqlite", "job")
    first.put(DONE)
    with pytest.raises(OutputError) as caught:
        Ledger(tmp_path / "l.sqlite", "job")
    assert caught.value.code == "output-locked"
    first.close()


@pytest.mark.parametrize("is_running", [True, False])
@pytest.mark.parametrize("places", [("l.sqlite", "set/l.sqlite"), ("set/l.sqlite", "l.sqlite")])
def test_ledgers_do_not_nest(tmp_path, places, is_running):
    first, second = (tmp_path / "out" / place for place in places)
    ledger = Ledger(first, "one")
    if not is_running:
        ledger.close()
    for _ in range(2):  # what is refused leaves nothing by which the other would be refused
        with pytest.raises(OutputError) as caught:
            Ledger(second, "two")
        assert caught.value.code == "other-job"
        assert not second.exists()
    ledger.close()
    Ledger(first, "one").close()


def test_a_new_ledger_waits_for_one_below_that_gives_up(tmp_path):
    below = tmp_path / "set" / "l.sqlite"
    below.parent.mkdir()
    below.touch()
    giving_up = threading.Timer(0.1, below.unlink)
    giving_up.start()
    Ledger(tmp_path / "l.sqlite", "one").close()
    assert not below.exists()
    giving_up.join()


def test_data_sets_of_a_folder_have_ledgers_of_their_own(tmp_path):
    for name in ("a", "b"):
        Ledger(tmp_path / name / "l.sqlite", "job").close()
    assert len([*tmp_path.glob("*/l.sqlite")]) == 2


@pytest.mark.parametrize("kind", ["junk", "other version"])
def test_a_foreign_file_is_refused(tmp_path, kind):
    path = tmp_path / "l.sqlite"
    if kind == "junk":
        path.write_bytes(b"no database" * 200)
    else:
        with sqlite3.connect(path) as db:
            db.execute("PRAGMA user_version = 99")
        db.close()
    with pytest.raises(OutputError) as caught:
        Ledger(path, "job")
    assert caught.value.code == "ledger-unreadable"


@pytest.mark.parametrize("first", [2, 3], ids=["its tables", "its rows"])
def test_a_damaged_ledger_is_refused(tmp_path, first):
    path = tmp_path / "l.sqlite"
    with Ledger(path, "job") as ledger:
        ledger.put(replace(DONE, message="x" * 100))
    content = bytearray(path.read_bytes())
    page_bytes = int.from_bytes(content[16:18])
    begin = (first - 1) * page_bytes
    content[begin:] = b"A" * (len(content) - begin)
    path.write_bytes(content)
    with pytest.raises(OutputError) as caught, Ledger(path, "job") as ledger:
        ledger.rows()
    assert caught.value.code == "ledger-unreadable"
    assert caught.value.hint


def test_a_row_that_is_no_json_is_refused(tmp_path):
    with Ledger(tmp_path / "l.sqlite", "job") as ledger:
        ledger.put(DONE)
        ledger._db.execute("UPDATE cases SET outputs = '['")
        with pytest.raises(OutputError) as caught:
            ledger.rows()
    assert caught.value.code == "ledger-unreadable"


def test_a_full_disk_has_its_code_whatever_is_written(tmp_path):
    ledger = Ledger(tmp_path / "l.sqlite", "job")
    ledger.put(DONE)
    (pages,) = ledger._db.execute("PRAGMA page_count").fetchone()
    ledger._db.execute(f"PRAGMA max_page_count = {pages}")  # as much as there is, and no more
    long = "x" * 100_000
    for write in (
        lambda: ledger.put(replace(DONE, case="b", message=long)),
        lambda: ledger.set_file_problems([FileProblem("f", "not-dicom", long)]),
    ):
        with pytest.raises(OutputError) as caught:
            write()
        assert caught.value.code == "disk-full"
        assert caught.value.hint
    assert ledger.rows() == {"a": DONE}
    ledger.close()


def test_a_place_that_takes_no_ledger_has_its_code(tmp_path):
    (tmp_path / "folder.sqlite").mkdir()
    with pytest.raises(OutputError) as caught:
        Ledger(tmp_path / "folder.sqlite", "job")
    assert caught.value.code == "not-writable"
    ledger = Ledger(tmp_path / "l.sqlite", "job")
    ledger._db.execute("PRAGMA query_only = ON")  # SQLite then says what it says of a read-only file
    with pytest.raises(OutputError) as caught:
        ledger.put(DONE)
    assert caught.value.code == "not-writable"
    ledger.close()
