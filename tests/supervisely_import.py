"""Supervisely's own import of a folder, up to the upload: ``python supervisely_import.py FOLDER``.

Prints JSON: the format that it detects, its warnings, and for each item the volume and the objects it makes of it.
"""

import json
import logging
import os
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np


def read_items(folder: str) -> dict:
    """Detect the format and convert every item."""
    import supervisely.convert.volume  # noqa: F401  registers the converters
    from supervisely.convert.volume.nii import nii_volume_helper
    from supervisely.convert.volume.volume_converter import VolumeConverter
    from supervisely.sly_logger import logger
    from supervisely.volume.volume import read_nrrd_serie_volume_np

    warnings = []  # the converters log what goes wrong, and go on with nothing
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: warnings.append(record.getMessage())
    logger.addHandler(handler)
    converter = VolumeConverter(folder).detect_format()
    mapping = getattr(converter, "_json_map", None)
    volumes = match_volumes(converter.get_items(), mapping) if mapping else {}
    meta, items = converter.get_meta(), []
    for item in converter.get_items():
        masks = item.ann_data if isinstance(item.ann_data, list) else [item.ann_data]
        entry = {"masks": [os.path.relpath(path, folder) for path in masks if path], "objects": []}
        items.append(entry)
        if item.path:
            with tempfile.TemporaryDirectory() as scratch:
                volume, item.volume_meta = read_nrrd_serie_volume_np(
                    nii_volume_helper.nifti_to_nrrd(item.path, scratch)
                )
            entry["path"] = os.path.relpath(item.path, folder)
            entry["sum"] = float(volume.sum(dtype=float))
            entry |= {"shape": volume.shape, **{k: item.volume_meta[k] for k in ("spacing", "origin", "directions")}}
        else:
            shape = nii_volume_helper.convert_3d_nifti_to_nrrd(masks[0])[0].shape
            entry["volume_id"] = volumes[item].id
            item.volume_meta = {"dimensionsIJK": dict(zip("xyz", shape, strict=True))}
        if not entry["masks"]:
            continue
        for figure in converter.to_supervisely(item, meta, {}, {}).spatial_figures:
            mask, of = figure.geometry, figure.volume_object.obj_class
            entry["objects"].append(
                {
                    "class": of.name,
                    "colour": of.color,
                    "voxels": int(np.count_nonzero(mask.data)),
                    "shape": mask.data.shape,
                    "directions": mask.space_directions,
                    "scores": figure.custom_data,
                }
            )
        if converter._meta_changed:
            meta, converter._meta_changed = converter.get_meta(), False
    return {"format": str(converter), "warnings": warnings, "items": items, "mapping": mapping}


def match_volumes(items: list, mapping: dict) -> dict:
    """Find the volume of each annotation, on a server that has them all; the first of a volume says its shape."""
    from supervisely.convert.volume.nii.nii_volume_helper import AnnotationMatcher

    shapes = {Path(item.ann_data).name: item.shape for item in items}
    volumes = {
        number: SimpleNamespace(id=number, file_meta={"sizes": shapes[Path(path).name]})
        for path, number in mapping.items()
    }
    api = SimpleNamespace(volume=SimpleNamespace(get_info_by_id=volumes.get))
    return AnnotationMatcher(items, 0).match_from_json(api, mapping)


if __name__ == "__main__":
    out, sys.stdout = sys.stdout, sys.stderr  # it logs to stdout
    json.dump(read_items(str(Path(sys.argv[1]).resolve())), out, default=np.ndarray.tolist)
