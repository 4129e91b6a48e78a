"""The stage: every piece of a graph that is an operator of a family becomes it."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import fx

from ascend_passes.engine.apply import apply
from ascend_passes.engine.emission import Emission, checked_emission, kind_of, traced_on
from ascend_passes.engine.found import Found
from ascend_passes.engine.hazards import refuse, refuse_sharing
from ascend_passes.engine.normalize import normalize, remove_dead
from ascend_passes.ir.graph import Context, is_boundary, place, value
from ascend_passes.ir.trace import not_faking
from ascend_passes.meaning.answer import Answer, NotThat
from ascend_passes.meaning.cone import Cone, ancestors, descendants
from ascend_passes.meaning.family import Place, Recognition, Recognizer
from ascend_passes.meaning.finding import FoundPiece, laid_out
from ascend_passes.meaning.gated import GATES
from ascend_passes.meaning.lift import CANNOT_RUN, WidePiece
from ascend_passes.meaning.narrowed import refuse_narrowing
from ascend_passes.meaning.numbers import KnownNumbers, record_numbers
from ascend_passes.meaning.quant_matmul import PRODUCTS
from ascend_passes.meaning.quantize import QUANTIZES
from ascend_passes.meaning.rms_norm import NORMS
from ascend_passes.meaning.rotary import ROTATIONS
from ascend_passes.meaning.sums import SUMS
from ascend_passes.meaning.words import neighbourhood, structure_of, worded
from ascend_passes.options.value import Options, switched_on
from ascend_passes.report.value import Miss, Report

FAMILIES: tuple[Recognizer, ...] = (
    NORMS,
    GATES,
    ROTATIONS,
    QUANTIZES,
    PRODUCTS,
    SUMS,
)
"""In the order in which they look for their pieces."""
MOST_ANSWERS = 4096
"""Answers that a process keeps; a model has some dozens of different pieces."""
_answers: dict[Any, Answer | NotThat] = {}
Accept = Callable[[Found, Emission], str | None]


@dataclass(frozen=True)
class Stay:
    """Why what lies round an anchor stays."""

    reason: str = ""
    complete: bool = False
    """Whether an operator was found that could not be put in."""
    index: int = 0
    """The place that came nearest."""

    def told(self, family: Recognizer, places: Iterator[Place]) -> Miss | None:
        """The line of a report, of all places of the anchor; None where nothing came near."""
        if not self.reason:
            return None
        node, _ = next(itertools.islice(places, self.index, None))
        depth = int(self.complete)
        return Miss(family.name, node.name, place(node), self.reason, depth + 1, self.complete)


@dataclass
class Search:
    """What one run knows about the graph that it edits."""

    graph: fx.Graph
    context: Context
    accept: Accept | None
    numbers: KnownNumbers
    effects: list[fx.Node]
    emissions: dict[Any, Emission | str] = field(default_factory=dict)
    """Answer and kinds of inputs -> what to emit, or why not."""
    notes: Counter[str] = field(default_factory=Counter)
    """Sentences about values that differ -> how often."""
    seen: dict[Any, int | Stay] = field(default_factory=dict)
    """What lies round an anchor -> which of its places was the piece, or why none was."""


def by_meaning(
    graph: fx.Graph,
    context: Context,
    accept: Accept | None = None,
    families: Sequence[Recognizer] = FAMILIES,
) -> Report:
    """Replace every piece of a normal graph that is an operator of a family, in place.

    Args:
        graph: edited in place.
        context: what the passes know beside the graph.
        accept: asked once for each replacement and kind of inputs; a reason refuses it.
        families: what is looked for.

    Raises:
        Exception: what a family raised.
    """
    effects = [node for node in graph.nodes if is_boundary(node)]
    search = Search(graph, context, accept, KnownNumbers.of(graph, context), effects)
    fired: Counter[str] = Counter()
    misses: dict[tuple[str, fx.Node], Miss] = {}
    for family in families:
        for anchor in anchors_of(family, graph):
            if anchor._erased:
                continue
            outcome = attempt_at(search, family, anchor)
            if isinstance(outcome, str):
                fired[outcome] += 1
            elif outcome is not None:
                misses[family.name, anchor] = outcome
    remove_dead(graph)
    kept = still_near(families, misses)
    told = [*kept.values(), *unlike_any(graph, families, kept.keys())]
    notes = tuple(f"{text} ({count} times)" for text, count in search.notes.items())
    return Report(fired=dict(fired), misses=tuple(told_once(graph, told)), notes=notes)


def anchors_of(family: Recognizer, graph: fx.Graph) -> list[fx.Node]:
    """Where a family looks for its pieces, the last first."""
    found = (
        graph.find_nodes(op="call_function", target=target, sort=False) for target in family.anchors
    )
    return sorted(itertools.chain.from_iterable(found), reverse=True)


def still_near(
    families: Sequence[Recognizer], misses: Mapping[tuple[str, fx.Node], Miss]
) -> dict[tuple[str, fx.Node], Miss]:
    """The misses whose anchors still have pieces round them: a part of what an anchor was asked of
    may have become an operator since, as a head of which half is rotated."""
    named = {family.name: family for family in families}
    return {
        (name, anchor): miss
        for (name, anchor), miss in misses.items()
        if not anchor._erased and has_piece(named[name], anchor)
    }


def has_piece(family: Recognizer, anchor: fx.Node) -> bool:
    """Whether a piece round an anchor is worth asking about."""
    return any(family.piece(one) is not None for one in family.places(anchor))


def unlike_any(
    graph: fx.Graph, families: Sequence[Recognizer], spoken: Collection[tuple[str, fx.Node]]
) -> Iterator[Miss]:
    """What looks like an operator and is spelled out still, but for anchors that are spoken of."""
    for family in families:
        for node in reversed(anchors_of(family, graph)):
            if (family.name, node) not in spoken and family.looks_like(node):
                yield Miss(family.name, node.name, place(node), family.unlike)


def told_once(graph: fx.Graph, misses: Iterable[Miss]) -> Iterator[Miss]:
    """The misses about what is still there, but one of each family at each place of the model: an
    operator has several anchors. The most certain is told."""
    present, best = {node.name for node in graph.nodes}, dict[Any, Miss]()
    for miss in (miss for miss in misses if miss.node in present):
        key = miss.rule, miss.place.module or miss.node, miss.place.line
        if key not in best or (miss.complete, miss.depth) > (best[key].complete, best[key].depth):
            best[key] = miss
    yield from best.values()


def attempt_at(search: Search, family: Recognizer, anchor: fx.Node) -> str | Miss | None:
    """The rule that replaced the piece round an anchor, or why it stays; None where nothing there
    comes near."""
    places = iter(family.places(anchor))
    begun = next(places, None)
    if begun is None:
        return None
    places = itertools.chain([begun], places)
    before, behind = family.reach
    round_it = {
        anchor,
        *ancestors(anchor, before, family.allowed),
        *descendants(anchor, behind, family.allowed),
    }
    key = (family.name, neighbourhood(sorted(round_it)))
    known = search.seen.get(key, 0)
    if isinstance(known, Stay):
        return known.told(family, places)
    nearest = Stay()
    for index, one in enumerate(itertools.islice(places, known, None), known):
        cone = family.piece(one)
        if cone is None:
            continue
        outcome = replace_piece(search, family, cone)
        if isinstance(outcome, str):
            search.seen[key] = index
            return outcome
        if outcome is not None and (outcome.complete, not nearest.reason) > (
            nearest.complete,
            False,
        ):
            nearest = replace(outcome, index=index)
    if not nearest.complete:
        search.seen[key] = nearest
    return nearest.told(family, iter(family.places(anchor)))


def replace_piece(search: Search, family: Recognizer, cone: Cone) -> str | Stay | None:
    """Replace a piece if it is an operator of the family: the rule, or why it stays; None for one
    that is nothing near."""
    answer = answer_of(search, family, cone)
    if isinstance(answer, NotThat):
        return Stay(answer.reason) if answer.near else None
    if not is_wanted(family, answer.rule, search.context.options):
        return None
    finding = FoundPiece.of(cone, answer, family.shares, family.rounds_sums)
    reason = refuse_narrowing(cone) or refuse(finding, search.effects)
    emission = reason or emission_for(search, finding)
    if isinstance(emission, Emission):
        emission = refuse_sharing(finding, emission) or emission
    if isinstance(emission, str):
        return Stay(emission, complete=True)
    if family.reads_numbers:
        record_numbers(search.numbers, cone)
    apply(search.graph, finding, emission)
    if finding.note:
        search.notes[f"{finding.name}: {finding.note}"] += 1
    return finding.name


def is_wanted(family: Recognizer, rule: str, options: Options) -> bool:
    """Whether the options leave a recognition on."""
    if family.rules[rule].hides_nan and options.keep_nan:
        return False
    return switched_on(rule, options.rules, True, family=rule)


def recognitions() -> dict[str, tuple[Recognizer, Recognition]]:
    """Every recognition by its name, with its family."""
    return {name: (family, one) for family in FAMILIES for name, one in family.rules.items()}


def answer_of(search: Search, family: Recognizer, cone: Cone) -> Answer | NotThat:
    """What a piece is, asked once in a process for each structure."""
    known = search.numbers.of_leaves(cone, family.reads_numbers)
    content = tuple((cone.leaves.index(leaf), tensor.tolist()) for leaf, tensor in known.items())
    key = (family.name, str(content), structure_of(cone))
    if key not in _answers:
        if len(_answers) >= MOST_ANSWERS:
            _answers.clear()
        with not_faking():
            _answers[key] = solution_of(family, WidePiece.of(cone, known))
    return _answers[key]


def solution_of(family: Recognizer, piece: WidePiece) -> Answer | NotThat:
    """What a family says of a piece, also of one that float64 cannot be asked about."""
    try:
        return family.solve(piece)
    except CANNOT_RUN as error:
        return NotThat(f"it cannot be computed in float64: {str(error)[:80]}")


def emission_for(search: Search, finding: FoundPiece) -> Emission | str:
    """The operator's graph for the kinds of inputs of a finding and for the views in front of its
    rows, or why there is none."""
    inputs = tuple((name, kind_of(value(node))) for name, node in finding.inputs.items())
    outputs = tuple(kind_of(value(node)) for node in finding.outputs if node)
    # The answer itself, which keeps it alive, and not its address, which another one may get.
    key = (finding.answer, inputs, outputs, moves_of(finding))
    if key not in search.emissions:
        search.emissions[key] = emitted(search, finding)
    return search.emissions[key]


def moves_of(finding: FoundPiece) -> tuple[Any, ...]:
    """What lies between the inputs of a finding and its piece, in words that can be compared: two
    halves of one value are as large, and are not the same half."""
    return tuple(
        (name, tuple(tuple(worded(node, {}) for node in chain) for chain in source.chains))
        for name, source in finding.sources.items()
        if any(source.chains)
    )


def emitted(search: Search, finding: FoundPiece) -> Emission | str:
    """`emission_for`, made."""
    fakes = {name: value(node) for name, node in finding.inputs.items()}
    try:
        graph = traced_on(laid_out(finding), fakes)
    except CANNOT_RUN as error:  # a size that no input has, as a product of sizes over one of them
        return f"the operator's graph cannot be traced: {str(error)[:80]}"
    normalize(graph)  # rules and passes read it next
    emission = checked_emission(search.context, finding, graph)
    if isinstance(emission, str) or search.accept is None:
        return emission
    return search.accept(finding, emission) or emission
