"""Which results share memory, what a write to one does to others, and what it does to gradients."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tests.soundness.case import Compile


def rows(*shape: int) -> Tensor:
    """Values that need a gradient."""
    return torch.randn(*(shape or (3, 4))).requires_grad_()


def two_zeros(compile: Compile) -> Any:
    k, v = compile(lambda x: (torch.zeros(2), torch.zeros(2)))(torch.ones(1))
    k += 7
    return k, v


def zeros_and_ones_like(compile: Compile) -> Any:
    found = compile(lambda x: (x.new_zeros(2), torch.zeros_like(x), x.new_zeros(2), x * 0))(
        torch.ones(2)
    )
    for index, tensor in enumerate(found):
        tensor += index + 1
    return found


def caches_across_a_graph_break(compile: Compile) -> Any:
    def f(x):
        k, v = torch.zeros(2, 3), torch.zeros(2, 3)
        torch._dynamo.graph_break()
        k[0] = x
        v[1] = -x
        return k, v

    return compile(f)(torch.ones(3))


def kept_before_a_write(compile: Compile) -> Any:
    def f(x):
        y = x.sin()
        old = y.clone()
        torch._dynamo.graph_break()
        y.add_(1)
        return y - old, y, old

    return compile(f)(torch.ones(2))


def loss_for_the_log(compile: Compile) -> Any:
    layer, x = nn.Linear(2, 1), torch.randn(3, 2)

    def f(x):
        y = layer(x).sum()
        return y, y.detach().clone()

    loss, log = compile(f)(x)
    loss.backward()
    return loss, log, layer.weight.grad


def loss_first_in_the_log(compile: Compile) -> Any:
    x = rows()
    log, loss = compile(lambda x: ((y := x.sin().sum()).detach(), y))(x)
    loss.backward()
    return loss, log, x.grad


def clone_written_then_differentiated(compile: Compile) -> Any:
    x = rows()
    a, b = compile(lambda x: ((y := x.sin()), y.clone()))(x)
    b.mul_(2)
    (a * b).sum().backward()
    return a, b, x.grad


def saved(compile: Compile, function: Any) -> Any:
    """A result of an operator whose backward keeps its result, written after the call."""
    x = torch.rand(3, 4).add(0.5).requires_grad_()
    result = compile(function)(x)
    result.mul_(2)
    result.sum().backward()
    return result, x.grad


def saved_exp_clone(compile: Compile) -> Any:
    return saved(compile, lambda x: x.exp().clone())


def saved_sigmoid_times_one(compile: Compile) -> Any:
    return saved(compile, lambda x: x.sigmoid() * 1)


def saved_softmax_clone(compile: Compile) -> Any:
    return saved(compile, lambda x: x.softmax(-1).clone())


def saved_sqrt_copied(compile: Compile) -> Any:
    return saved(compile, lambda x: x.sqrt().to(x.dtype, copy=True))


def saved_tanh_contiguous(compile: Compile) -> Any:
    return saved(compile, lambda x: x.tanh().t().contiguous().t().clone())


def saved_exp_itself(compile: Compile) -> Any:
    return saved(compile, lambda x: x.exp())


def saved_norm(compile: Compile) -> Any:
    layer = nn.RMSNorm(4)
    return saved(compile, lambda x: layer(x).clone())


def gates_written(compile: Compile) -> Any:
    x = rows(3, 8)

    def f(x):
        gate, up = x.chunk(2, -1)
        y = nn.functional.silu(gate) * up
        return y, y.clone(), gate.clone()

    y, other, gate = compile(f)(x)
    other.zero_()
    gate.zero_()
    y.sum().backward()
    return y, other, gate, x.grad


def argument_returned(compile: Compile) -> Any:
    x = torch.randn(3)
    found = compile(lambda x: (x, x.view(-1), x.detach(), x.clone(), x * 1))(x)
    found[3].add_(1)
    found[4].add_(2)
    found[0].mul_(3)
    return found, x


def argument_copied_with_to(compile: Compile) -> Any:
    x = torch.randn(3)
    found = compile(lambda x: (x.to(torch.float32), x.to(torch.float32, copy=True), x.float()))(x)
    found[1].zero_()
    found[0].mul_(2)
    return found, x


def argument_written(compile: Compile) -> Any:
    def f(x):
        before = x.clone()
        x.add_(1)
        return before, x.clone(), x

    x = torch.zeros(3)
    found = compile(f)(x)
    found[1].mul_(5)
    return found, x


def argument_written_back(compile: Compile) -> Any:
    def f(x, y):
        y.copy_(x)
        return y.clone(), x.clone()

    x, y = torch.randn(3), torch.zeros(3)
    found = compile(f)(x, y)
    found[0].add_(1)
    return found, x, y


def arguments_that_overlap(compile: Compile) -> Any:
    base = torch.zeros(10)

    def f(a, b):
        a.add_(1)
        return b.clone(), b * 1, a.clone()

    found = compile(f)(base[:6], base[3:])
    found[0].mul_(2)
    return found, base


def views_of_one_result(compile: Compile) -> Any:
    def f(x):
        y = x.sin()
        return y, y.view(-1), y.t(), y[1:], y.unsqueeze(0)

    found = compile(f)(torch.randn(3, 3))
    found[1].zero_()
    return found


def view_and_its_copy(compile: Compile) -> Any:
    def f(x):
        y = x.sin().view(-1)
        return y, y.clone(), y.reshape(3, 3).clone().view(-1)

    found = compile(f)(torch.randn(3, 3))
    found[0].zero_()
    return found


def copy_of_a_part(compile: Compile) -> Any:
    """As the last token's logits are taken, so that all others can be freed."""
    logits, first = compile(lambda x: ((y := x.sin())[-1:].clone(), y[:1] * 1))(torch.randn(50, 3))
    logits.zero_()
    return logits, first


def transposed_copy(compile: Compile) -> Any:
    x = rows()
    result = compile(lambda x: x.tanh().t().contiguous().t().clone())(x)
    result.mul_(2)
    return result.detach(), result.is_contiguous()


def same_twice(compile: Compile) -> Any:
    def f(x):
        y = x.sin()
        return y, y, x.sin()

    found = compile(f)(torch.randn(3))
    found[0].zero_()
    return found


def same_cast_twice(compile: Compile) -> Any:
    found = compile(lambda x: (x.bfloat16(), x.bfloat16(), x.bfloat16().float()))(torch.randn(3))
    found[0].zero_()
    return found


def same_norm_twice(compile: Compile) -> Any:
    def f(x):
        one = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)
        other = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)
        return one, other

    one, other = compile(f)(torch.randn(3, 8))
    one.zero_()
    return one, other


def residual_and_norm(compile: Compile) -> Any:
    norm = nn.RMSNorm(8)

    def f(x, r):
        total = x + r
        return norm(total), total, total.clone()

    with torch.no_grad():
        found = compile(f)(torch.randn(3, 8), torch.randn(3, 8))
        found[1].zero_()
    return [t.detach() for t in found[1:]]


def residual_without_change(compile: Compile) -> Any:
    found = compile(lambda x: ((y := x.cos()) + 0, y - 0, y * 1, y / 1, y))(torch.randn(4))
    for index, tensor in enumerate(found):
        tensor.add_(index)
    return found


def integers_without_change(compile: Compile) -> Any:
    found = compile(lambda x: ((y := x.abs()) + 0, y - 0, y * 1, y, y * 0, y * 0))(torch.arange(4))
    for index, tensor in enumerate(found):
        tensor.add_(index)
    return found


def split_parts(compile: Compile) -> Any:
    def f(x):
        q, k, v = x.sin().split(2, -1)
        return q, k.clone(), v, q.contiguous()

    found = compile(f)(torch.randn(3, 6))
    found[0].zero_()
    return found


def expanded(compile: Compile) -> Any:
    found = compile(lambda x: ((y := x.sin()).expand(2, 3), y.expand(3), y.repeat(2, 1)))(
        torch.randn(3)
    )
    found[2].zero_()
    return found


def parameter_returned(compile: Compile) -> Any:
    layer = nn.Linear(3, 3)
    with torch.no_grad():
        f = compile(lambda x: (layer.weight.clone(), layer.weight * 1, layer.weight.t(), x))
        found = f(torch.ones(3))
        found[0].zero_()
        found[1].zero_()
        again = f(torch.ones(3))
    return found, again, layer.weight


def folded_returned(compile: Compile) -> Any:
    layer = nn.Linear(3, 3)
    with torch.no_grad():
        f = compile(lambda x: (layer.weight * 2, (layer.weight * 2).clone(), layer.bias.exp()))
        found = f(torch.ones(3))
        for tensor in found:
            tensor.zero_()
        return found, f(torch.ones(3))


def constant_returned(compile: Compile) -> Any:
    def f(x):
        return torch.arange(3.0), torch.arange(3.0), torch.tensor(1.0), torch.ones(3), torch.ones(3)

    step = compile(f)
    found = step(torch.ones(1))
    for tensor in found:
        tensor.add_(1)
    return found, step(torch.ones(1))


def buffers_of_a_module(compile: Compile) -> Any:
    class Counter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("a", torch.zeros(2))
            self.register_buffer("b", torch.zeros(2))

        def forward(self, x):
            self.a.add_(x)
            return self.a.clone(), self.b.clone(), self.b * 1

    module = Counter()
    step = compile(module)
    found = [*step(torch.ones(2)), *step(torch.ones(2))]
    found[1].fill_(9)
    return found, step(torch.ones(2)), module.a, module.b


def gradients_of_two_arguments(compile: Compile) -> Any:
    x, y = rows(), rows()
    result = compile(lambda x, y: (x + y).sin())(x, y)
    one, other = torch.autograd.grad(result.sum(), (x, y))
    one.zero_()
    return one, other


def gradients_of_equal_formulas(compile: Compile) -> Any:
    x, y = rows(), rows()
    result = compile(lambda x, y: (x.sum() * 2 + y.sum() * 2, x.sum() - y.sum()))(x, y)
    (result[0] * result[1]).backward()
    x.grad.zero_()
    return x.grad, y.grad


def optimizer_moments(compile: Compile) -> Any:
    def f(gradient):
        m, v = torch.zeros_like(gradient), torch.zeros_like(gradient)
        return m, v

    m, v = compile(f)(torch.randn(4))
    for _ in range(2):
        m.mul_(0.9).add_(1)
        v.mul_(0.99).add_(4)
    return m, v


def lstm_state(compile: Compile) -> Any:
    cell = nn.LSTMCell(3, 3)

    def f(x):
        h, c = torch.zeros(1, 3), torch.zeros(1, 3)
        return *cell(x, (h, c)), h, c

    with torch.no_grad():
        found = compile(f)(torch.randn(1, 3))
        found[2].add_(1)
    return found


def dropout_mask(compile: Compile) -> Any:
    def f(x):
        return nn.functional.dropout(x, 0.5, True), nn.functional.dropout(x, 0.5, True)

    one, other = compile(f)(torch.ones(16))
    one.add_(1)
    return one, other


def quantized_twice(compile: Compile) -> Any:
    def f(x):
        scale = x.abs().amax(-1, keepdim=True) / 127
        one = (x / scale).round().clamp(-128, 127).to(torch.int8)
        other = (x / scale).round().clamp(-128, 127).to(torch.int8)
        return one, other, scale, scale.clone()

    found = compile(f)(torch.randn(3, 8))
    found[0].zero_()
    found[2].zero_()
    return found


def list_and_dictionary(compile: Compile) -> Any:
    def f(x):
        y = x.sin()
        return {"a": y, "b": [y.clone(), y.view(-1)], "c": (y,)}

    found = compile(f)(torch.randn(2, 2))
    found["a"].zero_()
    return found


def output_of_a_cache_update(compile: Compile) -> Any:
    def f(cache, x, at):
        cache.index_copy_(0, at, x)
        return cache[:2], cache.clone(), cache * 1

    cache = torch.zeros(4, 3)
    found = compile(f)(cache, torch.ones(1, 3), torch.tensor([1]))
    found[0].add_(1)
    found[1].mul_(7)
    return found, cache


def training_step_twice(compile: Compile) -> Any:
    layer = nn.Linear(4, 4)

    def f(x):
        y = layer(x).relu()
        return y.sum(), y.detach().clone(), y.clone()

    step, found = compile(f), []
    for _ in range(2):
        loss, log, y = step(torch.randn(2, 4))
        log.zero_()
        (loss + y.sum()).backward()
        found += [loss, log, y, layer.weight.grad.clone()]
    return found
