"""Functional groups read natively, against pydicom."""

from __future__ import annotations

import random
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicom_bytes import EXPLICIT, IMPLICIT, element, part10, sequence

from gpuprep.dicom import multiframe, seg, synth
from gpuprep.dicom.groups import PER_FRAME, SHARED, read_groups
from gpuprep.dicom.header import InstanceHeader, read_headers
from gpuprep.errors import CaseError

#: Transfer syntaxes of real files that the native reader leaves to pydicom: big endian.
DECLINED = ("1.2.840.10008.1.2.2",)


def outcome(read: Any, source: Any) -> object:
    try:
        return read(source)
    except CaseError as error:
        return type(error), error.code, error.message, error.hint


def both_ways(monkeypatch: pytest.MonkeyPatch, header: InstanceHeader) -> tuple[object, object, int]:
    """Return what is read of a file with and without the native reader, and how often that took it."""
    natively: list[object] = []

    def spy(*arguments: Any) -> Any:
        natively.append(read_groups(*arguments))
        return natively[-1]

    found = []
    for reader in (spy, lambda *_: None):
        monkeypatch.setattr(multiframe, "read_groups", reader)
        monkeypatch.setattr(seg, "read_groups", reader)
        planes = outcome(multiframe.planes_of_multiframe, header)
        found.append((planes, outcome(seg.read_segmentation, header.path) if header.modality == "SEG" else None))
    return found[0], found[1], sum(one is not None for one in natively)


def test_real_files_give_what_pydicom_gives(data_dir: Path, monkeypatch: pytest.MonkeyPatch):
    files = [str(path) for path in sorted(data_dir.rglob("*")) if path.is_file()]
    rows = [row for row in read_headers(files) if row.has_frame_groups and not row.error_code]
    assert len(rows) > 50
    for row in rows:
        found, expected, natively = both_ways(monkeypatch, row)
        assert found == expected, row.path
        assert bool(natively) == (row.transfer_syntax_uid not in DECLINED), row.path


def encode(data: Any, path: Path, syntax: str, *, undefined: bool) -> bytes:
    """Write a data set in a transfer syntax, its sequences and items with or without a stated length."""

    def mark(item: Any) -> None:
        for one in item:
            if one.VR == "SQ":
                one.is_undefined_length = undefined
                for inner in one.value:
                    inner.is_undefined_length_sequence_item = undefined
                    mark(inner)

    mark(data)
    data.file_meta.TransferSyntaxUID = syntax
    synth.write_dataset(data, path)
    return path.read_bytes()


@pytest.fixture
def segmentation() -> Any:
    """A segmentation whose frames share some values, and have two segments on each slice."""
    grid = synth.axial_geometry((4, 5, 7), spacing_xyz_mm=(1.5, 2.0, 3.0))
    masks = np.random.default_rng(2).random((2, *grid.shape)) > 0.6
    segments = [synth.SegmentSpec(n, f"s{n}", mask) for n, mask in zip((3, 8), masks, strict=True)]
    return synth.build_segmentation(synth.plan_series(grid), segments)


@pytest.mark.parametrize("undefined", [False, True])
@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, "1.2.840.10008.1.2.8.1"])
def test_every_encoding_is_read_natively(
    tmp_path: Path, segmentation: Any, monkeypatch: pytest.MonkeyPatch, syntax: str, undefined: bool
):
    path = tmp_path / "seg"
    encode(segmentation, path, EXPLICIT if syntax.endswith(".8.1") else syntax, undefined=undefined)
    if syntax.endswith(".8.1"):  # only the frames are deflated
        path.write_bytes(path.read_bytes().replace(b"1.2.840.10008.1.2.1\0 "[:20], syntax.encode()[:20], 1))
    (row,) = read_headers([str(path)])
    assert row.reader == "native"
    found, expected, natively = both_ways(monkeypatch, row)
    assert found == expected
    assert natively == 2
    assert len(seg.read_segmentation(path).frames) == 8


def groups_of(tmp_path: Path, frames: list[bytes], shared: bytes = b"", paths: tuple[str, ...] = ()) -> Any:
    path = tmp_path / "groups"
    path.write_bytes(part10(sequence(0x52009229, [shared]) + sequence(0x52009230, frames)))
    with path.open("rb") as file:
        return read_groups(file, paths)


def position(*texts: str) -> bytes:
    return sequence(0x00209113, [element(0x00200032, "DS", text) for text in texts])


POSITION = ("PlanePositionSequence.ImagePositionPatient",)


def test_of_several_items_the_first_counts_and_equal_groups_are_one(tmp_path: Path):
    frames = [position("1\\2\\3 ", "7\\8\\9"), position("4\\5\\6"), position(), b"", position("1\\2\\3")]
    found = groups_of(tmp_path, frames, position("0\\0\\0"), POSITION)
    assert found[SHARED] == [{"PlanePositionSequence": [{"ImagePositionPatient": [0, 0, 0]}]}]
    first, second, empty, bare, again = found[PER_FRAME]
    assert first == again == {"PlanePositionSequence": [{"ImagePositionPatient": [1, 2, 3]}]}
    assert second["PlanePositionSequence"][0]["ImagePositionPatient"] == [4, 5, 6]
    assert empty == bare == {}


def test_elements_that_are_absent_empty_or_in_sequences_of_groups(tmp_path: Path):
    direction = sequence(0x00189076, [element(0x00189089, "FD", np.array([0.6, 0.8, 0]).tobytes()), b""])
    paths = (
        "MRDiffusionSequence.DiffusionBValue",
        "MRDiffusionSequence.DiffusionGradientDirectionSequence.DiffusionGradientOrientation",
        "PixelValueTransformationSequence.RescaleSlope",
    )
    frames = [sequence(0x00189117, [direction]), sequence(0x00289145, [element(0x00281053, "DS", "")])]
    assert groups_of(tmp_path, frames, paths=paths)[PER_FRAME] == [
        {
            "MRDiffusionSequence": [
                {"DiffusionGradientDirectionSequence": [{"DiffusionGradientOrientation": [0.6, 0.8, 0]}]}
            ]
        },
        {"PixelValueTransformationSequence": [{"RescaleSlope": None}]},
    ]


@pytest.mark.parametrize(
    "content",
    [
        sequence(0x00209111, [element(0x00209056, "SH", b"\xe9t")]),  # a character set matters
        sequence(0x00209111, [element(0x00209056, "SH", "x" * 5000)]),
        element(0x00209111, "UN", b""),
        element(0x00209111, "SQ", b"junk"),
    ],
)
def test_what_is_out_of_the_ordinary_is_left_to_pydicom(tmp_path: Path, content: bytes):
    assert groups_of(tmp_path, [content], paths=("FrameContentSequence.StackID",)) is None


def test_damaged_files_give_what_pydicom_gives(tmp_path: Path, segmentation: Any, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "seg"
    seeds = [encode(segmentation, path, s, undefined=u) for s in (EXPLICIT, IMPLICIT) for u in (False, True)]
    chance = random.Random(5)
    taken = 0
    for _ in range(400):
        content = bytearray(chance.choice(seeds))
        begin, end = content.index(b"\x00\x52\x29\x92"), content.rindex(b"\xe0\x7f\x10\x00")
        for at in chance.sample(range(begin, end), chance.randint(1, 3)):
            content[at] = chance.choice((content[at] ^ 1 << chance.randrange(8), 0xFF, 0x1B, *b"0129.\\-e "))
        path.write_bytes(content if chance.random() < 0.9 else content[: chance.randrange(begin, end)])
        (row,) = read_headers([str(path)])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found, expected, natively = both_ways(monkeypatch, row)
        assert found == expected
        taken += natively > 0
    assert taken > 50
