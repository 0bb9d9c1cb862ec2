"""One label NIfTI: value n is the n-th ROI; only for ROIs that do not overlap.

Names and colours go into a header extension as the label table of Caret and Connectome Workbench, which
TotalSegmentator reads and writes too; our description into a comment. Label images of others are read as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from gpuprep.codes import code_dtype
from gpuprep.geometry import VolumeGeometry
from gpuprep.masks import Roi, RoiMask, from_layers, list_labels, to_label_image
from gpuprep.writers.colours import to_rgb
from gpuprep.writers.masks.description import describe, parse_geometry, parse_rois, reading
from gpuprep.writers.nifti import LABEL_LEVEL, Extension, NiftiFile, read_nifti, write_nifti

#: NIFTI_ECODE_COMMENT and NIFTI_ECODE_CARET (nifti1.h).
COMMENT, CARET = 6, 30
#: Colour of a ROI that has none, as in TotalSegmentator's tables.
_WHITE = (255, 255, 255)
_DESCRIPTION_START = b'{"version"'
#: Labels that a program stored by a slope, as nibabel does with numbers it was given as float64, are not quite whole.
LABEL_ROUNDING = 0.01
#: A description holds its geometry in float64, the header in float32: they tell of one grid within this, in mm.
HEADER_TOLERANCE_MM = 0.01


def write(mask: RoiMask, path: Path) -> None:
    """Write a mask.

    Raises
    ------
    OverlapError
        ``labels-overlap``: ROIs share voxels; the message names the pairs and counts the voxels.
    WriteError
        As `gpuprep.writers.nifti.write_nifti`.
    """
    labels = to_label_image(mask, hint="other containers keep overlaps, --on-overlap last-wins lets the last ROI win")
    extensions = name_labels(mask)
    write_nifti(path, labels, mask.geometry, level=LABEL_LEVEL, threads=1, root=path.parent, extensions=extensions)


def read(path: Path) -> RoiMask:
    """Read a label image; ROIs are named by its label table, else ``label N`` for each value there is.

    Raises
    ------
    HeaderError
        As `reading`; ``mask-unreadable`` also for values that are no labels.
    RoiError
        ``label-unknown``: voxels of a label that the table lacks.
    """
    with reading(path):
        file = read_nifti(path)
        labels = as_labels(file)
        tables = [e.content for e in file.extensions if b"<LabelTable>" in e.content]
        values, rois = _parse_label_table(tables[0]) if tables else _plain_labels(labels)
        text = stated_description(file)
        if text is not None:
            described = parse_rois(text)
            if _parse_label_table(_label_table(described)) == (values, rois):  # else another program has changed it
                rois = described
        geometry = stated_geometry(file)
        return from_layers(labels[..., None], 1, [(0, value) for value in values], rois, geometry)


def name_labels(mask: RoiMask) -> tuple[Extension, ...]:
    """Return the extensions of a label image of `mask`: label table and description."""
    return Extension(CARET, _label_table(mask.rois)), Extension(COMMENT, describe(mask).encode())


def as_labels(file: NiftiFile) -> NDArray[np.unsignedinteger]:
    """Return the voxels as labels, of an unsigned type of at most four bytes.

    Raises
    ------
    ValueError
        They are negative, larger than such a type holds, or not whole numbers.
    """
    values = file.array
    if values.dtype.kind == "f":
        labels = np.rint(values)
        with np.errstate(invalid="ignore"):  # NaN and infinity are near to nothing
            are_labels = np.abs(values - labels) <= LABEL_ROUNDING
        if not are_labels.all():
            raise ValueError("its values are not labels")
        values = labels
    least, largest = values.min(), values.max()
    if least < 0 or largest > np.iinfo(np.uint32).max:
        raise ValueError(f"its values, {least} to {largest}, are not labels")
    if values.dtype.kind == "u" and values.itemsize <= 4:
        return values
    return values.astype(code_dtype(int(largest) + 1))


def stated_description(file: NiftiFile) -> str | None:
    """Return our description, when the file has one."""
    for extension in file.extensions:
        if extension.code == COMMENT and extension.content.startswith(_DESCRIPTION_START):
            return extension.content.decode()
    return None


def stated_geometry(file: NiftiFile) -> VolumeGeometry:
    """Return the grid that our description tells, when the header still says the same; else the header's."""
    text = stated_description(file)
    if text is not None and (stated := parse_geometry(text)).same_grid(file.geometry, HEADER_TOLERANCE_MM):
        return stated
    return file.geometry


def _label_table(rois: Sequence[Roi]) -> bytes:
    """Return the label table in Caret's XML."""
    root = ElementTree.Element("CaretExtension")
    volume = ElementTree.SubElement(root, "VolumeInformation", Index="0")
    table = ElementTree.SubElement(volume, "LabelTable")
    for value, roi in enumerate(rois, 1):
        red, green, blue = (str(c / 255) for c in roi.rgb or _WHITE)
        label = ElementTree.SubElement(table, "Label", Key=str(value), Red=red, Green=green, Blue=blue, Alpha="1")
        label.text = _xml_text(roi.name)
    ElementTree.SubElement(volume, "StudyMetaDataLinkSet")
    ElementTree.SubElement(volume, "VolumeType").text = "Label"
    return bytes(ElementTree.tostring(root, "utf-8", xml_declaration=True))


def _xml_text(text: str) -> str:
    """Return a text without the characters that XML 1.0 cannot hold."""
    allowed = (c if c.isprintable() or c == " " else " " for c in text)
    return "".join(allowed).encode("utf-8", "replace").decode().strip()


def _parse_label_table(xml: bytes) -> tuple[list[int], tuple[Roi, ...]]:
    """Return values and ROIs of the label table, without the background."""
    values, rois = [], []
    for label in ElementTree.fromstring(xml).iter("Label"):
        value = int(label.attrib["Key"])
        if value > 0:
            rgb = to_rgb(label.attrib.get(key, "1") for key in ("Red", "Green", "Blue"))
            values.append(value)
            rois.append(Roi(value, (label.text or "").strip(), None if rgb == _WHITE else rgb))
    return values, tuple(rois)


def _plain_labels(labels: NDArray[np.unsignedinteger]) -> tuple[list[int], tuple[Roi, ...]]:
    values = list_labels(labels)
    return values, tuple(Roi(v, f"label {v}") for v in values)
