"""TIFF files below a folder."""

from __future__ import annotations

from pathlib import Path

from gpuprep.dicom.crawl import FoundFile, crawl
from gpuprep.errors import InputNotFoundError
from gpuprep.writers.tiff import TIFF_SUFFIXES


def find_tiffs(source: Path) -> list[FoundFile]:
    """Return the files that are called TIFF below a folder, or the one that is named.

    Raises
    ------
    InputNotFoundError
        ``path-missing``; ``no-tiff-found``.
    """
    found = [
        file for file in crawl([source]) if isinstance(file, FoundFile) and file.path.lower().endswith(TIFF_SUFFIXES)
    ]
    if not found:
        raise InputNotFoundError(
            "there is no TIFF", code="no-tiff-found", subject=str(source), hint="gpuprep tiff makes them of DICOM"
        )
    return found
