"""Where pixel work runs: the CPU, a CUDA device, or the plain NumPy reference."""

from __future__ import annotations

from gpuprep.backends.base import ASKED_FOR, Backend
from gpuprep.errors import BackendUnavailableError
from gpuprep.registry import Registry

BACKENDS = Registry(
    "backend",
    {
        "cpu": "gpuprep.backends.cpu:CpuBackend",
        "cuda": "gpuprep.backends.cuda:CudaBackend",
        "reference": "gpuprep.backends.reference:ReferenceBackend",
    },
)


def select(name: str = "auto", workers: int | None = None, *, slots: int = 1, reason: str = ASKED_FOR) -> Backend:
    """Return the backend called `name`; ``auto`` takes CUDA where a test kernel runs, else the CPU.

    Parameters
    ----------
    name : {"auto", "cpu", "cuda", "reference"}
        What to run on. What ``auto`` found is in the `reason` of the backend.
    workers : int, optional
        Threads of the CPU backend; all usable cores by default.
    slots : int
        Backends that share the memory of a CUDA device, this one included.
    reason : str
        Why it is taken, when somebody else has decided.

    Raises
    ------
    BackendUnavailableError
        The backend that was asked for cannot work here; for ``cuda`` the code says why: ``no-driver``,
        ``driver-too-old``, ``no-device``, ``cupy-missing`` or ``probe-failed``.
    KernelError
        ``host-library-missing``: the CPU backend has no host library.
    ConfigError
        ``unknown-backend``.
    """
    backend: Backend
    if name == "auto":
        try:
            backend = BACKENDS.load("cuda")(workers, slots=slots, reason="auto: a CUDA device works")
        except BackendUnavailableError as error:
            backend = BACKENDS.load("cpu")(workers, reason=f"auto: {error.message} [{error.code}]")
        return backend
    make = BACKENDS.load(name)
    match name:
        case "cpu":
            backend = make(workers, reason=reason)
        case "cuda":
            backend = make(workers, slots=slots, reason=reason)
        case _:
            backend = make()
    return backend
