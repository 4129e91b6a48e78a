"""Runs a compiled graph as captured device graphs, one for each size."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from torch import Tensor, fx

from ascend_passes.capture.check import constants, fault_at, faults, line_of
from ascend_passes.capture.device import Device, device_for
from ascend_passes.capture.entry import Entry, Variant, arguments, hand_out, load, variant_of
from ascend_passes.capture.fault import CaptureError, Fault
from ascend_passes.capture.layout import Layout
from ascend_passes.capture.log import Log
from ascend_passes.capture.sizes import choose
from ascend_passes.execute import captures_itself, chosen
from ascend_passes.graph import value
from ascend_passes.options import Options
from ascend_passes.report import Report

MOST_GRAPHS = 64
"""Graphs of one compiled model, torchair's `capture_limit`; further sizes run uncaptured."""
MOST_WASTED = 8
"""Graphs given up because an input moved, each after fewer replays than this; then a size runs
uncaptured. A capture costs about as much as a few steps, so 8 replays repay it."""


class Runner:
    """`runner(*inputs)` replays a captured graph where it can and calls the function elsewhere.

    The first call of a size runs uncaptured on fixed memory and warms up; the second captures and
    replays, unless `capture_warm_up` is eager and the first has captured already. Results are copied out, so the next step leaves them alone; with `static_outputs` they
    are the graph's own memory, valid until the next replay of any size. Weights, buffers and caches
    are used in place; where one moved, the size is captured again.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        gm: fx.GraphModule,
        layout: Layout,
        options: Options,
        device: Device,
        fills: Mapping[int, float] | None = None,
        static_outputs: bool = False,
        host_reads: Sequence[Fault] = (),
    ) -> None:
        self.log = Log()
        self.counters = self.log.counters
        self._function = function
        self.graph = gm.graph
        self._inputs = [node for node in gm.graph.nodes if node.op == "placeholder"]
        self._constants = constants(gm)
        self._layout = layout
        self._options = options
        self._device = device
        self._pad = fills is not None
        self._fills = fills or {}
        self._copy = not static_outputs
        self._in_place = tuple(sorted(layout.in_place))
        self._variants: dict[Any, Variant | None] = {}
        self._entries: dict[Any, Entry] = {}
        self._refused = self._refuse_graph(host_reads)

    def __call__(self, *inputs: Any) -> Any:
        """Arguments and results as those of the function."""
        variant = self._variant(inputs)
        if variant is None:
            self.counters.uncaptured += 1
            return self._function(*inputs)
        entry, addresses = variant.entry, self._addresses(inputs)
        self.counters.bytes_in += load(self._layout, entry, inputs, self._fills)
        if entry.addresses is None:
            entry.addresses = addresses
            results = self._warm_up(variant, inputs)
            if self._options.capture_warm_up == "eager":
                self._capture(entry, inputs, addresses)
            return results
        ready = entry.graph is not None and entry.addresses == addresses
        if not ready and not self._capture(entry, inputs, addresses):
            self._variants[self._layout.key(inputs)] = None
            return self(*inputs)
        self._update(entry, inputs)
        entry.graph.replay()  # type: ignore[union-attr]
        entry.replays += 1
        self.counters.replays += 1
        return self._results(variant, entry.outputs, inputs, self._copy)

    def report(self) -> Report:
        """How many graphs were captured, and what runs uncaptured and why."""
        return self.log.report()

    def update(self, size: int, values: Sequence[Mapping[str, Sequence[int]]]) -> None:
        """Give attention operators new host-side lists in the graph for `size` rows of token ids.

        Lists that are inputs of the compiled graph are updated at each call without this.

        Raises:
            LookupError: no graph of this size.
            CaptureError: the graph has no such list, or the device keeps it as captured.
        """
        for entry in self._entries.values():
            if entry.graph is not None and self._rows(entry) == size:
                entry.graph.update(values)
                return
        raise LookupError(f"no graph for {size} rows is captured")

    def _variant(self, inputs: Sequence[Any]) -> Variant | None:
        if self._refused:
            return None
        key = self._layout.key(inputs)
        if key not in self._variants:
            self._variants[key] = self._new_variant(inputs)
        return self._variants[key]

    def _new_variant(self, inputs: Sequence[Any]) -> Variant | None:
        choice = choose(self._layout, self._options, inputs, self._pad)
        if not choice.rows:
            if choice.reason:
                self.log.note(choice.reason)
            return None
        if len(self._entries) >= MOST_GRAPHS:
            self.log.note(f"{MOST_GRAPHS} graphs are captured, the most there may be")
            return None
        for node, given in zip(self._inputs, inputs, strict=True):
            if isinstance(given, Tensor) and node.users and not self._device.resident(given):
                found = fault_at("host_input", node)
                self.log.note(found.reason, found.operator, found.line)
                return None
        return variant_of(self._layout, inputs, choice.rows, self._entries)

    def _warm_up(self, variant: Variant, inputs: Sequence[Any]) -> Any:
        self.counters.warm_ups += 1
        given = arguments(variant.entry, inputs)
        outputs = self._device.warm_up(lambda: self._function(*given))
        return self._results(variant, outputs, inputs, copy=True)

    def _capture(self, entry: Entry, inputs: Sequence[Any], addresses: tuple[int, ...]) -> bool:
        if entry.graph is not None:
            entry.wasted += entry.replays < MOST_WASTED
            self.counters.recaptures += 1
        if entry.wasted > MOST_WASTED:
            self.log.note(
                f"weights or caches move from step to step; {MOST_WASTED} graphs were wasted"
            )
            return False
        given = arguments(entry, inputs)
        entry.graph, entry.outputs = None, ()  # the old graph's memory first
        fixed = [given[index] for index in (*self._in_place, *self._layout.copied)]
        try:
            entry.graph, entry.outputs = self._device.capture(
                lambda: self._function(*given), [*fixed, *self._constants], self._device.pool()
            )
        except CaptureError as error:
            fault = error.fault
            line = line_of(self.graph, fault.operator) or fault.line
            self.log.note(fault.reason, fault.operator, line)
            return False
        entry.addresses, entry.replays = addresses, 0
        self.counters.captures += 1
        return True

    def _update(self, entry: Entry, inputs: Sequence[Any]) -> None:
        values = [
            {name: [inputs[index] for index in positions] for name, positions in found.items()}
            for found in self._layout.updates
        ]
        if any(values):
            entry.graph.update(values)  # type: ignore[union-attr]

    def _results(
        self, variant: Variant, outputs: Sequence[Any], inputs: Sequence[Any], copy: bool
    ) -> list[Any]:
        results, copied = hand_out(self._layout, variant, outputs, inputs, copy)
        self.counters.bytes_out += copied
        return results

    def _addresses(self, inputs: Sequence[Any]) -> tuple[int, ...]:
        return tuple(inputs[index].data_ptr() for index in self._in_place)

    def _rows(self, entry: Entry) -> int:
        tokens = self._layout.tokens
        assert tokens is not None  # without them there is no entry
        sizes = entry.sizes.get(tokens) or value(self._inputs[tokens]).shape
        return int(sizes[0])

    def _refuse_graph(self, host_reads: Sequence[Fault]) -> bool:
        found = [*host_reads, *faults(self.graph, self._device.type)]
        for fault in found:
            self.log.note(fault.reason, fault.operator, fault.line)
        return bool(found)


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
        gm: the inference graph behind the function, with `meta["val"]` on its placeholders.
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
    if options.cudagraph_mode == "NONE" or captures_itself(chosen(options, device), options):
        return function
    layout = Layout.of(gm, static_positions)
    return Runner(
        function, gm, layout, options, device_for(device), fills, static_outputs, host_reads
    )
