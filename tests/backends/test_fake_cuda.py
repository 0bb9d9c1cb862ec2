"""The device that is none has nothing that CuPy has not, and takes what CuPy takes."""

from __future__ import annotations

import inspect
from contextlib import suppress
from types import SimpleNamespace

import fake_cuda
import pytest


@pytest.fixture(scope="module")
def cupy():
    return pytest.importorskip("cupy", reason="needs CuPy", exc_type=ImportError)


def names_below(namespace, path=""):
    for name, value in vars(namespace).items():
        yield f"{path}{name}"
        if isinstance(value, SimpleNamespace):
            yield from names_below(value, f"{path}{name}.")


def find(root, path):
    for name in path.split("."):
        root = getattr(root, name)
    return root


def test_every_function_is_one_of_cupy(cupy, monkeypatch):
    names = list(names_below(fake_cuda.install(monkeypatch).cupy))
    assert {"RawModule", "cuda.Stream"} <= set(names)
    for path in names:
        find(cupy, path)


def test_every_method_is_one_of_its_arrays(cupy):
    own = {"device", "values", "memory", "touch", "wrap", "scalar"}
    for name in set(vars(fake_cuda.DeviceArray)) - own:
        if not name.startswith("__") or name in fake_cuda._METHODS:
            assert hasattr(cupy.ndarray, name), name


def test_errors_are_of_the_same_kind(cupy):
    assert issubclass(cupy.cuda.memory.OutOfMemoryError, MemoryError)
    for error in (cupy.cuda.driver.CUDADriverError, cupy.cuda.runtime.CUDARuntimeError):
        assert issubclass(error, RuntimeError)
    assert cupy.cuda.runtime.CUDARuntimeError(fake_cuda.OUT_OF_MEMORY).status == fake_cuda.OUT_OF_MEMORY
    assert "cudaErrorMemoryAllocation" in str(cupy.cuda.runtime.CUDARuntimeError(fake_cuda.OUT_OF_MEMORY))


def test_label_is_one_of_its_image_functions(cupy):
    from cupyx.scipy import ndimage

    assert next(iter(inspect.signature(ndimage.label).parameters)) == "input"


@pytest.mark.parametrize("name", fake_cuda.OPTIONS)
def test_functions_take_the_options_that_are_used(cupy, name):
    called = [getattr(place, name) for place in (cupy, cupy.ndarray) if hasattr(place, name)]
    for function in called:
        text = inspect.getdoc(function) or ""  # of compiled ones it begins with the signature
        with suppress(ValueError, TypeError):
            text += str(inspect.signature(function))
        assert all(option in text for option in fake_cuda.OPTIONS[name]), text


@pytest.mark.parametrize(
    ("path", "options"),
    [
        ("ndarray.set", ["arr", "stream"]),
        ("ndarray.get", ["stream", "out", "blocking"]),
        ("cuda.Event.record", ["stream"]),
        ("cuda.Event", ["disable_timing"]),
        ("cuda.Stream", ["non_blocking"]),
        ("cuda.MemoryPool.set_limit", ["size", "fraction"]),
        ("cuda.MemoryPool.get_limit", []),
        ("cuda.MemoryPool.free_all_blocks", []),
        ("cuda.alloc_pinned_memory", ["size"]),
    ],
)
def test_calls_have_the_arguments_that_are_used(cupy, path, options):
    called = find(cupy, path)
    text = inspect.getdoc(called) or ""
    if inspect.isclass(called):
        text = f"{text} {called.__init__.__doc__}"
    for option in options:
        assert option in text, (path, option)
