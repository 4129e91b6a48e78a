"""What raises in eager raises, and leaves behind what it leaves there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from tests.soundness.case import Compile


def outcome(action: Callable[[], Any], *after: Any) -> Any:
    """What an action returns, or the type of what it raises, and some state after it."""
    try:
        return "returned", action(), after
    except Exception as error:
        return "raised", type(error).__name__, str(error).splitlines()[:1], after


def assertion_on_a_tensor(compile: Compile) -> Any:
    def f(ids):
        assert ids.max() < 10, "out of range"
        return ids * 2

    step = compile(f)
    good = outcome(lambda: step(torch.tensor([3, 4])))
    return good, outcome(lambda: step(torch.tensor([3, 99])))


def asynchronous_assertion(compile: Compile) -> Any:
    def f(x):
        torch._assert_async((x > 0).all(), "not positive")
        return x * 2

    step = compile(f)
    return outcome(lambda: step(torch.ones(2))), outcome(lambda: step(-torch.ones(2)))


def asynchronous_assertion_without_text(compile: Compile) -> Any:
    def f(x):
        torch._assert_async((x > 0).all())
        return x * 2

    step = compile(f)
    return outcome(lambda: step(torch.ones(2))), outcome(lambda: step(-torch.ones(2)))


def assertion_alone(compile: Compile) -> Any:
    step = compile(lambda x: torch._assert_async(x.all(), "some are false"))
    return outcome(lambda: step(torch.ones(2))), outcome(lambda: step(torch.zeros(2)))


def check_on_an_item(compile: Compile) -> Any:
    def f(x):
        n = x.item()
        torch._check(n < 10)
        return torch.ones(3) * n

    step = compile(f)
    return outcome(lambda: step(torch.tensor(3))), outcome(lambda: step(torch.tensor(30)))


def check_is_size(compile: Compile) -> Any:
    def f(x):
        n = x.item()
        torch._check(n >= 0)
        return torch.zeros(n)

    step = compile(f)
    return outcome(lambda: step(torch.tensor(3))), outcome(lambda: step(torch.tensor(-2)))


def check_on_nonzero(compile: Compile) -> Any:
    def f(x):
        found = x.nonzero()
        torch._check(found.shape[0] >= 2)
        return found * 2

    step = compile(f)
    return (
        outcome(lambda: step(torch.tensor([1, 1, 0]))),
        outcome(lambda: step(torch.tensor([0, 1, 0]))),
    )


def check_result_unused(compile: Compile) -> Any:
    def f(x, y):
        n = y.sum().item()
        torch._check(n != 5)
        return x.sin()

    step, x = compile(f), torch.ones(2)
    return (
        outcome(lambda: step(x, torch.tensor([1, 1]))),
        outcome(lambda: step(x, torch.tensor([2, 3]))),
    )


def check_with_another_shape(compile: Compile) -> Any:
    def f(x, y):
        torch._check(x.shape[0] == y.shape[0], lambda: "sizes differ")
        return x.sum() + y.sum()

    step = compile(f)
    return (
        outcome(lambda: step(torch.ones(3), torch.ones(3))),
        outcome(lambda: step(torch.ones(3), torch.ones(4))),
    )


CONFIG = {
    name: {"capture_scalar_outputs": True, "capture_dynamic_output_shape_ops": True}
    for name in ("check_on_an_item", "check_is_size", "check_on_nonzero", "check_result_unused")
}


def index_out_of_range(compile: Compile) -> Any:
    step, table = compile(lambda table, ids: table[ids] * 2), torch.randn(4, 3)
    return (
        outcome(lambda: step(table, torch.tensor([1]))),
        outcome(lambda: step(table, torch.tensor([9]))),
        outcome(lambda: step(table, torch.tensor([-4]))),
    )


def embedding_out_of_range(compile: Compile) -> Any:
    layer = nn.Embedding(4, 3)
    step = compile(lambda ids: layer(ids) * 2)
    return outcome(lambda: step(torch.tensor([1]))), outcome(lambda: step(torch.tensor([9])))


def gather_out_of_range_unused(compile: Compile) -> Any:
    def f(x, ids):
        x.gather(0, ids)
        return x * 2

    step, x = compile(f), torch.ones(3)
    return outcome(lambda: step(x, torch.tensor([0]))), outcome(lambda: step(x, torch.tensor([2])))


def shapes_that_do_not_fit(compile: Compile) -> Any:
    step = compile(lambda x, y: (x @ y).sin())
    return (
        outcome(lambda: step(torch.ones(2, 3), torch.ones(3, 2))),
        outcome(lambda: step(torch.ones(2, 3), torch.ones(2, 3))),
        outcome(lambda: step(torch.ones(2, 3), torch.ones(3, 2))),
    )


def dtypes_that_do_not_fit(compile: Compile) -> Any:
    step = compile(lambda x, y: x @ y)
    return outcome(lambda: step(torch.ones(2, 2), torch.ones(2, 2, dtype=torch.float64)))


def not_positive_definite(compile: Compile) -> Any:
    step = compile(lambda x: torch.linalg.cholesky(x) * 2)
    return outcome(lambda: step(torch.eye(2))), outcome(lambda: step(-torch.eye(2)))


def singular(compile: Compile) -> Any:
    step = compile(lambda x: torch.linalg.inv(x) + 0)
    return outcome(lambda: step(torch.eye(2))), outcome(lambda: step(torch.zeros(2, 2)))


def integer_division_by_zero(compile: Compile) -> Any:
    step = compile(lambda x, y: x // y)
    return (
        outcome(lambda: step(torch.tensor([4]), torch.tensor([2]))),
        outcome(lambda: step(torch.tensor([4]), torch.tensor([0]))),
    )


def negative_probability(compile: Compile) -> Any:
    step = compile(lambda p: torch.multinomial(p, 2, True))
    return outcome(lambda: step(torch.ones(3))), outcome(lambda: step(torch.tensor([-1.0, 1, 1])))


def write_before_an_error(compile: Compile) -> Any:
    def f(x, ids):
        x.add_(1)
        return x[ids]

    step, x = compile(f), torch.zeros(3)
    step(x, torch.tensor([0]))
    return outcome(lambda: step(x, torch.tensor([9]))), x


def error_of_the_user(compile: Compile) -> Any:
    class RefusedError(Exception):
        pass

    def f(x):
        if x.shape[0] > 3:
            raise RefusedError(f"{x.shape[0]} rows")
        return x * 2

    step = compile(f)
    return outcome(lambda: step(torch.ones(2))), outcome(lambda: step(torch.ones(5)))


def error_in_backward(compile: Compile) -> Any:
    class Failing(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            raise RuntimeError("no backward")

    x = torch.ones(2, requires_grad=True)
    step = compile(lambda x: Failing.apply(x).sin())
    return outcome(lambda: step(x).sum().backward())


def backward_twice(compile: Compile) -> Any:
    x = torch.ones(2, requires_grad=True)
    result = compile(lambda x: x.exp().sum())(x)
    result.backward()
    return outcome(result.backward), x.grad


def leaf_written(compile: Compile) -> Any:
    x = torch.ones(2, requires_grad=True)
    return outcome(lambda: compile(lambda x: x.add_(1))(x)), x


def saved_argument_written(compile: Compile) -> Any:
    x = torch.ones(2, requires_grad=True)
    y = torch.ones(2)
    result = compile(lambda x, y: (x * y).sum())(x, y)
    y.add_(1)
    return outcome(result.backward), x.grad


def missing_argument(compile: Compile) -> Any:
    step: Any = compile(lambda x, y: x + y)
    return outcome(lambda: step(torch.ones(1)))


def view_that_cannot_be(compile: Compile) -> Any:
    step = compile(lambda x: x.t().view(-1))
    return outcome(lambda: step(torch.ones(2, 3))), outcome(lambda: step(torch.ones(1, 3)))


def anomaly(compile: Compile) -> Any:
    x = torch.zeros(2, requires_grad=True)
    step = compile(lambda x: (x.sqrt() * 0).sum())
    with torch.autograd.detect_anomaly(check_nan=True):
        return outcome(lambda: step(x).backward())


def inference_tensor_saved(compile: Compile) -> Any:
    with torch.inference_mode():
        y = torch.ones(2)
    x = torch.ones(2, requires_grad=True)
    return outcome(lambda: compile(lambda x: (x * y).sum())(x).backward()), x.grad


def custom_operator_that_raises(compile: Compile) -> Any:
    step = compile(lambda x: torch.ops.aten.index_select(x, 0, torch.tensor([5])) * 1)
    return outcome(lambda: step(torch.ones(9))), outcome(lambda: step(torch.ones(3)))
