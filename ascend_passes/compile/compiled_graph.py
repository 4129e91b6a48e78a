"""One Dynamo graph at run time: its compiled variants, and which of them a call takes.

A variant belongs to a plan (a range of token counts) and to the values of float inputs, which a
compile with `dynamic=True` passes as tensors and the fused operators take as numbers.
"""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from ascend_passes.agreement.exchange import failing_together
from ascend_passes.capture import Fault
from ascend_passes.compile.token_count import token_counter
from ascend_passes.compile.variant import Keep, Variant, VariantWork, compile_variant, device_type
from ascend_passes.distributed.rehearsal import DepartureError, Script, recording, replaying
from ascend_passes.ir import trace
from ascend_passes.ir.graph import value
from ascend_passes.options.plans import Plan, divided, pick, plans
from ascend_passes.options.value import Options
from ascend_passes.passes.constants.float_inputs import (
    Key,
    Numbers,
    numbers_by_position,
    scalar_positions,
)

GRAPHS: weakref.WeakSet[CompiledGraph] = weakref.WeakSet()
"""Every compiled graph that is alive."""
MOST_PARTED = 3
"""How often a graph is compiled on what parameters hold then, after some ceased to be equal."""


class CompiledGraph:
    """Callable with the flat inputs of an inference graph; compiles a variant when a call first
    needs it."""

    def __init__(
        self,
        gm: fx.GraphModule,
        example_inputs: Sequence[Any],
        options: Options,
        keep: Keep,
        *,
        state: Sequence[int] = (),
        static: Sequence[int] = (),
        host_reads: Sequence[Fault] = (),
        training: bool = False,
    ) -> None:
        """
        Args:
            gm: the graph.
            example_inputs: those of a first call; not kept.
            options: what is asked for.
            keep: receives the report of each variant.
            state: positions of parameters and buffers, whose content may be used.
            static: positions of the inputs that keep their memory between calls.
            host_reads: where the model makes the host wait and `gm` does not show it.
            training: whether the graph is a part of one that needs gradients.
        """
        self.gm, self.options, self.keep = gm, options, keep
        self.state, self.static = tuple(state), tuple(static)
        self.training = training
        self.device, self.host_reads = device_type(gm.graph), host_reads
        self.plans = plans(options)
        self.tokens = token_counter(gm.graph)
        aligned = len(example_inputs) == len(gm.graph.find_nodes(op="placeholder"))
        self.numbers = Numbers(scalar_positions(gm.graph, static) if aligned else ())
        self.variants: dict[tuple[Plan, Key], Variant] = {}
        self.scripts: dict[Plan, tuple[Plan, Script]] = {}
        self.stale: set[int] | None = set()
        self.parted = 0
        self.lock = threading.Lock()
        GRAPHS.add(self)
        if len(self.plans) == 1 and not self.numbers.positions and not options.flashcomm:
            self.prepare(example_inputs)

    def __call__(self, *inputs: Any) -> Any:
        """Run the variant for these inputs."""
        if self.stale or self.stale is None:
            self.forget(inputs)
        return self.prepare(inputs, check=True)(inputs)

    def prepare(self, inputs: Sequence[Any], check: bool = False) -> Variant:
        """The variant for a call with these inputs, compiled if it is the first of its kind.

        `check` says whether the inputs are real, so that what it rests on can be looked at.
        """
        plan = pick(self.plans, self.tokens(inputs)) if len(self.plans) > 1 else self.plans[0]
        found = self.variants.get((plan, self.numbers.key(inputs)))
        if found is None:
            return self.compile(plan, inputs) or self.prepare(inputs, check)
        if check and not found.facts.hold(inputs):
            return self.compile(plan, inputs, instead_of=found) or self.prepare(inputs, check)
        return found

    def compile(
        self, plan: Plan, inputs: Sequence[Any], instead_of: Variant | None = None
    ) -> Variant | None:
        """A new variant for a plan; None where another look at the variants is due.

        Args:
            plan: of the call.
            inputs: of the call.
            instead_of: the variant that rests on parameters that have changed since.
        """
        with self.lock:
            brought = self.numbers.key(inputs)
            key = plan, self.numbers.settle(brought)
            if self.variants.get(key) is not instead_of or plan not in self.plans:
                return None  # another thread was here
            with trace.outside_compilation():
                made = self.build(plan, (key[1], brought), inputs, instead_of)
            key = plan, self.numbers.key(inputs)
            kept = {k: v for k, v in self.variants.items() if k[1] in self.numbers.seen}
            if made.gain_from is None or instead_of is not None:
                self.variants = {**kept, key: made}
                return made
            # Below `gain_from` the variant stays; from there on another is worth its compilation.
            self.plans = divided(self.plans, plan, made.gain_from)
            lower = replace(plan, high=made.gain_from - 1)
            self.variants = {**kept, (lower, key[1]): made}
            self.scripts[lower] = self.scripts[plan]
        return None

    def build(
        self,
        plan: Plan,
        numbers: tuple[Key, Key],
        inputs: Sequence[Any],
        instead_of: Variant | None,
    ) -> Variant:
        """Compile, without asking other ranks again where they have agreed on the plan before.

        Args:
            plan: of the call.
            numbers: what to compile for, and what the call brings: all of that where without it the
                collectives would be others.
            inputs: of the call.
            instead_of: the variant that rests on parameters that have changed since.
        """
        if instead_of is not None and instead_of.spare is not None:
            return instead_of.spare()
        agreed, script = self.scripts.get(plan, (plan, Script()))
        work = VariantWork(
            self.gm,
            self.options,
            agreed,
            self.keep,
            self.device,
            constants_of(self.gm, inputs, self.state),
            numbers_by_position(numbers[0]),
            self.static,
            self.host_reads,
            self.training,
        )
        self.parted += instead_of is not None
        how = {"trust": self.parted <= MOST_PARTED, "first": instead_of is None}
        for key in dict.fromkeys(numbers) if plan in self.scripts else ():
            with contextlib.suppress(DepartureError), replaying(script):
                made = compile_variant(
                    replace(work, numbers=numbers_by_position(key)), script, **how
                )
                self.numbers.keep(key)
                return made
        script = Script()
        with failing_together(self.gm.graph), recording(script):
            made = compile_variant(replace(work, plan=plan), script, **how)
        self.scripts[plan] = plan, script
        return made

    def refresh(self, addresses: set[int] | None) -> None:
        """Read the parameters again at the next call, if one of them is at one of the addresses."""
        self.stale = None if addresses is None or self.stale is None else self.stale | addresses

    def forget(self, inputs: Sequence[Any]) -> None:
        """Do what `refresh` asked for."""
        stale, self.stale = self.stale, set()
        if stale is None or any(inputs[index].data_ptr() in stale for index in self.state):
            for variant in list(self.variants.values()):
                variant.forget()


def refresh(model: torch.nn.Module | None = None) -> None:
    """Let compiled graphs read parameters and buffers again at their next call.

    What they took from them follows every kind of write on a CPU. On other devices it follows
    writes that PyTorch counts and tensors that are exchanged, not those through `Tensor.data`,
    NumPy, DLPack, a storage or a fused optimizer: call this after such a write.

    Args:
        model: whose graphs; all graphs of this process where it is None.
    """
    addresses = None
    if model is not None:
        tensors = [*model.parameters(), *model.buffers()]
        addresses = {t.data_ptr() for t in tensors if not is_traceable_wrapper_subclass(t)}
    for graph in list(GRAPHS):
        graph.refresh(addresses)


def constants_of(
    gm: fx.GraphModule, inputs: Sequence[Any], state: Sequence[int]
) -> Mapping[str, Tensor]:
    """Placeholder -> the parameter or buffer behind it, where positions tell which that is."""
    placeholders = gm.graph.find_nodes(op="placeholder")
    if len(placeholders) != len(inputs):
        return {}
    found = {}
    for index in state:
        real, fake = inputs[index], value(placeholders[index])
        if not isinstance(real, Tensor) or isinstance(real, torch._subclasses.FakeTensor):
            continue
        if not isinstance(fake, Tensor) or tuple(real.shape) != tuple(fake.shape):
            return {}
        found[str(placeholders[index].target)] = real
    return found
