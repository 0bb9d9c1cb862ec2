from pathlib import Path

import pydicom
import pytest

from gpuprep.errors import OutputError, WriteError
from gpuprep.writers.atomic import LEDGER, PART_SUFFIX, SIDECARS, make_folder, remove_parts, replacing, write_text


def test_an_interrupted_write_keeps_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), replacing(path) as part:
        part.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_file_appears_when_it_is_whole(tmp_path):
    path = tmp_path / "deep" / "a.txt"
    with replacing(path) as part:
        part.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"


@pytest.mark.parametrize(("number", "code"), [(28, "disk-full"), (13, "not-writable"), (5, "write-failed")])
def test_what_the_system_refuses_has_a_code(tmp_path, number, code):
    with pytest.raises(WriteError) as caught, replacing(tmp_path / "a"):
        raise OSError(number, "no")
    assert caught.value.code == code


def test_a_refusal_has_its_code_in_whatever_a_library_puts_it(tmp_path):
    def write(file):
        raise OSError(28, "No space left on device")

    dataset = pydicom.Dataset()
    dataset.PatientID = "x"
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    with (
        pytest.raises(WriteError, match=r"a: cannot write: No space left on device \[disk-full\]$"),
        replacing(tmp_path / "a"),
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr("pydicom.filewriter.write_data_element", lambda *_: write(None))
        dataset.save_as(tmp_path / "x", implicit_vr=False, little_endian=True)


def test_files_and_folders_of_the_job_end_it(tmp_path):
    (tmp_path / "file").touch()
    for write in (lambda: make_folder(tmp_path / "file" / "x"), lambda: write_text(tmp_path / "file" / "x", "text")):
        with pytest.raises(OutputError) as caught:
            write()
        assert caught.value.code == "not-writable"


def test_what_a_killed_run_left_is_removed(tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / f".a.nii.gz.77{PART_SUFFIX}").write_text("half")
    (tmp_path / "x" / "a.nii.gz").write_text("whole")
    assert remove_parts(tmp_path) == 1
    assert [p.name for p in (tmp_path / "x").iterdir()] == ["a.nii.gz"]


@pytest.mark.parametrize("ledger", [LEDGER, f"Dataset001_x/{LEDGER}"])
def test_what_the_job_of_a_folder_below_has_not_finished_is_left_alone(tmp_path, ledger):
    ours, theirs = (folder / f".a.nii.gz.77{PART_SUFFIX}" for folder in (tmp_path / "x", tmp_path / "y" / "z"))
    places = [top / SIDECARS / ledger for top in (tmp_path, tmp_path / "y")]
    for path in (ours, theirs, *places):
        path.parent.mkdir(parents=True)
        path.touch()
    assert remove_parts(tmp_path) == 1
    assert not ours.exists() and theirs.exists()
    assert remove_parts(tmp_path / "y") == 1


def test_a_folder_takes_the_place_of_a_folder(tmp_path):
    path = tmp_path / "a.zarr"
    for text in ("old", "new"):
        with replacing(path) as part:
            part.mkdir()
            (part / text).write_text(text)
    assert [p.name for p in path.iterdir()] == ["new"]
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupted_folder_keeps_the_old_one(tmp_path):
    path = tmp_path / "a.zarr"
    path.mkdir()
    (path / "old").touch()
    with pytest.raises(RuntimeError), replacing(path) as part:
        part.mkdir()
        (part / "new").touch()
        raise RuntimeError
    assert [p.name for p in path.iterdir()] == ["old"]
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_get_its_name_leaves_the_old_one(tmp_path, monkeypatch):
    path, rename = tmp_path / "a.zarr", Path.replace
    path.mkdir()
    (path / "old").touch()

    def refuse(source, target):
        if (source / "new").exists():
            raise OSError(5, "no")
        return rename(source, target)

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(WriteError) as caught, replacing(path) as part:
        part.mkdir()
        (part / "new").touch()
    assert caught.value.code == "write-failed"
    assert [p.name for p in path.iterdir()] == ["old"]
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_run_left_of_a_folder_is_removed(tmp_path):
    part = tmp_path / f".a.zarr.77{PART_SUFFIX}"
    part.mkdir()
    (part / "half").touch()
    assert remove_parts(tmp_path) == 1 and not list(tmp_path.iterdir())
