"""Why a rank that is waited for does not come: it is gone, it failed, or it waits itself."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from ascend_passes.distributed.mailbox import Party
from ascend_passes.distributed.presence import Presence, ask
from ascend_passes.distributed.whereabouts import Failure, Whereabouts, whereabouts

EVERY = 0.5
"""Seconds between two questions to a rank."""
AGAIN = 0.1
"""Seconds until a rank that is gone is asked once more: what it left before it ended is there."""
AT_ONCE = 1.0
"""Seconds for the questions of one turn; the next turn goes on with the ranks behind."""
TIMES = {"gone": 2, "failed": 3, "ahead": 3}
"""How often in a row the answer must be the same: the rank may have been about to come."""


@dataclass(frozen=True)
class Verdict:
    """What keeps a rank from coming."""

    kind: str
    """gone, failed or ahead; silent where it did not answer."""
    told: str
    failure: Failure | None = None


@dataclass
class Watch:
    """Asks the ranks that are waited for, each in turn."""

    next_at: float = field(default_factory=lambda: time.monotonic() + EVERY)
    """Most ranks come before they are asked at all."""
    seen: dict[int, list[Verdict]] = field(default_factory=dict)
    places: dict[int, str] = field(default_factory=dict)
    """Rank -> where it was when it was asked last."""
    asked: int = 0

    def look(self, absent: Sequence[tuple[Party, int]]) -> dict[int, Verdict]:
        """The ranks that cannot come, as far as is known now; empty between two questions."""
        now = time.monotonic()
        if now < self.next_at or not absent:
            return {}
        mine = whereabouts()
        for _ in absent:
            party, rank = absent[self.asked % len(absent)]
            self.note(rank, judged(party, rank, mine, self.places))
            self.asked += 1
            if time.monotonic() - now > AT_ONCE:
                break
        ended = any(row and row[-1].kind == "gone" for row in self.seen.values())
        self.next_at = time.monotonic() + (AGAIN if ended else EVERY)
        certain = (seen for seen in self.seen.items() if seen[1])
        return {rank: row[-1] for rank, row in certain if len(row) >= TIMES[row[-1].kind]}

    def note(self, rank: int, found: Verdict | None) -> None:
        """Add an answer to those in a row that are like it; silence says nothing of them."""
        row = self.seen.setdefault(rank, [])
        if found is not None and found.kind == "silent":
            return
        if found is None or (row and row[-1].kind != found.kind):
            row.clear()
        if found is not None:
            row.append(found)


_blamed: set[tuple[int, str]] = set()
"""Failures that have ended an exchange: they end no other one."""


def blame(rank: int, verdict: Verdict) -> None:
    """Remember that a failure was told."""
    if verdict.failure is not None:
        _blamed.add((rank, verdict.failure.number))


def judged(party: Party, rank: int, mine: Whereabouts, places: dict[int, str]) -> Verdict | None:
    """What keeps one rank from coming, None where nothing is known to.

    Args:
        party: the ranks of the exchange.
        rank: who is asked.
        mine: where this process is.
        places: receives where the rank is.
    """
    answer = ask(rank)
    if answer is Presence.GONE:
        places[rank] = Presence.GONE.value
        return Verdict("gone", "its process has ended")
    if isinstance(answer, Presence):
        places[rank] = answer.value
        return Verdict("silent", answer.value)
    places[rank] = f"it is at {answer.place}"
    if answer.compiling:
        places[rank] = f"it is compiling, for {answer.place}"
        return None
    if ahead(party, mine, answer):
        why = f"it is inside a collective that this rank has not entered, at {answer.place}"
        return Verdict("ahead", f"{why}: it does not compile what this rank compiles")
    failed = failure_of(rank, mine, answer)
    if failed is not None:
        return Verdict("failed", f"it could not compile {failed.function}: {failed.why}", failed)
    return None


def ahead(party: Party, mine: Whereabouts, other: Whereabouts) -> bool:
    """Whether another rank has entered more collectives of the party's groups than this one.

    Groups run their collectives in one order on all ranks, so it waits there for this rank.
    """
    key = ",".join(map(str, party))
    here, there = mine.entered.get(key, []), other.entered.get(key, [])
    pairs = zip(here, there, strict=True) if len(here) == len(there) else ()
    return any(theirs > own for own, theirs in pairs)


def failure_of(rank: int, mine: Whereabouts, other: Whereabouts) -> Failure | None:
    """A failure to compile what this rank compiles or has compiled, since they last agreed."""
    own = {failure.function for failure in mine.failures}
    shared = {*mine.compiling, *mine.compiled} - own
    for failure in reversed(other.failures):
        if failure.function in shared and (rank, failure.number) not in _blamed:
            return failure
    return None
