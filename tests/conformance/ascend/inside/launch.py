"""Runs a compiled kernel on the CPU, and tells what its vector core counted."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Counts:
    """What all programs of a launch did together."""

    faults: int
    """Memory outside of a tensor or of the buffer, unaligned or unwritten; waits that are missing
    or never end."""
    calls: int
    """Vector and move instructions."""
    repeats: int
    """Of 256 bytes each, of vector instructions."""
    bytes_in: int
    """From global memory to the unified buffer."""
    bytes_out: int


def descriptor(array: np.ndarray) -> Any:
    """What MLIR passes for a tensor: base, aligned, offset, sizes, strides."""
    strides = [step // array.itemsize for step in array.strides]
    words = [array.ctypes.data, array.ctypes.data, 0, *array.shape, *strides]
    return (ctypes.c_int64 * len(words))(*words)


def passed(code: ctypes.CDLL, argument: Any) -> Any:
    """An argument as the kernel takes it; a tensor's memory becomes known to the core."""
    if isinstance(argument, np.ndarray):
        address = ctypes.c_void_p(argument.ctypes.data)
        code.core_tensor(address, ctypes.c_uint64(argument.nbytes))
        return descriptor(argument.reshape(-1))
    is_float = isinstance(argument, float)
    return ctypes.c_float(argument) if is_float else ctypes.c_int32(argument)


def launch(library: Path, kernel: str, arguments: list[Any], grid: int) -> Counts:
    """Run the programs of a grid one after the other."""
    # Helpers of the device library that nothing calls stay undefined.
    code = ctypes.CDLL(str(library.resolve()), mode=os.RTLD_LAZY)
    nothing = np.zeros(1, np.int8)
    hidden = [ctypes.c_int64(0), descriptor(nothing), descriptor(nothing)]
    given = [passed(code, argument) for argument in arguments]
    sizes = [ctypes.c_int32(number) for number in (grid, 1, 1)]
    for program in range(grid):
        code.core_begin(ctypes.c_uint64(program), 1)
        getattr(code, f"_mlir_ciface_{kernel}")(*hidden, *given, *sizes)
    return counted(code)


def counted(code: ctypes.CDLL) -> Counts:
    """What the core counted since it was loaded."""
    code.core_faults.restype = code.core_bytes.restype = ctypes.c_uint64
    found = list(instructions(code))
    return Counts(
        code.core_faults(),
        sum(calls for calls, _ in found),
        sum(repeats for _, repeats in found),
        code.core_bytes(0),
        code.core_bytes(1),
    )


def instructions(code: ctypes.CDLL) -> Iterator[tuple[int, int]]:
    """Calls and repeats of each kind of instruction."""
    name, calls, repeats = ctypes.c_char_p(), ctypes.c_uint64(), ctypes.c_uint64()
    pointers = [ctypes.byref(one) for one in (name, calls, repeats)]
    index = 0
    while code.core_row(index, *pointers):
        yield calls.value, repeats.value
        index += 1
