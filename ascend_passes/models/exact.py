"""A compiled model without its rounding: the rewritten graphs, computed in float64.

Rounding hides a wrong formula: the logits of a bfloat16 W8A8 model are a few percent from float64
whoever computes them. In float64 the rewritten graphs and the model agree to the last digits, or
the passes have changed what is computed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from ascend_passes.compile.compiled_graph import constants_of
from ascend_passes.compile.option_values import checked_options
from ascend_passes.compile.variant import device_type, optimize_module
from ascend_passes.ir import trace
from ascend_passes.ir.graph import Context
from ascend_passes.models.generate import Forward
from ascend_passes.options.plans import plans
from ascend_passes.verify.exact import Exact, wide


class Shadows:
    """The float64 tensor that stands for each tensor of the model, its caches included.

    A cache is written in place, so that the next step must find the same shadow again. The original
    is kept alive with it: its address is the key.
    """

    def __init__(self) -> None:
        self.known: dict[Any, tuple[Tensor, Tensor]] = {}

    def __call__(self, value: Any) -> Any:
        """The shadow of a floating tensor, made at the first call; other values are their own."""
        if not isinstance(value, Tensor) or not value.dtype.is_floating_point:
            return value
        key = (value.data_ptr(), value.shape, value.stride(), value.dtype)
        if key not in self.known:
            self.known[key] = value, value.detach().to(wide(value.dtype), copy=True)
        return self.known[key][1]


def exact_forward(model: Forward, options: Mapping[str, Any]) -> Forward:
    """`model` as `ascend_dense` rewrites it for static shapes, computed in float64.

    Constants are not folded and nothing is captured: both keep what is computed. Its results are
    float64; give it a KV cache of its own, whose content stays in float64 inside.

    Args:
        model: a model or a function; it may be compiled elsewhere as well.
        options: see `docs/options.md`.

    Raises:
        OptionError, ExpectationError: as for `ascend_dense`.
        RuntimeError: a pass failed.
    """
    chosen, shadow = checked_options(options), Shadows()

    def backend(gm: fx.GraphModule, example_inputs: Sequence[Any]) -> Forward:
        def compiler(graph_module: fx.GraphModule, _: Sequence[Any]) -> Forward:
            state = trace.module_state(gm, example_inputs, trace.static_positions())
            constants = constants_of(graph_module, example_inputs, state)
            device = device_type(graph_module.graph)
            context = Context(chosen, plans(chosen)[0], constants, device)
            with trace.outside_compilation():
                report = optimize_module(graph_module, context)
            if report.errors:
                raise RuntimeError("; ".join(report.errors))
            program = Exact(graph_module)
            return lambda *inputs: program.run(*map(shadow, inputs))

        return trace.compile_inference(gm, example_inputs, compiler)

    compiled: Forward = torch.compile(model, backend=backend, dynamic=False)
    return compiled
