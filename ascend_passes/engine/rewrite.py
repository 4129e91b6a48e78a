"""The driver: sweep the rules over a graph until nothing changes, consumers first, the widest rule
first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, fx

from ascend_passes.engine.apply import apply
from ascend_passes.engine.emission import Emission, emit, kind_of
from ascend_passes.engine.found import Found
from ascend_passes.engine.hazards import refuse, refuse_sharing, refuse_writes
from ascend_passes.engine.match import Match, Stop, match, stops_at_once
from ascend_passes.engine.misses import Refusal, refusal_at, told_from, worth_telling
from ascend_passes.engine.normalize import normalize
from ascend_passes.engine.rule import Rule, RuleError
from ascend_passes.engine.template import for_rank, outlines, rank_of
from ascend_passes.engine.template_value import Template
from ascend_passes.ir.arguments import arguments
from ascend_passes.ir.graph import Context, is_boundary, value
from ascend_passes.report.value import Miss, Report

SWEEPS = 16
"""Sweeps before rules count as chasing each other; the longest chain of rules that feed each other
is 5."""


Accept = Callable[[Found, Emission], str | None]
"""A last look at a replacement before it goes in: None, or why the match is left as it is."""


class RewriteLoopError(RuntimeError):
    """Rules that undo each other; the text names them."""


@dataclass
class Work:
    """What one run of the driver knows about the graph it edits."""

    graph: fx.Graph
    context: Context
    accept: Accept | None = None
    emissions: dict[Any, Emission | str] = field(default_factory=dict)
    """Rule and kinds of inputs -> what to emit, or why not."""
    read: dict[fx.Node, tuple[Any, ...]] = field(default_factory=dict)
    effects: list[fx.Node] = field(default_factory=list)
    tells: bool = False
    """Whether the sweep's refusals are told; otherwise nobody asks why a match stops."""
    failed: dict[str, str] = field(default_factory=dict)
    """Rule that raised, or node that has no normal form -> what the report says of it."""

    def arguments(self, node: fx.Node) -> tuple[Any, ...]:
        """`arguments.arguments`, read once for each node."""
        if node not in self.read:
            self.read[node] = arguments(node)
        return self.read[node]


def rewrite(
    graph: fx.Graph, rules: Sequence[Rule], context: Context, accept: Accept | None = None
) -> Report:
    """Apply the rules to a normal graph, in place, until none fires; those with `after` join later.

    A rule that raises is left out from there on, alone; the report says so.

    Args:
        graph: edited in place.
        rules: those that are on.
        context: what the passes know beside the graph.
        accept: asked once for each replacement and kind of inputs; a reason refuses it.

    Raises:
        RewriteLoopError: the rules still fire after `SWEEPS` sweeps.
        RuleError: a rule that cannot be read.
        Exception: what a rule raised, under `strict`.
    """
    if not rules:
        return Report()
    work = Work(graph, context, accept)
    early = [rule for rule in rules if not rule.after]
    report = to_fixpoint(work, early)
    if len(early) != len(rules):
        report += to_fixpoint(work, rules)
    misses = refused_in(work, rules)
    return replace(report, misses=misses, errors=tuple(work.failed.values()))


def refused_in(work: Work, rules: Sequence[Rule]) -> tuple[Miss, ...]:
    """What is refused in a graph in which nothing fires any more."""
    work.tells = True
    _, refusals = sweep(work, rules)
    return tuple(one.told() for one in refusals)


def to_fixpoint(work: Work, rules: Sequence[Rule]) -> Report:
    """Sweep until nothing changes."""
    fired: Counter[Template] = Counter()
    for _ in range(SWEEPS):
        count, _ = sweep(work, rules)
        fired.update(count)
        if not count:
            return counted(fired)
        for error in normalize(work.graph, work.context.options.strict).errors:
            work.failed[error] = error
    chasing = ", ".join(sorted(counted(count).fired))
    raise RewriteLoopError(
        f"rules undo each other after {SWEEPS} sweeps: {chasing}; drop one of them"
    )


def counted(fired: Counter[Template]) -> Report:
    """How often each rule fired, and each spelling of those that have several."""
    families: Counter[str] = Counter()
    spellings: Counter[str] = Counter()
    for outline, count in fired.items():
        families[outline.rule.name] += count
        if len(outline.rule.spellings) > 1:
            spellings[outline.name] += count
    return Report(fired=dict(families), spellings=dict(spellings))


def sweep(work: Work, rules: Sequence[Rule]) -> tuple[Counter[Template], list[Refusal]]:
    """Try every rule at every node once; what fired, and what was refused."""
    work.read.clear()
    work.effects = [node for node in work.graph.nodes if is_boundary(node)]
    index = by_anchor(work, rules)
    fired: Counter[Template] = Counter()
    misses: list[Refusal] = []
    for node in reversed(list(work.graph.nodes)):
        if node.op != "call_function" or node.target not in index or node._erased:
            continue
        refused: list[Refusal] = []
        dtypes = dtypes_at(node)
        for candidate in (item for item in index[node.target] if item.dtype in dtypes):
            outcome = attempt_softly(work, candidate, node)
            if isinstance(outcome, Refusal):
                refused.append(outcome)
            elif outcome is not None:
                for changed in apply(work.graph, *outcome):
                    work.read.pop(changed, None)
                fired[candidate] += 1
                break
        else:
            misses += worth_telling(refused)
    return fired, misses


def dtypes_at(node: fx.Node) -> set[torch.dtype]:
    """The dtypes of a node's tensors; a template for another dtype has nothing to say about it."""
    found: set[torch.dtype] = set()
    for fake in (value(item) for item in (node, *node.all_input_nodes)):
        parts = fake if isinstance(fake, (list, tuple)) else (fake,)
        found.update(part.dtype for part in parts if isinstance(part, Tensor))
    return found


def by_anchor(work: Work, rules: Sequence[Rule]) -> dict[Any, list[Template]]:
    """Anchor operator -> templates, those with more steps first, then by name."""
    present = frozenset(node.target for node in work.graph.nodes if node.op == "call_function")
    fakes = map(value, work.graph.nodes)
    found = {fake.dtype for fake in fakes if isinstance(fake, Tensor)}
    dtypes = sorted((dtype for dtype in found if dtype.is_floating_point), key=str)
    index: dict[Any, list[Template]] = {}
    for rule in rules:
        for candidate in outlines(rule, dtypes, work.context.device, present):
            index.setdefault(candidate.steps[candidate.anchor].target, []).append(candidate)
    for candidates in index.values():
        candidates.sort(key=lambda item: (-len(item.steps), item.name))
    return index


def attempt_softly(
    work: Work, candidate: Template, node: fx.Node
) -> tuple[Match, Emission] | Refusal | None:
    """`attempt` of a rule that has not raised; one that raises has nothing to say from there on."""
    rule = candidate.rule.name
    if rule in work.failed:
        return None
    try:
        return attempt(work, candidate, node)
    except RuleError:
        raise
    except Exception as error:  # one rule is no reason to fuse nothing
        if work.context.options.strict:
            raise
        work.failed[rule] = f"{rule} failed and was left out: {type(error).__name__}: {error}"
        return None


def attempt(
    work: Work, candidate: Template, node: fx.Node
) -> tuple[Match, Emission] | Refusal | None:
    """Match an outline, then its template, at a node; None where neither comes near."""
    quiet = not work.tells or told_from(candidate) > 1
    if quiet and stops_at_once(candidate, node, work.arguments):
        return None
    loose = match(candidate, node, work.arguments, loose=True)
    if isinstance(loose, Stop):
        return refusal_at(candidate, loose.node, loose.reason, loose.depth)
    fitting = for_rank(candidate, rank_of(value(node)), work.context.device)
    if fitting is None:
        return None
    found = match(fitting, node, work.arguments)
    if isinstance(found, Stop):
        return refusal_at(fitting, found.node, found.reason, found.depth)
    emission = refuse(found, work.effects) or emission_of(work, found)
    if isinstance(emission, Emission):
        reason = refuse_writes(found, emission) or refuse_sharing(found, emission)
        emission = reason or emission
    if isinstance(emission, str):
        return refusal_at(fitting, node, emission, len(fitting.steps), complete=True)
    return found, emission


def emission_of(work: Work, found: Match) -> Emission | str:
    """The replacement's graph for this match, traced once for inputs of a kind, or why there is
    none."""
    key = (
        id(found.template.rule),
        found.template.name,
        tuple((item, kind_of(value(node))) for item, node in sorted(found.inputs.items())),
        tuple(sorted((item, repr(number)) for item, number in found.scalars.items())),
        tuple(kind_of(value(node)) if node is not None else None for node in found.outputs),
    )
    if key not in work.emissions:
        work.emissions[key] = accepted(work, found, emit(work.context, found))
    return work.emissions[key]


def accepted(work: Work, found: Match, emission: Emission | str) -> Emission | str:
    """An emission that `accept` has nothing against, or why there is none."""
    if work.accept is None or isinstance(emission, str):
        return emission
    return work.accept(found, emission) or emission
