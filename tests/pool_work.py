"""What the tests of the process pool have its workers do; a spawned worker imports it by name."""

from __future__ import annotations

import os
import threading
import time


def name_thread(task: int) -> tuple[str, int]:
    time.sleep(0.05)
    return threading.current_thread().name, os.getpid()


def read_device(task: int) -> str:
    time.sleep(0.05)
    return os.environ["DEVICE"]
