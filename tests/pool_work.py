"""What the tests of the process pool have its workers do; a spawned worker imports it by name."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

from gpuprep.errors import ConfigError


def name_thread(task: int) -> tuple[str, int]:
    time.sleep(0.05)
    return threading.current_thread().name, os.getpid()


def read_device(task: int) -> str:
    time.sleep(0.05)
    return os.environ["DEVICE"]


def misbehave(task: str) -> str:
    match task:
        case "exit":
            os._exit(3)
        case "job":
            raise ConfigError("all of it", code="wrong")
        case "raise":
            raise ValueError("told to")
    return task


def write_late(path: Path) -> str:
    """Write a file after a while, and tell what lies beside it then."""
    time.sleep(1)
    path.write_text("done")
    return ",".join(sorted(p.name for p in path.parent.iterdir() if not p.name.startswith(".")))
