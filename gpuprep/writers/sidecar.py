"""What lies beside a data set: what its layout cannot say of classes, grids and sources, without patients."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gpuprep.geometry import VolumeGeometry
from gpuprep.masks import RoiMask
from gpuprep.writers.atomic import write_text
from gpuprep.writers.record import CaseRecord


def describe_labels(mask: RoiMask) -> CaseRecord:
    """Return what a case's record keeps of its labels: ``overlaps``, ``combinations`` and ``colours``."""
    names = [roi.name for roi in mask.rois]
    return {
        "overlaps": [[names[i], names[j], voxels] for i, j, voxels in mask.overlaps()],
        "combinations": [
            [[name for name, is_in in zip(names, row, strict=True) if is_in], int(voxels)]
            for row, voxels in zip(mask.members[1:], mask.code_counts[1:], strict=True)
        ],
        "colours": {roi.name: roi.rgb for roi in mask.rois},
    }


def parse_grid(grid: Mapping[str, Any]) -> VolumeGeometry:
    """Return the output grid that a case's row tells (``details["grid"]``)."""
    depth, height, width = grid["shape_dhw"]
    return VolumeGeometry((depth, height, width), np.array(grid["index_dhw_to_lps_mm"]), grid["frame_of_reference_uid"])


def describe_sources(details: Mapping[str, Any]) -> dict[str, Any]:
    """Return, from the details of a case's row, where its voxels and labels come from."""
    return {
        "frame_of_reference_uid": details["grid"]["frame_of_reference_uid"],
        "study_instance_uid": details["study_instance_uid"],
        "series": details["series"],
        "segmentations": [s["sop_instance_uid"] for s in details["segmentations"]],
        "voxels": details["voxels"],
        "rois": {label["name"]: label["rois"] for label in details["labels"]},
    }


def count_combinations(cases: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the sets of labels that cover voxels in any of the cases, with their voxels."""
    total: dict[tuple[str, ...], int] = {}
    for details in cases:
        for members, voxels in details["combinations"]:
            total[tuple(members)] = total.get(tuple(members), 0) + voxels
    return [{"classes": list(members), "voxels": voxels} for members, voxels in sorted(total.items())]


def write_json(path: Path, content: Any) -> None:
    """Write JSON, indented, UTF-8."""
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
