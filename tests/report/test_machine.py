"""What is told of the machine, against what the system says."""

import platform
import types
from pathlib import Path

import pytest

from gpuprep import backends
from gpuprep.report.machine import describe_machine, list_facts


@pytest.mark.skipif(not Path("/proc/meminfo").exists(), reason="there is no /proc/meminfo")
def test_processor_and_memory_are_those_of_proc():
    facts = list_facts()
    kibibytes = int(Path("/proc/meminfo").read_text().split()[1])
    assert float(facts["memory"].removesuffix(" GB")) == pytest.approx(kibibytes * 1024 / 1e9, abs=0.1)
    assert facts["processor"] in Path("/proc/cpuinfo").read_text() or facts["processor"] == platform.machine()
    assert facts["processor"] and facts["python"] == platform.python_version()


def test_the_memory_of_a_device_is_in_gigabytes(monkeypatch):
    device = types.SimpleNamespace(name="cuda", device="H100", reason="auto: a device", memory_bytes=80_000_000_000)
    monkeypatch.setattr(backends, "select", lambda name: device)
    monkeypatch.setattr("gpuprep.report.machine.dali.find_loader", lambda backend, threads: "no DALI")
    lines = describe_machine().splitlines()
    assert "  auto       cuda: a device" in lines
    assert "  cuda       works: H100, 80.0 GB for its arrays" in lines
    assert "  DALI  not used: no DALI" in lines
