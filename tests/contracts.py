"""What every decoder has to fulfil: a test class inherits the contract and provides the subject."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import product
from typing import Any

import numpy as np
import pytest

from gpuprep.codecs import DECODERS
from gpuprep.codecs.base import Decoder, container_dtype, image_shape
from gpuprep.dicom.stack import FrameSpec
from gpuprep.errors import DecodeError


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
