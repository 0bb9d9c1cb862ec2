"""A stack to an array of a backend, by whatever loads it there."""

from __future__ import annotations

from dataclasses import replace

from gpuprep.backends.base import Backend
from gpuprep.codecs.batch import Decoded, decode_stack
from gpuprep.dicom.stack import Stack


def load_stack(stack: Stack, backend: Backend, *, workers: int) -> Decoded:
    """Decode the frames of a stack, in its order, into an array of a backend.

    On a CUDA device DALI is the loader, where it is installed and works (`gpuprep.codecs.dali`): it decodes there what
    it can, batch by batch, and uploads what it cannot and the CPU decoders can. A batch that it fails on goes to the
    CPU decoders too, which name the frame when they fail as well. Without DALI, and on other backends, this is
    `decode_stack` and `Backend.upload`.

    Parameters
    ----------
    stack : Stack
        Its frames.
    backend : Backend
        Where the array shall be. Work goes to its current stream; it is waited for with DALI alone.
    workers : int
        Most threads.

    Raises
    ------
    DecodeError, HeaderError
        As `decode_stack`.
    DeviceMemoryError, MemoryError
        The device has too little memory.
    """
    why_not_dali = ""
    if backend.name == "cuda":
        from gpuprep.codecs import dali, device

        loader = dali.find_loader(backend, workers)
        if isinstance(loader, dali.Loader):
            return device.load_by(loader, stack, backend, workers=workers)
        why_not_dali = loader
    decoded = decode_stack(stack, workers=workers, empty=backend.host_array)
    return replace(decoded, array=backend.upload(decoded.array), loader=why_not_dali)
