"""The palette in Zarr v3: zstd-compressed chunks of ``codes`` in one shard, so that parts are read alone.

``codes`` and ``table`` are arrays of a group whose attributes hold the description. On request the group also has
OME-Zarr 0.5 ``labels/layer_k``, label images of ROIs that share no voxel, for viewers; OME-Zarr 0.5 knows spacing and
origin along the axes, but not where the axes point.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuprep.codes import apply_lut, code_dtype, unpack_bits
from gpuprep.extras import load_extra
from gpuprep.masks import RoiMask, assign_layers
from gpuprep.writers.masks.description import (
    KEY,
    describe,
    parse_boxes,
    parse_geometry,
    parse_rois,
    reading,
    replacing_folder,
    restore,
)

#: Voxels (d, h, w) of a chunk, which is read and decompressed as a whole.
CHUNK = (96, 96, 96)
#: zstd level; higher ones make codes no smaller by more than a tenth.
_ZSTD_LEVEL = 3
#: Largest label of an OME-Zarr layer.
_LAYER_LIMIT = 65535
_OME_VERSION = "0.5"


def chunk_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """Return the shape of the chunks of an array (D, H, W)."""
    return tuple(min(c, n) for c, n in zip(CHUNK, shape, strict=True))


def write(mask: RoiMask, path: Path, *, ome_labels: bool = False) -> None:
    """Write a mask as a folder.

    Parameters
    ----------
    mask : RoiMask
    path : Path
        Ends in ``.zarr``.
    ome_labels : bool
        Also write the ROIs as OME-Zarr labels, in as many layers as their overlaps need.

    Raises
    ------
    ConfigError
        ``extra-missing``.
    WriteError
        As `replacing_folder`.
    """
    zarr = load_extra("zarr", "masks")
    with replacing_folder(path, is_mask) as part:
        group = zarr.open_group(part, mode="w", zarr_format=3, attributes={KEY: describe(mask, with_extents=True)})
        _create(group, "codes", mask.codes)
        group.create_array("table", data=mask.table, compressors=_compressor())
        if ome_labels:
            _write_labels(group, mask)


def is_mask(path: Path) -> bool:
    """Whether a folder is a Zarr group of ours, and holds nothing besides."""
    try:
        attributes = json.loads((path / "zarr.json").read_text(encoding="utf-8"))["attributes"]
        return KEY in attributes and {p.name for p in path.iterdir()} <= {"zarr.json", "codes", "table", "labels"}
    except (OSError, ValueError, KeyError, TypeError):
        return False


def read(path: Path) -> RoiMask:
    """Read a mask.

    Raises
    ------
    ConfigError
        ``extra-missing``.
    HeaderError
        As `reading`.
    """
    with reading(path):
        group, text = _open(path)
        return restore(group["codes"][...], group["table"][...], text)


def read_patch(path: Path, start_dhw: Sequence[int], shape: Sequence[int]) -> RoiMask:
    """Read a box of a mask, and no chunk that it does not touch.

    Returns
    -------
    RoiMask
        On the cropped grid, with all ROIs; its table is that of the whole mask.

    Raises
    ------
    ConfigError
        ``extra-missing``.
    HeaderError
        As `reading`; ``mask-unreadable`` also when the box reaches out of the mask.
    """
    with reading(path):
        group, text = _open(path)
        geometry = parse_geometry(text)
        if any(a < 0 or n < 1 or a + n > size for a, n, size in zip(start_dhw, shape, geometry.shape, strict=True)):
            raise ValueError(f"the box at {tuple(start_dhw)} of shape {tuple(shape)} is not within {geometry.shape}")
        box = tuple(slice(a, a + n) for a, n in zip(start_dhw, shape, strict=True))
        return RoiMask(group["codes"][box], group["table"][...], parse_rois(text), geometry.crop(start_dhw, shape))


def read_binary(path: Path, roi: int) -> NDArray[np.uint8]:
    """Read the mask of the ROI with index `roi`, uint8 0 or 1, (D, H, W), and no chunk outside its box.

    Raises
    ------
    ConfigError
        ``extra-missing``.
    HeaderError
        As `reading`; ``mask-unreadable`` also when there is no such ROI.
    """
    with reading(path):
        group, text = _open(path)
        boxes = parse_boxes(text)
        start, stop = boxes[roi]
        box = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
        binary = np.zeros(group["codes"].shape, np.uint8)
        if stop[0]:
            lut = unpack_bits(group["table"][...], len(boxes))[:, roi].astype(np.uint8)
            binary[box] = apply_lut(lut, group["codes"][box])
        return binary


def _open(path: Path) -> tuple[Any, str]:
    """Open a mask; return its group and description.

    Zarr stores no array of zeros alone, and reads one whose file is lost as such: it is refused where the mask is more.
    """
    group = load_extra("zarr", "masks").open_group(path, mode="r")
    text = group.attrs[KEY]
    is_more = {"codes": group["table"].shape[0] > 1, "table": any(stop[0] for _, stop in parse_boxes(text))}
    for name in (name for name in is_more if is_more[name]):
        if not any(p.is_file() for p in (path / name / "c").rglob("*")):
            raise ValueError(f"the data of {name} is missing")
    return group, text


def _create(group: Any, name: str, array: NDArray[Any]) -> None:
    """Create a compressed array in one shard."""
    chunks = chunk_shape(array.shape)
    group.create_array(
        name,
        data=array,
        chunks=chunks,
        shards=tuple(-(-n // c) * c for n, c in zip(array.shape, chunks, strict=True)),
        compressors=_compressor(),
        dimension_names=("z", "y", "x"),
    )


def _compressor() -> Any:
    """Return zstd with a checksum a chunk: damaged codes would be other ROIs, and nothing would tell."""
    from zarr.codecs import ZstdCodec

    return ZstdCodec(level=_ZSTD_LEVEL, checksum=True)


def _write_labels(group: Any, mask: RoiMask) -> None:
    places = assign_layers(mask, _LAYER_LIMIT)
    names = [f"layer_{n}" for n in range(1 + max((layer for layer, _ in places), default=0))]
    labels = group.create_group("labels", attributes={"ome": {"version": _OME_VERSION, "labels": names}})
    for n, name in enumerate(names):
        held = [(label, roi) for (layer, label), roi in zip(places, range(len(places)), strict=True) if layer == n]
        of_roi = np.zeros(len(mask.rois), code_dtype(len(held) + 1))
        for label, roi in held:
            of_roi[roi] = label
        layer = labels.create_group(name, attributes={"ome": _ome_attributes(name, mask, held)})
        _create(layer, "0", apply_lut((mask.members * of_roi).max(axis=1, initial=0).astype(of_roi.dtype), mask.codes))


def _ome_attributes(name: str, mask: RoiMask, held: Sequence[tuple[int, int]]) -> dict[str, Any]:
    """Return the multiscales and image-label metadata of a layer (OME-NGFF 0.5)."""
    geometry = mask.geometry
    transformations = [
        {"type": "scale", "scale": geometry.spacing_dhw_mm.tolist()},
        {"type": "translation", "translation": (geometry.directions_dhw @ geometry.origin_lps_mm).tolist()},
    ]
    described = {
        "colors": [{"label-value": label, "rgba": [*rgb, 255]} for label, roi in held if (rgb := mask.rois[roi].rgb)],
        "properties": [{"label-value": label, "name": mask.rois[roi].name} for label, roi in held],
    }
    return {
        "version": _OME_VERSION,
        "multiscales": [
            {
                "name": name,
                "axes": [{"name": axis, "type": "space", "unit": "millimeter"} for axis in "zyx"],
                "datasets": [{"path": "0", "coordinateTransformations": transformations}],
            }
        ],
        "image-label": {key: entries for key, entries in described.items() if entries},  # none may be empty
    }
