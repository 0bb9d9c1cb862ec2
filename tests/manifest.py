"""The rows of manifest.csv: what an independent program decoded from each file of the test data."""

from __future__ import annotations

import csv
import gzip
import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

#: How the manifest writes the code point that stands for a backslash in two file names.
_UNPRINTABLE = ("?", "\uf05c")


@dataclass(frozen=True)
class Row:
    """A file and its decoded pixels."""

    path: str
    transfer_syntax_uid: str
    shape: tuple[int, ...]
    dtype: str
    minimum: float
    maximum: float
    sha256: str

    def matches(self, array: np.ndarray[Any, Any]) -> bool:
        """Whether `array` of shape (frames, …) holds the pixels of this row, in its byte order."""
        return array.size == np.prod(self.shape) and sha256(array.astype(self.dtype)) == self.sha256

    def open(self, data_dir: Path, scratch: Path) -> str:
        """Return the path of the file, unpacked if it is a gzip file."""
        path = data_dir / self.path.replace(*_UNPRINTABLE)
        if path.suffix != ".gz":
            return str(path)
        unpacked = scratch / path.stem
        unpacked.write_bytes(gzip.decompress(path.read_bytes()))
        return str(unpacked)


def sha256(array: np.ndarray[Any, Any]) -> str:
    return hashlib.sha256(array.tobytes()).hexdigest()


@cache
def read_manifest(data_dir: Path) -> tuple[Row, ...]:
    """Return the rows whose pixels are known."""
    with (data_dir / "manifest.csv").open(newline="", encoding="utf-8") as file:
        return tuple(
            Row(
                path=row["path"],
                transfer_syntax_uid=row["transfer_syntax"],
                shape=tuple(map(int, row["pixel_shape"].split("x"))),
                dtype=row["pixel_dtype"],
                minimum=float(row["pixel_min"]),
                maximum=float(row["pixel_max"]),
                sha256=row["pixel_sha256"],
            )
            for row in csv.DictReader(file)
            if row["pixel_sha256"]
        )
