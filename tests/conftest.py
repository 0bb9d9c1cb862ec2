"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

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
