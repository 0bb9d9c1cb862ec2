"""A CUDA device that is none: CuPy's interface over NumPy memory, kernels from the host build, streams that wait.

`install` puts it under the real `CudaBackend`, whose code then runs as it does on a device, as do the branches of ops
that only a device takes. What it is strict about, because a CPU would forgive it:

* Arrays of the device refuse to become NumPy arrays, and NumPy arrays are no operands of theirs: what crosses without
  `upload` or `download` is an error. All crossings are counted in `FakeDevice.crossings`.
* Copies through pinned memory and kernels are done as late as CUDA allows: when an event or a stream is waited for. So
  a pinned buffer that is written or read too early gives wrong voxels; that it is given to a second copy while the
  first is pending is an error.
* An array that one stream is still working on is an error on another one.
* Memory has a limit, and any allocation can be told to fail, page-locked ones too.
* Functions and methods take the arguments that gpuprep gives them and no others; a test holds these to CuPy's own.
  Types are as strict as CuPy's: tuples for grids, arrays without gaps for copies, NumPy scalars for kernels.
* What kernels compute is the NaN that CUDA makes, whose bits are not the host's.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gpuprep.backends import cuda
from gpuprep.backends.cpu import CpuBackend
from gpuprep.codecs import dali
from gpuprep.run import roofline

#: Of a pinned buffer: small, so that test volumes cross in several pieces.
BUFFER_BYTES = 50_000
#: The bits of a float32 NaN that CUDA computes. Source: PTX ISA, floating-point instructions.
CUDA_NAN = 0x7FFFFFFF
#: Why DALI is not the loader of this device.
NO_DALI = "a device that is none has no DALI"


#: cudaErrorMemoryAllocation and CUDA_ERROR_OUT_OF_MEMORY.
OUT_OF_MEMORY = 2


class OutOfMemoryError(MemoryError):
    """As cupy.cuda.memory.OutOfMemoryError."""


class CudaError(RuntimeError):
    """As the errors of CuPy's runtime and driver."""

    def __init__(self, status: int) -> None:
        super().__init__(f"CUDA error {status}")
        self.status = status


class CudaRuntimeError(CudaError):
    """As cupy.cuda.runtime.CUDARuntimeError."""


class CudaDriverError(CudaError):
    """As cupy.cuda.driver.CUDADriverError."""


class FakeDevice:
    """What all fake streams and arrays of a test share."""

    def __init__(self, memory_bytes: int = 1 << 34, **host: Any) -> None:
        self.lock = threading.RLock()
        self.host = CpuBackend(2, row_forms=False, **host)
        self.memory_bytes = memory_bytes
        self.limit = 0
        self.live_bytes = self.peak_bytes = self.allocations = 0
        self.live_bytes_when_freed: list[int] = []
        self.streams: list[Stream] = []
        self.fails: Callable[[int, int], bool] = lambda number, nbytes: False
        self.fails_to_start: Callable[[str], int] = lambda kernel: 0  # CUDA's status
        self.has_pinned_memory = True
        self.crossings: list[tuple[str, int]] = []
        self.log: list[tuple[str, Any]] = []
        self.launched: set[str] = set()
        self.pinned: dict[int, int] = {}  # address → length of pinned memory
        self.pinned_memory: dict[int, weakref.ref[PinnedMemory]] = {}  # address → whose it is
        self.busy: dict[int, Stream] = {}  # address of pinned memory that a pending copy uses
        self.null_stream = Stream(self)
        self.local = threading.local()
        self.cupy = _make_cupy(self)

    @property
    def stream(self) -> Stream:
        return getattr(self.local, "stream", self.null_stream)

    def allocate(self, nbytes: int) -> None:
        self.allocations += 1
        over = self.live_bytes + nbytes > (self.limit or self.memory_bytes)
        if over or self.fails(self.allocations, nbytes):
            raise OutOfMemoryError(f"Out of memory allocating {nbytes:,} bytes")
        self.live_bytes += nbytes
        self.peak_bytes = max(self.peak_bytes, self.live_bytes)

    def release(self, nbytes: int) -> None:
        self.live_bytes -= nbytes

    def pinned_address(self, array: np.ndarray[Any, Any]) -> int | None:
        at = array.ctypes.data
        return next((a for a, n in self.pinned.items() if a <= at and at + array.nbytes <= a + n), None)

    def uploads(self, least_bytes: int = 0) -> list[int]:
        return [n for way, n in self.crossings if way == "up" and n >= least_bytes]

    def downloads(self, least_bytes: int = 0) -> list[int]:
        return [n for way, n in self.crossings if way == "down" and n >= least_bytes]


class PinnedMemory(bytearray):
    """Page-locked memory; nobody holds it but who has asked for it."""


class Stream:
    """Work that is done when somebody waits for it."""

    def __init__(self, device: FakeDevice) -> None:
        self.device = device
        self.pending: deque[Callable[[], None]] = deque()
        self.before: list[Stream] = []
        device.streams.append(self)

    def __enter__(self) -> Stream:
        self.before.append(self.device.stream)
        self.device.local.stream = self
        return self

    def __exit__(self, *error: object) -> None:
        self.device.local.stream = self.before.pop()

    def add(self, work: Callable[[], None]) -> None:
        self.pending.append(work)

    def synchronize(self) -> None:
        with self.device.lock:
            while self.pending:
                self.pending.popleft()()


class Event:
    def __init__(self, device: FakeDevice) -> None:
        self.device = device
        self.stream: Stream | None = None
        self.happened = True

    def record(self, stream: Stream | None = None) -> None:
        self.stream, self.happened = stream or self.device.stream, False
        self.device.log.append(("record", id(self.stream)))

        def happen() -> None:
            self.happened = True

        self.stream.add(happen)

    @property
    def done(self) -> bool:
        return self.happened

    def synchronize(self) -> None:
        self.device.log.append(("wait", id(self.stream)))
        with self.device.lock:
            while not self.happened:
                assert self.stream is not None
                self.stream.pending.popleft()()


class Memory:
    """A block of the device: who uses it, and that it is counted."""

    def __init__(self, device: FakeDevice, nbytes: int) -> None:
        device.allocate(nbytes)
        weakref.finalize(self, device.release, nbytes)
        self.stream = device.stream


def _refuse(what: str) -> Any:
    raise TypeError(f"Implicit conversion to a NumPy array is not allowed ({what})")


class DeviceArray:
    """As cupy.ndarray, as far as gpuprep goes; anything else is an AttributeError."""

    __array_ufunc__ = None  # NumPy arrays and ufuncs refuse it

    def __init__(self, device: FakeDevice, values: np.ndarray[Any, Any], memory: Memory | None = None) -> None:
        self.device, self.values = device, values
        self.memory = memory or Memory(device, values.nbytes)

    shape = property(lambda self: self.values.shape)
    dtype = property(lambda self: self.values.dtype)
    ndim = property(lambda self: self.values.ndim)
    size = property(lambda self: self.values.size)
    nbytes = property(lambda self: self.values.nbytes)
    itemsize = property(lambda self: self.values.itemsize)
    strides = property(lambda self: self.values.strides)
    flags = property(lambda self: self.values.flags)
    data = property(lambda self: SimpleNamespace(ptr=self.values.ctypes.data))
    T = property(lambda self: self.wrap(self.values.T))

    def __len__(self) -> int:
        return len(self.values)

    def __array__(self, *arguments: object, **options: object) -> Any:
        return _refuse("__array__")

    def __iter__(self) -> Any:
        return (self[i] for i in range(len(self)))

    def touch(self) -> None:
        """Check that no other stream is still working on this memory, and take it over."""
        stream = self.device.stream
        before, self.memory.stream = self.memory.stream, stream
        assert before is stream or not before.pending, "an array is used on a stream while another one works on it"

    def wrap(self, values: Any) -> DeviceArray:
        """Return a result; a view shares the memory."""
        if not isinstance(values, np.ndarray):
            values = np.asarray(values)
        shares = values.size and np.may_share_memory(values, self.values)
        return DeviceArray(self.device, values, self.memory if shares else None)

    def set(self, source: np.ndarray[Any, Any], stream: Stream) -> None:
        assert type(source) is np.ndarray
        assert (source.shape, source.dtype) == (self.shape, self.dtype)
        assert self.flags.c_contiguous, "Cannot set to non-contiguous array"
        self.touch()
        device = self.device
        assert stream is device.stream
        device.crossings.append(("up", source.nbytes))
        pinned = device.pinned_address(source)
        values = None
        if pinned is None:
            values = source.copy()
        else:
            assert pinned not in device.busy, "a pinned buffer is used before its event"
            device.busy[pinned] = stream
            held, offset, nbytes = device.pinned_memory[pinned], source.ctypes.data - pinned, source.nbytes

        def copy() -> None:
            if pinned is None:
                self.values[...] = values
                return
            memory = held()
            assert memory is not None, "pinned memory is given back before its copy is done"
            there = np.frombuffer(memory, np.uint8, nbytes, offset)
            self.values[...] = there.view(self.dtype).reshape(self.shape)
            device.busy.pop(pinned)

        stream.add(copy)

    def get(
        self, stream: Stream, *, out: np.ndarray[Any, Any] | None = None, blocking: bool = True
    ) -> np.ndarray[Any, Any]:
        self.touch()
        device = self.device
        assert stream is device.stream
        device.crossings.append(("down", self.nbytes))
        if blocking:
            stream.synchronize()
            if out is None:
                return self.values.copy()
            assert (out.shape, out.dtype) == (self.shape, self.dtype)
            out[...] = self.values
            return out
        assert out is not None
        assert (out.shape, out.dtype) == (self.shape, self.dtype)
        assert self.flags.c_contiguous, "CuPy would copy it into an array that it frees before the copy is done"
        assert out.flags.c_contiguous
        pinned = device.pinned_address(out)
        assert pinned is not None, "an asynchronous download into pageable memory"
        assert pinned not in device.busy, "a pinned buffer is used before its event"
        device.busy[pinned] = stream
        out[...] = 0xA5

        def copy() -> None:
            out[...] = self.values
            device.busy.pop(pinned, None)

        stream.add(copy)
        return out

    def scalar(self) -> Any:
        """Return the value of an array of one element: CuPy allows it, and waits for the stream."""
        self.device.crossings.append(("down", self.nbytes))
        self.touch()
        self.device.stream.synchronize()
        return self.values.item()

    def __float__(self) -> float:
        return float(self.scalar())

    def __int__(self) -> int:
        return int(self.scalar())

    def __bool__(self) -> bool:
        return bool(self.scalar())

    item = scalar


def _plain(device: FakeDevice, value: Any) -> Any:
    """Return what NumPy may compute with; arrays of the host are refused."""
    if isinstance(value, DeviceArray):
        assert value.device is device
        value.touch()
        return value.values
    if isinstance(value, np.ndarray):
        raise TypeError("Unsupported type <class 'numpy.ndarray'>")
    if isinstance(value, (tuple, list)):
        return type(value)(_plain(device, v) for v in value)
    return value


def _is_basic(index: Any) -> bool:
    """Whether an index makes a view."""
    return all(isinstance(i, (int, slice)) for i in (index if isinstance(index, tuple) else (index,)))


#: What functions and methods of CuPy are called with by name.
OPTIONS = {
    "all": {"axis", "keepdims"},
    "astype": {"copy"},
    "max": {"axis"},
    "mean": {"axis", "dtype"},
    "stack": {"axis"},
}


def _method(name: str) -> Callable[..., Any]:
    def call(self: DeviceArray, *arguments: Any, **options: Any) -> Any:
        assert options.keys() <= OPTIONS.get(name, set()), name
        with self.device.lock:
            plain = _plain(self.device, [self, *arguments])
            options = {k: _plain(self.device, v) for k, v in options.items()}
            if not (name in _VIEWS and self.flags.c_contiguous) and not (
                name == "__getitem__" and _is_basic(*arguments)
            ):
                self.device.stream.synchronize()  # what has an effect, or a result of its own, is done now
            result = getattr(plain[0], name)(*plain[1:], **options)
            return None if result is None else self.wrap(result)

    return call


_VIEWS = ("view", "reshape", "transpose")
_METHODS = (
    "view", "reshape", "transpose", "astype", "copy", "fill", "min", "max", "mean", "any", "all", "argmax",
    "__getitem__", "__setitem__", "__add__", "__sub__", "__mul__", "__floordiv__", "__truediv__", "__lt__", "__le__",
    "__gt__", "__ge__", "__eq__", "__ne__", "__and__", "__or__", "__invert__", "__neg__", "__radd__", "__rsub__",
    "__rmul__", "__lshift__", "__rshift__",
)  # fmt: skip
for _name in _METHODS:
    setattr(DeviceArray, _name, _method(_name))


_FUNCTIONS = (
    "zeros", "full", "ascontiguousarray", "stack", "moveaxis", "rint", "empty_like", "arange", "bincount", "floor",
    "where",
)  # fmt: skip


def _function(device: FakeDevice, name: str) -> Callable[..., DeviceArray]:
    def call(*arguments: Any, **options: Any) -> DeviceArray:
        assert options.keys() <= OPTIONS.get(name, set()), name
        with device.lock:
            plain = _plain(device, list(arguments))
            options = {k: _plain(device, v) for k, v in options.items()}
            device.stream.synchronize()
            result = getattr(np, name)(*plain, **options)
            first = next((a for a in arguments if isinstance(a, DeviceArray)), None)
            return first.wrap(result) if first is not None else DeviceArray(device, np.asarray(result))

    return call


def _empty(device: FakeDevice) -> Callable[..., DeviceArray]:
    def empty(shape: Any, dtype: Any = float) -> DeviceArray:
        assert np.dtype(dtype).isnative, "kernels would read another byte order as their own"
        with device.lock:
            values = np.full(shape, 0, dtype)
            values.view(np.uint8 if values.ndim else values.dtype)[...] = 0xA5 if values.ndim else 0
            return DeviceArray(device, values)

    return empty


class _Kernel:
    """As the functions of cupy.RawModule: starts a kernel of the host library, later."""

    def __init__(self, device: FakeDevice, name: str) -> None:
        self.device, self.name = device, name

    def __call__(self, grid: tuple[int, ...], block: tuple[int, ...], arguments: tuple[Any, ...]) -> None:
        device = self.device
        device.launched.add(self.name)
        assert type(grid) is type(block) is tuple
        assert all(isinstance(a, (DeviceArray, np.generic)) for a in arguments)
        if max(grid[1:]) >= 1 << 16 or np.prod(block) > 1024 or block[2] > 64:
            raise CudaDriverError(1)
        if status := device.fails_to_start(self.name):
            raise CudaDriverError(status)
        plain = _plain(device, list(arguments))

        def run(_held: tuple[Any, ...] = arguments) -> None:
            device.host.launch(self.name, grid, block, plain)
            for array in plain:
                if isinstance(array, np.ndarray) and array.dtype == np.float32:
                    array.view(np.uint32)[np.isnan(array)] = CUDA_NAN

        device.stream.add(run)


class CompileError(Exception):
    """As cupy.cuda.compiler.CompileException."""


def _probe_kernel(code: str, name: str) -> Callable[..., None]:
    assert name == "probe"
    assert name in code

    def run(grid: Any, block: Any, arguments: tuple[DeviceArray]) -> None:
        arguments[0].fill(42)

    return run


def _make_cupy(device: FakeDevice) -> Any:
    def get_function(name: str) -> _Kernel:
        return _Kernel(device, name)

    def raw_module(*, code: str, options: tuple[str, ...]) -> Any:
        assert type(options) is tuple
        assert "#include" not in code, "the cache key of CuPy does not cover included files"
        assert "--fmad=false" in options
        return SimpleNamespace(get_function=get_function)

    def make_stream(*, non_blocking: bool) -> Stream:
        assert non_blocking, "slots would wait for each other's default stream"
        return Stream(device)

    def alloc_pinned_memory(nbytes: int) -> PinnedMemory:
        if not device.has_pinned_memory:
            raise CudaRuntimeError(OUT_OF_MEMORY)
        memory = PinnedMemory(b"\xa5" * max(512, 1 << (nbytes - 1).bit_length()))  # as much as CuPy's pool gives
        address = np.frombuffer(memory, np.uint8).ctypes.data
        device.pinned[address], device.pinned_memory[address] = nbytes, weakref.ref(memory)
        weakref.finalize(memory, device.pinned.pop, address)
        return memory

    def is_memory_pinned(address: int) -> bool:
        return any(start <= address < start + nbytes for start, nbytes in device.pinned.items())

    def set_limit(size: int | None = None, fraction: float | None = None) -> None:
        device.limit = int(device.memory_bytes * fraction) if fraction else size or 0

    def free_all_blocks() -> None:
        for stream in device.streams:  # cudaFree waits for the device
            stream.synchronize()
        device.live_bytes_when_freed.append(device.live_bytes)

    pool = SimpleNamespace(set_limit=set_limit, get_limit=lambda: device.limit, free_all_blocks=free_all_blocks)
    return SimpleNamespace(
        **{name: _function(device, name) for name in _FUNCTIONS},
        **{name: getattr(np, name) for name in ("int32", "uint8", "uint16", "uint32", "float32", "float64", "int64")},
        empty=_empty(device),
        ndarray=DeviceArray,
        RawKernel=_probe_kernel,
        RawModule=raw_module,
        get_default_memory_pool=lambda: pool,
        cuda=SimpleNamespace(
            Stream=make_stream,
            Event=lambda *, disable_timing: Event(device),
            get_current_stream=lambda: device.stream,
            alloc_pinned_memory=alloc_pinned_memory,
            pinned_memory=SimpleNamespace(is_memory_pinned=is_memory_pinned),
            Device=lambda: SimpleNamespace(id=0),
            memory=SimpleNamespace(OutOfMemoryError=OutOfMemoryError),
            compiler=SimpleNamespace(CompileException=CompileError),
            driver=SimpleNamespace(CUDADriverError=CudaDriverError),
            runtime=SimpleNamespace(
                CUDARuntimeError=CudaRuntimeError,
                runtimeGetVersion=lambda: 13000,
                driverGetVersion=lambda: 13000,
                getDeviceProperties=lambda number: {"name": b"no device"},
            ),
        ),
    )


def _label(device: FakeDevice) -> Callable[[DeviceArray], tuple[DeviceArray, int]]:
    """As cupyx.scipy.ndimage.label, by SciPy: both number by the first pixel in reading order."""

    def label(array: DeviceArray) -> tuple[DeviceArray, int]:
        from scipy import ndimage

        assert isinstance(array, DeviceArray)
        with device.lock:
            values = _plain(device, array)
            device.stream.synchronize()
            labels, count = ndimage.label(values)
            return DeviceArray(device, labels), count

    return label


def install(monkeypatch: pytest.MonkeyPatch, **options: Any) -> FakeDevice:
    """Let `CudaBackend` find a fake device, for the time of a test, and return that device."""
    device = FakeDevice(**options)
    monkeypatch.setattr(cuda, "check_driver", lambda: None)
    monkeypatch.setattr(cuda, "_import_cupy", lambda: device.cupy)
    monkeypatch.setattr(cuda, "_import_ndimage", lambda: SimpleNamespace(label=_label(device)))
    monkeypatch.setattr(cuda.CudaBackend, "lanes", device.host.lanes)
    monkeypatch.setattr(cuda.CudaBackend, "row_threads", device.host.row_threads)
    monkeypatch.setattr(cuda, "BUFFER_BYTES", BUFFER_BYTES)
    monkeypatch.setattr(dali, "find_loader", lambda backend, threads: NO_DALI)
    monkeypatch.setattr(roofline, "WARM_UP_S", 0.0)
    return device
