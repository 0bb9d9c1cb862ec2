"""Functional groups of multi-frame files (PS3.3 C.7.6.16), read natively: thousands of frames share most values."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, BinaryIO

import numpy as np

from gpuprep import hostlib
from gpuprep.dicom.datasets import pydicom_errors

SHARED, PER_FRAME = "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"
SHARED_TAG, PER_FRAME_TAG = 0x52009229, 0x52009230

#: What the host library tells first: how many rows and values follow.
_COUNTS = np.dtype((np.int64, 2))
#: How it describes a value: number of its column, VR (0 in implicit VR), bytes.
_VALUE = np.dtype([("column", np.int32), ("vr", np.int32), ("length", np.int64)])


@dataclass(frozen=True, slots=True)
class _Node:
    """An element that is wanted; of a sequence also those of its item, in the columns that follow up to `end`."""

    keyword: str
    column: int
    end: int
    elements: tuple[_Node, ...]


def read_groups(file: BinaryIO, paths: tuple[str, ...]) -> dict[str, Any] | None:
    """Read some elements of the functional groups of an open file, without building data sets.

    Parameters
    ----------
    file : binary stream
        It stays where it is.
    paths : tuple of str
        Keywords of functional group, sequences in it if any, and element, joined by dots.

    Returns
    -------
    dict or None
        What a pydicom data set gives for `SHARED` and `PER_FRAME` if that is all it has. Dicts stand for items, which
        frames share; of each sequence in a group they hold the first. None when the file is out of the ordinary or
        garbled, so that pydicom has to read it.
    """
    tree, sequences, tags = _plan(paths)
    library, _ = hostlib.load()
    out, out_size = ctypes.c_void_p(), ctypes.c_int64()
    outcome = library.gp_read_groups(
        ctypes.c_int(file.fileno()),
        ctypes.c_int64(os.fstat(file.fileno()).st_size),
        (ctypes.c_uint32 * len(tags))(*sequences),
        (ctypes.c_uint32 * len(tags))(*tags),
        ctypes.c_int64(len(tags)),
        ctypes.byref(out),
        ctypes.byref(out_size),
    )
    if outcome < 0:
        raise MemoryError(f"no memory to read the functional groups of {file.name}")
    try:
        answer = ctypes.string_at(out, out_size.value)
    finally:
        library.gp_release(out)
    if outcome:
        return None
    row_count, value_count = np.frombuffer(answer, _COUNTS, 1)[0].tolist()
    rows = np.frombuffer(answer, np.int32, row_count * len(tags), _COUNTS.itemsize).reshape(row_count, len(tags))
    described = np.frombuffer(answer, _VALUE, value_count, _COUNTS.itemsize + rows.nbytes)
    try:
        values = list(_convert(tags, described.tolist(), answer[_COUNTS.itemsize + rows.nbytes + described.nbytes :]))
    except pydicom_errors():
        return None
    known: dict[tuple[int, ...], Any] = {}
    shared, *frames = (_build(tree, row, values, known) for row in rows.tolist())
    return {SHARED: [shared], PER_FRAME: frames}


@cache
def _plan(paths: tuple[str, ...]) -> tuple[tuple[_Node, ...], tuple[int, ...], tuple[int, ...]]:
    """Return paths as a tree, and for each of its columns the tags of the sequence and of the element in it."""
    from pydicom.datadict import tag_for_keyword

    words: dict[str, Any] = {}
    for path in paths:
        branch = words
        for keyword in path.split("."):
            branch = branch.setdefault(keyword, {})
    sequences: list[int] = []
    tags: list[int] = []

    def grow(branch: Mapping[str, Any], sequence: int) -> Iterator[_Node]:
        for keyword, inner in branch.items():
            column, tag = len(tags), tag_for_keyword(keyword) or 0
            sequences.append(sequence)
            tags.append(tag)
            elements = tuple(grow(inner, tag))
            yield _Node(keyword, column, len(tags), elements)

    return tuple(grow(words, PER_FRAME_TAG)), tuple(sequences), tuple(tags)


def _convert(tags: Sequence[int], described: Sequence[tuple[int, int, int]], contents: bytes) -> Iterator[Any]:
    """Yield values as pydicom converts them; the first stands for a sequence.

    Raises
    ------
    ValueError
        A text has other characters than ASCII, so that the character set matters; or any of `pydicom_errors`.
    """
    from pydicom.dataelem import RawDataElement, convert_raw_data_element
    from pydicom.tag import BaseTag
    from pydicom.valuerep import STR_VR

    yield None
    place = 0
    for column, vr, length in described[1:]:
        raw = contents[place : place + length]
        place += length
        name = vr.to_bytes(2, "little").decode() if vr else None
        element = convert_raw_data_element(RawDataElement(BaseTag(tags[column]), name, length, raw, 0, not vr, True))
        if element.VR in STR_VR and (b"\x1b" in raw or not raw.isascii()):
            raise ValueError("a text in another character set")
        yield element.value


def _build(
    nodes: Sequence[_Node], row: Sequence[int], values: Sequence[Any], known: dict[tuple[int, ...], Any]
) -> dict[str, Any]:
    """Return the item that a row tells; sequences in it are taken from `known` where they occurred before."""
    item = {}
    for node in nodes:
        if row[node.column] < 0:
            continue
        if not node.elements:
            item[node.keyword] = values[row[node.column]]
            continue
        key = (node.column, *row[node.column + 1 : node.end])
        if key not in known:
            known[key] = [_build(node.elements, row, values, known)]
        item[node.keyword] = known[key]
    return item
