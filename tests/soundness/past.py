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


def copies_in_whole_memory(compile: Compile) -> Any:
    """A scatter copies all of the memory behind its argument, so a copy in front of it counts."""

    def f(x):
        y = x.sin()
        filled, copied, chosen, crossed, thrice = (y[1:3].clone() for _ in range(5))
        filled[..., :1].fill_(3)
        copied.copy_(x[:2])
        chosen[0] = 1
        crossed.diagonal().zero_()
        other = y[2:] * 1 - 0
        other[:1] = 2
        thrice[0] = thrice[1]
        return filled, copied, chosen, crossed, thrice[1], other, x[1:].clone().t()[:2].clone()

    return compile(f)(torch.randn(4, 3))


def unchanged_in_whole_memory(compile: Compile) -> Any:
    def f(x):
        y = x[1:3].select_scatter(x[0], 0, 0)
        return y - 0, y * 1, y / 1, y.clone()

    def g(n):
        m = n[1:3].slice_scatter(n[:1], 0, 0, 1)
        return m + 0, m

    return compile(f)(torch.randn(4, 3)), compile(g)(torch.arange(12).view(4, 3))


def written_beside_an_input(compile: Compile) -> Any:
    """`as_strided` leads out of an input; a compiled graph stores the elements of inputs alone."""

    def f(x):
        inside, outside = x.as_strided((2, 2), (1, 2), 6), x.as_strided((2, 2), (1, 2), 0)
        inside.mul_(2)
        outside.mul_(2)
        outside.add_(outside)
        y = x - 0
        outside.mul_(2)
        return y, outside, inside

    step, base = compile(f), torch.arange(20.0)
    found = step(base[5:15])
    gaps = torch.arange(20.0)
    return found, base, step(gaps[::2]), gaps


def saved_under_a_result(compile: Compile) -> Any:
    """What is saved for gradients lies in the memory of a result that is written."""

    def whole(a, b):
        h = a * 1.5
        return h.sin(), h[0]

    def part(a, b):
        h = a @ b
        return torch.split(h, 1, -1)[0].pow(2).mean(-1, keepdim=True).exp(), h

    def crossed(a, b):
        h = a @ b
        return h[..., 1:, ::2].transpose(0, 1).sigmoid(), h

    found = []
    for function in (whole, part, crossed):
        a, b = (torch.rand(2, 3, 3).requires_grad_() for _ in range(2))
        y, h = compile(function)(a, b)
        h.mul_(2)
        y.sum().backward()
        found += [y, a.grad, b.grad]
    return found


def saved_result_written(compile: Compile) -> Any:
    """Eager names an autograd node in what it says; aot_eager does not refuse."""
    f = compile(lambda x: ((y := x.nan_to_num()).clamp(0, 1), y.transpose(0, -1), y.t()))
    clamped, crossed, _ = f(torch.rand(5).requires_grad_())
    crossed.mul_(2)
    clamped.sum().backward()


def part_of_a_split_written(compile: Compile) -> Any:
    """All three refuse to read what was written, and name autograd nodes of their own."""

    def f(x):
        y = x / (x.abs() + 1)
        y.t().add_(1)
        return y.view(y.shape), torch.split(x, 1, -1)[0], y

    results = compile(f)(torch.rand(5).requires_grad_())
    with torch.no_grad():
        for result in results:
            result.fill_(1)
    return [result + 1 for result in results]


def rounded_in_the_middle(compile: Compile) -> Any:
    """float32 values that are rounded to bfloat16, to integers and to bools on purpose."""

    def f(x, gain):
        rounded = x.to(torch.bfloat16)
        wide = rounded.float()
        normed = nn.functional.rms_norm(wide, (64,), gain, 1e-5)
        halves = nn.functional.silu(wide[:, :32]) * x[:, 32:]
        whole = x.flip(0) + x.bool(), x.flip(0) + x.to(torch.int32), x.flip(0) - x.to(torch.int8)
        return x.flip(0) + rounded, normed, halves, x + wide.neg(), whole

    x, gain = torch.randn(4, 64), torch.rand(64)
    return compile(f)(x, gain)
