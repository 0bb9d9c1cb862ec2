"""Planes of a Siemens mosaic: the slices of one time point as tiles of one image.

What the standard header does not say is in the manufacturer's private CSA header, here read directly: a table of named
elements, each a list of texts (layout as published in nibabel's "Siemens format DICOM with CSA header").
"""

from __future__ import annotations

import math
import struct
from dataclasses import replace

import numpy as np

from gpuprep.dicom.datasets import quiet_pydicom
from gpuprep.dicom.header import InstanceHeader
from gpuprep.dicom.multiframe import read_dataset
from gpuprep.dicom.planes import Plane, place, traits_of, usable_spacing
from gpuprep.errors import GeometryError
from gpuprep.geometry import Float

#: Image header of the CSA block and the number of images in the mosaic, with the private creators they belong to.
_CSA_GROUP, _CSA_CREATOR, _CSA_IMAGE_HEADER = 0x0029, "SIEMENS CSA HEADER", 0x10
_MR_GROUP, _MR_CREATOR, _TILE_COUNT = 0x0019, "SIEMENS MR HEADER", 0x0A
#: Their elements and creators in any of the blocks that a creator may have taken (PS3.5 7.8.1).
_PRIVATE_ELEMENTS = tuple(
    group << 16 | element
    for group, place in ((_MR_GROUP, _TILE_COUNT), (_CSA_GROUP, _CSA_IMAGE_HEADER))
    for block in range(0x10, 0x100)
    for element in (block, block << 8 | place)
)

#: Value of Image Type by which United Imaging tells a volume in one image, of the slices in (0065,xx51).
_UIH_GRID = "VFRAME"

_CSA_MAGIC = b"SV10"
#: name, multiplicity, VR, syngo data type, item count, delimiter
_CSA_ELEMENT = struct.Struct("<64si4siii")
_CSA_ITEM = struct.Struct("<4i")
#: No image header of a real scanner has more elements, or longer ones.
_CSA_MOST_ELEMENTS = 1024


def is_mosaic(instance: InstanceHeader) -> bool:
    """Whether an instance is a mosaic, by its Image Type: of Siemens, or a grid of United Imaging."""
    return not {"MOSAIC", _UIH_GRID}.isdisjoint(instance.image_type.split("\\"))


@quiet_pydicom()
def planes_of_mosaic(instance: InstanceHeader) -> tuple[Plane, ...]:
    """Return the planes of the tiles, in the order of the tiles.

    Image Position (Patient) of a mosaic is that of a plane as large as the whole mosaic and centred on the slice;
    slices follow each other along the CSA slice normal, which may point against row × column.

    Raises
    ------
    GeometryError
        ``mosaic-header``: the CSA header is absent or does not give the number of slices and their normal.
        ``mosaic-unsupported``: the tiles of a grid of United Imaging are not read.
        ``geometry-missing``, ``attribute-invalid``: as `planes.place`.
    HeaderError
        ``unreadable``: pydicom cannot read the file.
    """
    if _UIH_GRID in instance.image_type.split("\\"):
        raise GeometryError(
            f"slices as tiles of one image of {instance.rows} × {instance.columns} pixels (GRID of United Imaging)",
            code="mosaic-unsupported",
            subject=instance.path,
            hint="export the series again as one image a slice",
        )
    elements = _read_csa(instance)
    count = _tile_count(instance, elements)
    tiles_a_row = math.ceil(math.sqrt(count))
    rows, rows_over = divmod(instance.rows or 0, tiles_a_row)
    columns, columns_over = divmod(instance.columns or 0, tiles_a_row)
    spacing_mm = usable_spacing(instance.spacing_between_slices_mm, instance.slice_thickness_mm)
    if rows_over or columns_over or spacing_mm is None:
        tiles = f"{tiles_a_row} × {tiles_a_row} tiles in {instance.rows} × {instance.columns} pixels"
        raise _bad_mosaic(instance, f"{count} slices, {spacing_mm} mm apart, as {tiles}")
    whole = place(
        instance,
        0,
        position=instance.image_position_lps_mm,
        orientation=instance.image_orientation,
        pixel_spacing=instance.pixel_spacing_mm,
        slice_spacing_mm=spacing_mm,
        rescale=(instance.rescale_slope, instance.rescale_intercept),
        traits=traits_of(instance),
    )
    normal, down, right = whole.axes_dhw
    between_rows, between_columns = whole.pixel_spacing_mm
    first = (
        np.array(whole.position_lps_mm)
        + right * between_columns * (whole.columns - columns) / 2
        + down * between_rows * (whole.rows - rows) / 2
    )
    step = normal * spacing_mm
    if _slice_normal(instance, elements) @ step < 0:
        step = -step
    positions = (first + np.arange(count)[:, None] * step).tolist()
    return tuple(
        replace(whole, index=n, position_lps_mm=(x, y, z), rows=rows, columns=columns, tiles_a_row=tiles_a_row)
        for n, (x, y, z) in enumerate(positions)
    )


def parse_csa(data: bytes) -> dict[str, tuple[str, ...]]:
    """Read the elements of a CSA header: name → texts.

    Raises
    ------
    ValueError
        It is no CSA header of version 2, or it is truncated.
    """
    if data[:4] != _CSA_MAGIC:
        raise ValueError("not a CSA header of version 2")
    try:
        (count,) = struct.unpack_from("<i", data, 8)
        if not 0 <= count <= _CSA_MOST_ELEMENTS:
            raise ValueError(f"{count} elements")
        offset, elements = 16, {}
        for _ in range(count):
            name, _, _, _, items, _ = _CSA_ELEMENT.unpack_from(data, offset)
            offset += _CSA_ELEMENT.size
            texts = []
            for _ in range(items):
                length = _CSA_ITEM.unpack_from(data, offset)[1]
                offset += _CSA_ITEM.size
                if not 0 <= length <= len(data) - offset:
                    raise ValueError(f"an item of {length} bytes")
                texts.append(_text(data[offset : offset + length]))
                offset += (length + 3) // 4 * 4
            elements[_text(name)] = tuple(text for text in texts if text)
    except struct.error as error:
        raise ValueError(f"truncated: {error}") from error
    return elements


def _text(data: bytes) -> str:
    return data.split(b"\0", 1)[0].decode("latin-1").strip()


def _read_csa(instance: InstanceHeader) -> dict[str, tuple[str, ...]]:
    dataset = read_dataset(instance, _PRIVATE_ELEMENTS)
    try:
        elements = parse_csa(dataset.private_block(_CSA_GROUP, _CSA_CREATOR)[_CSA_IMAGE_HEADER].value or b"")
    except (KeyError, ValueError) as error:
        raise _bad_mosaic(instance, f"CSA image header (0029,xx10): {error}") from error
    try:
        tile_count = dataset.private_block(_MR_GROUP, _MR_CREATOR)[_TILE_COUNT].value
    except KeyError:
        return elements
    return elements | {"NumberOfImagesInMosaic": (str(tile_count),)}


def _tile_count(instance: InstanceHeader, elements: dict[str, tuple[str, ...]]) -> int:
    texts = elements.get("NumberOfImagesInMosaic", ())
    if len(texts) != 1 or not texts[0].isdecimal() or not 1 <= int(texts[0]) <= (instance.rows or 0):
        raise _bad_mosaic(instance, f"NumberOfImagesInMosaic is {list(texts)}")
    return int(texts[0])


def _slice_normal(instance: InstanceHeader, elements: dict[str, tuple[str, ...]]) -> Float:
    texts = elements.get("SliceNormalVector", ())
    try:
        normal = np.array([float(text) for text in texts])
    except ValueError as error:
        raise _bad_mosaic(instance, f"SliceNormalVector {list(texts)}") from error
    if normal.shape != (3,) or not np.isfinite(normal).all():
        raise _bad_mosaic(instance, f"SliceNormalVector {list(texts)}")
    return normal


def _bad_mosaic(instance: InstanceHeader, found: str) -> GeometryError:
    return GeometryError(
        f"mosaic with {found}",
        code="mosaic-header",
        subject=instance.path,
        hint="export the series again without anonymising private elements (0019) and (0029)",
    )
