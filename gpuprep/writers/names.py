"""Names on disk: nothing from DICOM reaches a path unfiltered."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable

#: Longest name that `safe_name` returns; leaves room for suffixes below the 255 bytes of common file systems.
MAX_NAME = 80

NIFTI_SUFFIXES = (".nii.gz", ".nii")

#: Unicode categories that tell texts apart for who reads them: letters, marks on them, numbers.
_LEGIBLE = "LMN"
_RESERVED = frozenset({"con", "prn", "aux", "nul", *(f"com{i}" for i in range(10)), *(f"lpt{i}" for i in range(10))})


def safe_name(text: str, fallback: str = "unnamed") -> str:
    """Reduce a text to letters, digits, ``-`` and ``_``, at most `MAX_NAME` long, never empty or hidden.

    Letters lose their accents, however these are written; runs of other characters become one ``_``. A text that had
    to be cut, that lost letters or digits of another alphabet, or that Windows reserves gets a digest of the whole, so
    that it has one name in all cases and others have another. Other collisions are for the caller: two different texts
    may give the same name.
    """
    text = unicodedata.normalize("NFKD", text)
    plain = "".join(c for c in text if not unicodedata.combining(c))
    name = re.sub(r"[^A-Za-z0-9_-]+", "_", plain.strip()).strip("_-")
    if not name:
        name = fallback
    lost = any(unicodedata.category(c)[0] in _LEGIBLE for c in plain if not c.isascii())
    if lost or len(name) > MAX_NAME or name.lower() in _RESERVED:
        name = f"{name[: MAX_NAME - 9]}_{text_digest(text)}"
    return name


def unique_names(names: Iterable[str]) -> list[str]:
    """Return the names with ``_2``, ``_3``, … where one has been before, also where case does not count."""
    unique: list[str] = []
    taken: set[str] = set()
    for base in names:
        name, n = base, 1
        while name.lower() in taken:
            n += 1
            name = f"{base}_{n}"
        taken.add(name.lower())
        unique.append(name)
    return unique


def text_digest(text: str) -> str:
    """Return 8 hex digits of a text."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=4).hexdigest()


def is_nifti_name(name: str) -> bool:
    """Return whether a file is NIfTI by its name, and not hidden, as what macOS leaves beside each file."""
    return name.endswith(NIFTI_SUFFIXES) and not name.startswith(".")


def nifti_stem(name: str) -> str:
    """Return a name without ``.nii.gz`` or ``.nii``."""
    return next((name.removesuffix(suffix) for suffix in NIFTI_SUFFIXES if name.endswith(suffix)), name)
