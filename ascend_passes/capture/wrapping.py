"""Puts capture around a compiled graph where the options ask for it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from torch import fx

from ascend_passes.capture.device import device_for
from ascend_passes.capture.fault import Fault
from ascend_passes.capture.layout import Layout
from ascend_passes.capture.numbers import lift_numbers
from ascend_passes.capture.runner import Runner
from ascend_passes.executors.execute import captures_itself, chosen
from ascend_passes.options.value import Options


def captures(options: Options, device: str) -> bool:
    """Whether `wrap` captures: the options ask for it, and the executor does not do it itself."""
    return options.cudagraph_mode != "NONE" and not captures_itself(
        chosen(options, device), options
    )


def prepare(gm: fx.GraphModule, options: Options, device: str) -> int:
    """Give a graph that will be captured the inputs that `wrap` fills, before it is compiled.

    Args:
        gm: edited in place; see `lift_numbers`.
        options: as for `wrap`.
        device: as for `wrap`.

    Returns:
        How many inputs are new, behind the present ones.
    """
    return lift_numbers(gm) if captures(options, device) else 0


def wrap(
    function: Callable[..., Any],
    gm: fx.GraphModule,
    options: Options,
    *,
    device: str,
    static_positions: Collection[int] = (),
    fills: Mapping[int, float] | None = None,
    static_outputs: bool = False,
    host_reads: Sequence[Fault] = (),
) -> Callable[..., Any]:
    """A compiled graph with capture as the options ask; the function itself where they ask none.

    Args:
        function: takes the flat inputs of `gm` as arguments and returns the list of its outputs.
        gm: the inference graph behind the function, with `meta["val"]` on its placeholders, after
            `prepare`. What `prepare` has added is no argument of what is returned.
        options: `cudagraph_mode`, the options named `capture_...` and `executor`.
        device: type of the device that runs the graph: npu, cuda or cpu.
        static_positions: inputs that are parameters, buffers or tensors of a marked static address.
        fills: None, and no call is padded. Else the caller vouches that rows do not read each other
            and that added rows do no harm, and gives what to fill them with by input position (a
            slot mapping's -1); inputs not named are filled with 0.
        static_outputs: hand out the graph's own memory instead of copies.
        host_reads: where the model makes the host wait and `gm` does not show it; with any, the
            graph runs uncaptured.
    """
    if not captures(options, device):
        return function
    layout = Layout.of(gm, static_positions)
    return Runner(
        function, gm, layout, options, device_for(device), fills, static_outputs, host_reads
    )
