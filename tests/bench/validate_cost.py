"""What option `validate` adds to a compilation: processor seconds without and with it.

    python -m tests.bench.validate_cost

The better of two first calls of a model, Dynamo included. The last row is the passes alone on a
graph of Qwen3-32B's sizes, whose values are too many: only pieces are validated there.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

import ascend_passes
from ascend_passes.ir.blueprint import copied_module
from ascend_passes.models.build import small_model
from ascend_passes.models.merged import trace_merged
from ascend_passes.models.quantize import quantize_model

REPEATS = 2
TOKENS = 16
SIZES = {"hidden_size": 256, "intermediate_size": 256}


def seconds(step: Callable[[bool], object]) -> list[float]:
    """The least processor seconds of a step without and with `validate`, taken in turns."""
    step(False)  # rules are read once
    times = [[one(step, validate) for validate in (False, True)] for _ in range(REPEATS)]
    return [min(column) for column in zip(*times, strict=True)]


def one(step: Callable[[bool], object], validate: bool) -> float:
    start = time.process_time()
    step(validate)
    return time.process_time() - start


def small(layers: int, activations: str | None) -> Callable[[bool], object]:
    """The first call of a small Qwen3 in bfloat16."""
    model = small_model("qwen3", torch.bfloat16, num_hidden_layers=layers, **SIZES)
    ids = torch.randint(512, (1, TOKENS))
    if activations is not None:
        quantize_model(model, activations, ids)

    def step(validate: bool) -> object:
        torch._dynamo.reset()
        options = {"validate": validate}
        return torch.compile(model, backend="ascend_dense", options=options)(ids, use_cache=False)

    return step


def merged(layers: int) -> Callable[[bool], object]:
    """The passes on a traced graph of Qwen3-32B's sizes."""
    traced = trace_merged(layers, TOKENS)
    return lambda validate: ascend_passes.optimize(
        copied_module(traced)[0], [], {"validate": validate}
    )


MODELS: dict[str, Callable[[], Callable[[bool], object]]] = {
    "2 layers, bfloat16": lambda: small(2, None),
    "2 layers, W8A8": lambda: small(2, "static"),
    "8 layers, W8A8": lambda: small(8, "static"),
    "2 layers of Qwen3-32B's sizes, W8A8": lambda: merged(2),
}

if __name__ == "__main__":
    torch.set_num_threads(1)
    for name, make in MODELS.items():
        with torch.no_grad():
            without, with_it = seconds(make())
        print(f"{name:<38}{without:8.2f} s {with_it:8.2f} s", flush=True)
