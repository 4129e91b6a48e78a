"""Ranks of a group tell each other short texts while they compile, through the group's store.

No collective is entered for this, so ranks that differ cannot wait for each other without end. Each
exchange of a group has a number, which all its ranks count alike, and a topic, which must be the
same on all of them. A rank that fails says so in place of what the others wait for.
"""

from __future__ import annotations

import itertools
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from torch import fx
from torch.distributed import distributed_c10d

from ascend_passes.cost import COLLECTIVES
from ascend_passes.groups import FUNCTIONAL, VLLM, members
from ascend_passes.rehearsal import answered, remember

PATIENCE = timedelta(seconds=120)
"""How long a rank waits for another that is still compiling."""
FAILED = "failed"
"""The topic of a rank that cannot go on."""
TOLD = "The other ranks of its groups were told."
_rounds: dict[str, Iterator[int]] = defaultdict(itertools.count)


class AgreementError(RuntimeError):
    """Ranks of a group would run different graphs; the text names them and what differs."""


def exchange(group: str, ranks: tuple[int, ...], topic: str, told: Any) -> dict[int, Any]:
    """What every rank of a group tells about a topic, in the order of `ranks`.

    Args:
        group: the group's name.
        ranks: its global ranks.
        topic: what it is about, in words for an error.
        told: anything that JSON holds.

    Raises:
        AgreementError: another rank failed, came with another topic, or not within `PATIENCE`.
        DepartureError: a rehearsed compilation tells something new.
    """
    if (known := answered(group, topic, told)) is not None:
        return dict(known)
    store, prefix = distributed_c10d._get_default_store(), post(group, ranks, topic, told)
    answers: dict[int, Any] = {}
    for rank in ranks:
        try:
            store.wait([f"{prefix}/{rank}"], PATIENCE)
        except RuntimeError:
            message = f"rank {rank} of group {group!r} did not compile this graph within {PATIENCE}"
            # The late rank must not go on alone once it comes.
            store.set(f"{prefix}/{dist.get_rank()}", json.dumps([FAILED, message]))
            raise AgreementError(message) from None
        found, answer = json.loads(store.get(f"{prefix}/{rank}"))
        if found == FAILED:
            raise AgreementError(f"rank {rank} of group {group!r} failed to compile: {answer}")
        if found != topic:
            message = f"rank {rank} of group {group!r} compares {found} where this one has {topic}"
            raise AgreementError(message)
        answers[rank] = answer
    remember(group, topic, told, answers)
    return answers


def post(group: str, ranks: tuple[int, ...], topic: str, told: Any) -> str:
    """Put this rank's part of the next exchange into the store; returns the exchange's prefix."""
    prefix = f"ascend_passes/{group}/{min(ranks)}/{next(_rounds[group])}"
    store = distributed_c10d._get_default_store()
    store.set(f"{prefix}/{dist.get_rank()}", json.dumps([topic, told]))
    return prefix


@contextmanager
def failing_together(graph: fx.Graph) -> Iterator[None]:
    """Inside, an error of this rank becomes one of the ranks that it shares a group with.

    They would wait for it in an exchange. An `AgreementError` is known to all of them already.

    Args:
        graph: names the groups: Dynamo's graph, or AOTAutograd's.
    """
    try:
        yield
    except AgreementError:
        raise
    except Exception as error:
        if TOLD not in getattr(error, "__notes__", ()):
            for group, ranks in shared_groups(graph).items():
                post(group, ranks, FAILED, f"{type(error).__name__}: {error}")
                error.add_note(TOLD)
        raise


def shared_groups(graph: fx.Graph) -> Mapping[str, tuple[int, ...]]:
    """Group that a graph's collectives name -> its global ranks; groups of one are left out."""
    if not dist.is_available() or not dist.is_initialized():
        return {}
    found: dict[str, tuple[int, ...]] = {}
    for node in graph.nodes:
        # `namespace.name.overload` of an operator, and of the packet that Dynamo calls.
        words = str(node.target).split(".")
        if node.op != "call_function" or "::".join(words[:2]) not in COLLECTIVES:
            continue
        given = [*node.args, *node.kwargs.values()]
        names = [text for text in given if isinstance(text, str) and text not in found]
        family = VLLM if words[0] == VLLM else FUNCTIONAL
        found |= {name: ranks for name in names if len(ranks := members(name, family)) > 1}
    return found
