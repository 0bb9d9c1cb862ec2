"""``.seg.nrrd``: label images in layers, with names, colours and codes, as 3D Slicer reads and writes them.

NRRD0004 with the layers as fastest axis; geometry in LPS; the voxels are one gzip stream. ROIs that share voxels lie in
different layers. Sources: teem's definition of NRRD, and Slicer's developer guide, "Segmentation file format".
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from gpuprep.codes import apply_rows
from gpuprep.geometry import VolumeGeometry
from gpuprep.masks import TISSUE, Code, Roi, RoiMask, assign_layers, from_layers, list_labels
from gpuprep.writers.atomic import replacing
from gpuprep.writers.colours import make_colour, to_rgb
from gpuprep.writers.masks.description import KEY, describe, parse_geometry, parse_rois, reading
from gpuprep.writers.nifti import read_to_end

#: Labels of a layer: one byte a voxel.
_LAYER_LIMIT = 255
#: isal level: gzip's ratio on labels at ten times zlib's speed.
_LEVEL = 1
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
#: Encoding → whether it is gzip; other ones are not read.
_ENCODINGS = {"raw": False, "gzip": True, "gz": True}
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
            layered = np.empty((*mask.codes.shape[1:], layers), np.uint8)
            for plane in mask.codes:
                apply_rows(lut, plane, layered)
                stream.write(layered.data.cast("B"))


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
        pairs |= _describe_segment(n, roi)
        pairs |= {
            f"Segment{n}_{key}": value
            for key, value in {"Extent": extent, "LabelValue": str(label), "Layer": str(layer)}.items()
        }
    lines = [f"{key}: {value}" for key, value in fields.items()]
    lines += [f"{key}:=" + value.replace("\\", "\\\\") for key, value in pairs.items()]
    return "\n".join(["NRRD0004", *lines, "", ""])


def _describe_segment(n: int, roi: Roi) -> dict[str, str]:
    """Return the pairs that say what segment n is, apart from where it lies."""
    entries = {
        "ID": f"Segment_{n + 1}",
        "Name": _one_line(roi.name),
        "NameAutoGenerated": "0",
        "Color": " ".join(repr(v / 255) for v in roi.rgb or make_colour(n)),
        "ColorAutoGenerated": "0" if roi.rgb else "1",
        "Tags": _tags(roi),
    }
    return {f"Segment{n}_{key}": value for key, value in entries.items()}


def _vector(values: Sequence[float]) -> str:
    return f"({','.join(map(repr, values))})"


def _one_line(text: str) -> str:
    return _CONTROL.sub(" ", text).encode("utf-8", "replace").decode().strip()


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

    The header's own fields say what is in the file. Our description adds to those segments of which they still say
    what it tells: another program may have changed them.

    Raises
    ------
    HeaderError
        As `reading`.
    RoiError
        ``label-unknown``: voxels of a label that no segment has.
    """
    with reading(path), path.open("rb") as file:
        fields, pairs = _read_header(file)
        layout = _Layout.parse(fields)
        slices = _read_slices(file, layout)
        described: tuple[Roi, ...] = ()
        geometry = layout.geometry
        if KEY in pairs:
            described = parse_rois(pairs[KEY])
            stated = parse_geometry(pairs[KEY])
            geometry = stated if stated.same_grid(geometry) else geometry
        if not any(key.startswith("Segment0_") for key in pairs):
            return _from_plain_labels(np.stack(list(slices)), geometry)
        rois: list[Roi] = []
        places: list[tuple[int, int]] = []
        while f"Segment{len(rois)}_ID" in pairs:
            n = len(rois)
            roi = _parse_segment(n, pairs)
            if n < len(described) and roi == _parse_segment(n, _describe_segment(n, described[n])):
                roi = described[n]
            # Slicer's files without layers in their header have a layer a segment
            layer = int(pairs.get(f"Segment{n}_Layer", n if layout.layers > 1 else 0))
            if not 0 <= layer < layout.layers:
                raise ValueError(f"segment {roi.name!r} is in layer {layer} of {layout.layers}, counted from 0")
            label = int(pairs.get(f"Segment{n}_LabelValue", 1))
            if label < 1:
                raise ValueError(f"segment {roi.name!r} has the label {label}, which is no segment's")
            rois.append(roi)
            places.append((layer, label))
        return from_layers(slices, layout.layers, places, rois, geometry)


def _from_plain_labels(array: NDArray[Any], geometry: VolumeGeometry) -> RoiMask:
    layers = array.shape[3]
    places = [(layer, label) for layer in range(layers) for label in list_labels(array[..., layer])]
    rois = [Roi(n, f"label {label}") for n, (_, label) in enumerate(places, 1)]
    return from_layers(array, layers, places, rois, geometry)


def _read_header(file: IO[bytes]) -> tuple[dict[str, str], dict[str, str]]:
    """Return fields and key/value pairs; `file` is then where the voxels begin."""
    if not file.readline().startswith(b"NRRD"):
        raise ValueError("it does not begin with an NRRD header")
    fields, pairs = {}, {}
    for content in file:
        line = content.rstrip(b"\r\n").decode("utf-8", "replace")
        if not line:
            break
        if line.startswith("#"):
            continue
        key, separator, value = line.partition(":=")
        if separator:
            pairs[key] = re.sub(r"\\(\\|n)", lambda m: "\\" if m[1] == "\\" else "\n", value)
        else:
            key, _, value = line.partition(":")
            fields[key.strip().lower()] = value.strip()
    return fields, pairs


def _read_slices(file: IO[bytes], layout: _Layout) -> Iterator[NDArray[Any]]:
    """Yield the labels of each slice, shape (H, W, layers)."""
    from isal import igzip

    depth, height, width = layout.geometry.shape
    shape = (height, width, layout.layers)
    size = math.prod(shape) * layout.dtype.itemsize
    with igzip.GzipFile(fileobj=file, mode="rb") if layout.is_compressed else nullcontext(file) as stream:
        for _ in range(depth):
            labels = np.frombuffer(stream.read(size), layout.dtype).reshape(shape)
            if layout.dtype.kind == "i" and labels.min() < 0:
                raise ValueError("it holds labels below 0")
            yield labels
        read_to_end(stream)


@dataclass(frozen=True, slots=True)
class _Layout:
    """How the voxels are stored, layers fastest, and where they lie."""

    layers: int
    dtype: np.dtype[Any]
    is_compressed: bool
    geometry: VolumeGeometry

    @classmethod
    def parse(cls, fields: dict[str, str]) -> _Layout:
        needed = ("type", "sizes", "encoding", "space", "space directions", "space origin")
        if missing := [name for name in needed if name not in fields]:
            raise ValueError(f"its header does not tell {', '.join(missing)}")
        if "data file" in fields or "datafile" in fields:
            raise ValueError("its voxels are in another file")
        known: dict[str, Collection[str]] = {"type": _TYPES, "encoding": _ENCODINGS, "space": _SPACES}
        for name, understood in (known | {"byte skip": ("0",), "line skip": ("0",)}).items():
            if name in fields and fields[name].lower() not in understood:
                raise ValueError(f"{name} {fields[name]!r} is not one of {', '.join(understood)}")
        sizes = tuple(int(n) for n in fields["sizes"].split())
        vectors = re.findall(r"none|\([^)]*\)", fields["space directions"])
        is_listed = len(sizes) == 4
        if len(vectors) != len(sizes) or len(sizes) not in (3, 4) or [v == "none" for v in vectors] != [
            True, False, False, False
        ][-len(sizes) :]:  # fmt: skip
            raise ValueError(f"axes {fields['space directions']} are not a volume, nor layers of one, layers first")
        affine = np.eye(4)
        sign = np.array(_SPACES[fields["space"].lower()])
        for column, vector in zip((3, 2, 1, 0), (fields["space origin"], *vectors[is_listed:]), strict=True):
            affine[:3, column] = sign * np.array([float(v) for v in vector.strip("()").split(",")])
        dtype = np.dtype(_TYPES[fields["type"].lower()])
        width, height, depth = sizes[-3:]
        return cls(
            sizes[0] if is_listed else 1,
            dtype.newbyteorder(">" if fields.get("endian", "").lower() == "big" else "<"),
            _ENCODINGS[fields["encoding"].lower()],
            VolumeGeometry((depth, height, width), affine),
        )


def _parse_segment(n: int, pairs: dict[str, str]) -> Roi:
    """Return what the header's pairs say of segment n."""
    name = pairs.get(f"Segment{n}_Name", pairs[f"Segment{n}_ID"])
    colour = pairs.get(f"Segment{n}_Color", "").split()
    rgb = None
    if len(colour) == 3 and pairs.get(f"Segment{n}_ColorAutoGenerated", "0") != "1":
        rgb = to_rgb(colour)
    return Roi(n + 1, name, rgb, **_parse_tags(pairs.get(f"Segment{n}_Tags", "")))


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
