"""Runs a compiled graph as captured device graphs, one for each size."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, fx

from ascend_passes.capture.check import constants, fault_at, faults, line_of
from ascend_passes.capture.device import Device
from ascend_passes.capture.entry import Entry, EntryUse, copy_inputs, graph_arguments, variant_of
from ascend_passes.capture.fault import CaptureError, Fault
from ascend_passes.capture.layout import Layout
from ascend_passes.capture.log import Log
from ascend_passes.capture.numbers import LIFTED
from ascend_passes.capture.results import hand_out
from ascend_passes.capture.sizes import chosen_size
from ascend_passes.ir.graph import operator_name, place, value
from ascend_passes.options.value import Options
from ascend_passes.report.value import Report

MOST_GRAPHS = 64
"""Graphs of one compiled model, torchair's `capture_limit`; further sizes run uncaptured."""
MOST_WAITING = 64
"""Sizes with memory of their own that wait for their second call; the oldest is given up."""
MOST_SHAPES = 1024
"""Shapes of calls that are remembered with their size, or with that none takes them."""
MOST_VALUES = 8
"""Values of one number that Python counts and a graph holds as captured; each needs a graph, and
one that grows with each step would take them all."""
MOST_WASTED = 8
"""Graphs given up because an input moved, each after fewer replays than this; then a size runs
uncaptured. A capture costs about as much as a few steps, so 8 replays repay it."""


class Runner:
    """`runner(*inputs)` replays a captured graph where it can and calls the function elsewhere.

    The first call of a size runs uncaptured on fixed memory and warms up; the second captures and
    replays, unless `capture_warm_up` is eager and the first has captured already. Results are
    copied out, so the next step leaves them alone; with `static_outputs` they are the graph's own,
    valid until the next replay of any size. Weights, buffers and caches are used in place; where
    one moved, the size is captured again.
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
        inputs = gm.graph.find_nodes(op="placeholder")
        self._inputs = [node for node in inputs if LIFTED not in node.meta]
        self._constants = constants(gm)
        self._layout = layout
        self._options = options
        self._device = device
        self._pad = fills is not None
        self._fills = fills or {}
        self._copy = not static_outputs
        self._in_place = tuple(sorted(layout.in_place))
        self._copied = (*layout.copied, *layout.lifted)
        self._variants: dict[Any, EntryUse | None] = {}
        self._entries: dict[Any, Entry] = {}
        self._values: dict[int, set[int]] = {index: set() for index in layout.counted}
        self._refused = self._refuse_graph(host_reads)

    def __call__(self, *inputs: Any) -> Any:
        """Arguments and results as those of the function."""
        variant = self._variant(inputs)
        if variant is None:
            self.counters.uncaptured += 1
            self.log.happened("uncaptured", 0)
            lifted = self._layout.lifted.values()
            return self._function(*inputs, *(one.tensor(one.number(inputs)) for one in lifted))
        entry, addresses = variant.entry, self._addresses(inputs)
        self.counters.bytes_in += copy_inputs(self._layout, entry, inputs, self._fills)
        if entry.addresses is None:
            entry.addresses = addresses
            results = self._warm_up(variant, inputs)
            if self._options.capture_warm_up == "eager":
                self._capture(entry, inputs, addresses)
            return results
        ready = entry.graph is not None and entry.addresses == addresses
        if not ready and not self._capture(entry, inputs, addresses):
            self._give_up(entry)
            self._variants[self._layout.key(inputs)] = None
            return self(*inputs)
        self._update(entry, inputs)
        entry.graph.replay(inputs)  # type: ignore[union-attr]
        entry.replays += 1
        self.counters.replays += 1
        self.log.happened("replay", self._rows(entry))
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

    def _variant(self, inputs: Sequence[Any]) -> EntryUse | None:
        if self._refused:
            return None
        key = self._layout.key(inputs)
        if key not in self._variants:
            if len(self._variants) >= MOST_SHAPES:
                self._variants.pop(next(iter(self._variants)))
            self._variants[key] = self._new_variant(inputs)
        return self._variants[key]

    def _new_variant(self, inputs: Sequence[Any]) -> EntryUse | None:
        choice = chosen_size(self._layout, self._options, inputs, self._pad)
        if not choice.rows:
            if choice.reason:
                self.log.note(choice.reason)
            return None
        if self._too_many_values(inputs):
            return None
        for node, given in zip(self._inputs, inputs, strict=True):
            if isinstance(given, Tensor) and node.users and not self._device.resident(given):
                found = fault_at("host_input", node)
                self.log.note(found.reason, found.operator, found.line)
                return None
        made = variant_of(self._layout, inputs, choice.rows, self._entries)
        return made if self._has_place(made.entry) else None

    def _too_many_values(self, inputs: Sequence[Any]) -> bool:
        """Whether a number that a graph holds as captured has had as many values as may be."""
        for index, node in self._layout.counted.items():
            seen = self._values[index]
            if len(seen | {inputs[index]}) > MOST_VALUES:
                self.log.note(
                    "it depends on a number that Python counts, which a graph holds as captured: "
                    f"more than {MOST_VALUES} values came",
                    operator_name(node) or str(node.target),
                    place(node).line,
                )
                return True
            seen.add(inputs[index])
        return False

    def _has_place(self, entry: Entry) -> bool:
        """Whether a size that is not captured yet may still be; the oldest that waits may go."""
        if entry.graph is not None:
            return True
        waiting = [one for one in self._entries.values() if one.graph is None]
        if len(self._entries) - len(waiting) >= MOST_GRAPHS:
            self.log.note(f"{MOST_GRAPHS} graphs are captured, the most there may be")
            self._give_up(entry)
            return False
        if len(waiting) > MOST_WAITING:
            self.log.note(f"{MOST_WAITING} sizes came once, and none of them again")
            self._give_up(waiting[0])
        return True

    def _give_up(self, entry: Entry) -> None:
        """Forget a size and its memory."""
        self._entries = {key: one for key, one in self._entries.items() if one is not entry}
        self._variants = {
            key: variant
            for key, variant in self._variants.items()
            if variant is None or variant.entry is not entry
        }

    def _warm_up(self, variant: EntryUse, inputs: Sequence[Any]) -> Any:
        self.counters.warm_ups += 1
        self.log.happened("warm_up", self._rows(variant.entry))
        given = graph_arguments(self._layout, variant.entry, inputs)
        outputs = self._device.warm_up(lambda: self._function(*given))
        return self._results(variant, outputs, inputs, copy=True)

    def _capture(self, entry: Entry, inputs: Sequence[Any], addresses: tuple[int, ...]) -> bool:
        if entry.graph is not None:
            entry.wasted += entry.replays < MOST_WASTED
            self.counters.recaptures += 1
        elif not self._has_place(entry):
            return False
        if entry.wasted > MOST_WASTED:
            self.log.note(
                f"weights or caches move from step to step; {MOST_WASTED} graphs were wasted"
            )
            return False
        kind = "capture" if entry.graph is None else "recapture"
        given = graph_arguments(self._layout, entry, inputs)
        entry.graph, entry.outputs = None, ()  # the old graph's memory first
        fixed = [given[index] for index in (*self._in_place, *self._copied)]
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
        self.log.happened(kind, self._rows(entry))
        return True

    def _update(self, entry: Entry, inputs: Sequence[Any]) -> None:
        values = [
            {name: [number(inputs) for number in numbers] for name, numbers in found.items()}
            for found in self._layout.updates
        ]
        if any(values):
            entry.graph.update(values)  # type: ignore[union-attr]

    def _results(
        self, variant: EntryUse, outputs: Sequence[Any], inputs: Sequence[Any], copy: bool
    ) -> list[Any]:
        results, copied = hand_out(
            self._layout.results, outputs, inputs, variant.entry.buffers, variant.layouts, copy
        )
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
