"""What the metered backend counts."""

from __future__ import annotations

import time
from types import SimpleNamespace

import numpy as np

from gpuprep.backends import select
from gpuprep.backends.base import lane_dims
from gpuprep.backends.metered import DOWNLOAD, UPLOAD, MeteredBackend, time_call


class CopyingBackend:
    """A CPU backend that copies, as a device does, and keeps the order of calls."""

    def __init__(self):
        self._cpu = select("cpu")
        self.calls = []

    def __getattr__(self, name):
        return getattr(self._cpu, name)

    def upload(self, array):
        self.calls.append("upload")
        return array.copy()

    def download(self, array):
        self.calls.append("download")
        return array.copy()

    def synchronize(self):
        self.calls.append("synchronize")


def test_kernels_and_transfers_are_counted():
    backend = CopyingBackend()
    metered, began = MeteredBackend(backend), time.perf_counter()
    array = metered.upload(np.arange(1000, dtype=np.int16))
    for _ in range(2):
        metered.launch(
            "clamp_i16", *lane_dims(array.size, metered), (array, array, np.int64(1000), np.int16(3), np.int16(5))
        )
    result = metered.download(array)
    assert (result.min(), result.max()) == (3, 5)
    assert {name: (t.calls, t.bytes) for name, t in metered.kernels.items()} == {"clamp_i16": (2, 2 * 2 * 2000)}
    assert {name: (t.calls, t.bytes) for name, t in metered.transfers.items()} == {
        UPLOAD: (1, 2000),
        DOWNLOAD: (1, 2000),
    }
    tallies = [*metered.kernels.values(), *metered.transfers.values()]
    assert all(t.seconds >= t.longest_s > 0 for t in tallies)
    assert sum(t.seconds for t in tallies) < time.perf_counter() - began
    assert backend.calls == ["synchronize", "upload", "synchronize", "synchronize", "download", "synchronize"]


def test_the_cpu_transfers_nothing():
    metered = MeteredBackend(select("cpu"))
    array = np.zeros(5)
    assert metered.download(metered.upload(array)) is array
    assert [t.bytes for t in metered.transfers.values()] == [0, 0]
    assert metered.host is metered


def test_a_device_is_timed_by_events():
    log = []

    class Event:
        def record(self):
            log.append("record")

        def synchronize(self):
            log.append("synchronize")

    class Cuda:
        def __init__(self):
            self.Event = Event

        def get_elapsed_time(self, begin, end):
            return 250.0  # milliseconds

    backend = SimpleNamespace(name="cuda", xp=SimpleNamespace(cuda=Cuda()))
    assert time_call(backend, lambda: log.append("work")) == 0.25
    assert log == ["record", "work", "record", "synchronize"]
