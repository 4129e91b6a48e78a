"""Kernels that hold a row beside what Inductor makes of the same operators' references, on a GPU.

    python tests/bench/long_rows.py [--rows 1 32 128 256 512 2048 8192]

Norms of rows of 5,120 columns, quantizes of 8,192, gates of twice 25,600: those of Qwen3-32B, in
bfloat16. Each call is captured, over so many inputs that together they exceed the L2 cache. The
exit status is the number of calls in which our kernel is slower by more than a tenth, apart from
the few rows that `ascend_passes/npu/cuda/in_graph.py` leaves to Inductor.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
from ascend_passes import npu  # noqa: E402 - found without an installation
from ascend_passes.npu.cuda.choose import kernel_of  # noqa: E402
from ascend_passes.npu.cuda.in_graph import kernel_pays  # noqa: E402
from tests.bench.own_kernels import copies, microseconds  # noqa: E402

HIDDEN, HEADS, INTERMEDIATE = 5120, 8192, 25600
SLOWER = 1.1
Given = tuple[tuple[Tensor, ...], dict[str, Any]]


def halves(*sizes: int) -> Tensor:
    """Random bfloat16."""
    return torch.randn(*sizes, dtype=torch.bfloat16, device="cuda")


def added(rows: int) -> tuple[Tensor, ...]:
    """Two rows to add, and a gain."""
    return halves(rows, HIDDEN), halves(rows, HIDDEN), halves(HIDDEN)


def static(rows: int, scales: int) -> tuple[Tensor, ...]:
    """What a norm with a static quantize is given."""
    zero = torch.zeros(scales, dtype=torch.bfloat16, device="cuda")
    return (*added(rows), halves(scales).abs() + 0.01, zero)


FORMS: dict[str, tuple[str, Callable[[int], Given]]] = {
    "norm": ("npu_rms_norm", lambda n: (added(n)[1:], {})),
    "add + norm": ("npu_add_rms_norm", lambda n: (added(n), {})),
    "add + norm + quantize": ("npu_add_rms_norm_dynamic_quant", lambda n: (added(n), {})),
    "add + norm + one scale": ("npu_add_rms_norm_quant", lambda n: (static(n, 1), {})),
    "add + norm + a scale a column": (
        "npu_add_rms_norm_quant",
        lambda n: (static(n, HIDDEN), {}),
    ),
    "quantize": ("npu_dynamic_quant", lambda n: ((halves(n, HEADS),), {})),
    "SwiGLU + quantize": (
        "npu_swiglu_quant",
        lambda n: ((halves(n, 2 * INTERMEDIATE),), {"activate_left": True, "quant_mode": 1}),
    ),
}


def compared(form: str, rows: int) -> tuple[float, float, bool]:
    """Microseconds of Inductor's loops and of our kernel, and whether ours is what graphs have."""
    name, draw = FORMS[form]
    operator, kernel = npu.OPERATORS[name], kernel_of(name)
    assert kernel is not None
    first = draw(rows)
    size = sum(tensor.nbytes for tensor in first[0])
    drawn = [first, *(draw(rows) for _ in range(copies(size) - 1))]
    torch._dynamo.reset()
    compiled = torch.compile(operator.reference, dynamic=False)
    options, tensors = first[1], [given for given, _ in drawn]
    loops, ours = (microseconds(partial(run, **options), tensors) for run in (compiled, kernel))
    return loops, ours, kernel_pays(name, first[0][0], options)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rows", type=int, nargs="*", default=[1, 32, 128, 256, 512, 2048, 8192])
    counts = parser.parse_args().rows
    print(torch.cuda.get_device_name(), torch.__version__, flush=True)
    print("| rows | " + " | ".join(FORMS) + " |\n" + "|---" * (len(FORMS) + 1) + "|")
    slower = 0
    with torch.no_grad():
        for rows in counts:
            found = [compared(form, rows) for form in FORMS]
            slower += sum(chosen and ours > SLOWER * loops for loops, ours, chosen in found)
            cells = (f"{loops:.1f}, {ours:.1f}" for loops, ours, _ in found)
            print(f"| {rows} | " + " | ".join(cells) + " |", flush=True)
    return slower


if __name__ == "__main__":
    sys.exit(main())
