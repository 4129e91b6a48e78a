"""What a call costs beside its operators, next to `aot_eager`, in one process.

    python tests/bench/call_cost.py [WORD]

Prints the best of many calls of each backend, taken in turns, and their ratio; of the models with
WORD in their name.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

CALLS = 20
WARM_UP = 3


class Sums(nn.Module):
    """As many equal small parameters, each used once."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.weights = nn.ParameterList([torch.ones(16) for _ in range(count)])

    def forward(self, x: Tensor) -> Tensor:
        for weight in self.weights:
            x = x + weight
        return x


class Shared(Sums):
    """As many equal parameters that meet one value, so that they are merged."""

    def forward(self, x: Tensor) -> Tensor:
        total = x
        for weight in self.weights:
            total = total + x * weight
        return total


class Layer(nn.Module):
    """The static quantization of q, k and v by scales of their own, equal in content."""

    def __init__(self) -> None:
        super().__init__()
        self.scales = nn.ParameterList([torch.full((1,), 0.25) for _ in range(3)])
        self.gain = nn.Parameter(torch.rand(64) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        y = x * self.gain
        return sum((torch.clamp(torch.round(y / s), -128, 127) * s for s in self.scales), x)


class Gains(nn.Module):
    """Gains that are computed from parameters, as Gemma's."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.gains = nn.ParameterList([torch.rand(2560) for _ in range(count)])

    def forward(self, x: Tensor) -> Tensor:
        for gain in self.gains:
            x = x * (1 + gain.float())
        return x


MODELS: dict[str, Callable[[], tuple[nn.Module, Tensor]]] = {
    "1 parameter": lambda: (Sums(1), torch.rand(1, 16)),
    "50 equal parameters": lambda: (Sums(50), torch.rand(1, 16)),
    "400 equal parameters": lambda: (Sums(400), torch.rand(1, 16)),
    "400 merged parameters": lambda: (Shared(400), torch.rand(1, 16)),
    "64 layers of q, k, v scales": lambda: (
        nn.Sequential(*(Layer() for _ in range(64))),
        torch.rand(1, 64),
    ),
    "128 folded gains": lambda: (Gains(128), torch.rand(1, 2560)),
}


def seconds(step: Callable[[Tensor], Tensor], x: Tensor) -> float:
    """One call."""
    start = time.perf_counter()
    step(x)
    return time.perf_counter() - start


@torch.no_grad()
def measured(make: Callable[[], tuple[nn.Module, Tensor]]) -> list[float]:
    """The best call of `aot_eager` and of `ascend_dense`, of two models alike, in turns."""
    torch._dynamo.reset()
    steps = []
    for backend in ("aot_eager", "ascend_dense"):
        torch.manual_seed(0)
        model, x = make()
        # Dynamo looks a frame's graphs up by its code: each model needs one of its own.
        steps.append(torch.compile(own_code(model), backend=backend))
        for _ in range(WARM_UP):
            steps[-1](x)
    times = [[seconds(step, x) for step in steps] for _ in range(CALLS)]
    return [min(one) for one in zip(*times, strict=True)]


def own_code(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """A call of the model in a function with a code object of its own."""
    source = "def call(x):\n    return model(x)\n"
    scope: dict[str, Callable[[Tensor], Tensor]] = {"model": model}
    exec(compile(source, "<call>", "exec"), scope)
    return scope["call"]


if __name__ == "__main__":
    torch.set_num_threads(1)
    word = "".join(sys.argv[1:])
    for name, make in MODELS.items():
        if word in name:
            theirs, ours = (1e6 * one for one in measured(make))
            print(
                f"{name:<30}{theirs:8.0f} us {ours:8.0f} us  ratio {ours / theirs:.2f}", flush=True
            )
