"""Which host library is taken, and where it is looked for."""

import platform
from pathlib import Path

import pytest

from gpuprep import hostlib
from gpuprep.errors import KernelError


def test_kernels_of_the_tree_come_before_those_that_were_installed(tmp_path):
    tree, installed = tmp_path / "tree", tmp_path / "site-packages"
    found = []
    for made in (tmp_path, installed, tree):
        (made / "_kernels").mkdir(parents=True)
        found.append(hostlib.find_kernels(tree / "hostlib.py", [str(installed), str(tree)]))
    assert found == [tree / "_kernels", installed / "_kernels", tree / "_kernels"]


def test_a_library_that_is_missing_is_told(monkeypatch):
    monkeypatch.setenv("GPUPREP_HOST_LEVEL", "none")
    with pytest.raises(KernelError) as caught:
        hostlib.load.__wrapped__()
    assert caught.value.code == "host-library-missing"


#: What Linux calls the features of the levels of the x86-64 psABI; pni is SSE3, osxsave is not told.
V2 = "fpu sse sse2 pni ssse3 cx16 sse4_1 sse4_2 popcnt lahf_lm"
V3 = "avx f16c fma avx2 bmi1 bmi2 movbe abm xsave"
V4 = "avx512f avx512dq avx512cd avx512bw avx512vl"


@pytest.mark.parametrize(
    ("machine", "flags", "levels"),
    [
        ("x86_64", f"{V2} {V3} {V4}", ["v4", "v3", "v2"]),
        ("x86_64", f"{V2} {V3} avx512f", ["v3", "v2"]),
        ("x86_64", f"{V2} {V4} avx", ["v2"]),  # a machine without AVX2 runs no level above it
        ("AMD64", V2.replace("popcnt", ""), []),
        ("aarch64", f"{V2} {V3} {V4}", []),
    ],
)
def test_the_best_library_that_the_processor_runs(monkeypatch, machine, flags, levels):
    text = f"processor\t: 0\nvendor_id\t: SomeMaker\nflags\t\t: {flags}\nvmx flags\t: avx512f\n"
    monkeypatch.setattr(platform, "machine", lambda: machine)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "exists", lambda path: True)
        patch.setattr(Path, "read_text", lambda path, **options: text)
        assert hostlib.usable_levels() == [*levels, "native"]
        patch.setattr(Path, "exists", lambda path: False)
        assert hostlib.usable_levels() == ["native"]
