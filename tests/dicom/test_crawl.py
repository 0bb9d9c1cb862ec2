import os
import socket
from pathlib import Path

import pytest

from gpuprep.dicom.crawl import PROGRESS_STEP, CrawlProblem, FoundFile, crawl
from gpuprep.errors import InputNotFoundError


def _touch(path, content=b"x"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def _paths(sources):
    return [item.path for item in crawl(sources) if isinstance(item, FoundFile)]


def test_every_regular_file_is_found_whatever_its_name(tmp_path):
    files = [_touch(tmp_path / name) for name in ("IM0001", "a.dcm", "b.DCM", "notes.txt", ".hidden", "sub/deep/x")]
    empty = _touch(tmp_path / "empty", b"")

    found = {item.path: item for item in crawl([tmp_path])}

    assert set(found) == {str(p) for p in (*files, empty)}
    status = (tmp_path / "a.dcm").stat()
    assert found[str(files[1])] == FoundFile(str(files[1]), status.st_size, status.st_mtime_ns, status.st_ino)
    assert found[str(empty)].size == 0


def test_order_is_by_name_and_stable(tmp_path):
    for name in ("b/2", "b/10", "a/1", "z", "c"):
        _touch(tmp_path / name)
    expected = [str(tmp_path / name) for name in ("c", "z", "a/1", "b/10", "b/2")]
    assert _paths([tmp_path]) == expected == _paths([tmp_path])


def test_sources_that_overlap_give_each_file_once(tmp_path):
    _touch(tmp_path / "a" / "1")
    _touch(tmp_path / "2")
    found = _paths([tmp_path / "a" / "1", tmp_path / "a", tmp_path, tmp_path / "2"])
    assert sorted(found) == [str(tmp_path / "2"), str(tmp_path / "a" / "1")]


def test_a_file_may_be_a_source(tmp_path):
    file = _touch(tmp_path / "a" / "1")
    _touch(tmp_path / "a" / "2")
    assert _paths([file, file]) == [str(file)]


def test_paths_are_absolute(tmp_path, monkeypatch):
    _touch(tmp_path / "a" / "1")
    monkeypatch.chdir(tmp_path)
    assert _paths([Path("a")]) == [str(tmp_path / "a" / "1")]


def test_links_are_followed_once_and_loops_end(tmp_path):
    inside = _touch(tmp_path / "in" / "real" / "1")
    outside = _touch(tmp_path / "out" / "2")
    far = _touch(tmp_path / "far" / "3")
    (tmp_path / "in" / "a_loop").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "b_same_folder").symlink_to(inside.parent)
    (tmp_path / "in" / "c_same_file").symlink_to(inside)
    (tmp_path / "in" / "d_outside").symlink_to(outside.parent)
    (tmp_path / "in" / "e_outside_again").symlink_to(outside.parent)
    (tmp_path / "in" / "f_file").symlink_to(far)
    (tmp_path / "in" / "g_file_again").symlink_to(far)
    (tmp_path / "out" / "back").symlink_to(tmp_path / "in")

    assert _paths([tmp_path / "in"]) == [
        str(inside),
        str(tmp_path / "in" / "d_outside" / "2"),
        str(tmp_path / "in" / "f_file"),
    ]


def test_a_link_to_a_file_whose_folder_is_crawled_later_is_no_second_file(tmp_path):
    real = _touch(tmp_path / "z" / "1")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "link").symlink_to(real)
    assert _paths([tmp_path / "a", tmp_path / "z"]) == [str(real)]


def test_broken_and_circular_links_are_problems(tmp_path):
    good = _touch(tmp_path / "good")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    (tmp_path / "self").symlink_to(tmp_path / "self")

    found = list(crawl([tmp_path]))

    assert found[0].path == str(good)
    assert [(p.path, p.code) for p in found[1:]] == [
        (str(tmp_path / "gone"), "broken-symlink"),
        (str(tmp_path / "self"), "broken-symlink"),
    ]


def test_an_unreadable_folder_is_a_problem_and_the_rest_is_found(tmp_path, monkeypatch):
    _touch(tmp_path / "locked" / "1")
    good = _touch(tmp_path / "open" / "2")
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)  # not chmod: the tests may run as root

    assert list(crawl([tmp_path])) == [
        CrawlProblem(str(tmp_path / "locked"), "unreadable-folder", "Permission denied"),
        FoundFile(str(good), 1, good.stat().st_mtime_ns, good.stat().st_ino),
    ]


def test_pipes_and_sockets_are_left_out(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as endpoint:
        endpoint.bind(str(tmp_path / "s"))
        assert list(crawl([tmp_path, tmp_path / "pipe"])) == []


def test_names_that_are_not_utf8_are_found(tmp_path):
    name = os.fsencode(tmp_path) + b"/\xe9t\xe9.dcm"
    _touch(Path(os.fsdecode(name)))
    assert [os.fsencode(p) for p in _paths([tmp_path])] == [name]


def test_a_missing_source_is_refused_at_once(tmp_path):
    with pytest.raises(InputNotFoundError) as caught:
        crawl([tmp_path, tmp_path / "nowhere"])
    assert caught.value.code == "path-missing"
    assert caught.value.subject == str(tmp_path / "nowhere")


def test_progress_counts_files(tmp_path):
    for i in range(PROGRESS_STEP + 3):
        _touch(tmp_path / str(i), b"")
    calls = []
    assert len(list(crawl([tmp_path], calls.append))) == PROGRESS_STEP + 3
    assert calls == [PROGRESS_STEP, PROGRESS_STEP + 3]


def test_the_crawl_is_lazy(tmp_path):
    for i in range(3):
        _touch(tmp_path / str(i) / "file")
    found = crawl([tmp_path])
    next(found)
    (tmp_path / "2" / "file").unlink()
    assert len(list(found)) == 1
