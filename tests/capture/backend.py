"""A small backend around capture: AOTAutograd, in-place caches, capture; and what it made."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from ascend_passes import capture
from ascend_passes.ir import trace
from ascend_passes.ir.graph import Context
from ascend_passes.options.value import Options
from ascend_passes.passes.writes.reinplace import reinplace


@dataclass
class Backend:
    """`torch.compile(f, backend=Backend(options))`; `runners` are its compiled graphs in order."""

    options: Options = field(default_factory=Options)
    fills: dict[int, float] | None = None
    static_outputs: bool = False
    runners: list = field(default_factory=list)

    def __call__(self, gm, example_inputs):
        return trace.compile_inference(gm, example_inputs, self.compile)

    def compile(self, gm, example_inputs):
        reinplace(gm.graph, Context(self.options))
        gm.recompile()
        capture.prepare(gm, self.options, "cpu")
        runner = capture.wrap(
            gm.forward,
            gm,
            self.options,
            device="cpu",
            static_positions=trace.static_positions(),
            fills=self.fills,
            static_outputs=self.static_outputs,
        )
        self.runners.append(runner)
        return runner


def graph_of(function, *inputs, dynamic=False):
    """The inference graph of a function without parameters."""
    return trace.aot_graph(function, *inputs, dynamic=dynamic)


def runner_of(gm, *, static=(), mode="FULL", **settings):
    """A graph's runner on a recorder of its own."""
    options = Options(cudagraph_mode=mode, **settings.pop("options", {}))
    layout = capture.Layout.of(gm, static)
    device = settings.pop("device", None) or capture.device_for.__wrapped__("cpu")
    return capture.Runner(gm.forward, gm, layout, options, device, **settings)


torch.set_num_threads(1)
