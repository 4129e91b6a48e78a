"""Triton source -> linalg by triton-ascend -> HIVM by bishengir-compile."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

from triton._C.libtriton import ir
from triton.backends.ascend.compiler import AscendBackend, make_ttir, ttir_to_linalg
from triton.backends.compiler import GPUTarget
from triton.compiler.compiler import ASTSource

TARGETS = (
    "Ascend910B1",
    "Ascend910B2",
    "Ascend910B3",
    "Ascend910B4",
    "Ascend910_9391",
    "Ascend950PR_9589",
)
"""Atlas A2 in its four sizes, an A3 and an A5, as the compiler names them."""
OPTIONS = (
    "--enable-auto-multi-buffer=true",
    "--enable-hfusion-compile=true",
    "--enable-hivm-compile=true",
    "--enable-triton-kernel-compile=true",
)


class RefusedError(RuntimeError):
    """The compiler does not take the kernel; the text is its first error."""


def linalg_of(kernel: Any, signature: dict[str, str], constants: dict[str, Any]) -> str:
    """The text that Huawei's compiler starts from.

    `triton.compile` would go on to a stage that wants CANN.
    """
    target = GPUTarget("npu", TARGETS[0], 0)
    backend = AscendBackend(target)
    options = backend.parse_options({})
    context = ir.context()
    ir.load_dialects(context)
    source = ASTSource(kernel, signature, constants)
    module = source.make_ir(options, backend.get_codegen_implementation(), {}, context)
    metadata = {"target": target, **options.__dict__}
    module = make_ttir(module, metadata, options)
    return str(ttir_to_linalg(module, metadata, options, named_ops=True))


def hivm_of(linalg: Path, folder: Path, target: str) -> Path:
    """The compiler's last text for a chip.

    Raises:
        RefusedError: an error; one about memory is told before others.
    """
    folder.mkdir(exist_ok=True, parents=True)
    program = "bishengir-compile-a5" if "950" in target else "bishengir-compile"
    out = (f"--save-temps={folder}", "-o", folder / "kernel.o")
    words = (program, linalg, f"--target={target}", *OPTIONS, *out)
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True)
    if done.returncode:
        errors = re.findall(r"error: (.*)", done.stderr) or [done.stderr.strip()]
        raise RefusedError(next((e for e in errors if "overflow" in e), errors[0])[:200])
    return folder / "module.hivm.opt.mlir"
