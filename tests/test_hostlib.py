"""Where the host library is looked for."""

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
