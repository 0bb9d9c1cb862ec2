"""med-imagetools 2.16, in an environment of its own, for its pins differ from ours.

``python -m venv peer && peer/bin/pip install med-imagetools==2.16.0``, then ``--imgtools peer/bin/imgtools``.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from timing import Command


def convert_to_nnunet(imgtools: str, study: Path, work: Path, options: Sequence[str]) -> Command:
    """CT + RTSTRUCT → an nnU-Net data set; every run crawls anew, as a first one does."""
    output, index = work / "imgtools", work / "imgtools-index"

    def prepare() -> None:
        for folder in (output, index):
            shutil.rmtree(folder, ignore_errors=True)
        output.mkdir(parents=True)

    command = [imgtools, "nnunet-pipeline", str(study), str(output), *options, "-j", "1"]
    return Command([*command, "--crawl-directory", str(index)], prepare)
