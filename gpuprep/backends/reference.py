"""The plain NumPy reference: ops take their reference form; no kernels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gpuprep.backends.base import ASKED_FOR, BackendName, Dims, OnHost
from gpuprep.errors import KernelError


class ReferenceBackend(OnHost):
    """NumPy arrays and no kernels: every op computes its `reference`."""

    name: BackendName = "reference"
    device = f"NumPy {np.__version__}"
    reason = ASKED_FOR
    has_kernels = False
    lanes = 1

    def launch(self, kernel: str, grid: Dims, block: Dims, args: Sequence[Any]) -> None:
        """Refuse: an op that launches here has forgotten its reference.

        Raises
        ------
        KernelError
            ``no-kernels``, always.
        """
        raise KernelError(f"the reference backend runs no kernels, {kernel} was launched", code="no-kernels")
