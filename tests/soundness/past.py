"""Faults that this package has had, so that none comes back."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from tests.soundness.case import Compile


def slice_ends_far_before_the_start(compile: Compile) -> Any:
    def f(x):
        return x[:-15] * 2, x[:-11], x[-15:-12], x[:-12:4], x[-3:-15], x[20:], x[:-10], x[-99:99]

    return compile(f)(torch.arange(10.0))


def mask_times_itself(compile: Compile) -> Any:
    x, m = torch.arange(4.0), torch.tensor([True, False, True, False])
    return compile(lambda x, m: (x[m * m], torch.where(m * m, x, 0), ~(m * m), m * m))(x, m)


def integers_squared(compile: Compile) -> Any:
    x = torch.arange(-3, 4)
    f = compile(lambda x: (x * x, x.to(torch.uint8) * x.to(torch.uint8), x.square()))
    return f(x), f(x.to(torch.int8))


def complex_squared(compile: Compile) -> Any:
    return compile(lambda x: (x * x, x.square()))(torch.randn(3, dtype=torch.complex64))


def half_complex_squared(compile: Compile) -> Any:
    return compile(lambda x: (x * x).real)(torch.ones(3).to(torch.complex32))


def signed_zeros_are_two_constants(compile: Compile) -> Any:
    def f(x):
        return (
            1 / (x + 0.0),
            1 / (x + -0.0),
            1 / torch.full((2,), 0.0),
            1 / torch.full((2,), -0.0),
            1 / (x * 0.0),
            1 / (x * -0.0),
            torch.atan2(x, torch.full_like(x, 0.0)),
            torch.atan2(x, torch.full_like(x, -0.0)),
            torch.where(x == 0, 0.0, x),
            torch.where(x == 0, -0.0, x),
        )

    return compile(f)(torch.tensor([-0.0, 0.0]))


def signed_zero_as_a_number(compile: Compile) -> Any:
    step = compile(lambda x, t: 1 / (x * t))
    return [step(torch.ones(1), t) for t in (0.5, 0.0, -0.0, 0.25)]


def signed_zero_as_a_number_dynamic(compile: Compile) -> Any:
    step = compile(lambda x, t: torch.copysign(x, t))
    return [step(torch.ones(1), t) for t in (0.5, -0.0, 0.0, -0.5, float("nan"))]


def complex_minus_zero(compile: Compile) -> Any:
    x = torch.complex(torch.tensor([-0.0, 0.0, 1.0]), torch.tensor([-0.0, 0.0, -0.0]))
    return compile(lambda x: (x - 0, x + 0, x * 1, x / 1))(x)


def several_results_of_a_parameter(compile: Compile) -> Any:
    class M(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.arange(6.0).view(2, 3))

        def forward(self, x):
            v, i = self.w.max(0)
            top, at = self.w.topk(2, -1)
            return x * v, v, i * 2, top, at, torch.var_mean(self.w, -1), self.w.sort(-1)

    model = M()
    step = compile(model)
    with torch.no_grad():
        return step(torch.ones(3)), step(torch.ones(3))


def weight_norm(compile: Compile) -> Any:
    old = nn.utils.weight_norm(nn.Linear(3, 2))
    new = nn.utils.parametrizations.weight_norm(nn.Linear(3, 2))
    step, x = compile(lambda x: old(x) + new(x)), torch.randn(2, 3)
    with torch.no_grad():
        first = step(x)
    step(x).sum().backward()
    return first, [p.grad for m in (old, new) for p in m.parameters()]


def cast_with_a_memory_format(compile: Compile) -> Any:
    def f(x):
        y = x.to(torch.bfloat16, memory_format=torch.channels_last)
        return y, y.permute(0, 2, 3, 1).view(-1, 3), x.double().contiguous()

    return compile(f)(torch.randn(2, 3, 4, 5)), compile(f)(
        torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    )


def cast_of_strides(compile: Compile) -> Any:
    def f(x):
        return (
            x.bfloat16(),
            x.to(torch.bfloat16, memory_format=torch.contiguous_format),
            x.float(),
            x.to(torch.float32, copy=True),
            x.to(torch.double, memory_format=torch.preserve_format),
        )

    step, x = compile(f), torch.randn(4, 6)
    return step(x.t()), step(x[:, ::2]), step(x[:1].expand(4, 6)), step(x[:0])


def transposed_scalar(compile: Compile) -> Any:
    norm = nn.RMSNorm(8)
    with torch.no_grad():
        return compile(lambda x, y: (x.t(), x.transpose(0, 0), x.t() * 2, norm(y)))(
            torch.tensor(2.0), torch.randn(3, 8)
        )


def vmapped_number(compile: Compile) -> Any:
    return compile(torch.func.vmap(lambda t: t * 2.5))(torch.randn(5))


def numbers_that_change(compile: Compile) -> Any:
    step, x = compile(lambda x, t: (x / t).softmax(-1)), torch.randn(2, 4)
    return [step(x, 0.1 * k) for k in range(1, 9)]


def equal_gate_and_up_weights(compile: Compile) -> Any:
    class Gate(nn.Module):
        def __init__(self, equal: bool) -> None:
            super().__init__()
            self.gate, self.up = nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False)
            if equal:
                self.up.weight.data.copy_(self.gate.weight)

        def forward(self, x):
            return nn.functional.silu(self.gate(x)) * self.up(x)

    model = nn.Sequential(Gate(False), Gate(True), Gate(False))
    with torch.no_grad():
        return compile(model)(torch.randn(2, 8))


def partly_overwritten_zeros(compile: Compile) -> Any:
    def f(x, n):
        a, b, c, d = (torch.zeros(4, 3) for _ in range(4))
        a[:2] = x
        b[::2] = x
        c.index_copy_(0, n, x)
        d[:] = torch.cat([x, x])
        e = torch.zeros_like(x)
        e.masked_fill_(x > 0, 1)
        return a, b, c, d, e

    return compile(f)(torch.randn(2, 3), torch.tensor([0, 3]))
