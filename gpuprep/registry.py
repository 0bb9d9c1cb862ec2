"""Named choices that load on first use: backends, decoders, writers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from types import MappingProxyType
from typing import Any

from gpuprep.errors import ConfigError


class Registry:
    """A read-only table name → dotted path ``module:attribute``, imported when asked for.

    Parameters
    ----------
    kind : str
        What the entries are, for messages: ``"writer"``.
    entries : mapping of str to str
        Name → ``"package.module:attribute"``.
    """

    def __init__(self, kind: str, entries: Mapping[str, str]) -> None:
        self.kind = kind
        self.entries = MappingProxyType(dict(entries))

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def load(self, name: str) -> Any:
        """Return the object registered under `name`.

        Raises
        ------
        ConfigError
            ``unknown-<kind>``: no such entry; the hint lists those there are.
        """
        path = self.entries.get(name)
        if path is None:
            raise ConfigError(
                f"there is no {self.kind} named {name!r}",
                code=f"unknown-{self.kind}",
                hint=f"choose one of: {', '.join(self.entries)}",
            )
        module, attribute = path.split(":")
        return getattr(import_module(module), attribute)
