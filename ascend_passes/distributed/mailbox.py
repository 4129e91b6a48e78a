"""What ranks leave for each other in the store, read as text that anybody may have written."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch.distributed as dist
from torch.distributed import distributed_c10d

Party = tuple[int, ...]
"""The global ranks of one or more groups, ascending."""
Valid = Callable[[Any], bool]
LIMIT = 2**22
"""Bytes of a message; the collectives of a 64-layer model take some 2**15, and TCPStore ends the
connection of who sends more than 2**23 (torch 2.13, `TCPStoreLibUvBackend.cpp`)."""
SHOWN = 20_000
"""Characters of an error's text."""


class AgreementError(RuntimeError):
    """Ranks of a group would run different graphs, or cannot find out; the text names them and
    what differs or what happened.

    What other ranks wrote is part of it, so characters that a terminal would obey are escaped.
    """

    def __init__(self, text: str, closed: Iterable[Party] = ()) -> None:
        super().__init__(printable(text))
        self.closed = frozenset(closed)
        """The parties that know of it already."""


def printable(text: str) -> str:
    """A text with its control characters written out, and not longer than an error may be."""
    kept = (c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text[:SHOWN])
    return "".join(kept) + ("..." if len(text) > SHOWN else "")


@dataclass(frozen=True)
class Closing:
    """Why a party had to begin its count anew."""

    rank: int
    why: str
    excused: tuple[int, ...]
    """Ranks that know already, since they are the reason."""


def anything(value: Any) -> bool:
    """No condition on what a rank tells."""
    return True


def texts(value: Any) -> bool:
    """Whether a value is a list of texts."""
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def post(party: Party, spot: str, topic: str, told: Sequence[Any]) -> None:
    """Leave this rank's part of an exchange.

    Args:
        party: the ranks that take part.
        spot: which exchange of theirs it is.
        topic: what it is about.
        told: anything that JSON holds, one value for each group.

    Raises:
        AgreementError: it is longer than `LIMIT`, or the store is lost.
    """
    text = json.dumps([topic, list(told)])
    if len(text) > LIMIT:
        raise AgreementError(f"{topic}: {len(text)} bytes are more than the store takes ({LIMIT})")
    with reaching() as store:
        store.set(f"{address(party, spot)}/{dist.get_rank()}", text)


def withdraw(party: Party, spot: str) -> None:
    """Take back what `post` left."""
    with reaching() as store:
        store.delete_key(f"{address(party, spot)}/{dist.get_rank()}")


def absent(party: Party, spot: str) -> list[int]:
    """The ranks of a party that left nothing yet."""
    with reaching() as store:
        keys = {rank: f"{address(party, spot)}/{rank}" for rank in party}
        if store.check(list(keys.values())):
            return []
        return [rank for rank, key in keys.items() if not store.check([key])]


def read(party: Party, spot: str, rank: int, count: int, valid: Valid) -> tuple[str, list[Any]]:
    """What a rank left: its topic, and a value for each of `count` groups.

    Raises:
        AgreementError: it is nothing that `post` wrote, or not of the kind that is expected.
    """
    with reaching() as store:
        data = store.get(f"{address(party, spot)}/{rank}")
    topic, told = parsed(data, rank)
    if not isinstance(topic, str) or not isinstance(told, list):
        raise unreadable(rank, "it is no topic with a list")
    if len(told) != count:
        raise unreadable(
            rank, f"it speaks of {len(told)} groups of ranks {list(party)}, not {count}"
        )
    if not all(valid(one) for one in told):
        raise unreadable(rank, f"what it tells of {topic!r} is of another kind")
    return topic, told


def parsed(data: bytes, rank: int) -> tuple[Any, Any]:
    """The two parts of a message."""
    if len(data) > LIMIT:
        raise unreadable(rank, f"it has {len(data)} bytes, more than {LIMIT}")
    try:
        first, second = json.loads(data)
    except (ValueError, TypeError, RecursionError) as error:
        raise unreadable(rank, f"{type(error).__name__}: {error}") from None
    return first, second


def unreadable(rank: int, why: str) -> AgreementError:
    """The error for a message that no rank of this version wrote."""
    return AgreementError(f"the message of rank {rank} in the store cannot be read: {why}")


def close(party: Party, epoch: int, why: str, excused: Sequence[int]) -> None:
    """Say that this rank cannot go on; who says so first is heard."""
    with reaching() as store:
        text = json.dumps([dist.get_rank(), [why[:SHOWN], list(excused)]])
        store.compare_set(address(party, f"{epoch}/closed"), "", text)


def closing(party: Party, epoch: int) -> Closing | None:
    """What `close` said, None where nobody did."""
    key = address(party, f"{epoch}/closed")
    with reaching() as store:
        data = store.get(key) if store.check([key]) else b""
    if not data:
        return None
    with contextlib.suppress(AgreementError, ValueError, TypeError):
        rank, (why, excused) = parsed(data, -1)
        return Closing(int(rank), str(why), tuple(int(one) for one in excused))
    return Closing(-1, "for a reason that cannot be read", ())


def address(party: Party, spot: str) -> str:
    """Where in the store a party's messages are; no rank's own name of the group is part of it."""
    ranks = hashlib.sha256(repr(party).encode()).hexdigest()[:16]
    return f"ascend_passes/{ranks}/{spot}"


@contextlib.contextmanager
def reaching() -> Iterator[Any]:
    """The store; an error of it is an `AgreementError`."""
    try:
        yield distributed_c10d._get_default_store()
    except AgreementError:
        raise
    except (RuntimeError, ValueError) as error:
        first = str(error).strip().partition("\n")[0]
        message = (
            "the store of the process groups is lost: the process that holds it, rank 0 mostly, "
            f"has ended or cannot be reached ({type(error).__name__}: {first})"
        )
        raise AgreementError(message) from error
