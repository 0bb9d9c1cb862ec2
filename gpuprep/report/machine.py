"""What this machine offers, in words that a bug report needs."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path

from gpuprep import backends, codecs, hostlib
from gpuprep._version import __version__
from gpuprep.codecs import dali
from gpuprep.errors import BackendUnavailableError

#: Libraries whose versions change what gpuprep can do or how fast.
_LIBRARIES = ("numpy", "pydicom", "imagecodecs", "python-gdcm", "isal", "pyarrow", "tifffile", "h5py", "highdicom",
              "zarr", "cupy-cuda12x", "cupy-cuda13x", "nvidia-dali-cuda130",
              "distributed")  # fmt: skip


def list_facts() -> dict[str, str]:
    """Return gpuprep's version and Python's, the system, the processor, cores and memory."""
    facts = {
        "version": __version__,
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": str(hostlib.usable_cores()),
    }
    if "SC_PHYS_PAGES" in os.sysconf_names:
        facts["memory"] = f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 1e9:.1f} GB"
    return facts


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines() if cpuinfo.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def describe_machine() -> str:
    """Return versions, cores, backends with the reason where one is missing, and decoders by transfer syntax."""
    parts = {
        "gpuprep": list_facts(),
        "backends": {"auto": _describe_choice(), **{name: _describe_backend(name) for name in backends.BACKENDS}},
        "decoders": codecs.describe_decoders(),
        "decoders on the device": {"DALI": _describe_dali()},
        "libraries": {name: version for name in _LIBRARIES if (version := _version(name))},
    }
    return "\n\n".join(_section(title, rows) for title, rows in parts.items())


def _describe_choice() -> str:
    backend = backends.select("auto")
    return f"{backend.name}: {backend.reason.removeprefix('auto: ')}"


def _describe_backend(name: str) -> str:
    try:
        backend = backends.select(name)
        room = f", {backend.memory_bytes / 1e9:.1f} GB for its arrays" if backend.memory_bytes else ""
        return f"works: {backend.device}{room}"
    except BackendUnavailableError as error:
        return f"not here: {error.message} [{error.code}]"


def _describe_dali() -> str:
    try:
        backend = backends.select("cuda")
    except BackendUnavailableError as error:
        return f"not used: no CUDA backend [{error.code}]"
    loader = dali.find_loader(backend, hostlib.usable_cores())
    return f"not used: {loader}" if isinstance(loader, str) else f"works: {loader.description}"


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _section(title: str, rows: Mapping[str, str] | Sequence[tuple[str, str]]) -> str:
    pairs = list(rows.items() if isinstance(rows, Mapping) else rows)
    width = max((len(name) for name, _ in pairs), default=0)
    return "\n".join([title, *(f"  {name:{width}s}  {value}" for name, value in pairs)])
