"""A mask as a table."""

from __future__ import annotations

from gpuprep.masks import RoiMask

_HEAD = ("ROI", "number", "voxels", "ml", "box x", "box y", "box z", "colour", "type, region")
#: Columns that are numbers, and so end at the same place.
_RIGHT = range(1, 7)
#: As many overlapping pairs are listed.
_LISTED_PAIRS = 30


def format_mask(mask: RoiMask) -> str:
    """Return grid, a line a ROI (box: first and last column, row and slice) and the overlapping pairs, most first."""
    geometry = mask.geometry
    depth, height, width = geometry.shape
    z, y, x = geometry.spacing_dhw_mm
    lines = [
        f"grid {width} × {height} × {depth}, {x:.5g} × {y:.5g} × {z:.5g} mm, {geometry.orientation()}, "
        f"first voxel at ({', '.join(f'{v:.3f}' for v in geometry.origin_lps_mm)}) LPS mm",
        f"frame of reference {geometry.frame_of_reference_uid or 'unknown'}",
        f"ROIs: {len(mask.rois)}, sets of ROIs: {len(mask.table)}",
        "",
    ]
    voxel_ml = geometry.voxel_mm3 / 1000
    rows: list[tuple[str, ...]] = [_HEAD]
    for roi, voxels, (start, stop) in zip(mask.rois, mask.voxel_counts.tolist(), mask.bounding_boxes(), strict=True):
        box = [f"{a}-{b - 1}" if voxels else "" for a, b in zip(start[::-1], stop[::-1], strict=True)]
        colour = "#{:02x}{:02x}{:02x}".format(*roi.rgb) if roi.rgb else ""
        meaning = _escape(", ".join(c.meaning for c in (roi.type, roi.region) if c))
        amount = (str(voxels), f"{voxels * voxel_ml:.3f}")
        rows.append((_escape(roi.name), str(roi.number), *amount, *box, colour, meaning))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (c.rjust(w) if n in _RIGHT else c.ljust(w) for n, (c, w) in enumerate(zip(row, widths, strict=True)))
        lines.append("  ".join(cells).rstrip())
    pairs = sorted(mask.overlaps(), key=lambda pair: -pair[2])
    lines += ["", f"overlaps: {len(pairs)}" if pairs else "no overlaps"]
    names = [roi.name for roi in mask.rois]
    lines += [f"  {names[i]!r} and {names[j]!r}: {voxels} voxels" for i, j, voxels in pairs[:_LISTED_PAIRS]]
    if len(pairs) > _LISTED_PAIRS:
        lines.append(f"  and {len(pairs) - _LISTED_PAIRS} more")
    return "\n".join(lines)


def _escape(text: str) -> str:
    """Return a text with escapes for what would break a line, move the cursor, or cannot be encoded."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
