"""Fixtures shared by all tests."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

#: Child processes import the installed package, as the tests do, never the source tree that happens to be the folder.
os.environ["PYTHONSAFEPATH"] = "1"

DATA_VARIABLE = "GPUPREP_TEST_DATA"
DATA_BESIDE_REPOSITORY = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of real test series; tests that need it are skipped where there is none."""
    named = os.environ.get(DATA_VARIABLE)
    folder = Path(named) if named else DATA_BESIDE_REPOSITORY
    if not folder.is_dir():
        pytest.skip(f"no test data: set {DATA_VARIABLE} or put it in {DATA_BESIDE_REPOSITORY}")
    return folder


@dataclass(frozen=True)
class CommandResult:
    status: int
    stdout: str
    stderr: str


@pytest.fixture(scope="session")
def gpuprep() -> Callable[..., CommandResult]:
    """Run the command line in a process of its own and return its exit status and what it printed."""

    def run(*arguments: object) -> CommandResult:
        command = [sys.executable, "-m", "gpuprep", *map(str, arguments)]
        done = subprocess.run(
            command, capture_output=True, encoding="utf-8", errors="surrogateescape", check=False, timeout=120
        )
        return CommandResult(done.returncode, done.stdout, done.stderr)

    return run
