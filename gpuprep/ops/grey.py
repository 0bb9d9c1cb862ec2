"""Stored values to grey levels, through tables: modality LUT, VOI LUT or window, MONOCHROME1, padding (PS3.3 C.11).

A table holds the grey level of every value that the stored bits can have; one is made for each distinct set of
`GreyRule`s, in float64, and a kernel looks the pixels up. So 16 bits stay 16 bits, and both backends agree to the bit.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from gpuprep.backends.base import TYPE_SUFFIX, Backend, lane_dims, ready
from gpuprep.dicom.display import Lut
from gpuprep.errors import DecodeError
from gpuprep.ops.intensity import stored_range

Float = NDArray[np.float64]
Ends = NDArray[np.int64]

#: ``LOWEST_IS_BLACK`` is LINEAR with the value ``centre - (width - 1) / 2`` still black, which makes the least value
#: black and the greatest white when the window spans them.
WindowFunction = Literal["LINEAR", "LINEAR_EXACT", "SIGMOID", "LOWEST_IS_BLACK"]

_TABLE_BITS = 16  # wider values have no table


@dataclass(frozen=True, slots=True)
class GreyWindow:
    """A VOI window, in modality units (PS3.3 C.11.2.1.2)."""

    centre: float
    width: float
    function: WindowFunction = "LINEAR"

    def apply(self, values: Float, white: int) -> Float:
        """Return grey levels from 0 to `white`, truncated to whole numbers."""
        centre, width = self.centre, self.width
        if self.function == "SIGMOID":
            exponent = np.clip(-4 * (values - centre) / width, -700, 700)
            return np.floor(white / (1 + np.exp(exponent)))
        if self.function == "LINEAR_EXACT":
            low, high, span, middle = centre - width / 2, centre + width / 2, width, centre
        else:
            width = max(width, 1.0)
            middle, span = centre - 0.5, max(width - 1, np.finfo(float).tiny)
            low, high = middle - (width - 1) / 2, middle + (width - 1) / 2
            if self.function == "LOWEST_IS_BLACK":
                low = centre - (width - 1) / 2
        with np.errstate(over="ignore"):
            inside = np.floor(((values - middle) / span + 0.5) * white)
        return np.where(values <= low, 0.0, np.where(values >= high, white, inside))


@dataclass(frozen=True, slots=True)
class GreyRule:
    """What the header says of the grey levels of a frame.

    Parameters
    ----------
    slope, intercept : float
        Rescale; not used when there is a `modality_lut`.
    modality_lut : Lut or None
    voi : Lut, GreyWindow or None
        None stretches from the least to the greatest value of the whole image.
    is_inverted : bool
        MONOCHROME1: the least value is white.
    padding : (int, int) or None
        Stored values that are no picture, least and greatest; they become black.
    """

    slope: float = 1.0
    intercept: float = 0.0
    modality_lut: Lut | None = None
    voi: Lut | GreyWindow | None = None
    is_inverted: bool = False
    padding: tuple[int, int] | None = None

    @property
    def is_whole(self) -> bool:
        """Whether whole stored values have whole modality values."""
        return self.modality_lut is not None or (self.slope % 1 == 0 and self.intercept % 1 == 0)

    def to_modality(self, stored: Float) -> Float:
        """Return modality values."""
        if self.modality_lut is not None:
            return self.modality_lut.apply(stored)
        return stored * self.slope + self.intercept

    def is_padding(self, stored: Float) -> NDArray[np.bool_]:
        """Return which stored values are padding."""
        low, high = self.padding or (1, 0)
        return (stored >= low) & (stored <= high)

    def without_nan(self, stored: Float) -> Float:
        """Return stored values with padding, or else 0, for NaN."""
        return np.where(np.isnan(stored), self.padding[0] if self.padding else 0, stored)

    def to_grey(self, stored: Float, white: int) -> Float:
        """Return grey levels; `voi` must be known."""
        stored = self.without_nan(stored)
        values = self.to_modality(stored)
        if isinstance(self.voi, Lut):
            entries = self.voi.apply(values) * (white / ((1 << self.voi.bits) - 1))
            grey = np.minimum(np.floor(entries), white)  # entries may have more bits than their table says
        elif self.voi is not None:
            grey = self.voi.apply(values, white)
        else:
            raise AssertionError
        if self.is_inverted:
            grey = white - grey
        return np.where(self.is_padding(stored), 0.0, grey)


@dataclass(frozen=True, slots=True, eq=False)
class GreyImage:
    """Pixels ready for crop and resize.

    Parameters
    ----------
    planes : array of shape (D, H, W), uint8, uint16, int16 or float32
    background : float
        Value of what is no picture, which is shown black: 0, or of modality values the least (MONOCHROME1: greatest).
    white : float
        The other end: 255, 65535, or of modality values the greatest (MONOCHROME1: least).
    window : GreyWindow or None
        The window of the first frame, when it had one.
    """

    planes: Any
    background: float
    white: float
    window: GreyWindow | None


@dataclass(frozen=True, slots=True, eq=False)
class GreyImages:
    """Several images of one shape: planes of them all, and the rest of each, as `GreyImage` has it."""

    planes: Any
    backgrounds: tuple[float, ...]
    whites: tuple[float, ...]
    windows: tuple[GreyWindow | None, ...]


def to_grey(
    stored: Any, rules: Sequence[GreyRule], bits_stored: int, *, ends: Ends | None = None, backend: Backend
) -> GreyImage:
    """Make grey levels of stored values: uint8 up to 8 bits stored, else uint16 over its whole range.

    Frames without VOI share one window from the least to the greatest modality value of them all, padding left out.
    **`stored` is overwritten** and its memory returned when the result is as wide.

    Parameters
    ----------
    stored : array of shape (D, H, W), integers or floats
        Decoded stored values with clean bits, on `backend`.
    rules : sequence of D GreyRule
    bits_stored : int
    ends : array of shape (D, 2), optional
        Least and greatest stored value of each frame, where they are known; else they are looked for when needed.
    backend : Backend
        Where to compute.

    Raises
    ------
    DecodeError
        ``not-finite``: float pixels hold no finite number.
    """
    return _only(to_grey_images(stored, rules, [0] * len(rules), bits_stored, ends=ends, backend=backend))


def to_values(
    stored: Any, rules: Sequence[GreyRule], bits_stored: int, *, ends: Ends | None = None, backend: Backend
) -> GreyImage:
    """Make modality values: int16 where all that the stored bits can hold fit, else float32.

    Padding becomes background. Parameters and errors as `to_grey`, of the rules VOI is not used, and `is_inverted` only
    tells which end is background; `stored` is overwritten likewise.
    """
    return _only(to_value_images(stored, rules, [0] * len(rules), bits_stored, ends=ends, backend=backend))


def _only(images: GreyImages) -> GreyImage:
    return GreyImage(images.planes, images.backgrounds[0], images.whites[0], images.windows[0])


def to_grey_images(
    stored: Any,
    rules: Sequence[GreyRule],
    image_of: Sequence[int],
    bits_stored: int,
    *,
    ends: Ends | None = None,
    backend: Backend,
) -> GreyImages:
    """Make grey levels of several images at once, each as `to_grey` does.

    Parameters
    ----------
    stored, rules, bits_stored, ends, backend
        As in `to_grey`.
    image_of : sequence of D int
        Which image a frame belongs to: 0, 1, …, ascending.
    """
    dtype: np.dtype[Any] = np.dtype("u1" if bits_stored <= 8 else "u2")
    white = (1 << 8 * dtype.itemsize) - 1
    if any(rule.voi is None for rule in rules):
        fractional = {
            image for rule, image in zip(rules, image_of, strict=True) if stored.dtype.kind == "f" or not rule.is_whole
        }
        windows = [
            _whole_window(low, high, is_whole=image not in fractional)
            for image, (low, high) in enumerate(_modality_ranges(stored, rules, image_of, bits_stored, ends, backend))
        ]
        rules = [
            rule if rule.voi is not None else replace(rule, voi=windows[image])
            for rule, image in zip(rules, image_of, strict=True)
        ]
    planes = _map(stored, rules, bits_stored, lambda rule, values: rule.to_grey(values, white), dtype, backend)
    firsts = [rules[image_of.index(image)].voi for image in range(image_of[-1] + 1)]
    windows_used = tuple(voi if isinstance(voi, GreyWindow) else None for voi in firsts)
    return GreyImages(planes, (0.0,) * len(firsts), (float(white),) * len(firsts), windows_used)


def to_value_images(
    stored: Any,
    rules: Sequence[GreyRule],
    image_of: Sequence[int],
    bits_stored: int,
    *,
    ends: Ends | None = None,
    backend: Backend,
) -> GreyImages:
    """Make modality values of several images at once, of the type that holds those of all; see `to_grey_images`."""
    ranges = _modality_ranges(stored, rules, image_of, bits_stored, ends, backend)
    firsts = [rules[image_of.index(image)] for image in range(len(ranges))]
    blacks = tuple(high if rule.is_inverted else low for rule, (low, high) in zip(firsts, ranges, strict=True))
    whites = tuple(low if rule.is_inverted else high for rule, (low, high) in zip(firsts, ranges, strict=True))
    dtype = value_type(rules, stored.dtype, bits_stored)

    def values_of(owned: tuple[GreyRule, float], values: Float) -> Float:
        rule, black = owned
        values = rule.without_nan(values)
        return np.where(rule.is_padding(values), black, rule.to_modality(values))

    owned = [(rule, blacks[image]) for rule, image in zip(rules, image_of, strict=True)]
    planes = _map(stored, owned, bits_stored, values_of, dtype, backend)
    return GreyImages(planes, blacks, whites, (None,) * len(ranges))


def value_type(rules: Sequence[GreyRule], stored: np.dtype[Any], bits_stored: int) -> np.dtype[Any]:
    """Return the type of modality values: int16 where all that the stored bits can hold fit, else float32."""
    if stored.kind in "iu" and bits_stored <= _TABLE_BITS:
        possible = np.concatenate([rule.to_modality(_possible(stored, bits_stored)) for rule in set(rules)])
        limits = np.iinfo(np.int16)
        if (possible == np.rint(possible)).all() and limits.min <= possible.min() and possible.max() <= limits.max:
            return np.dtype(np.int16)
    return np.dtype(np.float32)


def _whole_window(low: float, high: float, *, is_whole: bool) -> GreyWindow:
    """Return the window that makes `low` black and `high` white; whole numbers have half a step at the ends."""
    if is_whole or low == high:
        return GreyWindow((low + high) / 2, high - low + 1, "LOWEST_IS_BLACK")
    return GreyWindow((low + high) / 2, high - low, "LINEAR_EXACT")


def look_up(stored: Any, table: NDArray[Any], *, backend: Backend) -> Any:
    """Return ``table[stored]`` for unsigned `stored`, of shape (D, H, W), and a table for every value they can have."""
    return _look_up(stored, table[None], np.zeros(len(stored), np.int32), 0, backend)


def _possible(dtype: np.dtype[Any], bits_stored: int) -> Float:
    """Return all values that the stored bits can have, ascending."""
    least = -(1 << bits_stored - 1) if dtype.kind == "i" else 0
    return np.arange(least, least + (1 << bits_stored), dtype=np.float64)


Rule = TypeVar("Rule", bound=Hashable)


def _distinct(rules: Sequence[Rule]) -> tuple[list[Rule], NDArray[np.int32]]:
    """Return the distinct rules and which of them each frame has."""
    distinct = list(dict.fromkeys(rules))
    place = {rule: i for i, rule in enumerate(distinct)}
    return distinct, np.array([place[rule] for rule in rules], np.int32)


def _map(
    stored: Any,
    rules: Sequence[Rule],
    bits_stored: int,
    apply: Callable[[Rule, Float], Float],
    dtype: np.dtype[Any],
    backend: Backend,
) -> Any:
    """Return what `apply` makes of each frame by its rule."""
    distinct, table_of = _distinct(rules)
    if stored.dtype.kind == "f" or stored.dtype.itemsize > 2:  # no table: rare, computed frame by frame on the host
        result = np.empty(stored.shape, dtype)
        for frame, rule, source in zip(result, rules, backend.download(stored), strict=True):
            frame[:] = apply(rule, source.astype(np.float64))
        return backend.upload(result)
    possible = _possible(stored.dtype, bits_stored)
    tables = np.stack([apply(rule, possible) for rule in distinct]).astype(dtype)
    if dtype.itemsize == stored.dtype.itemsize and (tables == possible).all():
        return stored.view(dtype)
    in_place = backend.has_kernels and stored.dtype.itemsize == dtype.itemsize
    return _look_up(stored, tables, table_of, -int(possible[0]), backend, in_place=in_place)


def _look_up(
    stored: Any,
    tables: NDArray[Any],
    table_of: NDArray[np.int32],
    first: int,
    backend: Backend,
    *,
    in_place: bool = False,
) -> Any:
    if not backend.has_kernels:
        return np.stack([tables[t][frame.astype(np.int64) + first] for t, frame in zip(table_of, stored, strict=True)])
    words = ready(stored, backend)
    result = words.view(tables.dtype) if in_place else backend.xp.empty(words.shape, tables.dtype)
    backend.launch(
        f"lut_{TYPE_SUFFIX[words.dtype.name]}_{TYPE_SUFFIX[tables.dtype.name]}",
        *lane_dims(words.size, backend),
        (
            words,
            result,
            np.int64(words.size),
            np.int64(words[0].size),
            backend.upload(tables),
            np.int32(tables.shape[1]),
            backend.upload(table_of),
            np.int32(first),
        ),
    )
    return result


def _modality_ranges(
    stored: Any,
    rules: Sequence[GreyRule],
    image_of: Sequence[int],
    bits_stored: int,
    ends: Ends | None,
    backend: Backend,
) -> list[tuple[float, float]]:
    """Return the least and greatest modality value of each image, padding left out unless there is nothing else."""
    owned, table_of = _distinct(list(zip(image_of, rules, strict=True)))
    if stored.dtype.kind == "f" or stored.dtype.itemsize > 2:
        frames = backend.download(stored)
        values = [np.unique(frames[table_of == i]).astype(np.float64) for i in range(len(owned))]
        values = [v[np.isfinite(v)] for v in values]
    elif all(rule.padding is None and rule.modality_lut is None for _, rule in owned):
        known = _stored_ends(stored, backend) if ends is None else ends.astype(np.float64)
        values = [known[table_of == i].ravel() for i in range(len(owned))]
    else:
        possible = _possible(stored.dtype, bits_stored)
        found = _present(stored, len(owned), len(possible), table_of, -int(possible[0]), backend)
        values = [possible[row != 0] for row in found]
    ranges = []
    for image in range(image_of[-1] + 1):
        parts = [(rule, v) for (owner, rule), v in zip(owned, values, strict=True) if owner == image]
        pictures = [v[~rule.is_padding(v)] for rule, v in parts]
        if not any(map(len, pictures)):
            pictures = [v for _, v in parts]
        modality = np.concatenate([rule.to_modality(v) for (rule, _), v in zip(parts, pictures, strict=True)])
        if not len(modality):
            raise DecodeError("the pixels hold no finite number", code="not-finite")
        ranges.append((float(modality.min()), float(modality.max())))
    return ranges


def _stored_ends(stored: Any, backend: Backend) -> Float:
    """Return the least and greatest stored value of each frame, shape (D, 2)."""
    if backend.has_kernels:
        return stored_range(ready(stored, backend), 0, 0, backend)
    return np.array([[frame.min(), frame.max()] for frame in stored], np.float64)


def _present(
    stored: Any, count: int, entries: int, table_of: NDArray[np.int32], first: int, backend: Backend
) -> NDArray[np.int32]:
    """Return, for each rule, which of the possible values occur in its frames."""
    present = np.zeros((count, entries), np.int32)
    if not backend.has_kernels:
        for t, frame in zip(table_of, stored, strict=True):
            present[t, frame.astype(np.int64) + first] = 1
        return present
    words = ready(stored, backend)
    flags = backend.upload(present)
    backend.launch(
        f"present_{TYPE_SUFFIX[words.dtype.name]}",
        *lane_dims(words.size, backend),
        (
            words,
            np.int64(words.size),
            np.int64(words[0].size),
            flags,
            np.int32(entries),
            backend.upload(table_of),
            np.int32(first),
        ),
    )
    return np.asarray(backend.download(flags))
