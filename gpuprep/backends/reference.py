"""The plain NumPy reference: ops take their reference form; no kernels."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from gpuprep.backends.base import ASKED_FOR, Backend, BackendName, Dims
from gpuprep.errors import KernelError


class ReferenceBackend:
    """NumPy arrays and no kernels: every op computes its `reference`."""

    name: BackendName = "reference"
    device = f"NumPy {np.__version__}"
    reason = ASKED_FOR
    has_kernels = False
    lanes = 1
    xp: ModuleType = np
    memory_bytes: int | None = None
    ndimage: ModuleType | None = None

    @property
    def host(self) -> Backend:
        """The backend itself."""
        return self

    def activate(self) -> AbstractContextManager[None]:
        """Return a context that does nothing: there are no streams."""
        return nullcontext()

    def free_memory(self) -> None:
        """Return at once: there is no pool."""

    def launch(self, kernel: str, grid: Dims, block: Dims, args: Sequence[Any]) -> None:
        """Refuse: an op that launches here has forgotten its reference.

        Raises
        ------
        KernelError
            ``no-kernels``, always.
        """
        raise KernelError(f"the reference backend runs no kernels, {kernel} was launched", code="no-kernels")

    def host_array(self, shape: Sequence[int], dtype: DTypeLike) -> NDArray[Any]:
        """Return an uninitialised array."""
        return np.empty(shape, dtype)

    def upload(self, array: Any) -> Any:
        """Return the array itself."""
        return array

    def download(self, array: Any) -> Any:
        """Return the array itself."""
        return array

    def synchronize(self) -> None:
        """Return at once: there is nothing to wait for."""
