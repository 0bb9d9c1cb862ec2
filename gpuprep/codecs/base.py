"""What a decoder is told about a frame, and what it owes."""

from __future__ import annotations

from typing import Any, Protocol

from gpuprep.dicom.stack import FrameSpec


class Decoder(Protocol):
    """Turns the bytes of one encapsulated frame into stored values.

    A decoder module names itself, says for which transfer syntaxes it is available here, and decodes one frame.
    """

    name: str

    def syntaxes(self) -> frozenset[str]:
        """Transfer syntax UIDs that this decoder can decode on this machine; empty when its library is missing."""

    def decode_frame(self, data: bytes, spec: FrameSpec) -> Any:
        """Return stored values as an ndarray of shape (rows, columns) or (rows, columns, samples).

        Bits above `bits_stored` are cleared or carry the sign; the dtype is the smallest integer type that holds
        `bits_stored`, signed as `spec` says.

        Raises
        ------
        DecodeError
            ``corrupt-frame``: the bytes are not what the header promises.
        """
