"""What becomes of cases that are no longer given, and of files whose case moves to another split."""

from dataclasses import replace

import pytest

from gpuprep.errors import OutputError
from gpuprep.run.labelled import forget, move_outputs, refuse_mixed_options, split_vanished
from gpuprep.run.ledger import CaseRow, Ledger
from gpuprep.writers.base import Output


def write_case(root, case, *names):
    """Return the row of a finished case, whose files are there."""
    outputs = []
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
        outputs.append(Output(name, len(name), 0))
    return CaseRow(case, "key", "config", case, "done", outputs=tuple(outputs))


def test_cases_that_are_not_given_stay_while_their_files_do(tmp_path):
    there = write_case(tmp_path, "there", "a", "b")
    deleted = replace(there, case="deleted", outputs=(Output("c", 1, 0),))
    failed = replace(there, case="failed", status="failed")
    rows = {row.case: row for row in (there, deleted, failed)}
    kept, vanished = split_vanished(rows, [], tmp_path)
    assert (kept, vanished) == ({"there": there}, [deleted, failed])
    assert split_vanished(rows, vanished, tmp_path) == (rows, [])  # planned now
    (tmp_path / "a").unlink()
    with pytest.raises(OutputError) as caught:
        split_vanished(rows, [], tmp_path)
    assert caught.value.code == "outputs-missing"
    assert "such as b" in caught.value.hint

    ledger = Ledger(tmp_path / "ledger.sqlite", "nnunet")
    for row in rows.values():
        ledger.put(row)
    discarded = []
    forget(ledger, [there], tmp_path, discarded.append)
    assert (discarded, (tmp_path / "b").exists()) == (["there"], False)
    assert set(ledger.rows()) == {"deleted", "failed"}


def test_only_finished_cases_that_are_not_given_have_to_have_the_same_options(tmp_path):
    row = write_case(tmp_path, "one", "a")
    refuse_mixed_options({"one": row}, [], "config")
    refuse_mixed_options({"one": row}, [row], "other")
    refuse_mixed_options({"one": replace(row, status="failed")}, [], "other")
    with pytest.raises(OutputError) as caught:
        refuse_mixed_options({"one": row}, [], "other")
    assert caught.value.code == "options-changed"


def test_files_move_with_their_case_but_not_what_a_failed_case_left(tmp_path):
    ledger = Ledger(tmp_path / "ledger.sqlite", "nnunet")
    moves, stays = write_case(tmp_path, "moves", "train/a", "train/b"), write_case(tmp_path, "stays", "train/c")
    failed = replace(write_case(tmp_path, "failed", "train/d"), status="failed")
    for row in (moves, stays, failed):
        ledger.put(row)
    split = {"moves": "test", "stays": "train"}
    for _ in range(2):
        move_outputs(ledger, tmp_path, lambda case, path: path.replace("train", split[case]))
        files = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.glob("t*/*"))
        assert files == ["test/a", "test/b", "train/c", "train/d"]
    moved = replace(moves, outputs=(Output("test/a", 7, 0), Output("test/b", 7, 0)))
    assert ledger.rows() == {"failed": failed, "moves": moved, "stays": stays}
