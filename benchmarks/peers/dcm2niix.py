"""dcm2niix with its fastest gzip, the internal one; several series by ``xargs -P2``, which is its fastest way."""

from __future__ import annotations

import shutil
import sysconfig
from collections.abc import Sequence
from pathlib import Path

from timing import Command


def find() -> str | None:
    """Return the command, which the ``bench`` extra brings, or None."""
    return shutil.which("dcm2niix", path=sysconfig.get_path("scripts")) or shutil.which("dcm2niix")


def convert(dcm2niix: str, folders: Sequence[Path], output: Path) -> Command:
    """Series → .nii.gz, without sidecars."""

    def prepare() -> None:
        shutil.rmtree(output, ignore_errors=True)
        output.mkdir(parents=True)

    one = [dcm2niix, "-z", "i", "-b", "n", "-o", str(output)]
    if len(folders) == 1:
        return Command([*one, str(folders[0])], prepare)
    listed = "\\0".join(map(str, folders))
    return Command(
        ["sh", "-c", f"printf '{listed}' | xargs -0 -P2 -I{{}} {' '.join(one)} -f %f_%p_%s_%j {{}}"], prepare
    )
