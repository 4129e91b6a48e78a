"""HIVM's last text as a shared library of this machine, above Huawei's device library."""

from __future__ import annotations

import itertools
import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

HERE = Path(__file__).parent
PIPES = ("PIPE_S", "PIPE_V", "PIPE_M", "PIPE_MTE1", "PIPE_MTE2", "PIPE_MTE3", "PIPE_ALL")
UNIFIED_BUFFER = "memref<196608xi8>"
LAYOUT = 'target datalayout = "e-m:e-p270:32:32-p271:32:32-p272:64:64-i64:64-i128:128-f80:128-n8:16:32:64-S128"'  # noqa: E501
DECLARED = (
    "  func.func private @hivm.SET.FLAG.IMM(i64, i64, i64)",
    "  func.func private @hivm.WAIT.FLAG.IMM(i64, i64, i64)",
    "  func.func private @hivm.BARRIER(i64)",
    "  func.func private @get_block_idx() -> i64",
    "  func.func private @get_sub_block_idx() -> i64",
    f"  memref.global @ub : {UNIFIED_BUFFER}",
)
LOWER = (
    *("--lower-affine", "--expand-strided-metadata", "--memref-expand", "--lower-affine"),
    *("--convert-scf-to-cf", "--convert-math-to-libm", "--convert-math-to-llvm"),
    *("--convert-index-to-llvm", "--arith-expand", "--convert-arith-to-llvm"),
    *("--finalize-memref-to-llvm", "--convert-func-to-llvm", "--convert-cf-to-llvm"),
    "--reconcile-unrealized-casts",
)
TYPE = re.compile(r"memref<[^>]*(?:<[^>]*>[^>]*)?>|\b(?:i\d+|f\d+|bf16|index)\b(?![^<]*>)")
MARKER = "3735928559"
"""What MLIR gives as the base pointer of a view of a global; the device library reads it."""


def wheel() -> Path:
    """The folder of the compiler's wheel."""
    found = find_spec("ascendnpuir")
    assert found is not None and found.submodule_search_locations
    return Path(found.submodule_search_locations[0])


def output_of(name: str, *words: object, text: str | None = None) -> str:
    """Standard output of a program that gets `text`."""
    command = [name, *map(str, words)]
    done = subprocess.run(command, input=text, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{name}: {done.stderr[:2000]}")
    return done.stdout


def device_library(names: set[str]) -> tuple[str, dict[str, int]]:
    """LLVM text, for this machine, of functions of Huawei's library, and how many arguments each
    takes."""
    functions = [f"--func=_mlir_ciface_{name}" for name in sorted(names)]
    bitcode = wheel() / "lib" / "meta_op.aiv.c220.bc"
    text = output_of("llvm-extract-19", "--recursive", *functions, bitcode, "-S")
    text = re.sub(r"^target datalayout.*", LAYOUT, text, flags=re.M)
    text = re.sub(r"^target triple.*", 'target triple = "x86_64-pc-linux-gnu"', text, flags=re.M)
    text = re.sub(r'"target-(cpu|features)"="[^"]*"', "", text).replace("@llvm.hivm.", "@hivm.")
    defined = re.findall(r"^define .*@_mlir_ciface_(\w+)\((.*)\) ", text, re.M)
    return text, {name: len(arguments.split(",")) for name, arguments in defined}


@dataclass
class Translation:
    """HIVM text, line by line, in MLIR's own dialects: one buffer of bytes, and calls for flags,
    barriers and registers."""

    arity: dict[str, int]
    """Arguments that functions of the device library take; a call has none for the last few."""
    lines: list[str] = field(default_factory=list)
    missing: dict[str, int] = field(default_factory=dict)
    fresh: Iterator[int] = field(default_factory=itertools.count)

    def constant(self, number: int, kind: str = "i64") -> str:
        """A new constant's name."""
        name = f"%k{next(self.fresh)}"
        self.lines.append(f"    {name} = arith.constant {number} : {kind}")
        return name

    def declare(self, match: re.Match[str]) -> None:
        """A function of the device library."""
        name, types = match[1], match[2]
        absent = self.missing[name] = self.arity[name] - len(TYPE.findall(types))
        given = f"({types}{', i32' * absent}) attributes {{llvm.emit_c_interface}}"
        self.lines.append(f"  func.func private @{name}{given}")

    def call(self, match: re.Match[str]) -> None:
        """A call of one, with zeros for what it leaves out."""
        name, operands, types = match[1], match[2], match[3]
        for _ in range(self.missing.get(name, 0)):
            operands, types = f"{operands}, {self.constant(0, 'i32')}", f"{types}, i32"
        self.lines.append(f"    func.call @{name}({operands}) : ({types}) -> ()")

    def define(self, match: re.Match[str]) -> None:
        """The kernel's own head."""
        arguments = re.sub(r" \{[^}]*\}", "", match[2])
        kept = "attributes {llvm.emit_c_interface} {"
        self.lines.append(f"  func.func @{match[1]}({arguments}){match[3] or ''} {kept}")

    def view(self, match: re.Match[str]) -> None:
        """A place in the unified buffer."""
        result, address, sizes, kind = match[1], match[2], match[3] or "", match[4]
        at = f"%k{next(self.fresh)}"
        self.lines += [
            f"    {at} = arith.index_cast {address} : i64 to index",
            f"    {at}b = memref.get_global @ub : {UNIFIED_BUFFER}",
            f"    {result} = memref.view {at}b[{at}][{sizes}] : {UNIFIED_BUFFER} to {kind}",
        ]

    def flag(self, match: re.Match[str]) -> None:
        """A flag that one pipe sets and another waits for."""
        pipes = [self.constant(PIPES.index(match[at])) for at in (2, 3)]
        event = match[5] or self.constant(int(match[4]))
        name = f"hivm.{match[1].upper()}.FLAG.IMM"
        operands = ", ".join([*pipes, event])
        self.lines.append(f"    func.call @{name}({operands}) : (i64, i64, i64) -> ()")

    def barrier(self, match: re.Match[str]) -> None:
        """All instructions of a pipe so far."""
        pipe = self.constant(PIPES.index(match[1]))
        self.lines.append(f"    func.call @hivm.BARRIER({pipe}) : (i64) -> ()")

    def index(self, match: re.Match[str]) -> None:
        """Which core this is."""
        call = f"func.call @get_{match[2] or ''}block_idx() : () -> i64"
        self.lines.append(f"    {match[1]} = {call}")

    def add(self, line: str) -> None:
        """One more line.

        Raises:
            NotImplementedError: an operation of HIVM that has no translation.
        """
        for pattern, translate in RULES:
            if match := pattern.search(line):
                translate(self, match)
                return
        if "hivm.hir.set_mask_norm" in line:
            return
        if "hivm." in line:
            raise NotImplementedError(line.strip()[:200])
        self.lines.append(line)
        self.lines += DECLARED if line == "module {" else ()


RULES: tuple[tuple[re.Pattern[str], Callable[[Translation, re.Match[str]], None]], ...] = (
    (re.compile(r"func\.func private @(\w+)\((.*)\) attributes"), Translation.declare),
    (re.compile(r"(?:func\.)?call @(\w+)\((.*?)\) : \((.*)\) -> \(\)"), Translation.call),
    (re.compile(r"^  func\.func @(\w+)\((.*)\)( -> \w+)? attributes .*\{$"), Translation.define),
    (
        re.compile(r"(%\S+) = hivm\.hir\.pointer_cast\((%\S+)\)(?: \[(.*?)\])? : (memref<.*>)"),
        Translation.view,
    ),
    (
        re.compile(r"hivm\.hir\.(set|wait)_flag\[<(\w+)>, <(\w+)>, (?:<EVENT_ID(\d)>|(%\w+))\]"),
        Translation.flag,
    ),
    (re.compile(r"hivm\.hir\.pipe_barrier\[<(\w+)>\]"), Translation.barrier),
    (re.compile(r"(%\S+) = hivm\.hir\.get_(sub_)?block_idx -> i64"), Translation.index),
)


def upstream(hivm: str, arity: dict[str, int]) -> str:
    """HIVM text in MLIR's own dialects."""
    hivm = re.sub(r", #hivm\.address_space<\w+>| \{hivm\.unlikely_condition\}", "", hivm)
    hivm = re.sub(r"^module attributes .*\{$", "module {", hivm, flags=re.M)
    translation = Translation(arity)
    for line in hivm.splitlines():
        translation.add(line)
    return "\n".join(translation.lines)


def library_of(hivm: Path, folder: Path) -> Path:
    """A shared library of the kernel in a file of HIVM text."""
    folder.mkdir(exist_ok=True, parents=True)
    text = hivm.read_text()
    library, arity = device_library(set(re.findall(r"func\.func private @(\w+)", text)))
    (folder / "library.ll").write_text(library)
    (folder / "kernel.mlir").write_text(upstream(text, arity))
    lowered = output_of(str(wheel() / "bin" / "bishengir-opt"), folder / "kernel.mlir", *LOWER)
    llvm = output_of("mlir-translate-19", "--mlir-to-llvmir", text=lowered)
    marked = rf"ptr inttoptr \(i64 {MARKER} to ptr\), ptr (getelementptr \([^()]*\)|@ub)"
    llvm = re.sub(marked, r"ptr \1, ptr \1", llvm)
    if MARKER in llvm:
        raise NotImplementedError("an address in the unified buffer that is no constant")
    (folder / "kernel.ll").write_text(llvm)
    made, parts = folder / "kernel.so", (folder / "kernel.ll", folder / "library.ll")
    options = ("-O2", "-w", "-shared", "-fPIC", "-Wl,-Bsymbolic,-z,lazy")
    output_of("clang-19", *options, *parts, HERE / "vector_core.c", "-lm", "-o", made)
    return made
