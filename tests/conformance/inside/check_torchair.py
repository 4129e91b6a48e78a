"""The executor `torchair`: our graphs become CANN graph IR, or an operator is refused by name."""

from __future__ import annotations

import pytest
import torch

from ascend_passes import npu
from ascend_passes.executors.execute import ExecutorError, execute, load_torchair
from ascend_passes.ir import trace
from ascend_passes.options.value import Options
from tests.conformance.inside import ir_node, table, wheel
from tests.conformance.inside.kernels import DEVICE

OPTIONS = Options(executor="torchair")
ir_node.without_cann()
WITH_CONVERTER = [name for name, operator in npu.of_cann().items() if operator.converter]
WITHOUT_CONVERTER = [o for o in npu.of_cann().values() if not o.converter]


def ours(gm, fakes):
    return execute(gm, fakes, OPTIONS, "npu")


def theirs(gm, fakes):
    """torchair as it comes, with its pattern pass."""
    engine = load_torchair()
    with trace.compiling(fakes) as values:
        return engine.get_compiler(engine.CompilerConfig())(gm, values)


def graph_ir(function, *values, compile_with=ours):
    """The kinds of the IR's nodes for a function of device tensors that are never run."""
    found = []

    def compiler(gm, fakes):
        runner = compile_with(gm, fakes)
        found.extend(op.type for op in runner.runner.graph.op)
        return gm.forward

    def backend(gm, fakes):
        trace.compile_inference(gm, fakes, compiler)
        return lambda *_: [torch.empty(0)] * 9

    torch._dynamo.reset()
    with torch.no_grad():
        torch.compile(function, backend=backend, dynamic=False)(*values)
    return found


def on_device(*shape, dtype=torch.half):
    return torch.empty(*shape, dtype=dtype, device=DEVICE)


def test_a_block_becomes_graph_ir():
    def block(x, residual, gamma, weight):
        y, _, total = torch.ops.npu.npu_add_rms_norm(x, residual, gamma)
        return torch.ops.npu.npu_swiglu(y @ weight), total

    gain = on_device(32)
    found = graph_ir(block, on_device(4, 32), on_device(4, 32), gain, on_device(32, 64))
    assert {"AddRmsNorm", "SwiGlu"} <= set(found)
    assert any("MatMul" in kind for kind in found)


def test_its_pattern_pass_leaves_our_graph():
    def block(x, residual, gamma):
        y, _, total = torch.ops.npu.npu_add_rms_norm(x, residual, gamma)
        return y.to(torch.float32), y, total

    values = on_device(4, 32), on_device(4, 32), on_device(32)
    assert "AddRmsNormCast" in graph_ir(block, *values, compile_with=theirs)
    found = graph_ir(block, *values)
    assert "AddRmsNorm" in found
    assert "AddRmsNormCast" not in found


@pytest.mark.parametrize("name", WITH_CONVERTER)
def test_an_operator_with_converter_becomes_its_node(name):
    operator = npu.OPERATORS[name]
    assert ir_node.node_of(operator, table.call_of(operator)) == operator.converter


@pytest.mark.parametrize("operator", WITHOUT_CONVERTER, ids=lambda o: o.name)
def test_an_operator_without_converter_is_refused_by_name(operator):
    graph = torch.fx.Graph()
    graph.call_function(wheel.overload(operator))
    graph.output(())
    with pytest.raises(ExecutorError, match=f"{operator.qualified_name}.*npugraph_ex"):
        execute(torch.fx.GraphModule({}, graph), [], OPTIONS, "npu")


def test_a_converter_that_is_missing_is_seen():
    operator = npu.OPERATORS["npu_gemma_rms_norm"]
    with pytest.raises(LookupError, match="npu_gemma_rms_norm has no converter"):
        ir_node.node_of(operator, table.call_of(operator))
