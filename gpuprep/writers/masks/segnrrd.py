"""``.seg.nrrd``: label images in layers, with names, colours and codes, as 3D Slicer reads and writes them.

NRRD0004 with the layers as fastest axis; geometry in LPS; the voxels are one gzip stream. ROIs that share voxels lie in
different layers. Sources: teem's definition of NRRD, and Slicer's developer guide, "Segmentation file format".
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuprep.errors import HeaderError
from gpuprep.geometry import VolumeGeometry
from gpuprep.masks import TISSUE, Code, Roi, RoiMask, assign_layers, from_layers
from gpuprep.writers.atomic import replacing
from gpuprep.writers.masks.description import KEY, describe, parse_geometry, parse_rois, reading

#: Labels of a layer: one byte a voxel.
_LAYER_LIMIT = 255
#: isal level: gzip's ratio on labels at ten times zlib's speed.
_LEVEL = 1
#: Voxels expanded to layers at once: they stay in the cache.
_WORD_VOXELS = 8
#: What separates the parts of a tag; the format has no way to write them within one.
_DELIMITERS = re.compile(r"[|:~^]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]+")

_TYPES = {
    "unsigned char": "u1", "uchar": "u1", "uint8": "u1", "uint8_t": "u1",
    "signed char": "i1", "int8": "i1", "int8_t": "i1",
    "short": "i2", "short int": "i2", "signed short": "i2", "int16": "i2", "int16_t": "i2",
    "unsigned short": "u2", "ushort": "u2", "uint16": "u2", "uint16_t": "u2",
    "int": "i4", "signed int": "i4", "int32": "i4", "int32_t": "i4",
    "unsigned int": "u4", "uint": "u4", "uint32": "u4", "uint32_t": "u4",
}  # fmt: skip
#: Space → what turns its axes into LPS.
_SPACES = {
    "left-posterior-superior": (1.0, 1.0, 1.0),
    "lps": (1.0, 1.0, 1.0),
    "right-anterior-superior": (-1.0, -1.0, 1.0),
    "ras": (-1.0, -1.0, 1.0),
}


def write(mask: RoiMask, path: Path) -> None:
    """Write a mask; the bytes depend on nothing but the mask.

    Raises
    ------
    WriteError
        As `replacing`.
    """
    from isal import igzip

    places = assign_layers(mask, _LAYER_LIMIT)
    layers = 1 + max((layer for layer, _ in places), default=0)
    lut = np.zeros((len(mask.table), layers), np.uint8)
    for roi, (layer, label) in enumerate(places):
        lut[mask.members[:, roi], layer] = label
    with replacing(path) as part, part.open("wb") as file:
        file.write(_header(mask, places, layers).encode())
        with igzip.GzipFile("", "wb", _LEVEL, file, mtime=0) as stream:
            for block in _expand(mask.codes, lut):
                stream.write(block)


def _expand(codes: NDArray[np.unsignedinteger], lut: NDArray[np.uint8]) -> Iterator[memoryview]:
    """Yield ``lut[codes]`` slice by slice, touching only words of eight voxels that hold any ROI."""
    layers = lut.shape[1]
    rows = lut.view(f"V{layers}").reshape(-1)
    size = codes[0].size
    padded = -(-size // _WORD_VOXELS) * _WORD_VOXELS
    source = np.zeros(padded, codes.dtype)
    words = source.view(np.uint64).reshape(-1, codes.itemsize)
    out = np.zeros((padded // _WORD_VOXELS, _WORD_VOXELS), rows.dtype)
    filled = np.zeros(0, np.intp)
    for plane in codes:
        out[filled] = rows[0]
        source[:size] = plane.reshape(-1)
        filled = np.flatnonzero(words.any(axis=1))
        out[filled] = rows[source.reshape(-1, _WORD_VOXELS)[filled]]
        yield out.view(np.uint8).reshape(-1)[: size * layers].data


def _header(mask: RoiMask, places: Sequence[tuple[int, int]], layers: int) -> str:
    geometry = mask.geometry
    depth, height, width = geometry.shape
    columns = geometry.index_to_lps[:3, ::-1].T.tolist()  # origin, then w, h, d
    origin, directions = columns[0], columns[1:]
    listed = layers > 1  # one layer is a plain volume, which more programs open
    fields = {
        "type": "unsigned char",
        "dimension": 3 + listed,
        "space": "left-posterior-superior",
        "sizes": f"{f'{layers} ' * listed}{width} {height} {depth}",
        "space directions": " ".join([*["none"] * listed, *map(_vector, directions)]),
        "kinds": " ".join([*["list"] * listed, "domain", "domain", "domain"]),
        "encoding": "gzip",
        "space origin": _vector(origin),
    }
    pairs = {
        "Segmentation_ContainedRepresentationNames": "Binary labelmap|",
        "Segmentation_ConversionParameters": "",
        "Segmentation_MasterRepresentation": "Binary labelmap",
        "Segmentation_ReferenceImageExtentOffset": "0 0 0",
        KEY: describe(mask),
    }
    # Slicer before 5.8 crops a layer to the extent of its first segment, so each says the whole image.
    extent = f"0 {width - 1} 0 {height - 1} 0 {depth - 1}"
    for n, (roi, (layer, label)) in enumerate(zip(mask.rois, places, strict=True)):
        pairs |= {
            f"Segment{n}_{key}": value
            for key, value in {
                "ID": _segment_id(n),
                "Name": _one_line(roi.name),
                "NameAutoGenerated": "0",
                "Color": " ".join(repr(v / 255) for v in roi.rgb or _default_rgb(n)),
                "ColorAutoGenerated": "0" if roi.rgb else "1",
                "Extent": extent,
                "LabelValue": str(label),
                "Layer": str(layer),
                "Tags": _tags(roi),
            }.items()
        }
    lines = [f"{key}: {value}" for key, value in fields.items()]
    lines += [f"{key}:=" + value.replace("\\", "\\\\") for key, value in pairs.items()]
    return "\n".join(["NRRD0004", *lines, "", ""])


def _segment_id(n: int) -> str:
    return f"Segment_{n + 1}"


def _vector(values: Sequence[float]) -> str:
    return f"({','.join(map(repr, values))})"


def _one_line(text: str) -> str:
    return _CONTROL.sub(" ", text).encode("utf-8", "replace").decode().strip()


def _default_rgb(n: int) -> tuple[int, int, int]:
    """Return a colour for a ROI that has none: hues by the golden ratio, so that neighbours differ."""
    import colorsys

    red, green, blue = colorsys.hsv_to_rgb(n * 0.618033988749895 % 1, 0.7, 0.9)
    return round(red * 255), round(green * 255), round(blue * 255)


def _tags(roi: Roi) -> str:
    def code(value: Code | None) -> str:
        parts = (value.scheme, value.value, value.meaning) if value else ("", "", "")
        return "^".join(_DELIMITERS.sub(" ", _one_line(part)) for part in parts)

    def first(codes: Sequence[Code]) -> Code | None:
        return codes[0] if codes else None

    entry = "~".join(
        [
            "Segmentation category and type - DICOM master list",
            code(roi.category or TISSUE),
            code(roi.type or TISSUE),
            code(first(roi.type_modifiers)),
            "Anatomic codes - DICOM master list",
            code(roi.region),
            code(first(roi.region_modifiers)),
        ]
    )
    return f"Segmentation.Status:inprogress|TerminologyEntry:{entry}|"


def read(path: Path) -> RoiMask:
    """Read a ``.seg.nrrd`` of any writer, or a plain label ``.nrrd``, whose labels become ROIs ``label N``.

    The header's own fields say what is in the file. Our description adds to the segments, in order, when their names
    are still those it tells: another program may have changed them.

    Raises
    ------
    HeaderError
        As `reading`.
    RoiError
        ``label-unknown``: voxels of a label that no segment has.
    """
    from isal import igzip

    with reading(path):
        data = path.read_bytes()
        fields, pairs, start = _parse_header(data)
        encoding = fields.get("encoding", "raw")
        if encoding in ("gzip", "gz"):
            content = igzip.decompress(data[start:])
        elif encoding == "raw":
            content = data[start:]
        else:
            raise HeaderError(f"encoding {encoding!r} is not gzip or raw", code="mask-unreadable", subject=str(path))
        layout = _Layout.parse(fields)
        array = np.frombuffer(content, layout.dtype, int(np.prod(layout.sizes))).reshape(layout.sizes[::-1])
        segments = _parse_segments(pairs)
        geometry = layout.geometry
        if KEY in pairs:
            stated = parse_geometry(pairs[KEY])
            geometry = stated if stated.same_grid(geometry) else geometry
        array = array if array.ndim == 4 else array[..., None]
        if not any(key.startswith("Segment0_") for key in pairs):
            return _from_plain_labels(array, geometry)
        rois: tuple[Roi, ...] = tuple(roi for roi, _ in segments)
        if KEY in pairs:
            described = parse_rois(pairs[KEY])
            if [_one_line(roi.name) for roi in described] == [roi.name for roi in rois]:
                rois = described
        return from_layers(np.moveaxis(array, 3, 1), [place for _, place in segments], rois, geometry)


def _from_plain_labels(array: NDArray[Any], geometry: VolumeGeometry) -> RoiMask:
    places = [
        (layer, label) for layer in range(array.shape[3]) for label in np.unique(array[..., layer]).tolist() if label
    ]
    rois = [Roi(n, f"label {label}") for n, (_, label) in enumerate(places, 1)]
    return from_layers(np.moveaxis(array, 3, 1), places, rois, geometry)


def _parse_header(data: bytes) -> tuple[dict[str, str], dict[str, str], int]:
    """Return fields, key/value pairs, and where the voxels begin."""
    end = re.search(rb"\r?\n\r?\n", data)
    if not data.startswith(b"NRRD") or end is None:
        raise ValueError("it does not begin with an NRRD header")
    fields, pairs = {}, {}
    for line in re.split(r"\r?\n", data[: end.start()].decode("utf-8", "replace"))[1:]:
        if line.startswith("#"):
            continue
        key, separator, value = line.partition(":=")
        if separator:
            pairs[key] = re.sub(r"\\(\\|n)", lambda m: "\\" if m[1] == "\\" else "\n", value)
        else:
            key, _, value = line.partition(":")
            fields[key.strip().lower()] = value.strip()
    if "data file" in fields or "datafile" in fields:
        raise ValueError("its voxels are in another file")
    return fields, pairs, end.end()


@dataclass(frozen=True, slots=True)
class _Layout:
    """Axes of the array, fastest first, and the grid of the volume."""

    sizes: tuple[int, ...]
    dtype: np.dtype[Any]
    geometry: VolumeGeometry

    @classmethod
    def parse(cls, fields: dict[str, str]) -> _Layout:
        sizes = tuple(int(n) for n in fields["sizes"].split())
        sign = np.array(_SPACES[fields["space"].lower()])
        vectors = re.findall(r"none|\([^)]*\)", fields["space directions"])
        is_listed = len(sizes) == 4
        if len(vectors) != len(sizes) or len(sizes) not in (3, 4) or [v == "none" for v in vectors] != [
            True, False, False, False
        ][-len(sizes) :]:  # fmt: skip
            raise ValueError(f"axes {fields['space directions']} are not a volume, nor layers of one, layers first")
        affine = np.eye(4)
        for column, vector in zip((3, 2, 1, 0), (fields["space origin"], *vectors[is_listed:]), strict=True):
            affine[:3, column] = sign * np.array([float(v) for v in vector.strip("()").split(",")])
        dtype = np.dtype(_TYPES[fields["type"]])
        width, height, depth = sizes[-3:]
        return cls(
            sizes,
            dtype.newbyteorder(">" if fields.get("endian") == "big" else "<"),
            VolumeGeometry((depth, height, width), affine),
        )


def _parse_segments(pairs: dict[str, str]) -> list[tuple[Roi, tuple[int, int]]]:
    """Return ROI, and layer and label, of each segment; Slicer's defaults where something is not said."""
    segments = []
    n = 0
    while f"Segment{n}_ID" in pairs:
        name = pairs.get(f"Segment{n}_Name", pairs[f"Segment{n}_ID"])
        colour = pairs.get(f"Segment{n}_Color", "").split()
        rgb = None
        if len(colour) == 3 and pairs.get(f"Segment{n}_ColorAutoGenerated", "0") != "1":
            red, green, blue = (min(255, max(0, round(float(v) * 255))) for v in colour)
            rgb = (red, green, blue)
        codes = _parse_tags(pairs.get(f"Segment{n}_Tags", ""))
        place = int(pairs.get(f"Segment{n}_Layer", n)), int(pairs.get(f"Segment{n}_LabelValue", 1))
        segments.append((Roi(n + 1, name, rgb, **codes), place))
        n += 1
    return segments


def _parse_tags(text: str) -> dict[str, Any]:
    match = re.search(r"TerminologyEntry:([^|]*)", text)
    parts = match[1].split("~") if match else []
    if len(parts) < 7:
        return {}
    codes = [_parse_code(part) for part in parts]
    category, kind, modifier, _, region, region_modifier = codes[1:7]
    return {
        "category": category,
        "type": kind,
        "type_modifiers": (modifier,) if modifier else (),
        "region": region,
        "region_modifiers": (region_modifier,) if region_modifier else (),
    }


def _parse_code(text: str) -> Code | None:
    scheme, value, meaning = [*text.split("^"), "", ""][:3]
    return Code(scheme, value, meaning) if value else None
