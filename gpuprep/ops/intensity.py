"""Stored pixel words to modality values, and intensity windows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gpuprep.backends.base import BLOCK_THREADS, TYPE_SUFFIX, Backend, lane_dims, ready
from gpuprep.dicom.framespec import FrameSpec
from gpuprep.errors import ConfigError, DecodeError
from gpuprep.volume import Step, Volume

Float = NDArray[np.float64]

_INT16, _INT32 = np.iinfo(np.int16), np.iinfo(np.int32)
#: Threads that share a slice on a GPU when its range is looked for; on the CPU one thread takes it all.
_RANGE_BLOCKS = 8


def to_modality(stored: Any, spec: FrameSpec, slopes: Float, intercepts: Float, *, backend: Backend) -> Any:
    """Take the stored bits out of pixel words and apply each slice's rescale slope and intercept.

    The result is int16 where slopes and intercepts are whole numbers and every value fits; int32 where they are whole
    but values are larger; else float32, computed in float64. Bits above the high bit may hold anything. Padding voxels
    (Pixel Padding Value) are rescaled like all others. **`stored` is overwritten** and its memory returned when the
    result is as wide as the words are.

    Parameters
    ----------
    stored : array of shape (D, H, W), uint8, int8, uint16 or int16
        Pixel words, of `backend`; of decoded frames too, with a `spec` that fits them.
    spec : FrameSpec
        `bits_stored`, `high_bit` and `is_signed` of the words.
    slopes, intercepts : array of shape (D,), float64
        Rescale Slope and Intercept of each slice.
    backend : Backend
        Where to compute.

    Returns
    -------
    array of shape (D, H, W)
        Modality values, for CT in HU.

    Raises
    ------
    DecodeError
        ``unsupported-pixels``: words of another shape or width; ``bad-bit-layout``: bits that words do not have;
        ``bad-rescale``: slopes or intercepts that are zero, not finite, or not one a slice.
    """
    _check(stored, spec, slopes, intercepts)
    width = stored.dtype.itemsize * 8
    left, right = width - 1 - spec.high_bit, width - spec.bits_stored
    words = stored.view(f"i{width // 8}" if spec.is_signed else f"u{width // 8}")
    if not backend.has_kernels:
        return reference_to_modality(words, left, right, slopes, intercepts)

    words = ready(words, backend)
    whole = bool((slopes == np.rint(slopes)).all() and (intercepts == np.rint(intercepts)).all())
    ends = possible_range(spec.bits_stored, spec.is_signed)
    target = _smallest_type(np.tile(np.array(ends, np.float64), (len(slopes), 1)), slopes, intercepts, whole=whole)
    if whole and target != np.int16:
        target = _smallest_type(stored_range(words, left, right, backend), slopes, intercepts, whole=True)
    if left == right == 0 and words.dtype == target and (slopes == 1).all() and (intercepts == 0).all():
        return words
    in_place = words.dtype.itemsize == target.itemsize
    values = words.view(target) if in_place else backend.xp.empty(words.shape, target)
    factor = np.float64 if target == np.float32 else np.int32
    arguments = (
        words,
        values,
        np.int64(words.size),
        np.int64(words[0].size),
        backend.upload(slopes.astype(factor)),
        backend.upload(intercepts.astype(factor)),
        np.int32(left),
        np.int32(right),
    )
    kernel = f"modality_{TYPE_SUFFIX[words.dtype.name]}_{TYPE_SUFFIX[target.name]}"
    backend.launch(kernel, *lane_dims(words.size, backend), arguments)
    return values


def _check(stored: Any, spec: FrameSpec, slopes: Float, intercepts: Float) -> None:
    if stored.ndim != 3 or stored.dtype.kind not in "iu" or stored.dtype.itemsize > 2 or stored.size == 0:
        raise DecodeError(
            f"pixels of shape {stored.shape} and type {stored.dtype}, expected (D, H, W) of 8 or 16 bits",
            code="unsupported-pixels",
        )
    if not 0 < spec.bits_stored <= spec.high_bit + 1 <= stored.dtype.itemsize * 8:
        raise DecodeError(
            f"{spec.bits_stored} bits stored up to bit {spec.high_bit} in words of {stored.dtype.itemsize * 8} bits",
            code="bad-bit-layout",
        )
    factors = np.stack([slopes, intercepts]) if len(slopes) == len(intercepts) == len(stored) else None
    if factors is None or not np.isfinite(factors).all() or (slopes == 0).any():
        raise DecodeError(
            f"{len(slopes)} rescale slopes and {len(intercepts)} intercepts for {len(stored)} slices: "
            "one finite pair a slice is needed, slopes other than zero",
            code="bad-rescale",
        )


def possible_range(bits_stored: int, is_signed: bool) -> tuple[int, int]:
    """Return the least and greatest value that `bits_stored` bits can hold."""
    return (-(1 << bits_stored - 1), (1 << bits_stored - 1) - 1) if is_signed else (0, (1 << bits_stored) - 1)


def _smallest_type(stored_range: Float, slopes: Float, intercepts: Float, *, whole: bool) -> np.dtype[Any]:
    """Return the type that holds the rescaled `stored_range`, (least, greatest) a slice, exactly, or float32."""
    ends = stored_range * slopes[:, None] + intercepts[:, None]
    factors_fit = max(np.abs(slopes).max(), np.abs(intercepts).max()) <= _INT32.max
    for kind in (_INT16, _INT32):
        if whole and factors_fit and ends.min() >= kind.min and ends.max() <= kind.max:
            return np.dtype(kind.dtype)
    return np.dtype(np.float32)


def stored_range(words: Any, left: int, right: int, backend: Backend) -> Float:
    """Return the least and greatest stored value of each slice, shape (D, 2)."""
    found = backend.upload(np.tile(np.array([_INT32.max, _INT32.min], np.int32), (len(words), 1)))
    shared = backend.row_threads > 1  # else a thread has a slice to itself
    grid, block = ((_RANGE_BLOCKS, len(words)), (BLOCK_THREADS,)) if shared else ((1, len(words)), (1,))
    arguments = (words, np.int64(words[0].size), np.int32(left), np.int32(right), found)
    backend.launch(f"range_{TYPE_SUFFIX[words.dtype.name]}", grid, block, arguments)
    return np.asarray(backend.download(found), np.float64)


def reference_to_modality(words: Any, left: int, right: int, slopes: Float, intercepts: Float) -> Any:
    """Plain form of `to_modality` for words already viewed as signed or not; never overwrites."""
    stored = np.right_shift(np.left_shift(words, left), right)
    values = stored.astype(np.float64) * slopes[:, None, None] + intercepts[:, None, None]
    whole = bool((slopes == np.rint(slopes)).all() and (intercepts == np.rint(intercepts)).all())
    bits = words.dtype.itemsize * 8 - right
    possible = np.outer(slopes, possible_range(bits, words.dtype.kind == "i")) + intercepts[:, None]
    for kind in (_INT16, _INT32):
        for ends in (possible, values):
            if whole and ends.min() >= kind.min and ends.max() <= kind.max:
                return values.astype(kind.dtype)
    return values.astype(np.float32)


@dataclass(frozen=True, slots=True)
class Window:
    """An intensity window, as level ± width / 2; the bounds are those of med-imagetools' clamp.

    Parameters
    ----------
    level, width : float
        Centre and width, in modality units (HU for CT).
    rescale : (float, float), optional
        What the lower and upper bound are mapped to. Without it values are clamped and keep their units.
    dtype : {"float32", "uint8"}
        Type of rescaled values; ``uint8`` rounds to nearest even.

    Raises
    ------
    ConfigError
        ``bad-window``: a width that is not positive, bounds that are not finite, or a `rescale` that does not ascend
        or does not fit `dtype`.
    """

    level: float
    width: float
    rescale: tuple[float, float] | None = None
    dtype: Literal["float32", "uint8"] = "float32"

    def __post_init__(self) -> None:
        numbers = (self.level, self.width, *(self.rescale or ()))
        limits = (0.0, 255.0) if self.dtype == "uint8" else (-np.inf, np.inf)
        if (
            not np.isfinite(numbers).all()
            or not self.width > 0
            or (self.rescale is not None and not limits[0] <= self.rescale[0] < self.rescale[1] <= limits[1])
            or (self.rescale is None and self.dtype != "float32")
        ):
            raise ConfigError(f"window of numbers {numbers} to {self.dtype}", code="bad-window")

    @property
    def low(self) -> float:
        """Lower bound, modality units."""
        return self.level - self.width / 2

    @property
    def high(self) -> float:
        """Upper bound, modality units."""
        return self.level + self.width / 2


def apply_window(volume: Volume, window: Window, backend: Backend) -> Volume:
    """Clamp a volume to a window, and map it to `Window.rescale` when that is given.

    Clamped integers stay what they are when both bounds are whole numbers, else they become float32. NaN stays NaN in
    float32 and becomes the lower end in uint8.

    Parameters
    ----------
    volume : Volume
        int16, int32 or float32, on `backend`; it is left as it is.
    window : Window
        What to do.
    backend : Backend
        Where to compute.

    Returns
    -------
    Volume
        On the same grid.
    """
    array = apply_window_array(volume.array, window, backend)
    return volume.changed(array, volume.geometry, window_step(window, array.dtype))


def window_step(window: Window, dtype: np.dtype[Any]) -> Step:
    """Return what is noted of a window that made values of type `dtype`."""
    rescale = list(window.rescale) if window.rescale else None
    return Step("window", {"low": window.low, "high": window.high, "rescale": rescale, "dtype": str(dtype)})


def window_kernel(window: Window, dtype: np.dtype[Any]) -> tuple[str, np.dtype[Any], tuple[Any, ...]]:
    """Return the kernel that windows values of type `dtype`, the type of its results, and its last arguments.

    `dtype` must hold the bounds: integers that are only clamped need whole ones.
    """
    suffix = TYPE_SUFFIX[dtype.name]
    if window.rescale is None:
        return f"clamp_{suffix}", dtype, _bounds_within(dtype, window)
    bottom, top = window.rescale
    scale = (top - bottom) / window.width
    numbers = tuple(map(np.float32, (window.low, scale, bottom, top)))
    return f"window_{suffix}_{TYPE_SUFFIX[window.dtype]}", np.dtype(window.dtype), numbers


def needs_floats(window: Window, dtype: np.dtype[Any]) -> bool:
    """Whether values of type `dtype` have to become float32 before they are windowed."""
    return window.rescale is None and dtype.kind == "i" and not _has_whole_bounds(window)


def apply_window_array(array: Any, window: Window, backend: Backend) -> Any:
    """Return the array of `apply_window`; any shape."""
    if not backend.has_kernels:
        return reference_window(array, window)
    if needs_floats(window, array.dtype):
        array = array.astype(np.float32)
    array = ready(array, backend)
    kernel, dtype, numbers = window_kernel(window, array.dtype)
    result = backend.xp.empty(array.shape, dtype)
    backend.launch(kernel, *lane_dims(array.size, backend), (array, result, np.int64(array.size), *numbers))
    return result


def _has_whole_bounds(window: Window) -> bool:
    return float(window.low).is_integer() and float(window.high).is_integer()


def _bounds_within(dtype: np.dtype[Any], window: Window) -> tuple[Any, Any]:
    """Return the bounds as scalars of `dtype`; beyond its range they change nothing."""
    if dtype.kind != "i":
        return dtype.type(window.low), dtype.type(window.high)
    info = np.iinfo(dtype)
    return tuple(dtype.type(min(max(int(bound), info.min), info.max)) for bound in (window.low, window.high))


def reference_window(array: Any, window: Window) -> Any:
    """Plain form of `apply_window_array`, in float64."""
    clamped = np.clip(array.astype(np.float64), window.low, window.high)
    if window.rescale is None:
        keep = array.dtype.kind == "i" and _has_whole_bounds(window)
        if keep:
            return np.clip(array, *_bounds_within(array.dtype, window))
        return clamped.astype(np.float32)
    bottom, top = window.rescale
    values = bottom + (clamped - window.low) * ((top - bottom) / window.width)
    if window.dtype == "uint8":
        return np.rint(np.where(np.isnan(values), bottom, values)).astype(np.uint8)
    return values.astype(np.float32)
