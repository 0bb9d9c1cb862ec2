"""What is noticed about files, series and volumes and is no error."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """Something noteworthy that is no error: ``Finding("spacing-jitter", "…")``."""

    code: str
    message: str
