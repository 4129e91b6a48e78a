"""Ranks of a group must run the same collectives; a difference is an error on all of them, no hang.

Before a rewritten graph first runs, each rank puts a digest of it into the process group's store
and reads those of the others. No collective is entered for this, so ranks that differ cannot wait
for each other. Graphs may differ between ranks in other ways: a bias that only rank 0 adds, the
range of a vocabulary shard. What must agree is who sends what to whom, and what it was decided
from.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, fx
from torch.distributed import distributed_c10d

from ascend_passes import profiles
from ascend_passes.cost import COLLECTIVES, tensors
from ascend_passes.graph import Context, arguments_by_name, operator_name, value
from ascend_passes.groups import FUNCTIONAL, VLLM, members
from ascend_passes.options import Options
from ascend_passes.registry import identity

PATIENCE = timedelta(seconds=120)
"""How long a rank waits for another that is still compiling."""
PRIVATE_OPTIONS = ("dump", "explain")
"""Options that change no graph, so ranks may differ in them."""
_rounds: dict[str, Iterator[int]] = defaultdict(itertools.count)


class AgreementError(RuntimeError):
    """Ranks of a group would run different graphs; the text names them and what differs."""


def require_agreement(graph: fx.Graph, context: Context) -> None:
    """Compare this rank's graph with those of the other ranks of each of its groups.

    Raises:
        AgreementError: another rank has other options, rules, versions or collectives, or did not
            come to this point within `PATIENCE`.
    """
    if not dist.is_available() or not dist.is_initialized():
        return
    facts = digest(graph, context)
    for name, ranks in groups_of(graph).items():
        if len(ranks) > 1:
            compare(name, ranks, facts)


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


def groups_of(graph: fx.Graph) -> Mapping[str, tuple[int, ...]]:
    """Group that a graph's collectives name -> its global ranks."""
    found: dict[str, tuple[int, ...]] = {}
    for node in graph.nodes:
        name = operator_name(node)
        if name not in COLLECTIVES:
            continue
        given = {key: argument for key, argument, _ in arguments_by_name(node)}
        group = given.get("group_name", given.get("hcom"))
        if isinstance(group, str) and group not in found:
            found[group] = members(group, VLLM if name.startswith(VLLM) else FUNCTIONAL)
    return found


def compare(group: str, ranks: tuple[int, ...], facts: Mapping[str, str]) -> None:
    """Exchange facts over the store and compare them.

    Raises:
        AgreementError: as for `require_agreement`.
    """
    store, me = distributed_c10d._get_default_store(), dist.get_rank()
    prefix = f"ascend_passes/{group}/{min(ranks)}/{next(_rounds[group])}"
    store.set(f"{prefix}/{me}", json.dumps(dict(facts)))
    others: dict[int, Mapping[str, str]] = {}
    for rank in ranks:
        try:
            store.wait([f"{prefix}/{rank}"], PATIENCE)
        except RuntimeError:
            message = f"rank {rank} of group {group!r} did not compile this graph within {PATIENCE}"
            raise AgreementError(message) from None
        others[rank] = json.loads(store.get(f"{prefix}/{rank}"))
    differences = [topic for topic in facts if len(sides(others, topic)) > 1]
    if differences:
        told = "\n".join(described(topic, sides(others, topic)) for topic in differences)
        raise AgreementError(f"ranks of group {group!r} would run different graphs\n{told}")


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
