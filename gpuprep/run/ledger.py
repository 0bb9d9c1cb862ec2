"""The ledger: one row a case, written by the driver process alone, in SQLite.

A case is complete when its row says ``done`` under the same key (series UIDs, files and configuration) and its files
are there with the recorded sizes. A killed run therefore loses at most the cases that were in flight.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, astuple, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from gpuprep.errors import CaseError, OutputError
from gpuprep.writers.atomic import make_folder
from gpuprep.writers.base import Output

#: What to do where no ledger can be.
_ELSEWHERE = "choose another output folder"
#: Longest wait for a ledger below to go that was made at the same time.
_YIELD_S = 0.5
#: Raised when the tables change; a ledger of another version is refused, never guessed at.
SCHEMA_VERSION = 2


@dataclass(frozen=True, slots=True)
class CaseRow:
    """What became of one case.

    `details` is JSON-ready: the `CaseRecord` of a case of studies, as far as it got; of a file that became a TIFF what
    its ImageDescription says.
    """

    case: str
    key: str
    config: str
    patient: str
    status: Literal["done", "failed"]
    code: str = ""
    stage: str = ""
    subject: str = ""
    message: str = ""
    hint: str = ""
    decoder: str = ""
    backend: str = ""
    input_bytes: int = 0
    seconds: float = 0.0
    timings: dict[str, float] = field(default_factory=dict)
    outputs: tuple[Output, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)

    def failed(self, error: CaseError) -> CaseRow:
        """Return the row of the same case, ended by `error`."""
        return replace(
            self,
            status="failed",
            code=error.code,
            stage=error.stage,
            subject=error.subject,
            message=error.message,
            hint=error.hint,
        )


@dataclass(frozen=True, slots=True)
class FileProblem:
    """An input file that could not be used."""

    path: str
    code: str
    detail: str


_JSON_COLUMNS = frozenset({"timings", "outputs", "details"})
_COLUMNS = tuple(f.name for f in fields(CaseRow))


class Ledger:
    """The table of cases and of unusable files of one output data set.

    Parameters
    ----------
    path : Path
        Made, with its folder, when missing.
    job : str
        The command that writes the data set. Two in one folder would take each other's files for their own, replaced
        or unfinished. So ledgers do not nest either: one is of all that a folder holds, or of one of its data sets.

    Raises
    ------
    OutputError
        ``ledger-unreadable``: the file is no ledger of this version; ``output-locked``: another run is using it;
        ``other-job``: it, or one above or below, is another command's; ``disk-full``; ``not-writable``.
    """

    def __init__(self, path: Path, job: str) -> None:
        self.path = path
        make_folder(path.parent)
        with self._refusing("open", "ledger-unreadable", _ELSEWHERE):
            self._db = sqlite3.connect(path, timeout=1.0, isolation_level=None)
        try:
            self._open(job)
        except OutputError:
            self.close()
            raise

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self, job: str) -> None:
        with self._refusing("open", "ledger-unreadable", _ELSEWHERE):
            self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._db.execute("PRAGMA synchronous = OFF")  # a new ledger holds nothing that is worth waiting for a disk
            self._db.execute("PRAGMA journal_mode = WAL")
            (version,) = self._db.execute("PRAGMA user_version").fetchone()
            if version == 0:
                columns = ", ".join(_quoted(c) for c in _COLUMNS)
                self._db.execute("BEGIN")
                self._db.execute(f"CREATE TABLE cases ({columns}, PRIMARY KEY ({_quoted('case')}))")
                self._db.execute("CREATE TABLE files (path PRIMARY KEY, code, detail)")
                self._db.execute("CREATE TABLE job (name)")
                self._db.execute("INSERT INTO job VALUES (?)", (job,))
                self._db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
                self._db.execute("COMMIT")
            elif version != SCHEMA_VERSION:
                raise OutputError(
                    f"the ledger has version {version}, this gpuprep writes version {SCHEMA_VERSION}",
                    code="ledger-unreadable",
                    subject=str(self.path),
                    hint="choose another output folder or name",
                )
            self._db.execute("PRAGMA synchronous = NORMAL")
            (found,) = self._db.execute("SELECT name FROM job").fetchone()
        other = f"gpuprep {found}" if found != job else self._find_other(is_new=version == 0)
        if other:
            self.close()
            if version == 0:
                self.path.unlink(missing_ok=True)
            raise OutputError(
                f"the folder holds what {other} has written",
                code="other-job",
                subject=str(self.path.parent.parent),
                hint="choose another output folder: each command has its own",
            )

    def _find_other(self, *, is_new: bool) -> str:
        """Return what names the ledger above or below, if there is one.

        It is looked for when this one is there, so that of two jobs which begin at the same time one sees the other:
        the one below gives up, and a new one above waits for that.
        """
        above = self.path.parent.parent / self.path.name
        if above.exists():
            return f"the job of {above}"
        end = time.monotonic() + (_YIELD_S if is_new else 0.0)
        while below := next(self.path.parent.glob(f"*/{self.path.name}"), None):
            if time.monotonic() >= end:
                return f"the job of {below}"
            time.sleep(_YIELD_S / 20)
        return ""

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def rows(self) -> dict[str, CaseRow]:
        """Return all rows by case, in the order of case names.

        Raises
        ------
        OutputError
            ``ledger-unreadable``: the file is damaged.
        """
        columns = ", ".join(_quoted(c) for c in _COLUMNS)
        with self._refusing("read", "ledger-unreadable", _ELSEWHERE):
            cursor = self._db.execute(f"SELECT {columns} FROM cases ORDER BY {_quoted('case')}")
            return {row[0]: _row(row) for row in cursor}

    def put(self, row: CaseRow) -> None:
        """Insert or replace the row of a case.

        Raises
        ------
        OutputError
            ``disk-full``, ``not-writable``, ``ledger-not-written``.
        """
        values = [json.dumps(v, sort_keys=True) if c in _JSON_COLUMNS else _plain(v) for c, v in asdict(row).items()]
        with self._writing():
            self._db.execute(f"INSERT OR REPLACE INTO cases VALUES ({', '.join('?' * len(values))})", values)

    def remove(self, cases: Iterable[str]) -> None:
        """Forget cases; errors as `put`."""
        with self._transaction():
            self._db.executemany(f"DELETE FROM cases WHERE {_quoted('case')} = ?", [(c,) for c in cases])

    def set_file_problems(self, problems: Iterable[FileProblem]) -> None:
        """Replace the list of unusable input files; errors as `put`."""
        with self._transaction():
            self._db.execute("DELETE FROM files")
            self._db.executemany(
                "INSERT OR REPLACE INTO files VALUES (?, ?, ?)", [tuple(map(_plain, astuple(p))) for p in problems]
            )

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._writing():
            self._db.execute("BEGIN")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:  # SQLite has rolled back by itself when the disk is full
                    self._db.execute("ROLLBACK")
                raise

    def _writing(self) -> AbstractContextManager[None]:
        hint = "look after the disk, and run again: finished cases are kept"
        return self._refusing("write", "ledger-not-written", hint)

    @contextmanager
    def _refusing(self, verb: str, code: str, hint: str) -> Iterator[None]:
        """Make an OutputError of what SQLite raises: with the code and hint of its kind, else with those given."""
        try:
            yield
        except (sqlite3.Error, json.JSONDecodeError) as error:
            kinds = {
                "locked": ("output-locked", "another gpuprep run writes there; wait for it"),
                "full": ("disk-full", "make room and run again: finished cases are kept"),
                "readonly": ("not-writable", _ELSEWHERE),
                "unable to open": ("not-writable", _ELSEWHERE),
            }
            code, hint = next((kinds[word] for word in kinds if word in str(error)), (code, hint))
            message = f"cannot {verb} the ledger: {error}"
            raise OutputError(message, code=code, subject=str(self.path), hint=hint) from error


def _plain(value: Any) -> Any:
    """Return a value with bytes of file names that are no UTF-8 written out, as JSON writes them."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


def _quoted(column: str) -> str:
    return f'"{column}"'


def _row(values: tuple[Any, ...]) -> CaseRow:
    known = dict(zip(_COLUMNS, values, strict=True))
    for column in _JSON_COLUMNS:
        known[column] = json.loads(known[column])
    known["outputs"] = tuple(Output(**o) for o in known["outputs"])
    return CaseRow(**known)
