"""Which patients go where: whole patients, by a keyed hash, whatever the order of the input."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

#: Shares of patients are decimal fractions; what is counted by them may be off by this.
SHARE_TOLERANCE = 1e-9


def draw_order(patients: Iterable[str], seed: int) -> list[str]:
    """Return the distinct patients in an order that depends on them and the seed alone."""
    return sorted(set(patients), key=lambda p: (_draw(p, seed), p))


def _draw(patient: str, seed: int) -> str:
    return hashlib.blake2b(f"{seed}/{patient}".encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
