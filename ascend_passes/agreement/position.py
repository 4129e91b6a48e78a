"""How far this process is in its talks with a party of ranks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch.distributed as dist

from ascend_passes.distributed.mailbox import Party


@dataclass
class Position:
    """Where a party is in its exchanges."""

    epoch: int = 0
    """How often the party has begun anew, after a rank that could not go on."""
    number: int = 0
    """Of the next exchange since."""

    def begin_anew(self) -> None:
        """Leave an epoch that was closed."""
        self.epoch, self.number = self.epoch + 1, 0


_positions: WeakKeyDictionary[Any, dict[Party, Position]] = WeakKeyDictionary()


def position(party: Party) -> Position:
    """A party's count in this process, for as long as its process groups live."""
    counts = _positions.setdefault(dist.group.WORLD, {})
    return counts.setdefault(party, Position())
