"""What every decoder and writer has to fulfil: a test class inherits the contract and provides the subject."""

from __future__ import annotations

import json
import pickle
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpuprep.codecs import DECODERS
from gpuprep.codecs.base import Decoder, container_dtype, image_shape
from gpuprep.dicom.framespec import FrameSpec
from gpuprep.errors import DecodeError, WriteError
from gpuprep.geometry import VolumeGeometry
from gpuprep.masks import Roi, RoiMask
from gpuprep.volume import Volume
from gpuprep.writers.atomic import remove_parts
from gpuprep.writers.base import CaseWriter, Output


@dataclass(frozen=True)
class ReferenceImage:
    """The codestreams of a file, and the SHA-256 of its pixels as type `dtype`."""

    path: str
    codestreams: tuple[bytes, ...]
    spec: FrameSpec
    dtype: str
    sha256: str


def decode(decoder: Decoder, codestreams: Sequence[bytes], spec: FrameSpec) -> np.ndarray[Any, Any]:
    """Return the images of some codestreams; what a decoder leaves untouched has a value that images do not."""
    out = np.full((len(codestreams), *image_shape(spec)), 77, container_dtype(spec))
    for image, codestream in zip(out, codestreams, strict=True):
        decoder.decode_frame(codestream, spec, image)
    return out


class DecoderContract:
    """A test class inherits this and provides the fixtures `decoder` and `images`, those of its syntaxes."""

    def test_bears_its_name_in_the_table(self, decoder: Decoder) -> None:
        assert DECODERS.load(decoder.name) is decoder

    def test_decodes_the_reference_images(self, decoder: Decoder, images: list[ReferenceImage]) -> None:
        for image in images:
            decoded = decode(decoder, image.codestreams, image.spec).astype(image.dtype)
            assert sha256(decoded.tobytes()).hexdigest() == image.sha256, image.path

    def test_threads_do_not_disturb_each_other(self, decoder: Decoder, images: list[ReferenceImage]) -> None:
        def decode_first(image: ReferenceImage) -> bytes:
            return decode(decoder, image.codestreams[:1], image.spec).tobytes()

        alone = list(map(decode_first, images))
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(decode_first, images * 4)) == alone * 4

    def test_refuses_what_is_no_codestream(self, decoder: Decoder, images: list[ReferenceImage]) -> None:
        for data in (b"", b"\0" * 7, b"not an image, whatever one may think of it" * 9):
            with pytest.raises(DecodeError) as caught:
                decode(decoder, [data], images[0].spec)
            assert caught.value.code == "corrupt-frame"

    def test_refuses_a_truncated_frame(self, decoder: Decoder, images: list[ReferenceImage]) -> None:
        for image, share in product(images, (0.02, 0.5, 0.9)):
            data = image.codestreams[0]
            with pytest.raises(DecodeError) as caught:
                decode(decoder, [data[: int(len(data) * share)]], image.spec)
            assert caught.value.code == "corrupt-frame", image.path

    def test_refuses_an_image_of_another_size(self, decoder: Decoder, images: list[ReferenceImage]) -> None:
        for image in images:
            with pytest.raises(DecodeError) as caught:
                decode(decoder, image.codestreams[:1], replace(image.spec, rows=3 * image.spec.rows))
            assert caught.value.code in {"frame-size-mismatch", "corrupt-frame"}, image.path


#: 3 slices of 4 rows and 5 columns, RAS+, and two labels, one within the other.
WRITER_GRID = VolumeGeometry.from_axes(
    (3, 4, 5),
    origin_lps_mm=(10, 20, 30),
    directions_dhw=[[0, 0, 1], [0, -1, 0], [-1, 0, 0]],
    spacing_dhw_mm=(5, 2, 1),
)


def writer_mask(*, overlap: bool) -> RoiMask:
    codes = np.zeros(WRITER_GRID.shape, np.uint8)
    codes[1, 1:3, 1:4], codes[2, 2, 2] = 1, 2
    table = np.array([[0], [1], [3 if overlap else 2]], np.uint32)
    return RoiMask(codes, table, (Roi(1, "organ", (1, 2, 3)), Roi(2, "lesion")), WRITER_GRID)


def snapshot(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


class WriterContract:
    """A test class inherits this, provides `make_writer` for the cases ``one`` and ``two``, and says what it holds."""

    keeps_overlap = True
    writes_images = True

    def make_writer(self, root: Path) -> CaseWriter:
        raise NotImplementedError

    def write(self, writer: CaseWriter, case: str, *, shift: int = 0) -> list[Output]:
        image = np.arange(60, dtype=np.int16).reshape(WRITER_GRID.shape) + shift
        record: dict[str, Any] = {"warnings": []}
        outputs = [*writer.write_mask(case, writer_mask(overlap=self.keeps_overlap), record)]
        outputs += writer.write_image(case, 0, Volume(image, WRITER_GRID, "CT"))
        json.dumps(record)  # goes into the ledger
        return outputs

    def test_tells_of_every_file_it_leaves(self, tmp_path: Path) -> None:
        outputs = self.write(self.make_writer(tmp_path), "one")
        assert {o.path: o.size for o in outputs} == {p: len(content) for p, content in snapshot(tmp_path).items()}
        assert len({o.path for o in outputs}) == len(outputs) > 0

    def test_the_same_case_gives_the_same_bytes_also_in_another_process(self, tmp_path: Path) -> None:
        writer = self.make_writer(tmp_path)
        self.write(writer, "one")
        first = snapshot(tmp_path)
        self.write(writer, "one", shift=7)
        assert (snapshot(tmp_path) != first) is self.writes_images
        self.write(pickle.loads(pickle.dumps(writer)), "one")
        assert snapshot(tmp_path) == first

    def test_discards_a_case_whole_and_no_other(self, tmp_path: Path) -> None:
        writer = self.make_writer(tmp_path)
        self.write(writer, "two")
        others = snapshot(tmp_path)
        self.write(writer, "one")
        writer.write_mask("one", writer_mask(overlap=self.keeps_overlap), {"warnings": []})  # killed before its image
        remove_parts(tmp_path)
        for _ in range(2):
            writer.discard("one")
            assert snapshot(tmp_path) == others
        self.write(writer, "one")
        writer.discard("one")
        assert snapshot(tmp_path) == others

    def test_a_file_that_cannot_be_written_leaves_nothing_unfinished(self, tmp_path: Path) -> None:
        writer = self.make_writer(tmp_path)
        (first, *_) = (o.path for o in self.write(writer, "one"))
        writer.discard("one")
        (tmp_path / first / "in the way").mkdir(parents=True)
        with pytest.raises(WriteError) as caught:
            self.write(writer, "one")
        assert caught.value.code == "write-failed"
        remove_parts(tmp_path)
        assert not [name for name in snapshot(tmp_path) if ".gpuprep-part" in name]
