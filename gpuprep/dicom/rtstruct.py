"""RTSTRUCT files → ROIs with their contours, in patient coordinates; no voxels.

The host library finds names, contours and codes and parses the numbers; pydicom finds them in the files that it
declines.
"""

from __future__ import annotations

import ctypes
import os
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuprep import hostlib
from gpuprep.dicom.datasets import (
    PREFIX_END,
    begins_like_dicom,
    describe_failure,
    find_truncation,
    parse_file,
    pydicom_errors,
    quiet_pydicom,
    raw_text,
)
from gpuprep.dicom.header import RTSTRUCT_UID, decode_text, parse_int
from gpuprep.errors import COPY_AGAIN, HeaderError, RoiError
from gpuprep.masks import Code, Roi

#: Contour Geometric Type (3006,0042) that encloses an area → whether it says itself that contours are to be XORed.
AREA_TYPES = {"CLOSED_PLANAR": False, "CLOSEDPLANAR_XOR": True}
#: Number of a ROI whose own cannot be read; no contours can be tied to it.
NO_ROI_NUMBER = -1


@dataclass(frozen=True, slots=True, eq=False)
class Contour:
    """One contour of a ROI.

    Parameters
    ----------
    geometric_type : str
        Contour Geometric Type (3006,0042), as the file says it: ``CLOSED_PLANAR``, ``POINT`` …
    points_lps_mm : ndarray of shape (n, 3), float64
        Its points (x, y, z), LPS mm; a read-only view into the points of the whole file.
    """

    geometric_type: str
    points_lps_mm: NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class RoiContours:
    """A ROI and the contours tied to it by ROI Number.

    Parameters
    ----------
    roi : Roi
        Number, name, colour, and the codes of its first observation that has any (PS3.3 C.8.8.8): Segmented Property
        Category, RT ROI Identification as type, Anatomic Region. The number is NO_ROI_NUMBER when it cannot be read.
    contours : tuple of Contour
        In the order of the file; empty when the file has none for this ROI.
    problems : tuple of RoiError
        What keeps this ROI from being whole: ``contour-data-invalid`` (a contour's numbers are garbled, not three a
        point, or not as many as stated; that contour is left out), ``roi-number-missing``, ``roi-number-repeated`` (two
        ROIs of one number: their contours cannot be told apart and are left out), ``roi-in-other-frame`` (see
        `StructureSet.in_frame`).
    frame_of_reference_uid : str
        The one that it says its contours are in; empty when it says none.
    """

    roi: Roi
    contours: tuple[Contour, ...] = ()
    problems: tuple[RoiError, ...] = ()
    frame_of_reference_uid: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class StructureSet:
    """What an RTSTRUCT holds.

    Parameters
    ----------
    sop_instance_uid, label, frame_of_reference_uid : str
        Its own UID, Structure Set Label, and the frame of reference that its points are in (of the first ROI that names
        one, else of the first item of the Referenced Frame of Reference Sequence).
    rois : tuple of RoiContours
        In the order of the Structure Set ROI Sequence, ROIs of equal names and without contours included.
    problems : tuple of RoiError
        What belongs to none of the `rois`: ``contours-without-roi`` (contours for a ROI Number that no ROI has).
    """

    sop_instance_uid: str
    label: str
    frame_of_reference_uid: str
    rois: tuple[RoiContours, ...]
    problems: tuple[RoiError, ...] = ()

    def in_frame(self, frame_of_reference_uid: str) -> StructureSet:
        """Return what of it is in the frame of reference of an image: ROIs of another one lose their contours.

        If that is unknown, or no ROI says that it is in it, all stay: linking has found that they belong to the image.
        """
        stated = {item.frame_of_reference_uid for item in self.rois} - {""}
        if frame_of_reference_uid not in stated:
            return self
        return replace(self, rois=tuple(_keep_frame(item, frame_of_reference_uid) for item in self.rois))


def _keep_frame(item: RoiContours, frame_of_reference_uid: str) -> RoiContours:
    if item.frame_of_reference_uid in ("", frame_of_reference_uid) or not item.contours:
        return item
    message = (
        f"{len(item.contours)} contours of ROI number {item.roi.number} are in frame of reference "
        f"{item.frame_of_reference_uid}, the image is in {frame_of_reference_uid}; left out"
    )
    problem = RoiError(message, code="roi-in-other-frame", hint="register the images first")
    return replace(item, contours=(), problems=(*item.problems, problem))


def read_structure_set(path: str) -> StructureSet:
    """Read an RTSTRUCT.

    Parameters
    ----------
    path : str
        The file; any transfer syntax.

    Returns
    -------
    StructureSet
        Every ROI, each with the contours that can be used and the problems of those that cannot.

    Raises
    ------
    HeaderError
        ``unreadable``: the file cannot be read. ``not-rtstruct``: it is no DICOM file of SOP class RT Structure Set
        Storage. ``header-truncated``: it ends before its last element does. ``header-unreadable``: it is damaged.
    """
    try:
        data = np.fromfile(path, np.uint8)
        tokens = _tokenise(data) or _tokenise_by_pydicom(path)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else "it cannot be read"
        raise HeaderError(reason, code="unreadable", subject=path) from error
    if tokens.sop_class_uid != RTSTRUCT_UID:
        raise HeaderError(
            f"expected an RTSTRUCT, found SOP class {tokens.sop_class_uid or 'none'}", code="not-rtstruct", subject=path
        )
    return _assemble(tokens, path)


@dataclass(slots=True)
class _ContourToken:
    geometric_type: str
    point_count: str
    offset: int
    length: int


@dataclass(slots=True)
class _Tokens:
    """Raw texts of a structure set, one character a byte, and where its contour data is in `data`."""

    data: NDArray[np.uint8]
    sop_class_uid: str = ""
    sop_instance_uid: str = ""
    character_set: str = ""
    label: str = ""
    frame_of_reference_uid: str = ""
    rois: list[tuple[str, str, str]] = field(default_factory=list)  # number, name, frame of reference
    items: list[tuple[str, str, list[_ContourToken]]] = field(default_factory=list)  # ROI number, colour, contours
    observations: list[tuple[str, list[list[str]]]] = field(default_factory=list)  # ROI number, codes


def _assemble(tokens: _Tokens, path: str) -> StructureSet:
    contours = [contour for _, _, item in tokens.items for contour in item]
    points = iter(_parse_points(tokens.data, contours))
    numbers = [parse_int(number) for number, _, _ in tokens.rois]
    repeated = {number for number, count in Counter(numbers).items() if count > 1}

    colours: dict[int | None, str] = {}
    found: dict[int | None, list[Contour]] = {number: [] for number in numbers}
    faults: dict[int | None, list[RoiError]] = {number: [] for number in numbers}
    orphans = []
    for text, colour, item in tokens.items:
        number = parse_int(text)
        item_points = [next(points) for _ in item]
        if number is None or number not in found:
            orphans.append(_problem(f"{len(item)} contours for ROI number {text!r}", "contours-without-roi", path))
            continue
        colours[number] = colour
        for i, (token, array) in enumerate(zip(item, item_points, strict=True)):
            if isinstance(array, str):
                message = f"contour {i} of ROI number {number}: {array}"
                faults[number].append(_problem(message, "contour-data-invalid", path))
            else:
                found[number].append(Contour(token.geometric_type, array))

    codes: dict[int | None, dict[str, Any]] = {}
    for text, listed in tokens.observations:
        if coded := _parse_codes(listed, tokens.character_set):
            codes.setdefault(parse_int(text), coded)

    rois = []
    for number, (text, name, frame) in zip(numbers, tokens.rois, strict=True):
        roi_name = decode_text(name, tokens.character_set)
        if number is None:
            problem = _problem(f"ROI number {text!r} of ROI {roi_name!r} is no number", "roi-number-missing", path)
            rois.append(RoiContours(Roi(NO_ROI_NUMBER, roi_name), (), (problem,)))
        elif number in repeated:
            problem = _problem(f"more than one ROI has the number {number}", "roi-number-repeated", path)
            rois.append(RoiContours(Roi(number, roi_name), (), (problem,)))
        else:
            roi = Roi(number, roi_name, _parse_colour(colours.get(number, "")), **codes.get(number, {}))
            rois.append(RoiContours(roi, tuple(found[number]), tuple(faults[number]), frame))
    return StructureSet(
        sop_instance_uid=tokens.sop_instance_uid,
        label=decode_text(tokens.label, tokens.character_set),
        frame_of_reference_uid=next((uid for _, _, uid in tokens.rois if uid), tokens.frame_of_reference_uid),
        rois=tuple(rois),
        problems=tuple(orphans),
    )


def _problem(message: str, code: str, path: str) -> RoiError:
    return RoiError(message, code=code, subject=path)


def _parse_colour(text: str) -> tuple[int, int, int] | None:
    """Return ROI Display Color (3006,002A) as three numbers from 0 to 255, or None when it is anything else."""
    parts = [parse_int(part) for part in text.split("\\")]
    match [part for part in parts if part is not None and 0 <= part <= 255]:
        case [red, green, blue] if len(parts) == 3:
            return red, green, blue
    return None


def _parse_codes(listed: list[list[str]], character_set: str) -> dict[str, Any]:
    """Return the codes of an observation by their fields in `Roi`; of several regions, the first.

    Each of `listed` is a field, and scheme, value and meaning; modifiers follow what they modify.
    """
    found: dict[str, Any] = {}
    is_kept = False
    for place, *texts in listed:
        scheme, value, meaning = (decode_text(text, character_set) for text in texts)
        code = Code(scheme, value, meaning)
        if not place.endswith("_modifiers"):
            is_kept = value != "" and place not in found
            if is_kept:
                found[place] = code
        elif is_kept and value:
            found[place] = (*found.get(place, ()), code)
    return found


def _parse_points(data: NDArray[np.uint8], contours: list[_ContourToken]) -> list[NDArray[np.float64] | str]:
    """Return the points of each contour, shape (n, 3), or what is wrong with them."""
    offsets = np.array([contour.offset for contour in contours], np.int64)
    lengths = np.array([contour.length for contour in contours], np.int64)
    numbers = np.empty(int(np.sum((lengths + 1) // 2)), np.float64)
    counts = np.empty(len(contours), np.int64)
    library, _ = hostlib.load()
    failed = library.gp_parse_decimals(
        data.ctypes.data_as(ctypes.c_void_p),
        ctypes.c_int64(data.size),
        offsets.ctypes.data_as(ctypes.c_void_p),
        lengths.ctypes.data_as(ctypes.c_void_p),
        ctypes.c_int64(len(contours)),
        numbers.ctypes.data_as(ctypes.c_void_p),
        counts.ctypes.data_as(ctypes.c_void_p),
    )
    if failed:
        raise AssertionError("contour data outside the file")
    numbers.flags.writeable = False
    results: list[NDArray[np.float64] | str] = []
    begin = 0
    for contour, count in zip(contours, counts.tolist(), strict=True):
        stated = parse_int(contour.point_count) if contour.point_count else count // 3
        if count < 0:
            results.append("its data is not a list of numbers")
        elif count % 3:
            results.append(f"{count} numbers are not three a point")
        elif count // 3 != stated:
            results.append(f"{contour.point_count} points stated, {count // 3} found")
        else:
            results.append(numbers[begin : begin + count].reshape(-1, 3))
        begin += max(count, 0)
    return results


# --- The native reader ---------------------------------------------------------------------------------------------


def _tokenise(data: NDArray[np.uint8]) -> _Tokens | None:
    """Return the tokens that the host library finds, or None when it declines the file."""
    library, _ = hostlib.load()
    out, out_size = ctypes.c_void_p(), ctypes.c_int64()
    outcome = library.gp_read_rtstruct(
        data.ctypes.data_as(ctypes.c_void_p), ctypes.c_int64(data.size), ctypes.byref(out), ctypes.byref(out_size)
    )
    if outcome < 0:
        raise MemoryError(f"no memory to read a structure set of {data.size} bytes")
    try:
        text = ctypes.string_at(out, out_size.value).decode("latin-1")
    finally:
        library.gp_release(out)
    if outcome:
        return None
    tokens = _Tokens(data)
    for record in text.split("\x1e")[:-1]:
        kind, *texts = record.split("\x1f")
        if kind == "C":
            tokens.items[-1][2].append(_ContourToken(texts[0], texts[1], int(texts[2]), int(texts[3])))
        elif kind == "I":
            tokens.items.append((texts[0], texts[1], []))
        elif kind == "R":
            tokens.rois.append((texts[0], texts[1], texts[2]))
        elif kind == "O":
            tokens.observations.append((texts[0], []))
        elif kind == "K":
            tokens.observations[-1][1].append(texts)
        else:
            tokens.sop_class_uid, tokens.sop_instance_uid, tokens.character_set = texts[:3]
            tokens.label, tokens.frame_of_reference_uid = texts[3:]
    return tokens


# --- The reader for everything else ----------------------------------------------------------------------------------


def _tokenise_by_pydicom(path: str) -> _Tokens:
    size = Path(path).stat().st_size
    with Path(path).open("rb") as stream, quiet_pydicom():
        if not begins_like_dicom(stream.read(PREFIX_END), size):
            return _Tokens(np.empty(0, np.uint8))
        try:
            parsed = parse_file(stream, size)
            if cut := find_truncation(parsed):  # what is left would be read as ROIs with fewer contours, or none
                raise HeaderError(cut, code="header-truncated", subject=path, hint=COPY_AGAIN)
            return _collect_tokens(parsed.dataset)
        except pydicom_errors() as error:
            code, message = describe_failure(error, stream)
            raise HeaderError(message, code=code, subject=path, hint=COPY_AGAIN) from error


def _collect_tokens(dataset: Any) -> _Tokens:
    tokens = _Tokens(np.empty(0, np.uint8))
    tokens.sop_class_uid = _text(dataset, 0x00080016)
    if tokens.sop_class_uid != RTSTRUCT_UID:
        return tokens
    tokens.sop_instance_uid = _text(dataset, 0x00080018)
    tokens.character_set = _text(dataset, 0x00080005)
    tokens.label = _text(dataset, 0x30060002)
    frames = (_text(item, 0x00200052) for item in _items(dataset, 0x30060010))
    tokens.frame_of_reference_uid = next(filter(None, frames), "")
    tokens.rois = [
        (_text(item, 0x30060022), _text(item, 0x30060026), _text(item, 0x30060024))
        for item in _items(dataset, 0x30060020)
    ]
    chunks, offset = [], 0
    for item in _items(dataset, 0x30060039):
        contours = []
        for contour in _items(item, 0x30060040):
            data = getattr(contour.get_item(0x30060050), "value", None) or b""
            contours.append(_ContourToken(_text(contour, 0x30060042), _text(contour, 0x30060046), offset, len(data)))
            chunks.append(data)
            offset += len(data)
        tokens.items.append((_text(item, 0x30060084), _text(item, 0x3006002A), contours))
    tokens.data = np.frombuffer(b"".join(chunks), np.uint8)
    tokens.observations = [(_text(item, 0x30060084), _list_codes(item)) for item in _items(dataset, 0x30060080)]
    return tokens


def _list_codes(observation: Any) -> list[list[str]]:
    """Return field, scheme, value and meaning of each code of an observation."""
    listed = [["category", *_code_texts(code)] for code in _items(observation, 0x00620003)]
    for field_name, tag, modifier_tag in (("type", 0x30060086, 0x00620011), ("region", 0x00082218, 0x00082220)):
        for code in _items(observation, tag):
            listed.append([field_name, *_code_texts(code)])
            listed += [[f"{field_name}_modifiers", *_code_texts(of)] for of in _items(code, modifier_tag)]
    return listed


def _code_texts(code: Any) -> tuple[str, str, str]:
    """Return scheme, value and meaning; the value has three places, by length and kind (PS3.3 8.1)."""
    value = next(filter(None, (_text(code, tag) for tag in (0x00080100, 0x00080119, 0x00080120))), "")
    return _text(code, 0x00080102), value, _text(code, 0x00080104)


def _text(dataset: Any, tag: int) -> str:
    return raw_text(dataset.get_item(tag), "LO")


def _items(dataset: Any, tag: int) -> Any:
    """Return the items of a sequence; none when it is absent or no sequence."""
    return dataset[tag].value or () if tag in dataset and dataset[tag].VR == "SQ" else ()
