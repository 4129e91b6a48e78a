"""One operator alone as a graph, through the executor `npugraph_ex`: its code, and its replays."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from operator import getitem
from typing import Any

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.utils import _pytree as pytree

from ascend_passes import npu
from ascend_passes.executors.execute import execute
from ascend_passes.npu.operator import Operator
from ascend_passes.options.value import Options
from tests.conformance.inside import inputs, kernels, wheel

CAPTURING = Options(executor="npugraph_ex", cudagraph_mode="FULL")
COLLECTIVE = {name for name in npu.of_cann() if "reduce" in name or "gather" in name}
"""Operators that ask HCCL for a group, which the stand-in has not: compiled and not run."""
ROUNDS = 3
"""Runs of one compiled graph with new numbers in the same memory; all but the first replay."""


def graph_of(operator: Operator, call: inputs.Call) -> tuple[fx.GraphModule, list[Tensor]]:
    """A graph of this call, every tensor of it an input, and the inputs as fakes on the device."""
    mode = FakeTensorMode(shape_env=ShapeEnv())
    values: list[Tensor] = []
    graph = fx.Graph()

    def placeholder(tensor: Tensor) -> fx.Node:
        with mode:
            fake = torch.empty_strided(
                tensor.shape, tensor.stride(), dtype=tensor.dtype, device=kernels.DEVICE
            )
        values.append(fake)
        node = graph.placeholder(f"input_{len(values)}")
        node.meta["val"] = fake
        return node

    args, kwargs = pytree.tree_map_only(Tensor, placeholder, (call.args, call.kwargs))
    node = graph.call_function(wheel.overload(operator), args, kwargs)
    results = operator.fake(*call.args, **call.kwargs)
    count = len(results) if isinstance(results, (list, tuple)) else 0
    items = [graph.call_function(getitem, (node, i)) for i in range(count)]
    graph.output(tuple(items) if items else (node,) * len(wheel.overload(operator)._schema.returns))
    return fx.GraphModule({}, graph), values


def calls_in(code: str, operator: Operator) -> int:
    """How often Python code calls the operator; one whose name only begins alike does not count."""
    target = f"torch.ops.{operator.namespace}.{operator.name}.default("
    return len(re.findall(re.escape(target), code))


def filled(tensor: Tensor, experts: int | None = None) -> Tensor:
    """CPU numbers for a meta tensor: positive floats, small or, as positions, distinct integers; or
    numbers of experts, which are below how many there are.

    The floats are 128ths from a half to one and a half: a few hundred products of them are exact in
    float32 in any order, which is another one where a factor lies otherwise.
    """
    if tensor.dtype.is_floating_point:
        found = torch.randint(64, 192, tensor.shape).to(tensor.dtype) / 128
    elif tensor.dtype == torch.int8:
        found = torch.randint(-127, 128, tensor.shape).to(tensor.dtype)
    else:
        found = torch.arange(tensor.numel(), dtype=tensor.dtype).view(tensor.shape)
        found = found if experts is None else found % experts
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype).copy_(found)


def tensors(value: Any) -> list[Tensor]:
    """The tensors of nested arguments or results, in order."""
    return [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, Tensor)]


def problem(operator: Operator, call: inputs.Call, reference: Callable[..., Any]) -> str:
    """What npugraph_ex does wrong with an operator; "" where it keeps it as our graph has it.

    It keeps it where its code calls the operator exactly once, and where the captured graph is
    replayed with new numbers in the same memory and gives, and writes into its arguments, what
    `reference` does.
    """
    gm, fakes = graph_of(operator, call)
    runner = execute(gm, fakes, CAPTURING, "npu")
    count = calls_in(runner.get_code(), operator)
    if count != 1:
        return f"its code calls the operator {count} times"
    if operator.name in COLLECTIVE:
        return ""
    given = [
        torch.empty_like(fake, device=kernels.DEVICE) for fake in tensors((call.args, call.kwargs))
    ]
    before = kernels.replay.RECORDER.replays
    fill = functools.partial(filled, experts=call.kwargs.get("expert_num"))
    for _ in range(ROUNDS):
        numbers = pytree.tree_map_only(Tensor, fill, (call.args, call.kwargs))
        for memory, values in zip(given, tensors(numbers), strict=True):
            memory.copy_(values)
        found = tensors(runner(*given))
        args, kwargs = numbers
        expected = tensors(reference(*args, **kwargs))
        pairs = [*zip(found, expected, strict=True), *zip(given, tensors(numbers), strict=True)]
        if not all(torch.equal(mine.cpu(), theirs) for mine, theirs in pairs):
            return "a replay gives or writes other numbers than the reference"
    replays = kernels.replay.RECORDER.replays - before
    return "" if replays >= ROUNDS - 1 else f"{ROUNDS} runs were {replays} replays"
