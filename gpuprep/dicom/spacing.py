"""Planes in order along the normal: whether they lie as the slices of a regular grid do."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gpuprep.dicom.findings import Finding
from gpuprep.dicom.planes import Plane
from gpuprep.geometry import SAME_GRID_TOLERANCE_MM, Float

#: Planes nearer to each other than this along the normal are at the same place, mm; no clinical slice is thinner.
SAME_POSITION_TOLERANCE_MM = 0.01
#: Frames that drift off the normal by at most this over the whole stack, in pixels, are upright; more is a gantry tilt.
DRIFT_TOLERANCE_PIXELS = 0.5


@dataclass(frozen=True, slots=True)
class Placed:
    """A plane with its place along the normal: number among the distinct places, and LPS mm."""

    plane: Plane
    site: int
    along_mm: float


def find_problems(placed: list[Placed], steps_mm: Float, drift_pixels: Float, tolerance: float) -> list[Finding]:
    """Return what keeps frames off a regular grid, most important first.

    Parameters
    ----------
    placed : list of Placed
        The n frames, in order along the normal.
    steps_mm : array of shape (n - 1,)
        Distances along the normal from each to the next.
    drift_pixels : array of shape (n, 2)
        How far each lies off the normal of the first, in rows and columns.
    tolerance : float
        Share of the median step by which a step may differ from it.

    Returns
    -------
    list of Finding
        ``gantry-tilt``, ``missing-slice`` or ``variable-spacing``.
    """
    if len(placed) == 1:
        return []
    problems = []
    drift = np.abs(drift_pixels).max(axis=1)
    worst = int(drift.argmax())
    if drift[worst] > DRIFT_TOLERANCE_PIXELS:
        plane = placed[worst].plane
        drift_mm = float(np.hypot(*(drift_pixels[worst] * plane.pixel_spacing_mm)))
        rise_mm = placed[worst].along_mm - placed[0].along_mm
        angle = math.degrees(math.atan2(drift_mm, rise_mm))
        message = f"{_describe(placed, worst)} lies {drift_mm:.3f} mm off the normal of slice 1, {angle:.1f} degrees"
        problems.append(Finding("gantry-tilt", message))

    step_mm = median_step(steps_mm)
    whole = np.maximum(np.round(steps_mm / step_mm), 1)
    is_off = np.abs(steps_mm - step_mm) > max(tolerance * step_mm, SAME_GRID_TOLERANCE_MM)
    is_gap = is_off & (whole > 1) & (np.abs(steps_mm - whole * step_mm) <= tolerance * step_mm * whole)
    expected_mm = np.linspace(0, steps_mm.sum(), len(placed))
    strayed_mm = np.abs(np.concatenate([[0], np.cumsum(steps_mm)]) - expected_mm)
    if is_off.any():
        at = int(is_off.argmax())
        lost = int((whole - 1).sum())
        missing = f"{lost} slice{'s' * (lost > 1)} missing in " if is_gap.sum() == is_off.sum() else ""
        message = (
            f"{missing}{is_off.sum()} of {len(steps_mm)} steps, first {steps_mm[at]:.3f} mm after "
            f"{_describe(placed, at)}, where the median step is {step_mm:.3f} mm"
        )
        problems.append(Finding("missing-slice" if missing else "variable-spacing", message))
    elif strayed_mm.max() > step_mm / 2:
        at = int(strayed_mm.argmax())
        message = f"small differences add up: {_describe(placed, at)} is {strayed_mm[at]:.3f} mm off a regular grid"
        problems.append(Finding("variable-spacing", message))
    return problems


def is_evenly_spaced(placed: list[Placed], tolerance: float) -> bool:
    """Whether planes, in order along the normal, are each at a place of their own, with even steps between them."""
    steps_mm = np.diff([p.along_mm for p in placed])
    if len(steps_mm) and steps_mm.min() <= SAME_POSITION_TOLERANCE_MM:
        return False
    return not find_problems(placed, steps_mm, np.zeros((len(placed), 2)), tolerance)


def measure_deviations(offsets_mm: Float, spacing_mm: float) -> list[Finding]:
    """Return what a regular grid leaves of (n, 3) offsets along (slice, row, column) axes, where it is noticeable."""
    jitter_mm = np.abs(offsets_mm[:, 0] - spacing_mm * np.arange(len(offsets_mm))).max()
    drift_mm = np.linalg.norm(offsets_mm[:, 1:], axis=1).max()
    found = (("spacing-jitter", jitter_mm, "along"), ("slice-drift", drift_mm, "off"))
    return [
        Finding(code, f"slices lie up to {size_mm:.3f} mm from the regular grid, {where} the normal")
        for code, size_mm, where in found
        if size_mm > SAME_GRID_TOLERANCE_MM
    ]


def median_step(steps_mm: Float) -> float:
    """Return the lower median: always a step that occurs."""
    return float(np.sort(steps_mm)[(len(steps_mm) - 1) // 2])


def _describe(placed: Sequence[Placed], at: int) -> str:
    return f"slice {at + 1} of {len(placed)} ({placed[at].plane.name}, at {placed[at].along_mm:.3f} mm)"
