"""What a layout owes the pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from gpuprep.masks import RoiMask
from gpuprep.volume import Volume
from gpuprep.writers.record import CaseRecord


@dataclass(frozen=True, slots=True)
class Output:
    """A file, or a folder that is one thing, that was written.

    Parameters
    ----------
    path : str
        Relative to the output folder, with ``/``.
    size : int
        Bytes on disk.
    crc32 : int
        Of its uncompressed content, as in the gzip trailer; 0 for files that are not compressed.
    content : dict
        What is in it, JSON-ready, for layouts that keep an index of their files.
    """

    path: str
    size: int
    crc32: int
    content: dict[str, Any] = field(default_factory=dict)


class CaseWriter(Protocol):
    """Where a case's volumes go; picklable, for it travels to workers.

    Each method returns the files that it completed; what it leaves unfinished, for the next call to complete, is named
    so that `remove_parts` finds it. The mask is written before the images.
    """

    @property
    def config(self) -> str:
        """What of the writer's own options changes its files; part of the key under which a case counts as done."""

    def write_image(self, case: str, channel: int, volume: Volume) -> Sequence[Output]:
        """Write one channel of a case.

        Raises
        ------
        WriteError
        """

    def write_mask(self, case: str, mask: RoiMask, record: CaseRecord) -> Sequence[Output]:
        """Write the labels of a case, which are the ROIs of `mask`; add what was noticed to `record`.

        Raises
        ------
        OverlapError
            ``labels-overlap``: labels share voxels and the layout cannot hold that.
        WriteError
        """

    def discard(self, case: str) -> None:
        """Remove whatever of the case was written."""
