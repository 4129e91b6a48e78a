"""Ranks of a group must run the same collectives; a difference is an error on all of them, no hang.

Before a graph is rewritten, and again before it first runs, each rank compares a digest of it with
those of the others. Graphs may differ between ranks in other ways: a bias that only rank 0 adds,
the range of a vocabulary shard. What must agree is who sends what to whom, and what it was decided
from. Where digests differ the ranks tell each other what is behind them, so that the error can say
which collective, option or rule it is.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import fx

from ascend_passes.agreement.exchange import exchange, shared_groups
from ascend_passes.agreement.schedule import hashed, schedule, told_apart
from ascend_passes.cost import profiles
from ascend_passes.distributed.groups import Group, place_among
from ascend_passes.distributed.mailbox import AgreementError, texts
from ascend_passes.engine.registry import fingerprints, identity, installed
from ascend_passes.ir.graph import Context
from ascend_passes.options.value import Options

PRIVATE_OPTIONS = ("dump", "explain")
"""Options that change no graph, so ranks may differ in them."""
COLLECTIVES, RULES = "collectives", "sources and rules"
TABLES = ("options", "profile")
"""Topics whose text is a JSON object."""
Facts = Mapping[str, str]
"""What ranks must agree on: topic -> short text or hash."""


def require_agreement(
    graph: fx.Graph, context: Context, groups: Mapping[str, tuple[int, ...]], topic: str
) -> None:
    """Compare this rank's graph with those of the other ranks of each of its groups.

    Where the options leave collectives as the model has them, and other ranks are inside of
    collectives already, this rank goes on without them, as it would uncompiled.

    Args:
        graph: as it is traced, or as it will run.
        context: what it is compiled with.
        groups: group -> its global ranks, see `exchange.shared_groups`.
        topic: which of the graphs it is.

    Raises:
        AgreementError: another rank has other options, rules, versions or collectives, failed, or
            did not come to this point in time.
    """
    if not groups:
        return
    mine = digest(graph, context)
    facts = {name: {**mine, "group": place_among(name, ranks)} for name, ranks in groups.items()}
    alone = not (context.options.flashcomm or context.options.matmul_all_reduce)
    answers = exchange(groups, topic, facts, lambda told: all_texts(told, facts), alone)
    differ = {name: ranks for name, ranks in groups.items() if differing_topics(answers[name])}
    if not differ:
        return
    # All ranks of these groups have read the same facts, so all of them come here.
    behind = {name: detail(graph, context) if speaks(answers[name]) else {} for name in differ}
    details = exchange(differ, f"what differs in {topic}", behind, is_detail)
    told = "\n".join(
        f"ranks of group {name!r} would run different graphs; {topic} differs\n"
        f"{difference_lines(answers[name], details[name])}"
        for name in differ
    )
    raise AgreementError(told)


def all_texts(told: Any, facts: Mapping[str, Facts]) -> bool:
    """Whether a value from the store is a digest."""
    topics = next(iter(facts.values())).keys()
    good = isinstance(told, dict) and told.keys() == topics
    return good and texts(list(told.values()))


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
    shared, named = shared_groups(graph), {group.name: group for group in sites}
    asked = {name: ranks for name, ranks in shared.items() if name in named}
    told = {name: list(sites[named[name]]) for name in asked}
    found = {group: list(mine) for group, mine in sites.items()}
    for name, answers in exchange(asked, topic, told, texts).items():
        counts = {str(len(answer)): rank for rank, answer in answers.items()}
        if len(counts) > 1:
            sides = ", ".join(f"rank {rank} has {count}" for count, rank in counts.items())
            raise AgreementError(f"{topic}: ranks of group {name!r} differ in sites: {sides}")
        mine = found[named[name]]
        for rank, answer in answers.items():
            for index, reason in enumerate(answer):
                if reason and not mine[index]:
                    mine[index] = f"rank {rank} cannot: {reason}"
    return found


def digest(graph: fx.Graph, context: Context) -> dict[str, str]:
    """What ranks must agree on: topic -> short text or hash."""
    options = context.options
    public = {f.name: getattr(options, f.name) for f in dataclasses.fields(options)}
    public = {name: str(given) for name, given in public.items() if name not in PRIVATE_OPTIONS}
    return {
        "versions": f"torch {torch.__version__}, torch-npu {installed('torch-npu')}",
        RULES: identity(sources_of(options))[:12],
        "options": json.dumps(public, sort_keys=True),
        "profile": profiles.read_profile(options.profile).to_json(),
        "plan": str(context.plan),
        COLLECTIVES: hashed(schedule(graph)),
    }


def sources_of(options: Options) -> Options:
    """The options with only those that say which rule files there are."""
    return Options(rules=options.rules, rule_path=options.rule_path)


def detail(graph: fx.Graph, context: Context) -> dict[str, list[str]]:
    """What is behind the hashes of a digest."""
    return {COLLECTIVES: schedule(graph), RULES: fingerprints(sources_of(context.options))}


def is_detail(told: Any) -> bool:
    """Whether a value from the store is a `detail`, or the nothing of a rank that tells none."""
    return isinstance(told, dict) and all(texts(lines) for lines in told.values())


def speaks(answers: Mapping[int, Facts]) -> bool:
    """Whether this rank tells details: the first of a side does, so that few messages are long."""
    found = (ranks[0] for topic in differing_topics(answers) for _, ranks in sides(answers, topic))
    return dist.get_rank() in found


def differing_topics(answers: Mapping[int, Facts]) -> list[str]:
    """The topics in which ranks differ."""
    return [topic for topic in next(iter(answers.values())) if len(sides(answers, topic)) > 1]


def difference_lines(
    answers: Mapping[int, Facts], details: Mapping[int, Mapping[str, Sequence[str]]]
) -> str:
    """What differs between the ranks of a group, a line for each topic."""
    return "\n".join(
        difference_line(topic, answers, details) for topic in differing_topics(answers)
    )


def difference_line(
    topic: str,
    answers: Mapping[int, Facts],
    details: Mapping[int, Mapping[str, Sequence[str]]],
) -> str:
    """One difference in a line; of options and profiles only the entries that differ."""
    found = sides(answers, topic)
    behind = {f"ranks {ranks}": details[ranks[0]].get(topic, ()) for _, ranks in found}
    apart = told_apart(behind) if all(behind.values()) else ""
    if apart:
        return f"{topic}: {apart}"
    shown = [text for text, _ in found]
    pairs = zip(found, differing_entries(shown) if topic in TABLES else shown, strict=True)
    return f"{topic}: " + "; ".join(f"ranks {ranks} have {text}" for (_, ranks), text in pairs)


def differing_entries(tables: Sequence[str]) -> list[str]:
    """Of JSON objects the entries that differ: `flashcomm=True`."""
    parsed = [json.loads(text) for text in tables]
    names = [n for n in parsed[0] if len({json.dumps(one.get(n)) for one in parsed}) > 1]
    return [", ".join(f"{name}={one.get(name)}" for name in names) for one in parsed]


def sides(answers: Mapping[int, Facts], topic: str) -> list[tuple[str, list[int]]]:
    """Each text that ranks have for a topic, with those ranks."""
    found: dict[str, list[int]] = {}
    for rank, facts in answers.items():
        found.setdefault(facts[topic], []).append(rank)
    return list(found.items())
