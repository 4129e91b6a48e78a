"""Assertions, prints and other effects of a model happen under the backend, and stop no fusion."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import ascend_passes
from ascend_passes.engine.normalize import normalize
from ascend_passes.ir.graph import has_effect

from .graphs import raw, targets

IDS = torch.tensor([3, 99])


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    ascend_passes.reset()
    yield
    torch._dynamo.reset()


def asserted(ids):
    torch._assert_async((ids < 10).all(), "out of range")
    return ids * 2


def checked_item(ids):
    number = ids.max().item()
    torch._check(number < 10)
    return ids + number


def checked_size(ids):
    found = ids.nonzero()
    torch._check(found.shape[0] < 2)
    return found.sum() + ids


@pytest.mark.parametrize("backend", ["aot_eager", "ascend_dense"])
@pytest.mark.parametrize(
    ("function", "right"),
    [
        (asserted, IDS.clamp(max=9)),
        (checked_item, IDS.clamp(max=9)),
        (checked_size, IDS * torch.tensor([0, 1])),
    ],
)
@torch.no_grad()
def test_an_assertion_raises_for_wrong_inputs_alone(function, right, backend):
    with torch._dynamo.config.patch(
        capture_scalar_outputs=True, capture_dynamic_output_shape_ops=True
    ):
        step = torch.compile(function, backend=backend, fullgraph=True)
        assert torch.equal(step(right), function(right))
        with pytest.raises(RuntimeError):
            step(IDS)


class Norm(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(64))

    def forward(self, x):
        wide = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)
        torch._assert_async((x < 1e6).all(), "too large")
        return self.weight * wide


@torch.no_grad()
def test_an_assertion_in_its_middle_does_not_stop_a_rule():
    model = Norm()
    step = torch.compile(model, backend="ascend_dense")
    x = torch.randn(5, 64)
    torch.testing.assert_close(step(x), model(x))
    with pytest.raises(RuntimeError, match="too large"):
        step(x * 1e9)
    assert ascend_passes.reports()[-1].fired.get("rms_norm") == 1


@torch.no_grad()
def test_operators_without_a_result_and_declared_effects_stay():
    heard = []
    with torch.library._scoped_library("ascend_effects", "FRAGMENT") as library:
        library.define("tell(Tensor x) -> ()")
        library.impl("tell", lambda x: heard.append(x.sum().item()), "CPU")
        library._register_fake("tell", lambda x: None)
        library.define("count(Tensor x) -> Tensor")
        library.impl("count", lambda x: x.clone(), "CompositeExplicitAutograd")
        torch.library._register_effectful_op(
            "ascend_effects::count", torch.library.EffectType.ORDERED
        )
        try:

            def model(x):
                torch.ops.ascend_effects.tell(x)
                return x * 2

            gm = raw(model, [torch.ones(3)])
            assert "ascend_effects.tell.default" in targets(gm)
            with gm.graph.inserting_before(gm.graph.output_node()):
                source = gm.graph.find_nodes(op="placeholder")[0]
                gm.graph.call_function(torch.ops.ascend_effects.count.default, (source,))
                gm.graph.call_function(torch.ops.aten.neg.default, (source,))
            normalize(gm.graph)
            gm.recompile()
            assert {"ascend_effects.tell.default", "ascend_effects.count.default"} < set(
                targets(gm)
            )
            assert "aten.neg.default" not in targets(gm)
            gm(torch.ones(3))
            assert heard == [3.0]
        finally:
            torch.library._register_effectful_op("ascend_effects::count", None)


def test_random_numbers_are_values_and_no_effects():
    gm = raw(lambda x: torch.rand_like(x) + x, [torch.ones(3)])
    assert not any(map(has_effect, gm.graph.nodes))
