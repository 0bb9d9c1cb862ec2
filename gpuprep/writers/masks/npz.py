"""The palette as a compressed NumPy archive: ``codes``, ``table`` and the description; read by NumPy alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gpuprep.masks import RoiMask
from gpuprep.writers.atomic import replacing
from gpuprep.writers.masks.description import KEY, describe, reading, restore


def write(mask: RoiMask, path: Path) -> None:
    """Write a mask.

    Raises
    ------
    WriteError
        As `replacing`.
    """
    arrays = {"codes": mask.codes, "table": mask.table, KEY: np.array(describe(mask))}
    with replacing(path) as part, part.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


def read(path: Path) -> RoiMask:
    """Read a mask.

    Raises
    ------
    HeaderError
        As `reading`.
    """
    with reading(path), path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        return restore(archive["codes"], archive["table"], str(archive[KEY]))
