"""Parameters inside tensor subclasses count as parameters, and their writes are seen."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.testing._internal.two_tensor import TwoTensor

import ascend_passes
from ascend_passes.compile.flat_inputs import FlatInputs, plain_parts


def two(value):
    """A parameter that holds two tensors; what is computed with it is computed with both."""
    return nn.Parameter(TwoTensor(value.clone(), value.clone() * 2), requires_grad=False)


class Net(nn.Module):
    """Scales of equal content, so that products with them may become one."""

    def __init__(self):
        super().__init__()
        self.one, self.other = two(torch.full((8,), 0.5)), two(torch.full((8,), 0.5))

    def forward(self, x):
        return (x * self.one).sin() + (x * self.other).sin()


def test_parts_come_in_their_order_and_know_their_owner():
    a, b = torch.ones(2), torch.zeros(3)
    nested = TwoTensor(TwoTensor(a, a + 1), TwoTensor(a + 2, a + 3))
    flat = FlatInputs.of([b, nested], [None] * 5)
    assert [float(part[0]) for part in flat.values] == [0, 1, 2, 3, 4]
    assert flat.owners == (0, 1, 1, 1, 1)
    assert list(plain_parts(b)) == [b]


def test_without_as_many_parts_nothing_is_known_of_them():
    flat = FlatInputs.of([torch.ones(2)], ["traced", "otherwise"])
    assert flat.values == ("traced", "otherwise")
    assert (
        flat.owners == () and flat.state(torch.fx.GraphModule({}, torch.fx.Graph()), [], [0]) == ()
    )


@pytest.fixture
def compiled():
    torch._dynamo.reset()
    ascend_passes.reset()
    model = Net()
    return model, torch.compile(model, backend="ascend_dense")


def parts(value):
    return torch.stack([value.a, value.b])


def test_equal_content_is_merged_and_a_write_is_seen(compiled):
    model, run = compiled
    x = TwoTensor(torch.linspace(-1, 1, 8), torch.linspace(1, 2, 8))
    with torch.no_grad():
        assert torch.equal(parts(run(x)), parts(model(x)))
        assert ascend_passes.reports()[-1].fired["merge_equal"] == 2
        model.other.b.mul_(3)
        assert torch.equal(parts(run(x)), parts(model(x)))
        model.one = two(torch.linspace(0, 1, 8))
        assert torch.equal(parts(run(x)), parts(model(x)))
