"""The NIfTI job: every image volume of the sources becomes one file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpuprep.config import OnExisting
from gpuprep.errors import WriteError
from gpuprep.masks import RoiMask
from gpuprep.run.case import CaseOptions
from gpuprep.run.job import OnRow, OnStart, run_cases, share_cores
from gpuprep.run.ledger import CaseRow, FileProblem, Ledger
from gpuprep.run.plan import plan_image_cases
from gpuprep.run.sources import Sources
from gpuprep.volume import Volume
from gpuprep.writers.base import Output
from gpuprep.writers.nifti import IMAGE_LEVEL, write_nifti


@dataclass(frozen=True, slots=True)
class NiftiWriter:
    """Writes ``<case>.nii.gz`` into one folder."""

    root: Path
    suffix: str
    threads: int

    @property
    def config(self) -> str:
        """The suffix."""
        return self.suffix

    def write_image(self, case: str, channel: int, volume: Volume) -> tuple[Output]:
        """Write the only channel."""
        path = self._path(case)
        array, geometry = volume.array, volume.geometry
        return (write_nifti(path, array, geometry, level=IMAGE_LEVEL, threads=self.threads, root=self.root),)

    def write_mask(self, case: str, mask: RoiMask, record: dict[str, Any]) -> tuple[Output]:
        """Refuse: this layout holds images."""
        raise WriteError("this layout holds images only", code="no-masks", subject=case)

    def discard(self, case: str) -> None:
        """Remove the file of a case."""
        self._path(case).unlink(missing_ok=True)

    def _path(self, case: str) -> Path:
        return self.root / f"{case}{self.suffix}"


def convert_to_nifti(
    sources: Sources,
    root: Path,
    *,
    modalities: Sequence[str],
    case_options: CaseOptions,
    suffix: str,
    on_existing: OnExisting,
    backend: str,
    workers: int | None,
    on_start: OnStart,
    on_row: OnRow,
) -> tuple[tuple[CaseRow, ...], tuple[FileProblem, ...]]:
    """Convert all image volumes of the given modalities, resuming what an earlier run left; return rows and problems.

    Raises
    ------
    OutputError
        ``exists``, ``output-locked``.
    """
    plans = plan_image_cases(sources.series, modalities, case_options.stacking)
    ledger = Ledger(root / "gpuprep" / "ledger.sqlite")
    try:
        ledger.set_file_problems(sources.problems)
        processes, threads = share_cores(workers, len(plans))
        run_cases(
            plans,
            options=case_options,
            writer=NiftiWriter(root, suffix, threads),
            root=root,
            own_folders=(root,),
            ledger=ledger,
            on_existing=on_existing,
            backend=backend,
            workers=processes,
            threads=threads,
            on_start=on_start,
            on_row=on_row,
        )
        rows = ledger.rows()
    finally:
        ledger.close()
    planned = {p.case for p in plans}
    return tuple(row for case, row in rows.items() if case in planned), sources.problems
