"""Views of rows move behind what works on rows, whichever of their sizes are symbols."""

from __future__ import annotations

import pytest
import torch

import ascend_passes
from ascend_passes import npu
from ascend_passes.ir.edit import Editor
from tests.graphs import raw

SHAPE, WIDTH = (2, 5, 128), 128


def rows(*shape):
    return torch.randn(shape).to(torch.bfloat16)


def norm_and_quantize(x, gain):
    normed = npu.npu_rms_norm(x, gain, 1e-6)[0]
    return npu.npu_dynamic_quant(normed.view(-1, normed.shape[-1]))


def norm_and_gate(x, gain):
    normed = npu.npu_rms_norm(x, gain, 1e-6)[0]
    return npu.npu_swiglu(normed.view(-1, normed.shape[-1]))


def gate_and_quantize(x, gain):
    gated = npu.npu_swiglu(x * gain)
    return npu.npu_dynamic_quant(gated.view(-1, gated.shape[-1]))


def apart(one, other):
    """The largest difference: in LSBs of int8, or as a share of the largest number."""
    whole = other.dtype == torch.int8
    largest = 1.0 if whole else other.abs().max().double()
    return ((one.double() - other.double()).abs().max() / largest).item()


@pytest.mark.parametrize(
    ("function", "dynamic"),
    [
        (norm_and_quantize, False),
        (norm_and_quantize, True),
        (norm_and_gate, False),  # of a width that is a symbol nobody knows whether it is even
        (gate_and_quantize, False),
        (gate_and_quantize, True),
    ],
)
def test_a_view_moves_behind_a_call_on_rows(function, dynamic):
    torch._dynamo.reset()
    ascend_passes.reset()
    given = (rows(*SHAPE), rows(WIDTH))
    with torch.no_grad():
        compiled = torch.compile(function, backend="ascend_dense", dynamic=dynamic)(*given)
        expected = function(*given)
    (report,) = ascend_passes.reports()
    assert not report.errors
    assert report.fired["row_views"] == 1, str(report)
    compiled, expected = ((r,) if torch.is_tensor(r) else r for r in (compiled, expected))
    for one, other in zip(compiled, expected, strict=True):
        assert (one.shape, one.dtype) == (other.shape, other.dtype)
        # The fused gate and quantize round less, by one unit of bfloat16 at most.
        assert apart(one, other) <= (1 if other.dtype == torch.int8 else 2**-8)


def test_a_symbol_is_no_argument_of_a_new_node():
    graph = raw(lambda x: x + 1, [torch.ones(SHAPE)], dynamic=True).graph
    (node,) = graph.find_nodes(op="call_function", target=torch.ops.aten.add.Tensor)
    size = node.meta["val"].shape[0]
    with Editor(graph).at(node) as edit, pytest.raises(ValueError, match="a symbol as a size"):
        edit.call(torch.ops.aten.view.default, node.args[0], [size, -1])
