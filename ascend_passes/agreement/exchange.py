"""Ranks tell each other short texts while they compile, through the store of their groups.

No collective is entered for this, so ranks that differ cannot wait for each other without end.
Groups of the same ranks are one party, whatever each rank calls them. A party counts its exchanges
alike on all its ranks; a rank that cannot go on closes the count and says why, which the others
read in place of what they wait for, and all begin a new one. Who waits asks the others where they
are, and stops as soon as one of them cannot come.
"""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from torch import fx

from ascend_passes.agreement.position import position
from ascend_passes.distributed import mailbox, presence
from ascend_passes.distributed.absence import Verdict, Watch, blame
from ascend_passes.distributed.groups import FUNCTIONAL, VLLM, members
from ascend_passes.distributed.mailbox import AgreementError, Party, Valid, anything
from ascend_passes.distributed.rehearsal import answered, remember
from ascend_passes.distributed.whereabouts import now
from ascend_passes.ir.traits import name_of, traits_of

PATIENCE = timedelta(seconds=120)
"""How long a rank waits for another that may still come: one that compiles, loads, or is stopped
in a debugger."""
TOLD = "The other ranks of its groups were told."
SOONEST, LATEST = 0.002, 0.1
"""Seconds between two looks into the store, at first and at most."""
ALONE: ContextVar[bool] = ContextVar("ALONE", default=False)
"""Whether this rank goes on without the others, until the end of its compilation."""


class AloneError(Exception):
    """The others are inside collectives and cannot come, but wait for this rank there."""


def exchange(
    groups: Mapping[str, Sequence[int]],
    topic: str,
    told: Mapping[str, Any],
    valid: Valid = anything,
    alone: bool = False,
) -> dict[str, dict[int, Any]]:
    """What every rank of each group tells about a topic: group -> rank -> what it tells.

    Args:
        groups: this rank's name of a group -> its global ranks, in an order that all ranks share.
        topic: what it is about, in words for an error.
        told: for each group anything that JSON holds.
        valid: whether a value that came out of the store is of the kind that is told.
        alone: whether this rank may go on without the others where they wait for it inside
            collectives already.

    Returns:
        The answers; only this rank's own where it goes on alone.

    Raises:
        AgreementError: another rank failed, cannot come, did not come within `PATIENCE`, or came
            with another topic; a message cannot be read; the store is lost.
        DepartureError: a compilation that asks nobody tells something new, see `rehearsal`.
    """
    if not groups:
        return {}
    if (known := answered(tuple(groups), topic, told)) is not None:
        return known
    own = {name: {dist.get_rank(): told[name]} for name in groups}
    if alone and ALONE.get():
        return own
    parties = parties_of(groups)
    presence.announce()
    for party in parties:
        catch_up(party)
    spots = {
        party: posted(party, topic, [told[n] for n in names]) for party, names in parties.items()
    }
    try:
        await_all(parties, spots)
    except AloneError as reason:
        if not alone:
            raise give_up(parties, str(reason)) from None
        go_alone(spots, str(reason))
        return own
    found = {}
    for party, names in parties.items():
        answers = collected(party, spots[party], topic, len(names), valid)
        for index, name in enumerate(names):
            found[name] = {rank: answers[rank][index] for rank in groups[name]}
    presence.agreed(now())
    remember(tuple(groups), topic, told, found)
    return found


def parties_of(groups: Mapping[str, Sequence[int]]) -> dict[Party, list[str]]:
    """Party -> the groups of its ranks, both in the order of the groups."""
    parties: dict[Party, list[str]] = {}
    for name, ranks in groups.items():
        parties.setdefault(tuple(sorted(ranks)), []).append(name)
    return parties


def posted(party: Party, topic: str, told: Sequence[Any]) -> str:
    """Leave this rank's part of the party's next exchange; returns which one it is."""
    at = position(party)
    spot = f"{at.epoch}/{at.number}"
    mailbox.post(party, spot, topic, told)
    at.number += 1
    return spot


def catch_up(party: Party) -> None:
    """Begin anew where another rank could not go on.

    Raises:
        AgreementError: it could not while this rank was on its way.
    """
    missed = None
    while closing := mailbox.closing(party, position(party).epoch):
        position(party).begin_anew()
        if dist.get_rank() not in closing.excused:
            missed = closing
    if missed is not None:
        text = f"rank {missed.rank} of {party_text(party)} failed to compile: {missed.why}"
        raise AgreementError(text, [party])


def await_all(parties: Mapping[Party, Sequence[str]], spots: Mapping[Party, str]) -> None:
    """Return once all ranks have left their part.

    Raises:
        AgreementError: one of them cannot, or did not within `PATIENCE`.
        AloneError: one of them waits for this rank.
    """
    end, pause, watch = time.monotonic() + PATIENCE.total_seconds(), SOONEST, Watch()
    while missing := [(p, rank) for p, spot in spots.items() for rank in mailbox.absent(p, spot)]:
        for party in dict(missing):
            catch_up(party)
        judge(parties, missing, watch.look(missing))
        if time.monotonic() > end:
            party, rank = missing[0]
            late = (
                f"rank {rank} of {party_text(party)} did not compile this graph within {PATIENCE}"
            )
            where = watch.places.get(rank, presence.Presence.UNKNOWN.value)
            raise give_up(parties, f"{late}: {where}")
        time.sleep(pause)
        pause = min(2 * pause, LATEST)


def judge(
    parties: Mapping[Party, Sequence[str]],
    missing: Sequence[tuple[Party, int]],
    verdicts: Mapping[int, Verdict],
) -> None:
    """Stop waiting where a rank cannot come.

    Raises:
        AgreementError, AloneError: as for `await_all`.
    """
    for party, rank in missing:
        verdict = verdicts.get(rank)
        if verdict is None:
            continue
        text = f"rank {rank} of {party_text(party)} cannot come to this graph: {verdict.told}"
        if verdict.kind == "ahead":
            raise AloneError(text)
        blame(rank, verdict)
        raise give_up(parties, text, [rank] if verdict.kind == "failed" else [])


def collected(
    party: Party, spot: str, topic: str, count: int, valid: Valid
) -> dict[int, list[Any]]:
    """What each rank of a party told, one value for each of `count` groups.

    Raises:
        AgreementError: a rank came with another topic, or its message cannot be read.
    """
    answers = {}
    for rank in party:
        found, answers[rank] = mailbox.read(party, spot, rank, count, valid)
        if found != topic:
            text = f"rank {rank} of {party_text(party)} compares {found} where this one has {topic}"
            raise AgreementError(text)
    return answers


def give_up(
    parties: Mapping[Party, Sequence[str]], why: str, excused: Sequence[int] = ()
) -> AgreementError:
    """Tell the other ranks that this one does not go on; returns the error to raise.

    Whoever comes late must not go on alone; the `excused` know already why.
    """
    for party in parties:
        close_epoch(party, why, excused)
    return AgreementError(why, parties)


def close_epoch(party: Party, why: str, excused: Sequence[int] = ()) -> None:
    """Close a party's epoch, where nobody did, and begin the next."""
    mailbox.close(party, position(party).epoch, why, excused)
    position(party).begin_anew()


def go_alone(spots: Mapping[Party, str], why: str) -> None:
    """Take back what the others will not read, and say that nothing is compared any more."""
    for party, spot in spots.items():
        if mailbox.absent(party, spot):
            mailbox.withdraw(party, spot)
            position(party).number -= 1
    ALONE.set(True)
    told = "This rank compiles alone and leaves its collectives as the model has them."
    warnings.warn(f"{mailbox.printable(why)}. {told}", RuntimeWarning, stacklevel=2)


def party_text(party: Party) -> str:
    """A party in words."""
    return f"the group of ranks {list(party)}"


@contextmanager
def failing_together(graph: fx.Graph) -> Iterator[None]:
    """Inside, an error of this rank becomes one of the ranks that it shares a group with.

    They would wait for it in an exchange.

    Args:
        graph: names the groups: Dynamo's graph, or AOTAutograd's.
    """
    presence.announce()
    token = ALONE.set(ALONE.get())
    try:
        yield
    except BaseException as error:
        if not ALONE.get() and TOLD not in getattr(error, "__notes__", ()):
            tell(graph, error)
        raise
    finally:
        ALONE.reset(token)


def tell(graph: fx.Graph, error: BaseException) -> None:
    """Close the epochs of a graph's parties with an error, those that know it left out."""
    known: frozenset[Party] = getattr(error, "closed", frozenset())
    why = str(error) if isinstance(error, AgreementError) else f"{type(error).__name__}: {error}"
    parties = parties_of(shared_groups(graph))
    for party in parties:
        if party not in known:
            with contextlib.suppress(AgreementError):  # the store is lost, which they see too
                close_epoch(party, why)
    if parties:
        error.add_note(TOLD)


def shared_groups(graph: fx.Graph) -> Mapping[str, tuple[int, ...]]:
    """Group that a graph's collectives name -> its global ranks, in the order of the collectives.

    Groups of one rank are left out.
    """
    if not dist.is_available() or not dist.is_initialized():
        return {}
    found: dict[str, tuple[int, ...]] = {}
    for node in graph.nodes:
        if not traits_of(node.target).collective:
            continue
        given = [*node.args, *node.kwargs.values()]
        names = [text for text in given if isinstance(text, str) and text not in found]
        family = VLLM if name_of(node.target).startswith(f"{VLLM}::") else FUNCTIONAL
        found |= {name: ranks for name in names if len(ranks := members(name, family)) > 1}
    return found
