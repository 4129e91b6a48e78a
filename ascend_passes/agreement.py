"""Ranks of a group must run the same collectives; a difference is an error on all of them, no hang.

Before a graph is rewritten, and again before it first runs, each rank compares a digest of it with
those of the others. Graphs may differ between ranks in other ways: a bias that only rank 0 adds,
the range of a vocabulary shard. What must agree is who sends what to whom, and what it was decided
from.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, fx

from ascend_passes import profiles
from ascend_passes.cost import COLLECTIVES, tensors
from ascend_passes.exchange import AgreementError, exchange, shared_groups
from ascend_passes.graph import Context, arguments_by_name, operator_name, value
from ascend_passes.groups import Group
from ascend_passes.options import Options
from ascend_passes.registry import identity

PRIVATE_OPTIONS = ("dump", "explain")
"""Options that change no graph, so ranks may differ in them."""


def require_agreement(
    graph: fx.Graph, context: Context, groups: Mapping[str, tuple[int, ...]], topic: str
) -> None:
    """Compare this rank's graph with those of the other ranks of each of its groups.

    Args:
        graph: as it is traced, or as it will run.
        context: what it is compiled with.
        groups: group -> its global ranks, see `exchange.shared_groups`.
        topic: which of the graphs it is.

    Raises:
        AgreementError: another rank has other options, rules, versions or collectives, failed, or
            did not come to this point in time.
    """
    facts = digest(graph, context) if groups else {}
    for name, ranks in groups.items():
        compare(name, exchange(name, ranks, topic, facts), topic)


def refused_anywhere(
    graph: fx.Graph, topic: str, sites: Mapping[Group, Sequence[str]]
) -> dict[Group, list[str]]:
    """Reasons to leave sites alone, those of other ranks included; "" where no rank has one.

    What one rank cannot rewrite the others must leave too, or they would wait for each other.

    Args:
        graph: names the groups of the sites.
        topic: the pass that asks.
        sites: this rank's reasons, in the order of the group's collectives in the graph.

    Raises:
        AgreementError: as for `exchange`, or another rank has another number of sites.
    """
    shared, found = shared_groups(graph), {}
    for group, mine in sites.items():
        found[group] = list(mine)
        if group.name not in shared:
            continue
        answers = exchange(group.name, shared[group.name], topic, list(mine))
        counts = {str(len(answer)): rank for rank, answer in answers.items()}
        if len(counts) > 1:
            told = ", ".join(f"rank {rank} has {count}" for count, rank in counts.items())
            raise AgreementError(f"{topic}: ranks of group {group.name!r} differ in sites: {told}")
        for rank, answer in answers.items():
            for index, reason in enumerate(answer):
                if reason and not found[group][index]:
                    found[group][index] = f"rank {rank} cannot: {reason}"
    return found


def agreed(graph: fx.Graph, topic: str, facts: Sequence[str]) -> list[str]:
    """Those of this rank's facts that hold on all ranks that the graph's collectives join.

    For what a rank finds in its own data, such as parameters that are equal by value: what only
    some ranks know must not be used where it could make one of them compile again alone. Groups are
    asked one after the other, so on a mesh a fact has to hold on every rank of the mesh.

    Every rank must call this at the same point of its compilation, with no facts too. A graph
    without shared groups asks nobody: all its facts are returned.

    Args:
        graph: names the groups.
        topic: what the facts are about, in words for an error.
        facts: texts that mean the same on every rank, such as names of the graph's inputs.

    Returns:
        The facts that hold everywhere, in the order given.

    Raises:
        AgreementError: as for `exchange`.
    """
    kept = list(facts)
    for name, ranks in shared_groups(graph).items():
        answers = exchange(name, ranks, topic, kept)
        kept = [fact for fact in kept if all(fact in answer for answer in answers.values())]
    return kept


def digest(graph: fx.Graph, context: Context) -> dict[str, str]:
    """What ranks must agree on: topic -> short text or hash."""
    options = context.options
    public = {f.name: getattr(options, f.name) for f in dataclasses.fields(options)}
    public = {name: str(given) for name, given in public.items() if name not in PRIVATE_OPTIONS}
    sources = Options(rules=options.rules, rule_path=options.rule_path)
    return {
        "versions and rules": f"{torch.__version__} {identity(sources)[:12]}",
        "options": json.dumps(public, sort_keys=True),
        "profile": hashed(profiles.read(options.profile).to_json()),
        "plan": str(context.plan),
        "collectives": hashed("\n".join(schedule(graph))),
    }


def hashed(text: str) -> str:
    """Twelve digits that stand for a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def schedule(graph: fx.Graph) -> list[str]:
    """The collectives in their order: operator, group, other plain arguments, shapes, types."""
    lines = []
    for node in graph.nodes:
        if operator_name(node) not in COLLECTIVES:
            continue
        moved = [
            f"{t.dtype}{list(t.shape)}" for t in tensors([value(node), *map(value, inputs(node))])
        ]
        plain = [
            f"{name}={a}" for name, a, _ in arguments_by_name(node) if isinstance(a, (str, int))
        ]
        lines.append(" ".join([operator_name(node), *plain, *moved]))
    return renamed(lines)


def inputs(node: fx.Node) -> list[fx.Node]:
    """The tensors that a collective moves: its first argument, or both factors of a matmul."""
    return [n for n in node.args[:2] if isinstance(n, fx.Node) and isinstance(value(n), Tensor)]


def renamed(lines: list[str]) -> list[str]:
    """The same lines with symbols numbered as they appear: names depend on the process."""
    names: dict[str, str] = {}
    rename = lambda found: names.setdefault(found[0], f"size{len(names)}")  # noqa: E731
    return [re.sub(r"\bs\d+\b", rename, line) for line in lines]


def compare(group: str, others: Mapping[int, Mapping[str, str]], topic: str) -> None:
    """Compare the facts of a group's ranks.

    Raises:
        AgreementError: they differ.
    """
    first = next(iter(others.values()))
    differences = [fact for fact in first if len(sides(others, fact)) > 1]
    if differences:
        told = "\n".join(described(fact, sides(others, fact)) for fact in differences)
        message = f"ranks of group {group!r} would run different graphs; {topic} differs\n{told}"
        raise AgreementError(message)


def described(topic: str, found: list[tuple[str, list[int]]]) -> str:
    """One difference in a line; of options only those that differ."""
    if topic == "options":
        parsed = [json.loads(text) for text, _ in found]
        names = [name for name in parsed[0] if len({one[name] for one in parsed}) > 1]
        texts = [", ".join(f"{name}={one[name]}" for name in names) for one in parsed]
        found = [(text, ranks) for text, (_, ranks) in zip(texts, found, strict=True)]
    sides_told = "; ".join(f"ranks {ranks} have {text}" for text, ranks in found)
    return f"{topic}: {sides_told}"


def sides(others: Mapping[int, Mapping[str, str]], topic: str) -> list[tuple[str, list[int]]]:
    """Each text that ranks have for a topic, with those ranks."""
    found: dict[str, list[int]] = {}
    for rank, facts in others.items():
        found.setdefault(facts[topic], []).append(rank)
    return list(found.items())
