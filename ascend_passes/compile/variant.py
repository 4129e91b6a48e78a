"""One compiled variant of a traced graph: rewritten, folded, handed to what runs it, captured.

Where ranks share the graph's collectives, what only this rank's weights say must not change them:
it is used where the graph that was rewritten without it has the same.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, fx

from ascend_passes.agreement.exchange import shared_groups
from ascend_passes.agreement.require import digest, require_agreement
from ascend_passes.capture import Fault, Runner, prepare, wrap
from ascend_passes.compile.left import families_in, left_of
from ascend_passes.compile.pipeline import check_expectations, guarded, run_stages
from ascend_passes.compile.stages import NORMALIZE, STAGES
from ascend_passes.cost.profiles import read_profile
from ascend_passes.cost.record import Recorded, both_graphs, recorded
from ascend_passes.distributed.rehearsal import DepartureError, Script, replaying
from ascend_passes.executors.after_calls import AfterCalls
from ascend_passes.executors.execute import choice_of_auto, execute
from ascend_passes.frontends.compressed_tensors_layers import read_back_layers
from ascend_passes.ir.blueprint import copied
from ascend_passes.ir.graph import Context, value
from ascend_passes.ir.lineage import lineage_followed
from ascend_passes.options.plans import Plan, said_plan
from ascend_passes.options.value import Options
from ascend_passes.passes.constants.facts import Facts, facts_of
from ascend_passes.passes.constants.fold import Folded, FoldedValues, fold_constants, folded_of
from ascend_passes.report.dump import dumped
from ascend_passes.report.value import Report

Later = Callable[[], Report]
"""What the runs of a compiled graph add to its report: captures, and what runs uncaptured."""
Keep = Callable[[Report, Options, Later], None]


@dataclass(frozen=True)
class VariantWork:
    """What a variant is made from."""

    gm: fx.GraphModule
    """The traced graph, which stays as it is."""
    options: Options
    plan: Plan
    keep: Keep
    """Receives the report."""
    device: str = "cpu"
    constants: Mapping[str, Tensor] = field(default_factory=dict)
    """Placeholder -> the parameter or buffer behind it, in the call that needs the variant."""
    numbers: Mapping[int, float] = field(default_factory=dict)
    """Position -> the value of a float input that the variant is for."""
    static: tuple[int, ...] = ()
    """Positions of the inputs that keep their memory between calls."""
    host_reads: Sequence[Fault] = ()
    training: bool = False
    """Whether gradients are asked for: an optimizer then writes the parameters at each step, so
    that nothing is kept of them."""

    @property
    def context(self) -> Context:
        """What the passes know."""
        return Context(
            self.options,
            self.plan,
            self.constants,
            self.device,
            self.numbers,
            folds=not self.training,
        )


@dataclass(frozen=True)
class Rewritten:
    """A graph after all passes."""

    gm: fx.GraphModule
    report: Report
    folded: Folded | None


@dataclass(frozen=True)
class Variant:
    """A compiled graph for one plan."""

    run: Callable[..., Any]
    folded: FoldedValues | None
    facts: Facts
    """What was assumed of the parameters' content."""
    spare: Callable[[], Variant] | None = None
    """Makes the variant without these facts, where no other rank may be asked for it."""
    gain_from: int | None = None
    """Tokens from which another variant is estimated to be faster."""

    def __call__(self, inputs: Sequence[Any]) -> Any:
        """Run it."""
        return self.run(*inputs, *(self.folded(inputs) if self.folded is not None else ()))

    def forget(self) -> None:
        """Read the parameters again at the next call."""
        self.facts.forget()
        if self.folded is not None:
            self.folded.forget()


def optimize_module(gm: fx.GraphModule, context: Context) -> Report:
    """Run the passes on a graph, in place, and check what the options expect of them."""
    report = optimized(gm, context)
    if not context.options.off:
        check_expectations(report, context)
    return report


def optimized(gm: fx.GraphModule, context: Context) -> Report:
    """Run the passes on a graph, in place."""
    before, plan = gm.code, said_plan(context.plan)
    if context.options.off:
        note = "switched off by ASCEND_PASSES_OFF"
        return Report(notes=(note,), graph_before=before, graph_after=before, plan=plan)
    traced, read_back = kernels_of(gm, context), read_back_layers(gm.graph)
    with lineage_followed(gm) as lineage:
        report = run_stages(gm, context) + Report(left=read_back)
    rewritten = kernels_of(gm, context)
    if isinstance(traced, Recorded) and isinstance(rewritten, Recorded):
        report += both_graphs(traced, rewritten, lineage)
    report += Report(errors=tuple(one for one in (traced, rewritten) if isinstance(one, str)))
    return replace(
        report,
        families=families_in(report.fired),
        left=(*report.left, *left_of(report, context.options)),
        graph_before=before,
        graph_after=gm.code,
        profile=read_profile(context.options.profile).name,
        plan=plan,
    )


def kernels_of(gm: fx.GraphModule, context: Context) -> Recorded | str:
    """The graph's kernels for its report; why not, where an operator's cost cannot be told.

    Raises:
        Exception: what went wrong, under `strict`.
    """
    try:
        profile = read_profile(context.options.profile)
        return recorded(gm.graph, profile, fold_constants.__name__)
    except Exception as error:  # a report never breaks the user's model
        if context.options.strict:
            raise
        return f"kernels were not counted: {type(error).__name__}: {error}"


def compile_variant(work: VariantWork, script: Script, trust: bool, first: bool) -> Variant:
    """A variant for the calls that `work` describes.

    Args:
        work: what it is made from.
        script: what other ranks have told so far, see `rehearsal`; empty at first.
        trust: whether equal content of parameters may be used.
        first: whether the options' expectations count: it is no one's fault if weights change.

    Raises:
        AgreementError: ranks of a group would run different graphs.
        ExpectationError: fewer fusions than the options expect.
        ExecutorError: the chosen executor cannot run here, or cannot run this graph.
    """
    groups, context = shared_groups(work.gm.graph), work.context
    require_agreement(work.gm.graph, context, groups, "the traced graph")
    plain = rewritten_copy(work, trust=trust and not groups)
    made = with_facts(work, plain, script) if trust and groups else plain
    if first and not work.options.off:
        check_expectations(made.report, context)
    variant, tell = finished(work, made)
    # Once all of it has been done here, so that no rank runs before another one fails.
    require_agreement(made.gm.graph, context, groups, "the rewritten graph")
    tell()
    # On what only this rank knows no plan may depend that the others have too.
    decisions = plain.report.decisions
    gain_from = next((choice.gain_from for choice in decisions if choice.gain_from), None)
    spare = functools.partial(reported, replace(work, constants={}), plain)
    return replace(variant, spare=spare if made is not plain else None, gain_from=gain_from)


def reported(work: VariantWork, made: Rewritten) -> Variant:
    """The variant that runs a rewritten graph, after its report is kept."""
    variant, tell = finished(work, made)
    tell()
    return variant


def with_facts(work: VariantWork, plain: Rewritten, script: Script) -> Rewritten:
    """The graph rewritten on what this rank's parameters hold, where it has the collectives of
    `plain` and needed no other answers; else `plain`.

    So this rank can turn to `plain` at any call, and no other one has to know.
    """
    if not promising(work):
        return plain
    try:
        with replaying(script):
            groups = shared_groups(work.gm.graph)
            require_agreement(work.gm.graph, work.context, groups, "the traced graph")
            made = rewritten_copy(work, trust=True)
        alike = digest(made.gm.graph, work.context) == digest(plain.gm.graph, work.context)
    except DepartureError:
        alike = False
    if alike:
        return made if facts_of(made.gm.graph) else plain
    note = "parameters of equal content stay apart: other ranks would have to know when they part"
    return replace(plain, report=plain.report + Report(notes=(note,)))


def promising(work: VariantWork) -> bool:
    """Whether a graph could be rewritten on what parameters hold."""
    if not work.constants or work.options.off:
        return False
    graph, context = copied(work.gm.graph), work.context
    for stage in (NORMALIZE, *(stage for stage in STAGES if stage.reads_content)):
        stage.run(graph, context)
    return bool(facts_of(graph))


def rewritten_copy(work: VariantWork, trust: bool) -> Rewritten:
    """A copy of the graph after all passes."""
    gm, context = fx.GraphModule(work.gm, copied(work.gm.graph)), work.context
    report = optimized(gm, replace(context, trust=trust))
    return Rewritten(gm, report, folded_of(gm.graph))


def finished(work: VariantWork, made: Rewritten) -> tuple[Variant, Callable[[], None]]:
    """The variant that runs a rewritten graph, and what keeps its report."""
    gm, context, report = made.gm, work.context, made.report
    count = len(gm.graph.find_nodes(op="placeholder"))
    added = len(made.folded.outputs) if made.folded is not None else 0
    static = (*work.static, *range(count - added, count))
    if prepare(gm, work.options, work.device):
        report = replace(report, graph_after=gm.code)
    inputs = gm.graph.find_nodes(op="placeholder")
    values = [node.meta.get("val") for node in inputs]
    function, failed = guarded(
        "execute",
        gm,
        context,
        lambda: execute(gm, values, work.options, work.device, static, not work.training),
    )
    plain = function or gm.forward
    captured, uncaptured = guarded("capture", gm, context, lambda: capture(work, plain, gm, static))
    how = Report(notes=choice_of_auto(work.options, work.device, function))
    report = report + failed + uncaptured + how
    positions = {node.name: index for index, node in enumerate(inputs)}
    folded = FoldedValues(made.folded) if made.folded is not None else None
    variant = Variant(captured or plain, folded, Facts(facts_of(gm.graph), positions))
    return variant, functools.partial(publish, work, report, runs_of(captured or plain))


def runs_of(function: Callable[..., Any]) -> Later:
    """What tells of a compiled graph's runs."""
    return function.log.report if isinstance(function, Runner | AfterCalls) else Report


def publish(work: VariantWork, report: Report, later: Later) -> None:
    """Hand the report to whoever keeps it, and to the folder of dumps."""
    work.keep(dumped(report, work.plan, work.options), work.options, later)


def capture(
    work: VariantWork, function: Callable[..., Any], gm: fx.GraphModule, static: tuple[int, ...]
) -> Callable[..., Any]:
    """The function with capture as the options ask."""
    return wrap(
        function,
        gm,
        work.options,
        device=work.device,
        static_positions=static,
        host_reads=work.host_reads,
    )


def device_type(graph: fx.Graph) -> str:
    """Type of the first device in a graph that is not the CPU; cpu where there is none."""
    for node in graph.nodes:
        fake = value(node)
        if isinstance(fake, Tensor) and fake.device.type not in ("cpu", "meta"):
            return str(fake.device.type)
    return "cpu"
