"""The CSA header against nibabel's reader, and the tiles of a mosaic against hand-computed places."""

from __future__ import annotations

import struct
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset

from gpuprep.dicom.header import InstanceHeader
from gpuprep.dicom.mosaic import is_mosaic, parse_csa, planes_of_mosaic
from gpuprep.dicom.stack import build_stacks, planes_of
from gpuprep.errors import CaseError, GeometryError

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def csa(elements: Mapping[str, Sequence[str]]) -> bytes:
    """Return a CSA header of version 2 with these elements."""
    data = b"SV10" + bytes([4, 3, 2, 1]) + struct.pack("<ii", len(elements), 77)
    for name, texts in elements.items():
        data += struct.pack("<64si4siii", name.encode(), len(texts), b"FD\0\0", 4, len(texts), 77)
        for text in texts:
            item = text.encode() + b"\0"
            data += struct.pack("<4i", len(item), len(item), 77, len(item)) + item + b"\0" * (-len(item) % 4)
    return data


def mosaic(folder: Path, header: bytes | None, **changes: object) -> InstanceHeader:
    """Write a file with a CSA header and return the row of a 40 × 60 mosaic of tiles of 20 × 30 pixels."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    if header is not None:
        dataset.private_block(0x0029, "SIEMENS CSA HEADER", create=True).add_new(0x10, "OB", header)
    path = folder / "mosaic"
    dataset.save_as(path, enforce_file_format=False)
    row: dict[str, object] = {
        "path": str(path),
        "image_type": "ORIGINAL\\PRIMARY\\M\\MOSAIC",
        "rows": 40,
        "columns": 60,
        "image_position_lps_mm": (0.0, 0.0, 0.0),
        "image_orientation": AXIAL,
        "pixel_spacing_mm": (2.0, 1.0),
        "spacing_between_slices_mm": 5.0,
    }
    return InstanceHeader(**(row | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(("normal", "step_mm"), [(("0", "0", "1"), 5), (("0.0", "0.0", "-1.0"), -5)])
def test_places_of_tiles_by_hand(tmp_path: Path, normal: tuple[str, ...], step_mm: float):
    header = csa({"NumberOfImagesInMosaic": ["3"], "SliceNormalVector": normal})
    planes = planes_of_mosaic(mosaic(tmp_path, header))
    # the position in the header is off by half of what the mosaic is larger than a tile: 30 × 1 mm, 20 × 2 mm
    assert [plane.position_lps_mm for plane in planes] == [(15, 20, step_mm * n) for n in range(3)]
    assert [plane.index for plane in planes] == [0, 1, 2]
    assert {(plane.rows, plane.columns, plane.tiles_a_row) for plane in planes} == {(20, 30, 2)}


NORMAL = ["0", "0", "1"]
CT_PIXELS = {
    "bits_allocated": 16,
    "bits_stored": 12,
    "pixel_representation": 0,
    "samples_per_pixel": 1,
    "photometric_interpretation": "MONOCHROME2",
}


def test_mosaics_of_other_widths_make_no_volume_together(tmp_path: Path):
    """Their tiles have one size, but lie at other places of their images."""
    instances = []
    for count, size in ((3, (40, 60)), (9, (60, 90))):
        (tmp_path / str(count)).mkdir()
        header = csa({"NumberOfImagesInMosaic": [str(count)], "SliceNormalVector": NORMAL})
        position = (0.0, 0.0, float(count))
        changes = dict(CT_PIXELS, rows=size[0], columns=size[1], image_position_lps_mm=position)
        instances.append(mosaic(tmp_path / str(count), header, sop_instance_uid=f"1.{count}", **changes))
    stacks = build_stacks(instances)
    assert [(len(stack.frames), stack.tiles_a_row) for stack in stacks] == [(9, 3), (3, 2)]
    assert [finding.code for finding in stacks[0].findings] == ["mixed-layout"]


def test_the_header_may_lie_in_another_private_block(tmp_path: Path):
    header = csa({"NumberOfImagesInMosaic": ["3"], "SliceNormalVector": NORMAL})
    instance = mosaic(tmp_path, header)
    expected = planes_of_mosaic(instance)
    dataset = pydicom.dcmread(instance.path, force=True)
    del dataset[0x00290010], dataset[0x00291010]
    dataset.add_new(0x00290010, "LO", "SIEMENS MEDCOM HEADER")
    dataset.add_new(0x002900E2, "LO", "SIEMENS CSA HEADER")
    dataset.add_new(0x0029E210, "OB", header)
    dataset.save_as(instance.path, enforce_file_format=False)
    assert planes_of_mosaic(instance) == expected


@pytest.mark.parametrize(
    "header",
    [
        None,
        b"",
        b"junk",
        csa({}),
        csa({"SliceNormalVector": NORMAL}),
        csa({"NumberOfImagesInMosaic": ["0"], "SliceNormalVector": NORMAL}),
        csa({"NumberOfImagesInMosaic": ["-4"], "SliceNormalVector": NORMAL}),
        csa({"NumberOfImagesInMosaic": ["99999999"], "SliceNormalVector": NORMAL}),
        csa({"NumberOfImagesInMosaic": ["30"], "SliceNormalVector": NORMAL}),
        csa({"NumberOfImagesInMosaic": ["3"]}),
        csa({"NumberOfImagesInMosaic": ["3"], "SliceNormalVector": ["0", "0"]}),
        csa({"NumberOfImagesInMosaic": ["3"], "SliceNormalVector": ["0", "0", "nan"]}),
        csa({"NumberOfImagesInMosaic": ["3"], "SliceNormalVector": ["0", "0", "up"]}),
        csa({"NumberOfImagesInMosaic": ["3"], "SliceNormalVector": NORMAL})[:200],
        b"SV10" + bytes(4) + struct.pack("<ii", 2**30, 77),
    ],
)
def test_mosaic_without_a_usable_csa_header_is_refused(tmp_path: Path, header: bytes | None):
    with pytest.raises(GeometryError) as caught:
        planes_of_mosaic(mosaic(tmp_path, header))
    assert caught.value.code == "mosaic-header"


def test_mosaic_without_slice_spacing_is_refused(tmp_path: Path):
    header = csa({"NumberOfImagesInMosaic": ["3"], "SliceNormalVector": NORMAL})
    with pytest.raises(GeometryError) as caught:
        planes_of_mosaic(mosaic(tmp_path, header, spacing_between_slices_mm=None))
    assert caught.value.code == "mosaic-header"


def test_mosaic_that_is_gone_is_refused(tmp_path: Path):
    instance = mosaic(tmp_path, None)
    (tmp_path / "mosaic").unlink()
    with pytest.raises(CaseError) as caught:
        planes_of_mosaic(instance)
    assert caught.value.code == "unreadable"


def test_a_grid_of_united_imaging_is_refused():
    image_type = "ORIGINAL\\PRIMARY\\EPI\\VFRAME"
    with pytest.raises(GeometryError) as caught:
        planes_of(InstanceHeader(path="", image_type=image_type, rows=40, columns=60))
    assert caught.value.code == "mosaic-unsupported"


def test_is_mosaic():
    assert is_mosaic(InstanceHeader(path="", image_type="ORIGINAL\\PRIMARY\\M\\ND\\MOSAIC"))
    assert not is_mosaic(InstanceHeader(path="", image_type="ORIGINAL\\PRIMARY\\NOT_A_MOSAIC"))


@pytest.mark.parametrize("name", ["mosaic/In/ep2d_Asc_HF_10/IM-0009-0001.dcm", "12bit/In/12bitUnsigned.dcm"])
def test_csa_header_equals_nibabels(name: str, data_dir: Path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nibabel calls its reader experimental
        from nibabel.nicom.csareader import read

        data = pydicom.dcmread(data_dir / "dcm2niix-reference" / name)[0x0029, 0x1010].value
    expected = read(data)["tags"]
    found = parse_csa(data)
    assert found.keys() == expected.keys()
    for key in ("NumberOfImagesInMosaic", "SliceNormalVector", "SliceThickness", "EchoLinePosition"):
        assert [float(text) for text in found[key]] == expected[key]["items"]
    assert list(found["AcquisitionMatrixText"]) == expected["AcquisitionMatrixText"]["items"]
