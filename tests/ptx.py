"""Kernels as NVRTC compiles them for a GPU, on the host: their PTX becomes C++, which runs a thread after another.

It shows what the text of a kernel does not: what the compiler makes of it with the options of CuPy, flushed subnormals
and saturated conversions among it, and how much work that is. Each access must be aligned, inside an array of its
launch, and to bytes that no other thread writes, unless both mean it: atomics, and volatile loads beside them.
"""

from __future__ import annotations

import ctypes
import re
import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gpuprep import hostlib
from gpuprep.backends.base import Dims
from gpuprep.backends.cpu import CpuBackend
from gpuprep.backends.cuda import LANES, NVRTC_OPTIONS, ROW_THREADS, kernel_source
from gpuprep.backends.signature import check_arguments, kernel_file, kernel_names, three

HEADER = Path(__file__).with_suffix(".hpp")
#: What CuPy adds to the options of a kernel.
CUPY_OPTION = "-ftz=true"
ARCHITECTURE = "compute_90"

_TYPES = {"pred": "bool", "b8": "u8", "b16": "u16", "b32": "u32", "b64": "u64"}
_TYPES |= {name: name for name in ("u8", "s8", "u16", "s16", "u32", "s32", "u64", "s64", "f32", "f64")}
#: Parts of opcodes that change nothing here: threads run one at a time, and no memory is cached.
_WITHOUT_EFFECT = {"uni", "nc", "volatile", "global", "param", "local"}
#: What a GPU takes with another instruction: copies of registers, and parameters.
_NOT_ISSUED = ("mov", "cvta", "ld.param")
#: Instructions whose names are words of C++.
_WORDS = {"and": "and_", "or": "or_", "xor": "xor_", "not": "not_"}
#: Bytes that each parameter takes in the buffer of a launch, whatever its type.
_SLOT_BYTES = 8
#: What memory of a thread's own holds at first.
_GARBAGE = 0xA5


def compile_to_ptx(nvrtc: Any, source: str) -> str:
    """Return the PTX of a kernel file whose headers are pasted in."""
    program = nvrtc.createProgram(source, "kernel.cu", (), ())
    try:
        nvrtc.compileProgram(program, (*NVRTC_OPTIONS, CUPY_OPTION, f"--gpu-architecture={ARCHITECTURE}"))
        ptx = nvrtc.getPTX(program)
    finally:
        nvrtc.destroyProgram(program)
    return ptx if isinstance(ptx, str) else ptx.decode()


def translate(ptx: str) -> str:
    """Return C++ with a function for each entry of a PTX module, and ``launch_<entry>`` to run it."""
    return "\n".join([f'#include "{HEADER}"', *_lines(ptx)])


def _lines(ptx: str) -> Iterator[str]:
    name, parameters = "", 0
    for line in (raw.split("//")[0].strip() for raw in ptx.splitlines()):
        if not line or re.match(r"\.(version|target|address_size|global|maxntid|pragma)\b|[({)]$", line):
            continue
        if found := re.match(r"\.visible \.entry (\w+)\($", line):
            name, parameters = found[1], 0
            yield f"static void {name}(const u8* parameters, Dim ntid, Dim nctaid, Dim ctaid, Dim tid) {{"
        elif found := re.match(r"\.param \.\w+ (\w+),?$", line):
            yield f"const u32 {found[1]} = {parameters * _SLOT_BYTES};"
            parameters += 1
        elif found := re.match(r"\.local \.align (\d+) \.b8\s+(\w+)\[(\d+)\];$", line):
            yield f"alignas({found[1]}) u8 {found[2]}[{found[3]}]; memset({found[2]}, {_GARBAGE}, {found[3]});"
        elif found := re.match(r"\.reg \.(\w+)\s+%(\w+)(?:<(\d+)>)?;$", line):
            numbers = range(int(found[3])) if found[3] else [""]
            yield f"{_TYPES[found[1]]} {', '.join(f'r_{found[2]}{i}' for i in numbers)};"
        elif re.match(r"\$\w+:$", line):
            yield line + ";"
        elif line == "}":
            yield "}"
            yield (
                f'extern "C" const char* launch_{name}(const u8* parameters, const u32* g, const u32* b,'
                " const u64* ranges, u32 count, Work* done) {"
                f" return run({name}, parameters, {{g[0], g[1], g[2]}}, {{b[0], b[1], b[2]}}, ranges, count, done); }}"
            )
        elif found := re.match(r"(?:@(!?)%(\w+) )?\s*([a-z][\w.]*)\s*(.*);$", line):
            negated, guard, opcode, operands = found.groups()
            counted = "" if opcode.startswith(_NOT_ISSUED) else "++issued; "
            yield counted + (f"if ({negated}r_{guard}) " if guard else "") + _statement(opcode, operands)
        else:
            raise ValueError(f"not known: {line}")


def _statement(opcode: str, operands: str) -> str:
    head, *parts = opcode.split(".")
    types = [_TYPES[part] for part in parts if part in _TYPES]
    width = next((int(part[1]) for part in parts if part in ("v2", "v4")), 1)
    ftz = "true" if "ftz" in parts else "false"
    rest = [p for p in parts if p not in _TYPES and p not in _WITHOUT_EFFECT and p not in ("ftz", f"v{width}")]
    listed = re.findall(r"\{[^}]*\}|[^,\s]+", operands)
    if head == "bra":
        return f"goto {operands};"
    if head == "ret":
        return "return;"
    if head == "ld" and not rest:
        access = "VOLATILE_LOAD" if "volatile" in parts else "LOAD"
        return (
            f"{{ const u8* p = {_place(listed[1], types[0], width, parts, access)}; {_spread(listed[0], types[0])} }}"
        )
    if head == "st" and not rest:
        return f"{{ u8* p = {_place(listed[0], types[0], width, parts, 'STORE')}; {_gather(listed[1], types[0])} }}"
    if head == "mov" and "{" in operands:  # a word and its parts
        target, source = listed
        part = f"u{int(types[0][1:]) // operands.count(',')}"
        take = f"put(p, in<{types[0]}>({_operand(source)}));" if "{" in target else _gather(source, part)
        give = _spread(target, part) if "{" in target else _spread(target, types[0])
        return f"{{ u8 p[8]; {take} {give} }}"
    if head == "atom":
        target, place, *values = listed
        new = f"atom_{rest[0]}<{types[0]}, false>(old, {', '.join(map(_operand, values))})"
        before = f"u8* p = {_place(place, types[0], 1, parts, 'ATOMIC')}; const {types[0]} old = get<{types[0]}>(p)"
        return f"{{ {before}; put(p, {new}); set({_operand(target)}, old); }}"
    name = "_".join([head, *rest])
    arguments = ", ".join([*types, ftz])
    target, *sources = map(_operand, listed)
    return f"set({target}, {_WORDS.get(name, name)}<{arguments}>({', '.join(sources)}));"


def _operand(text: str) -> str:
    """Return a register, a special register or an immediate as C++."""
    if text.startswith("%"):
        return text[1:] if "." in text else f"r_{text[1:]}"
    if found := re.fullmatch(r"0[fF]([0-9A-F]{8})", text):
        return f"bits<f32>(u32(0x{found[1]}))"
    if found := re.fullmatch(r"0[dD]([0-9A-F]{16})", text):
        return f"bits<f64>(u64(0x{found[1]}))"
    if re.fullmatch(r"-?\d+", text):
        return f"s64({int(text) if int(text) < 2**63 else int(text) - 2**64}ll)"
    if text.startswith("__local_depot"):
        return f"u64({text})"
    raise ValueError(f"not an operand: {text}")


def _place(text: str, kind: str, width: int, parts: Sequence[str], access: str) -> str:
    found = re.fullmatch(r"\[(%?\w+)(?:\+(-?\d+))?\]", text)
    if not found or not {"global", "param", "local"} & set(parts):
        raise ValueError(f"not an address in global, local or parameter memory: {text}")
    offset = found[2] or "0"
    if "local" in parts:
        return f"(u8*)({_operand(found[1])} + {offset})"
    if "param" in parts:
        return f"parameters + {found[1]} + {offset}"
    return f"at(__LINE__, {_operand(found[1])} + {offset}, {width} * sizeof({kind}), {access})"


def _each(text: str) -> list[str]:
    return [_operand(part.strip()) for part in text.strip("{}").split(",")]


def _spread(text: str, kind: str) -> str:
    """Set one register, or several in braces, from memory at `p`."""
    return " ".join(f"set({reg}, get<{kind}>(p + {i} * sizeof({kind})));" for i, reg in enumerate(_each(text)))


def _gather(text: str, kind: str) -> str:
    """Put one register, or several in braces, to memory at `p`."""
    return " ".join(f"put(p + {i} * sizeof({kind}), in<{kind}>({reg}));" for i, reg in enumerate(_each(text)))


def build(ptx: str, path: Path) -> ctypes.CDLL:
    """Compile PTX into a shared library and load it.

    Raises
    ------
    ValueError
        A statement or an instruction is not known; the message names it.
    """
    source = path.with_suffix(".cpp")
    source.write_text(translate(ptx))
    options = ["-std=c++17", "-O1", "-w", "-fwrapv", "-ffp-contract=off", "-fPIC", "-shared"]
    done = subprocess.run(["g++", *options, "-o", path, source], capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(done.stderr)
    return ctypes.CDLL(str(path))


@dataclass(frozen=True)
class Work:
    """What a GPU would have to do for a launch.

    Parameters
    ----------
    instructions : int
        That warps of 32 threads issue, as many as their busiest thread; copies of registers and parameters are not.
    lines : int
        Of 128 bytes, that the accesses of warps ask for.
    sectors : int
        Of 32 bytes, that are read, and that are written; each counted once, which is what memory has to move. Those of
        atomics and volatile loads are left out.
    """

    instructions: int
    lines: int
    sectors: int


class PtxBackend(CpuBackend):
    """Runs the PTX of all kernels on NumPy arrays; `launches` tells each kernel and what it did.

    Parameters
    ----------
    nvrtc : module
        ``cupy.cuda.nvrtc``.
    folder : Path
        For what is built.
    """

    row_threads = ROW_THREADS

    def __init__(self, nvrtc: Any, folder: Path) -> None:
        super().__init__(1, row_forms=False)
        self.lanes = LANES
        self.launches: list[tuple[str, Work]] = []
        files = sorted({kernel_file(kernel) for kernel in kernel_names()})

        def make(file: str) -> ctypes.CDLL:
            return build(compile_to_ptx(nvrtc, kernel_source(hostlib.KERNEL_DIR / file)), folder / f"{file}.so")

        with ThreadPoolExecutor(hostlib.usable_cores()) as pool:
            self._libraries = dict(zip(files, pool.map(make, files), strict=True))

    def launch(self, kernel: str, grid: Dims, block: Dims, args: Sequence[Any]) -> None:
        """Run a kernel; an access that is not aligned, leaves the arrays or races is an `AssertionError`."""
        check_arguments(kernel, args, np.ndarray)
        self.launches.append((kernel, launch(self._libraries[kernel_file(kernel)], kernel, grid, block, args)))


def launch(library: ctypes.CDLL, kernel: str, grid: Dims, block: Dims, args: Sequence[Any]) -> Work:
    """Run an entry of a library that `build` made, over arrays and NumPy scalars."""
    arrays = [arg for arg in args if isinstance(arg, np.ndarray)]
    slots = b"".join(
        (np.uint64(arg.ctypes.data) if isinstance(arg, np.ndarray) else arg).tobytes().ljust(_SLOT_BYTES, b"\0")
        for arg in args
    )
    ranges = np.array([(a.ctypes.data, a.ctypes.data + a.nbytes) for a in arrays], np.uint64)
    dims = [(ctypes.c_uint32 * 3)(*three(d)) for d in (grid, block)]
    function = library[f"launch_{kernel}"]
    function.restype = ctypes.c_char_p
    work = (ctypes.c_uint64 * 3)()
    fault = function(slots, *dims, ctypes.c_void_p(ranges.ctypes.data), ctypes.c_uint32(len(arrays)), work)
    if fault is not None:
        raise AssertionError(f"{kernel}: {fault.decode()}")
    return Work(*work)
