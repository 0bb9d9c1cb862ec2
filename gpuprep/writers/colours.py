"""Colours of labels: those of the structure set or segmentation, or ones that tell labels apart."""

from __future__ import annotations

import colorsys
from collections.abc import Iterable, Mapping, Sequence

Rgb = tuple[int, int, int]

#: Fractional part of the golden ratio: multiples of it, modulo 1, stay far apart however many there are.
_GOLDEN = 0.6180339887498949


def choose_colours(names: Sequence[str], seen: Iterable[Mapping[str, Sequence[int] | None]]) -> tuple[Rgb, ...]:
    """Return a colour for each label: the first that any case has for it, else a hue of its own.

    Parameters
    ----------
    names : sequence of str
        Labels.
    seen : iterable of mappings
        For each case label → RGB, 0 to 255, or None.
    """
    known: dict[str, Rgb] = {}
    for colours in seen:
        for name, rgb in colours.items():
            if rgb is not None:
                red, green, blue = rgb
                known.setdefault(name, (red, green, blue))
    return tuple(known.get(name, make_colour(number)) for number, name in enumerate(names))


def make_colour(number: int) -> Rgb:
    """Return the colour of a label that has none: a hue by its number, far from those of the numbers beside it."""
    return to_rgb(colorsys.hsv_to_rgb(number * _GOLDEN % 1, 0.75, 0.95))


def to_rgb(shares: Iterable[float | str]) -> Rgb:
    """Return the colour of three shares of full red, green and blue; what is below 0 or above 1 counts as that.

    Raises
    ------
    ValueError
        They are no three numbers.
    """
    red, green, blue = (round(min(1.0, max(0.0, float(share))) * 255) for share in shares)
    return red, green, blue
