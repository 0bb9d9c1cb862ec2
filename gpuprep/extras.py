"""Packages that only some commands need: imported by name, when needed."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from gpuprep.errors import ConfigError


def load_extra(module: str, extra: str) -> Any:
    """Import a module that `extra` of the distribution brings.

    Raises
    ------
    ConfigError
        ``extra-missing``.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"this needs {module.split('.')[0]}: {error}",
            code="extra-missing",
            hint=f'pip install "gpuprep[{extra}]"',
        ) from error
